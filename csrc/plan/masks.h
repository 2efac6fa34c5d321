// Training masks of a picture.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "plan/objects.h"

namespace yolodata {

struct MaskConfig {
  std::int32_t ratio = 0;  // pixels of the picture to one of the masks; 0: no masks are wanted
  bool overlap = true;     // one map of object numbers, instead of a map for every object
};

struct Masks {
  std::int32_t width = 0, height = 0;
  // Overlapping: one map, 0 or the number of an object from 1 on, small ones on top. Otherwise a
  // map of {0, 1} for each object.
  std::vector<std::uint16_t> maps;
  std::vector<float> classes;  // one map: the class of the smallest object there
};

// The positions of keys, from the smallest key to the largest.
using Sort = std::function<std::vector<std::size_t>(const std::vector<std::uint64_t>&)>;

// Equal ones stay in order.
std::vector<std::size_t> stable_sort(const std::vector<std::uint64_t>& keys);

// Draws the objects of a picture. Overlapping ones are put in the order of their numbers, from
// large to small; `sort` decides about equally large ones. `where` they are from, for messages.
// Throws LabelError for more objects than numbers, or than maps that fit into a gigabyte.
Masks draw_masks(std::vector<Object>& objects, std::int32_t width, std::int32_t height,
                 const MaskConfig& config, const std::string& where,
                 const Sort& sort = stable_sort);

}  // namespace yolodata
