#pragma GCC diagnostic ignored "-Wpsabi"  // vectors are passed between inlined functions only

#include "render/rows.h"

#include <algorithm>
#include <cstring>

#include "core/simd.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace yolodata {

namespace {

#if defined(__x86_64__)
#define YD_AVX2 __attribute__((target("avx2,fma")))

bool has_avx2() {
  static const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  return has;
}

YD_AVX2 inline __m256 load_eight(const std::uint8_t* bytes) {
  return _mm256_cvtepi32_ps(
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(bytes))));
}

YD_AVX2 int blend_eights(const std::uint8_t* top, const std::uint8_t* bottom, float weight,
                         int count, float* line) {
  const __m256 down = _mm256_set1_ps(weight);
  int i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m256 a = load_eight(top + i), b = load_eight(bottom + i);
    _mm256_storeu_ps(line + i, _mm256_fmadd_ps(down, _mm256_sub_ps(b, a), a));
  }
  return i;
}

// Pixels i and i + 4 share a register, so that packing eight of them leaves them in order. Rounding
// a little above and a little below tells where a tie is near.
YD_AVX2 int resample_eights(const float* line, const std::int32_t* offsets, const float* weights,
                            int count, float tolerance, std::uint32_t* words,
                            std::int32_t*& doubtful) {
  const __m256 apart = _mm256_set1_ps(tolerance);
  int i = 0;
  for (; i + 8 <= count; i += 8) {
    __m256i above[4], below[4];
    for (int k = 0; k < 4; ++k) {
      const float* p = line + offsets[i + k];
      const float* q = line + offsets[i + k + 4];
      const __m256 left = _mm256_loadu2_m128(q, p), right = _mm256_loadu2_m128(q + 3, p + 3);
      const __m256 weight =
          _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_broadcast_ss(weights + i + k)),
                               _mm_broadcast_ss(weights + i + k + 4), 1);
      const __m256 value = _mm256_fmadd_ps(weight, _mm256_sub_ps(right, left), left);
      above[k] = _mm256_cvtps_epi32(_mm256_add_ps(value, apart));
      below[k] = _mm256_cvtps_epi32(_mm256_sub_ps(value, apart));
    }
    const __m256i high = _mm256_packus_epi16(_mm256_packs_epi32(above[0], above[1]),
                                             _mm256_packs_epi32(above[2], above[3]));
    const __m256i low = _mm256_packus_epi16(_mm256_packs_epi32(below[0], below[1]),
                                            _mm256_packs_epi32(below[2], below[3]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(words + i), low);
    const int same = _mm256_movemask_epi8(_mm256_cmpeq_epi8(high, low));
    // Four bits a pixel, the fourth of which is no colour.
    for (std::uint32_t differ = ~static_cast<std::uint32_t>(same) & 0x77777777u; differ != 0;) {
      const int pixel = __builtin_ctz(differ) / 4;
      *doubtful++ = i + pixel;
      differ &= ~(0xFu << (4 * pixel));
    }
  }
  return i;
}

// Eight bytes hold a pixel and its right neighbour. The left pixels of both rows go into one
// register and the right ones into another; they are blended across, then its halves down.
YD_AVX2 void interpolate_avx2(const std::uint8_t* image, std::int64_t stride, const Points& points,
                              int first, int last, std::int64_t ahead, std::uint32_t* words) {
  const __m128i lefts = _mm_setr_epi8(0, 1, 2, -1, 8, 9, 10, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m128i rights = _mm_setr_epi8(3, 4, 5, -1, 11, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const std::int32_t* const xs = points.x;
  const std::int32_t* const ys = points.y;
  const float* const wxs = points.wx;
  const float* const wys = points.wy;
  for (int i = first; i < last; ++i) {
    const std::uint8_t* p = image + ys[i] * stride + 3 * std::int64_t{xs[i]};
    if (i % 4 == 0) __builtin_prefetch(p + ahead);
    const __m128i upper = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
    const __m128i both = _mm_castps_si128(
        _mm_loadh_pi(_mm_castsi128_ps(upper), reinterpret_cast<const __m64*>(p + stride)));
    const __m256 left = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_shuffle_epi8(both, lefts)));
    const __m256 right = _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_shuffle_epi8(both, rights)));
    const __m256 across = _mm256_fmadd_ps(_mm256_set1_ps(wxs[i]), _mm256_sub_ps(right, left), left);
    const __m128 top = _mm256_castps256_ps128(across), bottom = _mm256_extractf128_ps(across, 1);
    const __m128i value =
        _mm_cvtps_epi32(_mm_fmadd_ps(_mm_set1_ps(wys[i]), _mm_sub_ps(bottom, top), top));
    const __m128i low = _mm_packs_epi32(value, value);
    words[i] = static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm_packus_epi16(low, low)));
  }
}
#else
constexpr bool has_avx2() { return false; }
int blend_eights(const std::uint8_t*, const std::uint8_t*, float, int, float*) { return 0; }
int resample_eights(const float*, const std::int32_t*, const float*, int, float, std::uint32_t*,
                    std::int32_t*&) {
  return 0;
}
void interpolate_avx2(const std::uint8_t*, std::int64_t, const Points&, int, int, std::int64_t,
                      std::uint32_t*) {}
#endif

}  // namespace

void blend_rows(const std::uint8_t* top, const std::uint8_t* bottom, float weight, int count,
                float* line) {
  for (int i = has_avx2() ? blend_eights(top, bottom, weight, count, line) : 0; i < count; ++i) {
    const float a = static_cast<float>(top[i]), b = static_cast<float>(bottom[i]);
    line[i] = a + weight * (b - a);
  }
}

