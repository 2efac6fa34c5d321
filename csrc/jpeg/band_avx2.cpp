// Everything in this file is compiled for processors with AVX2 and BMI2: nothing else may be
// defined here.
//
// Note [the same bits]. libjpeg's "islow" transform, its "fancy" upsampling and its colours are
// integer arithmetic, and libjpeg-turbo's vectors give the bits of its C. The sums here are made in
// the same widths (16 bits where it wraps or saturates), so that they agree for any coefficients.
#if defined(__x86_64__)
#pragma GCC target("avx2,bmi,bmi2")

#include "jpeg/band_avx2.h"

#include <immintrin.h>

#include <cstring>

namespace yolodata::jpeg::avx2 {
namespace {

// Bits -----------------------------------------------------------------------------------------

// At least 56 bits are in the window afterwards.
inline void refill(Bits& bits) {
  std::uint64_t more;
  std::memcpy(&more, bits.next, 8);
  bits.window |= __builtin_bswap64(more) >> bits.held;
  bits.next += (63 - bits.held) >> 3;
  bits.held |= 56;
}

inline void skip(Bits& bits, std::uint32_t count) {
  bits.window <<= count;
  bits.held -= static_cast<std::int32_t>(count);
}

// What `one` would say of a code that it does not hold whole; kNoCode for what is no code.
constexpr std::uint32_t kNoCode = HuffmanTable::kLong | kEnd << 8;

__attribute__((noinline)) std::uint32_t read_long(const HuffmanTable& table, std::uint32_t entry,
                                                  std::uint64_t window, bool ac) {
  std::uint32_t length = entry & 15, symbol = entry >> 8 & 255;
  if (length == 0) {
    const auto code = static_cast<std::int32_t>(window >> 48);
    for (length = HuffmanTable::kLook + 1; code > table.last[length];) ++length;
    if (length > 16) return kNoCode;
    const std::int32_t number = (code >> (16 - length)) - table.shift[length];
    symbol = table.symbols[static_cast<std::size_t>(number) & 255];
  }
  const std::uint32_t size = ac ? symbol & 15 : symbol;
  const std::uint32_t run = ac ? symbol == 0 ? kEnd : symbol >> 4 : 0;
  std::int32_t value = 0;
  if (size) {
    value = static_cast<std::int32_t>(window << length >> (64 - size));
    if (value < 1 << (size - 1)) value += 1 - (1 << size);
  }
  return static_cast<std::uint32_t>(value) << 16 | run << 8 | (length + size);
}

// Where the coefficients of a block end up: at the 64th, or where a code says that no more follow.
// Else a run leads out of the block, which is no baseline file's.
inline bool is_end(std::uint32_t last) { return last == 63 || last >= kEnd; }

// Reads a block; the place behind it may be written to.
inline bool read_block(const HuffmanTable& dc_table, const HuffmanTable& ac_table, Bits& given,
                       std::uint32_t& dc, std::int16_t* out) {
  constexpr int kShift = 64 - HuffmanTable::kLook;
  Bits bits = given;
  refill(bits);
  std::uint32_t entry = dc_table.one[bits.window >> kShift];
  if (entry & HuffmanTable::kLong) {
    entry = read_long(dc_table, entry, bits.window, false);
    if (entry == kNoCode) return false;
  }
  skip(bits, entry & 63);
  dc += entry >> 16;  // as libjpeg's, it is cut to 16 bits
  out[0] = static_cast<std::int16_t>(dc);

  std::uint32_t k = 1;
  const auto read_some = [&](bool& good) {
    const std::uint64_t found = ac_table.two[bits.window >> kShift];
    if (found & HuffmanTable::kLong) [[unlikely]] {
      const std::uint32_t rare =
          read_long(ac_table, static_cast<std::uint32_t>(found), bits.window, true);
      skip(bits, rare & 63);
      k += rare >> 8 & 255;
      out[kPlace[k]] = static_cast<std::int16_t>(rare >> 16);
      good = rare != kNoCode && (k < 63 || is_end(k));
    } else {
      const std::uint64_t window = bits.window;
      const std::int32_t held = bits.held;
      skip(bits, found & 63);
      k += found >> 8 & 255;
      out[kPlace[k]] = static_cast<std::int16_t>(found >> 32);
      if (k >= 63) [[unlikely]] {  // the second one, if any, is the next block's
        bits.window = window << (found >> 24 & 63);
        bits.held = held - static_cast<std::int32_t>(found >> 24 & 63);
        good = is_end(k);
      } else {
        k += found >> 16 & 255;
        out[kPlace[k]] = static_cast<std::int16_t>(found >> 48);
        good = k < 63 || is_end(k);
      }
    }
    ++k;
  };
  bool good = true;
  while (true) {
    refill(bits);
    read_some(good);
    if (k >= 64) break;
    read_some(good);
    if (k >= 64) break;
  }
  given = bits;
  return good && bits.next <= bits.end + 8;
}

// Samples --------------------------------------------------------------------------------------

inline __m256i pair(int low, int high) {
  return _mm256_set1_epi32(static_cast<int>(static_cast<std::uint32_t>(high) << 16 |
                                            (static_cast<std::uint32_t>(low) & 0xFFFF)));
}

// Sixteen numbers of 32 bits: those of the lower and upper quarters of either half.
struct Wide {
  __m256i low, high;
};

inline Wide operator+(Wide a, Wide b) {
  return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
}
inline Wide operator-(Wide a, Wide b) {
  return {_mm256_sub_epi32(a.low, b.low), _mm256_sub_epi32(a.high, b.high)};
}

struct Two {  // two vectors of 16 bits, mixed
  __m256i low, high;
  Two(__m256i a, __m256i b) : low(_mm256_unpacklo_epi16(a, b)), high(_mm256_unpackhi_epi16(a, b)) {}
  // a * x + b * y
  Wide times(int x, int y) const {
    const __m256i factors = pair(x, y);
    return {_mm256_madd_epi16(low, factors), _mm256_madd_epi16(high, factors)};
  }
};

constexpr int kFraction = 13, kFirst = 2;  // bits behind the point: of constants, between passes

constexpr int fixed(double x) { return static_cast<int>(x * (1 << kFraction) + 0.5); }

inline Wide shifted_up(__m256i a) {
  const __m256i zero = _mm256_setzero_si256();
  return {_mm256_srai_epi32(_mm256_unpacklo_epi16(zero, a), 16 - kFraction),
          _mm256_srai_epi32(_mm256_unpackhi_epi16(zero, a), 16 - kFraction)};
}

template <int bits>
inline __m256i rounded(Wide a) {
  const __m256i half = _mm256_set1_epi32(1 << (bits - 1));
  return _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(a.low, half), bits),
                            _mm256_srai_epi32(_mm256_add_epi32(a.high, half), bits));
}

