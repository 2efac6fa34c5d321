// From coefficients to pixels, with the bits of libjpeg-turbo's `islow` transform, "fancy"
// upsampling and colour conversion, for AVX2.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "entropy.h"

namespace fastjpeg {

// ---- Inverse transform: two blocks at a time, one in each half of a register ----

// Quantisation steps, each row twice: for the block on the left and the one on the right.
struct alignas(32) QuantRows {
  int16_t row[8][16];

  void set(const uint16_t natural_order[kBlock]) {
    for (int i = 0; i < 8; ++i) {
      for (int j = 0; j < 16; ++j) row[i][j] = int16_t(natural_order[i * 8 + j % 8]);
    }
  }
};

namespace transform {

// Pairs of 16-bit numbers for pmaddwd.
inline __m256i pair(int low, int high) {
  return _mm256_set1_epi32(int(uint32_t(uint16_t(low)) | uint32_t(high) << 16));
}

// Rows a and b interleaved, 32-bit results.
struct Wide {
  __m256i low, high;
};

inline Wide operator+(Wide a, Wide b) {
  return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
inline Wide operator-(Wide a, Wide b) {
  return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
}
inline Wide interleave(__m256i a, __m256i b) {
  return {_mm256_unpacklo_epi16(a, b), _mm256_unpackhi_epi16(a, b)};
}
inline Wide dot(Wide pairs, __m256i weights) {
  return {_mm256_madd_epi16(pairs.low, weights), _mm256_madd_epi16(pairs.high, weights)};
}
template <int kShift>
inline __m256i narrow(Wide a) {
  return _mm256_packs_epi32(_mm256_srai_epi32(a.low, kShift), _mm256_srai_epi32(a.high, kShift));
}

// One dimension of Loeffler, Ligtenberg and Moschytz's transform with 13-bit constants, over
// registers. Sums of products are merged, which changes no bit: all of them are exact.
// With kHalf, inputs 4 to 7 are zero.
template <int kShift, bool kHalf>
inline void one_dimension(__m256i r[8]) {
  const __m256i rounding = _mm256_set1_epi32(1 << (kShift - 1));
  Wide even[4], odd[4];
  if constexpr (kHalf) {
    const Wide p02 = interleave(r[0], r[2]), p13 = interleave(r[1], r[3]);
    even[0] = dot(p02, pair(8192, 10703));
    even[1] = dot(p02, pair(8192, 4433));
    even[2] = dot(p02, pair(8192, -4433));
    even[3] = dot(p02, pair(8192, -10703));
    odd[0] = dot(p13, pair(11363, 9633));
    odd[1] = dot(p13, pair(9633, -2259));
    odd[2] = dot(p13, pair(6437, -11362));
    odd[3] = dot(p13, pair(2260, -6436));
  } else {
    const Wide p04 = interleave(r[0], r[4]), p26 = interleave(r[2], r[6]);
    const Wide sum = dot(p04, pair(8192, 8192)), difference = dot(p04, pair(8192, -8192));
    const Wide outer = dot(p26, pair(10703, 4433)), inner = dot(p26, pair(4433, -10704));
    even[0] = sum + outer;
    even[1] = difference + inner;
    even[2] = difference - inner;
    even[3] = sum - outer;
    const Wide z34 = interleave(_mm256_add_epi16(r[7], r[3]), _mm256_add_epi16(r[5], r[1]));
    const Wide z3 = dot(z34, pair(-6436, 9633)), z4 = dot(z34, pair(9633, 6437));
    const Wide p17 = interleave(r[1], r[7]), p35 = interleave(r[3], r[5]);
    odd[0] = dot(p17, pair(4926, -7373)) + z4;
    odd[1] = dot(p35, pair(4177, -20995)) + z3;
    odd[2] = dot(p35, pair(-20995, -4176)) + z4;
    odd[3] = dot(p17, pair(-7373, -4927)) + z3;
  }
  for (int i = 0; i < 4; ++i) {
    even[i] = {_mm256_add_epi32(even[i].low, rounding), _mm256_add_epi32(even[i].high, rounding)};
    r[i] = narrow<kShift>(even[i] + odd[i]);
    r[7 - i] = narrow<kShift>(even[i] - odd[i]);
  }
}

// Of each half, 8 x 8; with kHalf only the first four rows of the result.
template <bool kHalf>
inline void transpose(__m256i r[8]) {
  __m256i a[8], b[8];
  for (int i = 0; i < 4; ++i) {
    a[i] = _mm256_unpacklo_epi16(r[2 * i], r[2 * i + 1]);  // columns 0 to 3 of two rows
    if (!kHalf) a[4 + i] = _mm256_unpackhi_epi16(r[2 * i], r[2 * i + 1]);
  }
  for (int h = 0; h < (kHalf ? 1 : 2); ++h) {
    const __m256i* s = a + 4 * h;
    b[0] = _mm256_unpacklo_epi32(s[0], s[1]);  // columns 0, 1 of rows 0 to 3
    b[1] = _mm256_unpackhi_epi32(s[0], s[1]);
    b[2] = _mm256_unpacklo_epi32(s[2], s[3]);
    b[3] = _mm256_unpackhi_epi32(s[2], s[3]);
    r[4 * h + 0] = _mm256_unpacklo_epi64(b[0], b[2]);
    r[4 * h + 1] = _mm256_unpackhi_epi64(b[0], b[2]);
    r[4 * h + 2] = _mm256_unpacklo_epi64(b[1], b[3]);
    r[4 * h + 3] = _mm256_unpackhi_epi64(b[1], b[3]);
  }
}

inline __m256i load_two(const int16_t* left, const int16_t* right) {
  return _mm256_inserti128_si256(
      _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(left))),
      _mm_loadu_si128(reinterpret_cast<const __m128i*>(right)), 1);
}

// 16 x 8 pixels at `to`.
template <bool kHalf>
inline void two_blocks(const int16_t* left, const int16_t* right, const QuantRows& quant,
                       uint8_t* to, ptrdiff_t stride) {
  __m256i r[8];
  for (int i = 0; i < (kHalf ? 4 : 8); ++i) {
    const __m256i q = _mm256_load_si256(reinterpret_cast<const __m256i*>(quant.row[i]));
    r[i] = _mm256_mullo_epi16(load_two(left + 8 * i, right + 8 * i), q);
  }
  one_dimension<11, kHalf>(r);
  transpose<kHalf>(r);
  one_dimension<18, kHalf>(r);
  // r[j] is column j. Bytes of columns j and j + 4 together, then the transposition of bytes.
  __m256i c[4];
  for (int j = 0; j < 4; ++j) {
    c[j] = _mm256_xor_si256(_mm256_packs_epi16(r[j], r[j + 4]), _mm256_set1_epi8(-128));
  }
  const __m256i a0 = _mm256_unpacklo_epi8(c[0], c[1]), a1 = _mm256_unpackhi_epi8(c[0], c[1]);
  const __m256i a2 = _mm256_unpacklo_epi8(c[2], c[3]), a3 = _mm256_unpackhi_epi8(c[2], c[3]);
  const __m256i b0 = _mm256_unpacklo_epi16(a0, a2), b1 = _mm256_unpackhi_epi16(a0, a2);
  const __m256i b2 = _mm256_unpacklo_epi16(a1, a3), b3 = _mm256_unpackhi_epi16(a1, a3);
  const __m256i rows[4] = {_mm256_unpacklo_epi32(b0, b2), _mm256_unpackhi_epi32(b0, b2),
                           _mm256_unpacklo_epi32(b1, b3), _mm256_unpackhi_epi32(b1, b3)};
  for (int i = 0; i < 4; ++i) {  // two rows of the left block, two of the right
    const __m256i two = _mm256_permute4x64_epi64(rows[i], 0xd8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + 2 * i * stride), _mm256_castsi256_si128(two));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + (2 * i + 1) * stride),
                     _mm256_extracti128_si256(two, 1));
  }
}

