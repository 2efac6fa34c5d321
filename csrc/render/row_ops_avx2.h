// Loops of row_ops.h for x86-64 with AVX2 and FMA. Those that return an int did so many pixels (or
// bytes); row_ops.cpp does the rest.
#pragma once

#include <cstdint>

#include "render/row_types.h"

namespace yolodata::avx2 {

int split_pixels(const std::uint8_t* pixels, int count, std::ptrdiff_t prefetch, const Planes& out);
int resample_row(const Planes& line, const Columns& columns, const std::uint8_t* empty, float* out);
int blend_rows(const float* top, const float* bottom, std::ptrdiff_t apart, float weight, int count,
               const Planes& out);
int map_row(const Layer& layer, std::int32_t x, std::int32_t y, std::int32_t step, int count,
            const Points& points);
int find_end(const Points& points, int first, int count, const Region& region);
int interpolate_run(const std::uint8_t* image, std::int64_t stride, const Points& points, int count,
                    std::int64_t prefetch, const Planes& out);
int mix_bytes(std::uint8_t* bytes, const std::uint8_t* others, const Mixing& mixing, int count);
int store_row(const std::uint8_t* channel, int count, std::uint8_t* out);
void finish();  // what store_row wrote is visible to other threads after this

}  // namespace yolodata::avx2
