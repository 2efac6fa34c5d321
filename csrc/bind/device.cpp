#include <nanobind/stl/string.h>

#include <span>
#include <stdexcept>
#include <string>

#include "bind/arrays.h"
#include "bind/bind.h"
#include "render/render.h"
#include "render/render_task.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace yolodata {
namespace {

Output output_at(std::uintptr_t address, const std::string& dtype, bool channels_last) {
  const bool half = dtype == "float16", brain = dtype == "bfloat16";
  if (!half && !brain && dtype != "uint8")
    throw std::invalid_argument("dtype must be uint8, float16 or bfloat16, got " + dtype);
  const PixelFormat format =
      half ? PixelFormat::kFloat16 : (brain ? PixelFormat::kBfloat16 : PixelFormat::kUint8);
  return {reinterpret_cast<void*>(address), format, channels_last};
}

const RenderTask* tasks_at(std::uintptr_t address) {
  return aligned<RenderTask>(reinterpret_cast<void*>(address), "render tasks");
}

using RenderTasks = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::span<RenderTask> tasks_in(const RenderTasks& memory) {
  require(memory.shape(0) % sizeof(RenderTask) == 0, "memory must hold whole render tasks");
  return {aligned<RenderTask>(memory.data(), "render tasks"), memory.shape(0) / sizeof(RenderTask)};
}

// Writes the halves of some render tasks of a batch.
void split_render_tasks(const RenderTasks& tasks, const Positions& which,
                        const Column<std::uint64_t>& pictures, const RenderTasks& placed,
                        const RenderTasks& finished) {
  const std::size_t count = which.shape(0);
  const std::span<RenderTask> from = tasks_in(tasks), first = tasks_in(placed),
                              second = tasks_in(finished);
  require(pictures.shape(0) == count && first.size() == count && second.size() == count,
          "every render task needs an address of its picture, and room for both its halves");
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t at = which.data()[i];
    require(at >= 0 && static_cast<std::size_t>(at) < from.size(), "there is no such render task");
    const TaskHalves halves =
        split_colour(from[static_cast<std::size_t>(at)],
                     reinterpret_cast<const std::uint8_t*>(pictures.data()[i]));
    first[i] = halves.placed;
    second[i] = halves.finished;
  }
}

}  // namespace

void bind_device(nb::module_& m) {
  m.attr("RENDER_TASK_BYTES") = sizeof(RenderTask);
  m.def(
      "render_cuda",
      [](std::uintptr_t tasks, std::int32_t count, std::int32_t height, std::int32_t width,
         std::uintptr_t out, const std::string& dtype, bool channels_last, std::uintptr_t stream) {
        render_cuda(tasks_at(tasks), count, width, height, output_at(out, dtype, channels_last),
                    reinterpret_cast<void*>(stream));
      },
      "tasks"_a, "count"_a, "height"_a, "width"_a, "out"_a, "dtype"_a, "channels_last"_a,
      "stream"_a);
  m.def(
      "render_emulated",
      [](std::uintptr_t tasks, std::int32_t count, std::int32_t height, std::int32_t width,
         std::uintptr_t out, const std::string& dtype, bool channels_last) {
        const Output output = output_at(out, dtype, channels_last);
        const nb::gil_scoped_release release;
        return render_emulated(tasks_at(tasks), count, width, height, output);
      },
      "tasks"_a, "count"_a, "height"_a, "width"_a, "out"_a, "dtype"_a, "channels_last"_a);
  m.def("split_render_tasks", &split_render_tasks, "tasks"_a, "which"_a, "pictures"_a, "placed"_a,
        "finished"_a);
  m.def(
      "register_host",
      [](std::uintptr_t address, std::size_t nbytes) {
        return reinterpret_cast<std::uintptr_t>(
            register_host(reinterpret_cast<const void*>(address), nbytes));
      },
      "address"_a, "nbytes"_a);
  m.def(
      "unregister_host",
      [](std::uintptr_t address) { unregister_host(reinterpret_cast<const void*>(address)); },
      "address"_a);
}

}  // namespace yolodata
