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

inline __m256i load(const std::uint32_t* words) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(words));
}

inline __m256d load_four(const std::uint8_t* bytes) {
  std::int32_t bits;
  std::memcpy(&bits, bytes, 4);
  return _mm256_cvtepi32_pd(_mm_cvtepu8_epi32(_mm_cvtsi32_si128(bits)));
}

inline void store(std::uint8_t* bytes, __m256i value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), value);
}

inline __m256 truncate(__m256 value) {
  return _mm256_round_ps(value, _MM_FROUND_TO_ZERO | _MM_FROUND_NO_EXC);
}

inline __m256 floor(__m256 value) {
  return _mm256_round_ps(value, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
}

inline __m256i all(int byte) { return _mm256_set1_epi8(static_cast<char>(byte)); }

// Bytes 0-15 from the lower halves of the four in turn, 16-31 from the upper ones.
inline __m256i pack(__m256i a, __m256i b, __m256i c, __m256i d) {
  return _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
}

// The same in both halves.
inline __m256i twice(__m128i half) { return _mm256_broadcastsi128_si256(half); }

// Bytes 4k to 4k + 3 of each half, as numbers.
inline __m256 spread(__m256i bytes, int k) {
  const char b = static_cast<char>(4 * k);
  const auto next = [b](int i) { return static_cast<char>(b + i); };
  const __m128i dwords = _mm_setr_epi8(b, -1, -1, -1, next(1), -1, -1, -1,  //
                                       next(2), -1, -1, -1, next(3), -1, -1, -1);
  return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(bytes, twice(dwords)));
}

// numerator / denominator, rounded to 12 fractional bits: above 2048 a float has no more. The
// division is scaled by a power of two from shade.h's, which changes no digit.
inline __m256 reciprocal(float numerator, __m256 denominator) {
  const __m256 shift = _mm256_set1_ps(3072.0f);
  const __m256 quotient =
      _mm256_div_ps(_mm256_set1_ps(numerator), _mm256_max_ps(denominator, _mm256_set1_ps(1.0f)));
  return _mm256_sub_ps(_mm256_add_ps(quotient, shift), shift);
}

// jitter() of shade.h, on bytes of 32 pixels where they suffice, and on floats of eight.
//
// In four steps over many pixels, with what is between them in memory: in one they are a chain of
// operations so long that a processor sees the next pixels too late to work on them meanwhile.
class Jitter {
 public:
  static constexpr int kMost = 256;  // columns at a time

  explicit Jitter(const HsvJitter& hsv)
      : saturation_(_mm256_set1_ps(hsv.saturation)),
        value_(_mm256_set1_ps(hsv.value)),
        // Hues are then -180..179, and only negative ones have to be turned.
        shift_(static_cast<float>(hsv.hue_shift < 30 ? hsv.hue_shift : hsv.hue_shift - 180)) {}

