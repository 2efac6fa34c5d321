// Vectors of sixteen floats or dwords for row_loops.h: x86-64 with AVX-512 and its VBMI, which
// picks bytes of 128. Only for files that are compiled for those processors.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "render/row_types.h"

namespace yolodata {
namespace {

// Which bytes go to each place of a vector.
struct Picks {
  template <typename Function>
  constexpr explicit Picks(Function pick) : at() {
    for (int i = 0; i < 64; ++i) at[i] = static_cast<std::uint8_t>(pick(i));
  }
  alignas(64) std::uint8_t at[64];
};

// Of a channel of 64 pixels; those from 128 on are the third vector's.
template <int kChannel>
constexpr Picks every_third{[](int i) { return 3 * i + kChannel; }};
template <int kChannel>
constexpr __mmask64 in_third_vector = ~__mmask64{0} << (128 - kChannel + 2) / 3;

constexpr Picks first_of_dwords{[](int i) { return 4 * i; }};

class Avx512Lanes {
 public:
  static constexpr int kLanes = 16, kBytes = 4 * kLanes;
  using Floats = __m512;
  using Dwords = __m512i;

  static Floats load(const float* at) { return _mm512_loadu_ps(at); }
  static Dwords load(const std::int32_t* at) { return _mm512_loadu_si512(at); }
  static Dwords load(const std::uint32_t* at) { return _mm512_loadu_si512(at); }
  static Dwords load(const std::uint8_t* at) { return _mm512_loadu_si512(at); }
  static void store(float* at, Floats value) { _mm512_storeu_ps(at, value); }
  static void store(std::int32_t* at, Dwords value) { _mm512_storeu_si512(at, value); }
  static void store(std::uint32_t* at, Dwords value) { _mm512_storeu_si512(at, value); }
  static void store(std::uint8_t* at, Dwords value) { _mm512_storeu_si512(at, value); }
  static void stream(std::uint8_t* to, const std::uint8_t* from) {
    _mm512_stream_si512(reinterpret_cast<__m512i*>(to), load(from));
  }

  static Floats all(float value) { return _mm512_set1_ps(value); }
  static Dwords all(int value) { return _mm512_set1_epi32(value); }
  static Dwords numbers() {
    return _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  }

  static Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
  static Floats subtract(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
  static Dwords subtract(Dwords a, Dwords b) { return _mm512_sub_epi32(a, b); }
  static Floats multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats divide(Floats a, Floats b) { return _mm512_div_ps(a, b); }
  static Floats multiply_add(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static Dwords bits_and(Dwords a, Dwords b) { return _mm512_and_si512(a, b); }
  // Of two products of 16-bit integers each.
  static Dwords add_products(Dwords a, Dwords b) { return _mm512_madd_epi16(a, b); }
  static Floats floor(Floats a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  }
  static Dwords to_nearest(Floats a) { return _mm512_cvtps_epi32(a); }
  static Floats to_floats(Dwords a) { return _mm512_cvtepi32_ps(a); }
  // Which of x reach x_limit or of y y_limit, unsigned.
  static std::uint32_t reach_either(Dwords x, Dwords x_limit, Dwords y, Dwords y_limit) {
    return static_cast<std::uint32_t>(_mm512_cmpge_epu32_mask(x, x_limit)) |
           static_cast<std::uint32_t>(_mm512_cmpge_epu32_mask(y, y_limit));
  }

  // kBytes pixels.
  static void split(const std::uint8_t* p, const Planes& out) {
    const __m512i a = load(p), b = load(p + 64), c = load(p + 128);
    const auto pick = [=](const Picks& picks, __mmask64 in_third) {
      const __m512i order = load(picks.at);
      const __m512i bytes = _mm512_permutex2var_epi8(a, order, b);
      return _mm512_mask_permutexvar_epi8(bytes, in_third, order, c);
    };
    store(out.channel[0], pick(every_third<0>, in_third_vector<0>));
    store(out.channel[1], pick(every_third<1>, in_third_vector<1>));
    store(out.channel[2], pick(every_third<2>, in_third_vector<2>));
  }

  // Bytes from kBlock dwords.
  static void store_block(std::uint8_t* to, const Dwords (&part)[kBlock / kLanes]) {
    const __m512i bytes = _mm512_permutex2var_epi8(part[0], load(first_of_dwords.at), part[1]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm512_castsi512_si256(bytes));
  }
};

}  // namespace
}  // namespace yolodata
