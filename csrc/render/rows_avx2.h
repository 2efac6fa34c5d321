// Loops of rows.h for x86-64 with AVX2 and FMA. Those that return an int did so many pixels (or
// bytes); rows.cpp does the rest.
#pragma once

#include <cstdint>

#include "render/rows.h"

namespace yolodata::avx2 {

int blend_rows(const std::uint8_t* top, const std::uint8_t* bottom, float weight, int count,
               float* line);
int resample_row(const float* line, const std::int32_t* offsets, const float* weights, int count,
                 float tolerance, std::uint32_t* words, std::int32_t*& doubtful);
void interpolate_run(const std::uint8_t* image, std::int64_t stride, const Points& points,
                     int first, int last, std::int64_t ahead, std::uint32_t* words);
int jitter_row(std::uint32_t* words, const HsvJitter& hsv, std::uint32_t jittered_fill, int count);
int split_row(const std::uint32_t* words, int count, std::uint8_t* red, std::uint8_t* green,
              std::uint8_t* blue);
void finish();  // what split_row wrote is visible to other threads after this

}  // namespace yolodata::avx2
