// The colour jitter of one recipe as tables.
//
// Note [hsv tables]. Between the bytes of a pixel and its new ones, jitter() of shade.h computes
// functions of a single byte, or of a hue: two quotients, two gains that are cut off, the sector of
// a hue. A block has thousands of pixels, so it makes tables of these with shade.h's own functions,
// and a pixel looks them up. What is left are the products of several of them, in shade.h's order.
#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "plan/recipe.h"
#include "render/shade.h"

namespace yolodata {

struct HsvTables {
  struct Bright {
    std::int32_t reciprocal;  // towards the saturation
    float value;              // after the jitter
  };
  struct Turned {
    float share;          // see `Sector`
    std::uint32_t order;  // of the channels, for `pick_bytes`
  };
  Bright bright[256];                 // by the brightest channel
  std::int32_t hue_reciprocals[256];  // by the range of the channels
  float saturations[256];             // after the jitter, by those before
  Turned turned[kHues];               // by the hue before the jitter, from kLeastHue on
};

// Which of top (0), middle (1) and low (4) the channels are: red's is the last digit.
YD_HD std::uint32_t channels_of(std::int32_t sector, bool bgr) {
  const std::uint32_t order = sector == 0   ? 0x410u
                              : sector == 1 ? 0x401u
                              : sector == 2 ? 0x104u
                              : sector == 3 ? 0x014u
                              : sector == 4 ? 0x041u
                                            : 0x140u;
  return bgr ? (order & 0x0F0u) | order >> 8 | (order & 0x00Fu) << 8 : order;
}

// The rows of the tables that fall to one of `threads` threads.
YD_HD void make(HsvTables& tables, const Recipe& recipe, int thread, int threads) {
  const HsvJitter& hsv = recipe.finish.hsv;
  for (int i = thread; i < 256; i += threads) {
    tables.bright[i] = {saturation_reciprocal(i), unit(raise(i, hsv.value))};
    tables.hue_reciprocals[i] = hue_reciprocal(i);
    tables.saturations[i] = unit(raise(i, hsv.saturation));
    if (i >= kHues) continue;
    const auto [sector, share] = sector_of(turn(i + kLeastHue, hsv.hue_shift));
    tables.turned[i] = {share, channels_of(sector, recipe.finish.bgr != 0)};
  }
}

// Bytes of a pixel as they are written, red's the lowest (or blue's). Each of the channels may be
// more than its byte by the same multiple of 256.
YD_HD std::uint32_t jittered(const HsvTables& tables, Rgb pixel) {
  const std::int32_t brightest = larger(larger(pixel.r, pixel.g), pixel.b);
  const std::int32_t range = brightest - smaller(smaller(pixel.r, pixel.g), pixel.b);
  const std::int32_t hue =
      scaled(place_on_wheel(pixel, brightest, range), tables.hue_reciprocals[range]);
  const auto [share, order] = tables.turned[hue - kLeastHue];
  const auto [reciprocal, value] = tables.bright[brightest & 255];
  const float saturation = tables.saturations[scaled(range, reciprocal)];
  const std::uint32_t top = bits_of(fused(value, 255.0f, kWhole));  // its fraction is below 2^-15
  const std::uint32_t middle = whole_bits(middle_of(value, saturation, share));
  const std::uint32_t low = whole_bits(low_of(value, saturation));
  return pick_bytes(pick_bytes(top, middle, 0x40u), low, order);
}

YD_HD std::uint32_t unchanged(Rgb pixel, bool bgr) {
  const auto [r, g, b] = pixel;
  const std::uint32_t two =
      pick_bytes(static_cast<std::uint32_t>(r), static_cast<std::uint32_t>(g), 0x40u);
  return pick_bytes(two, static_cast<std::uint32_t>(b), bgr ? 0x014u : 0x410u);
}

}  // namespace yolodata
