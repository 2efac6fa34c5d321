#include "render/colour_jitter.h"

#include "core/instruction_set.h"
#include "render/jitter_simd.h"

namespace yolodata {

void jitter_row(const ColourJitter& jitter, const Planes& row, int count) {
#if defined(__x86_64__)
  if (instruction_set() == InstructionSet::kAvx512) return avx512::jitter_row(jitter, row, count);
  if (instruction_set() == InstructionSet::kAvx2) return avx2::jitter_row(jitter, row, count);
#elif defined(__aarch64__)
  if (instruction_set() == InstructionSet::kNeon) return neon::jitter_row(jitter, row, count);
#endif
  const HsvJitter hsv = jitter.hsv;  // so that the compiler knows the stores cannot change it
  std::uint8_t* __restrict__ const red = row.channel[0];
  std::uint8_t* __restrict__ const green = row.channel[1];
  std::uint8_t* __restrict__ const blue = row.channel[2];
  for (int i = 0; i < count; ++i) {
    const Rgb pixel = yolodata::jitter(hsv, {red[i], green[i], blue[i]});
    red[i] = static_cast<std::uint8_t>(pixel.r);
    green[i] = static_cast<std::uint8_t>(pixel.g);
    blue[i] = static_cast<std::uint8_t>(pixel.b);
  }
}

}  // namespace yolodata
