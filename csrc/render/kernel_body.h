// The body of the CUDA kernel: what the threads of a block do, in steps between which they meet.
//
// A block makes kBlockWidth x kBlockHeight pixels of one picture, in kStrips strips from top to
// bottom: each is made in shared memory and then written out, 16 bytes at a time whatever the
// format. What all strips need, the recipe and the tables of its colours, is made once. cuda.cu
// runs the steps with real threads, kernel_emulation.cpp the same functions with loops: what the
// CPU's tests see is what the device computes. benchmarks/kernel_instructions.py counts what a
// pixel takes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/host_device.h"
#include "render/hsv_tables.h"
#include "render/pixel_format.h"
#include "render/render.h"
#include "render/shade.h"
#include "render/source_window.h"

namespace yolodata {

inline constexpr int kBlockWidth = 64, kStripHeight = 16, kStrips = 5, kBlockThreads = 256;
inline constexpr int kBlockHeight = kStrips * kStripHeight;
inline constexpr int kStripPixels = kBlockWidth * kStripHeight;
// A thread makes so many pixels of a strip, one below the other.
inline constexpr int kTurns = kStripPixels / kBlockThreads;

// How the pixels of a strip are found.
enum class Way : std::int32_t {
  kEach,     // each by the whole recipe
  kFill,     // they are all fill
  kUpright,  // through the window, in whose rows they lie
  kTurned,   // through the window
};

struct Strip {
  Way way;
  std::int32_t known[kMaxLayers];  // what it sees of each layer; see `tile_of`
  SourceWindow window;             // onto the layer that it shows first
};

// What the threads of a block share.
struct Stage {
  RenderTask task;
  Strip strips[kStrips];
  HsvTables tables;
  // Of one strip after the other:
  // Its pixels, in the order of the output: planes of rows of kBlockWidth, or rows of triples.
  alignas(kChunk) std::uint8_t pixels[3 * kStripPixels];
  alignas(kChunk) std::uint8_t seen[kWindowBytes];  // through the window
  Between columns[kBlockWidth];                     // where its columns lie in the window,
  Line lines[kStripHeight];                         // and its rows, if it is upright
  Point starts[kStripHeight];                       // where its rows begin on the canvas, if not,
  std::int32_t beginnings[kWindowRows];             // and the window's rows in `seen`
};

// One launch, as every block sees it.
struct Launch {
  const RenderTask* tasks;
  std::int32_t width, height;
  void* out;
};

// Where a strip begins in which picture, and its number in its block.
struct Place {
  std::int32_t picture, x, y, strip;
};

YD_HD std::int32_t blocks_across(std::int32_t width) {
  return (width + kBlockWidth - 1) / kBlockWidth;
}
YD_HD std::int32_t blocks_down(std::int32_t height) {
  return (height + kBlockHeight - 1) / kBlockHeight;
}

// The strip number `strip` of the block that begins at `block`.
YD_HD Place strip_of(const Place& block, int strip) {
  return {block.picture, block.x, block.y + strip * kStripHeight, strip};
}

// Step 1: the recipe, from memory, without the layers that it does not have.
YD_HD void load(int thread, const Launch& launch, const Place& place, Stage& stage) {
  const RenderTask* task = launch.tasks + place.picture;
  const Chunk* from = reinterpret_cast<const Chunk*>(task);
  Chunk* to = reinterpret_cast<Chunk*>(&stage.task);
  const auto layers = static_cast<std::size_t>(task->recipe.layer_count);
  const auto recipe_end =
      static_cast<int>((offsetof(Recipe, layers) + layers * sizeof(Layer) + kChunk - 1) / kChunk);
  constexpr int kSources = static_cast<int>(offsetof(RenderTask, sources) / kChunk);
  const auto sources_end = static_cast<int>(
      (offsetof(RenderTask, sources) + layers * sizeof(LayerSources) + kChunk - 1) / kChunk);
  for (int i = thread; i < sources_end; i += kBlockThreads)
    if (i < recipe_end || i >= kSources) to[i] = from[i];
}

// The layer that these pixels, corners included, show before anything is mixed into it or pasted
// onto it; if a cut covers only some of them, the layer around it.
YD_HD int first_layer(const Recipe& recipe, std::int32_t x1, std::int32_t y1, std::int32_t x2,
                      std::int32_t y2) {
  const auto is_cut = [&](std::int32_t x, std::int32_t y) {
    return in_cut(recipe, unflip(x, recipe.width, recipe.finish.fliplr),
                  unflip(y, recipe.height, recipe.finish.flipud));
  };
  const bool cut = recipe.cutmix_layer != kNoLayer && is_cut(x1, y1) && is_cut(x2, y2);
  return cut ? recipe.cutmix_layer : 0;
}

// How a strip that shows `number` first is made.
YD_HD Way way_of(const Recipe& recipe, int number, const View& view, const SourceWindow& window) {
  const Layer& layer = recipe.layers[number];
  const bool mixed =
      number == 0 && (recipe.mixup_layer != kNoLayer || recipe.cutmix_layer != kNoLayer);
  if (mixed || layer.paste_from != kNoLayer) return Way::kEach;
  if (view.tile == kNoTile) return Way::kFill;
  if (window.layer == kNoLayer) return Way::kEach;
  return keeps_axes(layer) ? Way::kUpright : Way::kTurned;
}

// Step 2: what the strips see of each layer, and through their windows; the tables.
YD_HD void look(int thread, const Launch& launch, const Place& block, Stage& stage) {
  const Recipe& recipe = stage.task.recipe;
  if (recipe.finish.hsv.enabled) make(stage.tables, recipe, thread, kBlockThreads);
  // From the last thread on, whose warp makes the least of the tables.
  const int task = kBlockThreads - 1 - thread, number = task / kStrips;
  const Place place = strip_of(block, task % kStrips);
  if (number >= recipe.layer_count || place.y >= launch.height) return;
  Strip& strip = stage.strips[place.strip];
  const std::int32_t right = smaller(place.x + kBlockWidth, launch.width) - 1;
  const std::int32_t bottom = smaller(place.y + kStripHeight, launch.height) - 1;
  const View view = view_of(recipe, recipe.layers[number], place.x, place.y, right, bottom);
  strip.known[number] = view.tile;
  if (number != first_layer(recipe, place.x, place.y, right, bottom)) return;
  open(strip.window, recipe, stage.task.sources, number, view);
  strip.way = way_of(recipe, number, view, strip.window);
}

// A position before the flips, of a row or column of the picture: of the last, if there is none.
// So threads make pixels beyond the picture, which nobody writes out, of what is there.
YD_HD std::int32_t row_at(const Launch& launch, const Recipe& recipe, std::int32_t y) {
  return unflip(smaller(y, launch.height - 1), recipe.height, recipe.finish.flipud);
}
YD_HD std::int32_t column_at(const Launch& launch, const Recipe& recipe, std::int32_t x) {
  return unflip(smaller(x, launch.width - 1), recipe.width, recipe.finish.fliplr);
}

// Step 3: what the window of a strip shows, from memory.
YD_HD void fetch(int thread, const Launch& launch, const Place& place, Stage& stage) {
  const Strip& strip = stage.strips[place.strip];
  const SourceWindow& window = strip.window;
  if (window.layer == kNoLayer) return;
  const Recipe& recipe = stage.task.recipe;
  const Layer& layer = recipe.layers[window.layer];
  if (window.tile == kSeam)
    paint(thread, kBlockThreads, window, layer, stage.task.sources.layers[window.layer],
          stage.seen);
  else
    copy(thread, kBlockThreads, window, stage.seen);
  const int row = thread - kBlockWidth;
  const bool is_row = row >= 0 && row < kStripHeight;
  const std::int32_t y = row_at(launch, recipe, place.y + row);
  if (strip.way == Way::kUpright) {
    if (thread < kBlockWidth)
      stage.columns[thread] = column_of(window, layer, column_at(launch, recipe, place.x + thread));
    if (is_row) stage.lines[row] = line_of(window, layer, y);
  } else {
    if (thread < window.rows) stage.beginnings[thread] = beginning(window, thread);
    if (is_row) stage.starts[row] = to_canvas(layer, 0, y);
  }
}

// Writes a pixel of a strip, as bytes that begin with the lowest.
template <bool kChannelsLast>
YD_HD void put(Stage& stage, int at, std::uint32_t bytes) {
  std::uint8_t* const to = stage.pixels + (kChannelsLast ? 3 * at : at);
  for (int c = 0; c < 3; ++c)
    to[kChannelsLast ? c : c * kStripPixels] = static_cast<std::uint8_t>(bytes >> 8 * c);
}

// Step 4: the pixels of a strip. Neighbouring threads make neighbouring pixels, so that they read
// the same pieces of memory. `bytes_at` knows what to write for a turn and its row of the strip.
template <bool kChannelsLast, int kUnrolled, typename BytesAt>
YD_HD void shade_rows(int thread, Stage& stage, BytesAt bytes_at) {
  const int column = thread % kBlockWidth, first = thread / kBlockWidth * kTurns;
  YD_UNROLL(kUnrolled)
  for (int turn = 0; turn < kTurns; ++turn) {
    const int row = first + turn;
    put<kChannelsLast>(stage, row * kBlockWidth + column, bytes_at(turn, row));
  }
}

// What is left of a recipe once the colours of a pixel are known. Each channel may be more than its
// byte by the same multiple of 256.
struct PixelFinish {
  const HsvTables& tables;
  bool jitters, bgr;
  YD_HD std::uint32_t operator()(Rgb pixel) const {
    return jitters ? jittered(tables, pixel) : unchanged(pixel, bgr);
  }
};

YD_HD PixelFinish finish_of(const Stage& stage) {
  return {stage.tables, stage.task.recipe.finish.hsv.enabled != 0,
          stage.task.recipe.finish.bgr != 0};
}

// Two neighbours in each channel, blended across.
struct Across {
  float r, g, b;
};
YD_HD Across across(const std::uint8_t* p, float weight) {
  return {blend(p[0], p[3], weight), blend(p[1], p[4], weight), blend(p[2], p[5], weight)};
}

// And down, as integers that are more by kWholeBits.
YD_HD Rgb down(const Across& top, const Across& bottom, float weight) {
  const auto whole = [weight](float a, float b) {
    return static_cast<std::int32_t>(bits_of(blend(a, b, weight) + kWhole));
  };
  return {whole(top.r, bottom.r), whole(top.g, bottom.g), whole(top.b, bottom.b)};
}

// Rows of the strip that lie between the same rows of the window, or next to each other, have one
// or two of their blends across in common.
template <bool kChannelsLast>
YD_HD void shade_upright(int thread, Stage& stage) {
  const Between column = stage.columns[thread % kBlockWidth];
  const std::uint8_t* const from = stage.seen + column.first;
  std::int32_t last = 0;
  Across bottom{};
  const PixelFinish finish = finish_of(stage);
  shade_rows<kChannelsLast, kTurns>(thread, stage, [&](int turn, int row) {
    const Line line = stage.lines[row];
    const Across top =
        turn > 0 && line.upper == last ? bottom : across(from + line.upper, column.weight);
    bottom = across(from + line.lower, column.weight);
    last = line.lower;
    return finish(down(top, bottom, line.weight));
  });
}

template <bool kChannelsLast>
YD_HD void shade_turned(int thread, const Launch& launch, const Place& place,
                        const SourceWindow& window, Stage& stage) {
  const Recipe& recipe = stage.task.recipe;
  const float* const m = recipe.layers[window.layer].inverse;
  const std::int32_t x = column_at(launch, recipe, place.x + thread % kBlockWidth);
  const float across_x = m[0], across_y = m[3], at = static_cast<float>(x);
  const std::uint32_t left = kWholeBits + static_cast<std::uint32_t>(window.left);
  const std::uint32_t top = kWholeBits + static_cast<std::uint32_t>(window.top);
  const PixelFinish finish = finish_of(stage);
  shade_rows<kChannelsLast, kTurns>(thread, stage, [&](int, int row) {
    const Point start = stage.starts[row];
    const Point point{fused(across_x, at, start.x), fused(across_y, at, start.y)};  // to_canvas
    const float first = plus_floor(point.x), upper = plus_floor(point.y);
    const auto column = static_cast<std::int32_t>(3 * (bits_of(first) - left));
    const std::int32_t* const rows = stage.beginnings + (bits_of(upper) - top);
    const float wx = point.x - (first - kWhole), wy = point.y - (upper - kWhole);
    return finish(down(across(stage.seen + (column + rows[0]), wx),
                       across(stage.seen + (column + rows[1]), wx), wy));
  });
}

template <bool kChannelsLast>
YD_HD void shade_strip(int thread, const Launch& launch, const Place& place, Stage& stage) {
  const Strip& strip = stage.strips[place.strip];
  const Recipe& recipe = stage.task.recipe;
  const Sources& sources = stage.task.sources;
  if (strip.way == Way::kUpright) return shade_upright<kChannelsLast>(thread, stage);
  if (strip.way == Way::kTurned)
    return shade_turned<kChannelsLast>(thread, launch, place, strip.window, stage);
  if (strip.way == Way::kFill) {
    const std::uint32_t bytes = finish_of(stage)({kFill, kFill, kFill});
    return shade_rows<kChannelsLast, kTurns>(thread, stage, [bytes](int, int) { return bytes; });
  }
  const auto look = [&](int layer, std::int32_t x, std::int32_t y) {
    if (layer != strip.window.layer)
      return sample(recipe.layers[layer], sources.layers[layer], x, y, strip.known[layer]);
    return through(strip.window, stage.seen, to_canvas(recipe.layers[layer], x, y));
  };
  const std::int32_t x = smaller(place.x + thread % kBlockWidth, launch.width - 1);
  shade_rows<kChannelsLast, 1>(thread, stage, [&](int, int row) {
    const std::int32_t y = smaller(place.y + row, launch.height - 1);
    forget_memory();  // or the recipe would take more registers than there are
    return finish_of(stage)(compose(recipe, sources, x, y, look));
  });
}

// 16 bytes of numbers, made of the bytes of a strip from `from` on.
template <PixelFormat kFormat>
YD_HD Chunk chunk_of(const std::uint8_t* from) {
  constexpr int kBytes = sizeof(Number<kFormat>);
  const auto bytes = *reinterpret_cast<const Piece<kChunk / kBytes>*>(from);
  Chunk chunk;
  for (int i = 0; i < 4; ++i)
    chunk.words[i] = written<kFormat>(bytes.words[i / kBytes], i % kBytes * 2);
  return chunk;
}

// Step 5: out of the block's memory. A run is one row of the strip: of a plane, or of triples. A
// thread writes 16 numbers, 16 bytes at a time, next to those of its neighbours.
template <PixelFormat kFormat, bool kChannelsLast>
YD_HD void store(int thread, const Launch& launch, const Place& place, const Stage& stage) {
  constexpr int kPerPixel = kChannelsLast ? 3 : 1, kPlanes = kChannelsLast ? 1 : 3;
  constexpr int kRunLength = kBlockWidth * kPerPixel, kThreadsOfRun = kRunLength / kChunk;
  constexpr int kPerChunk = kChunk / static_cast<int>(sizeof(Number<kFormat>));
  const int run = thread / kThreadsOfRun, begin = (thread - run * kThreadsOfRun) * kPerChunk;
  const std::int32_t y = place.y + run % kStripHeight;
  if (run >= kPlanes * kStripHeight || y >= launch.height) return;
  const int wanted = smaller(kBlockWidth, launch.width - place.x) * kPerPixel;
  const std::uint8_t* const from = stage.pixels + run * kRunLength;
  const std::int32_t pitch = launch.width * kPerPixel;
  const std::int64_t numbers = std::int64_t{3} * launch.width * launch.height;
  Number<kFormat>* const to = static_cast<Number<kFormat>*>(launch.out) + numbers * place.picture +
                              std::int64_t{run / kStripHeight * launch.height + y} * pitch +
                              place.x * kPerPixel;
  const bool whole = wanted % kPerChunk == 0 && reinterpret_cast<std::uintptr_t>(to) % kChunk == 0;
  for (int first = begin; first < wanted; first += kThreadsOfRun * kPerChunk) {
    if (whole) {
      *reinterpret_cast<Chunk*>(to + first) = chunk_of<kFormat>(from + first);
    } else {
      YD_UNROLL(1)
      for (int k = first; k < smaller(first + kPerChunk, wanted); ++k)
        to[k] = static_cast<Number<kFormat>>(written<kFormat>(from[k], 0));
    }
  }
}

}  // namespace yolodata
