// What pixels are written as: bytes, or 16-bit fractions of 255.
#pragma once

#include <cstdint>
#include <type_traits>

#include "core/host_device.h"
#include "render/render.h"
#include "render/shade.h"

namespace yolodata {

template <PixelFormat kFormat>
using Number = std::conditional_t<kFormat == PixelFormat::kUint8, std::uint8_t, std::uint16_t>;

// Byte number `which` of four as a fraction of 255, single precision. Behind 0x4B0000 its bits are
// those of 2^23 + byte; times 1/255, minus 2^23/255, rounded once, is byte * (1/255), rounded. That
// product is not always the quotient, but both round to the same 16 bits for each of the 256.
YD_HD float fraction_of(std::uint32_t bytes, unsigned which) {
  constexpr float kUnit = 1.0f / 255.0f;
  const float shifted = float_of(pick_bytes(bytes, 0x4B000000u, 0x7440u | which));
  return fused(shifted, kUnit, -8388608.0f * kUnit);
}

// Four bytes of memory that hold numbers made of four bytes: of all of them, or of two, from number
// `from` on.
template <PixelFormat kFormat>
YD_HD std::uint32_t written(std::uint32_t bytes, unsigned from) {
  if constexpr (kFormat == PixelFormat::kUint8) return bytes;
  const float first = fraction_of(bytes, from), second = fraction_of(bytes, from + 1);
  return kFormat == PixelFormat::kFloat16 ? to_float16(first, second) : to_bfloat16(first, second);
}

// Calls `run` with the format and the order of the output as constants.
template <typename Run>
auto with_constants(const Output& out, Run run) {
  const auto ordered = [&](auto format) {
    return out.channels_last ? run(format, std::true_type{}) : run(format, std::false_type{});
  };
  switch (out.format) {
    case PixelFormat::kUint8:
      return ordered(std::integral_constant<PixelFormat, PixelFormat::kUint8>{});
    case PixelFormat::kFloat16:
      return ordered(std::integral_constant<PixelFormat, PixelFormat::kFloat16>{});
    default: return ordered(std::integral_constant<PixelFormat, PixelFormat::kBfloat16>{});
  }
}

}  // namespace yolodata
