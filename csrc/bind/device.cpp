#include "bind/device.h"

#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>

#include "bind/label_table.h"
#include "engine/split_shot.h"
#include "render/render.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace yolodata {
namespace {

Output output_at(std::uintptr_t address, const std::string& dtype, bool channels_last) {
  const bool half = dtype == "float16", brain = dtype == "bfloat16";
  if (!half && !brain && dtype != "uint8")
    throw std::invalid_argument("dtype must be uint8, float16 or bfloat16, got " + dtype);
  const Format format = half ? Format::kFloat16 : (brain ? Format::kBfloat16 : Format::kUint8);
  return {reinterpret_cast<void*>(address), format, channels_last};
}

const Shot* shots_at(std::uintptr_t address) {
  if (address % alignof(Shot) != 0)
    throw std::invalid_argument("memory for shots must be aligned to 16 bytes");
  return reinterpret_cast<const Shot*>(address);
}

using Shots = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

std::size_t count_shots(const Shots& memory) {
  require(memory.shape(0) % sizeof(Shot) == 0, "memory must hold whole shots");
  require(reinterpret_cast<std::uintptr_t>(memory.data()) % alignof(Shot) == 0,
          "memory for shots must be aligned to 16 bytes");
  return memory.shape(0) / sizeof(Shot);
}

// Writes the halves of some shots of a batch.
void split_shots(const Shots& shots, const Positions& which, const Column<std::uint64_t>& pictures,
                 const Shots& placed, const Shots& finished) {
  const std::size_t count = which.shape(0), all = count_shots(shots);
  require(
      pictures.shape(0) == count && count_shots(placed) == count && count_shots(finished) == count,
      "every shot needs an address of its picture, and room for both its halves");
  for (std::size_t i = 0; i < count; ++i) {
    const std::int64_t at = which.data()[i];
    require(at >= 0 && static_cast<std::size_t>(at) < all, "there is no such shot");
    const ShotHalves halves =
        split_colour(reinterpret_cast<const Shot*>(shots.data())[at],
                     reinterpret_cast<const std::uint8_t*>(pictures.data()[i]));
    reinterpret_cast<Shot*>(placed.data())[i] = halves.placed;
    reinterpret_cast<Shot*>(finished.data())[i] = halves.finished;
  }
}

}  // namespace

void bind_device(nb::module_& m) {
  m.attr("SHOT_BYTES") = sizeof(Shot);
  m.def(
      "render_cuda",
      [](std::uintptr_t shots, std::int32_t count, std::int32_t height, std::int32_t width,
         std::uintptr_t out, const std::string& dtype, bool channels_last, std::uintptr_t stream) {
        render_cuda(shots_at(shots), count, width, height, output_at(out, dtype, channels_last),
                    reinterpret_cast<void*>(stream));
      },
      "shots"_a, "count"_a, "height"_a, "width"_a, "out"_a, "dtype"_a, "channels_last"_a,
      "stream"_a);
  m.def(
      "render_blocks",
      [](std::uintptr_t shots, std::int32_t count, std::int32_t height, std::int32_t width,
         std::uintptr_t out, const std::string& dtype, bool channels_last) {
        const Output output = output_at(out, dtype, channels_last);
        const nb::gil_scoped_release release;
        return render_blocks(shots_at(shots), count, width, height, output);
      },
      "shots"_a, "count"_a, "height"_a, "width"_a, "out"_a, "dtype"_a, "channels_last"_a);
  m.def("split_shots", &split_shots, "shots"_a, "which"_a, "pictures"_a, "placed"_a, "finished"_a);
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