// One dimension of the inverse transform, of Loeffler, Ligtenberg and Moschytz, in libjpeg's order.
template <int bits>
inline void transform(__m256i (&v)[8]) {
  const Two even(v[2], v[6]);
  const Wide e3 = even.times(fixed(0.541196100) + fixed(0.765366865), fixed(0.541196100));
  const Wide e2 = even.times(fixed(0.541196100), fixed(0.541196100) - fixed(1.847759065));
  const Wide e0 = shifted_up(_mm256_add_epi16(v[0], v[4]));
  const Wide e1 = shifted_up(_mm256_sub_epi16(v[0], v[4]));

  const Two sums(_mm256_add_epi16(v[7], v[3]), _mm256_add_epi16(v[5], v[1]));
  const Wide z3 = sums.times(fixed(1.175875602) - fixed(1.961570560), fixed(1.175875602));
  const Wide z4 = sums.times(fixed(1.175875602), fixed(1.175875602) - fixed(0.390180644));
  const Two outer(v[7], v[1]), inner(v[5], v[3]);
  const Wide o0 = outer.times(fixed(0.298631336) - fixed(0.899976223), -fixed(0.899976223)) + z3;
  const Wide o3 = outer.times(-fixed(0.899976223), fixed(1.501321110) - fixed(0.899976223)) + z4;
  const Wide o1 = inner.times(fixed(2.053119869) - fixed(2.562915447), -fixed(2.562915447)) + z4;
  const Wide o2 = inner.times(-fixed(2.562915447), fixed(3.072711026) - fixed(2.562915447)) + z3;

  const Wide a = e0 + e3, b = e1 + e2, c = e1 - e2, d = e0 - e3;
  v[0] = rounded<bits>(a + o3);
  v[7] = rounded<bits>(a - o3);
  v[1] = rounded<bits>(b + o2);
  v[6] = rounded<bits>(b - o2);
  v[2] = rounded<bits>(c + o1);
  v[5] = rounded<bits>(c - o1);
  v[3] = rounded<bits>(d + o0);
  v[4] = rounded<bits>(d - o0);
}

