// What happens to the objects of a recipe: the same warp, clipping and filtering as the pixels.
#pragma once

#include <vector>

#include "core/geometry.h"
#include "plan/index.h"
#include "plan/recipe.h"

namespace yolodata {

struct Object {
  float cls;
  Box box;                       // pixels of the output picture
  std::vector<float> keypoints;  // x, y in pixels, visibility; three per keypoint
};

// Boxes of one layer after the warp, clipped to the picture and filtered.
std::vector<Object> layer_objects(const Recipe& recipe, int layer, const Index& index);

// Share of `box` that `cut` covers.
float covered(const Box& cut, const Box& box);

// Least covered share for which an object of the cutmix partner comes along.
float cutmix_threshold(const Index& index, const std::vector<Object>& base);

// Labels of a whole recipe: centre x, centre y, width, height in 0..1 of the picture.
struct Labels {
  std::vector<float> cls;
  std::vector<float> bboxes;     // 4 per object
  std::vector<float> keypoints;  // x, y in 0..1, visibility; 3 per keypoint of each object
};
Labels labels(const Recipe& recipe, const Index& index);

}  // namespace yolodata
