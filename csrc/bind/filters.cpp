#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "bind/arrays.h"
#include "bind/bind.h"
#include "filters/filters.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace yolodata {
namespace {

using Bytes = nb::ndarray<std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Addresses = Column<std::uint64_t>;
using Levels = nb::ndarray<const std::uint8_t, nb::shape<3, 256>, nb::c_contig, nb::device::cpu>;
using Image = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;
using Made = nb::ndarray<nb::numpy, std::uint8_t>;

constexpr std::size_t kMaxSide = 16384;

template <typename T>
std::string text(T a, T b) {
  return std::to_string(a) + " x " + std::to_string(b);
}

Filter table_filter(const Levels& levels) {
  Filter filter{};
  filter.kind = FilterKind::kTable;
  std::memcpy(filter.table, levels.data(), sizeof filter.table);
  return filter;
}

Filter grey_filter() {
  Filter filter{};
  filter.kind = FilterKind::kGrey;
  return filter;
}

Filter window_filter(FilterKind kind, std::int32_t window, std::int32_t most) {
  if (window < 1 || window > most || window % 2 == 0)
    throw std::invalid_argument("a window must be an odd number of pixels wide, " +
                                std::to_string(most) + " at most, got " + std::to_string(window));
  Filter filter{};
  filter.kind = kind;
  filter.window = window;
  return filter;
}

Filter blur_filter(std::int32_t window) {
  return window_filter(FilterKind::kBlur, window, kMaxBlur);
}

Filter median_filter(std::int32_t window) {
  return window_filter(FilterKind::kMedian, window, kMaxMedian);
}

Filter clahe_filter(double clip_limit, std::int32_t tiles_x, std::int32_t tiles_y) {
  require(std::isfinite(clip_limit), "clip_limit must be a finite number");
  if (tiles_x < 1 || tiles_y < 1 || tiles_x > kMaxTilesOfClahe || tiles_y > kMaxTilesOfClahe ||
      tiles_x * tiles_y > kMaxTilesOfClahe)
    throw std::invalid_argument("CLAHE must have 1 to " + std::to_string(kMaxTilesOfClahe) +
                                " tiles, got " + text(tiles_x, tiles_y));
  Filter filter{};
  filter.kind = FilterKind::kClahe;
  filter.clip_limit = clip_limit;
  filter.tiles_x = tiles_x;
  filter.tiles_y = tiles_y;
  return filter;
}

std::int32_t tiles_of(const Filter& filter) {
  return filter.kind == FilterKind::kClahe ? filter.tiles_x * filter.tiles_y : 0;
}

FilterTask task_of(const Filter& filter, std::size_t height, std::size_t width,
                   const std::uint8_t* from, std::uint8_t* to, std::uint8_t* tables) {
  if (height < 1 || width < 1 || height > kMaxSide || width > kMaxSide)
    throw std::invalid_argument("a picture must have 1 to " + std::to_string(kMaxSide) +
                                " pixels a side, got " + text(height, width));
  FilterTask task{filter, {}, from, to, tables};
  if (filter.kind == FilterKind::kClahe)
    task.grid = clahe_grid(static_cast<std::int32_t>(width), static_cast<std::int32_t>(height),
                           filter.tiles_x, filter.tiles_y, filter.clip_limit);
  return task;
}

Made apply(const Filter& filter, const Image& picture) {
  const std::size_t height = picture.shape(0), width = picture.shape(1);
  std::vector<std::uint8_t> made(3 * height * width), tables(kTablesBytes);
  const FilterTask task =
      task_of(filter, height, width, picture.data(), made.data(), tables.data());
  {
    const nb::gil_scoped_release release;
    filter_emulated({&task, 1, static_cast<std::int32_t>(width), static_cast<std::int32_t>(height),
                     tiles_of(filter), &lab_tables()});
  }
  return to_numpy(std::move(made), {height, width, 3});
}

// Writes tasks to host memory, for where they are uploaded to.
void write_filter_tasks(const Bytes& memory, const std::vector<const Filter*>& filters,
                        std::size_t height, std::size_t width, const Addresses& from,
                        const Addresses& to, const Addresses& tables) {
  const std::size_t count = filters.size();
  require(memory.shape(0) == count * sizeof(FilterTask), "memory must hold the tasks, and no more");
  require(from.shape(0) == count && to.shape(0) == count && tables.shape(0) == count,
          "every filter needs an address to read from, to write to and of its tables");
  FilterTask* const tasks = aligned<FilterTask>(memory.data(), "filter tasks");
  for (std::size_t i = 0; i < count; ++i)
    tasks[i] =
        task_of(*filters[i], height, width, reinterpret_cast<const std::uint8_t*>(from.data()[i]),
                reinterpret_cast<std::uint8_t*>(to.data()[i]),
                reinterpret_cast<std::uint8_t*>(tables.data()[i]));
}

// What `change` makes of the three bytes of each pixel.
template <typename Change>
Made each_pixel(const Image& picture, Change change) {
  const std::size_t nbytes = 3 * picture.shape(0) * picture.shape(1);
  std::vector<std::uint8_t> pixels(nbytes);
  for (std::size_t i = 0; i < nbytes; i += 3) change(picture.data() + i, &pixels[i]);
  return to_numpy(std::move(pixels), {picture.shape(0), picture.shape(1), 3});
}

void to_lab(const std::uint8_t* rgb, std::uint8_t* bytes) {
  const Lab lab = lab_of(lab_tables(), rgb);
  bytes[0] = lab.l, bytes[1] = lab.a, bytes[2] = lab.b;
}

void to_rgb(const std::uint8_t* lab, std::uint8_t* bytes) {
  rgb_of(lab_tables(), {lab[0], lab[1], lab[2]}, bytes);
}

FilterLaunch launch_at(std::uintptr_t tasks, std::int32_t count, std::int32_t height,
                       std::int32_t width, std::int32_t tiles, std::uintptr_t lab) {
  require(tiles >= 0 && tiles <= kMaxTilesOfClahe, "no filter has so many tiles");
  require(tiles == 0 || lab != 0, "CLAHE needs the tables of Lab");
  return {aligned<FilterTask>(reinterpret_cast<void*>(tasks), "filter tasks"),
          count,
          width,
          height,
          tiles,
          aligned<LabTables>(reinterpret_cast<void*>(lab), "the tables of Lab")};
}

}  // namespace

