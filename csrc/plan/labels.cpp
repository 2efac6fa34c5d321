#include "plan/labels.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "core/polygon.h"

namespace yolodata {
namespace {

// Every step is single precision and in upstream's order: thresholds then fall the same way.
struct Warp {
  const float* m;
  bool perspective;

  void operator()(float x, float y, float& u, float& v) const {
    u = m[0] * x + m[1] * y + m[2];
    v = m[3] * x + m[4] * y + m[5];
    if (perspective) {
      const float w = m[6] * x + m[7] * y + m[8];
      u /= w;
      v /= w;
    }
  }

  Box operator()(const Box& box) const {
    const float xs[4] = {box.x1, box.x2, box.x1, box.x2};
    const float ys[4] = {box.y1, box.y2, box.y2, box.y1};
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    Box warped{kInfinity, kInfinity, -kInfinity, -kInfinity};
    for (int i = 0; i < 4; ++i) {
      float u, v;
      (*this)(xs[i], ys[i], u, v);
      warped.x1 = std::min(warped.x1, u);
      warped.y1 = std::min(warped.y1, v);
      warped.x2 = std::max(warped.x2, u);
      warped.y2 = std::max(warped.y2, v);
    }
    return warped;
  }
};

// The object's box on the canvas.
Box place(const float* xywh, const Tile& tile) {
  const float half_width = xywh[2] / 2, half_height = xywh[3] / 2;
  const float w = static_cast<float>(tile.width), h = static_cast<float>(tile.height);
  const float x0 = static_cast<float>(tile.x0), y0 = static_cast<float>(tile.y0);
  return {(xywh[0] - half_width) * w + x0, (xywh[1] - half_height) * h + y0,
          (xywh[0] + half_width) * w + x0, (xywh[1] + half_height) * h + y0};
}

// Points an outline is given before it is clipped, as upstream does: its own, or 1000.
constexpr std::size_t kOutlinePoints = 1000;

// The outline on the canvas. A mosaic clamps each point to the canvas; between points that would
// bend the edges that leave it, so such an outline is refined first.
std::vector<float> place(std::span<const float> outline, const Tile& tile, const Layer& layer,
                         bool clamp) {
  const float w = static_cast<float>(tile.width), h = static_cast<float>(tile.height);
  const float x0 = static_cast<float>(tile.x0), y0 = static_cast<float>(tile.y0);
  const float right = static_cast<float>(layer.width), bottom = static_cast<float>(layer.height);
  std::vector<float> points(outline.begin(), outline.end());
  const auto to_canvas = [&] {
    for (std::size_t i = 0; i < points.size(); i += 2) {
      points[i] = points[i] * w + x0;
      points[i + 1] = points[i + 1] * h + y0;
    }
  };
  to_canvas();
  if (!clamp) return points;
  const Box box = bounds(points);
  if (box.x1 >= 0 && box.y1 >= 0 && box.x2 <= right && box.y2 <= bottom) return points;
  points = resample(outline, kOutlinePoints);
  to_canvas();
  for (std::size_t i = 0; i < points.size(); i += 2) {
    points[i] = std::clamp(points[i], 0.0f, right);
    points[i + 1] = std::clamp(points[i + 1], 0.0f, bottom);
  }
  return points;
}

// A keypoint outside of the picture is moved to its border and no longer visible.
void clip_keypoints(std::vector<float>& points, float width, float height) {
  for (std::size_t i = 0; i < points.size(); i += 3) {
    float &x = points[i], &y = points[i + 1];
    if (x < 0 || y < 0 || x > width || y > height) points[i + 2] = 0;
    x = std::clamp(x, 0.0f, width);
    y = std::clamp(y, 0.0f, height);
  }
}

// The object's keypoints on the canvas; a mosaic cuts them off at its border.
std::vector<float> place_keypoints(std::span<const float> keypoints, const Tile& tile,
                                   const Layer& layer, bool mosaic) {
  std::vector<float> points(keypoints.begin(), keypoints.end());
  for (std::size_t i = 0; i < points.size(); i += 3) {
    points[i] = points[i] * static_cast<float>(tile.width) + static_cast<float>(tile.x0);
    points[i + 1] = points[i + 1] * static_cast<float>(tile.height) + static_cast<float>(tile.y0);
  }
  if (mosaic)
    clip_keypoints(points, static_cast<float>(layer.width), static_cast<float>(layer.height));
  return points;
}

// Left becomes right: keypoint k of the result is flip_idx[k] of before.
void swap_sides(std::vector<float>& points, const std::int32_t* flip_idx) {
  const std::vector<float> before = points;
  for (std::size_t k = 0; 3 * k < points.size(); ++k)
    std::copy_n(before.begin() + 3 * flip_idx[k], 3,
                points.begin() + static_cast<std::ptrdiff_t>(3 * k));
}

// Objects that the warp leaves too small, too thin or mostly outside are dropped.
bool is_candidate(const Box& before, const Box& after, float scale, float least_area) {
  constexpr float kLeastSide = 2, kMostAspect = 100, kEpsilon = 1e-16f;
  const float w1 = before.x2 * scale - before.x1 * scale;
  const float h1 = before.y2 * scale - before.y1 * scale;
  const float w2 = after.x2 - after.x1, h2 = after.y2 - after.y1;
  const float aspect = std::max(w2 / (h2 + kEpsilon), h2 / (w2 + kEpsilon));
  return w2 > kLeastSide && h2 > kLeastSide && w2 * h2 / (w1 * h1 + kEpsilon) > least_area &&
         aspect < kMostAspect;
}

}  // namespace

std::vector<Object> layer_objects(const Recipe& recipe, int which, const Index& index) {
  const Layer& layer = recipe.layers[which];
  const Warp warp{layer.matrix, layer.perspective != 0};
  const bool mosaic = layer.tile_count > 1;
  const bool outlines = index.polygon_offset != nullptr;
  const float least_area = outlines ? 0.01f : 0.1f;
  const float width = static_cast<float>(recipe.width), height = static_cast<float>(recipe.height);
  std::vector<Object> objects;
  for (int t = 0; t < layer.tile_count; ++t) {
    const Tile& tile = layer.tiles[t];
    for (std::uint64_t o = index.object_offset[tile.image]; o < index.object_offset[tile.image + 1];
         ++o) {
      Box before = place(index.box + 4 * o, tile);
      if (mosaic) {
        before = clip(before, static_cast<float>(layer.width), static_cast<float>(layer.height));
        if (!(area(before) > 0)) continue;
      }
      Box after;
      if (outlines) {
        std::vector<float> points = place(index.polygon_of(o), tile, layer, mosaic);
        for (std::size_t i = 0; i < points.size(); i += 2)
          warp(points[i], points[i + 1], points[i], points[i + 1]);
        after = visible_bounds(points, width, height);
      } else {
        after = warp(before);
      }
      after = clip(after, width, height);
      if (!is_candidate(before, after, static_cast<float>(layer.scale), least_area)) continue;
      std::vector<float> keypoints = place_keypoints(index.keypoints_of(o), tile, layer, mosaic);
      for (std::size_t i = 0; i < keypoints.size(); i += 3)
        warp(keypoints[i], keypoints[i + 1], keypoints[i], keypoints[i + 1]);
      clip_keypoints(keypoints, width, height);
      objects.push_back({index.cls[o], after, std::move(keypoints)});
    }
  }
  return objects;
}

float covered(const Box& cut, const Box& box) {
  const float w = std::max(std::min(cut.x2, box.x2) - std::max(cut.x1, box.x1), 0.0f);
  const float h = std::max(std::min(cut.y2, box.y2) - std::max(cut.y1, box.y1), 0.0f);
  return w * h / (area(box) + 1e-7f);
}

float cutmix_threshold(const Index& index, const std::vector<Object>& base) {
  return index.polygon_offset != nullptr && !base.empty() ? 0.01f : 0.1f;
}

Labels labels(const Recipe& recipe, const Index& index) {
  std::vector<Object> objects = layer_objects(recipe, 0, index);
  if (recipe.mixup_layer != kNoLayer) {
    const auto mixed = layer_objects(recipe, recipe.mixup_layer, index);
    objects.insert(objects.end(), mixed.begin(), mixed.end());
  }
  if (recipe.cutmix_layer != kNoLayer) {
    const Box cut{static_cast<float>(recipe.cut_x1), static_cast<float>(recipe.cut_y1),
                  static_cast<float>(recipe.cut_x2), static_cast<float>(recipe.cut_y2)};
    const float threshold = cutmix_threshold(index, objects);
    for (const Object& other : layer_objects(recipe, recipe.cutmix_layer, index)) {
      if (!(covered(cut, other.box) >= threshold)) continue;
      const Box shifted{other.box.x1 - cut.x1, other.box.y1 - cut.y1, other.box.x2 - cut.x1,
                        other.box.y2 - cut.y1};
      const Box inside = clip(shifted, cut.x2 - cut.x1, cut.y2 - cut.y1);
      std::vector<float> keypoints = other.keypoints;
      const auto shift = [&keypoints](float x, float y) {
        for (std::size_t i = 0; i < keypoints.size(); i += 3) {
          keypoints[i] += x;
          keypoints[i + 1] += y;
        }
      };
      shift(-cut.x1, -cut.y1);
      clip_keypoints(keypoints, cut.x2 - cut.x1, cut.y2 - cut.y1);
      shift(cut.x1, cut.y1);
      objects.push_back(
          {other.cls,
           {inside.x1 + cut.x1, inside.y1 + cut.y1, inside.x2 + cut.x1, inside.y2 + cut.y1},
           std::move(keypoints)});
    }
  }
  const float width = static_cast<float>(recipe.width), height = static_cast<float>(recipe.height);
  Labels result;
  result.cls.reserve(objects.size());
  result.bboxes.reserve(4 * objects.size());
  for (auto& [cls, box, keypoints] : objects) {
    float x = (box.x1 + box.x2) / 2, y = (box.y1 + box.y2) / 2;
    if (recipe.flipud) y = height - y;
    if (recipe.fliplr) x = width - x;
    result.cls.push_back(cls);
    for (const float value :
         {x / width, y / height, (box.x2 - box.x1) / width, (box.y2 - box.y1) / height})
      result.bboxes.push_back(value);
    for (std::size_t i = 0; i < keypoints.size(); i += 3) {
      if (recipe.flipud) keypoints[i + 1] = height - keypoints[i + 1];
      if (recipe.fliplr) keypoints[i] = width - keypoints[i];
      keypoints[i] /= width;
      keypoints[i + 1] /= height;
    }
    for (const std::int32_t flip : {recipe.flipud, recipe.fliplr})
      if (flip && index.flip_idx != nullptr) swap_sides(keypoints, index.flip_idx);
    result.keypoints.insert(result.keypoints.end(), keypoints.begin(), keypoints.end());
  }
  return result;
}

}  // namespace yolodata