inline uint64_t constant_pixels(int dc, int step) {
  const int pixel = ((int16_t(dc * step) * 4 + 16) >> 5) + 128;
  return uint64_t(std::clamp(pixel, 0, 255)) * 0x0101010101010101u;
}

}  // namespace transform

// 16 x 8 pixels of two neighbouring blocks.
inline void inverse_transform(const int16_t* left, const int16_t* right, const QuantRows& quant,
                              uint8_t* to, ptrdiff_t stride) {
  const auto row = [&](int i) { return transform::load_two(left + 8 * i, right + 8 * i); };
  const __m256i low =
      _mm256_or_si256(_mm256_or_si256(row(4), row(5)), _mm256_or_si256(row(6), row(7)));
  const __m256i high = _mm256_or_si256(_mm256_or_si256(row(1), row(2)), row(3));
  // Of these rows, what is not in the upper left quarter: columns 4 to 7, and all the lower half.
  const __m256i columns = _mm256_set_epi64x(-1, 0, -1, 0);
  const __m256i outside =
      _mm256_or_si256(low, _mm256_and_si256(_mm256_or_si256(high, row(0)), columns));
  if (!_mm256_testz_si256(outside, outside)) {
    return transform::two_blocks<false>(left, right, quant, to, stride);
  }
  const __m256i not_dc = _mm256_set_epi64x(-1, ~0xffffll, -1, ~0xffffll);
  const __m256i ac = _mm256_or_si256(high, _mm256_and_si256(row(0), not_dc));
  if (!_mm256_testz_si256(ac, ac)) {
    return transform::two_blocks<true>(left, right, quant, to, stride);
  }
  const __m128i pixels =
      _mm_set_epi64x(int64_t(transform::constant_pixels(right[0], quant.row[0][0])),
                     int64_t(transform::constant_pixels(left[0], quant.row[0][0])));
  for (int i = 0; i < 8; ++i) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i * stride), pixels);
  }
}

