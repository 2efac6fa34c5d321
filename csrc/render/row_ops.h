// The CPU's inner loops over a row. Each applies an operation of shade.h to many pixels, which
// travel channel by channel.
#pragma once

#include <cstddef>
#include <cstdint>

#include "plan/recipe.h"
#include "render/row_types.h"
#include "render/shade.h"

namespace yolodata {

// Takes `count` pixels apart. Their next row is `prefetch` bytes further; it and a later one are
// fetched.
void split_pixels(const std::uint8_t* pixels, int count, std::ptrdiff_t prefetch,
                  const Planes& out);

// Finds `start` (count / 4 of them), `picks` (4 * count) and `together`.
void find_picks(Columns& columns, std::int32_t* start, std::uint8_t* picks);

// Finds `exact` (count / kBlock of them) and `weights` (count).
void find_exact(Columns& columns, std::uint8_t* exact, std::uint32_t* weights);

// out = the blends across of a line, for blocks of columns that are not empty, its channels as far
// apart as there are columns.
void resample_row(const Planes& line, const Columns& columns, const std::uint8_t* empty,
                  float* out);

// out = the blends of `top` and `bottom`, whose channels are `apart`, in whole blocks. Where a
// channel is within `tolerance` of a tie and might be wrong, the column is appended to `doubtful`;
// returns how many were.
int blend_rows(const float* top, const float* bottom, std::ptrdiff_t apart, float weight, int count,
               float tolerance, const Planes& out, std::int32_t* doubtful);

// Canvas coordinates of `count` output pixels from (x, y) on, `step` (1 or -1) apart, in whole
// blocks.
void map_row(const Layer& layer, std::int32_t x, std::int32_t y, std::int32_t step, int count,
             const Points& points);

// The first point from `first` on that is not in the region, or `count`. Whole blocks are read.
int find_end(const Points& points, int first, int count, const Region& region);

// `count` pixels from the four around each point in one image, and anything up to the end of a
// block. `image` is where canvas pixel (0, 0) would be, rows are `stride` bytes apart, and two
// bytes past the last pixel that is used must be readable. What lies `prefetch` bytes further is
// fetched for later rows.
void interpolate_run(const std::uint8_t* image, std::int64_t stride, const Points& points,
                     int count, std::int64_t prefetch, const Planes& out);

// Whether integers mix as shade.h's doubles do, and how. See Note [mixing integers].
Mixing find_mixing(double ratio);

// Does whole blocks.
void mix_rows(const Planes& row, const Planes& other, const Mixing& mixing, int count);

// Copies a channel of a row to where the picture is.
void store_row(const std::uint8_t* channel, int count, std::uint8_t* out);

// Call once after the last store_row of a picture, before another thread reads it.
void finish_picture();

}  // namespace yolodata
