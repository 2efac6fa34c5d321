// JPEG files with several scans as baseline files with one: the same coefficients, so the same
// pixels, which decoders have in a third of the time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "ingest/jpeg_coefficients.h"

namespace yolodata {

// Gives a baseline file with these coefficients and all other segments of the file's head. Its
// Huffman tables are those that make it smallest. Restart markers are left out.
// Throws JpegDoubt where a value is too large for baseline.
std::vector<std::uint8_t> write_baseline_jpeg(const JpegCoefficients& image);

struct Transcoded {
  std::vector<std::uint8_t> data;  // empty: the file stays as it is
  const char* why = "";            // it does, though it has several scans
};

// Does both for a file with several scans; any other stays as it is.
Transcoded transcode_jpeg(const std::uint8_t* data, std::size_t size);

}  // namespace yolodata
