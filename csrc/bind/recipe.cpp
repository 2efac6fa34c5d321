#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bind/arrays.h"
#include "bind/bind.h"
#include "bind/label_table.h"
#include "bind/recipe_dict.h"
#include "plan/copy_paste.h"
#include "plan/plan.h"
#include "plan/plan_config.h"
#include "plan/serialize.h"
#include "plan/split_colour.h"
#include "render/render.h"
#include "render/validate.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace yolodata {
namespace {

using Picture = nb::ndarray<nb::numpy, std::uint8_t, nb::shape<3, -1, -1>, nb::c_contig>;
using Image = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;
using AnyOrder = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, 3>, nb::device::cpu>;

// The pixels of an image, copied if they are in another order. Numbers of another type are refused:
// those in 0-1 would become black.
Image pixels(const nb::object& given, std::int64_t image) {
  AnyOrder found;
  if (nb::try_cast(given, found, false)) return nb::cast<Image>(given);
  std::string got = nb::repr(given.type()).c_str();
  if (nb::hasattr(given, "dtype") && nb::hasattr(given, "shape"))
    got = std::string(nb::repr(given.attr("dtype")).c_str()) + " " +
          nb::repr(given.attr("shape")).c_str();
  throw std::invalid_argument("image " + std::to_string(image) +
                              " must be uint8 (H, W, 3) in host memory, got " + got);
}

// Renders one recipe from a dict of image id -> uint8 (H, W, 3); into `out`, if it is given.
nb::object render(const Plan& plan, const nb::dict& images, bool reference,
                  const std::optional<Picture>& out) {
  validate(plan);
  const Recipe& recipe = plan.recipe;
  Sources sources{};
  set_masks(plan, sources);
  std::vector<Image> alive;
  for (int l = 0; l < recipe.layer_count; ++l)
    for (int t = 0; t < recipe.layers[l].tile_count; ++t) {
      const Tile& tile = recipe.layers[l].tiles[t];
      const nb::object key = nb::int_(tile.image);
      if (!images.contains(key))
        throw std::invalid_argument("no pixels were given for image " + std::to_string(tile.image));
      alive.push_back(pixels(images[key], tile.image));
      const Image& image = alive.back();
      if (image.shape(0) != static_cast<std::size_t>(tile.height) ||
          image.shape(1) != static_cast<std::size_t>(tile.width))
        throw std::invalid_argument(
            "image " + std::to_string(tile.image) + " is " + std::to_string(image.shape(0)) +
            " x " + std::to_string(image.shape(1)) + " pixels, the recipe was made for " +
            std::to_string(tile.height) + " x " + std::to_string(tile.width));
      sources.layers[l].images[t] = {image.data(), tile.width, tile.height};
    }
  const auto height = static_cast<std::size_t>(recipe.height);
  const auto width = static_cast<std::size_t>(recipe.width);
  require(!out || (out->shape(1) == height && out->shape(2) == width),
          "out must be uint8 (3, height, width) of the recipe");
  std::vector<std::uint8_t> picture(out ? 0 : 3 * width * height);
  {
    const nb::gil_scoped_release release;
    (reference ? render_reference : render_cpu)(recipe, sources,
                                                out ? out->data() : picture.data());
  }
  if (out) return nb::cast(*out);
  return nb::cast(to_numpy(std::move(picture), {3, height, width}));
}

}  // namespace

void bind_recipe(nb::module_& m) {
  nb::class_<Plan>(m, "Recipe", "A training sample as plain data.")
      .def_static(
          "from_dict", &recipe_from_dict, "values"_a,
          "Makes a recipe of a dict (see yolodata.pipeline.recipe). Raises ValueError for a "
          "key that is missing, unknown or out of range.")
      .def("to_dict", &recipe_to_dict, "Returns the dict that from_dict takes.")
      .def(
          "to_bytes",
          [](const Plan& plan) {
            const std::vector<std::uint8_t> bytes = to_bytes(plan);
            return nb::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
          },
          "Returns what `fn.yolodata.render` of the same yolodata takes.")
      .def("__eq__",
           [](const Plan& a, const nb::object& b) {
             return nb::isinstance<Plan>(b) &&
                    recipe_to_dict(a).equal(recipe_to_dict(nb::cast<Plan>(b)));
           })
      .def("__getstate__", [](const Plan& plan) { return recipe_to_dict(plan); })
      .def("__setstate__",
           [](Plan& plan, const nb::dict& values) { new (&plan) Plan(recipe_from_dict(values)); });
  m.def(
      "plan",
      [](const OwnedLabelTable& table, const PlanConfig& config, std::uint64_t seed,
         std::uint32_t epoch,
         std::uint64_t position) { return plan(config, table.view, {seed, epoch, position}); },
      "table"_a, "config"_a, "seed"_a, "epoch"_a, "position"_a);
  m.def(
      "paste",
      [](const Plan& plan, const OwnedLabelTable& table, int layer, int source, double share) {
        validate(plan);
        check_images(plan.recipe, table.view);
        require(table.view.has_outlines() && table.view.outline_points > 0,
                "only objects with outlines can be pasted");
        const int layers = plan.recipe.layer_count;
        require(layer >= 0 && layer < layers && source >= 0 && source < layers,
                "layer and source must be layers of the recipe");
        require(plan.recipe.layers[layer].paste_from == kNoLayer,
                "something is pasted onto that layer already");
        require(share >= 0 && share <= 1, "share must be 0 to 1");
        Plan pasted = plan;
        paste(pasted, layer, layer == source ? kMirror : source, share, table.view);
        validate(pasted);
        return pasted;
      },
      "recipe"_a, "table"_a, "layer"_a, "source"_a, "share"_a);
  m.def("render", &render, "recipe"_a, "images"_a, "reference"_a = false, "out"_a = nb::none(),
        nb::sig("def render(recipe: Recipe, images: dict, reference: bool = False, "
                "out: NDArray[numpy.uint8] | None = None) -> NDArray[numpy.uint8]"));
  m.def(
      "split_colour",
      [](const Plan& plan) {
        Halves halves = split_colour(plan);
        return std::pair(std::move(halves.placed), std::move(halves.finished));
      },
      "recipe"_a);
}

}  // namespace yolodata
