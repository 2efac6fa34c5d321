// The loops of row_ops.cpp for x86-64 with AVX2 and FMA, written out where compilers do badly.
//
// Everything in this file is compiled for those processors: nothing else may be defined here.
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")

#include "render/row_ops_avx2.h"

#include <immintrin.h>

#include <cstring>

namespace yolodata::avx2 {
namespace {

inline __m256i load(const std::uint8_t* bytes) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
}

// Sixteen bytes in either half.
inline __m256i load_two(const std::uint8_t* low, const std::uint8_t* high) {
  return _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(high),
                             reinterpret_cast<const __m128i*>(low));
}

inline __m256d load_four(const std::uint8_t* bytes) {
  std::int32_t bits;
  std::memcpy(&bits, bytes, 4);
  return _mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(bits)));
}

inline void store(std::uint8_t* bytes, __m256i value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), value);
}

// Bytes 0-15 from the lower halves of the four in turn, 16-31 from the upper ones.
inline __m256i pack(__m256i a, __m256i b, __m256i c, __m256i d) {
  return _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
}

// The same in both halves.
inline __m256i twice(__m128i half) { return _mm256_broadcastsi128_si256(half); }

}  // namespace

// Sixteen pixels are three times sixteen bytes, and each of the three has every third byte of a
// channel. Both halves of a register do that.
int split_pixels(const std::uint8_t* pixels, int count, std::ptrdiff_t prefetch,
                 const Planes& out) {
  if (count < kBlock) return 0;
  const __m256i seconds = twice(_mm_setr_epi8(0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0));
  const __m256i thirds = twice(_mm_setr_epi8(0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0));
  const __m256i reds = twice(_mm_setr_epi8(0, 3, 6, 9, 12, 15, 2, 5, 8, 11, 14, 1, 4, 7, 10, 13));
  const __m256i greens = twice(_mm_setr_epi8(1, 4, 7, 10, 13, 0, 3, 6, 9, 12, 15, 2, 5, 8, 11, 14));
  const __m256i blues = twice(_mm_setr_epi8(2, 5, 8, 11, 14, 1, 4, 7, 10, 13, 0, 3, 6, 9, 12, 15));
  const auto pick = [=](__m256i a, __m256i b, __m256i c, __m256i order) {
    const __m256i bytes = _mm256_blendv_epi8(_mm256_blendv_epi8(a, b, seconds), c, thirds);
    return _mm256_shuffle_epi8(bytes, order);
  };
  std::uint8_t *const red = out.channel[0], *const green = out.channel[1];
  std::uint8_t* const blue = out.channel[2];
  for (int next = 0; next < count; next += kBlock) {
    const int i = next + kBlock > count ? count - kBlock : next;  // the last ones overlap
    const std::uint8_t* const p = pixels + 3 * i;
    __builtin_prefetch(p + prefetch);
    __builtin_prefetch(p + prefetch + 64);
    const __m256i a = load_two(p, p + 48), b = load_two(p + 16, p + 64);
    const __m256i c = load_two(p + 32, p + 80);
    store(red + i, pick(a, c, b, reds));
    store(green + i, pick(b, a, c, greens));
    store(blue + i, pick(c, b, a, blues));
  }
  return count;
}

int split_words(const std::uint32_t* words, int count, const Planes& out) {
  // Within each half: the reds of its four pixels, then the greens, then the blues.
  const __m256i channels =
      twice(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, -1, -1, -1, -1));
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  int i = 0;
  for (; i + 32 <= count; i += 32) {
    __m256i part[4];  // eight pixels each: eight reds, eight greens, eight blues
    for (int k = 0; k < 4; ++k) {
      const __m256i eight = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words + i + 8 * k));
      part[k] = _mm256_permutevar8x32_epi32(_mm256_shuffle_epi8(eight, channels), order);
    }
    const __m256i red_blue_01 = _mm256_unpacklo_epi64(part[0], part[1]);
    const __m256i red_blue_23 = _mm256_unpacklo_epi64(part[2], part[3]);
    const __m256i green_01 = _mm256_unpackhi_epi64(part[0], part[1]);
    const __m256i green_23 = _mm256_unpackhi_epi64(part[2], part[3]);
    store(out.channel[0] + i, _mm256_permute2x128_si256(red_blue_01, red_blue_23, 0x20));
    store(out.channel[1] + i, _mm256_permute2x128_si256(green_01, green_23, 0x20));
    store(out.channel[2] + i, _mm256_permute2x128_si256(red_blue_01, red_blue_23, 0x31));
  }
  return i;
}

