// What a strip of output pixels sees of a layer, and a copy of that in the block's own memory.
//
// Note [windows]. Without perspective, a strip sees a rectangle of a canvas, or a part of one if
// the map turns. Interpolated from the sources, it is read by the byte, 12 times a pixel: at scale
// 1 every byte four times, and it is up to the caches how often the memory behind them is asked;
// and next to an edge of a tile, each of the four neighbours has to be looked for. Therefore the
// threads copy the rectangle first, once for all pixels. If it shows a single tile, each 16 bytes
// that hold a part of it are read once, by one access, next to its neighbours: sources in the
// host's memory should gain most, where an access is a message. If it shows several tiles or fill,
// the canvas is made in the copy, four bytes at a time. Strips are 64 x 16: a turned map sees
// little more than they are (67 x 28 at 10 degrees; 128 x 8 would see 128 x 30).
//
// kWindowBytes is enough for upright maps that halve, the smallest that a mosaic gets by default:
// 34 rows of 3 * 130 bytes and what rounding to chunks adds, 416 each, are 14,144. Turned by 10
// degrees they fit from scale 0.65 on; what does not fit is read from the sources. A kernel then
// takes 28.4 kB: with the 1 kB that each block costs besides, five blocks are 147 of the 167.9 kB
// (164 KiB) that a multiprocessor of sm_80 has; sm_90 and sm_100 have 228 KiB, sm_86, sm_89 and
// sm_120 have 100, room for three.
//
// A warp that makes 32 pixels of a turned row reads from several rows of a window. Where rows begin
// a multiple of 128 bytes apart, most of its bytes lie in different banks, so rows do that where
// there is room.
#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "plan/recipe.h"
#include "render/shade.h"

