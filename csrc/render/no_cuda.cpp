#include <stdexcept>

#include "render/render.h"

namespace yolodata {
namespace {

[[noreturn]] void refuse() {
  throw std::runtime_error(
      "this yolodata was built without CUDA; rebuild it with YOLODATA_CUDA=on, or render on the "
      "CPU");
}

}  // namespace

const char* cuda_build() { return "none"; }

void render_cuda(const RenderTask*, std::int32_t, std::int32_t, std::int32_t, const Output&,
                 void*) {
  refuse();
}

const void* register_host(const void*, std::size_t) { refuse(); }
void unregister_host(const void*) noexcept {}

}  // namespace yolodata
