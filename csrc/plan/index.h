// The label table of a dataset: borrowed columns, laid out as in labels.safetensors.
#pragma once

#include <cstdint>
#include <span>

namespace yolodata {

struct Index {
  std::int64_t images;
  const std::uint32_t* height;          // [images] stored picture
  const std::uint32_t* width;           // [images]
  const std::uint64_t* object_offset;   // [images + 1]
  const float* cls;                     // [objects]
  const float* box;                     // [objects, 4] centre x, centre y, width, height in 0..1
  const std::uint64_t* polygon_offset;  // [objects + 1], or null: objects are boxes
  const float* polygon;                 // [points, 2] x, y in 0..1

  std::span<const float> polygon_of(std::uint64_t object) const {
    return {polygon + 2 * polygon_offset[object], polygon + 2 * polygon_offset[object + 1]};
  }
};

}  // namespace yolodata
