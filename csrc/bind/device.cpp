#include "bind/device.h"

#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>

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
