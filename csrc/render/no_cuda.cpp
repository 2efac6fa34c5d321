#include <stdexcept>

#include "render/render.h"

namespace yolodata {

const char* cuda_build() { return "none"; }

void render_cuda(const Recipe*, const Sources*, std::int32_t, std::int32_t, std::int32_t,
                 std::uint8_t*, void*) {
  throw std::runtime_error(
      "this yolodata was built without CUDA; rebuild it with YOLODATA_CUDA=on, or render on the "
      "CPU");
}

}  // namespace yolodata
