// Loops of row_ops.h for arm64, of which every processor has NEON and fused multiply-add. Only
// those that compilers do badly: of row_ops.cpp they make as good a split_pixels (ld3) and map_row
// as could be written here. Those that return an int did so many pixels (or bytes); row_ops.cpp
// does the rest.
#pragma once

#include <cstdint>

#include "render/row_types.h"

namespace yolodata::neon {

int resample_row(const Planes& line, const Columns& columns, const std::uint8_t* empty, float* out);
int blend_rows(const float* top, const float* bottom, std::ptrdiff_t apart, float weight, int count,
               const Planes& out);
int find_end(const Points& points, int first, int count, const Region& region);
int interpolate_run(const std::uint8_t* image, std::int64_t stride, const Points& points, int count,
                    std::int64_t prefetch, const Planes& out);
int mix_bytes(std::uint8_t* bytes, const std::uint8_t* others, const Mixing& mixing, int count);

}  // namespace yolodata::neon
