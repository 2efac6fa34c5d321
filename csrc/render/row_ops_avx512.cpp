// The loops of row_loops.h for x86-64 with AVX-512 and VBMI.
//
// Everything in this file is compiled for those processors: nothing else may be defined here.
#if defined(__x86_64__)
// GCC 12 warns of its own headers (bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512vl,avx512vbmi")

#include "render/row_ops_avx512.h"

#include <immintrin.h>

#include "render/lanes_avx512.h"
#include "render/row_loops.h"

namespace yolodata::avx512 {
namespace {

using V = Avx512Lanes;

// How resample_row gets the bytes around sixteen columns.
struct Together {
  static __m512i load(const std::uint8_t* bytes, const Columns& columns, int i) {
    return V::load(bytes + columns.start[i / 4]);
  }
  static __m512i picks(const Columns& columns, int i) { return V::load(columns.picks + 4 * i); }
  static __m512i pick(__m512i bytes, __m512i picks) {
    return _mm512_maskz_permutexvar_epi8(0x5555555555555555, picks, bytes);
  }
};

struct Apart {
  static __m512i load(const std::uint8_t* bytes, const Columns& columns, int i) {
    return _mm512_i32gather_epi32(V::load(columns.left + i), bytes, 1);
  }
  static int picks(const Columns&, int) { return 0; }
  static __m512i pick(__m512i bytes, int) {
    return _mm512_shuffle_epi8(
        bytes, _mm512_broadcast_i32x4(
                   _mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1)));
  }
};

}  // namespace

int split_pixels(const std::uint8_t* pixels, int count, std::ptrdiff_t prefetch,
                 const Planes& out) {
  if (count < V::kBytes) return avx2::split_pixels(pixels, count, prefetch, out);
  yolodata::split_pixels<V>(pixels, count, prefetch, out);
  return count;
}

int resample_row(const Planes& line, const Columns& columns, const std::uint8_t* empty,
                 float* out) {
  if (columns.together == Columns::kBySixteen)
    yolodata::resample_row<V, Together>(line, columns, empty, out);
  else
    yolodata::resample_row<V, Apart>(line, columns, empty, out);
  return columns.count;
}

int blend_rows(const float* top, const float* bottom, std::ptrdiff_t apart, float weight, int count,
               const Planes& out) {
  yolodata::blend_rows<V>(top, bottom, apart, weight, count, out);
  return count;
}

int map_row(const Layer& layer, std::int32_t x, std::int32_t y, std::int32_t step, int count,
            const Points& points) {
  yolodata::map_row<V>(layer, x, y, step, count, points);
  return count;
}

int find_end(const Points& points, int first, int count, const Region& region) {
  return yolodata::find_end<V>(points, first, count, region);
}

int store_row(const std::uint8_t* channel, int count, std::uint8_t* out) {
  return yolodata::store_row<V>(channel, count, out);
}

}  // namespace yolodata::avx512
#endif
