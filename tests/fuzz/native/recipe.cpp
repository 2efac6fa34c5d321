// A recipe that `check` lets pass is rendered without reading outside its images, and all ways to
// render it give the same bytes. Recipes come from users (`Recipe.from_dict`) and, as bytes, from
// another process.
#include "plan/recipe.h"

#include <algorithm>
#include <utility>

#include "fuzz.h"
#include "plan/plan.h"
#include "plan/serialize.h"
#include "render/render.h"
#include "render/validate.h"

using namespace yolodata;

namespace {

constexpr std::int64_t kPixels = 1 << 16;  // of one image, and of the picture: more is only slow

Plan any_plan(FuzzedDataProvider& input) {
  const auto number = [&](int low, int high) {
    return input.ConsumeProbability<float>() < 0.02f
               ? input.ConsumeIntegral<std::int32_t>()
               : input.ConsumeIntegralInRange<std::int32_t>(low, high);
  };
  Plan plan{empty_recipe(number(1, 48), number(1, 24)), {}};
  Recipe& recipe = plan.recipe;
  recipe.layer_count = number(1, kMaxLayers);
  if (input.ConsumeBool()) recipe.mixup_layer = number(-1, 2);
  if (input.ConsumeBool()) {
    recipe.cutmix_layer = number(-1, 2);
    recipe.cut_x1 = number(0, 24), recipe.cut_x2 = number(0, 48);
    recipe.cut_y1 = number(0, 12), recipe.cut_y2 = number(0, 24);
  }
  recipe.mixup_ratio = any_float(input);
  HsvJitter& hsv = recipe.finish.hsv;
  hsv.enabled = input.ConsumeBool();
  hsv.hue_shift = number(0, 179);
  hsv.saturation = any_float(input);
  hsv.value = any_float(input);
  recipe.finish.flipud = input.ConsumeBool();
  recipe.finish.fliplr = input.ConsumeBool();
  recipe.finish.bgr = input.ConsumeBool();
  for (int l = 0; l < std::clamp(recipe.layer_count, 0, kMaxLayers); ++l) {
    Layer& layer = recipe.layers[l];
    layer.width = number(1, 64), layer.height = number(1, 64);
    layer.paste_from = input.ConsumeIntegralInRange<int>(0, 3) ? kNoLayer : number(-2, 2);
    layer.scale = 1;
    for (int k = 0; k < 9; ++k) layer.inverse[k] = any_float(input) * (k < 6 ? 8.0f : 0.25f);
    layer.perspective = input.ConsumeBool();
    if (!layer.perspective) layer.inverse[6] = layer.inverse[7] = 0, layer.inverse[8] = 1;
    if (input.ConsumeBool()) layer.inverse[1] = layer.inverse[3] = 0;
    std::copy(std::begin(layer.inverse), std::end(layer.inverse), layer.matrix);
    layer.tile_count = number(1, kMaxTiles);
    for (int t = 0; t < std::clamp(layer.tile_count, 0, kMaxTiles); ++t) {
      Tile& tile = layer.tiles[t];
      tile.x0 = number(-16, 32), tile.y0 = number(-16, 32);
      tile.width = number(1, 40), tile.height = number(1, 40);
      const auto at = [](std::int64_t a, std::int64_t b) {
        return static_cast<std::int32_t>(std::clamp<std::int64_t>(a + b, INT32_MIN, INT32_MAX));
      };
      tile.x1 = at(std::max(tile.x0, 0), number(0, 4));
      tile.y1 = at(std::max(tile.y0, 0), number(0, 4));
      tile.x2 = at(tile.x1, number(0, 40)), tile.y2 = at(tile.y1, number(0, 40));
      // Most inputs should pass the check.
      if (input.ConsumeIntegralInRange<int>(0, 15)) {
        const auto least = [](std::int64_t a, std::int64_t b) {
          return static_cast<std::int32_t>(std::clamp<std::int64_t>(std::min(a, b), 0, 1 << 20));
        };
        tile.x2 = least(tile.x2, least(layer.width, std::int64_t{tile.x0} + tile.width));
        tile.y2 = least(tile.y2, least(layer.height, std::int64_t{tile.y0} + tile.height));
        tile.x1 = std::min(tile.x1, tile.x2), tile.y1 = std::min(tile.y1, tile.y2);
      }
    }
    if (layer.paste_from == kNoLayer) continue;
    Paste paste{l, {}, {}};
    const std::int32_t rows = layer.paste_from == kMirror ? layer.height : recipe.height;
    const std::int32_t columns = layer.paste_from == kMirror ? layer.width : recipe.width;
    std::vector<std::int32_t> runs;
    paste.mask.push_back(0);
    for (std::int32_t y = 0; y < std::min(rows, 64); ++y) {
      for (std::int32_t x = 0; x < columns && input.ConsumeBool();) {
        const std::int32_t x1 = x + input.ConsumeIntegralInRange<std::int32_t>(0, 5);
        const std::int32_t x2 = x1 + input.ConsumeIntegralInRange<std::int32_t>(0, 9);
        if (x2 > columns && input.ConsumeIntegralInRange<int>(0, 15)) break;
        runs.insert(runs.end(), {x1, x2});
        x = x2 + (input.ConsumeIntegralInRange<int>(0, 15) ? 1 : 0);
      }
      paste.mask.push_back(static_cast<std::int32_t>(runs.size() / 2));
    }
    paste.mask.insert(paste.mask.end(), runs.begin(), runs.end());
    plan.pastes.push_back(std::move(paste));
  }
  return plan;
}

// Images of exactly the bytes that tiles say, so that a sanitizer sees every step outside.
std::vector<std::vector<std::uint8_t>> give_images(const Recipe& recipe, Sources& sources) {
  std::vector<std::vector<std::uint8_t>> images;
  std::uint32_t state = 1;
  for (int l = 0; l < recipe.layer_count; ++l)
    for (int t = 0; t < recipe.layers[l].tile_count; ++t) {
      const Tile& tile = recipe.layers[l].tiles[t];
      const std::int64_t pixels = std::int64_t{tile.width} * tile.height;
      auto& image = images.emplace_back(
          tile.width > 0 && tile.height > 0 ? static_cast<std::size_t>(3 * pixels) : 0);
      for (auto& byte : image)
        byte = static_cast<std::uint8_t>((state = state * 1664525 + 1013904223) >> 24);
      sources.layers[l].images[t] = {image.data(), tile.width, tile.height};
    }
  return images;
}

bool too_large(const Recipe& recipe) {
  if (std::int64_t{recipe.width} * recipe.height > kPixels) return true;
  for (int l = 0; l < recipe.layer_count; ++l)
    for (int t = 0; t < recipe.layers[l].tile_count; ++t) {
      const Tile& tile = recipe.layers[l].tiles[t];
      if (std::int64_t{tile.width} * tile.height > kPixels) return true;
    }
  return false;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 1) return 0;
  Plan plan;
  try {
    if (data[0] % 2) {
      FuzzedDataProvider input(data + 1, size - 1);
      plan = any_plan(input);
      const std::vector<std::uint8_t> bytes = to_bytes(plan);
      const Plan again = from_bytes(bytes.data(), bytes.size());
      must(to_bytes(again) == bytes);
    } else {  // bytes of a recipe, whose header is made to fit
      std::vector<std::uint8_t> bytes(data + 1, data + size);
      RecipeHeader header{{}, kRecipeVersion, static_cast<std::uint32_t>(bytes.size())};
      std::memcpy(header.magic, kRecipeMagic, sizeof header.magic);
      if (bytes.size() >= sizeof header) std::memcpy(bytes.data(), &header, sizeof header);
      plan = from_bytes(bytes.data(), bytes.size());
    }
    validate(plan);
  } catch (const std::invalid_argument&) {
    return 0;
  }
  const Recipe& recipe = plan.recipe;
  if (too_large(recipe)) return 0;
  Sources sources{};
  const auto images = give_images(recipe, sources);
  set_masks(plan, sources);
  const auto bytes = static_cast<std::size_t>(3 * recipe.width * recipe.height);
  std::vector<std::uint8_t> fast(bytes), slow(bytes), emulated(bytes);
  render_cpu(recipe, sources, fast.data());
  render_reference(recipe, sources, slow.data());
  must(fast == slow);
  const std::vector<RenderTask> task(1, RenderTask{recipe, sources});
  render_emulated(task.data(), 1, recipe.width, recipe.height,
                  {emulated.data(), PixelFormat::kUint8, false});
  must(emulated == slow);
  return 0;
}
