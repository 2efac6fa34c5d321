// A JPEG file that came with a dataset, written anew: the same coefficients, and the same segments.
#include "ingest/jpeg_transcode.h"

#include <algorithm>

#include "fuzz.h"
#include "ingest/jpeg_header.h"

using namespace yolodata;

namespace {

constexpr std::int32_t kMost = 1 << 18;  // pixels; larger ones take time and show nothing new

void must_be_equal(const JpegCoefficients& a, const JpegCoefficients& b) {
  must(a.components.size() == b.components.size() && a.head.size() == b.head.size());
  for (std::size_t k = 0; k < a.head.size(); ++k) must(a.head[k] == b.head[k] || k == a.frame);
  for (std::size_t k = 0; k < a.components.size(); ++k) {
    const JpegComponent &one = a.components[k], &other = b.components[k];
    must(one.width == other.width && one.height == other.height);
    for (std::int32_t row = 0; row < one.height; ++row)
      for (std::int32_t column = 0; column < one.width; ++column)
        must(std::equal(one.block(row, column), one.block(row, column) + jpeg::kCoefficients,
                        other.block(row, column)));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto header = read_jpeg_header(data, size);
  if (!header || std::int64_t{header->width} * header->height > kMost) return 0;
  transcode_jpeg(data, size);
  try {
    const JpegCoefficients image = read_jpeg_coefficients(data, size);
    const std::vector<std::uint8_t> made = write_baseline_jpeg(image);
    must(read_jpeg_header(made.data(), made.size())->scans == 1);
    must_be_equal(image, read_jpeg_coefficients(made.data(), made.size()));
  } catch (const JpegDoubt& doubt) {
    must(*doubt.why != 0);
  }
  return 0;
}
