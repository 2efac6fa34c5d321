// Labels of a picture: what became of the objects of its recipe, as numbers for training.
#pragma once

#include <cstddef>
#include <vector>

#include "plan/label_table.h"
#include "plan/masks.h"
#include "plan/objects.h"
#include "plan/recipe.h"

namespace yolodata {

// Boxes: centre x, centre y, width, height in 0..1 of the picture; oriented ones (see OrientedBox)
// have x and the longer side as a share of its width, y and the shorter side of its height, and
// then the angle.
struct Labels {
  std::size_t box_size = 4;
  std::vector<float> cls;
  std::vector<float> bboxes;     // box_size per object
  std::vector<float> keypoints;  // x, y in 0..1, visibility; 3 per keypoint of each object
  Masks masks;
};
Labels labels(const Plan& plan, const LabelTable& table, const MaskConfig& masks = {});

}  // namespace yolodata
