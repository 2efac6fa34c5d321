#include "bind/recipe_dict.h"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bind/arrays.h"
#include "plan/plan.h"
#include "plan/raster.h"
#include "render/validate.h"

namespace nb = nanobind;

namespace yolodata {
namespace {

nb::object field(const nb::dict& values, const char* name) {
  if (!values.contains(name))
    throw std::invalid_argument(std::string("the recipe lacks '") + name + "'");
  return values[name];
}

// What may be left out of a dict: None then.
nb::object optional_field(const nb::dict& values, const char* name) {
  return values.contains(name) ? nb::object(values[name]) : nb::none();
}

// Throws for a key that nobody reads, which is a misspelt one most likely.
void refuse_others(const nb::dict& values, const std::vector<std::string>& known) {
  for (const auto [key, value] : values) {
    std::string name;
    if (nb::try_cast(key, name) && std::find(known.begin(), known.end(), name) != known.end())
      continue;
    std::string allowed;
    for (const std::string& each : known) allowed += (allowed.empty() ? "" : ", ") + each;
    throw std::invalid_argument("a recipe's keys here must be among " + allowed + ", got " +
                                nb::repr(key).c_str());
  }
}

template <typename T>
T as(const nb::handle value, const char* name) {
  T result;
  if (!nb::try_cast(value, result))
    throw std::invalid_argument(std::string("the recipe's '") + name +
                                "' has the wrong type, got " + nb::repr(value).c_str());
  return result;
}

template <typename T>
T read(const nb::dict& values, const char* name) {
  return as<T>(field(values, name), name);
}

// What is in a list of the dict.
nb::list items(const nb::dict& values, const char* name) {
  return nb::list(as<nb::iterable>(field(values, name), name));
}

template <typename T>
nb::list numbers(const T* values, int count) {
  nb::list list;
  for (int i = 0; i < count; ++i) list.append(values[i]);
  return list;
}

// Steps of a finish, by their types.

nb::object given(const HsvJitter& hsv) {
  return hsv.enabled ? nb::object(numbers(hsv.draws, 3)) : nb::none();
}

nb::object given(std::int32_t flag) { return nb::bool_(flag != 0); }

void take(const nb::dict& values, const char* name, HsvJitter& hsv) {
  const auto draws = read<std::array<double, 3>>(values, name);
  for (const double draw : draws)
    if (!std::isfinite(draw) || std::abs(draw) > kMaxHsvDraw)
      throw std::invalid_argument(std::string("the recipe's '") + name +
                                  "' draws must be numbers from -1000000 to 1000000, got " +
                                  std::to_string(draw));
  hsv = hsv_jitter({draws[0], draws[1], draws[2]});
}

void take(const nb::dict& values, const char* name, std::int32_t& flag) {
  flag = read<bool>(values, name);
}

nb::dict layer_to_dict(const Layer& layer) {
  nb::dict values;
  const std::int32_t canvas[2] = {layer.height, layer.width};
  values["canvas"] = numbers(canvas, 2);
  nb::list tiles;
  for (int i = 0; i < layer.tile_count; ++i) {
    const Tile& tile = layer.tiles[i];
    nb::dict item;
    item["image"] = tile.image;
    item["x1"] = tile.x1;
    item["y1"] = tile.y1;
    item["x2"] = tile.x2;
    item["y2"] = tile.y2;
    item["x0"] = tile.x0;
    item["y0"] = tile.y0;
    item["height"] = tile.height;
    item["width"] = tile.width;
    tiles.append(item);
  }
  values["tiles"] = tiles;
  values["matrix"] = numbers(layer.matrix, 9);
  values["perspective"] = layer.perspective != 0;
  values["scale"] = layer.scale;
  return values;
}

// Runs of a mask as [row, x1, x2].
nb::list runs_of(const std::vector<std::int32_t>& mask, std::int32_t height) {
  nb::list runs;
  const std::int32_t* const columns = mask.data() + height + 1;
  for (std::int32_t y = 0; y < height; ++y)
    for (std::int32_t i = mask[static_cast<std::size_t>(y)];
         i < mask[static_cast<std::size_t>(y) + 1]; ++i) {
      const std::int32_t run[3] = {y, columns[2 * i], columns[2 * i + 1]};
      runs.append(numbers(run, 3));
    }
  return runs;
}

nb::object paste_to_dict(const Plan& plan, int which) {
  const Paste* const paste = plan.paste_onto(which);
  if (paste == nullptr) return nb::none();
  const Layer& layer = plan.recipe.layers[which];
  const bool mirror = layer.paste_from == kMirror;
  nb::dict values;
  values["layer"] = mirror ? which : layer.paste_from;
  nb::list objects;
  for (const auto& object : paste->objects) objects.append(numbers(object.data(), 2));
  values["objects"] = objects;
  values["runs"] = runs_of(paste->mask, mirror ? layer.height : plan.recipe.height);
  return values;
}

void paste_from_dict(const nb::object& pasted, int which, Plan& plan) {
  if (pasted.is_none()) return;
  const auto values = as<nb::dict>(pasted, "paste");
  refuse_others(values, {"layer", "objects", "runs"});
  Layer& layer = plan.recipe.layers[which];
  layer.paste_from = read<std::int32_t>(values, "layer");
  if (layer.paste_from == which) layer.paste_from = kMirror;
  const std::int32_t height = layer.paste_from == kMirror ? layer.height : plan.recipe.height;
  if (height < 1 || height > kMaxCanvas)
    throw std::invalid_argument("a canvas must be 1 to " + std::to_string(kMaxCanvas) +
                                " pixels a side");
  Paste paste{which, {}, {}};
  for (const nb::handle item : items(values, "objects"))
    paste.objects.push_back(as<std::array<std::int32_t, 2>>(item, "objects"));
  std::vector<Run> runs;
  for (const nb::handle item : items(values, "runs")) {
    const auto [y, x1, x2] = as<std::array<std::int32_t, 3>>(item, "runs");
    require(y >= (runs.empty() ? 0 : runs.back().y) && y < height,
            "what is pasted must be runs [row, x1, x2] in order of rows");
    runs.push_back({y, x1, x2});
  }
  paste.mask = packed(runs, height);
  plan.pastes.push_back(std::move(paste));
}

Layer layer_from_dict(const nb::dict& values) {
  refuse_others(values, {"canvas", "tiles", "matrix", "perspective", "scale", "paste"});
  Layer layer{};
  layer.paste_from = kNoLayer;
  const auto canvas = read<std::array<std::int32_t, 2>>(values, "canvas");
  layer.height = canvas[0];
  layer.width = canvas[1];
  for (const nb::handle item : items(values, "tiles")) {
    if (layer.tile_count == kMaxTiles)
      throw std::invalid_argument("a layer has at most " + std::to_string(kMaxTiles) +
                                  " tiles, got more");
    const auto fields = as<nb::dict>(item, "tiles");
    refuse_others(fields, {"image", "x1", "y1", "x2", "y2", "x0", "y0", "height", "width"});
    Tile& tile = layer.tiles[layer.tile_count++];
    tile.image = read<std::int64_t>(fields, "image");
    tile.x1 = read<std::int32_t>(fields, "x1");
    tile.y1 = read<std::int32_t>(fields, "y1");
    tile.x2 = read<std::int32_t>(fields, "x2");
    tile.y2 = read<std::int32_t>(fields, "y2");
    tile.x0 = read<std::int32_t>(fields, "x0");
    tile.y0 = read<std::int32_t>(fields, "y0");
    tile.height = read<std::int32_t>(fields, "height");
    tile.width = read<std::int32_t>(fields, "width");
  }
  const auto matrix = read<std::array<double, 9>>(values, "matrix");
  for (int i = 0; i < 9; ++i) layer.matrix[i] = static_cast<float>(matrix[i]);
  layer.perspective = read<bool>(values, "perspective");
  layer.scale = read<double>(values, "scale");
  invert(layer);
  return layer;
}

}  // namespace

nb::dict recipe_to_dict(const Plan& plan) {
  const Recipe& recipe = plan.recipe;
  nb::dict values;
  const std::int32_t size[2] = {recipe.height, recipe.width};
  values["size"] = numbers(size, 2);
  nb::list layers;
  for (int i = 0; i < recipe.layer_count; ++i) {
    nb::dict layer = layer_to_dict(recipe.layers[i]);
    layer["paste"] = paste_to_dict(plan, i);
    layers.append(layer);
  }
  values["layers"] = layers;
  values["mixup"] = nb::none();
  if (recipe.mixup_layer != kNoLayer) {
    nb::dict mixup;
    mixup["layer"] = recipe.mixup_layer;
    mixup["ratio"] = recipe.mixup_ratio;
    values["mixup"] = mixup;
  }
  values["cutmix"] = nb::none();
  if (recipe.cutmix_layer != kNoLayer) {
    nb::dict cutmix;
    const std::int32_t area[4] = {recipe.cut_x1, recipe.cut_y1, recipe.cut_x2, recipe.cut_y2};
    cutmix["layer"] = recipe.cutmix_layer;
    cutmix["area"] = numbers(area, 4);
    values["cutmix"] = cutmix;
  }
  each_step(recipe.finish, [&](const char* name, const auto& step) { values[name] = given(step); });
  return values;
}

Plan recipe_from_dict(const nb::dict& values) {
  const auto size = read<std::array<std::int32_t, 2>>(values, "size");
  Plan plan{empty_recipe(size[1], size[0]), {}};
  Recipe& recipe = plan.recipe;
  for (const nb::handle item : items(values, "layers")) {
    if (recipe.layer_count == kMaxLayers)
      throw std::invalid_argument("a recipe has at most " + std::to_string(kMaxLayers) +
                                  " layers, got more");
    const auto fields = as<nb::dict>(item, "layers");
    recipe.layers[recipe.layer_count++] = layer_from_dict(fields);
    paste_from_dict(optional_field(fields, "paste"), recipe.layer_count - 1, plan);
  }
  const nb::object mixup = optional_field(values, "mixup");
  if (!mixup.is_none()) {
    const auto fields = as<nb::dict>(mixup, "mixup");
    refuse_others(fields, {"layer", "ratio"});
    recipe.mixup_layer = read<std::int32_t>(fields, "layer");
    recipe.mixup_ratio = read<double>(fields, "ratio");
  }
  const nb::object cutmix = optional_field(values, "cutmix");
  if (!cutmix.is_none()) {
    const auto fields = as<nb::dict>(cutmix, "cutmix");
    refuse_others(fields, {"layer", "area"});
    const auto area = read<std::array<std::int32_t, 4>>(fields, "area");
    recipe.cutmix_layer = read<std::int32_t>(fields, "layer");
    recipe.cut_x1 = area[0];
    recipe.cut_y1 = area[1];
    recipe.cut_x2 = area[2];
    recipe.cut_y2 = area[3];
  }
  std::vector<std::string> known{"size", "layers", "mixup", "cutmix"};
  each_step(recipe.finish, [&](const char* name, auto& step) {
    known.push_back(name);
    if (!optional_field(values, name).is_none()) take(values, name, step);
  });
  refuse_others(values, known);
  validate(plan);
  return plan;
}

void check_images(const Recipe& recipe, const LabelTable& table) {
  for (int l = 0; l < recipe.layer_count; ++l)
    for (int t = 0; t < recipe.layers[l].tile_count; ++t) {
      const std::int64_t image = recipe.layers[l].tiles[t].image;
      if (image < 0 || image >= table.images)
        throw std::invalid_argument("the recipe shows image " + std::to_string(image) +
                                    ", the dataset has images 0.." +
                                    std::to_string(table.images - 1));
    }
}

}  // namespace yolodata