// ---- Upsampling ----

// A row of 2n samples between two rows of n: weights 9, 3, 3, 1, with the roundings of libjpeg.
// `sums` has room for n + 2. Writes up to 32 samples more.
inline void upsample_2x2(const uint8_t* near, const uint8_t* far, int n, int16_t* sums,
                         uint8_t* to) {
  int16_t* s = sums + 1;
  for (int i = 0; i < n; ++i) s[i] = int16_t(3 * near[i] + far[i]);
  s[-1] = s[0];
  s[n] = s[n - 1];
  for (int i = 0; i < n; i += 16) {
    const auto at = [&](int j) {
      return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(s + i + j));
    };
    const __m256i three = _mm256_add_epi16(at(0), _mm256_add_epi16(at(0), at(0)));
    const __m256i even = _mm256_srli_epi16(
        _mm256_add_epi16(_mm256_add_epi16(three, at(-1)), _mm256_set1_epi16(8)), 4);
    const __m256i odd = _mm256_srli_epi16(
        _mm256_add_epi16(_mm256_add_epi16(three, at(1)), _mm256_set1_epi16(7)), 4);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 2 * i),
                        _mm256_or_si256(even, _mm256_slli_epi16(odd, 8)));
  }
}

// ---- Colour ----

namespace colour {

// 16 pixels of 16 bits each way: B, G, R as libjpeg rounds them.
inline void convert(__m256i y, __m256i cb, __m256i cr, __m256i& b, __m256i& g, __m256i& r) {
  const __m256i one = _mm256_set1_epi16(1);
  // round(x * c / 65536) for c < 32768, from a product that only keeps its upper half.
  const auto scaled = [&](__m256i x, int c) {
    const __m256i twice = _mm256_mulhi_epi16(_mm256_add_epi16(x, x), _mm256_set1_epi16(int16_t(c)));
    return _mm256_srai_epi16(_mm256_add_epi16(twice, one), 1);
  };
  // 1.402 = 1 + 0.402 and 1.772 = 2 - 0.228
  r = _mm256_add_epi16(y, _mm256_add_epi16(cr, scaled(cr, 26345)));
  b = _mm256_add_epi16(y, _mm256_add_epi16(_mm256_add_epi16(cb, cb), scaled(cb, -14942)));
  // -0.34414 cb - 0.71414 cr = -0.34414 cb + 0.28586 cr - cr
  const __m256i weights = transform::pair(-22554, 18734), half = _mm256_set1_epi32(1 << 15);
  const auto sixteenth = [&](__m256i pairs) {
    return _mm256_srai_epi32(_mm256_add_epi32(_mm256_madd_epi16(pairs, weights), half), 16);
  };
  const __m256i green = _mm256_packs_epi32(sixteenth(_mm256_unpacklo_epi16(cb, cr)),
                                           sixteenth(_mm256_unpackhi_epi16(cb, cr)));
  g = _mm256_add_epi16(y, _mm256_sub_epi16(green, cr));
}

// Byte i of 48 is channel i % 3 of pixel i / 3: the bytes of a channel that go to each 16 of them.
struct Shuffles {
  alignas(16) int8_t at[3][3][16];

