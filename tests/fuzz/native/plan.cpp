// Labels of a dataset with right checksums and any finite values, and any settings that pass their
// check: the planner ends, in bounds, with a recipe that passes its own check and is rendered.
#include "plan/plan.h"

#include <algorithm>
#include <type_traits>

#include "fuzz.h"
#include "plan/labels.h"
#include "render/render.h"
#include "render/validate.h"

using namespace yolodata;

namespace {

float finite(FuzzedDataProvider& input) {
  const float value = any_float(input);
  return std::isfinite(value) ? value : 0.25f;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  FuzzedDataProvider input(data, size);
  PlanConfig config{};
  each_setting([&](const char*, auto member) {
    using Value = std::remove_reference_t<decltype(config.*member)>;
    if constexpr (std::is_same_v<Value, double>)
      config.*member = input.PickValueInArray({0.0, 1.0, input.ConsumeProbability<double>()});
    else if constexpr (std::is_same_v<Value, bool>)
      config.*member = input.ConsumeBool();
  });
  // The ranges of yolodata.AugmentConfig.
  config.degrees *= 360.0;
  config.shear *= 89.999;
  if (input.ConsumeBool())
    config.scale_max = std::pow(10.0, input.ConsumeFloatingPointInRange<double>(-300, 300));
  config.scale_min = std::min(config.scale_min, config.scale_max);
  config.imgsz = input.ConsumeIntegralInRange<std::int32_t>(1, 96);
  config.mosaic_grid = input.ConsumeBool() ? 4 : 9;
  config.copy_paste_mode = input.ConsumeBool() ? CopyPasteMode::kFlip : CopyPasteMode::kMixup;
  config.streams = input.ConsumeIntegralInRange<std::int32_t>(1, 4);
  config.window = input.ConsumeIntegralInRange<std::int32_t>(0, 20);
  config.mask_ratio = input.ConsumeIntegralInRange<std::int32_t>(0, 5);

  const auto images = input.ConsumeIntegralInRange<std::size_t>(1, 12);
  std::vector<std::uint32_t> height, width;
  std::vector<std::uint64_t> object_offset{0}, polygon_offset{0};
  std::vector<float> cls, box, polygon, keypoints;
  const int keypoint_count = input.ConsumeIntegralInRange<int>(0, 3);
  const bool outlines = input.ConsumeBool();
  for (std::size_t i = 0; i < images; ++i) {
    height.push_back(input.ConsumeIntegralInRange<std::uint32_t>(1, 96));
    width.push_back(input.ConsumeIntegralInRange<std::uint32_t>(1, 96));
    for (auto left = input.ConsumeIntegralInRange<int>(0, 4); left > 0; --left) {
      cls.push_back(static_cast<float>(input.ConsumeIntegralInRange<int>(0, 9)));
      for (int k = 0; k < 4; ++k) box.push_back(finite(input));
      const int points = input.ConsumeIntegralInRange<int>(1, 8);
      for (int k = 0; k < 2 * points; ++k) polygon.push_back(finite(input));
      polygon_offset.push_back(polygon.size() / 2);
      for (int k = 0; k < 3 * keypoint_count; ++k) keypoints.push_back(finite(input));
    }
    object_offset.push_back(cls.size());
  }
  LabelTable table{static_cast<std::int64_t>(images),
                   height.data(),
                   width.data(),
                   object_offset.data(),
                   cls.data(),
                   box.data(),
                   outlines ? polygon_offset.data() : nullptr,
                   polygon.data()};
  table.outline_points = outlines ? input.ConsumeIntegralInRange<std::int32_t>(0, 40) : 0;
  table.oriented = table.outline_points > 0 && input.ConsumeBool();
  std::vector<std::int32_t> flip_idx;
  for (int k = 0; k < keypoint_count; ++k)
    flip_idx.push_back(input.ConsumeIntegralInRange<std::int32_t>(0, keypoint_count - 1));
  if (keypoint_count > 0) {
    table.keypoints = keypoints.data();
    table.keypoint_count = keypoint_count;
    if (input.ConsumeBool()) table.flip_idx = flip_idx.data();
  }
  const SampleId id{input.ConsumeIntegral<std::uint64_t>(), input.ConsumeIntegral<std::uint32_t>(),
                    input.ConsumeIntegralInRange<std::uint64_t>(0, images - 1)};
  Plan plan;
  try {
    validate(config);
    plan = yolodata::plan(config, table, id);
  } catch (const std::invalid_argument&) {
    return 0;  // settings that nobody would mean: a singular matrix, say
  }
  validate(plan);
  const Labels labels = yolodata::labels(plan, table, {config.mask_ratio, config.overlap_mask});
  const std::size_t rows = labels.cls.size();
  must(labels.bboxes.size() == rows * labels.box_size);
  must(labels.keypoints.size() == rows * 3 * static_cast<std::size_t>(keypoint_count));
  const auto tame = [](const std::vector<float>& values) {
    return std::all_of(values.begin(), values.end(), [](float v) { return std::fabs(v) < 1e3f; });
  };
  if (tame(box) && tame(polygon) && config.scale_max < 1e6)
    for (const float value : labels.bboxes) must(std::isfinite(value));
  const Recipe& recipe = plan.recipe;
  Sources sources{};
  std::vector<std::vector<std::uint8_t>> pixels;
  for (int l = 0; l < recipe.layer_count; ++l)
    for (int t = 0; t < recipe.layers[l].tile_count; ++t) {
      const Tile& tile = recipe.layers[l].tiles[t];
      must(tile.image >= 0 && tile.image < table.images);
      const auto image = static_cast<std::size_t>(tile.image);
      must(tile.height == static_cast<std::int32_t>(height[image]) &&
           tile.width == static_cast<std::int32_t>(width[image]));
      pixels.emplace_back(3 * height[image] * width[image], std::uint8_t{77});
      sources.layers[l].images[t] = {pixels.back().data(), tile.width, tile.height};
    }
  set_masks(plan, sources);
  std::vector<std::uint8_t> out(static_cast<std::size_t>(3 * recipe.width * recipe.height));
  render_cpu(recipe, sources, out.data());
  return 0;
}
