// Vectors of 64 bytes for jitter_loop.h: x86-64 with AVX-512 and its VBMI, which looks bytes up in
// tables of 256. Only for files that are compiled
// for those processors.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "render/vectors_x86.h"

namespace yolodata {
namespace {

class Avx512 {
 public:
  static constexpr int kBytes = 64;
  static constexpr bool kHasTables = true;
  using Bytes = __m512i;
  using Words = __m512i;
  using Mask = __mmask64;
  struct Two {
    Words low, high;  // of pixels 0-7, 16-23, 32-39, 48-55, and of the others
  };
  struct Reals {
    __m512 even, odd;  // of 32 words
  };
  struct Map {
    Bytes quarter[4];
  };

  static Bytes load(const std::uint8_t* bytes) {
    return _mm512_loadu_si512(reinterpret_cast<const __m512i*>(bytes));
  }
  static void store(std::uint8_t* bytes, Bytes value) {
    _mm512_storeu_si512(reinterpret_cast<__m512i*>(bytes), value);
  }
  static Bytes zero() { return _mm512_setzero_si512(); }
  template <int kByte>
  static Bytes bytes() {
    return constant<std::uint8_t, kByte & 255>();
  }
  template <int kWord>
  static Words words() {
    return constant<std::uint16_t, kWord>();
  }
  static Words words(int word) { return _mm512_set1_epi16(static_cast<short>(word)); }

  static Bytes max(Bytes a, Bytes b) { return _mm512_max_epu8(a, b); }
  static Bytes min(Bytes a, Bytes b) { return _mm512_min_epu8(a, b); }
  static Bytes subtract(Bytes a, Bytes b) { return _mm512_sub_epi8(a, b); }
  static bool all_zero(Bytes a) { return _mm512_test_epi8_mask(a, a) == 0; }
  // Of bytes so small that nothing gets into the next one.
  template <int kBits>
  static Bytes shift(Bytes a) {
    return _mm512_slli_epi16(a, kBits);
  }

  static Mask equal(Bytes a, Bytes b) { return _mm512_cmpeq_epi8_mask(a, b); }
  template <int kLimit>
  static Mask at_least(Bytes a) {
    return _mm512_cmpge_epu8_mask(a, bytes<kLimit>());
  }
  static Mask differ(Mask a, Mask b) { return a ^ b; }
  static Bytes select(Mask mask, Bytes yes, Bytes no) {
    return _mm512_mask_blend_epi8(mask, no, yes);
  }
  static Bytes keep(Mask mask, Bytes a) { return _mm512_maskz_mov_epi8(mask, a); }
  static Bytes drop(Mask mask, Bytes a) { return _mm512_maskz_mov_epi8(~mask, a); }

  static Two widen(Bytes a) { return zip(a, zero()); }
  static Two zip(Bytes a, Bytes b) {
    return {_mm512_unpacklo_epi8(a, b), _mm512_unpackhi_epi8(a, b)};
  }
  static Bytes pack(Two a) { return _mm512_packus_epi16(a.low, a.high); }
  // Sums of two products each, of bytes of `a` with signed ones.
  static Two pairs(Two a, Two b) {
    return {_mm512_maddubs_epi16(a.low, b.low), _mm512_maddubs_epi16(a.high, b.high)};
  }
  static Two pairs(Two a, Bytes b) { return pairs(a, {b, b}); }
  static Words add(Words a, Words b) { return _mm512_add_epi16(a, b); }
  static Words min_words(Words a, Words b) { return _mm512_min_epu16(a, b); }
  template <int kBits>
  static Words shift_right(Words a) {
    return _mm512_srli_epi16(a, kBits);
  }
  static Words high_product(Words a, Words b) { return _mm512_mulhi_epu16(a, b); }
  static Words rounded_high_product(Words a, Words b) { return _mm512_mulhrs_epi16(a, b); }

  static Map prepare(const ByteMap& map) { return quarters(map.table); }
  static Bytes map(Two a, const Map& map) { return look_up(map, pack(a)); }

  // kNumerator / a, rounded, for those that have 16 bits; anything for the others.
  template <int kNumerator>
  static Two reciprocals(Bytes a) {
    const ReciprocalTable& table = reciprocal_table<kNumerator>;
    return zip(look_up(quarters(table.low), a), look_up(quarters(table.high), a));
  }

  static Reals unit(Words a) { return times(a, unit_factor); }
  static Reals sixths(Words a) { return times(a, sixths_factor); }
  static Reals upper_halves(Words a) {
    const __m512i odd = _mm512_and_si512(a, constant<std::uint32_t, -65536>());
    return {_mm512_castsi512_ps(_mm512_slli_epi32(a, 16)), _mm512_castsi512_ps(odd)};
  }
  static Reals distance(Reals a, Reals b) {
    return {_mm512_abs_ps(_mm512_sub_ps(a.even, b.even)),
            _mm512_abs_ps(_mm512_sub_ps(a.odd, b.odd))};
  }
  static Reals one_less(Reals a) {
    const __m512 one = constant<1>();
    return {_mm512_sub_ps(one, a.even), _mm512_sub_ps(one, a.odd)};
  }
  static Reals one_less(Reals a, Reals b) {  // 1 - a * b, rounded once
    const __m512 one = constant<1>();
    return {_mm512_fnmadd_ps(a.even, b.even, one), _mm512_fnmadd_ps(a.odd, b.odd, one)};
  }
  // a * b * 255
  static Reals bytes_of(Reals a, Reals b) {
    const __m512 most = constant<255>();
    return {_mm512_mul_ps(_mm512_mul_ps(a.even, b.even), most),
            _mm512_mul_ps(_mm512_mul_ps(a.odd, b.odd), most)};
  }
  // The whole parts of numbers below 256.
  static Bytes truncate(Reals low, Reals high) {
    const __m512i order =
        _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15));
    return _mm512_shuffle_epi8(pack({truncated(low), truncated(high)}), order);
  }

 private:
  static Words truncated(Reals a) {  // in every sixteen bytes four even ones, then four odd ones
    return _mm512_packus_epi32(_mm512_cvttps_epi32(a.even), _mm512_cvttps_epi32(a.odd));
  }
  template <typename T, int kValue>
  static __m512i constant() {
    return _mm512_load_si512(reinterpret_cast<const __m512i*>(repeated<T, kValue>.values));
  }
  template <int kValue>
  static __m512 constant() {
    return _mm512_load_ps(repeated<float, kValue>.values);
  }

  static Map quarters(const std::uint8_t* table) {
    return {{load(table), load(table + 64), load(table + 128), load(table + 192)}};
  }
  static Bytes look_up(const Map& map, Bytes at) {
    const Bytes lower = _mm512_permutex2var_epi8(map.quarter[0], at, map.quarter[1]);
    const Bytes upper = _mm512_permutex2var_epi8(map.quarter[2], at, map.quarter[3]);
    return select(_mm512_movepi8_mask(at), upper, lower);
  }

  static Reals times(Words a, const Factor& by) {
    const __m512i exponent = constant<std::uint32_t, 0x4B000000>();  // of 2^23
    const __m512 factor = _mm512_load_ps(by.factor), shift = _mm512_load_ps(by.shift);
    const __m512 even = _mm512_castsi512_ps(_mm512_mask_blend_epi16(0xAAAAAAAA, a, exponent));
    const __m512 odd = _mm512_castsi512_ps(_mm512_or_si512(_mm512_srli_epi32(a, 16), exponent));
    return {_mm512_fmsub_ps(even, factor, shift), _mm512_fmsub_ps(odd, factor, shift)};
  }
};

}  // namespace
}  // namespace yolodata
