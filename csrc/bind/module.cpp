// Python's view of the core: types, ownership and the GIL; no logic.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>

#include "bind/device.h"
#include "bind/filters.h"
#include "bind/ingest.h"
#include "bind/label_table.h"
#include "bind/labels.h"
#include "bind/recipe_dict.h"
#include "core/mersenne.h"
#include "core/permute.h"
#include "core/rng.h"
#include "engine/engine.h"
#include "plan/copy_paste.h"
#include "plan/plan.h"
#include "plan/serialize.h"
#include "plan/split_colour.h"
#include "render/render.h"
#include "render/validate.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace yolodata {
namespace {

using Memory = nb::ndarray<std::uint8_t, nb::c_contig, nb::device::cpu>;
using Picture = nb::ndarray<nb::numpy, std::uint8_t, nb::shape<3, -1, -1>, nb::c_contig>;
using Image = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;

PlanConfig read_config(const nb::dict& dict) {
  PlanConfig config;
  config.imgsz = nb::cast<std::int32_t>(dict["imgsz"]);
  config.mosaic = nb::cast<double>(dict["mosaic"]);
  config.mosaic_grid = nb::cast<std::int32_t>(dict["mosaic_grid"]);
  config.degrees = nb::cast<double>(dict["degrees"]);
  config.translate = nb::cast<double>(dict["translate"]);
  config.scale_min = nb::cast<double>(dict["scale_min"]);
  config.scale_max = nb::cast<double>(dict["scale_max"]);
  config.shear = nb::cast<double>(dict["shear"]);
  config.perspective = nb::cast<double>(dict["perspective"]);
  config.hsv_h = nb::cast<double>(dict["hsv_h"]);
  config.hsv_s = nb::cast<double>(dict["hsv_s"]);
  config.hsv_v = nb::cast<double>(dict["hsv_v"]);
  config.flipud = nb::cast<double>(dict["flipud"]);
  config.fliplr = nb::cast<double>(dict["fliplr"]);
  config.bgr = nb::cast<double>(dict["bgr"]);
  config.mixup = nb::cast<double>(dict["mixup"]);
  config.cutmix = nb::cast<double>(dict["cutmix"]);
  config.copy_paste = nb::cast<double>(dict["copy_paste"]);
  const auto mode = nb::cast<std::string>(dict["copy_paste_mode"]);
  require(mode == "flip" || mode == "mixup", "copy_paste_mode must be flip or mixup");
  config.copy_paste_mixup = mode == "mixup";
  config.masks.ratio = nb::cast<std::int32_t>(dict["mask_ratio"]);
  config.masks.overlap = nb::cast<bool>(dict["overlap_mask"]);
  require(config.masks.ratio >= 0, "mask_ratio must be 0 (no masks) or more");
  config.shuffle = nb::cast<bool>(dict["shuffle"]);
  config.streams = nb::cast<std::int32_t>(dict["streams"]);
  config.window = nb::cast<std::int32_t>(dict["window"]);
  require(config.imgsz >= 1 && config.imgsz <= 16384, "imgsz must be 1 to 16384");
  require(config.mosaic_grid == 4 || config.mosaic_grid == 9, "mosaic_grid must be 4 or 9");
  require(config.streams >= 1 && config.window >= 0, "streams must be 1 or more, window 0 or more");
  return config;
}

std::shared_ptr<const LabelTable> share(const std::shared_ptr<OwnedLabelTable>& table) {
  return {table, &table->view};
}

std::vector<SampleId> sample_ids(std::uint64_t seed, std::uint32_t epoch,
                                 const Positions& positions, const LabelTable& table) {
  require(positions.shape(0) > 0, "a batch needs at least one position");
  std::vector<SampleId> ids;
  ids.reserve(positions.shape(0));
  for (std::size_t i = 0; i < positions.shape(0); ++i) {
    const std::int64_t position = positions.data()[i];
    if (position < 0 || position >= table.images)
      throw std::out_of_range("position " + std::to_string(position) + " is outside an epoch of " +
                              std::to_string(table.images) + " images; positions count from 0");
    ids.push_back({seed, epoch, static_cast<std::uint64_t>(position)});
  }
  return ids;
}

// Where a job's result goes: pictures, uint8 (B, 3, H, W), or render tasks, uint8 (B *
// RENDER_TASK_BYTES,).
void set_target(Job::Request& request, const Memory& out, std::size_t batch, int height,
                int width) {
  const std::size_t want[] = {batch, 3, static_cast<std::size_t>(height),
                              static_cast<std::size_t>(width)};
  std::string got;
  bool pictures = out.ndim() == 4;
  for (std::size_t i = 0; i < out.ndim(); ++i) {
    pictures = pictures && out.shape(i) == want[i];
    got += (i ? ", " : "") + std::to_string(out.shape(i));
  }
  if (pictures) {
    request.out = out.data();
  } else if (out.ndim() == 1 && out.shape(0) == batch * sizeof(RenderTask)) {
    require(reinterpret_cast<std::uintptr_t>(out.data()) % alignof(RenderTask) == 0,
            "memory for render tasks must be aligned to 16 bytes");
    request.render_tasks = reinterpret_cast<RenderTask*>(out.data());
  } else {
    throw std::invalid_argument("out must be uint8 of shape (" + std::to_string(batch) + ", 3, " +
                                std::to_string(height) + ", " + std::to_string(width) +
                                "), or hold " + std::to_string(batch) + " render tasks, got (" +
                                got + ")");
  }
}

std::size_t mask_bytes(const Job& job) {
  Sources none;
  std::size_t bytes = 0;
  for (const Sample& sample : job.samples())
    bytes = move_masks(sample.plan, nullptr, bytes, 0, none);
  return bytes;
}

// Appends the masks to the render tasks in `memory`, which will be read at `address`.
void move_job_masks(const Job& job, const Memory& memory, std::uintptr_t address) {
  std::size_t end = job.samples().size() * sizeof(RenderTask);
  require(memory.ndim() == 1 && memory.shape(0) == end + mask_bytes(job),
          "memory must have room for the render tasks and the masks, and no more");
  require(reinterpret_cast<std::uintptr_t>(memory.data()) % alignof(RenderTask) == 0,
          "memory for render tasks must be aligned to 16 bytes");
  RenderTask* task = reinterpret_cast<RenderTask*>(memory.data());
  for (const Sample& sample : job.samples())
    end = move_masks(sample.plan, memory.data(), end, address, (task++)->sources);
}

// Images that the batch shows, ascending.
std::vector<std::int64_t> image_ids(const std::vector<Sample>& samples) {
  std::vector<std::int64_t> ids;
  for (const Sample& sample : samples)
    for (int l = 0; l < sample.plan.recipe.layer_count; ++l)
      for (int t = 0; t < sample.plan.recipe.layers[l].tile_count; ++t)
        ids.push_back(sample.plan.recipe.layers[l].tiles[t].image);
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

// A job is half a megabyte in many pieces: it is made and let go of without the GIL, which another
// thread may be waiting for to launch kernels.
std::shared_ptr<Job> begin(Engine& engine, Job::Request request) {
  const nb::gil_scoped_release release;
  std::shared_ptr<Job> job(new Job(std::move(request)), [](Job* done) {
    std::optional<nb::gil_scoped_release> released;
    if (PyGILState_Check()) released.emplace();
    delete done;
  });
  engine.submit(job);
  return job;
}

std::shared_ptr<Job> submit(Engine& engine, const std::shared_ptr<OwnedLabelTable>& table,
                            const nb::dict& config, std::uint64_t seed, std::uint32_t epoch,
                            const Positions& positions, const Memory& out,
                            const Column<std::uint32_t>& shard, const Column<std::uint64_t>& offset,
                            const Column<std::uint64_t>& base) {
  Job::Request request;
  request.config = read_config(config);
  request.table = share(table);
  request.ids = sample_ids(seed, epoch, positions, table->view);
  set_target(request, out, request.ids.size(), request.config.imgsz, request.config.imgsz);
  const auto images = static_cast<std::size_t>(table->view.images);
  require(shard.shape(0) >= images && offset.shape(0) >= images,
          "shard and offset need one entry an image");
  request.pixels = [shards = shard.data(), offsets = offset.data(), bases = base.data(),
                    count = base.shape(0)](std::int64_t image) {
    const std::uint32_t which = shards[image];
    if (which >= count)
      throw std::out_of_range("image " + std::to_string(image) + " lies in shard " +
                              std::to_string(which) + " of " + std::to_string(count));
    return reinterpret_cast<const std::uint8_t*>(bases[which] + offsets[image]);
  };
  request.owner = keep(out, shard, offset, base);
  return begin(engine, std::move(request));
}

std::shared_ptr<Job> submit_plan(Engine& engine, const std::shared_ptr<OwnedLabelTable>& table,
                                 const nb::dict& config, std::uint64_t seed, std::uint32_t epoch,
                                 const Positions& positions) {
  Job::Request request;
  request.config = read_config(config);
  request.table = share(table);
  request.ids = sample_ids(seed, epoch, positions, table->view);
  return begin(engine, std::move(request));
}

std::shared_ptr<Job> submit_render(Engine& engine, const nb::object& recipes,
                                   const Positions& images, const Column<std::uint64_t>& pointers,
                                   const Memory& out) {
  Job::Request request;
  std::shared_ptr<Job> planned;
  if (nb::try_cast(recipes, planned)) {
    require(planned->done(), "the plan is not ready; wait for the job before rendering it");
    for (const Sample& sample : planned->samples()) request.samples.push_back({sample.plan, {}});
  } else {
    for (const nb::handle item : recipes) request.samples.push_back({nb::cast<Plan>(item), {}});
  }
  require(!request.samples.empty(), "there is nothing to render");
  require(images.shape(0) == pointers.shape(0), "every image needs one pointer");
  require(std::is_sorted(images.data(), images.data() + images.shape(0)),
          "images must be in ascending order");
  for (const Sample& sample : request.samples) {
    validate(sample.plan);
    set_target(request, out, request.samples.size(), sample.plan.recipe.height,
               sample.plan.recipe.width);
  }
  request.pixels = [first = images.data(), count = images.shape(0),
                    where = pointers.data()](std::int64_t image) {
    const std::int64_t* at = std::lower_bound(first, first + count, image);
    if (at == first + count || *at != image)
      throw std::out_of_range("no pixels were given for image " + std::to_string(image));
    return reinterpret_cast<const std::uint8_t*>(where[at - first]);
  };
  request.owner = keep(out, images, pointers);
  return begin(engine, std::move(request));
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
      alive.push_back(nb::cast<Image>(images[key]));
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
}  // namespace yolodata

NB_MODULE(_native, m) {
  using namespace yolodata;
  nb::set_leak_warnings(false);  // a loader that is open when the interpreter ends is no leak
  m.doc() = "Native core of yolodata: plan and render.";

  nb::class_<OwnedLabelTable>(m, "LabelTable",
                              "The label table of a dataset; keeps its arrays alive.")
      .def(nb::new_(&make_label_table), "height"_a, "width"_a, "object_offset"_a, "cls"_a, "box"_a,
           "polygon_offset"_a = nb::none(), "polygon"_a = nb::none(), "keypoints"_a = nb::none(),
           "flip_idx"_a = nb::none(), "outline_points"_a = 0, "oriented"_a = false)
      .def("__len__", [](const OwnedLabelTable& table) { return table.view.images; });

  nb::class_<Plan>(m, "Recipe", "A training sample as plain data.")
      .def_static("from_dict", &recipe_from_dict, "values"_a)
      .def("to_dict", &recipe_to_dict)
      .def("to_bytes",
           [](const Plan& plan) {
             const std::vector<std::uint8_t> bytes = to_bytes(plan);
             return nb::bytes(reinterpret_cast<const char*>(bytes.data()), bytes.size());
           })
      .def("__eq__",
           [](const Plan& a, const nb::object& b) {
             return nb::isinstance<Plan>(b) &&
                    recipe_to_dict(a).equal(recipe_to_dict(nb::cast<Plan>(b)));
           })
      .def("__getstate__", [](const Plan& plan) { return recipe_to_dict(plan); })
      .def("__setstate__",
           [](Plan& plan, const nb::dict& values) { new (&plan) Plan(recipe_from_dict(values)); });

  nb::class_<Job>(m, "Job", "A batch on its way.")
      .def(
          "wait",
          [](Job& job, const nb::object& timeout) {
            const double seconds = timeout.is_none() ? -1.0 : nb::cast<double>(timeout);
            const nb::gil_scoped_release release;
            return job.wait(seconds);
          },
          "timeout"_a = nb::none())
      .def("done", &Job::done)
      .def("cancel", &Job::cancel)
      .def("recipes",
           [](const Job& job) {
             nb::list recipes;
             for (const Sample& sample : job.samples()) recipes.append(nb::cast(sample.plan));
             return recipes;
           })
      .def("image_ids",
           [](const Job& job) {
             std::vector<std::int64_t> ids = image_ids(job.samples());
             const std::size_t n = ids.size();
             return to_numpy(std::move(ids), {n});
           })
      .def("first_image_ids",
           [](const Job& job) {
             std::vector<std::int64_t> ids;
             for (const Sample& sample : job.samples())
               ids.push_back(sample.plan.recipe.layers[0].tiles[0].image);
             const std::size_t n = ids.size();
             return to_numpy(std::move(ids), {n});
           })
      .def("labels", &batch_labels)
      .def("mask_bytes", &mask_bytes)
      .def("move_masks", &move_job_masks, "memory"_a, "address"_a)
      .def("seconds", [](const Job& job) {
        nb::dict seconds;
        seconds["plan"] = job.plan_seconds();
        seconds["render"] = job.render_seconds();
        return seconds;
      });

  nb::class_<Engine>(m, "Engine", "Native threads that plan and render batches.")
      .def(nb::init<int>(), "threads"_a)
      .def_prop_ro("threads", &Engine::threads)
      .def("submit", &submit, "table"_a, "config"_a, "seed"_a, "epoch"_a, "positions"_a, "out"_a,
           "shard"_a, "offset"_a, "base"_a)
      .def("submit_plan", &submit_plan, "table"_a, "config"_a, "seed"_a, "epoch"_a, "positions"_a)
      .def("submit_render", &submit_render, "recipes"_a, "images"_a, "pointers"_a, "out"_a)
      .def("close", &Engine::close, nb::call_guard<nb::gil_scoped_release>());

  m.def(
      "plan",
      [](const OwnedLabelTable& table, const nb::dict& config, std::uint64_t seed,
         std::uint32_t epoch, std::uint64_t position) {
        return plan(read_config(config), table.view, {seed, epoch, position});
      },
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
  m.def(
      "permute",
      [](const Positions& positions, std::uint64_t n, std::uint64_t seed, std::uint32_t epoch) {
        const Permutation order(n, seed, epoch);
        std::vector<std::int64_t> result;
        result.reserve(positions.shape(0));
        for (std::size_t i = 0; i < positions.shape(0); ++i) {
          const std::int64_t position = positions.data()[i];
          if (position < 0 || static_cast<std::uint64_t>(position) >= n)
            throw std::out_of_range("position " + std::to_string(position) + " is not in 0.." +
                                    std::to_string(n) + " (exclusive)");
          result.push_back(static_cast<std::int64_t>(order(static_cast<std::uint64_t>(position))));
        }
        const std::size_t count = result.size();
        return to_numpy(std::move(result), {count});
      },
      "positions"_a, "n"_a, "seed"_a, "epoch"_a);
  m.attr("MOST_LIMITS") = Mersenne::kNumbers;
  m.def(
      "draws_below",
      [](const Column<std::uint32_t>& seeds, const Column<double>& limits) {
        require(limits.shape(0) <= Mersenne::kNumbers, "there are too many limits");
        std::vector<bool> below(seeds.shape(0));
        {
          const nb::gil_scoped_release release;
          for (std::size_t i = 0; i < below.size(); ++i)
            below[i] = draws_below(seeds.data()[i], limits.data(), limits.shape(0));
        }
        return below;
      },
      "seeds"_a, "limits"_a,
      "For each seed, whether `random.Random(seed).random()` gives a number below its limit: the "
      "first call below the first limit, the second below the second, ...");
  m.def(
      "philox",
      [](const std::array<std::uint32_t, 4>& counter, const std::array<std::uint32_t, 2>& key) {
        return philox(counter, key);
      },
      "counter"_a, "key"_a);
  m.def("cuda_build", &cuda_build);
  bind_labels(m);
  bind_device(m);
  bind_filters(m);
  bind_ingest(m);
}
