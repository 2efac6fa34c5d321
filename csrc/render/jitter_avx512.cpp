// Everything in this file is compiled for processors with AVX-512 and VBMI.
#if defined(__x86_64__)
// GCC 12 warns of its own headers (bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512vl,avx512vbmi")

#include "render/jitter_loop.h"
#include "render/jitter_simd.h"
#include "render/vectors_avx512.h"

namespace yolodata::avx512 {

void jitter_row(const ColourJitter& jitter, const Planes& row, int count) {
  JitterLoop<Avx512>(jitter).run(row, count);
}

}  // namespace yolodata::avx512
#endif
