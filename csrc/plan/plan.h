// From integers to a recipe: every random decision of the engine is taken here.
#pragma once

#include <cstdint>

#include "plan/label_table.h"
#include "plan/plan_config.h"
#include "plan/recipe.h"

namespace yolodata {

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

// The jitter of drawn gains (hue, saturation, value; each in -1..1), in the form kernels use.
HsvJitter hsv_jitter(const double (&draws)[3]);

}  // namespace yolodata
