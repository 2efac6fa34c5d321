#include "engine/split_shot.h"

#include "plan/split_colour.h"

namespace yolodata {

ShotHalves split_colour(const Shot& shot, const std::uint8_t* picture) {
  ShotHalves halves{shot, {}};
  Shot& finished = halves.finished;
  finished.recipe = split_colour(halves.placed.recipe);
  finished.sources.layers[0].images[0] = {picture, shot.recipe.width, shot.recipe.height};
  return halves;
}

}  // namespace yolodata
