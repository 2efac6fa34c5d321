// Vectors of 32 bytes for jitter_loop.h: x86-64 with AVX2 and FMA. Only for files that are compiled
// for those processors.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "render/vectors_x86.h"

namespace yolodata {
namespace {

class Avx2 {
 public:
  static constexpr int kBytes = 32;
  static constexpr bool kHasTables = false;
  using Bytes = __m256i;
  using Words = __m256i;
  using Mask = __m256i;  // the highest bits of bytes
  struct Two {
    Words low, high;  // of pixels 0-7 and 16-23, and of the others
  };
  struct Reals {
    __m256 even, odd;  // of sixteen words
  };
  struct Map {
    Words whole, part;
  };

  static Bytes load(const std::uint8_t* bytes) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes));
  }
  static void store(std::uint8_t* bytes, Bytes value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes), value);
  }
  static Bytes zero() { return _mm256_setzero_si256(); }
  template <int kByte>
  static Bytes bytes() {
    return constant<std::uint8_t, kByte & 255>();
  }
  template <int kWord>
  static Words words() {
    return constant<std::uint16_t, kWord>();
  }
  static Words words(int word) { return _mm256_set1_epi16(static_cast<short>(word)); }

  static Bytes max(Bytes a, Bytes b) { return _mm256_max_epu8(a, b); }
  static Bytes min(Bytes a, Bytes b) { return _mm256_min_epu8(a, b); }
  static Bytes subtract(Bytes a, Bytes b) { return _mm256_sub_epi8(a, b); }
  static bool all_zero(Bytes a) { return _mm256_testz_si256(a, a); }
  // Of bytes so small that nothing gets into the next one.
  template <int kBits>
  static Bytes shift(Bytes a) {
    return _mm256_slli_epi16(a, kBits);
  }

  static Mask equal(Bytes a, Bytes b) { return _mm256_cmpeq_epi8(a, b); }
  template <int kLimit>
  static Mask at_least(Bytes a) {
    if constexpr (kLimit <= 128)
      return _mm256_adds_epu8(a, bytes<128 - kLimit>());
    else
      return _mm256_subs_epu8(a, bytes<kLimit - 128>());
  }
  static Mask differ(Mask a, Mask b) { return _mm256_xor_si256(a, b); }
  static Bytes select(Mask mask, Bytes yes, Bytes no) { return _mm256_blendv_epi8(no, yes, mask); }
  // For masks of `equal`.
  static Bytes keep(Mask mask, Bytes a) { return _mm256_and_si256(mask, a); }
  static Bytes drop(Mask mask, Bytes a) { return _mm256_andnot_si256(mask, a); }

  static Two widen(Bytes a) { return zip(a, zero()); }
  static Two zip(Bytes a, Bytes b) {
    return {_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)};
  }
  static Bytes pack(Two a) { return _mm256_packus_epi16(a.low, a.high); }
  // Sums of two products each, of bytes of `a` with signed ones.
  static Two pairs(Two a, Two b) {
    return {_mm256_maddubs_epi16(a.low, b.low), _mm256_maddubs_epi16(a.high, b.high)};
  }
  static Two pairs(Two a, Bytes b) { return pairs(a, {b, b}); }
  static Words add(Words a, Words b) { return _mm256_add_epi16(a, b); }
  static Words min_words(Words a, Words b) { return _mm256_min_epu16(a, b); }
  template <int kBits>
  static Words shift_right(Words a) {
    return _mm256_srli_epi16(a, kBits);
  }
  static Words high_product(Words a, Words b) { return _mm256_mulhi_epu16(a, b); }
  static Words rounded_high_product(Words a, Words b) { return _mm256_mulhrs_epi16(a, b); }

  static Map prepare(const ByteMap& map) { return {words(whole_of(map)), words(part_of(map))}; }
  static Bytes map(Two a, const Map& map) {
    const auto raised = [&map](Words word) {
      return add(high_product(word, map.part), _mm256_mullo_epi16(word, map.whole));
    };
    return pack({raised(a.low), raised(a.high)});  // which cuts off at 255
  }

  // kNumerator / a, rounded; anything for 0.
  template <int kNumerator>
  static Two reciprocals(Bytes a) {
    const Two words = widen(max(a, bytes<1>()));
    return {quotients<kNumerator>(words.low), quotients<kNumerator>(words.high)};
  }

  static Reals unit(Words a) { return times(a, unit_factor); }
  static Reals sixths(Words a) { return times(a, sixths_factor); }
  static Reals upper_halves(Words a) {
    const __m256i odd = _mm256_and_si256(a, constant<std::uint32_t, -65536>());
    return {_mm256_castsi256_ps(_mm256_slli_epi32(a, 16)), _mm256_castsi256_ps(odd)};
  }
  static Reals distance(Reals a, Reals b) {
    const __m256 no_sign = _mm256_castsi256_ps(constant<std::uint32_t, 0x7FFFFFFF>());
    return {_mm256_and_ps(_mm256_sub_ps(a.even, b.even), no_sign),
            _mm256_and_ps(_mm256_sub_ps(a.odd, b.odd), no_sign)};
  }
  static Reals one_less(Reals a) {
    const __m256 one = constant<1>();
    return {_mm256_sub_ps(one, a.even), _mm256_sub_ps(one, a.odd)};
  }
  static Reals one_less(Reals a, Reals b) {  // 1 - a * b, rounded once
    const __m256 one = constant<1>();
    return {_mm256_fnmadd_ps(a.even, b.even, one), _mm256_fnmadd_ps(a.odd, b.odd, one)};
  }
  // a * b * 255
  static Reals bytes_of(Reals a, Reals b) {
    const __m256 most = constant<255>();
    return {_mm256_mul_ps(_mm256_mul_ps(a.even, b.even), most),
            _mm256_mul_ps(_mm256_mul_ps(a.odd, b.odd), most)};
  }
  // The whole parts of numbers below 256.
  static Bytes truncate(Reals low, Reals high) {
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15));
    return _mm256_shuffle_epi8(pack({truncated(low), truncated(high)}), order);
  }

 private:
  static Words truncated(Reals a) {  // in every sixteen bytes four even ones, then four odd ones
    return _mm256_packus_epi32(_mm256_cvttps_epi32(a.even), _mm256_cvttps_epi32(a.odd));
  }
  template <typename T, int kValue>
  static __m256i constant() {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(repeated<T, kValue>.values));
  }
  template <int kValue>
  static __m256 constant() {
    return _mm256_load_ps(repeated<float, kValue>.values);
  }

  // One division for two: kNumerator / (a * b), times b or a. See shade.h for why that suffices.
  template <int kNumerator>
  static Words quotients(Words a) {
    const __m256 even = _mm256_cvtepi32_ps(_mm256_and_si256(a, constant<std::uint32_t, 0xFFFF>()));
    const __m256 odd = _mm256_cvtepi32_ps(_mm256_srli_epi32(a, 16));
    const __m256 both = _mm256_div_ps(constant<kNumerator>(), _mm256_mul_ps(even, odd));
    const __m256 whole = constant<static_cast<int>(kWhole)>();  // 16 bits of the sums are used
    const __m256i of_even = _mm256_castps_si256(_mm256_fmadd_ps(both, odd, whole));
    const __m256i of_odd = _mm256_castps_si256(_mm256_fmadd_ps(both, even, whole));
    return _mm256_blend_epi16(of_even, _mm256_slli_epi32(of_odd, 16), 0xAA);
  }

  static Reals times(Words a, const Factor& by) {
    const __m256i exponent = constant<std::uint32_t, 0x4B000000>();  // of 2^23
    const __m256 factor = _mm256_load_ps(by.factor), shift = _mm256_load_ps(by.shift);
    const __m256 even = _mm256_castsi256_ps(_mm256_blend_epi16(a, exponent, 0xAA));
    const __m256 odd = _mm256_castsi256_ps(_mm256_or_si256(_mm256_srli_epi32(a, 16), exponent));
    return {_mm256_fmsub_ps(even, factor, shift), _mm256_fmsub_ps(odd, factor, shift)};
  }
};

}  // namespace
}  // namespace yolodata
