// Columns of a label table as Python gives them, and what keeps them alive.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <memory>
#include <stdexcept>
#include <tuple>

#include "plan/label_table.h"

namespace yolodata {

namespace nb = nanobind;

template <typename T>
using Column = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
template <typename T>
using Table = nb::ndarray<const T, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Keypoints = nb::ndarray<const float, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;
using Positions = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// Keeps arrays alive; letting go of the last one takes the GIL by itself.
template <typename... T>
std::shared_ptr<void> keep(const T&... owners) {
  return std::make_shared<std::tuple<T...>>(owners...);
}

inline void require(bool condition, const char* message) {
  if (!condition) throw std::invalid_argument(message);
}

// A label table together with the arrays it borrows from.
struct OwnedLabelTable {
  LabelTable view{};
  std::shared_ptr<void> columns, polygons, keypoints;
};

// Throws std::invalid_argument where columns do not fit together.
std::shared_ptr<OwnedLabelTable> make_label_table(
    const Column<std::uint32_t>& height, const Column<std::uint32_t>& width,
    const Column<std::uint64_t>& object_offset, const Column<float>& cls, const Table<float>& box,
    const nb::object& polygon_offset, const nb::object& polygon, const nb::object& keypoints,
    const nb::object& flip_idx, std::int32_t outline_points, bool oriented);

}  // namespace yolodata
