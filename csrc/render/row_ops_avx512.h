// Loops of row_ops.h for x86-64 with AVX-512 and VBMI. Those that return an int did so many pixels
// (or bytes); row_ops.cpp does the rest.
#pragma once

#include <cstdint>

#include "render/row_ops_avx2.h"
#include "render/row_types.h"

namespace yolodata::avx512 {

int split_pixels(const std::uint8_t* pixels, int count, std::ptrdiff_t prefetch, const Planes& out);
int resample_row(const Planes& line, const Columns& columns, const std::uint8_t* empty, float* out);
int blend_rows(const float* top, const float* bottom, std::ptrdiff_t apart, float weight, int count,
               const Planes& out);
int map_row(const Layer& layer, std::int32_t x, std::int32_t y, std::int32_t step, int count,
            const Points& points);
int find_end(const Points& points, int first, int count, const Region& region);
int store_row(const std::uint8_t* channel, int count, std::uint8_t* out);
using avx2::interpolate_run;
using avx2::mix_bytes;

}  // namespace yolodata::avx512
