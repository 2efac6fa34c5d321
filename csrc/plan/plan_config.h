// The planner's settings.
#pragma once

#include <cstdint>

namespace yolodata {

// What is pasted by copy-paste: the objects of the same picture, mirrored, or another picture's.
enum class CopyPasteMode : std::int32_t { kFlip, kMixup };

// Ultralytics' augmentation arguments, whose ranges and defaults are yolodata.AugmentConfig's, and
// what a dataset and a loader add.
struct PlanConfig {
  std::int32_t imgsz;
  double mosaic;
  std::int32_t mosaic_grid;  // 4 or 9
  double degrees, translate, scale_min, scale_max, shear, perspective;
  double hsv_h, hsv_s, hsv_v;
  double flipud, fliplr, bgr;
  double mixup, cutmix;
  double copy_paste;
  CopyPasteMode copy_paste_mode;
  bool shuffle;
  // Reuse window of a dataset whose pictures must be decoded: the epoch is dealt out to `streams`
  // queues and partners come from the last `window` pictures of the same queue. 0: whole dataset.
  std::int32_t streams, window;
  std::int32_t mask_ratio;  // see MaskConfig
  bool overlap_mask;
};

// Calls `visit` with the name and the member of every setting: all that a binding has to know.
template <typename Visit>
void each_setting(Visit visit) {
  visit("imgsz", &PlanConfig::imgsz);
  visit("mosaic", &PlanConfig::mosaic);
  visit("mosaic_grid", &PlanConfig::mosaic_grid);
  visit("degrees", &PlanConfig::degrees);
  visit("translate", &PlanConfig::translate);
  visit("scale_min", &PlanConfig::scale_min);
  visit("scale_max", &PlanConfig::scale_max);
  visit("shear", &PlanConfig::shear);
  visit("perspective", &PlanConfig::perspective);
  visit("hsv_h", &PlanConfig::hsv_h);
  visit("hsv_s", &PlanConfig::hsv_s);
  visit("hsv_v", &PlanConfig::hsv_v);
  visit("flipud", &PlanConfig::flipud);
  visit("fliplr", &PlanConfig::fliplr);
  visit("bgr", &PlanConfig::bgr);
  visit("mixup", &PlanConfig::mixup);
  visit("cutmix", &PlanConfig::cutmix);
  visit("copy_paste", &PlanConfig::copy_paste);
  visit("copy_paste_mode", &PlanConfig::copy_paste_mode);
  visit("shuffle", &PlanConfig::shuffle);
  visit("streams", &PlanConfig::streams);
  visit("window", &PlanConfig::window);
  visit("mask_ratio", &PlanConfig::mask_ratio);
  visit("overlap_mask", &PlanConfig::overlap_mask);
}

// Throws std::invalid_argument for settings that the planner could not follow. Those that it can,
// but nobody would mean, are AugmentConfig's to refuse.
void validate(const PlanConfig& config);

}  // namespace yolodata
