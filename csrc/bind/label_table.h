// The label table as Python gives it: borrowed arrays, and what keeps them alive.
#pragma once

#include <nanobind/nanobind.h>

#include <cstdint>
#include <memory>
#include <string>

#include "bind/arrays.h"
#include "plan/label_table.h"

namespace yolodata {

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
    const nb::object& flip_idx, std::int32_t outline_points, bool oriented, std::string where);

void bind_label_table(nb::module_& m);

}  // namespace yolodata
