// Jobs that are submitted, waited for, cancelled and left behind by two callers in any order: no
// data race (this is built with the thread sanitizer), no job that never ends, and the bytes that
// one thread makes. Actions are drawn, not guided: counters of coverage would be races themselves.
//
//     engine SECONDS SEED
#include "engine/engine.h"

#include <array>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <thread>

#include "plan/plan.h"
#include "render/render.h"

using namespace yolodata;

namespace {

void must(bool promise) {
  if (!promise) std::abort();
}

constexpr std::int64_t kImages = 5;
constexpr std::uint32_t kSide = 24;
constexpr std::size_t kBytes = 3 * kSide * kSide;

struct Dataset {
  std::vector<std::uint32_t> side = std::vector<std::uint32_t>(kImages, kSide);
  std::vector<std::uint64_t> offset{0, 1, 2, 3, 4, 5};
  std::vector<float> cls = std::vector<float>(kImages, 0.0f);
  std::vector<float> box = std::vector<float>(4 * kImages, 0.5f);
  std::vector<std::vector<std::uint8_t>> pixels;
  PlanConfig config{};
  LabelTable table{};

  Dataset() {
    for (std::uint8_t i = 0; i < kImages; ++i) pixels.emplace_back(kBytes, std::uint8_t(50 * i));
    config.imgsz = kSide;
    config.mosaic = config.mixup = 0.5;
    config.mosaic_grid = 4;
    config.scale_min = 0.5, config.scale_max = 1.5;
    config.hsv_h = config.hsv_s = config.hsv_v = 0.5;
    config.streams = 1;
    config.shuffle = true;
    table.images = kImages;
    table.height = table.width = side.data();
    table.object_offset = offset.data();
    table.cls = cls.data();
    table.box = box.data();
  }

  std::vector<std::uint8_t> expected(const SampleId& id) const {
    const Plan found = plan(config, table, id);
    Sources sources{};
    for (int l = 0; l < found.recipe.layer_count; ++l)
      for (int t = 0; t < found.recipe.layers[l].tile_count; ++t) {
        const Tile& tile = found.recipe.layers[l].tiles[t];
        sources.layers[l].images[t] = {pixels[static_cast<std::size_t>(tile.image)].data(),
                                       tile.width, tile.height};
      }
    std::vector<std::uint8_t> out(kBytes);
    render_cpu(found.recipe, sources, out.data());
    return out;
  }
};

const Dataset& dataset() {
  static const Dataset made;
  return made;
}

// What one caller does: three bits of an action, the rest a number.
void call(Engine& engine, const std::vector<std::uint8_t>& actions) {
  struct Batch {
    std::shared_ptr<Job> job;
    std::vector<SampleId> ids;
    std::shared_ptr<std::vector<std::uint8_t>> out;
    bool cancelled = false;
  };
  std::vector<Batch> batches;
  const Dataset& data = dataset();
  for (const std::uint8_t byte : actions) {
    const int number = byte >> 3;
    Batch* const batch = batches.empty() ? nullptr : &batches[number % batches.size()];
    switch (byte & 7) {
      case 0:
      case 1: {
        Batch made;
        for (int i = 0; i <= number % 4; ++i)
          made.ids.push_back(
              {7, static_cast<std::uint32_t>(number), static_cast<std::uint64_t>(i)});
        made.out = std::make_shared<std::vector<std::uint8_t>>(kBytes * made.ids.size());
        Job::Request request;
        request.ids = made.ids;
        request.config = data.config;
        request.table = std::shared_ptr<const LabelTable>(&data.table, [](const LabelTable*) {});
        request.pixels = [&data](std::int64_t image) {
          return data.pixels[static_cast<std::size_t>(image)].data();
        };
        request.out = made.out->data();
        request.owner = made.out;
        made.job = std::make_shared<Job>(std::move(request));
        engine.submit(made.job);
        batches.push_back(std::move(made));
        break;
      }
      case 2:
        if (batch) batch->job->cancel(), batch->cancelled = true;
        break;
      case 3:
        if (batch) static_cast<void>(batch->job->done());
        break;
      case 4:
        if (batch && !batch->cancelled) must(batch->job->wait(-1));
        break;
      case 5:
        if (batch && !batch->cancelled) static_cast<void>(batch->job->wait(0.0001));
        break;
      default:  // left behind, as a loader does that is closed in the middle
        if (batch && number % 4 == 0) batches.erase(batches.begin() + number % batches.size());
    }
  }
  for (const Batch& batch : batches) {
    if (batch.cancelled) continue;
    must(batch.job->wait(30));
    for (std::size_t i = 0; i < batch.ids.size(); ++i)
      must(std::memcmp(batch.out->data() + kBytes * i, data.expected(batch.ids[i]).data(),
                       kBytes) == 0);
  }
}

void one_case(std::mt19937& random) {
  std::array<std::vector<std::uint8_t>, 2> actions;
  for (auto& list : actions) {
    list.resize(random() % 40);
    for (auto& action : list) action = static_cast<std::uint8_t>(random());
  }
  Engine engine(1 + static_cast<int>(random() % 3));
  std::thread other([&] { call(engine, actions[1]); });
  call(engine, actions[0]);
  other.join();
  if (random() % 2) engine.close();
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  std::mt19937 random(static_cast<std::uint32_t>(std::atoll(arguments[2])));
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(std::atoi(arguments[1]));
  long cases = 0;
  for (; std::chrono::steady_clock::now() < end; ++cases) one_case(random);
  std::printf("%ld cases\n", cases);
}
