// The first bytes of a picture file that came with a dataset.
#include "ingest/jpeg_header.h"

#include "fuzz.h"

using namespace yolodata;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto found = read_jpeg_header(data, size);
  if (!found) return 0;
  must(found->height >= 0 && found->height <= 65535 && found->width >= 0 && found->width <= 65535);
  if (found->plain) must(found->height > 0 && found->width > 0);
  return 0;
}
