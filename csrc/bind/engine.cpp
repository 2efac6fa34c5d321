#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bind/arrays.h"
#include "bind/bind.h"
#include "bind/label_table.h"
#include "bind/labels.h"
#include "engine/cut_off.h"
#include "engine/engine.h"
#include "plan/plan.h"
#include "plan/plan_config.h"
#include "render/render_task.h"
#include "render/validate.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace yolodata {
namespace {

using Memory = nb::ndarray<std::uint8_t, nb::c_contig, nb::device::cpu>;

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
    check_position(position, table.images);
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
    request.render_tasks = aligned<RenderTask>(out.data(), "render tasks");
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
  RenderTask* task = aligned<RenderTask>(memory.data(), "render tasks");
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
                            const PlanConfig& config, std::uint64_t seed, std::uint32_t epoch,
                            const Positions& positions, const Memory& out,
                            const Column<std::uint32_t>& shard, const Column<std::uint64_t>& offset,
                            const Column<std::uint64_t>& base) {
  Job::Request request;
  request.config = config;
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
                                 const PlanConfig& config, std::uint64_t seed, std::uint32_t epoch,
                                 const Positions& positions) {
  Job::Request request;
  request.config = config;
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

}  // namespace

void bind_engine(nb::module_& m) {
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
      .def("taken_over", &Job::taken_over)
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
        if (const auto storage = job.storage_seconds()) seconds["storage"] = *storage;
        return seconds;
      });

  nb::class_<Engine>(m, "Engine", "Native threads that plan and render batches.")
      .def(nb::init<int, const std::vector<std::vector<int>>&>(), "threads"_a,
           "cores"_a = std::vector<std::vector<int>>())
      .def_prop_ro("threads", &Engine::threads)
      .def("submit", &submit, "table"_a, "config"_a, "seed"_a, "epoch"_a, "positions"_a, "out"_a,
           "shard"_a, "offset"_a, "base"_a)
      .def("submit_plan", &submit_plan, "table"_a, "config"_a, "seed"_a, "epoch"_a, "positions"_a)
      .def("submit_render", &submit_render, "recipes"_a, "images"_a, "pointers"_a, "out"_a)
      .def("close", &Engine::close, nb::call_guard<nb::gil_scoped_release>());
  m.def(
      "wait_for_pages",
      [](const Column<std::uint8_t>& bytes) {
        const nb::gil_scoped_release release;
        return wait_for_pages(bytes.data(), bytes.size());
      },
      "bytes"_a,
      "Brings mapped bytes into memory; returns for how many nanoseconds this thread waited.");
  m.def("note_map", &note_map, "address"_a, "nbytes"_a, "path"_a,
        "Says which file is mapped, for `explain_cut_off`.");
  m.def("forget_map", &forget_map, "address"_a, "To be called before memory is unmapped.");
  m.def(
      "explain_cut_off",
      [](int status, int file) {
        const CutOff before = explain_cut_off({status, file});
        return std::pair{before.status, before.file};
      },
      "status"_a, "file"_a,
      "Has a file named, and the process end with `status`, where SIGBUS would end it because the\n"
      "file was cut off; returns the arguments of the call before. -1, -1 ends that.");
}

}  // namespace yolodata
