// The quantised coefficients of a JPEG file: what its entropy code says, before any arithmetic of a
// decoder. Huffman code, sequential or progressive, 8 bits a sample (ITU-T T.81).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "jpeg/segments.h"

namespace yolodata {

// Thrown at anything that is damaged, unusual or not read here. `why` is for people.
struct JpegDoubt {
  const char* why;
};

inline constexpr int kMostScans = 100;  // that decoders are asked for, see images/limits.py

struct JpegComponent {
  std::uint8_t id, h, v, table;      // as in the frame; the last one is of quantisation
  std::int32_t width, height;        // blocks that hold some of the picture
  std::int32_t stride, rows;         // blocks in memory: of whole MCUs
  std::vector<std::int16_t> values;  // rows x stride x 64, each block in zigzag order

  std::int16_t* block(std::int32_t row, std::int32_t column) {
    return values.data() + (std::size_t{jpeg::kCoefficients} * row * stride +
                            std::size_t{jpeg::kCoefficients} * column);
  }
  const std::int16_t* block(std::int32_t row, std::int32_t column) const {
    return const_cast<JpegComponent*>(this)->block(row, column);
  }
};

struct JpegCoefficients {
  // All segments before the first scan, as they are, but for those of the entropy code (DHT, DRI).
  std::vector<std::uint8_t> head;
  std::size_t frame = 0;  // where in `head` the marker of the frame stands, behind its 0xFF
  std::int32_t mcu_columns = 0, mcu_rows = 0;  // of a scan with all components
  std::vector<JpegComponent> components;
};

// Reads all coefficients. Each must be there with all its bits, because decoders smooth blocks that
// lack some, and the file must end with its end marker.
// Throws JpegDoubt.
JpegCoefficients read_jpeg_coefficients(const std::uint8_t* data, std::size_t size);

}  // namespace yolodata
