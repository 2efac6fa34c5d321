// What a block of output pixels sees of a layer, and a copy of that in the block's own memory.
//
// Note [windows]. Through a map that keeps axes, a block sees a rectangle of a source. Interpolated
// from the source, it is read by the byte, 12 times a pixel: at scale 1 every byte four times, and
// it is up to the caches how often the memory behind them is asked. Therefore the threads copy the
// rectangle first: each 16 bytes that hold a part of it are read once, by one access, next to its
// neighbours. At scale 1 that is about 4 kB for the 3 kB of a block's 1,024 pixels. Sources in the
// host's memory should gain most, where an access is a message. A rotated map sees a slanted strip,
// several times smaller than the rectangle around it, and reads the source.
//
// kWindowBytes is enough for maps that halve, the smallest that a mosaic gets by default: 18 rows
// of 3 * 258 bytes and what rounding to chunks adds, 800 each, are 14,400. A kernel then takes up
// to 26.5 kB: six blocks, with the 1 kB that each costs besides, are 165 of the 167.9 kB (164 KiB)
// that a multiprocessor of sm_80 has; sm_90 has 228 KiB, sm_86 and sm_89 have 100, room for three
// or four.
#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "plan/recipe.h"
#include "render/shade.h"

namespace yolodata {

inline constexpr int kWindowBytes = 15360;

// 16 bytes of anything.
struct __attribute__((may_alias, aligned(16))) Chunk {
  std::uint32_t words[4];
};
inline constexpr int kChunk = sizeof(Chunk);

// A rectangle of the canvas, corners included, and what it shows; see `tile_of`.
struct View {
  std::int32_t tile;
  std::int32_t left, top, right, bottom;  // if `tile` is one
};

// What a rectangle of output pixels, corners included, sees of a layer. Maps without perspective
// are monotonic in x and in y, rounding included, so that the corners bound everything between.
YD_HD View view_of(const Recipe& recipe, const Layer& layer, std::int32_t x1, std::int32_t y1,
                   std::int32_t x2, std::int32_t y2) {
  constexpr View kUnknown{kSeam, 0, 0, 0, 0};
  if (layer.perspective || layer.paste_from == kMirror) return kUnknown;
  float left = 0, top = 0, right = 0, bottom = 0;
  for (int corner = 0; corner < 4; ++corner) {
    const std::int32_t x = unflip(corner & 1 ? x2 : x1, recipe.width, recipe.fliplr);
    const std::int32_t y = unflip(corner & 2 ? y2 : y1, recipe.height, recipe.flipud);
    const Point point = to_canvas(layer, x, y);
    left = corner == 0 || point.x < left ? point.x : left;
    top = corner == 0 || point.y < top ? point.y : top;
    right = corner == 0 || point.x > right ? point.x : right;
    bottom = corner == 0 || point.y > bottom ? point.y : bottom;
  }
  constexpr float kFar = 1.0e9f;
  if (!(left > -kFar && top > -kFar && right < kFar && bottom < kFar)) return kUnknown;
  View view{kSeam, floor_int(left), floor_int(top), floor_int(right) + 1, floor_int(bottom) + 1};
  view.tile = tile_of(layer, view.left, view.top, view.right, view.bottom);
  return view;
}

// A part of an image, copied. Rows begin `pitch` bytes apart, each as far behind a multiple of 16
// as it does in the image, so that whole chunks can be copied.
struct Window {
  std::int32_t layer;      // whose; kNoLayer: there is no copy
  std::int32_t left, top;  // where it lies on the canvas
  std::int32_t rows, row_bytes, pitch;
  ImageView image;
  const std::uint8_t* first;  // its first pixel in the image
};

// Where an output row lies in a window: between the rows that begin at two offsets.
struct Line {
  std::int32_t upper, lower;
  float weight;
};

// Says what the window is to show: what `view` is of the layer, if that can be copied.
YD_HD void open(Window& window, const Recipe& recipe, const Sources& sources, int number,
                const View& view) {
  window.layer = kNoLayer;
  const Layer& layer = recipe.layers[number];
  if (view.tile < 0 || !keeps_axes(layer)) return;
  const std::int64_t rows = view.bottom - view.top + 1;
  const std::int64_t row_bytes = 3 * (std::int64_t{view.right} - view.left + 1);
  const std::int64_t pitch = (kChunk - 1 + row_bytes + kChunk - 1) / kChunk * kChunk;
  if (rows * pitch > kWindowBytes) return;
  window.layer = number;
  window.left = view.left;
  window.top = view.top;
  window.rows = static_cast<std::int32_t>(rows);
  window.row_bytes = static_cast<std::int32_t>(row_bytes);
  window.pitch = static_cast<std::int32_t>(pitch);
  window.image = sources.layers[number].images[view.tile];
  window.first = tile_pixel(layer.tiles[view.tile], window.image, view.left, view.top);
}

YD_HD std::int64_t source_pitch(const Window& window) {
  return std::int64_t{3} * window.image.width;
}

// How far a row begins behind a multiple of 16.
YD_HD std::int32_t skew(const Window& window, std::int32_t row) {
  const auto first = reinterpret_cast<std::uintptr_t>(window.first + row * source_pitch(window));
  return static_cast<std::int32_t>(first % kChunk);
}

// The part of the copying that falls to one of `threads` threads: a row each to 32 of them. The
// window is passed by value, so that the compiler knows that no store changes it. A chunk that
// reaches beyond the image, at its very ends, is copied byte by byte: what is there may not be ours
// to read.
YD_HD void copy(int thread, int threads, Window window, std::uint8_t* bytes) {
  constexpr int kLanes = 32;
  const std::uint8_t* const begin = window.image.pixels;
  const std::uint8_t* const end = begin + source_pitch(window) * window.image.height;
  for (std::int32_t row = thread / kLanes; row < window.rows; row += threads / kLanes) {
    const std::int32_t skipped = skew(window, row);
    const std::uint8_t* const from = window.first + row * source_pitch(window) - skipped;
    std::uint8_t* const to = bytes + row * window.pitch;
    for (std::int32_t at = thread % kLanes * kChunk; at < skipped + window.row_bytes;
         at += kLanes * kChunk) {
      if (from + at >= begin && from + at + kChunk <= end) {
        *reinterpret_cast<Chunk*>(to + at) = *reinterpret_cast<const Chunk*>(from + at);
      } else {
        for (std::int32_t k = at; k < at + kChunk; ++k)
          if (from + k >= begin && from + k < end) to[k] = from[k];
      }
    }
  }
}

// Position `y` before the flips. The other coordinate only counts towards the sign of zeros: they
// have the same place and weigh the same.
YD_HD Line line_of(const Window& window, const Layer& layer, std::int32_t y) {
  const auto [first, weight] = between(to_canvas(layer, 0, y).y);
  const std::int32_t row = first - window.top, offset = row * window.pitch;
  return {offset + skew(window, row), offset + window.pitch + skew(window, row + 1), weight};
}

// The same for a column: bytes from the beginning of a row, and the weight of the next pixel.
YD_HD Between column_of(const Window& window, const Layer& layer, std::int32_t x) {
  const auto [first, weight] = between(to_canvas(layer, x, 0).x);
  return {3 * (first - window.left), weight};
}

}  // namespace yolodata
