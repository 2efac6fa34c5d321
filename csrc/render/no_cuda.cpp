#include "core/no_cuda.h"
#include "render/render.h"

namespace yolodata {

const char* cuda_build() { return "none"; }

void render_cuda(const RenderTask*, std::int32_t, std::int32_t, std::int32_t, const Output&,
                 void*) {
  refuse_cuda();
}

const void* register_host(const void*, std::size_t) { refuse_cuda(); }
void unregister_host(const void*) noexcept {}

}  // namespace yolodata
