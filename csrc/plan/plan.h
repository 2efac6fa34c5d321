// From integers to a recipe: every random decision of the engine is taken here.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>

#include "core/rng.h"
#include "plan/label_table.h"
#include "plan/plan_config.h"
#include "plan/recipe.h"

namespace yolodata {

// A sample is what its draws are keyed by.
using SampleId = DrawKey;

// Throws std::out_of_range unless an epoch of so many images has the position.
template <typename Integer>
void check_position(Integer position, std::int64_t images) {
  if (std::cmp_less(position, 0) || !std::cmp_less(position, images))
    throw std::out_of_range("position " + std::to_string(position) + " is outside an epoch of " +
                            std::to_string(images) + " images; positions count from 0");
}

// Dataset index of a position of the epoch.
std::int64_t image_at(const PlanConfig& config, std::int64_t images, const SampleId& id);

Plan plan(const PlanConfig& config, const LabelTable& table, const SampleId& id);

// Fills `layer.inverse` from `layer.matrix`; throws std::invalid_argument for a singular matrix.
void invert(Layer& layer);

// The jitter of drawn gains (hue, saturation, value; each in -1..1), in the form kernels use.
HsvJitter hsv_jitter(const double (&draws)[3]);

}  // namespace yolodata
