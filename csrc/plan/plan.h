// From integers to a recipe: every random decision of the engine is taken here.
#pragma once

#include <cstdint>
#include <optional>

#include "plan/label_table.h"
#include "plan/masks.h"
#include "plan/recipe.h"

namespace yolodata {

// Ultralytics' augmentation arguments, checked by yolodata.AugmentConfig.
struct PlanConfig {
  std::int32_t imgsz = 640;
  double mosaic = 1.0;
  std::int32_t mosaic_grid = 4;
  double degrees = 0.0, translate = 0.1, scale_min = 0.5, scale_max = 1.5, shear = 0.0;
  double perspective = 0.0;
  double hsv_h = 0.015, hsv_s = 0.7, hsv_v = 0.4;
  double flipud = 0.0, fliplr = 0.5, bgr = 0.0;
  double mixup = 0.0, cutmix = 0.0;
  double copy_paste = 0.0;
  bool copy_paste_mixup = false;  // from another picture, instead of the same one mirrored
  bool shuffle = true;
  // Reuse window of a dataset whose pictures must be decoded: the epoch is dealt out to `streams`
  // queues and partners come from the last `window` pictures of the same queue. 0: whole dataset.
  std::int32_t streams = 1;
  std::int32_t window = 0;
  MaskConfig masks;
};

struct SampleId {
  std::uint64_t seed;
  std::uint32_t epoch;
  std::uint64_t position;
};

// Dataset index of a position of the epoch.
std::int64_t image_at(const PlanConfig& config, std::int64_t images, const SampleId& id);

Plan plan(const PlanConfig& config, const LabelTable& table, const SampleId& id);

// Fills `layer.inverse` from `layer.matrix`; throws std::invalid_argument for a singular matrix.
void invert(Layer& layer);

// Turns drawn colour gains (hue, saturation, value; each in -1..1) into the form kernels use.
HsvJitter hsv_jitter(const double (&draws)[3]);

}  // namespace yolodata
