// A JPEG file that came with a dataset, decoded by the core.
#include "jpeg/decode.h"

#include <thread>
#include <vector>

#include "fuzz.h"
#include "ingest/jpeg_header.h"

using namespace yolodata;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto found = read_jpeg_header(data, size);
  if (!found || found->height * std::int64_t{found->width} > 1 << 20) return 0;
  const auto pixels = static_cast<std::size_t>(found->height * found->width);
  std::vector<std::uint8_t> out(3 * pixels);
  // A thread of its own has memory of its own, exactly as large as this file needs.
  std::thread([&] { jpeg::decode(data, size, found->height, found->width, out.data()); }).join();
  return 0;
}