inline void transpose(__m256i (&v)[8]) {
  __m256i a[8], b[8];
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = _mm256_unpacklo_epi16(v[2 * i], v[2 * i + 1]);
    a[2 * i + 1] = _mm256_unpackhi_epi16(v[2 * i], v[2 * i + 1]);
  }
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 2; ++j) {
      b[4 * i + 2 * j] = _mm256_unpacklo_epi32(a[4 * i + j], a[4 * i + 2 + j]);
      b[4 * i + 2 * j + 1] = _mm256_unpackhi_epi32(a[4 * i + j], a[4 * i + 2 + j]);
    }
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = _mm256_unpacklo_epi64(b[i], b[4 + i]);
    v[2 * i + 1] = _mm256_unpackhi_epi64(b[i], b[4 + i]);
  }
}

inline __m128i load(const std::uint8_t* at) {
  return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at));
}

inline __m256i load_wide(const std::uint8_t* at) { return _mm256_cvtepu8_epi16(load(at)); }

inline void store(std::uint8_t* at, __m256i value) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(at), value);
}

inline void store(std::uint8_t* at, __m128i value) {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(at), value);
}

// Colours --------------------------------------------------------------------------------------

// floor(a * factor / 2^16 + 1/2)
inline __m256i scaled(__m256i a, int factor) {
  const __m256i twice =
      _mm256_mulhi_epi16(_mm256_add_epi16(a, a), _mm256_set1_epi16(static_cast<short>(factor)));
  return _mm256_srai_epi16(_mm256_add_epi16(twice, _mm256_set1_epi16(1)), 1);
}

constexpr int fixed16(double x) { return static_cast<int>(x * 65536 + 0.5); }

