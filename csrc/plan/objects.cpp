#include "plan/objects.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <iterator>
#include <limits>
#include <span>
#include <string>
#include <utility>

#include "core/polygon.h"
#include "core/simd.h"
#include "plan/oriented.h"

namespace yolodata {

// Every step is single precision and in the order of upstream's matrix product, whose sums are
// fused: thresholds, whole pixels and ties then fall the same way.
YD_TARGETS static void warp_points(const float* m, bool perspective, float* points,
                                   std::size_t count, std::size_t stride) {
  for (std::size_t i = 0; i < count; ++i, points += stride) {
    const float x = points[0], y = points[1];
    float u = std::fma(y, m[1], x * m[0]) + m[2];
    float v = std::fma(y, m[4], x * m[3]) + m[5];
    if (perspective) {
      const float w = std::fma(y, m[7], x * m[6]) + m[8];
      u /= w;
      v /= w;
    }
    points[0] = u;
    points[1] = v;
  }
}

namespace {

struct Warp {
  const float* m;
  bool perspective;

  void operator()(std::vector<float>& points, std::size_t stride) const {
    warp_points(m, perspective, points.data(), points.size() / stride, stride);
  }

  Box operator()(const Box& box) const {
    float corners[8] = {box.x1, box.y1, box.x2, box.y2, box.x1, box.y2, box.x2, box.y1};
    warp_points(m, perspective, corners, 4, 2);
    constexpr float kInfinity = std::numeric_limits<float>::infinity();
    Box warped{kInfinity, kInfinity, -kInfinity, -kInfinity};
    for (int i = 0; i < 4; ++i) {
      const float u = corners[2 * i], v = corners[2 * i + 1];
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

// Points that an outline is given where only its box matters, before it is clipped.
constexpr std::size_t kOutlinePoints = 1000;

// Points are x, y and whatever else fits into the stride.
void to_canvas(std::vector<float>& points, const Tile& tile, std::size_t stride = 2) {
  const float w = static_cast<float>(tile.width), h = static_cast<float>(tile.height);
  const float x0 = static_cast<float>(tile.x0), y0 = static_cast<float>(tile.y0);
  for (std::size_t i = 0; i < points.size(); i += stride) {
    points[i] = points[i] * w + x0;
    points[i + 1] = points[i + 1] * h + y0;
  }
}

void clip(std::vector<float>& points, const Box& box) {
  for (std::size_t i = 0; i < points.size(); i += 2) {
    points[i] = std::min(std::max(points[i], box.x1), box.x2);
    points[i + 1] = std::min(std::max(points[i + 1], box.y1), box.y2);
  }
}

// The outline on the canvas, for its box. A mosaic clamps each point to the canvas; between points
// that would bend the edges that leave it, so such an outline is refined first.
std::vector<float> place(std::span<const float> outline, const Tile& tile, const Box* canvas) {
  std::vector<float> points(outline.begin(), outline.end());
  to_canvas(points, tile);
  if (canvas == nullptr) return points;
  const Box box = bounds(points);
  if (box.x1 >= 0 && box.y1 >= 0 && box.x2 <= canvas->x2 && box.y2 <= canvas->y2) return points;
  points = resample(outline, kOutlinePoints);
  to_canvas(points, tile);
  clip(points, *canvas);
  return points;
}

// The most objects with an outline, and points of all outlines, of one canvas: 256 MiB of floats. A
// single long outline gives as many points to each of the others.
constexpr std::size_t kMostOutlines = 65535, kMostPoints = std::size_t{1} << 25;

void limit_points(const LabelTable& table, std::size_t outlines, std::size_t points) {
  if (points > kMostPoints || outlines > kMostOutlines)
    throw LabelError(table.where + ": column polygon: " + std::to_string(outlines) +
                     " outlines of one picture would take " + std::to_string(points) +
                     " points; at most " + std::to_string(kMostOutlines) + " outlines and " +
                     std::to_string(kMostPoints) + " points can be drawn, pack simpler ones");
}

// Labels are checked for what is no number when they are used, not when a dataset is opened:
// polygons may be larger than all other labels together.
void require_finite(const LabelTable& table, const char* column, const float* values,
                    std::size_t count) {
  constexpr std::uint32_t kExponent = 0x7F800000;  // all ones: infinite, or no number
  std::uint32_t wrong = 0;
  for (std::size_t i = 0; i < count; ++i)
    wrong |= (std::bit_cast<std::uint32_t>(values[i]) & kExponent) == kExponent ? 1u : 0u;
  if (wrong != 0)
    throw LabelError(table.where + ": column " + column +
                     " must be finite; the file is damaged, pack again (`yolodata verify` names "
                     "the byte)");
}

void require_finite(const LabelTable& table, std::int64_t image) {
  const std::uint64_t first = table.object_offset[image], last = table.object_offset[image + 1];
  if (table.has_outlines()) {
    const std::uint64_t from = table.polygon_offset[first], to = table.polygon_offset[last];
    require_finite(table, "polygon", table.polygon + 2 * from, 2 * (to - from));
  }
  const std::size_t size = table.keypoints_of(first).size();  // none: an empty span
  require_finite(table, "keypoints", table.keypoints + size * first, size * (last - first));
}

// Points that upstream gives the outlines of an image: the wanted number, or one more than the
// longest of them has.
std::size_t points_of(const LabelTable& table, std::int64_t image) {
  std::size_t count = static_cast<std::size_t>(table.outline_points);
  for (std::uint64_t o = table.object_offset[image]; o < table.object_offset[image + 1]; ++o) {
    const std::size_t own = table.polygon_of(o).size() / 2;
    if (own >= count && own > static_cast<std::size_t>(table.outline_points)) count = own + 1;
  }
  return count;
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
                                   const Box* canvas) {
  std::vector<float> points(keypoints.begin(), keypoints.end());
  to_canvas(points, tile, 3);
  if (canvas != nullptr) clip_keypoints(points, canvas->x2, canvas->y2);
  return points;
}

// Of an object's area, what must be seen of it. Outlines say better than boxes what is there.
float least_share(bool has_outline) { return has_outline ? 0.01f : 0.1f; }

// Objects that the warp leaves too small, too thin or mostly outside are dropped.
bool is_candidate(const Box& before, const Box& after, float scale, float least) {
  constexpr float kLeastSide = 2, kMostAspect = 100, kEpsilon = 1e-16f;
  const float w1 = before.x2 * scale - before.x1 * scale;
  const float h1 = before.y2 * scale - before.y1 * scale;
  const float w2 = after.x2 - after.x1, h2 = after.y2 - after.y1;
  const float aspect = std::max(w2 / (h2 + kEpsilon), h2 / (w2 + kEpsilon));
  return w2 > kLeastSide && h2 > kLeastSide && w2 * h2 / (w1 * h1 + kEpsilon) > least &&
         aspect < kMostAspect;
}

void shift(Object& object, float x, float y) {
  object.box = {object.box.x1 + x, object.box.y1 + y, object.box.x2 + x, object.box.y2 + y};
  for (std::size_t i = 0; i < object.outline.size(); i += 2) {
    object.outline[i] += x;
    object.outline[i + 1] += y;
  }
  for (std::size_t i = 0; i < object.keypoints.size(); i += 3) {
    object.keypoints[i] += x;
    object.keypoints[i + 1] += y;
  }
}

// Objects of one image, laid on the canvas; a mosaic drops those that are outside of it.
Objects tile_objects(const Layer& layer, int which, const LabelTable& table, const Box* canvas) {
  const Tile& tile = layer.tiles[which];
  const bool refined = table.outline_points > 0;
  const std::uint64_t first = table.object_offset[tile.image];
  require_finite(table, tile.image);
  Objects objects;
  for (std::uint64_t o = first; o < table.object_offset[tile.image + 1]; ++o) {
    Object object{table.cls[o], place(table.box + 4 * o, tile),
                  which,        static_cast<std::int32_t>(o - first),
                  {},           {},
                  false};
    if (canvas != nullptr && !table.oriented) {
      object.box = clip(object.box, canvas->x2, canvas->y2);
      if (!(area(object.box) > 0)) continue;
    }
    if (table.has_outlines() && !refined) object.outline = place(table.polygon_of(o), tile, canvas);
    object.keypoints = place_keypoints(table.keypoints_of(o), tile, canvas);
    objects.list.push_back(std::move(object));
  }
  return objects;
}

std::uint64_t row_of(const Object& object, const Layer& layer, const LabelTable& table) {
  return table.object_offset[layer.tiles[object.tile].image] +
         static_cast<std::uint64_t>(object.number);
}

// Whether an object is certain to be dropped as too small or outside, by the corners of its
// outline alone. Points between them can be nowhere else, wherever a mosaic clamps them.
bool is_lost(const Object& object, const Layer& layer, const LabelTable& table, const Warp& warp,
             const Box& picture) {
  constexpr float kTooSmall = 1.9f;  // is_candidate wants 2; the rest is for rounding
  if (warp.perspective) return false;
  std::vector<float> corners(table.polygon_of(row_of(object, layer, table)).begin(),
                             table.polygon_of(row_of(object, layer, table)).end());
  to_canvas(corners, layer.tiles[object.tile]);
  const float width = static_cast<float>(layer.width);
  Box around = bounds(corners);
  if (layer.tile_count > 1) around = clip(around, width, static_cast<float>(layer.height));
  if (object.mirrored) around = {width - around.x2, around.y1, width - around.x1, around.y2};
  const Box seen = clip(warp(around), picture.x2, picture.y2);
  return seen.x2 - seen.x1 < kTooSmall || seen.y2 - seen.y1 < kTooSmall;
}

// What of an object is inside of the box, which begins at the origin.
void clip(Object& object, const Box& box, const LabelTable& table) {
  if (table.oriented) return clip_oriented(object.outline, object.box, box.x2, box.y2);
  object.box = clip(object.box, box.x2, box.y2);
  if (table.outline_points > 0) clip(object.outline, box);
}

// Those of `from` that `paste` names, in its order; ones that are gone (of a picture that cannot be
// read) are left out.
Objects pasted(const Paste& paste, const Objects& from) {
  Objects found{{}, from.points};
  for (const auto& [tile, number] : paste.objects)
    for (const Object& object : from.list)
      if (object.tile == tile && object.number == number) {
        found.list.push_back(object);
        break;
      }
  return found;
}

}  // namespace

void Objects::add(Objects others) {
  const std::size_t most = std::max(points, others.points);
  for (Objects* part : {this, &others}) {
    if (part->points == most) continue;
    for (Object& object : part->list)
      if (!object.outline.empty()) object.outline = resample(object.outline, most);
    part->points = most;
  }
  list.insert(list.end(), std::make_move_iterator(others.list.begin()),
              std::make_move_iterator(others.list.end()));
}

Objects letterbox_objects(const LabelTable& table, std::int64_t image, const Letterbox& box) {
  require_finite(table, image);
  Objects objects{{}, points_of(table, image)};
  const std::uint64_t count = table.object_offset[image + 1] - table.object_offset[image];
  limit_points(table, count, count * objects.points);
  const float size[2] = {static_cast<float>(box.width), static_cast<float>(box.height)};
  const float corner[2] = {static_cast<float>(box.left), static_cast<float>(box.top)};
  const std::uint64_t first = table.object_offset[image];
  for (std::uint64_t o = first; o < table.object_offset[image + 1]; ++o) {
    Object object{table.cls[o], {}, 0, static_cast<std::int32_t>(o - first), {}, {}, false};
    object.outline = resample(table.polygon_of(o), objects.points);
    for (std::size_t i = 0; i < object.outline.size(); ++i) {
      float& at = object.outline[i];
      at *= size[i % 2];
      if (box.ratio != 1) at = static_cast<float>(at * box.ratio);
      at += corner[i % 2];
    }
    objects.list.push_back(std::move(object));
  }
  return objects;
}

Object mirrored(Object object, float width) {
  std::swap(object.box.x1, object.box.x2);
  object.box.x1 = width - object.box.x1;
  object.box.x2 = width - object.box.x2;
  for (std::size_t i = 0; i < object.outline.size(); i += 2)
    object.outline[i] = width - object.outline[i];
  object.mirrored = true;
  return object;
}

void draw_outline(Object& object, const Layer& layer, const LabelTable& table, std::size_t points) {
  const Tile& tile = layer.tiles[object.tile];
  const std::size_t own = points_of(table, tile.image);
  object.outline = resample(table.polygon_of(row_of(object, layer, table)), own);
  to_canvas(object.outline, tile);
  if (own != points) object.outline = resample(object.outline, points);
  const float width = static_cast<float>(layer.width);
  if (layer.tile_count > 1 && !table.oriented)
    clip(object.outline, {0, 0, width, static_cast<float>(layer.height)});
  for (std::size_t i = 0; object.mirrored && i < object.outline.size(); i += 2)
    object.outline[i] = width - object.outline[i];
}

Objects canvas_objects(const Plan& plan, int which, const LabelTable& table) {
  const Layer& layer = plan.recipe.layers[which];
  const bool mosaic = layer.tile_count > 1, refined = table.outline_points > 0;
  const Box canvas{0, 0, static_cast<float>(layer.width), static_cast<float>(layer.height)};
  Objects objects;
  if (refined)  // all at once: outlines that are refined in two steps have other points
    for (int t = 0; t < layer.tile_count; ++t)
      objects.points = std::max(objects.points, points_of(table, layer.tiles[t].image));
  std::size_t points = 0;
  for (int t = 0; t < layer.tile_count; ++t) {
    Objects shown = tile_objects(layer, t, table, mosaic ? &canvas : nullptr);
    for (const Object& object : shown.list) points += object.outline.size() / 2;
    objects.add(std::move(shown));
    const std::size_t count = objects.list.size();
    limit_points(table, refined ? count : 0, refined ? count * objects.points : points);
  }
  if (table.oriented) {  // cutting needs the outline
    for (Object& object : objects.list) {
      draw_outline(object, layer, table, objects.points);
      if (mosaic) clip_oriented(object.outline, object.box, canvas.x2, canvas.y2);
    }
    if (mosaic)
      std::erase_if(objects.list, [](const Object& object) { return !(area(object.box) > 0); });
  }
  const Paste* const paste = plan.paste_onto(which);
  if (paste != nullptr && layer.paste_from == kMirror) {
    Objects copies = pasted(*paste, objects);
    for (Object& object : copies.list) object = mirrored(std::move(object), canvas.x2);
    objects.add(std::move(copies));
  }
  return objects;
}

Objects layer_objects(const Plan& plan, int which, const LabelTable& table) {
  const Recipe& recipe = plan.recipe;
  const Layer& layer = recipe.layers[which];
  const Warp warp{layer.matrix, layer.perspective != 0};
  const bool refined = table.outline_points > 0;
  const float least = least_share(table.has_outlines());
  const Box picture{0, 0, static_cast<float>(recipe.width), static_cast<float>(recipe.height)};
  Objects objects = canvas_objects(plan, which, table);
  std::erase_if(objects.list, [&](Object& object) {
    const Box before = object.box;
    if (table.has_outlines()) {
      if (object.outline.empty()) {
        if (is_lost(object, layer, table, warp, picture)) return true;
        draw_outline(object, layer, table, objects.points);
      }
      warp(object.outline, 2);
      object.box = visible_bounds(object.outline, picture.x2, picture.y2);
      if (refined && !table.oriented) clip(object.outline, object.box);
    } else {
      object.box = warp(before);
    }
    clip(object, picture, table);
    if (!is_candidate(before, object.box, static_cast<float>(layer.scale), least)) return true;
    if (!refined) object.outline.clear();
    warp(object.keypoints, 3);
    clip_keypoints(object.keypoints, picture.x2, picture.y2);
    return false;
  });
  const Paste* const paste = plan.paste_onto(which);
  if (paste != nullptr && layer.paste_from >= 0)
    objects.add(pasted(*paste, layer_objects(plan, layer.paste_from, table)));
  return objects;
}

float covered(const Box& cut, const Box& box) {
  const float w = std::max(std::min(cut.x2, box.x2) - std::max(cut.x1, box.x1), 0.0f);
  const float h = std::max(std::min(cut.y2, box.y2) - std::max(cut.y1, box.y1), 0.0f);
  return w * h / (area(box) + 1e-7f);
}

float cutmix_threshold(const LabelTable& table, const Objects& base) {
  return least_share(table.has_outlines() && !base.list.empty());
}

Objects picture_objects(const Plan& plan, const LabelTable& table) {
  const Recipe& recipe = plan.recipe;
  Objects objects = layer_objects(plan, 0, table);
  if (recipe.mixup_layer != kNoLayer) objects.add(layer_objects(plan, recipe.mixup_layer, table));
  if (recipe.cutmix_layer == kNoLayer) return objects;
  const Box cut{static_cast<float>(recipe.cut_x1), static_cast<float>(recipe.cut_y1),
                static_cast<float>(recipe.cut_x2), static_cast<float>(recipe.cut_y2)};
  const Box inside{0, 0, cut.x2 - cut.x1, cut.y2 - cut.y1};
  const float threshold = cutmix_threshold(table, objects);
  Objects others = layer_objects(plan, recipe.cutmix_layer, table);
  std::erase_if(others.list,
                [&](const Object& object) { return !(covered(cut, object.box) >= threshold); });
  for (Object& object : others.list) {
    shift(object, -cut.x1, -cut.y1);
    clip(object, inside, table);
    clip_keypoints(object.keypoints, inside.x2, inside.y2);
    shift(object, cut.x1, cut.y1);
  }
  if (table.oriented)
    std::erase_if(others.list, [](const Object& object) { return !(area(object.box) > 0); });
  objects.add(std::move(others));
  return objects;
}

}  // namespace yolodata
