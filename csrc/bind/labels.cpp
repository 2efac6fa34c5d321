#include "bind/labels.h"

#include <algorithm>
#include <cstdint>
#include <optional>

#include "bind/arrays.h"
#include "bind/bind.h"
#include "bind/label_table.h"
#include "bind/recipe_dict.h"
#include "plan/labels.h"
#include "plan/masks.h"
#include "render/validate.h"

using namespace nanobind::literals;

namespace yolodata {
namespace {

template <typename T>
std::vector<T> mask_maps(const std::vector<const Masks*>& all, std::size_t values) {
  std::vector<T> maps(values);
  auto to = maps.begin();
  for (const Masks* masks : all)
    to = std::transform(masks->maps.begin(), masks->maps.end(), to,
                        [](std::uint16_t value) { return static_cast<T>(value); });
  return maps;
}

// Masks of a batch: uint8, or int32 where a picture has more than 255 objects.
void add_masks(const std::vector<const Masks*>& all, nb::dict& arrays) {
  const auto width = static_cast<std::size_t>(all.front()->width);
  const auto height = static_cast<std::size_t>(all.front()->height);
  std::size_t values = 0;
  std::uint16_t most = 0;
  std::vector<float> classes;
  std::vector<std::uint8_t> bytes;
  std::vector<std::int32_t> words;
  {
    const nb::gil_scoped_release release;  // megabytes
    classes.reserve(all.size() * width * height);
    for (const Masks* masks : all) {
      values += masks->maps.size();
      for (const std::uint16_t value : masks->maps) most = std::max(most, value);
      classes.insert(classes.end(), masks->classes.begin(), masks->classes.end());
    }
    if (most > 255)
      words = mask_maps<std::int32_t>(all, values);
    else
      bytes = mask_maps<std::uint8_t>(all, values);
  }
  const std::size_t count = values / (width * height);
  if (most > 255)
    arrays["masks"] = to_numpy(std::move(words), {count, height, width});
  else
    arrays["masks"] = to_numpy(std::move(bytes), {count, height, width});
  arrays["sem_masks"] = to_numpy(std::move(classes), {all.size(), height, width});
}

// Labels as arrays: cls (N, 1), bboxes (N, 4 or 5) and, where objects have them, keypoints (N, K,
// 3).
nb::dict label_arrays(Labels labels, std::int32_t keypoints) {
  const std::size_t n = labels.cls.size(), k = static_cast<std::size_t>(keypoints);
  nb::dict arrays;
  arrays["cls"] = to_numpy(std::move(labels.cls), {n, 1});
  arrays["bboxes"] = to_numpy(std::move(labels.bboxes), {n, labels.box_size});
  if (k > 0) arrays["keypoints"] = to_numpy(std::move(labels.keypoints), {n, k, 3});
  return arrays;
}

}  // namespace

nb::dict batch_labels(const Job& job) {
  Labels all;
  std::vector<float> batch_idx;
  float i = 0;
  std::optional<nb::gil_scoped_release> release(std::in_place);
  const auto append = [](std::vector<float>& to, const std::vector<float>& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  for (const Sample& sample : job.samples()) {
    all.box_size = sample.labels.box_size;
    append(all.cls, sample.labels.cls);
    append(all.bboxes, sample.labels.bboxes);
    append(all.keypoints, sample.labels.keypoints);
    batch_idx.insert(batch_idx.end(), sample.labels.cls.size(), i++);
  }
  const std::size_t n = batch_idx.size();
  release.reset();
  nb::dict arrays = label_arrays(std::move(all), job.keypoint_count());
  arrays["batch_idx"] = to_numpy(std::move(batch_idx), {n});
  std::vector<const Masks*> masks;
  for (const Sample& sample : job.samples()) masks.push_back(&sample.labels.masks);
  if (masks.front()->width > 0) add_masks(masks, arrays);
  return arrays;
}

namespace {

using Placements = nb::ndarray<const double, nb::shape<-1, 5>, nb::c_contig, nb::device::cpu>;

Letterbox placement(const Placements& placements, std::size_t i) {
  const double* const p = placements.data() + 5 * i;
  return {p[0], p[1], p[2], p[3], p[4]};
}

void check_placements(const OwnedLabelTable& table, const Positions& images,
                      const Placements& placements) {
  const std::size_t count = images.shape(0);
  require(count > 0 && placements.shape(0) == count, "every image needs one placement");
  require(table.view.outline_points > 0, "objects need outlines");
  for (std::size_t i = 0; i < count; ++i)
    require(images.data()[i] >= 0 && images.data()[i] < table.view.images,
            "images must be in the dataset");
}

// Outlines (N, 2) of the objects of whole pictures in padding, in pixels. A placement: width,
// height, ratio, left, top.
nb::list letterbox_outlines(const OwnedLabelTable& table, const Positions& images,
                            const Placements& placements) {
  check_placements(table, images, placements);
  nb::list outlines;
  for (std::size_t i = 0; i < images.shape(0); ++i)
    for (Object& object :
         letterbox_objects(table.view, images.data()[i], placement(placements, i)).list) {
      const std::size_t points = object.outline.size() / 2;
      outlines.append(to_numpy(std::move(object.outline), {points, 2}));
    }
  return outlines;
}

// As NumPy's default sort leaves them, and so upstream: the order of equal ones is its own.
std::vector<std::size_t> numpy_sort(const std::vector<std::uint64_t>& keys) {
  const nb::gil_scoped_acquire acquire;
  const nb::object found = nb::module_::import_("numpy").attr("argsort")(
      to_numpy(std::vector<std::uint64_t>(keys), {keys.size()}));
  const auto order = nb::cast<nb::ndarray<nb::numpy, const std::int64_t, nb::ndim<1>>>(found);
  return {order.data(), order.data() + order.size()};
}

// Masks of whole pictures in padding.
nb::dict letterbox_masks(const OwnedLabelTable& table, const Positions& images,
                         const Placements& placements, std::int32_t height, std::int32_t width,
                         std::int32_t mask_ratio, bool overlap_mask) {
  const std::size_t count = images.shape(0);
  check_placements(table, images, placements);
  require(mask_ratio >= 1 && mask_ratio <= std::min(width, height),
          "mask_ratio must be 1 or more, and at most the picture's side");
  std::vector<Masks> masks(count);
  std::vector<std::int64_t> order;
  {
    const nb::gil_scoped_release release;
    for (std::size_t i = 0; i < count; ++i) {
      std::vector<Object> objects =
          letterbox_objects(table.view, images.data()[i], placement(placements, i)).list;
      const auto first = static_cast<std::int64_t>(order.size());
      masks[i] = draw_masks(objects, width, height, {mask_ratio, overlap_mask}, table.view.where,
                            numpy_sort);
      for (const Object& object : objects) order.push_back(first + object.number);
    }
  }
  std::vector<const Masks*> all;
  for (const Masks& each : masks) all.push_back(&each);
  nb::dict arrays;
  add_masks(all, arrays);
  const std::size_t objects = order.size();
  arrays["order"] = to_numpy(std::move(order), {objects});
  return arrays;
}

}  // namespace

void bind_labels(nb::module_& m) {
  m.def(
      "labels",
      [](const Plan& plan, const OwnedLabelTable& table, std::int32_t mask_ratio,
         bool overlap_mask) {
        validate(plan);
        check_images(plan.recipe, table.view);
        require(mask_ratio >= 0, "mask_ratio must be 0 (no masks) or more");
        require(mask_ratio == 0 || table.view.outline_points > 0, "masks need outlines");
        Labels found = labels(plan, table.view, {mask_ratio, overlap_mask});
        const Masks masks = std::move(found.masks);
        nb::dict arrays = label_arrays(std::move(found), table.view.keypoint_count);
        if (mask_ratio > 0) add_masks({&masks}, arrays);
        return arrays;
      },
      "recipe"_a, "table"_a, "mask_ratio"_a = 0, "overlap_mask"_a = true);
  m.def("letterbox_masks", &letterbox_masks, "table"_a, "images"_a, "placements"_a, "height"_a,
        "width"_a, "mask_ratio"_a, "overlap_mask"_a);
  m.def("letterbox_outlines", &letterbox_outlines, "table"_a, "images"_a, "placements"_a);
}

}  // namespace yolodata
