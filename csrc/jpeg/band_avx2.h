// Bands of a picture (what one row of its units covers) on x86-64 with AVX2 and BMI2.
#pragma once

#include <cstddef>
#include <cstdint>

#include "jpeg/frame.h"

namespace yolodata::jpeg {

// The bits of a scan, without the bytes that only mark its 0xFFs. `kSlack` bytes behind `end` can
// be read.
struct Bits {
  static constexpr std::size_t kSlack = 512;
  const std::uint8_t *next, *end;
  std::uint64_t window = 0;  // the next bits, the first one on top
  std::int32_t held = 0;     // how many of them are sure to be there
};

namespace avx2 {

// Coefficients of the blocks of a unit go to out[0], out[1], ... in the order of the file, each
// 64 values, row by row, that must be 0 before. False where that is not a baseline file's.
bool read_unit(const Frame& frame, Bits& bits, std::uint32_t (&dc)[3], std::int16_t* const* out);

// Two blocks, which follow each other in memory, to 8 rows of 16 samples, `stride` apart. The
// coefficients are 0 afterwards. False where one of those that only vary across is eight times what
// a picture can have: where there are no others, libjpeg-turbo lets it wrap around.
bool to_samples(std::int16_t* blocks, const std::int16_t* step, std::uint8_t* out,
                std::ptrdiff_t stride);

// out[0 .. 2 * count) = a row of colour differences, doubled across; or both ways, with the row
// that is `next` to it there: triangle filter. Reads one sample on either side, and reads and
// writes whole blocks of 16 and 32.
void double_across(const std::uint8_t* row, int count, std::uint8_t* out);
void double_both(const std::uint8_t* row, const std::uint8_t* next, int count, std::uint8_t* out);

// `count` pixels of YCbCr to RGB; reads whole blocks of 16.
void to_rgb(const std::uint8_t* y, const std::uint8_t* cb, const std::uint8_t* cr, int count,
            std::uint8_t* rgb);
void grey_to_rgb(const std::uint8_t* y, int count, std::uint8_t* rgb);

}  // namespace avx2
}  // namespace yolodata::jpeg
