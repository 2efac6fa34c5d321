// The body of the CUDA kernel: what the threads of a block do, in steps between which they meet.
//
// A block makes kBlockWidth x kBlockHeight pixels of one picture in shared memory and then writes
// them out, 16 bytes at a time whatever the format. cuda.cu runs the steps with real threads,
// blocks.cpp the same functions with loops: what the CPU's tests see is what the device computes.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/host_device.h"
#include "render/render.h"
#include "render/shade.h"
#include "render/window.h"

namespace yolodata {

inline constexpr int kBlockWidth = 128, kBlockHeight = 8, kBlockThreads = 256;
inline constexpr int kBlockPixels = kBlockWidth * kBlockHeight;

// What the threads of a block share. Pixels are of type `T`, in the order of the output: planes of
// rows of kBlockWidth, or rows of kBlockWidth triples.
template <typename T>
struct Stage {
  Shot shot;
  alignas(kChunk) T pixels[3 * kBlockPixels];
  std::int32_t known[kMaxLayers];  // what the block sees of each layer; see `tile_of`
  Window window;                   // onto the layer that it shows first
  alignas(kChunk) std::uint8_t seen[kWindowBytes];  // through the window
  Between columns[kBlockWidth];                     // where its columns lie in the window
  Line lines[kBlockHeight];                         // and its rows
};

// One launch, as every block sees it.
struct Launch {
  const Shot* shots;
  std::int32_t width, height;
  void* out;
  Format format;
};

// Which part of which picture a block makes.
struct Place {
  std::int32_t picture, x, y;
};

YD_HD std::int32_t blocks_across(std::int32_t width) {
  return (width + kBlockWidth - 1) / kBlockWidth;
}
YD_HD std::int32_t blocks_down(std::int32_t height) {
  return (height + kBlockHeight - 1) / kBlockHeight;
}

// A byte as a fraction of 255, rounded to single and then to half precision or bfloat16, to
// nearest, ties to even: what `x.float() / 255` followed by a cast gives. (The product is not
// always the quotient, but both round to the same 16 bits for each of the 256.)
YD_HD std::uint32_t unit_bits(std::int32_t byte) {
  const float value = static_cast<float>(byte) * (1.0f / 255.0f);
  union {
    float value;
    std::uint32_t bits;
  } same{value};
  return same.bits;
}

YD_HD std::uint16_t to_float16(std::int32_t byte) {
  if (byte == 0) return 0;
  const std::uint32_t bits = unit_bits(byte);  // from 1/255 on, a normal number in half precision
  const std::uint32_t rounded = bits + 0xFFFu + (bits >> 13 & 1u);
  return static_cast<std::uint16_t>((rounded >> 13) - (112u << 10));
}

YD_HD std::uint16_t to_bfloat16(std::int32_t byte) {
  const std::uint32_t bits = unit_bits(byte);
  return static_cast<std::uint16_t>((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

YD_HD std::uint8_t stored(std::int32_t byte, Format, std::uint8_t) {
  return static_cast<std::uint8_t>(byte);
}
YD_HD std::uint16_t stored(std::int32_t byte, Format format, std::uint16_t) {
  return format == Format::kFloat16 ? to_float16(byte) : to_bfloat16(byte);
}

// Step 1: the recipe, from memory, without the layers that it does not have.
template <typename T>
YD_HD void load(int thread, const Launch& launch, const Place& place, Stage<T>& stage) {
  const Shot* shot = launch.shots + place.picture;
  const Chunk* from = reinterpret_cast<const Chunk*>(shot);
  Chunk* to = reinterpret_cast<Chunk*>(&stage.shot);
  const auto layers = static_cast<std::size_t>(shot->recipe.layer_count);
  const auto recipe_end =
      static_cast<int>((offsetof(Recipe, layers) + layers * sizeof(Layer) + kChunk - 1) / kChunk);
  constexpr int kSources = static_cast<int>(offsetof(Shot, sources) / kChunk);
  const auto sources_end = static_cast<int>(
      (offsetof(Shot, sources) + layers * sizeof(LayerSources) + kChunk - 1) / kChunk);
  for (int i = thread; i < sources_end; i += kBlockThreads)
    if (i < recipe_end || i >= kSources) to[i] = from[i];
}

// The layer that these pixels, corners included, show before anything is mixed into it or pasted
// onto it; if a cut covers only some of them, the layer around it.
YD_HD int first_layer(const Recipe& recipe, std::int32_t x1, std::int32_t y1, std::int32_t x2,
                      std::int32_t y2) {
  const auto is_cut = [&](std::int32_t x, std::int32_t y) {
    return in_cut(recipe, unflip(x, recipe.width, recipe.fliplr),
                  unflip(y, recipe.height, recipe.flipud));
  };
  const bool cut = recipe.cutmix_layer != kNoLayer && is_cut(x1, y1) && is_cut(x2, y2);
  return cut ? recipe.cutmix_layer : 0;
}

// Step 2: what the block sees of each layer, and through its window.
template <typename T>
YD_HD void look(int thread, const Launch& launch, const Place& place, Stage<T>& stage) {
  if (thread >= kMaxLayers) return;
  const Recipe& recipe = stage.shot.recipe;
  if (thread >= recipe.layer_count) return;
  const std::int32_t right = smaller(place.x + kBlockWidth, launch.width) - 1;
  const std::int32_t bottom = smaller(place.y + kBlockHeight, launch.height) - 1;
  const View view = view_of(recipe, recipe.layers[thread], place.x, place.y, right, bottom);
  stage.known[thread] = view.tile;
  if (thread == first_layer(recipe, place.x, place.y, right, bottom))
    open(stage.window, recipe, stage.shot.sources, thread, view);
}

// Step 3: what the window shows, from memory.
template <typename T>
YD_HD void fetch(int thread, const Launch& launch, const Place& place, Stage<T>& stage) {
  const Window& window = stage.window;
  if (window.layer == kNoLayer) return;
  copy(thread, kBlockThreads, window, stage.seen);
  const Recipe& recipe = stage.shot.recipe;
  const Layer& layer = recipe.layers[window.layer];
  if (thread < kBlockWidth)
    stage.columns[thread] =
        column_of(window, layer, unflip(place.x + thread, recipe.width, recipe.fliplr));
  if (thread < kBlockHeight && place.y + thread < launch.height)
    stage.lines[thread] =
        line_of(window, layer, unflip(place.y + thread, recipe.height, recipe.flipud));
}

// Step 4: the pixels. Neighbouring threads make neighbouring pixels, so that they read the same
// pieces of memory.
template <typename T, bool kChannelsLast>
YD_HD void shade_block(int thread, const Launch& launch, const Place& place, Stage<T>& stage) {
  const Recipe& recipe = stage.shot.recipe;
  const Sources& sources = stage.shot.sources;
  for (int i = thread; i < kBlockPixels; i += kBlockThreads) {
    const std::int32_t x = place.x + i % kBlockWidth, y = place.y + i / kBlockWidth;
    if (x >= launch.width || y >= launch.height) continue;
    const auto look = [&](int layer, std::int32_t at_x, std::int32_t at_y) {
      if (layer != stage.window.layer)
        return sample(recipe.layers[layer], sources.layers[layer], at_x, at_y, stage.known[layer]);
      const Between column = stage.columns[i % kBlockWidth];
      const Line line = stage.lines[i / kBlockWidth];
      const std::uint8_t* const from = stage.seen + column.first;
      return interpolate(from + line.upper, from + line.lower, column.weight, line.weight);
    };
    const Rgb pixel = compose(recipe, sources, x, y, look);
    T* at = stage.pixels + (kChannelsLast ? 3 * i : i);
    constexpr int kNext = kChannelsLast ? 1 : kBlockPixels;
    at[0] = stored(pixel.r, launch.format, T{});
    at[kNext] = stored(pixel.g, launch.format, T{});
    at[2 * kNext] = stored(pixel.b, launch.format, T{});
  }
}

// Step 5: out of the block's memory. A run is one row of the block: of a plane, or of triples.
template <typename T, bool kChannelsLast>
YD_HD void store(int thread, const Launch& launch, const Place& place, const Stage<T>& stage) {
  constexpr int kPerPixel = kChannelsLast ? 3 : 1;
  constexpr int kRuns = (kChannelsLast ? 1 : 3) * kBlockHeight;
  constexpr int kPerChunk = static_cast<int>(sizeof(Chunk) / sizeof(T));
  constexpr int kChunksOfRun = kBlockWidth * kPerPixel / kPerChunk;
  const std::int64_t row = static_cast<std::int64_t>(launch.width) * kPerPixel;
  const std::int64_t plane = row * launch.height;
  const int wanted = smaller(kBlockWidth, launch.width - place.x) * kPerPixel;
  T* picture = static_cast<T*>(launch.out) + place.picture * (plane * (kChannelsLast ? 1 : 3));
  for (int i = thread; i < kRuns * kChunksOfRun; i += kBlockThreads) {
    const int run = i / kChunksOfRun, first = i % kChunksOfRun * kPerChunk;
    const std::int32_t y = place.y + run % kBlockHeight;
    if (y >= launch.height || first >= wanted) continue;
    const T* from = stage.pixels + run * kBlockWidth * kPerPixel + first;
    T* to = picture + run / kBlockHeight * plane + y * row + place.x * kPerPixel + first;
    if (first + kPerChunk <= wanted && reinterpret_cast<std::uintptr_t>(to) % sizeof(Chunk) == 0) {
      *reinterpret_cast<Chunk*>(to) = *reinterpret_cast<const Chunk*>(from);
    } else {
      for (int k = 0; k < kPerChunk && first + k < wanted; ++k) to[k] = from[k];
    }
  }
}

}  // namespace yolodata