int resample_row(const float* line, const std::int32_t* offsets, const float* weights, int count,
                 float tolerance, std::uint32_t* words, std::int32_t* doubtful) {
  std::int32_t* const begin = doubtful;
  int i =
      has_avx2() ? resample_eights(line, offsets, weights, count, tolerance, words, doubtful) : 0;
  for (; i < count; ++i) {
    const float* p = line + offsets[i];
    std::uint32_t word = 0;
    bool doubt = false;
    for (int c = 0; c < 3; ++c) {
      const float value = p[c] + weights[i] * (p[c + 3] - p[c]);
      const std::int32_t low = round_int(larger(value - tolerance, 0.0f));
      doubt |= low != round_int(value + tolerance);
      word |= static_cast<std::uint32_t>(low) << (8 * c);
    }
    words[i] = word;
    if (doubt) *doubtful++ = i;
  }
  return static_cast<int>(doubtful - begin);
}

void interpolate_run(const std::uint8_t* image, std::int64_t stride, const Points& points,
                     int first, int last, std::int64_t ahead, std::uint32_t* words) {
  if (has_avx2()) return interpolate_avx2(image, stride, points, first, last, ahead, words);
  for (int i = first; i < last; ++i) {
    const std::uint8_t* p = image + points.y[i] * stride + 3 * std::int64_t{points.x[i]};
    std::uint32_t word = 0;
    for (int c = 0; c < 3; ++c)
      word |= static_cast<std::uint32_t>(interpolate(p[c], p[c + 3], p[c + stride],
                                                     p[c + 3 + stride], points.wx[i], points.wy[i]))
              << (8 * c);
    words[i] = word;
  }
}

YD_TARGETS void map_row(const Layer& layer, std::int32_t x, std::int32_t y, std::int32_t step,
                        int count, const Points& points) {
  const Layer local = layer;  // so that the compiler knows the stores below cannot change it
  std::int32_t* __restrict__ xs = points.x;
  std::int32_t* __restrict__ ys = points.y;
  float* __restrict__ wxs = points.wx;
  float* __restrict__ wys = points.wy;
  for (int i = 0; i < count; ++i) {
    Point point = to_canvas(local, x + i * step, y);
    const bool inside = touches(local, point);
    point.x = inside ? point.x : static_cast<float>(kOutside);
    point.y = inside ? point.y : static_cast<float>(kOutside);
    const std::int32_t ix = floor_int(point.x), iy = floor_int(point.y);
    xs[i] = ix;
    ys[i] = iy;
    wxs[i] = point.x - static_cast<float>(ix);
    wys[i] = point.y - static_cast<float>(iy);
  }
}

YD_TARGETS void mix_rows(std::uint32_t* __restrict__ words,
                         const std::uint32_t* __restrict__ others, double ratio, int count) {
  for (int i = 0; i < count; ++i) {
    const std::uint32_t a = words[i], b = others[i];
    std::uint32_t word = 0;
    for (int c = 0; c < 24; c += 8)
      word |= static_cast<std::uint32_t>(mix(static_cast<std::int32_t>(a >> c & 255),
                                             static_cast<std::int32_t>(b >> c & 255), ratio))
              << c;
    words[i] = word;
  }
}

namespace {

// Eight pixels at once, in whatever registers the target has (GCC and Clang vector extension).
struct Eight {
  using Int = std::int32_t __attribute__((vector_size(32)));
  using Float = float __attribute__((vector_size(32)));

  static YD_HD Float to_float(Int value) { return __builtin_convertvector(value, Float); }
  static YD_HD Int truncate(Float value) { return __builtin_convertvector(value, Int); }
  static YD_HD Int bits(Float value) { return reinterpret_cast<Int>(value); }
};

}  // namespace

static inline bool all_fill(const std::uint32_t* words) {
  constexpr std::uint64_t kTwo = std::uint64_t{kFillWord} << 32 | kFillWord;
  std::uint64_t twos[4];
  std::memcpy(twos, words, sizeof(twos));
  return ((twos[0] ^ kTwo) | (twos[1] ^ kTwo) | (twos[2] ^ kTwo) | (twos[3] ^ kTwo)) == 0;
}

YD_TARGETS void jitter_row(std::uint32_t* words, const HsvJitter& hsv, int count) {
  const HsvJitter local = hsv;
  const auto fill =
      static_cast<std::uint32_t>(jitter<One>(local, static_cast<std::int32_t>(kFillWord)));
  int i = 0;
  for (; i + 8 <= count; i += 8) {
    if (all_fill(words + i)) {  // a quarter of a typical mosaic is
      std::fill(words + i, words + i + 8, fill);
      continue;
    }
    Eight::Int word;
    std::memcpy(&word, words + i, sizeof(word));
    word = jitter<Eight>(local, word);
    std::memcpy(words + i, &word, sizeof(word));
  }
  for (; i < count; ++i) {
    const std::int32_t word = jitter<One>(local, static_cast<std::int32_t>(words[i]));
    words[i] = static_cast<std::uint32_t>(word);
  }
}

YD_TARGETS void split_row(const std::uint32_t* __restrict__ words, int count,
                          std::uint8_t* __restrict__ red, std::uint8_t* __restrict__ green,
                          std::uint8_t* __restrict__ blue) {
  for (int i = 0; i < count; ++i) {
    red[i] = static_cast<std::uint8_t>(words[i]);
    green[i] = static_cast<std::uint8_t>(words[i] >> 8);
    blue[i] = static_cast<std::uint8_t>(words[i] >> 16);
  }
}

}  // namespace yolodata
