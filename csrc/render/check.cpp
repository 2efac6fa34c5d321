#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "render/render.h"

namespace yolodata {

void check(const Recipe& recipe) {
  const auto fail = [](const std::string& what) { throw std::invalid_argument(what); };
  const auto is_layer = [&](int i) { return i >= 0 && i < recipe.layer_count; };
  if (recipe.width < 1 || recipe.height < 1 || recipe.width > 65536 || recipe.height > 65536)
    fail("a recipe's size must be 1 to 65536 pixels a side, got " + std::to_string(recipe.height) +
         " x " + std::to_string(recipe.width));
  if (recipe.layer_count < 1 || recipe.layer_count > kMaxLayers)
    fail("a recipe has 1 to 3 layers, got " + std::to_string(recipe.layer_count));
  if (recipe.mixup_layer != kNoLayer && !is_layer(recipe.mixup_layer))
    fail("mixup names layer " + std::to_string(recipe.mixup_layer) + ", which the recipe lacks");
  if (!(recipe.mixup_ratio >= 0 && recipe.mixup_ratio <= 1))
    fail("the mixup ratio must be in 0..1");
  if (recipe.cutmix_layer != kNoLayer) {
    if (!is_layer(recipe.cutmix_layer))
      fail("cutmix names layer " + std::to_string(recipe.cutmix_layer) +
           ", which the recipe lacks");
    if (recipe.cut_x1 < 0 || recipe.cut_y1 < 0 || recipe.cut_x1 > recipe.cut_x2 ||
        recipe.cut_y1 > recipe.cut_y2 || recipe.cut_x2 > recipe.width ||
        recipe.cut_y2 > recipe.height)
      fail(
          "the cutmix area must lie inside the picture, as x1, y1, x2, y2 with x1 <= x2, y1 <= y2");
  }
  if (recipe.hsv.enabled &&
      (recipe.hsv.hue_shift < 0 || recipe.hsv.hue_shift >= 180 || !(recipe.hsv.saturation >= 0) ||
       !(recipe.hsv.value >= 0) || !std::isfinite(recipe.hsv.saturation) ||
       !std::isfinite(recipe.hsv.value)))
    fail("hsv draws must be finite; saturation and value draws must be -1 or more");
  for (int i = 0; i < recipe.layer_count; ++i) {
    const Layer& layer = recipe.layers[i];
    if (layer.tile_count < 1 || layer.tile_count > kMaxTiles)
      fail("a layer has 1 to 9 tiles, got " + std::to_string(layer.tile_count));
    if (layer.width < 1 || layer.height < 1 || layer.width > (1 << 20) || layer.height > (1 << 20))
      fail("a canvas must be 1 to 1048576 pixels a side, got " + std::to_string(layer.height) +
           " x " + std::to_string(layer.width));
    for (const float value : layer.inverse)
      if (!std::isfinite(value)) fail("the matrix of a layer must be finite");
    for (int t = 0; t < layer.tile_count; ++t) {
      const Tile& tile = layer.tiles[t];
      if (tile.x1 > tile.x2 || tile.y1 > tile.y2 || tile.x1 < 0 || tile.y1 < 0 ||
          tile.x2 > layer.width || tile.y2 > layer.height)
        fail("tile " + std::to_string(t) + " does not lie on its canvas");
      const auto outside = [](std::int64_t from, std::int64_t to, std::int64_t at,
                              std::int64_t size) {
        return from < to && (from - at < 0 || to - at > size);
      };
      if (outside(tile.x1, tile.x2, tile.x0, tile.width) ||
          outside(tile.y1, tile.y2, tile.y0, tile.height))
        fail("tile " + std::to_string(t) + " shows more than its image of " +
             std::to_string(tile.height) + " x " + std::to_string(tile.width) + " pixels");
    }
  }
}

}  // namespace yolodata
