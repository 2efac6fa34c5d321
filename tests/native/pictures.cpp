// Whole samples: pictures of the fast loops, of the kernel's body and of shade.h are the same
// bytes. Prints digests of recipes, labels and pictures, which every processor must agree on.
#include <algorithm>
#include <cinttypes>
#include <memory>
#include <type_traits>
#include <vector>

#include "check.h"
#include "core/instruction_set.h"
#include "plan/labels.h"
#include "plan/plan.h"
#include "plan/serialize.h"
#include "render/render.h"
#include "render/validate.h"

using namespace yolodata;

namespace {

// Images with outlined objects.
struct Dataset {
  explicit Dataset(Random& random) {
    objects.push_back(0), outlines.push_back(0);
    for (int i = 0; i < 12; ++i) {
      height.push_back(static_cast<std::uint32_t>(random.from(8, 97)));
      width.push_back(static_cast<std::uint32_t>(random.from(8, 97)));
      const std::size_t size = std::size_t{3} * height.back() * width.back();
      auto& image = *images.emplace_back(std::make_unique<Guarded<std::uint8_t>>(size));
      for (auto& byte : image) byte = random.one_in(3) ? std::uint8_t{kFill} : random.byte();
      for (int object = random.below(5); object > 0; --object) {
        cls.push_back(static_cast<float>(random.below(9)));
        const float x = random.real(0.2f, 0.8f), y = random.real(0.2f, 0.8f);
        const float w = random.real(0.05f, 0.4f), h = random.real(0.05f, 0.4f);
        box.insert(box.end(), {x, y, w, h});
        for (int point = random.from(3, 9); point > 0; --point)
          polygon.insert(polygon.end(),
                         {x + w * random.real(-0.5f, 0.5f), y + h * random.real(-0.5f, 0.5f)});
        outlines.push_back(polygon.size() / 2);
      }
      objects.push_back(cls.size());
    }
  }

  LabelTable table() const {
    LabelTable table{static_cast<std::int64_t>(images.size()),
                     height.data(),
                     width.data(),
                     objects.data(),
                     cls.data(),
                     box.data(),
                     outlines.data(),
                     polygon.data()};
    table.outline_points = 30;
    return table;
  }

  std::vector<std::unique_ptr<Guarded<std::uint8_t>>> images;  // each ends at a guarded page
  std::vector<std::uint32_t> height, width;
  std::vector<std::uint64_t> objects, outlines;
  std::vector<float> cls, box, polygon;
};

// Settings of which each is off, certain or something between, at random.
PlanConfig any_config(Random& random) {
  PlanConfig config{};
  each_setting([&](const char*, auto member) {
    using Value = std::remove_reference_t<decltype(config.*member)>;
    if constexpr (std::is_same_v<Value, double>)
      config.*member = random.one_in(3) ? 0.0 : random.one_in(3) ? 1.0 : random.unit();
    else if constexpr (std::is_same_v<Value, bool>)
      config.*member = random.one_in(2);
  });
  config.degrees *= random.one_in(2) ? 0.0 : 180.0;
  config.shear *= random.one_in(2) ? 0.0 : 10.0;
  config.perspective *= random.one_in(2) ? 0.0 : 0.001;
  config.scale_min = random.one_in(3) ? 1.0 : random.real(0.2f, 1.0f);
  config.scale_max = random.one_in(3) ? config.scale_min : config.scale_min + random.unit();
  if (random.one_in(4)) config.translate = 0.0;
  config.imgsz = random.from(8, 97);
  config.mosaic_grid = random.one_in(2) ? 4 : 9;
  config.copy_paste_mode = random.one_in(2) ? CopyPasteMode::kFlip : CopyPasteMode::kMixup;
  config.streams = 1;
  config.mask_ratio = 4;
  return config;
}

Sources sources_of(const Plan& plan, const Dataset& dataset) {
  Sources sources{};
  for (int l = 0; l < plan.recipe.layer_count; ++l)
    for (int t = 0; t < plan.recipe.layers[l].tile_count; ++t) {
      const Tile& tile = plan.recipe.layers[l].tiles[t];
      sources.layers[l].images[t] = {dataset.images[static_cast<std::size_t>(tile.image)]->data(),
                                     tile.width, tile.height};
    }
  set_masks(plan, sources);
  return sources;
}

}  // namespace

int main() {
  constexpr int kSamples = 1500;
  Random random(17);
  const Dataset dataset(random);
  const LabelTable table = dataset.table();
  Digest recipes, objects, pictures;
  for (int sample = 0; sample < kSamples; ++sample) {
    const PlanConfig config = any_config(random);
    validate(config);
    const SampleId id{random.next(), static_cast<std::uint32_t>(sample),
                      static_cast<std::uint64_t>(random.below(12))};
    const Plan plan = yolodata::plan(config, table, id);
    validate(plan);
    const std::vector<std::uint8_t> bytes = to_bytes(plan);
    recipes.add(bytes.data(), bytes.size());
    const Labels labels = yolodata::labels(plan, table, {config.mask_ratio, true});
    objects.add(labels.cls.data(), labels.cls.size() * sizeof(float));
    objects.add(labels.bboxes.data(), labels.bboxes.size() * sizeof(float));

    const Sources sources = sources_of(plan, dataset);
    const std::int32_t width = plan.recipe.width, height = plan.recipe.height;
    const auto size = static_cast<std::size_t>(3 * width * height);
    Guarded<std::uint8_t> fast(size);
    std::vector<std::uint8_t> exact(size), emulated(size);
    render_cpu(plan.recipe, sources, fast.data());
    render_reference(plan.recipe, sources, exact.data());
    const std::vector<RenderTask> task(1, RenderTask{plan.recipe, sources});
    render_emulated(task.data(), 1, width, height, {emulated.data(), PixelFormat::kUint8, false});
    const std::string which = " of sample " + std::to_string(sample) + " is that of shade.h";
    expect(std::equal(exact.begin(), exact.end(), fast.begin()), "the CPU's picture" + which);
    expect(exact == emulated, "the kernel's picture" + which);
    pictures.add(exact.data(), size);
  }
  std::printf("%s: %d pictures are shade.h's\n", name_of(instruction_set()), kSamples);
  std::printf("digests: recipes %016" PRIx64 ", labels %016" PRIx64 ", pictures %016" PRIx64 "\n",
              recipes.value(), objects.value(), pictures.value());
}
