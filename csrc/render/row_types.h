// Rows of pixels as the CPU's loops have them: channel by channel, and which neighbours are
// blended.
#pragma once

#include <cstddef>
#include <cstdint>

#include "plan/recipe.h"
#include "render/shade.h"

namespace yolodata {

// A canvas pixel in the image of the tile that shows it.
inline const std::uint8_t* pixel_of(const Layer& layer, const LayerSources& sources, int tile,
                                    std::int32_t x, std::int32_t y) {
  return tile_pixel(layer.tiles[tile], sources.images[tile], x, y);
}

// Loops may do whole blocks of columns: rows have room for them.
inline constexpr int kBlock = 32;
constexpr int whole_blocks(int count) { return (count + kBlock - 1) / kBlock * kBlock; }

// The channels of a row of pixels: red, green, blue.
struct Planes {
  std::uint8_t* channel[3];

  Planes from(std::ptrdiff_t column) const {
    return {{channel[0] + column, channel[1] + column, channel[2] + column}};
  }
};

// Which two neighbours of a line each output column blends: whole blocks of columns.
struct Columns {
  int count;
  const std::int32_t* left;
  const float* weight;
  // For processors that pick bytes of a register, of every four columns: where a register with all
  // their neighbours starts, and which of its bytes each column takes: left, none, right, none.
  const std::int32_t* start;
  const std::uint8_t* picks;
  // How many columns have one start; kApart: unusable. By sixteen registers have 64 bytes, else 16.
  enum { kApart, kByFour, kByEight, kBySixteen } together;
  // Of blocks whose weights are multiples of 2^-15 (`exact`), both weights of each column, left and
  // then right, as 16-bit integers times -2^15.
  const std::uint8_t* exact;
  const std::uint32_t* weights;
};
inline constexpr int kPicked = 64;  // so many bytes must be readable from any `left` on

// Where output pixels lie on a canvas: whole parts and weights. Where no neighbour is on the
// canvas, the whole parts say so, and may be anything else (kOutside, for one).
inline constexpr std::int32_t kOutside = -2;
struct Points {
  std::int32_t* x;
  std::int32_t* y;
  float* wx;
  float* wy;

  Points from(std::ptrdiff_t column) const {
    return {x + column, y + column, wx + column, wy + column};
  }
};

// Canvas pixels [x1, x2) x [y1, y2) whose four neighbours all show the same tile, or kNoTile.
struct Region {
  std::int32_t x1, y1, x2, y2;
  int tile;
};

// How bytes are mixed, see find_mixing.
struct Mixing {
  double ratio;
  std::int32_t share;      // in units of 2^-22; -1: only doubles will do
  std::uint8_t below[32];  // bit a / 16 % 8 of number a % 16 + a / 128 * 16: `a` and `a` give a - 1
};
inline constexpr int kMixingBits = 22;

}  // namespace yolodata
