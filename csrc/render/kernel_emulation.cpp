// The CUDA kernel's body on the CPU: every block in turn, every step by every thread of it.
#include <memory>

#include "render/kernel_body.h"
#include "render/render.h"

namespace yolodata {
namespace {

template <PixelFormat kFormat, bool kChannelsLast>
std::int64_t run(const Launch& launch, std::int32_t count) {
  std::int64_t windows = 0;
  const auto stage = std::make_unique<Stage>();
  const auto each = [](auto step) {
    for (int thread = 0; thread < kBlockThreads; ++thread) step(thread);
  };
  for (std::int32_t picture = 0; picture < count; ++picture)
    for (std::int32_t y = 0; y < launch.height; y += kBlockHeight)
      for (std::int32_t x = 0; x < launch.width; x += kBlockWidth) {
        const Place block{picture, x, y, 0};
        each([&](int thread) { load(thread, launch, block, *stage); });
        each([&](int thread) { look(thread, launch, block, *stage); });
        for (int strip = 0; strip < kStrips; ++strip) {
          const Place place = strip_of(block, strip);
          if (place.y >= launch.height) break;
          each([&](int thread) { fetch(thread, launch, place, *stage); });
          windows += stage->strips[strip].window.layer != kNoLayer;
          each([&](int thread) { shade_strip<kChannelsLast>(thread, launch, place, *stage); });
          each([&](int thread) { store<kFormat, kChannelsLast>(thread, launch, place, *stage); });
        }
      }
  return windows;
}

}  // namespace

std::int64_t render_emulated(const RenderTask* tasks, std::int32_t count, std::int32_t width,
                             std::int32_t height, const Output& out) {
  const Launch launch{tasks, width, height, out.data};
  return with_constants(out, [&](auto format, auto channels_last) {
    return run<format.value, channels_last.value>(launch, count);
  });
}

}  // namespace yolodata