  // 32 pixels, which become numbers `at` to `at + 31` of the next run.
  void take(__m256i red, __m256i green, __m256i blue, int at) {
    const __m256i top = _mm256_max_epu8(_mm256_max_epu8(red, green), blue);
    const __m256i range = _mm256_sub_epi8(top, _mm256_min_epu8(_mm256_min_epu8(red, green), blue));
    const __m256i is_red = _mm256_cmpeq_epi8(top, red), is_green = _mm256_cmpeq_epi8(top, green);
    // The hue's numerator is one channel less another, plus twice or four times the range.
    const auto choose = [=](__m256i by_red, __m256i by_green, __m256i by_blue) {
      return _mm256_blendv_epi8(_mm256_blendv_epi8(by_blue, by_green, is_green), by_red, is_red);
    };
    const __m256i more = choose(green, blue, red), less = choose(blue, red, green);
    const __m256i past_red = _mm256_andnot_si256(is_red, range);
    const __m256i past_green = _mm256_andnot_si256(is_green, past_red);
    const __m256i difference = _mm256_set1_epi16(static_cast<short>(0xff01)), sum = all(1);
    const __m256i parts[] = {_mm256_maddubs_epi16(_mm256_unpacklo_epi8(more, less), difference),
                             _mm256_maddubs_epi16(_mm256_unpacklo_epi8(past_red, past_green), sum),
                             _mm256_maddubs_epi16(_mm256_unpackhi_epi8(more, less), difference),
                             _mm256_maddubs_epi16(_mm256_unpackhi_epi8(past_red, past_green), sum)};
    const __m256i once_and_twice = _mm256_set1_epi32(0x00020001);
#pragma GCC unroll 4
    for (int k = 0; k < 4; ++k) {
      const __m256i* const p = parts + k / 2 * 2;
      const __m256i pairs =
          k % 2 == 0 ? _mm256_unpacklo_epi16(p[0], p[1]) : _mm256_unpackhi_epi16(p[0], p[1]);
      _mm256_store_ps(wheels_ + at + 8 * k,
                      _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, once_and_twice)));
      _mm256_store_ps(ranges_ + at + 8 * k, spread(range, k));
      _mm256_store_ps(tops_ + at + 8 * k, spread(top, k));
    }
  }

  void run(int count) {
    to_hsv(count);
    from_hsv(count);
  }

  void give(std::uint8_t* red, std::uint8_t* green, std::uint8_t* blue, int at) const {
    const auto bytes = [at](const std::int32_t* from) {
      const auto* const p = reinterpret_cast<const __m256i*>(from + at);
      return pack(p[0], p[1], p[2], p[3]);
    };
    const __m256i top = bytes(raised_), middle = bytes(middles_), low = bytes(lows_);
    // By sector of 30 hues, red is top, middle, low, low, middle, top; green is the same two
    // sectors later, and blue another two. Between two limits one of two comparisons holds:
    // exclusive or.
    const __m256i hue = _mm256_sub_epi8(bytes(hues_), all(90));
    const auto from = [hue](int limit) { return _mm256_cmpgt_epi8(hue, all(limit - 91)); };
    const __m256i from_30 = from(30), from_60 = from(60), from_90 = from(90);
    const __m256i from_120 = from(120), from_150 = from(150);
    store(red, _mm256_blendv_epi8(
                   top, _mm256_blendv_epi8(middle, low, _mm256_xor_si256(from_60, from_120)),
                   _mm256_xor_si256(from_30, from_150)));
    store(green, _mm256_blendv_epi8(_mm256_blendv_epi8(middle, low, from_120), top,
                                    _mm256_xor_si256(from_30, from_90)));
    store(blue, _mm256_blendv_epi8(_mm256_blendv_epi8(low, middle, from_60), top,
                                   _mm256_xor_si256(from_90, from_150)));
  }

 private:
  // What shade.h shifts right by 12 bits is here a product with 12 fractional bits, below 256: a
  // float also holds its sum with a half, or with the shift and 2^-14, so that nothing is rounded
  // before the end. That last bit moves ties, and only ties, over a half: the nearest integer is
  // then the one that shade.h finds by adding a half and rounding down.
  void to_hsv(int count) {
    const __m256 unit = _mm256_set1_ps(1.0f / 255.0f), most = _mm256_set1_ps(255.0f);
    const __m256 shift = _mm256_set1_ps(shift_ + 1.0f / 16384.0f);
    for (int i = 0; i < count; i += 8) {
      const __m256 range = _mm256_load_ps(ranges_ + i), top = _mm256_load_ps(tops_ + i);
      const __m256i hue = _mm256_cvtps_epi32(
          _mm256_fmadd_ps(_mm256_load_ps(wheels_ + i), reciprocal(30.0f, range), shift));
      // As unsigned numbers, negative ones are large.
      const __m256i turned = _mm256_min_epu32(hue, _mm256_add_epi32(hue, _mm256_set1_epi32(180)));
      _mm256_store_si256(reinterpret_cast<__m256i*>(hues_ + i), turned);
      const __m256 plain =
          floor(_mm256_fmadd_ps(range, reciprocal(255.0f, top), _mm256_set1_ps(0.5f)));
      const __m256 raised = truncate(_mm256_min_ps(_mm256_mul_ps(plain, saturation_), most));
      _mm256_store_ps(saturations_ + i, _mm256_mul_ps(raised, unit));
    }
  }

  void from_hsv(int count) {
    const __m256 unit = _mm256_set1_ps(1.0f / 255.0f), most = _mm256_set1_ps(255.0f);
    const __m256 one = _mm256_set1_ps(1.0f);
    const __m256 odds = _mm256_setr_ps(1.0f, 3.0f, 5.0f, 1.0f, 1.0f, 3.0f, 5.0f, 1.0f);
    const __m256 positive = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    for (int i = 0; i < count; i += 8) {
      const __m256 top = _mm256_load_ps(tops_ + i), saturation = _mm256_load_ps(saturations_ + i);
      const __m256i raised = _mm256_cvttps_epi32(_mm256_min_ps(_mm256_mul_ps(top, value_), most));
      const __m256 value = _mm256_mul_ps(_mm256_cvtepi32_ps(raised), unit);
      const __m256 hue =
          _mm256_cvtepi32_ps(_mm256_load_si256(reinterpret_cast<const __m256i*>(hues_ + i)));
      const __m256 sixths = _mm256_mul_ps(hue, _mm256_set1_ps(6.0f / 180.0f));
      // The share is the distance from the odd number next to `sixths`, with shade.h's rounding:
      // sixths less the number of a sector is exact. The last bits of `pair` are 0, 1, 2 by pairs
      // of sectors (or 3 at the start of the first); between pairs both odd numbers are as near.
      const __m256 pair =
          _mm256_fmadd_ps(hue, _mm256_set1_ps(1.0f / 60.0f), _mm256_set1_ps(8388607.5f));
      const __m256 odd = _mm256_permutevar_ps(odds, _mm256_castps_si256(pair));
      const __m256 share = _mm256_and_ps(_mm256_sub_ps(sixths, odd), positive);
      const auto channel = [&](__m256 part) {
        return _mm256_cvttps_epi32(_mm256_mul_ps(_mm256_mul_ps(value, part), most));
      };
      const auto put = [i](std::int32_t* to, __m256i values) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(to + i), values);
      };
      put(raised_, raised);
      put(middles_, channel(_mm256_fnmadd_ps(saturation, share, one)));
      put(lows_, channel(_mm256_sub_ps(one, saturation)));
    }
  }

  __m256 saturation_, value_;
  float shift_;
  alignas(32) float ranges_[kMost], tops_[kMost], wheels_[kMost], saturations_[kMost];
  alignas(32) std::int32_t hues_[kMost], raised_[kMost], middles_[kMost], lows_[kMost];
};

}  // namespace

