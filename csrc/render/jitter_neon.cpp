#if defined(__aarch64__)
#include "render/jitter_loop.h"
#include "render/jitter_simd.h"
#include "render/vectors_neon.h"

namespace yolodata::neon {

void jitter_row(const ColourJitter& jitter, const Planes& row, int count) {
  JitterLoop<Neon>(jitter).run(row, count);
}

}  // namespace yolodata::neon
#endif
