// The CUDA kernel's body on the CPU: every block in turn, every step by every thread of it.
#include <memory>

#include "render/block.h"
#include "render/render.h"

namespace yolodata {
namespace {

template <typename T, bool kChannelsLast>
std::int64_t run(const Launch& launch, std::int32_t count) {
  std::int64_t windows = 0;
  const auto stage = std::make_unique<Stage<T>>();
  const auto each = [](auto step) {
    for (int thread = 0; thread < kBlockThreads; ++thread) step(thread);
  };
  for (std::int32_t picture = 0; picture < count; ++picture)
    for (std::int32_t y = 0; y < launch.height; y += kBlockHeight)
      for (std::int32_t x = 0; x < launch.width; x += kBlockWidth) {
        const Place block{picture, x, y};
        each([&](int thread) { load(thread, launch, block, *stage); });
        each([&](int thread) { look(thread, launch, block, *stage); });
        for (Place place = block; place.y < smaller(y + kBlockHeight, launch.height);
             place.y += kStripHeight) {
          each([&](int thread) { fetch(thread, launch, place, *stage); });
          windows += strip_at(*stage, place).window.layer != kNoLayer;
          each([&](int thread) { shade_strip<T, kChannelsLast>(thread, launch, place, *stage); });
          each([&](int thread) { store<T, kChannelsLast>(thread, launch, place, *stage); });
        }
      }
  return windows;
}

}  // namespace

std::int64_t render_blocks(const Shot* shots, std::int32_t count, std::int32_t width,
                           std::int32_t height, const Output& out) {
  const Launch launch{shots, width, height, out.data, out.format};
  if (out.format == Format::kUint8)
    return out.channels_last ? run<std::uint8_t, true>(launch, count)
                             : run<std::uint8_t, false>(launch, count);
  return out.channels_last ? run<std::uint16_t, true>(launch, count)
                           : run<std::uint16_t, false>(launch, count);
}

}  // namespace yolodata
