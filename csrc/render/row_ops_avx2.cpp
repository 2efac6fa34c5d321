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

inline __m256i load_dwords(const std::int32_t* dwords) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(dwords));
}

inline void store(std::uint8_t* bytes, __m256i value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), value);
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

void map_row(const Layer& layer, std::int32_t x, std::int32_t y, std::int32_t step, int count,
             const Points& points) {
  const Points to = points;  // the stores below cannot change it
  const float* const m = layer.inverse;
  const float fy = static_cast<float>(y);
  const bool perspective = layer.perspective != 0;
  const __m256 across_x = _mm256_set1_ps(m[0]), down_x = _mm256_set1_ps(m[1] * fy + m[2]);
  const __m256 across_y = _mm256_set1_ps(m[3]), down_y = _mm256_set1_ps(m[4] * fy + m[5]);
  const __m256 across_w = _mm256_set1_ps(m[6]), down_w = _mm256_set1_ps(m[7] * fy + m[8]);
  const __m256 next = _mm256_set1_ps(static_cast<float>(8 * step));
  __m256 fx = _mm256_fmadd_ps(_mm256_setr_ps(0, 1, 2, 3, 4, 5, 6, 7),
                              _mm256_set1_ps(static_cast<float>(step)),
                              _mm256_set1_ps(static_cast<float>(x)));
  const auto split = [](__m256 at, std::int32_t* first, float* weight) {
    const __m256 whole = floor(at);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(first), _mm256_cvtps_epi32(whole));
    _mm256_storeu_ps(weight, _mm256_sub_ps(at, whole));
  };
  for (int i = 0; i < count; i += 8, fx = _mm256_add_ps(fx, next)) {
    __m256 at_x = _mm256_fmadd_ps(across_x, fx, down_x);
    __m256 at_y = _mm256_fmadd_ps(across_y, fx, down_y);
    if (perspective) {
      const __m256 w = _mm256_fmadd_ps(across_w, fx, down_w);
      at_x = _mm256_div_ps(at_x, w);
      at_y = _mm256_div_ps(at_y, w);
    }
    split(at_x, to.x + i, to.wx + i);
    split(at_y, to.y + i, to.wy + i);
  }
}

int find_end(const Points& points, int first, int count, const Region& region) {
  // One comparison sees both ends of a range, if it is an unsigned one: signed ones are, with the
  // highest bit changed.
  constexpr std::uint32_t kSign = 0x80000000u;
  const auto all = [&](std::uint32_t value) {
    return _mm256_set1_epi32(static_cast<std::int32_t>(value ^ kSign));
  };
  const auto x1 = static_cast<std::uint32_t>(region.x1), y1 = static_cast<std::uint32_t>(region.y1);
  const __m256i from_x = all(x1), width = all(static_cast<std::uint32_t>(region.x2) - x1);
  const __m256i from_y = all(y1), height = all(static_cast<std::uint32_t>(region.y2) - y1);
  for (int i = first; i < count; i += 8) {
    const __m256i x = _mm256_sub_epi32(load_dwords(points.x + i), from_x);
    const __m256i y = _mm256_sub_epi32(load_dwords(points.y + i), from_y);
    const __m256i inside =
        _mm256_and_si256(_mm256_cmpgt_epi32(width, x), _mm256_cmpgt_epi32(height, y));
    const int outside = 255 ^ _mm256_movemask_ps(_mm256_castsi256_ps(inside));
    if (outside == 0) continue;
    const int end = i + __builtin_ctz(static_cast<unsigned>(outside));
    return end < count ? end : count;
  }
  return count;
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
    return _mm256_cvtepi32_ps(_mm256_shuffle_epi8(dwords, twice(picks)));
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

void interpolate_run(const std::uint8_t* image, std::int64_t stride, const Points& points,
                     int count, std::int64_t prefetch, const Planes& out) {
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
      const __m256i bytes = pack(reds, greens, blues, blues);
      const __m128i low = _mm256_castsi256_si128(bytes), high = _mm256_extracti128_si256(bytes, 1);
      const __m128i red_green = _mm_unpacklo_epi32(low, high);
      _mm_storel_epi64(reinterpret_cast<__m128i*>(to.channel[0] + i), red_green);
      _mm_storeh_pd(reinterpret_cast<double*>(to.channel[1] + i), _mm_castsi128_pd(red_green));
      _mm_storel_epi64(reinterpret_cast<__m128i*>(to.channel[2] + i),
                       _mm_unpackhi_epi32(low, high));
    }
  }
}

namespace {

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
  const __m256i zero = _mm256_setzero_si256(), fifteen = all(15), seven = all(7);
  const __m256i bits = twice(_mm_setr_epi8(1, 2, 4, 8, 16, 32, 64, -128, 0, 0, 0, 0, 0, 0, 0, 0));
  const auto table = [&](int half) {
    return twice(_mm_loadu_si128(reinterpret_cast<const __m128i*>(mixing.below) + half));
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
    const __m256i a = load(bytes + i), b = load(others + i);
    const __m256i mixed =
        _mm256_packus_epi16(blend(_mm256_unpacklo_epi8(a, zero), _mm256_unpacklo_epi8(b, zero)),
                            blend(_mm256_unpackhi_epi8(a, zero), _mm256_unpackhi_epi8(b, zero)));
    const __m256i low = _mm256_and_si256(a, fifteen);
    const __m256i high = _mm256_and_si256(_mm256_srli_epi16(a, 4), seven);
    const __m256i row =
        _mm256_blendv_epi8(_mm256_shuffle_epi8(dark, low), _mm256_shuffle_epi8(bright, low), a);
    const __m256i bit = _mm256_shuffle_epi8(bits, high);
    const __m256i falls = _mm256_cmpeq_epi8(_mm256_and_si256(row, bit), bit);  // by one: -1
    store(bytes + i, _mm256_add_epi8(mixed, _mm256_and_si256(falls, _mm256_cmpeq_epi8(a, b))));
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