  constexpr Shuffles() : at() {
    for (int part = 0; part < 3; ++part) {
      for (int channel = 0; channel < 3; ++channel) {
        for (int i = 0; i < 16; ++i) {
          const int byte = part * 16 + i;
          at[part][channel][i] = byte % 3 == channel ? int8_t(byte / 3) : int8_t(-1);
        }
      }
    }
  }
};
inline constexpr Shuffles kShuffles;

// 32 pixels, 96 bytes: 16 pixels of each half.
inline void store_bgr(__m256i b, __m256i g, __m256i r, uint8_t* to) {
  for (int part = 0; part < 3; ++part) {
    const auto pick = [&](__m256i x, int channel) {
      const auto* shuffle = reinterpret_cast<const __m128i*>(kShuffles.at[part][channel]);
      return _mm256_shuffle_epi8(x, _mm256_broadcastsi128_si256(_mm_load_si128(shuffle)));
    };
    const __m256i bytes = _mm256_or_si256(pick(b, 0), _mm256_or_si256(pick(g, 1), pick(r, 2)));
    auto* at = reinterpret_cast<__m128i*>(to + 16 * part);
    _mm_storeu_si128(at, _mm256_castsi256_si128(bytes));
    _mm_storeu_si128(at + 3, _mm256_extracti128_si256(bytes, 1));
  }
}

}  // namespace colour

// `width` pixels BGR. Rows of samples may be read up to 32 past the width.
inline void colour_row(const uint8_t* y, const uint8_t* cb, const uint8_t* cr, int width,
                       uint8_t* to) {
  const __m256i centre = _mm256_set1_epi16(128), zero = _mm256_setzero_si256();
  const auto load = [](const uint8_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  };
  for (int x = 0; x < width; x += 32) {
    // Unpacked words are in the order in which packing puts them right.
    const __m256i y8 = load(y + x), cb8 = load(cb + x), cr8 = load(cr + x);
    __m256i b[2], g[2], r[2];
    colour::convert(_mm256_unpacklo_epi8(y8, zero),
                    _mm256_sub_epi16(_mm256_unpacklo_epi8(cb8, zero), centre),
                    _mm256_sub_epi16(_mm256_unpacklo_epi8(cr8, zero), centre), b[0], g[0], r[0]);
    colour::convert(_mm256_unpackhi_epi8(y8, zero),
                    _mm256_sub_epi16(_mm256_unpackhi_epi8(cb8, zero), centre),
                    _mm256_sub_epi16(_mm256_unpackhi_epi8(cr8, zero), centre), b[1], g[1], r[1]);
    const bool whole = x + 32 <= width;
    uint8_t rest[96];
    colour::store_bgr(_mm256_packus_epi16(b[0], b[1]), _mm256_packus_epi16(g[0], g[1]),
                      _mm256_packus_epi16(r[0], r[1]), whole ? to + 3 * x : rest);
    if (!whole) std::memcpy(to + 3 * x, rest, size_t(width - x) * 3);
  }
}

}  // namespace fastjpeg
