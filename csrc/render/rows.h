// The CPU's inner loops over a row. Each applies an operation of shade.h to many pixels; pixels
// travel as 32-bit words, red in the low byte, then green, then blue.
#pragma once

#include <cstdint>

#include "plan/recipe.h"
#include "render/shade.h"

namespace yolodata {

inline constexpr std::uint32_t kFillWord = kFill * 0x010101u;

// A canvas pixel in the image of the tile that shows it.
inline const std::uint8_t* pixel_of(const Layer& layer, const ImageView* images, int tile,
                                    std::int32_t x, std::int32_t y) {
  const Tile& t = layer.tiles[tile];
  return images[tile].pixels +
         3 * (static_cast<std::int64_t>(y - t.y0) * images[tile].width + (x - t.x0));
}

// line[i] = the blend of top[i] and bottom[i] for `count` bytes.
void blend_rows(const std::uint8_t* top, const std::uint8_t* bottom, float weight, int count,
                float* line);

// words[i] = the blend of the pixels that start at line[offsets[i]] and three floats later. The
// line must be readable four floats past its last pixel. Where a channel is within `tolerance` of a
// tie, i is appended to `doubtful`; returns how many were.
int resample_row(const float* line, const std::int32_t* offsets, const float* weights, int count,
                 float tolerance, std::uint32_t* words, std::int32_t* doubtful);

// Canvas coordinates of `count` output pixels from (x, y) on, `step` (1 or -1) apart: whole parts
// (kOutside where no neighbour is on the canvas) and weights.
inline constexpr std::int32_t kOutside = -2;
struct Points {
  std::int32_t* x;
  std::int32_t* y;
  float* wx;
  float* wy;
};
void map_row(const Layer& layer, std::int32_t x, std::int32_t y, std::int32_t step, int count,
             const Points& points);

// words[i] for i in [first, last) from the four pixels around points[i] of one image. `image` is
// where canvas pixel (0, 0) would be, rows are `stride` bytes apart, and two bytes past the last
// pixel that is used must be readable. What lies `ahead` bytes further is fetched for later rows.
void interpolate_run(const std::uint8_t* image, std::int64_t stride, const Points& points,
                     int first, int last, std::int64_t ahead, std::uint32_t* words);

void mix_rows(std::uint32_t* words, const std::uint32_t* others, double ratio, int count);
void jitter_row(std::uint32_t* words, const HsvJitter& hsv, int count);
void split_row(const std::uint32_t* words, int count, std::uint8_t* red, std::uint8_t* green,
               std::uint8_t* blue);

// Call once after the last split_row of a picture, before another thread reads it.
void finish_picture();

}  // namespace yolodata
