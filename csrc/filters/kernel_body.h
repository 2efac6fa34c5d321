// The bodies of the CUDA kernels that filter: what the threads of a block do, in steps between
// which they meet. cuda.cu runs the steps with threads, kernel_emulation.cpp the same functions
// with loops.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/host_device.h"
#include "filters/clahe.h"
#include "filters/filter.h"
#include "filters/filters.h"
#include "filters/lab.h"

namespace yolodata {

// A block makes so many pixels, one a thread.
inline constexpr int kFilterWidth = 32, kFilterHeight = 8;
inline constexpr int kFilterThreads = kFilterWidth * kFilterHeight;
inline constexpr int kMaxReach = kMaxBlur / 2;

// The pixels that the windows of a block show: rows of triples.
struct Surroundings {
  std::uint8_t pixels[(kFilterHeight + 2 * kMaxReach) * (kFilterWidth + 2 * kMaxReach) * 3];
};

YD_HD std::int32_t filter_blocks(std::int32_t pixels, std::int32_t of_a_block) {
  return (pixels + of_a_block - 1) / of_a_block;
}

YD_HD std::int32_t filter_pitch(const Filter& filter) {
  return 3 * (kFilterWidth + 2 * reach(filter));
}

YD_HD std::size_t byte_of(const FilterLaunch& launch, std::int32_t x, std::int32_t y) {
  return 3 * (static_cast<std::size_t>(y) * static_cast<std::size_t>(launch.width) +
              static_cast<std::size_t>(x));
}

YD_HD Rgb rgb_at(const std::uint8_t* pixel) { return {pixel[0], pixel[1], pixel[2]}; }

// Step 1, of filters that look around: what the block that begins at (left, top) sees.
YD_HD void look_around(int thread, const FilterLaunch& launch, const FilterTask& task,
                       std::int32_t left, std::int32_t top, Surroundings& around) {
  const std::int32_t far = reach(task.filter);
  if (far == 0) return;
  const FilterKind kind = task.filter.kind;
  const std::int32_t wide = kFilterWidth + 2 * far, high = kFilterHeight + 2 * far;
  for (std::int32_t i = thread; i < wide * high; i += kFilterThreads) {
    const std::int32_t x = inside(kind, left - far + i % wide, launch.width);
    const std::int32_t y = inside(kind, top - far + i / wide, launch.height);
    const std::uint8_t* pixel = task.from + byte_of(launch, x, y);
    for (int channel = 0; channel < 3; ++channel) around.pixels[3 * i + channel] = pixel[channel];
  }
}

// The three bytes that a transform takes for red, green and blue: Note [order of channels].
YD_HD Lab lab_of_bgr(const LabTables& tables, Rgb pixel) {
  const std::uint8_t bytes[3] = {static_cast<std::uint8_t>(pixel.b),
                                 static_cast<std::uint8_t>(pixel.g),
                                 static_cast<std::uint8_t>(pixel.r)};
  return lab_of(tables, bytes);
}

YD_HD Rgb equalised(const FilterLaunch& launch, const FilterTask& task, std::int32_t x,
                    std::int32_t y, Rgb pixel) {
  Lab lab = lab_of_bgr(*launch.lab, pixel);
  lab.l = clahe_pixel(task.grid, task.tables, x, y, lab.l);
  std::uint8_t bytes[3];
  rgb_of(*launch.lab, lab, bytes);
  return {bytes[2], bytes[1], bytes[0]};
}

// Step 2: a pixel.
YD_HD void filter_pixel(int thread, const FilterLaunch& launch, const FilterTask& task,
                        std::int32_t left, std::int32_t top, const Surroundings& around) {
  const Filter& filter = task.filter;
  const std::int32_t column = thread % kFilterWidth, row = thread / kFilterWidth;
  const std::int32_t x = left + column, y = top + row;
  if (x >= launch.width || y >= launch.height) return;
  const std::size_t byte = byte_of(launch, x, y);
  const Rgb pixel = rgb_at(task.from + byte);
  const std::int32_t pitch = filter_pitch(filter);
  const auto window = [&](int channel) {
    return Neighbours{around.pixels + row * pitch + 3 * column + channel, pitch, filter.window};
  };
  Rgb made{};
  switch (filter.kind) {
    case FilterKind::kTable: made = through_table(filter, pixel); break;
    case FilterKind::kGrey: made = grey(pixel); break;
    case FilterKind::kBlur: made = {mean(window(0)), mean(window(1)), mean(window(2))}; break;
    case FilterKind::kMedian:
      made = {median(window(0)), median(window(1)), median(window(2))};
      break;
    case FilterKind::kClahe: made = equalised(launch, task, x, y, pixel); break;
  }
  std::uint8_t* to = task.to + byte;
  to[0] = static_cast<std::uint8_t>(made.r);
  to[1] = static_cast<std::uint8_t>(made.g);
  to[2] = static_cast<std::uint8_t>(made.b);
}

// Before the filter itself, kClahe needs a table of each tile: one block makes it, a thread a bin.
static_assert(kFilterThreads == kClaheBins);

struct TileStage {
  std::int32_t counts[kClaheBins];
  std::int32_t excess;  // of all bins
};

YD_HD bool has_tile(const FilterTask& task, std::int32_t number) {
  const Filter& filter = task.filter;
  return filter.kind == FilterKind::kClahe && number < filter.tiles_x * filter.tiles_y;
}

// Step 1.
YD_HD void clear(int thread, TileStage& tile) {
  tile.counts[thread] = 0;
  if (thread == 0) tile.excess = 0;
}

// Step 2: how often the tile has each lightness.
YD_HD void count_levels(int thread, const FilterLaunch& launch, const FilterTask& task,
                        std::int32_t number, TileStage& tile) {
  const ClaheGrid& grid = task.grid;
  const std::int32_t across = number % grid.tiles_x, down = number / grid.tiles_x;
  for (std::int32_t i = thread; i < grid.tile_width * grid.tile_height; i += kFilterThreads) {
    const std::int32_t x = clahe_column(grid, across, i % grid.tile_width);
    const std::int32_t y = clahe_row(grid, down, i / grid.tile_width);
    const Rgb pixel = rgb_at(task.from + byte_of(launch, x, y));
    add_shared(tile.counts[lab_of_bgr(*launch.lab, pixel).l], 1);
  }
}

// Step 3: how many are too many.
YD_HD void sum_excess(int thread, const FilterTask& task, TileStage& tile) {
  add_shared(tile.excess, clahe_excess(task.grid, tile.counts[thread]));
}

// Step 4.
YD_HD void write_table(int thread, const FilterTask& task, std::int32_t number,
                       const TileStage& tile) {
  const ClaheGrid& grid = task.grid;
  std::int32_t sum = 0;
  for (std::int32_t bin = 0; bin <= thread; ++bin)
    sum += clahe_count(grid, bin, tile.counts[bin], tile.excess);
  task.tables[number * kClaheBins + thread] = clahe_byte(grid, sum);
}

}  // namespace yolodata
