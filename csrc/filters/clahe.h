// Contrast limited adaptive histogram equalisation of a plane of bytes: OpenCV's CLAHE, to the bit.
//
// A plane is cut into tiles. Each makes a table of 256 bytes from its histogram, and a pixel is
// interpolated between the tables of the four tiles whose centres are around it:
//
//   1. count the bytes of a tile, at clahe_column() and clahe_row() of its pixels;
//   2. sum the clahe_excess() of all bins; clahe_count() is what a bin then has;
//   3. clahe_byte() of the sum of the counts up to and with a bin is the table's entry;
//   4. clahe_pixel() of each pixel.
//
// Every function here answers for one bin or one pixel from nothing but its arguments, so a bin may
// be a thread's. Single precision where OpenCV has it, in its order, nothing fused (no build of
// OpenCV for x86-64 fuses there either).
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/host_device.h"

namespace yolodata {

inline constexpr std::int32_t kClaheBins = 256;

// Fewer than 2^31 pixels a tile, and fewer than 2^22 tiles a side.
struct ClaheGrid {
  std::int32_t width, height;            // of the plane, pixels
  std::int32_t tiles_x, tiles_y;         // so many tiles
  std::int32_t tile_width, tile_height;  // pixels; together they may exceed the plane
  std::int32_t limit;                    // no bin counts more pixels than this
  float scale;                           // a sum of counts to a byte
  float tiles_a_column, tiles_a_row;     // 1 / tile_width, 1 / tile_height
};

// `clip_limit` is in average counts of a bin; 0 or less means no limit.
YD_HD ClaheGrid clahe_grid(std::int32_t width, std::int32_t height, std::int32_t tiles_x,
                           std::int32_t tiles_y, double clip_limit) {
  ClaheGrid grid{};
  grid.width = width;
  grid.height = height;
  grid.tiles_x = tiles_x;
  grid.tiles_y = tiles_y;
  // A plane that does not divide grows to the next multiple on the right and below. A side that
  // does divide then grows too, by a pixel a tile.
  const std::int32_t more = width % tiles_x != 0 || height % tiles_y != 0;
  grid.tile_width = width / tiles_x + more;
  grid.tile_height = height / tiles_y + more;
  const std::int32_t pixels = grid.tile_width * grid.tile_height;
  const double limit = clip_limit * pixels / kClaheBins;
  grid.limit = !(clip_limit > 0.0) || limit >= pixels ? pixels
               : limit < 1.0                          ? 1
                                                      : static_cast<std::int32_t>(limit);
  grid.scale = 255.0f / static_cast<float>(pixels);
  grid.tiles_a_column = 1.0f / static_cast<float>(grid.tile_width);
  grid.tiles_a_row = 1.0f / static_cast<float>(grid.tile_height);
  return grid;
}

// Where a pixel outside a line of `size` pixels is taken from: mirrored, again and again, without
// repeating the pixels at the ends (BORDER_REFLECT_101).
YD_HD std::int32_t reflected(std::int32_t at, std::int32_t size) {
  if (at < 0) at = -at;
  if (at < size) return at;
  if (size == 1) return 0;
  const std::int32_t there_and_back = 2 * (size - 1), left = at % there_and_back;
  return left < size ? left : there_and_back - left;
}

// Column of the plane that column x of a tile shows, 0 <= x < tile_width.
YD_HD std::int32_t clahe_column(const ClaheGrid& grid, std::int32_t tile_x, std::int32_t x) {
  return reflected(tile_x * grid.tile_width + x, grid.width);
}

YD_HD std::int32_t clahe_row(const ClaheGrid& grid, std::int32_t tile_y, std::int32_t y) {
  return reflected(tile_y * grid.tile_height + y, grid.height);
}

// Pixels that a bin has too many.
YD_HD std::int32_t clahe_excess(const ClaheGrid& grid, std::int32_t count) {
  return count > grid.limit ? count - grid.limit : 0;
}

// A bin once the excess of all bins is shared out: as much to each, and what is left over to bins
// at equal distances from bin 0 on.
YD_HD std::int32_t clahe_count(const ClaheGrid& grid, std::int32_t bin, std::int32_t count,
                               std::int32_t excess_of_all) {
  const std::int32_t share = excess_of_all / kClaheBins, rest = excess_of_all % kClaheBins;
  const std::int32_t step = rest ? kClaheBins / rest : 1;
  const bool one_more = bin % step == 0 && bin / step < rest;
  return count - clahe_excess(grid, count) + share + one_more;
}

// To the nearest integer, ties to even, at most 255; 0 <= value < 2^22.
YD_HD std::uint8_t clahe_rounded(float value) {
  const std::uint32_t whole = bits_of(value + kWhole) - kWholeBits;
  return static_cast<std::uint8_t>(whole < 255 ? whole : 255);
}

// What a tile's table says of a bin. `sum`: the counts of all bins up to and with this one.
YD_HD std::uint8_t clahe_byte(const ClaheGrid& grid, std::int32_t sum) {
  return clahe_rounded(static_cast<float>(sum) * grid.scale);
}

// The two tiles of a row or column of tiles between whose centres a pixel lies (the same tile twice
// towards the border), and their weights.
struct ClaheBetween {
  std::int32_t first, second;
  float of_first, of_second;
};

YD_HD ClaheBetween clahe_between(std::int32_t at, float tiles_a_pixel, std::int32_t tiles) {
  const float tile = static_cast<float>(at) * tiles_a_pixel - 0.5f;
  const float below = plus_floor(tile);
  const std::int32_t first = static_cast<std::int32_t>(bits_of(below) - kWholeBits);
  const float weight = tile - (below - kWhole);
  return {first > 0 ? first : 0, first + 1 < tiles ? first + 1 : tiles - 1, 1.0f - weight, weight};
}

// Column x and row y of the plane, where it has `value`. `tables`: 256 bytes a tile, row by row.
YD_HD std::uint8_t clahe_pixel(const ClaheGrid& grid, const std::uint8_t* tables, std::int32_t x,
                               std::int32_t y, std::uint8_t value) {
  const ClaheBetween across = clahe_between(x, grid.tiles_a_column, grid.tiles_x);
  const ClaheBetween down = clahe_between(y, grid.tiles_a_row, grid.tiles_y);
  const auto entry = [&](std::int32_t tile_x, std::int32_t tile_y) {
    const std::size_t tile = static_cast<std::size_t>(tile_y) * grid.tiles_x + tile_x;
    return static_cast<float>(tables[tile * kClaheBins + value]);
  };
  const auto blend = [&](std::int32_t tile_y) {
    return entry(across.first, tile_y) * across.of_first +
           entry(across.second, tile_y) * across.of_second;
  };
  return clahe_rounded(blend(down.first) * down.of_first + blend(down.second) * down.of_second);
}

}  // namespace yolodata
