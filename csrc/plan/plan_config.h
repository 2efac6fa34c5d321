// The planner's settings.
#pragma once

#include <cstdint>

namespace yolodata {

// What is pasted by copy-paste: the objects of the same picture, mirrored, or another picture's.
enum class CopyPasteMode : std::int32_t { kFlip, kMixup };

// Every setting, by type and name: Ultralytics' augmentation arguments, whose ranges and defaults
// are yolodata.AugmentConfig's, and what a dataset and a loader add.
//
// `streams` and `window` are the reuse window of a dataset whose pictures must be decoded: the
// epoch is dealt out to `streams` queues, and partners come from the last `window` pictures of the
// same queue; 0: from the whole dataset. `mask_ratio` and `overlap_mask`: see MaskConfig.
#define YD_PLAN_SETTINGS(SETTING)         \
  SETTING(std::int32_t, imgsz)            \
  SETTING(double, mosaic)                 \
  SETTING(std::int32_t, mosaic_grid)      \
  SETTING(double, degrees)                \
  SETTING(double, translate)              \
  SETTING(double, scale_min)              \
  SETTING(double, scale_max)              \
  SETTING(double, shear)                  \
  SETTING(double, perspective)            \
  SETTING(double, hsv_h)                  \
  SETTING(double, hsv_s)                  \
  SETTING(double, hsv_v)                  \
  SETTING(double, flipud)                 \
  SETTING(double, fliplr)                 \
  SETTING(double, bgr)                    \
  SETTING(double, mixup)                  \
  SETTING(double, cutmix)                 \
  SETTING(double, copy_paste)             \
  SETTING(CopyPasteMode, copy_paste_mode) \
  SETTING(bool, shuffle)                  \
  SETTING(std::int32_t, streams)          \
  SETTING(std::int32_t, window)           \
  SETTING(std::int32_t, mask_ratio)       \
  SETTING(bool, overlap_mask)

struct PlanConfig {
#define YD_MEMBER(type, name) type name;
  YD_PLAN_SETTINGS(YD_MEMBER)
#undef YD_MEMBER
};

// Calls `visit` with the name and the member of every setting: all that a binding has to know.
template <typename Visit>
void each_setting(Visit visit) {
#define YD_VISIT(type, name) visit(#name, &PlanConfig::name);
  YD_PLAN_SETTINGS(YD_VISIT)
#undef YD_VISIT
}

// Throws std::invalid_argument for settings that the planner could not follow. Those that it can,
// but nobody would mean, are AugmentConfig's to refuse.
void validate(const PlanConfig& config);

}  // namespace yolodata