namespace {

// How resample_row gets the bytes around eight columns: a half of a register stands for four.
struct Together {
  static __m256i load(const std::uint8_t* bytes, const Columns& columns, int i) {
    const std::uint8_t* const p = bytes + columns.start[i / 4];
    return twice(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static __m256i picks(const Columns& columns, int i) { return avx2::load(columns.picks + 4 * i); }
};

struct InHalves : Together {
  static __m256i load(const std::uint8_t* bytes, const Columns& columns, int i) {
    return load_two(bytes + columns.start[i / 4], bytes + columns.start[i / 4 + 1]);
  }
};

struct Apart {
  static __m256i load(const std::uint8_t* bytes, const Columns& columns, int i) {
    const __m256i at = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(columns.left + i));
    return _mm256_i32gather_epi32(reinterpret_cast<const int*>(bytes), at, 1);
  }
  static __m256i picks(const Columns&, int) {
    return twice(_mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1));
  }
};

// A dword holds the left neighbour and, 16 bits up, the right one.
template <typename How>
void resample_row_by(const Planes& line, const Columns& given, const std::uint8_t* empty,
                     float* out) {
  const Columns columns = given;  // as in map_row
  const std::uint8_t *const red = line.channel[0], *const green = line.channel[1];
  const std::uint8_t* const blue = line.channel[2];
  float *const reds = out, *const greens = out + columns.count;
  float* const blues = out + 2 * columns.count;
  const __m256i lefts = _mm256_set1_epi32(0xffff);
  const __m256i difference = _mm256_set1_epi32(0x0001ffff);  // right less left
  for (int i = 0; i < columns.count; i += 8) {
    if (i % kBlock == 0 && *empty++) {
      i += kBlock - 8;
      continue;
    }
    const __m256 weight = _mm256_loadu_ps(columns.weight + i);
    const __m256i picks = How::picks(columns, i);
    const auto blend = [&](const std::uint8_t* bytes) {
      const __m256i pairs = _mm256_shuffle_epi8(How::load(bytes, columns, i), picks);
      const __m256 left = _mm256_cvtepi32_ps(_mm256_and_si256(pairs, lefts));
      const __m256 rise = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, difference));
      return _mm256_fmadd_ps(weight, rise, left);
    };
    _mm256_storeu_ps(reds + i, blend(red));
    _mm256_storeu_ps(greens + i, blend(green));
    _mm256_storeu_ps(blues + i, blend(blue));
  }
}

}  // namespace

int resample_row(const Planes& line, const Columns& columns, const std::uint8_t* empty,
                 float* out) {
  if (columns.together == Columns::kByEight)
    resample_row_by<Together>(line, columns, empty, out);
  else if (columns.together == Columns::kByFour)
    resample_row_by<InHalves>(line, columns, empty, out);
  else
    resample_row_by<Apart>(line, columns, empty, out);
  return columns.count;
}

int blend_rows(const float* top, const float* bottom, std::ptrdiff_t apart, float weight, int count,
               const Planes& out) {
  const __m256 down = _mm256_set1_ps(weight);
  const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
  for (int c = 0; c < 3; ++c, top += apart, bottom += apart)
    for (int i = 0; i < count; i += kBlock) {
      __m256i part[4];
      for (int k = 0; k < 4; ++k) {
        const __m256 a = _mm256_loadu_ps(top + i + 8 * k), b = _mm256_loadu_ps(bottom + i + 8 * k);
        part[k] = _mm256_cvtps_epi32(_mm256_fmadd_ps(down, _mm256_sub_ps(b, a), a));
      }
      store(out.channel[c] + i,
            _mm256_permutevar8x32_epi32(pack(part[0], part[1], part[2], part[3]), order));
    }
  return count;
}

// Eight bytes hold a pixel and its right neighbour. The left pixels of both rows go into one
// register and the right ones into another; they are blended across, then its halves down.
void interpolate_run(const std::uint8_t* image, std::int64_t stride, const Points& points,
                     int first, int last, std::int64_t prefetch, std::uint32_t* words) {
  const __m128i lefts = _mm_setr_epi8(0, 1, 2, -1, 8, 9, 10, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const __m128i rights = _mm_setr_epi8(3, 4, 5, -1, 11, 12, 13, -1, -1, -1, -1, -1, -1, -1, -1, -1);
  const std::int32_t* const xs = points.x;
  const std::int32_t* const ys = points.y;
  const float* const wxs = points.wx;
  const float* const wys = points.wy;
  for (int i = first; i < last; ++i) {
    const std::uint8_t* p = image + ys[i] * stride + 3 * std::int64_t{xs[i]};
    if (i % 4 == 0) __builtin_prefetch(p + prefetch);
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

int mix_bytes(std::uint8_t* bytes, const std::uint8_t* others, double ratio, int count) {
  const __m256d own = _mm256_set1_pd(ratio), other = _mm256_set1_pd(1.0 - ratio);
  for (int i = 0; i < count; i += 16) {
    __m128i mixed[4];
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const __m256d a = _mm256_mul_pd(load_four(bytes + i + 4 * k), own);
      const __m256d b = _mm256_mul_pd(load_four(others + i + 4 * k), other);
      mixed[k] = _mm256_cvttpd_epi32(_mm256_add_pd(a, b));
    }
    const __m128i low = _mm_packs_epi32(mixed[0], mixed[1]);
    const __m128i high = _mm_packs_epi32(mixed[2], mixed[3]);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + i), _mm_packus_epi16(low, high));
  }
  return count;
}

// A picture goes to memory and is read much later: past the caches, if the row allows it.
int store_row(const std::uint8_t* channel, int count, std::uint8_t* out) {
  if (reinterpret_cast<std::uintptr_t>(out) % 32 != 0) return 0;
  int i = 0;
  for (; i + 32 <= count; i += 32)
    _mm256_stream_si256(reinterpret_cast<__m256i*>(out + i), load(channel + i));
  return i;
}

void finish() { _mm_sfence(); }

}  // namespace yolodata::avx2
#endif
