// The loops of row_loops.h for x86-64 with AVX2 and FMA, and those that AVX-512 takes from here.
//
// Everything in this file is compiled for those processors: nothing else may be defined here.
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")

#include "render/row_ops_avx2.h"

#include <immintrin.h>

#include <cstring>

#include "render/lanes_avx2.h"
#include "render/row_loops.h"

namespace yolodata::avx2 {
namespace {

using V = Avx2Lanes;

// How resample_row gets the bytes around eight columns: a half of a register stands for four.
struct Together {
  static __m256i load(const std::uint8_t* bytes, const Columns& columns, int i) {
    const std::uint8_t* const p = bytes + columns.start[i / 4];
    return V::twice(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  static __m256i picks(const Columns& columns, int i) { return V::load(columns.picks + 4 * i); }
  static __m256i pick(__m256i bytes, __m256i picks) { return _mm256_shuffle_epi8(bytes, picks); }
};

struct InHalves : Together {
  static __m256i load(const std::uint8_t* bytes, const Columns& columns, int i) {
    return V::load_two(bytes + columns.start[i / 4], bytes + columns.start[i / 4 + 1]);
  }
};

struct Apart : Together {
  static __m256i load(const std::uint8_t* bytes, const Columns& columns, int i) {
    return _mm256_i32gather_epi32(reinterpret_cast<const int*>(bytes), V::load(columns.left + i),
                                  1);
  }
  static __m256i picks(const Columns&, int) {
    return V::twice(_mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1));
  }
};

}  // namespace

int split_pixels(const std::uint8_t* pixels, int count, std::ptrdiff_t prefetch,
                 const Planes& out) {
  if (count < V::kBytes) return 0;
  yolodata::split_pixels<V>(pixels, count, prefetch, out);
  return count;
}

int resample_row(const Planes& line, const Columns& columns, const std::uint8_t* empty,
                 float* out) {
  if (columns.together == Columns::kByEight)
    yolodata::resample_row<V, Together>(line, columns, empty, out);
  else if (columns.together == Columns::kByFour)
    yolodata::resample_row<V, InHalves>(line, columns, empty, out);
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

namespace {

// Eight pixels of a line of an image with their right neighbours, from where each is.
class Neighbours {
 public:
  Neighbours(const std::uint8_t* line, const std::int64_t* at) {
    const auto pixel = [=](int i) {  // and what follows, in each quarter of a register
      std::int64_t bytes;
      std::memcpy(&bytes, line + at[i], 8);
      return _mm256_set1_epi64x(bytes);
    };
    const auto four = [&](int a, int b, int c, int d) {
      const __m256i ab = _mm256_blend_epi32(pixel(a), pixel(b), 0b00001100);
      const __m256i cd = _mm256_blend_epi32(pixel(c), pixel(d), 0b11000000);
      return _mm256_castsi256_ps(_mm256_blend_epi32(ab, cd, 0b11110000));
    };
    const __m256 left = four(0, 1, 4, 5), right = four(2, 3, 6, 7);
    rgbr_ = _mm256_castps_si256(_mm256_shuffle_ps(left, right, 0b10001000));
    gb_ = _mm256_castps_si256(_mm256_shuffle_ps(left, right, 0b11011101));
  }

  // Channels, blended across.
  __m256 red(__m256 weight) const {
    const __m256i right = _mm256_srli_epi32(rgbr_, 24);
    return blend(_mm256_cvtepi32_ps(first(rgbr_)), _mm256_cvtepi32_ps(right), weight);
  }
  __m256 green(__m256 weight) const {
    return blend(byte(rgbr_, 1), _mm256_cvtepi32_ps(first(gb_)), weight);
  }
  __m256 blue(__m256 weight) const { return blend(byte(rgbr_, 2), byte(gb_, 1), weight); }

  static __m256 blend(__m256 a, __m256 b, __m256 weight) {
    return _mm256_fmadd_ps(weight, _mm256_sub_ps(b, a), a);
  }

 private:
  static __m256i first(__m256i dwords) { return _mm256_and_si256(dwords, _mm256_set1_epi32(255)); }
  // Byte number `k` of each dword, as a number.
  static __m256 byte(__m256i dwords, int k) {
    const auto at = [k](int dword) { return static_cast<char>(4 * dword + k); };
    const __m128i picks = _mm_setr_epi8(at(0), -1, -1, -1, at(1), -1, -1, -1,  //
                                        at(2), -1, -1, -1, at(3), -1, -1, -1);
    return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(dwords, V::twice(picks)));
  }

  __m256i rgbr_, gb_;  // behind g and b are two bytes of something else
};

// Where `count` points are, from (0, 0) on, up to the end of eight.
void find_offsets(std::int64_t stride, const Points& points, int count, std::int64_t* offsets) {
  const __m256i across = _mm256_set1_epi64x(3), down = _mm256_set1_epi64x(stride);
  const auto four = [&](const std::int32_t* numbers) {
    return _mm256_cvtepu32_epi64(_mm_loadu_si128(reinterpret_cast<const __m128i*>(numbers)));
  };
  for (int i = 0; i < count; i += 4)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(offsets + i),
                        _mm256_add_epi64(_mm256_mul_epu32(four(points.x + i), across),
                                         _mm256_mul_epu32(four(points.y + i), down)));
  for (int i = count; i % 8 != 0; ++i) offsets[i] = offsets[count - 1];
}

}  // namespace

int interpolate_run(const std::uint8_t* image, std::int64_t stride, const Points& points, int count,
                    std::int64_t prefetch, const Planes& out) {
  const Points from = points;  // as in map_row
  const Planes to = out;
  const std::uint8_t* const below = image + stride;
  constexpr int kMost = 128;
  std::int64_t offsets[kMost];
  for (int begin = 0; begin < count; begin += kMost) {
    // In two steps, for the reason that JitterLoop has.
    const int length = count - begin < kMost ? count - begin : kMost;
    find_offsets(stride, from.from(begin), length, offsets);
    for (int k = 0; k < length; k += 8) {
      const int i = begin + k;
      const std::int64_t* const at = offsets + k;
      __builtin_prefetch(image + at[0] + prefetch);
      __builtin_prefetch(image + at[4] + prefetch);
      const Neighbours top(image, at), bottom(below, at);
      const __m256 wx = _mm256_loadu_ps(from.wx + i), wy = _mm256_loadu_ps(from.wy + i);
      const auto down = [wy](__m256 a, __m256 b) {
        return _mm256_cvtps_epi32(Neighbours::blend(a, b, wy));
      };
      const __m256i reds = down(top.red(wx), bottom.red(wx));
      const __m256i greens = down(top.green(wx), bottom.green(wx));
      const __m256i blues = down(top.blue(wx), bottom.blue(wx));
      const __m256i bytes = V::pack(reds, greens, blues, blues);
      const __m128i low = _mm256_castsi256_si128(bytes), high = _mm256_extracti128_si256(bytes, 1);
      const __m128i red_green = _mm_unpacklo_epi32(low, high);
      _mm_storel_epi64(reinterpret_cast<__m128i*>(to.channel[0] + i), red_green);
      _mm_storeh_pd(reinterpret_cast<double*>(to.channel[1] + i), _mm_castsi128_pd(red_green));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(to.channel[2] + i),
                       _mm_unpackhi_epi32(low, high));
    }
  }
  return count;
}