void bind_filters(nb::module_& m) {
  nb::class_<Filter> filter(m, "Filter", "A transform of a whole picture that a device can apply.");
  filter.attr("MAX_BLUR") = kMaxBlur;
  filter.attr("MAX_MEDIAN") = kMaxMedian;
  filter.attr("MAX_TILES") = kMaxTilesOfClahe;
  filter
      .def_static("table", &table_filter, "levels"_a,
                  "What becomes of each value of R, G and B: uint8 (3, 256).")
      .def_static("grey", &grey_filter, "cv2.cvtColor(COLOR_RGB2GRAY), of BGR taken for RGB.")
      .def_static("blur", &blur_filter, "window"_a, "cv2.blur, 1 to 15 pixels wide.")
      .def_static("median", &median_filter, "window"_a, "cv2.medianBlur, 1 to 7 pixels wide.")
      .def_static("clahe", &clahe_filter, "clip_limit"_a, "tiles_x"_a, "tiles_y"_a,
                  "cv2's CLAHE on the lightness of BGR taken for RGB, of 64 tiles at most.")
      .def_prop_ro("tiles", &tiles_of, "Tiles that need a table; 0 but for CLAHE.")
      .def("apply", &apply, "picture"_a,
           "What it makes of a picture, both uint8 (H, W, 3) RGB; slow: the kernels' bodies in "
           "loops.");
  m.attr("FILTER_TASK_BYTES") = sizeof(FilterTask);
  m.attr("FILTER_TABLES_BYTES") = kTablesBytes;
  m.def("lab_of", [](const Image& picture) { return each_pixel(picture, to_lab); }, "picture"_a);
  m.def(
      "rgb_of_lab", [](const Image& picture) { return each_pixel(picture, to_rgb); }, "picture"_a);
  m.def("lab_tables", [] {
    const auto* bytes = reinterpret_cast<const std::uint8_t*>(&lab_tables());
    return nb::bytes(bytes, sizeof(LabTables));
  });
  m.def("write_filter_tasks", &write_filter_tasks, "memory"_a, "filters"_a, "height"_a, "width"_a,
        "source"_a, "target"_a, "tables"_a);
  m.def(
      "filter_cuda",
      [](std::uintptr_t tasks, std::int32_t count, std::int32_t height, std::int32_t width,
         std::int32_t tiles, std::uintptr_t lab, std::uintptr_t stream) {
        filter_cuda(launch_at(tasks, count, height, width, tiles, lab),
                    reinterpret_cast<void*>(stream));
      },
      "tasks"_a, "count"_a, "height"_a, "width"_a, "tiles"_a, "lab"_a, "stream"_a);
  m.def(
      "filter_emulated",
      [](std::uintptr_t tasks, std::int32_t count, std::int32_t height, std::int32_t width,
         std::int32_t tiles, std::uintptr_t lab) {
        const nb::gil_scoped_release release;
        filter_emulated(launch_at(tasks, count, height, width, tiles, lab));
      },
      "tasks"_a, "count"_a, "height"_a, "width"_a, "tiles"_a, "lab"_a);
}

}  // namespace yolodata
