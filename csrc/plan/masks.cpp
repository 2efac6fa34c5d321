#include "plan/masks.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <string>
#include <utility>

#include "plan/label_table.h"
#include "plan/raster.h"

namespace yolodata {
namespace {

struct Shape {
  std::vector<Run> runs;
  std::uint64_t area;
};

template <typename T>
void paint(const std::vector<Run>& runs, std::int32_t width, T value, T* map) {
  for (const Run& run : runs) {
    T* const row = map + std::ptrdiff_t{run.y} * width;
    std::fill(row + run.x1, row + run.x2, value);
  }
}

// From large to small, except that invisible ones come first: upstream negates unsigned areas, and
// no number is below zero then.
std::vector<std::size_t> by_area(const std::vector<Shape>& shapes, const Sort& sort) {
  std::vector<std::uint64_t> keys;
  keys.reserve(shapes.size());
  for (const Shape& shape : shapes) keys.push_back(std::uint64_t{0} - shape.area);
  return sort(keys);
}

}  // namespace

std::vector<std::size_t> stable_sort(const std::vector<std::uint64_t>& keys) {
  std::vector<std::size_t> order(keys.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return keys[a] < keys[b]; });
  return order;
}

Masks draw_masks(std::vector<Object>& objects, std::int32_t width, std::int32_t height,
                 const MaskConfig& config, const std::string& where, const Sort& sort) {
  if (objects.size() > std::numeric_limits<std::uint16_t>::max())
    throw LabelError(where + ": a picture shows " + std::to_string(objects.size()) +
                     " objects; masks can number 65535");
  Raster raster(width, height, where);
  Shrink shrink(width, height, config.ratio);
  std::vector<Shape> shapes;
  shapes.reserve(objects.size());
  std::vector<Run> runs;
  for (const Object& object : objects) {
    runs.clear();
    raster.fill(object.outline, runs);
    Shape shape{shrink(runs), 0};
    for (const Run& run : shape.runs) shape.area += static_cast<std::uint64_t>(run.x2 - run.x1);
    shapes.push_back(std::move(shape));
  }
  Masks masks;
  masks.width = shrink.width();
  masks.height = shrink.height();
  const std::size_t size =
      static_cast<std::size_t>(masks.width) * static_cast<std::size_t>(masks.height);
  const std::vector<std::size_t> order = by_area(shapes, sort);
  constexpr std::size_t kMostValues = std::size_t{1} << 29;  // a gigabyte
  if (!config.overlap && objects.size() > kMostValues / size)
    throw LabelError(where + ": a picture shows " + std::to_string(objects.size()) +
                     " objects; a mask for each (overlap_mask=False) takes too much memory, use "
                     "overlap_mask=True");
  masks.classes.resize(size);
  if (config.overlap) {
    std::vector<Object> sorted;
    sorted.reserve(objects.size());
    for (const std::size_t i : order) sorted.push_back(std::move(objects[i]));
    objects = std::move(sorted);
    masks.maps.resize(size);
    // Upstream looks the class of the background up under -1, which is the last object's.
    if (!objects.empty()) std::fill(masks.classes.begin(), masks.classes.end(), objects.back().cls);
    for (std::size_t i = 0; i < order.size(); ++i) {
      const std::vector<Run>& visible = shapes[order[i]].runs;
      paint(visible, masks.width, static_cast<std::uint16_t>(i + 1), masks.maps.data());
      paint(visible, masks.width, objects[i].cls, masks.classes.data());
    }
  } else {
    masks.maps.resize(objects.size() * size);
    for (std::size_t i = 0; i < objects.size(); ++i)
      paint(shapes[i].runs, masks.width, std::uint16_t{1}, masks.maps.data() + i * size);
    // Of equally large objects the first one is on top here.
    std::vector<std::size_t> small_last(order);
    std::stable_sort(small_last.begin(), small_last.end(), [&](std::size_t a, std::size_t b) {
      return shapes[a].area != shapes[b].area ? shapes[a].area > shapes[b].area : a > b;
    });
    for (const std::size_t i : small_last)
      paint(shapes[i].runs, masks.width, objects[i].cls, masks.classes.data());
  }
  return masks;
}

}  // namespace yolodata
