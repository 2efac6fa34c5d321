#include <nanobind/ndarray.h>

#include <cstdint>

#include "bind/arrays.h"
#include "bind/bind.h"
#include "jpeg/decode.h"

using namespace nanobind::literals;

namespace yolodata {
namespace {

bool decode_jpeg(
    const nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>& data,
    const nb::ndarray<std::uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>& out) {
  require(out.shape(2) == 3, "out must have 3 channels");
  require(out.shape(0) < 1 << 16 && out.shape(1) < 1 << 16, "a JPEG has sides below 65,536");
  const nb::gil_scoped_release release;
  return jpeg::decode(data.data(), data.size(), static_cast<std::int32_t>(out.shape(0)),
                      static_cast<std::int32_t>(out.shape(1)), out.data());
}

}  // namespace

void bind_jpeg(nb::module_& m) {
  m.def("decode_jpeg", &decode_jpeg, "data"_a, "out"_a,
        nb::sig("def decode_jpeg(data: bytes | NDArray[numpy.uint8], out: NDArray[numpy.uint8]) -> "
                "bool"),
        "Decodes a plain baseline file to RGB, (H, W, 3). False: `out` holds anything, and another "
        "decoder has to look at the file.");
}

}  // namespace yolodata
