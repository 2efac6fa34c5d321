// The header of a JPEG file; see yolodata/images/jpeg.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>

namespace yolodata {

struct JpegHeader {
  std::int32_t height, width;  // pixels, of the first frame
  std::int64_t scans;          // that a decoder goes through
  bool ordinary, plain;        // as jpeg.py defines them
};

// Goes from marker to marker as libjpeg does, over whatever lies between them. Nothing where that
// finds no frame with a scan. Behind the first scan it looks only if there may be further ones: the
// time is then that of reading the file once.
std::optional<JpegHeader> read_jpeg_header(const std::uint8_t* data, std::size_t size);

}  // namespace yolodata
