// A recipe together with its images: what a renderer of batches reads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "plan/recipe.h"
#include "plan/split_colour.h"
#include "render/shade.h"

namespace yolodata {

// Plain data of a fixed size, which is copied to a device as it is.
struct alignas(16) RenderTask {
  Recipe recipe;
  Sources sources;
};

// The masks of a plan, where they are now.
void set_masks(const Plan& plan, Sources& sources);

// Copies the masks of a plan to `memory`, from `offset` on, and makes the sources look for them
// where `address` says that memory will be. Returns the offset behind them. Without `memory` it
// only counts.
std::size_t move_masks(const Plan& plan, std::uint8_t* memory, std::size_t offset,
                       std::uintptr_t address, Sources& sources);

// A task in two steps, as split_colour makes them of its recipe. `picture` is where the second will
// find what the first one made and somebody changed: uint8 (height, width, 3) RGB, in memory that
// its renderer can read.
struct TaskHalves {
  RenderTask placed, finished;
};
inline TaskHalves split_colour(const RenderTask& task, const std::uint8_t* picture) {
  TaskHalves halves{task, {}};
  halves.finished.recipe = split_colour(halves.placed.recipe);
  halves.finished.sources.layers[0].images[0] = {picture, task.recipe.width, task.recipe.height};
  return halves;
}

}  // namespace yolodata