inline __m128i bytes(__m256i a) {
  return _mm_packus_epi16(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
}

struct Pixels {
  __m128i r, g, b;
};

inline Pixels convert(const std::uint8_t* y_at, const std::uint8_t* cb_at,
                      const std::uint8_t* cr_at) {
  const __m256i centre = _mm256_set1_epi16(128);
  const __m256i y = load_wide(y_at);
  const __m256i cb = _mm256_sub_epi16(load_wide(cb_at), centre);
  const __m256i cr = _mm256_sub_epi16(load_wide(cr_at), centre);
  // 1.402 = 1 + 0.402; 1.772 = 2 - 0.228; 0.71414 = 1 - 0.28586: factors below 1/2 fit.
  const __m256i r = _mm256_add_epi16(_mm256_add_epi16(y, cr), scaled(cr, fixed16(0.40200)));
  const __m256i b = _mm256_add_epi16(_mm256_add_epi16(y, _mm256_add_epi16(cb, cb)),
                                     scaled(cb, -fixed16(0.22800)));
  const __m256i factors = pair(-fixed16(0.34414), fixed16(0.28586));
  const __m256i half = _mm256_set1_epi32(1 << 15);
  const __m256i low = _mm256_madd_epi16(_mm256_unpacklo_epi16(cb, cr), factors);
  const __m256i high = _mm256_madd_epi16(_mm256_unpackhi_epi16(cb, cr), factors);
  const __m256i part = _mm256_packs_epi32(_mm256_srai_epi32(_mm256_add_epi32(low, half), 16),
                                          _mm256_srai_epi32(_mm256_add_epi32(high, half), 16));
  const __m256i g = _mm256_sub_epi16(_mm256_add_epi16(y, part), cr);
  return {bytes(r), bytes(g), bytes(b)};
}

// 16 pixels, 48 bytes.
inline void interleave(const Pixels& p, std::uint8_t* out) {
  const auto mix = [&](__m128i r, __m128i g, __m128i b) {
    return _mm_or_si128(_mm_or_si128(_mm_shuffle_epi8(p.r, r), _mm_shuffle_epi8(p.g, g)),
                        _mm_shuffle_epi8(p.b, b));
  };
  store(out, mix(_mm_setr_epi8(0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1, 5),
                 _mm_setr_epi8(-1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1, -1),
                 _mm_setr_epi8(-1, -1, 0, -1, -1, 1, -1, -1, 2, -1, -1, 3, -1, -1, 4, -1)));
  store(out + 16, mix(_mm_setr_epi8(-1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10, -1),
                      _mm_setr_epi8(5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1, 10),
                      _mm_setr_epi8(-1, 5, -1, -1, 6, -1, -1, 7, -1, -1, 8, -1, -1, 9, -1, -1)));
  store(out + 32,
        mix(_mm_setr_epi8(-1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1, -1),
            _mm_setr_epi8(-1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15, -1),
            _mm_setr_epi8(10, -1, -1, 11, -1, -1, 12, -1, -1, 13, -1, -1, 14, -1, -1, 15)));
}

template <typename PixelsAt>
inline void write_row(int count, std::uint8_t* rgb, PixelsAt pixels_at) {
  int i = 0;
  for (; i + 16 <= count; i += 16) interleave(pixels_at(i), rgb + 3 * i);
  if (i == count) return;
  std::uint8_t last[48];
  interleave(pixels_at(i), last);
  std::memcpy(rgb + 3 * i, last, static_cast<std::size_t>(3 * (count - i)));
}

}  // namespace

bool read_unit(const Frame& frame, Bits& bits, std::uint32_t (&dc)[3], std::int16_t* const* out) {
  for (int c = 0; c < frame.components; ++c) {
    const Component& component = frame.component[static_cast<std::size_t>(c)];
    const HuffmanTable& dc_table = frame.dc[static_cast<std::size_t>(component.dc)];
    const HuffmanTable& ac_table = frame.ac[static_cast<std::size_t>(component.ac)];
    for (int b = component.across * component.down; b > 0; --b)
      if (!read_block(dc_table, ac_table, bits, dc[c], *out++)) return false;
  }
  return true;
}

