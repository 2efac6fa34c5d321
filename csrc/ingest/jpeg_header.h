// The header of a JPEG file; see yolodata/images/jpeg.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

namespace yolodata {

struct JpegHeader {
  std::int32_t height, width;  // pixels, of the first frame
  bool plain;                  // as jpeg.py defines it
};

// Nothing where the segments before the first scan are malformed, hold EXIF data or no frame, or
// take more than 256 KiB.
std::optional<JpegHeader> read_jpeg_header(const std::uint8_t* data, std::size_t size);

}  // namespace yolodata
