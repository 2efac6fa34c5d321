#include "plan/split_colour.h"

#include <algorithm>
#include <utility>

namespace yolodata {
namespace {

// A picture as it is.
Recipe identity_recipe(std::int32_t width, std::int32_t height) {
  Recipe recipe = empty_recipe(width, height);
  recipe.layer_count = 1;
  Layer& layer = recipe.layers[0];
  layer.width = width;
  layer.height = height;
  layer.paste_from = kNoLayer;
  layer.scale = 1.0;
  const float identity[9] = {1, 0, 0, 0, 1, 0, 0, 0, 1};
  std::copy(identity, identity + 9, layer.matrix);
  std::copy(identity, identity + 9, layer.inverse);
  layer.tile_count = 1;
  layer.tiles[0] = {.image = 0,
                    .x1 = 0,
                    .y1 = 0,
                    .x2 = width,
                    .y2 = height,
                    .x0 = 0,
                    .y0 = 0,
                    .width = width,
                    .height = height};
  return recipe;
}

}  // namespace

Recipe split_colour(Recipe& recipe) {
  Recipe finished = identity_recipe(recipe.width, recipe.height);
  finished.finish = std::exchange(recipe.finish, {});
  return finished;
}

Halves split_colour(const Plan& plan) {
  Halves halves{plan, {}};
  halves.finished.recipe = split_colour(halves.placed.recipe);
  return halves;
}

}  // namespace yolodata
