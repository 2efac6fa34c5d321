// The label table of a dataset: borrowed columns, laid out as in labels.safetensors.
#pragma once

#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>

namespace yolodata {

// Labels of which nothing can be made: says which file and column, and what to do.
struct LabelError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct LabelTable {
  std::int64_t images;
  const std::uint32_t* height;          // [images] stored picture
  const std::uint32_t* width;           // [images]
  const std::uint64_t* object_offset;   // [images + 1]
  const float* cls;                     // [objects]
  const float* box;                     // [objects, 4] centre x, centre y, width, height in 0..1
  const std::uint64_t* polygon_offset;  // [objects + 1], or null: objects are boxes
  const float* polygon;                 // [points, 2] x, y in 0..1
  // Points an outline has while it is transformed. 0: outlines only give boxes their size.
  std::int32_t outline_points = 0;
  bool oriented = false;  // outlines are rectangles, which keep their right angles when cut
  // Keypoints, or null.
  const float* keypoints = nullptr;  // [objects, keypoint_count, 3] x, y in 0..1, visibility
  std::int32_t keypoint_count = 0;
  const std::int32_t* flip_idx = nullptr;  // [keypoint_count] which one a mirrored one becomes
  std::string where = {};                  // the labels are from, for messages

  std::span<const float> keypoints_of(std::uint64_t object) const {
    const auto size = 3 * static_cast<std::size_t>(keypoint_count);
    return keypoints == nullptr ? std::span<const float>{}
                                : std::span<const float>{keypoints + size * object, size};
  }

  bool has_outlines() const { return polygon_offset != nullptr; }

  std::span<const float> polygon_of(std::uint64_t object) const {
    return {polygon + 2 * polygon_offset[object], polygon + 2 * polygon_offset[object + 1]};
  }
};

}  // namespace yolodata