// The next row is fetched to L1, and one so many rows further to L2, which waits for more lines of
// memory at a time than L1 can.
constexpr std::ptrdiff_t kRowsToL2 = 4;

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
    if (next % (2 * kBlock) == 0)
      for (int line = 0; line < 6 * kBlock; line += 64) {
        __builtin_prefetch(p + prefetch + line);
        __builtin_prefetch(p + kRowsToL2 * prefetch + line, 0, 2);
      }
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

// Note [exact blends]. Weights are often multiples of 2^-15: coordinates from 256 on have no finer
// parts. The blend of two bytes then has 23 bits, which a float holds, and so does the integer from
// which it is made: left * (1 - weight) + right * weight. Both weights are taken times -2^15,
// because 2^15 itself is too large for 16 bits. Otherwise the blend is made of floats, as in
// shade.h. A dword of `pairs` holds the left neighbour and, 16 bits up, the right one.
struct Exact {
  static __m256i weights(const Columns& columns, int i) { return avx2::load(columns.weights + i); }
  static __m256 blend(__m256i pairs, __m256i weights) {
    return _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, weights)),
                         _mm256_set1_ps(-1.0f / 32768.0f));
  }
};

struct Fused {
  static __m256 weights(const Columns& columns, int i) {
    return _mm256_loadu_ps(columns.weight + i);
  }
  static __m256 blend(__m256i pairs, __m256 weight) {
    const __m256i difference = _mm256_set1_epi32(0x0001ffff);  // right less left
    const __m256 left = _mm256_cvtepi32_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(0xffff)));
    const __m256 rise = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, difference));
    return _mm256_fmadd_ps(weight, rise, left);
  }
};

