// A byte times a gain, cut off at 255: raise() of shade.h, prepared for many bytes.
#pragma once

#include <cstdint>

#include "render/shade.h"

namespace yolodata {

// Note [gains in 16 bits]. raise() multiplies floats. Processors multiply twice as many integers of
// 16 bits: byte * whole + (byte * part >> 16) is the same for all 256 bytes if whole + part / 65536
// lies between the quotients that raise() allows. These leave room for more than one unit of `part`
// (two fractions of denominators below 256 are at least 1/65025 apart), so one of the two next to
// the gain is right, unless raise() itself is not monotonous: a product just below an integer may
// be rounded up to it for one byte and not for another (20 of a million gains). Then there is the
// table.
struct ByteMap {
  explicit ByteMap(float gain) : whole(static_cast<std::int32_t>(gain < 255.0f ? gain : 255.0f)) {
    for (std::int32_t byte = 0; byte < 256; ++byte)
      table[byte] = static_cast<std::uint8_t>(raise(byte, gain));
    const float rest = gain - static_cast<float>(whole);
    part = static_cast<std::int32_t>((rest < 1.0f ? rest : 0.0f) * 65536.0f);
    is_table = whole > kMostWhole || (!holds() && (++part > 65535 || !holds()));
  }

  bool holds() const {
    bool all = true;
    for (std::int32_t byte = 0; byte < 256; ++byte)
      all &= smaller(byte * whole + (byte * part >> 16), 255) == table[byte];
    return all;
  }

  static constexpr std::int32_t kMostWhole = 127;  // 16 bits hold signed products

  alignas(64) std::uint8_t table[256];
  std::int32_t whole, part;
  bool is_table;  // `whole` and `part` do not suffice
};

}  // namespace yolodata
