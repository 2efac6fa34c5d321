// What a baseline JPEG file says before the bits of its picture begin.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "jpeg/huffman.h"

namespace yolodata::jpeg {

struct Component {
  std::int32_t across, down;          // blocks of a unit (MCU)
  std::array<std::int16_t, 64> step;  // quantisation, row by row
  std::int32_t dc, ac;                // which tables
};

// Grey, or YCbCr whose brightness has 1 x 1, 2 x 1 or 2 x 2 blocks for one of either colour
// difference; 8 bits, one scan, no restart markers.
struct Frame {
  std::int32_t height, width;  // pixels
  std::int32_t components;     // 1 or 3
  std::array<Component, 3> component;
  std::array<HuffmanTable, 2> dc, ac;
  std::size_t bits;  // the byte of the file where the scan's bits begin
};

// Reads the segments up to the first scan. Nothing for any file that is not as simple as that, and
// for one that breaks a rule: another decoder has to look at it.
bool read_frame(const std::uint8_t* data, std::size_t size, Frame& frame);

}  // namespace yolodata::jpeg
