// What vectors_avx2.h and vectors_avx512.h share.
#pragma once

#include <cstdint>

#include "render/byte_map.h"

namespace yolodata {

// Constants in memory, one after the other: compilers that see a constant make it anew in every
// turn of a loop, in three instructions, and an operand in memory costs none.
template <typename T, int kValue>
struct Repeated {
  constexpr Repeated() : values() {
    for (T& value : values) value = static_cast<T>(kValue);
  }
  alignas(64) T values[64 / sizeof(T)];
};
template <typename T, int kValue>
constinit Repeated<T, kValue> repeated;  // not const: see above

// x * factor as a float, of an integer x in the low bits of a float from 2^23 on: the product with
// `factor`, less that of 2^23, is rounded once.
struct Factor {
  constexpr explicit Factor(float factor) : factor(), shift() {
    for (int i = 0; i < 16; ++i) {
      this->factor[i] = factor;
      shift[i] = 8388608.0f * factor;
    }
  }
  alignas(64) float factor[16];
  float shift[16];
};
inline constinit Factor unit_factor{1.0f / 255.0f};
inline constinit Factor sixths_factor{6.0f / 180.0f};

// How a gain is multiplied by: see Note [gains in 16 bits]. One that needs its table is 1 here.
inline std::int32_t whole_of(const ByteMap& map) { return map.is_table ? 1 : map.whole; }
inline std::int32_t part_of(const ByteMap& map) { return map.is_table ? 0 : map.part; }

// reciprocal() of shade.h by byte, in two bytes; meaningless where it has more.
struct ReciprocalTable {
  constexpr explicit ReciprocalTable(int numerator) : low(), high() {
    for (int i = 1; i < 256; ++i) {
      const int rounded = (2 * numerator + i) / (2 * i);
      low[i] = static_cast<std::uint8_t>(rounded);
      high[i] = static_cast<std::uint8_t>(rounded >> 8);
    }
  }
  std::uint8_t low[256], high[256];
};
template <int kNumerator>
inline constexpr ReciprocalTable reciprocal_table{kNumerator};

}  // namespace yolodata
