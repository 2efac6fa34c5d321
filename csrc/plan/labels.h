// Labels of a picture: what became of the objects of its recipe, as numbers for training.
#pragma once

#include <vector>

#include "plan/index.h"
#include "plan/masks.h"
#include "plan/objects.h"
#include "plan/recipe.h"

namespace yolodata {

// Boxes: centre x, centre y, width, height in 0..1 of the picture.
struct Labels {
  std::vector<float> cls;
  std::vector<float> bboxes;     // 4 per object
  std::vector<float> keypoints;  // x, y in 0..1, visibility; 3 per keypoint of each object
  Masks masks;
};
Labels labels(const Plan& plan, const Index& index, const MaskConfig& masks = {});

}  // namespace yolodata
