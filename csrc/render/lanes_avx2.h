// Vectors of eight floats or dwords for row_loops.h: x86-64 with AVX2 and FMA. Only for files that
// are compiled for those processors.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "render/row_types.h"

namespace yolodata {
namespace {

class Avx2Lanes {
 public:
  static constexpr int kLanes = 8, kBytes = 4 * kLanes;
  using Floats = __m256;
  using Dwords = __m256i;

  static Floats load(const float* at) { return _mm256_loadu_ps(at); }
  static Dwords load(const std::int32_t* at) { return load_any(at); }
  static Dwords load(const std::uint32_t* at) { return load_any(at); }
  static Dwords load(const std::uint8_t* at) { return load_any(at); }
  // Sixteen bytes in either half.
  static Dwords load_two(const std::uint8_t* low, const std::uint8_t* high) {
    return _mm256_loadu2_m128i(reinterpret_cast<const __m128i*>(high),
                               reinterpret_cast<const __m128i*>(low));
  }
  static void store(float* at, Floats value) { _mm256_storeu_ps(at, value); }
  static void store(std::int32_t* at, Dwords value) { store_any(at, value); }
  static void store(std::uint32_t* at, Dwords value) { store_any(at, value); }
  static void store(std::uint8_t* at, Dwords value) { store_any(at, value); }
  static void stream(std::uint8_t* to, const std::uint8_t* from) {
    _mm256_stream_si256(reinterpret_cast<__m256i*>(to), load(from));
  }

  static Floats all(float value) { return _mm256_set1_ps(value); }
  static Dwords all(int value) { return _mm256_set1_epi32(value); }
  static Dwords numbers() { return _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7); }
  // The same in both halves.
  static Dwords twice(__m128i half) { return _mm256_broadcastsi128_si256(half); }

  static Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
  static Floats subtract(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
  static Dwords subtract(Dwords a, Dwords b) { return _mm256_sub_epi32(a, b); }
  static Floats multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static Floats divide(Floats a, Floats b) { return _mm256_div_ps(a, b); }
  static Floats multiply_add(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  static Dwords bits_and(Dwords a, Dwords b) { return _mm256_and_si256(a, b); }
  // Of two products of 16-bit integers each.
  static Dwords add_products(Dwords a, Dwords b) { return _mm256_madd_epi16(a, b); }
  static Floats floor(Floats a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  }
  static Dwords to_nearest(Floats a) { return _mm256_cvtps_epi32(a); }
  static Floats to_floats(Dwords a) { return _mm256_cvtepi32_ps(a); }
  // Which of x reach x_limit or of y y_limit, unsigned.
  static std::uint32_t reach_either(Dwords x, Dwords x_limit, Dwords y, Dwords y_limit) {
    const __m256i past = _mm256_or_si256(at_least(x, x_limit), at_least(y, y_limit));
    return static_cast<std::uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(past)));
  }

  // kBytes pixels. Sixteen are three times sixteen bytes, and each of the three has every third
  // byte of a channel. Both halves of a register do that.
  static void split(const std::uint8_t* p, const Planes& out) {
    const __m256i a = load_two(p, p + 48), b = load_two(p + 16, p + 64);
    const __m256i c = load_two(p + 32, p + 80);
    store(out.channel[0],
          every_third(a, c, b, {0, 3, 6, 9, 12, 15, 2, 5, 8, 11, 14, 1, 4, 7, 10, 13}));
    store(out.channel[1],
          every_third(b, a, c, {1, 4, 7, 10, 13, 0, 3, 6, 9, 12, 15, 2, 5, 8, 11, 14}));
    store(out.channel[2],
          every_third(c, b, a, {2, 5, 8, 11, 14, 1, 4, 7, 10, 13, 0, 3, 6, 9, 12, 15}));
  }

  // Bytes 0-15 from the lower halves of the four in turn, 16-31 from the upper ones.
  static Dwords pack(Dwords a, Dwords b, Dwords c, Dwords d) {
    return _mm256_packus_epi16(_mm256_packs_epi32(a, b), _mm256_packs_epi32(c, d));
  }

  // Bytes from kBlock dwords.
  static void store_block(std::uint8_t* to, const Dwords (&part)[kBlock / kLanes]) {
    const __m256i packed = pack(part[0], part[1], part[2], part[3]);
    store(to, _mm256_permutevar8x32_epi32(packed, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7)));
  }

 private:
  struct Order {
    char at[16];
  };

  static Dwords load_any(const void* at) {
    return _mm256_loadu_si256(static_cast<const __m256i*>(at));
  }
  static void store_any(void* at, Dwords value) {
    _mm256_storeu_si256(static_cast<__m256i*>(at), value);
  }
  static Dwords at_least(Dwords a, Dwords b) {
    return _mm256_cmpeq_epi32(_mm256_max_epu32(a, b), a);
  }
  static Dwords every_third(Dwords a, Dwords b, Dwords c, Order order) {
    const Dwords seconds =
        twice(_mm_setr_epi8(0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0));
    const Dwords thirds = twice(_mm_setr_epi8(0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0));
    const Dwords bytes = _mm256_blendv_epi8(_mm256_blendv_epi8(a, b, seconds), c, thirds);
    return _mm256_shuffle_epi8(bytes,
                               twice(_mm_loadu_si128(reinterpret_cast<const __m128i*>(order.at))));
  }
};

}  // namespace
}  // namespace yolodata