namespace yolodata {

inline constexpr int kWindowBytes = 14336, kWindowRows = 64;
inline constexpr int kBanks = 128;  // bytes that the banks of a block's memory give at once

// Bytes of anything, read or written at once.
template <int kBytes>
struct __attribute__((may_alias, aligned(kBytes))) Piece {
  std::uint32_t words[kBytes / 4];
};
using Chunk = Piece<16>;
inline constexpr int kChunk = sizeof(Chunk);

// Four bytes, at a multiple of 4.
using Word = std::uint32_t __attribute__((may_alias));
YD_HD Word& word(std::uint8_t* at) { return *reinterpret_cast<Word*>(at); }
YD_HD Word word(const std::uint8_t* at) { return *reinterpret_cast<const Word*>(at); }

// A rectangle of the canvas, corners included, and what it shows; see `tile_of`.
struct View {
  std::int32_t tile;
  std::int32_t left, top, right, bottom;
};

// What a rectangle of output pixels, corners included, sees of a layer. Maps without perspective
// are monotonic in x and in y, rounding included, so that the corners bound everything between.
YD_HD View view_of(const Recipe& recipe, const Layer& layer, std::int32_t x1, std::int32_t y1,
                   std::int32_t x2, std::int32_t y2) {
  constexpr View kUnknown{kSeam, 0, 0, -1, -1};
  if (layer.perspective || layer.paste_from == kMirror) return kUnknown;
  float left = 0, top = 0, right = 0, bottom = 0;
  for (int corner = 0; corner < 4; ++corner) {
    const std::int32_t x = unflip(corner & 1 ? x2 : x1, recipe.width, recipe.finish.fliplr);
    const std::int32_t y = unflip(corner & 2 ? y2 : y1, recipe.height, recipe.finish.flipud);
    const Point point = to_canvas(layer, x, y);
    left = corner == 0 || point.x < left ? point.x : left;
    top = corner == 0 || point.y < top ? point.y : top;
    right = corner == 0 || point.x > right ? point.x : right;
    bottom = corner == 0 || point.y > bottom ? point.y : bottom;
  }
  constexpr float kFar = 2.0f * kMaxCanvas;  // what is seen is nearer; see also plus_floor
  if (!(left > -kFar && top > -kFar && right < kFar && bottom < kFar)) return kUnknown;
  View view{kSeam, floor_int(left), floor_int(top), floor_int(right) + 1, floor_int(bottom) + 1};
  view.tile = tile_of(layer, view.left, view.top, view.right, view.bottom);
  return view;
}

YD_HD std::int32_t pitch_of(const ImageView& image) { return 3 * image.width; }

YD_HD const std::uint8_t* end_of(const ImageView& image) {
  return image.pixels + std::int64_t{pitch_of(image)} * image.height;
}

// Whether all memory from `margin` bytes before the bytes from `first` to `last` to as many behind
// them is the image's: then words that hold a part of them may be read whole.
YD_HD bool is_surrounded(const ImageView& image, const std::uint8_t* first,
                         const std::uint8_t* last, int margin) {
  return first - image.pixels >= margin && end_of(image) - last >= margin;
}

// A rectangle of the canvas, copied. Rows begin `pitch` bytes apart. Of a single tile each begins
// as far behind a multiple of 16 as it does in the image, so that whole chunks can be copied.
struct SourceWindow {
  std::int32_t layer;      // whose; kNoLayer: there is no copy
  std::int32_t tile;       // all that it shows, or kSeam
  std::int32_t left, top;  // where it lies on the canvas
  std::int32_t rows, row_bytes, pitch;
  // Of a single tile:
  std::int32_t image_pitch;         // from row to row of its image
  bool surrounded;                  // see `is_surrounded`
  const std::uint8_t* first;        // what the window's first pixel is in it
  const std::uint8_t *begin, *end;  // of the image
};

// Where an output row lies in a window: between the rows that begin at two offsets.
struct alignas(16) Line {
  std::int32_t upper, lower;
  float weight;
};

// Says what the window is to show: what `view` is of the layer, if that can be copied.
YD_HD void open(SourceWindow& window, const Recipe& recipe, const Sources& sources, int number,
                const View& view) {
  window.layer = kNoLayer;
  if (view.tile == kNoTile || view.right < view.left) return;
  const std::int32_t rows = view.bottom - view.top + 1;
  const std::int32_t row_bytes = 3 * (view.right - view.left + 1);
  const std::int32_t pitch = (kChunk - 1 + row_bytes + kChunk - 1) / kChunk * kChunk;
  const std::int32_t wide = (pitch + kBanks - 1) / kBanks * kBanks;
  if (rows > kWindowRows || pitch > kWindowBytes || rows * pitch > kWindowBytes) return;
  window.layer = number;
  window.tile = view.tile;
  window.left = view.left;
  window.top = view.top;
  window.rows = rows;
  window.row_bytes = row_bytes;
  window.pitch = rows * wide <= kWindowBytes ? wide : pitch;
  window.image_pitch = 0;
  window.first = nullptr;
  if (view.tile == kSeam) return;
  const Tile& tile = recipe.layers[number].tiles[view.tile];
  const ImageView& image = sources.layers[number].images[view.tile];
  const std::uint8_t* const first = tile_pixel(tile, image, view.left, view.top);
  window.image_pitch = pitch_of(image);
  window.first = first;
  window.begin = image.pixels;
  window.end = end_of(image);
  window.surrounded = is_surrounded(
      image, first, first + std::int64_t{rows - 1} * window.image_pitch + row_bytes, kChunk);
}

// Where the pixels of a row begin in the copy: as far behind a multiple of 16 as in the image.
YD_HD std::int32_t beginning(const SourceWindow& window, std::int32_t row) {
  const auto first =
      static_cast<std::int32_t>(reinterpret_cast<std::uintptr_t>(window.first) % kChunk);
  return row * window.pitch + (first + row * window.image_pitch) % kChunk;
}

// The part of the copying that falls to one of `threads` threads, where a single tile is shown: a
// row each to 16 of them. The window is passed by value, so that the compiler knows that no store
// changes it. A chunk that reaches beyond the image, at its very ends, is copied byte by byte: what
// is there may not be ours to read.
YD_HD void copy(int thread, int threads, SourceWindow window, std::uint8_t* bytes) {
  constexpr int kLanes = 16;
  const std::int32_t lane = thread % kLanes * kChunk, step = threads / kLanes;
  std::int32_t row = thread / kLanes;
  const std::uint8_t* from = window.first + row * window.image_pitch;
  std::uint8_t* to = bytes + row * window.pitch + lane;
  for (; row < window.rows; row += step) {
    const auto skipped = static_cast<std::int32_t>(reinterpret_cast<std::uintptr_t>(from) % kChunk);
    const std::int32_t length = skipped + window.row_bytes - lane;
    const std::uint8_t* const chunks = from - skipped + lane;
    for (std::int32_t at = 0; at < length; at += kLanes * kChunk) {
      const std::uint8_t* const chunk = chunks + at;
      if (window.surrounded || (chunk >= window.begin && chunk + kChunk <= window.end)) {
        *reinterpret_cast<Chunk*>(to + at) = *reinterpret_cast<const Chunk*>(chunk);
      } else {
        YD_UNROLL(1)
        for (std::int32_t k = 0; k < kChunk; ++k)
          if (chunk + k >= window.begin && chunk + k < window.end) to[at + k] = chunk[k];
      }
    }
    from += step * window.image_pitch;
    to += step * window.pitch;
  }
}

// The same part where several things are shown: fill, and then one tile after the other over it, a
// word for each thread. A thread writes the same words every time, so that none has to wait.
YD_HD void paint(int thread, int threads, SourceWindow window, const Layer& layer,
                 const LayerSources& sources, std::uint8_t* bytes) {
  constexpr std::int32_t kLanes = 32, kSpan = 4 * kLanes;
  const std::int32_t warp = thread / kLanes, warps = threads / kLanes, lane = thread % kLanes * 4;
  for (std::int32_t row = warp; row < window.rows; row += warps)
    for (std::int32_t at = lane; at < window.row_bytes; at += kSpan)
      word(bytes + row * window.pitch + at) = kFill * 0x01010101u;
  for (int i = 0; i < layer.tile_count; ++i) {
    const Tile& tile = layer.tiles[i];
    const std::int32_t first = 3 * larger(tile.x1 - window.left, 0);
    const std::int32_t last = smaller(3 * (tile.x2 - window.left), window.row_bytes);
    const std::int32_t above = larger(tile.y1 - window.top, 0);
    const std::int32_t below = smaller(tile.y2 - window.top, window.rows);
    if (first >= last || above >= below) continue;
    const ImageView image = sources.images[i];
    const std::int32_t pitch = pitch_of(image);
    // Where the window's first pixel would lie, which may be outside of the image.
    const std::uint8_t* const corner = tile_pixel(tile, image, window.left, window.top);
    const bool surrounded = is_surrounded(image, corner + (above * pitch + first),
                                          corner + ((below - 1) * pitch + last), 8);
    const std::int32_t begin = first / kSpan * kSpan + lane;
    for (std::int32_t row = above + ((warp - above) & (warps - 1)); row < below; row += warps) {
      const std::uint8_t* const from = corner + row * pitch;
      const auto skipped = static_cast<std::uint32_t>(reinterpret_cast<std::uintptr_t>(from) % 4);
      const std::uint8_t* low = from - skipped + begin;
      for (std::int32_t at = begin; at < last; at += kSpan, low += kSpan) {
        if (at + 4 <= first) continue;
        std::uint8_t* const to = bytes + row * window.pitch + at;
        if (surrounded) {
          const std::uint32_t shown = pick_bits(word(low), word(low + 4), 8 * skipped);
          const std::uint32_t set =
              (~0u << 8 * larger(first - at, 0)) & (~0u >> 8 * larger(at + 4 - last, 0));
          word(to) = (shown & set) | (word(to) & ~set);
        } else {
          YD_UNROLL(1)
          for (std::int32_t k = larger(first - at, 0); k < smaller(last - at, 4); ++k)
            to[k] = from[at + k];
        }
      }
    }
  }
}

// What a point shows through a window onto its layer, whose copy is at `bytes`.
YD_HD Rgb through(const SourceWindow& window, const std::uint8_t* bytes, Point point) {
  const auto [x, wx] = between(point.x);
  const auto [y, wy] = between(point.y);
  const std::int32_t row = y - window.top;
  const std::uint8_t* const from = bytes + 3 * (x - window.left);
  return interpolate(from + beginning(window, row), from + beginning(window, row + 1), wx, wy);
}

// Position `y` before the flips. The other coordinate only counts towards the sign of zeros: they
// have the same place and weigh the same.
YD_HD Line line_of(const SourceWindow& window, const Layer& layer, std::int32_t y) {
  const auto [first, weight] = between(to_canvas(layer, 0, y).y);
  const std::int32_t row = first - window.top;
  return {beginning(window, row), beginning(window, row + 1), weight};
}

// The same for a column: bytes from the beginning of a row, and the weight of the next pixel.
YD_HD Between column_of(const SourceWindow& window, const Layer& layer, std::int32_t x) {
  const auto [first, weight] = between(to_canvas(layer, x, 0).x);
  return {3 * (first - window.left), weight};
}

}  // namespace yolodata