template <typename How, typename Arithmetic>
inline void resample_block(const Planes& line, const Columns& columns, float* out) {
  const std::uint8_t *const red = line.channel[0], *const green = line.channel[1];
  const std::uint8_t* const blue = line.channel[2];
#pragma GCC unroll 4
  for (int i = 0; i < kBlock; i += 8) {
    const auto weights = Arithmetic::weights(columns, i);
    const __m256i picks = How::picks(columns, i);
    const auto blend = [&](__m256i bytes) {
      return Arithmetic::blend(_mm256_shuffle_epi8(bytes, picks), weights);
    };
    // All of them before the first store, which might be where the columns are, for all it knows.
    const __m256i reds = How::load(red, columns, i), greens = How::load(green, columns, i);
    const __m256i blues = How::load(blue, columns, i);
    _mm256_storeu_ps(out + i, blend(reds));
    _mm256_storeu_ps(out + columns.count + i, blend(greens));
    _mm256_storeu_ps(out + 2 * columns.count + i, blend(blues));
  }
}

template <typename How>
void resample_row_by(const Planes& line, const Columns& given, const std::uint8_t* empty,
                     float* out) {
  const Planes from = line;  // as in map_row
  Columns columns = given;   // of the block, and of those after it
  for (int i = 0; i < given.count; i += kBlock) {
    const bool is_empty = *empty++ != 0, exact = *columns.exact++ != 0;
    if (!is_empty && exact) resample_block<How, Exact>(from, columns, out);
    if (!is_empty && !exact) resample_block<How, Fused>(from, columns, out);
    columns.left += kBlock;
    columns.weight += kBlock;
    columns.start += kBlock / 4;
    columns.picks += 4 * kBlock;
    columns.weights += kBlock;
    out += kBlock;
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

int jitter_row(const Planes& row, const HsvJitter& hsv, const Rgb& jittered_fill, int count) {
  Jitter jitter(hsv);
  const __m256i fill = all(kFill);
  for (int begin = 0; begin < count; begin += Jitter::kMost) {
    const int end = begin + Jitter::kMost < count ? begin + Jitter::kMost : count;
    int places[Jitter::kMost / kBlock], taken = 0;
    for (int i = begin; i < end; i += kBlock) {
      std::uint8_t *const red = row.channel[0] + i, *const green = row.channel[1] + i;
      std::uint8_t* const blue = row.channel[2] + i;
      const __m256i r = load(red), g = load(green), b = load(blue);
      const __m256i differ =
          _mm256_or_si256(_mm256_or_si256(_mm256_xor_si256(r, fill), _mm256_xor_si256(g, fill)),
                          _mm256_xor_si256(b, fill));
      if (_mm256_testz_si256(differ, differ)) {  // a quarter of a typical mosaic
        store(red, all(jittered_fill.r));
        store(green, all(jittered_fill.g));
        store(blue, all(jittered_fill.b));
      } else {
        jitter.take(r, g, b, kBlock * taken);
        places[taken++] = i;
      }
    }
    jitter.run(kBlock * taken);
    for (int k = 0; k < taken; ++k)
      jitter.give(row.channel[0] + places[k], row.channel[1] + places[k],
                  row.channel[2] + places[k], kBlock * k);
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
