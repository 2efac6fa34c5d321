// What happens to the objects of a layer: the same transforms, clipping and filtering as
// upstream's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/geometry.h"
#include "plan/label_table.h"
#include "plan/recipe.h"

namespace yolodata {

struct Object {
  float cls;
  Box box;                       // pixels
  std::int32_t tile, number;     // the tile that shows it, and which object of the image it is
  std::vector<float> outline;    // x, y in pixels; empty where objects are boxes
  std::vector<float> keypoints;  // x, y in pixels, visibility; three per keypoint
  bool mirrored = false;         // pasted from the other side of its canvas
};

struct Objects {
  std::vector<Object> list;
  std::size_t points = 0;  // of every outline, where outlines are kept (LabelTable::outline_points)

  // Appends; outlines with fewer points than others are refined, as upstream does.
  void add(Objects others);
};

// Objects of the layer's canvas, before the warp, pasted ones last. Outlines are left to
// `draw_outline` where boxes do without: most objects are dropped before theirs is needed.
Objects canvas_objects(const Plan& plan, int layer, const LabelTable& table);

// Gives an object of the canvas its outline, of `points` points.
void draw_outline(Object& object, const Layer& layer, const LabelTable& table, std::size_t points);

// Objects of one layer in the picture: warped, clipped and filtered, pasted ones last.
Objects layer_objects(const Plan& plan, int layer, const LabelTable& table);

// A whole image in padding: scaled from `width` and `height`, then moved.
struct Letterbox {
  double width, height, ratio, left, top;
};

// Outlines of an image's objects in the padded picture, as whole as the labels have them.
Objects letterbox_objects(const LabelTable& table, std::int64_t image, const Letterbox& box);

// The object on the other side of a canvas of this width.
Object mirrored(Object object, float width);

// Share of `box` that `cut` covers.
float covered(const Box& cut, const Box& box);

// Least covered share for which an object of the cutmix partner comes along.
float cutmix_threshold(const LabelTable& table, const Objects& base);

// All objects of the picture before it is flipped.
Objects picture_objects(const Plan& plan, const LabelTable& table);

}  // namespace yolodata
