// Everything in this file is compiled for processors with AVX2 and FMA.
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")

#include "render/jitter_loop.h"
#include "render/jitter_simd.h"
#include "render/vectors_avx2.h"

namespace yolodata::avx2 {

void jitter_row(const ColourJitter& jitter, const Planes& row, int count) {
  JitterLoop<Avx2>(jitter).run(row, count);
}

}  // namespace yolodata::avx2
#endif