namespace {

inline __m256d load_four(const std::uint8_t* bytes) {
  std::int32_t bits;
  std::memcpy(&bits, bytes, 4);
  return _mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(bits)));
}

void mix_doubles(std::uint8_t* bytes, const std::uint8_t* others, double ratio, int count) {
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
}

}  // namespace

// See Note [mixing integers].
int mix_bytes(std::uint8_t* bytes, const std::uint8_t* others, const Mixing& mixing, int count) {
  if (mixing.share < 0) {
    mix_doubles(bytes, others, mixing.ratio, count);
    return count;
  }
  // Two factors of 16 bits, of 128 times the difference and of the difference.
  const __m256i share = _mm256_set1_epi32(mixing.share >> 7 | (mixing.share & 127) << 16);
  const __m256i zero = _mm256_setzero_si256(), fifteen = _mm256_set1_epi8(15),
                seven = _mm256_set1_epi8(7);
  const __m256i bits =
      V::twice(_mm_setr_epi8(1, 2, 4, 8, 16, 32, 64, -128, 0, 0, 0, 0, 0, 0, 0, 0));
  const auto table = [&](int half) {
    return V::twice(_mm_loadu_si128(reinterpret_cast<const __m128i*>(mixing.below) + half));
  };
  const __m256i dark = table(0), bright = table(1);
  const auto blend = [&](__m256i a, __m256i b) {  // of 16-bit numbers
    const __m256i once = _mm256_sub_epi16(a, b), much = _mm256_slli_epi16(once, 7);
    const auto floor = [&](__m256i pairs) {
      return _mm256_srai_epi32(_mm256_madd_epi16(pairs, share), kMixingBits);
    };
    return _mm256_add_epi16(b, _mm256_packs_epi32(floor(_mm256_unpacklo_epi16(much, once)),
                                                  floor(_mm256_unpackhi_epi16(much, once))));
  };
  for (int i = 0; i < count; i += 32) {
    const __m256i a = V::load(bytes + i), b = V::load(others + i);
    const __m256i mixed =
        _mm256_packus_epi16(blend(_mm256_unpacklo_epi8(a, zero), _mm256_unpacklo_epi8(b, zero)),
                            blend(_mm256_unpackhi_epi8(a, zero), _mm256_unpackhi_epi8(b, zero)));
    const __m256i low = _mm256_and_si256(a, fifteen);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(a, 4), seven);
    const __m256i row =
        _mm256_blendv_epi8(_mm256_shuffle_epi8(dark, low), _mm256_shuffle_epi8(bright, low), a);
    const __m256i bit = _mm256_shuffle_epi8(bits, high);
    const __m256i falls = _mm256_cmpeq_epi8(_mm256_and_si256(row, bit), bit);  // by one: -1
    V::store(bytes + i, _mm256_add_epi8(mixed, _mm256_and_si256(falls, _mm256_cmpeq_epi8(a, b))));
  }
  return count;
}

void finish() { _mm_sfence(); }

}  // namespace yolodata::avx2
#endif
