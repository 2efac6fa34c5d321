#include "plan/labels.h"

#include <algorithm>
#include <array>

#include "plan/oriented.h"

namespace yolodata {
namespace {

// Left becomes right: keypoint k of the result is flip_idx[k] of before.
void swap_sides(std::vector<float>& points, const std::int32_t* flip_idx) {
  const std::vector<float> before = points;
  for (std::size_t k = 0; 3 * k < points.size(); ++k)
    std::copy_n(before.begin() + 3 * flip_idx[k], 3,
                points.begin() + static_cast<std::ptrdiff_t>(3 * k));
}

void flip(Object& object, const Recipe& recipe, const std::int32_t* flip_idx) {
  const float width = static_cast<float>(recipe.width), height = static_cast<float>(recipe.height);
  std::vector<float>& outline = object.outline;
  for (std::size_t i = 0; i < outline.size(); i += 2) {
    if (recipe.finish.flipud) outline[i + 1] = height - outline[i + 1];
    if (recipe.finish.fliplr) outline[i] = width - outline[i];
  }
  std::vector<float>& points = object.keypoints;
  for (std::size_t i = 0; i < points.size(); i += 3) {
    if (recipe.finish.flipud) points[i + 1] = height - points[i + 1];
    if (recipe.finish.fliplr) points[i] = width - points[i];
  }
  for (const std::int32_t flipped : {recipe.finish.flipud, recipe.finish.fliplr})
    if (flipped && flip_idx != nullptr) swap_sides(points, flip_idx);
}

}  // namespace

Labels labels(const Plan& plan, const LabelTable& table, const MaskConfig& masks) {
  const Recipe& recipe = plan.recipe;
  std::vector<Object> objects = picture_objects(plan, table).list;
  for (Object& object : objects) flip(object, recipe, table.flip_idx);
  Labels result;
  if (masks.ratio > 0)
    result.masks = draw_masks(objects, recipe.width, recipe.height, masks, table.where);
  const float width = static_cast<float>(recipe.width), height = static_cast<float>(recipe.height);
  result.cls.reserve(objects.size());
  result.box_size = table.oriented ? 5 : 4;
  result.bboxes.reserve(result.box_size * objects.size());
  for (const Object& object : objects) {
    const Box& box = object.box;
    float x = (box.x1 + box.x2) / 2, y = (box.y1 + box.y2) / 2;
    if (recipe.finish.flipud) y = height - y;
    if (recipe.finish.fliplr) x = width - x;
    result.cls.push_back(object.cls);
    std::array<float, 4> upright{x, y, box.x2 - box.x1, box.y2 - box.y1};
    float angle = 0;
    if (table.oriented) {
      const OrientedBox oriented = smallest_rectangle(object.outline);
      upright = {static_cast<float>(oriented.x), static_cast<float>(oriented.y),
                 static_cast<float>(oriented.width), static_cast<float>(oriented.height)};
      angle = static_cast<float>(oriented.angle);
    }
    for (std::size_t i = 0; i < 4; ++i)
      result.bboxes.push_back(upright[i] / (i % 2 == 0 ? width : height));
    if (table.oriented) result.bboxes.push_back(angle);
    const std::vector<float>& points = object.keypoints;
    for (std::size_t i = 0; i < points.size(); i += 3)
      for (const float value : {points[i] / width, points[i + 1] / height, points[i + 2]})
        result.keypoints.push_back(value);
  }
  return result;
}

}  // namespace yolodata