bool to_samples(std::int16_t* blocks, const std::int16_t* step, std::uint8_t* out,
                std::ptrdiff_t stride) {
  __m256i v[8];
  for (int i = 0; i < 8; ++i) {
    auto* const low = reinterpret_cast<__m128i*>(blocks + 8 * i);
    auto* const high = reinterpret_cast<__m128i*>(blocks + 64 + 8 * i);
    const __m256i steps = _mm256_broadcastsi128_si256(
        _mm_loadu_si128(reinterpret_cast<const __m128i*>(step + 8 * i)));
    v[i] = _mm256_mullo_epi16(_mm256_loadu2_m128i(high, low), steps);
    _mm_storeu_si128(low, _mm_setzero_si128());
    _mm_storeu_si128(high, _mm_setzero_si128());
  }
  const __m256i high_bits =
      _mm256_srli_epi16(_mm256_add_epi16(v[0], _mm256_set1_epi16(1 << 13)), 14);
  transform<kFraction - kFirst>(v);  // columns
  transpose(v);
  transform<kFraction + kFirst + 3>(v);  // rows
  // To bytes, and back to rows of either block.
  const __m256i a = _mm256_packs_epi16(v[0], v[2]), b = _mm256_packs_epi16(v[1], v[3]);
  const __m256i c = _mm256_packs_epi16(v[4], v[6]), d = _mm256_packs_epi16(v[5], v[7]);
  const __m256i ab = _mm256_unpacklo_epi8(a, b), ab2 = _mm256_unpackhi_epi8(a, b);
  const __m256i cd = _mm256_unpacklo_epi8(c, d), cd2 = _mm256_unpackhi_epi8(c, d);
  const __m256i left = _mm256_unpacklo_epi16(ab, ab2), left2 = _mm256_unpackhi_epi16(ab, ab2);
  const __m256i right = _mm256_unpacklo_epi16(cd, cd2), right2 = _mm256_unpackhi_epi16(cd, cd2);
  const __m256i rows[4] = {_mm256_unpacklo_epi32(left, right), _mm256_unpackhi_epi32(left, right),
                           _mm256_unpacklo_epi32(left2, right2),
                           _mm256_unpackhi_epi32(left2, right2)};
  for (int i = 0; i < 4; ++i) {
    const __m256i centred = _mm256_add_epi8(_mm256_permute4x64_epi64(rows[i], 0xD8),
                                            _mm256_set1_epi8(static_cast<char>(128)));
    store(out + 2 * i * stride, _mm256_castsi256_si128(centred));
    store(out + (2 * i + 1) * stride, _mm256_extracti128_si256(centred, 1));
  }
  return _mm256_testz_si256(high_bits, high_bits) != 0;
}

void double_across(const std::uint8_t* row, int count, std::uint8_t* out) {
  for (int i = 0; i < count; i += 16) {
    const __m256i here = load_wide(row + i);
    const __m256i three = _mm256_add_epi16(here, _mm256_add_epi16(here, here));
    const __m256i even = _mm256_add_epi16(three, load_wide(row + i - 1));
    const __m256i odd = _mm256_add_epi16(three, load_wide(row + i + 1));
    const __m256i e = _mm256_srli_epi16(_mm256_add_epi16(even, _mm256_set1_epi16(1)), 2);
    const __m256i o = _mm256_srli_epi16(_mm256_add_epi16(odd, _mm256_set1_epi16(2)), 2);
    store(out + 2 * i, _mm256_or_si256(e, _mm256_slli_epi16(o, 8)));
  }
}

void double_both(const std::uint8_t* row, const std::uint8_t* next, int count, std::uint8_t* out) {
  const auto column = [&](int i) {
    const __m256i here = load_wide(row + i);
    return _mm256_add_epi16(_mm256_add_epi16(here, _mm256_add_epi16(here, here)),
                            load_wide(next + i));
  };
  for (int i = 0; i < count; i += 16) {
    const __m256i here = column(i);
    const __m256i three = _mm256_add_epi16(here, _mm256_add_epi16(here, here));
    const __m256i even = _mm256_add_epi16(three, column(i - 1));
    const __m256i odd = _mm256_add_epi16(three, column(i + 1));
    const __m256i e = _mm256_srli_epi16(_mm256_add_epi16(even, _mm256_set1_epi16(8)), 4);
    const __m256i o = _mm256_srli_epi16(_mm256_add_epi16(odd, _mm256_set1_epi16(7)), 4);
    store(out + 2 * i, _mm256_or_si256(e, _mm256_slli_epi16(o, 8)));
  }
}

void to_rgb(const std::uint8_t* y, const std::uint8_t* cb, const std::uint8_t* cr, int count,
            std::uint8_t* rgb) {
  write_row(count, rgb, [&](int i) { return convert(y + i, cb + i, cr + i); });
}

void grey_to_rgb(const std::uint8_t* y, int count, std::uint8_t* rgb) {
  write_row(count, rgb, [&](int i) {
    const __m128i grey = load(y + i);
    return Pixels{grey, grey, grey};
  });
}

}  // namespace yolodata::jpeg::avx2

#endif
