// What a filter makes of a picture: the value of one pixel, as shade.h says it for recipes.
//
// Filters are transforms of Albumentations that a device applies itself, between the two halves of
// a sample (see plan/split_colour.h). Called by the kernel of cuda.cu and by the loops of
// kernel_emulation.cpp. The bits are OpenCV 5's, which Albumentations calls, so: integers wherever
// OpenCV has integers.
//
// Note [order of channels]. Pictures here are RGB. As upstream does, transforms are given BGR,
// which they take for RGB: what they call red is blue. Filters do the same.
#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "filters/clahe.h"
#include "render/shade.h"

namespace yolodata {

enum class FilterKind : std::int32_t { kTable, kGrey, kBlur, kMedian, kClahe };

inline constexpr int kMaxBlur = 15, kMaxMedian = 7;  // sides of windows, in pixels
inline constexpr int kMaxTilesOfClahe = 64;

struct Filter {
  FilterKind kind;
  std::int32_t window;            // of kBlur and kMedian: its side, odd
  std::int32_t tiles_x, tiles_y;  // of kClahe
  double clip_limit;              // of kClahe
  std::uint8_t table[3][256];     // of kTable: what becomes of the values of R, G and B
};

// How far a filter looks to all sides of a pixel.
YD_HD std::int32_t reach(const Filter& filter) {
  const bool looks = filter.kind == FilterKind::kBlur || filter.kind == FilterKind::kMedian;
  return looks ? filter.window / 2 : 0;
}

// Where a filter that looks at `at`, in a row or column of `size`, takes the pixel from.
YD_HD std::int32_t inside(FilterKind kind, std::int32_t at, std::int32_t size) {
  if (kind == FilterKind::kBlur) return reflected(at, size);
  return at < 0 ? 0 : (at < size ? at : size - 1);
}

// cv2.LUT, for each channel.
YD_HD Rgb through_table(const Filter& filter, Rgb pixel) {
  return {filter.table[0][pixel.r], filter.table[1][pixel.g], filter.table[2][pixel.b]};
}

// cv2.cvtColor(COLOR_RGB2GRAY), see Note [order of channels].
YD_HD Rgb grey(Rgb pixel) {
  const std::int32_t level = (9798 * pixel.b + 19235 * pixel.g + 3735 * pixel.r + (1 << 14)) >> 15;
  return {level, level, level};
}

// One channel of a window of side * side pixels: `at` points to its first byte, `pitch` bytes lie
// between its rows and 3 between its columns.
struct Neighbours {
  const std::uint8_t* at;
  std::int32_t pitch, side;
};

// cv2.blur: the mean, to the nearest integer (of an odd number of pixels: there are no ties).
YD_HD std::int32_t mean(const Neighbours& window) {
  std::int32_t sum = 0;
  for (std::int32_t y = 0; y < window.side; ++y)
    for (std::int32_t x = 0; x < window.side; ++x) sum += window.at[y * window.pitch + 3 * x];
  const std::int32_t count = window.side * window.side;
  return (sum + count / 2) / count;
}

// cv2.medianBlur: the largest value that more than half of the pixels reach, bit by bit.
YD_HD std::int32_t median(const Neighbours& window) {
  std::int32_t found = 0;
  for (std::int32_t bit = 128; bit > 0; bit /= 2) {
    std::int32_t reaching = 0;
    for (std::int32_t y = 0; y < window.side; ++y)
      for (std::int32_t x = 0; x < window.side; ++x)
        reaching += window.at[y * window.pitch + 3 * x] >= found + bit;
    if (2 * reaching > window.side * window.side) found += bit;
  }
  return found;
}

}  // namespace yolodata
