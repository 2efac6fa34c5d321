#include "bind/label_table.h"

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>

#include <cstdint>
#include <exception>
#include <string>
#include <utility>

#include "bind/arrays.h"
#include "bind/bind.h"

using namespace nanobind::literals;

namespace yolodata {
namespace {

// Throws std::invalid_argument where columns do not fit together.
std::shared_ptr<OwnedLabelTable> make_label_table(
    const Column<std::uint32_t>& height, const Column<std::uint32_t>& width,
    const Column<std::uint64_t>& object_offset, const Column<float>& cls, const Table<float>& box,
    const nb::object& polygon_offset, const nb::object& polygon, const nb::object& keypoints,
    const nb::object& flip_idx, std::int32_t outline_points, bool oriented, std::string where) {
  auto table = std::make_shared<OwnedLabelTable>();
  LabelTable& view = table->view;
  view.where = std::move(where);
  const std::size_t images = height.shape(0), objects = cls.shape(0);
  require(width.shape(0) == images && object_offset.shape(0) == images + 1,
          "height and width need one entry an image, object_offset one more");
  require(box.shape(0) == objects && box.shape(1) == 4, "box must have shape (objects, 4)");
  view.images = static_cast<std::int64_t>(images);
  view.height = height.data();
  view.width = width.data();
  view.object_offset = object_offset.data();
  view.cls = cls.data();
  view.box = box.data();
  const auto rises = [](const std::uint64_t* offsets, std::size_t count, std::uint64_t last,
                        std::uint64_t least_step) {
    for (std::size_t i = 0; i < count; ++i)
      if (offsets[i + 1] < offsets[i] || offsets[i + 1] - offsets[i] < least_step) return false;
    return offsets[0] == 0 && offsets[count] == last;
  };
  require(rises(view.object_offset, images, objects, 0),
          "object_offset must rise from 0 to the number of objects");
  for (std::size_t i = 0; i < images; ++i)
    require(view.height[i] >= 1 && view.width[i] >= 1 && view.height[i] <= 65536 &&
                view.width[i] <= 65536,
            "pictures must be 1 to 65536 pixels a side");
  table->columns = keep(height, width, object_offset, cls, box);
  if (!polygon_offset.is_none()) {
    const auto offsets = nb::cast<Column<std::uint64_t>>(polygon_offset);
    const auto points = nb::cast<Table<float>>(polygon);
    require(offsets.shape(0) == objects + 1 && points.shape(1) == 2,
            "polygon_offset needs one entry an object and one more, polygon the shape (points, 2)");
    view.polygon_offset = offsets.data();
    view.polygon = points.data();
    require(
        rises(view.polygon_offset, objects, points.shape(0), 1),
        "polygon_offset must rise from 0 to the number of points; every object needs a polygon");
    table->polygons = keep(offsets, points);
  }
  require(outline_points >= 0 && outline_points <= 1000000, "outline_points must be 0 to 1000000");
  require(!oriented || outline_points > 0, "oriented objects need outline_points");
  view.outline_points = outline_points;
  view.oriented = oriented;
  if (!keypoints.is_none()) {
    const auto points = nb::cast<Keypoints>(keypoints);
    require(points.shape(0) == objects, "keypoints must have shape (objects, keypoints, 3)");
    view.keypoints = points.data();
    view.keypoint_count = static_cast<std::int32_t>(points.shape(1));
    table->keypoints = keep(points);
    if (!flip_idx.is_none()) {
      const auto order = nb::cast<Column<std::int32_t>>(flip_idx);
      require(order.shape(0) == points.shape(1), "flip_idx needs one entry a keypoint");
      for (std::size_t k = 0; k < order.shape(0); ++k)
        require(order.data()[k] >= 0 && order.data()[k] < view.keypoint_count,
                "flip_idx must name keypoints");
      view.flip_idx = order.data();
      table->keypoints = keep(points, order);
    }
  }
  return table;
}

}  // namespace

void bind_label_table(nb::module_& m) {
  nb::register_exception_translator([](const std::exception_ptr& thrown, void*) {
    try {
      std::rethrow_exception(thrown);
    } catch (const LabelError& error) {
      PyErr_SetString(nb::module_::import_("yolodata.errors").attr("ShardError").ptr(),
                      error.what());
    }
  });
  nb::class_<OwnedLabelTable>(m, "LabelTable",
                              "The label table of a dataset; keeps its arrays alive.")
      .def(nb::new_(&make_label_table), "height"_a, "width"_a, "object_offset"_a, "cls"_a, "box"_a,
           "polygon_offset"_a = nb::none(), "polygon"_a = nb::none(), "keypoints"_a = nb::none(),
           "flip_idx"_a = nb::none(), "outline_points"_a = 0, "oriented"_a = false, "where"_a = "")
      .def("__len__", [](const OwnedLabelTable& table) { return table.view.images; });
}

}  // namespace yolodata
