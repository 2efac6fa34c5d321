// RGB to L*a*b* and back, eight bits a value: OpenCV's COLOR_RGB2LAB and COLOR_LAB2RGB, to the bit.
//
// Integers only, in OpenCV's fixed point, so every processor gives the same bits. Linear light goes
// from 0 to 2040 on the way there, and from 0 to 2^14 (X, Y, Z) and 2^12 (red, green, blue) on the
// way back; the function of CIE L*a*b*, a cube root but for dark colours, goes to 2^15 and to 2^14.
#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace yolodata {

// 9,202 bytes of plain data: a copy in a device's memory serves as well. See Note [tables without
// roots] in lab.cpp.
struct LabTables {
  std::uint16_t linear[256];      // sRGB byte to linear light, 0 to 2040
  std::uint16_t cube_root[2041];  // linear light to the function of CIE L*a*b*, to 2^15
  std::uint16_t luminance[256];   // L byte to Y, 0 to 2^14
  std::uint8_t encoded[4096];     // linear light 0 to 4095, to sRGB byte
};

const LabTables& lab_tables();

struct Lab {
  std::uint8_t l, a, b;
};

YD_HD std::int32_t clamped(std::int32_t value, std::int32_t greatest) {
  return value < 0 ? 0 : value > greatest ? greatest : value;
}

// Of three bytes, red first.
YD_HD Lab lab_of(const LabTables& tables, const std::uint8_t* rgb) {
  const std::int32_t r = tables.linear[rgb[0]], g = tables.linear[rgb[1]],
                     b = tables.linear[rgb[2]];
  // Rows of sRGB's matrix over the white point D65, in 1/4096. White gives 2040 for all three.
  const std::int32_t x = tables.cube_root[(1777 * r + 1541 * g + 778 * b + 2048) >> 12],
                     y = tables.cube_root[(871 * r + 2929 * g + 296 * b + 2048) >> 12],
                     z = tables.cube_root[(73 * r + 448 * g + 3575 * b + 2048) >> 12];
  // L = 116 y - 16, of which 100 are 255 bytes; a = 500 (x - y) and b = 200 (y - z), where grey is
  // 128. OpenCV rounds 116 * 2.55 to 296.
  constexpr std::int32_t kHalf = 1 << 14, kGrey = 128 << 15;
  return {
      static_cast<std::uint8_t>(clamped((296 * y - 1336934 + kHalf) >> 15, 255)),
      static_cast<std::uint8_t>(clamped((500 * (x - y) + kGrey + kHalf) >> 15, 255)),
      static_cast<std::uint8_t>(clamped((200 * (y - z) + kGrey + kHalf) >> 15, 255)),
  };
}

// What the function of CIE L*a*b* is `root` of, both in 1/2^14: a cube, and a line up to 6/29.
// OpenCV cuts every quotient off towards zero.
YD_HD std::int32_t light_of(std::int32_t root) {
  if (root <= 3390) return root * 108 / 841 - 290;
  return root * root / 16384 * root / 16384;
}

// Three bytes, red first.
YD_HD void rgb_of(const LabTables& tables, Lab lab, std::uint8_t* rgb) {
  const std::int32_t root = ((5 * lab.l + 204) * 16384 * 2 + 1479) / (2 * 1479);  // (L + 16) / 116
  const std::int32_t a = ((5 * lab.a * 53687 + 128) >> 13) - 4194;                // / 500
  const std::int32_t b = ((lab.b * 41943 + 16) >> 9) - 10484;                     // / 200
  const std::int32_t x = light_of(root + a), y = tables.luminance[lab.l], z = light_of(root - b);
  constexpr std::int32_t kHalf = 1 << 13;
  rgb[0] = tables.encoded[clamped((12615 * x - 6296 * y - 2223 * z + kHalf) >> 14, 4095)];
  rgb[1] = tables.encoded[clamped((-3773 * x + 7684 * y + 185 * z + kHalf) >> 14, 4095)];
  rgb[2] = tables.encoded[clamped((217 * x - 836 * y + 4715 * z + kHalf) >> 14, 4095)];
}

}  // namespace yolodata
