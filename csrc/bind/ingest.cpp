#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "bind/arrays.h"
#include "bind/bind.h"
#include "ingest/jpeg_coefficients.h"
#include "ingest/jpeg_header.h"
#include "ingest/jpeg_transcode.h"
#include "ingest/label_rows.h"

using namespace nanobind::literals;

namespace yolodata {
namespace {

// (cls (n,), box (n, 4), what follows, where polygons end), or None; see ordinary_rows.
nb::object ordinary_labels(const nb::bytes& text, std::size_t classes, std::size_t keypoints,
                           std::size_t dims) {
  require(keypoints == 0 || dims >= 2, "a keypoint needs x and y");
  require(keypoints < 1 << 16 && dims < 1 << 16, "a row has at most 2**32 numbers");
  const std::size_t columns = keypoints ? 5 + keypoints * dims : 0;
  auto found = ordinary_rows({text.c_str(), text.size()}, classes, columns, dims);
  if (!found) return nb::none();
  const std::size_t n = found->cls.size();
  auto cls = to_numpy(std::move(found->cls), {n});
  auto box = to_numpy(std::move(found->box), {n, 4});
  const std::size_t width = keypoints ? dims : 2, rows = found->rest.size() / width;
  auto rest = keypoints ? to_numpy(std::move(found->rest), {n, keypoints, dims})
                        : to_numpy(std::move(found->rest), {rows, 2});
  return nb::make_tuple(std::move(cls), std::move(box), std::move(rest), std::move(found->ends));
}

// (height, width, scans, ordinary, plain), or None; see read_jpeg_header.
nb::object jpeg_header(
    const nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>& data) {
  const auto found = read_jpeg_header(data.data(), data.size());
  if (!found) return nb::none();
  return nb::make_tuple(found->height, found->width, found->scans, found->ordinary, found->plain);
}

// (bytes, why not): see transcode_jpeg.
nb::object baseline_jpeg(
    const nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>& data) {
  Transcoded made;
  {
    nb::gil_scoped_release without_gil;
    made = transcode_jpeg(data.data(), data.size());
  }
  if (made.data.empty()) return nb::make_tuple(nb::none(), made.why);
  const std::size_t size = made.data.size();
  return nb::make_tuple(to_numpy(std::move(made.data), {size}), made.why);
}

}  // namespace

void bind_ingest(nb::module_& m) {
  m.attr("MOST_SCANS") = kMostScans;
  m.def("ordinary_labels", &ordinary_labels, "text"_a, "classes"_a, "keypoints"_a, "dims"_a,
        nb::sig("def ordinary_labels(text: bytes, classes: int, keypoints: int, dims: int) -> "
                "tuple[NDArray[numpy.float32], NDArray[numpy.float32], NDArray[numpy.float32], "
                "list[int]] | None"));
  m.def("jpeg_header", &jpeg_header, "data"_a,
        nb::sig("def jpeg_header(data: bytes | NDArray[numpy.uint8]) -> "
                "tuple[int, int, int, bool, bool] | None"));
  m.def("baseline_jpeg", &baseline_jpeg, "data"_a,
        nb::sig("def baseline_jpeg(data: bytes | NDArray[numpy.uint8]) -> "
                "tuple[NDArray[numpy.uint8] | None, str]"));
}

}  // namespace yolodata
