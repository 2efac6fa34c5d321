#include "engine/split_task.h"

#include "plan/split_colour.h"

namespace yolodata {

TaskHalves split_colour(const RenderTask& task, const std::uint8_t* picture) {
  TaskHalves halves{task, {}};
  RenderTask& finished = halves.finished;
  finished.recipe = split_colour(halves.placed.recipe);
  finished.sources.layers[0].images[0] = {picture, task.recipe.width, task.recipe.height};
  return halves;
}

}  // namespace yolodata
