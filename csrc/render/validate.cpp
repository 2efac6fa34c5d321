#include "render/validate.h"

#include <cmath>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

namespace yolodata {

namespace {

constexpr auto kMaxGain = static_cast<float>(kMaxHsvDraw + 1);

// See LayerSources::mask.
void check_mask(const std::vector<std::int32_t>& mask, std::int32_t width, std::int32_t height) {
  const auto fail = [] {
    throw std::invalid_argument(
        "what is pasted must lie inside the picture, as runs [row, x1, x2] in order that do not "
        "touch, with x1 < x2");
  };
  const auto rows = static_cast<std::size_t>(height);
  if (mask.size() < rows + 1 || mask[0] != 0) fail();
  for (std::size_t y = 0; y < rows; ++y)
    if (mask[y + 1] < mask[y]) fail();
  if (mask.size() != rows + 1 + 2 * static_cast<std::size_t>(mask[rows])) fail();
  const std::int32_t* const runs = mask.data() + rows + 1;
  for (std::size_t y = 0; y < rows; ++y)
    for (std::int32_t i = mask[y], least = 0; i < mask[y + 1]; ++i) {
      if (runs[2 * i] < least || runs[2 * i + 1] <= runs[2 * i] || runs[2 * i + 1] > width) fail();
      least = runs[2 * i + 1] + 1;
    }
}

void validate(const Recipe& recipe) {
  const auto fail = [](const std::string& what) { throw std::invalid_argument(what); };
  const auto is_layer = [&](int i) { return i >= 0 && i < recipe.layer_count; };
  if (recipe.width < 1 || recipe.height < 1 || recipe.width > 65536 || recipe.height > 65536)
    fail("a recipe's size must be 1 to 65536 pixels a side, got " + std::to_string(recipe.height) +
         " x " + std::to_string(recipe.width));
  if (recipe.layer_count < 1 || recipe.layer_count > kMaxLayers)
    fail("a recipe has 1 to " + std::to_string(kMaxLayers) + " layers, got " +
         std::to_string(recipe.layer_count));
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
  if (recipe.finish.hsv.enabled &&
      (recipe.finish.hsv.hue_shift < 0 || recipe.finish.hsv.hue_shift >= 180 ||
       !(recipe.finish.hsv.saturation >= 0 && recipe.finish.hsv.saturation <= kMaxGain) ||
       !(recipe.finish.hsv.value >= 0 && recipe.finish.hsv.value <= kMaxGain)))
    fail("hsv draws must be finite; saturation and value draws must be -1 to 1000000");
  for (int i = 0; i < recipe.layer_count; ++i) {
    const Layer& layer = recipe.layers[i];
    if (layer.tile_count < 1 || layer.tile_count > kMaxTiles)
      fail("a layer has 1 to " + std::to_string(kMaxTiles) + " tiles, got " +
           std::to_string(layer.tile_count));
    if (layer.width < 1 || layer.height < 1 || layer.width > kMaxCanvas ||
        layer.height > kMaxCanvas)
      fail("a canvas must be 1 to " + std::to_string(kMaxCanvas) + " pixels a side, got " +
           std::to_string(layer.height) + " x " + std::to_string(layer.width));
    if (layer.paste_from != kNoLayer && layer.paste_from != kMirror &&
        (!is_layer(layer.paste_from) || layer.paste_from == i ||
         recipe.layers[layer.paste_from].paste_from >= 0))
      fail("layer " + std::to_string(i) + " cannot be pasted onto from layer " +
           std::to_string(layer.paste_from));
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

}  // namespace

void validate(const Plan& plan) {
  const Recipe& recipe = plan.recipe;
  validate(recipe);
  for (int i = 0; i < recipe.layer_count; ++i) {
    const Layer& layer = recipe.layers[i];
    const Paste* const paste = plan.paste_onto(i);
    if ((paste == nullptr) != (layer.paste_from == kNoLayer))
      throw std::invalid_argument("layer " + std::to_string(i) +
                                  " needs a mask of what is pasted onto it, and no other layer");
    if (paste == nullptr) continue;
    const bool mirror = layer.paste_from == kMirror;
    check_mask(paste->mask, mirror ? layer.width : recipe.width,
               mirror ? layer.height : recipe.height);
  }
}

}  // namespace yolodata
