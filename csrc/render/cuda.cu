#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "render/render.h"

namespace yolodata {
namespace {

constexpr int kBlockWidth = 32;
constexpr int kBlockHeight = 8;

__global__ void render_kernel(const Recipe* __restrict__ recipes,
                              const Sources* __restrict__ sources, std::int32_t width,
                              std::int32_t height, std::uint8_t* __restrict__ out) {
  const std::int32_t x = static_cast<std::int32_t>(blockIdx.x * kBlockWidth + threadIdx.x);
  const std::int32_t y = static_cast<std::int32_t>(blockIdx.y * kBlockHeight + threadIdx.y);
  if (x >= width || y >= height) return;
  const Rgb pixel = shade(recipes[blockIdx.z], sources[blockIdx.z], x, y);
  const std::int64_t plane = static_cast<std::int64_t>(width) * height;
  std::uint8_t* picture = out + blockIdx.z * 3 * plane + static_cast<std::int64_t>(y) * width + x;
  picture[0] = static_cast<std::uint8_t>(pixel.r);
  picture[plane] = static_cast<std::uint8_t>(pixel.g);
  picture[2 * plane] = static_cast<std::uint8_t>(pixel.b);
}

}  // namespace

#define YD_STRING_(x) #x
#define YD_STRING(x) YD_STRING_(x)
const char* cuda_build() { return "CUDA run time " YD_STRING(CUDART_VERSION); }

void render_cuda(const Recipe* recipes, const Sources* sources, std::int32_t count,
                 std::int32_t width, std::int32_t height, std::uint8_t* out, void* stream) {
  if (count == 0) return;
  const dim3 block(kBlockWidth, kBlockHeight);
  const dim3 grid((width + kBlockWidth - 1) / kBlockWidth,
                  (height + kBlockHeight - 1) / kBlockHeight, count);
  render_kernel<<<grid, block, 0, static_cast<cudaStream_t>(stream)>>>(recipes, sources, width,
                                                                       height, out);
  const cudaError_t status = cudaGetLastError();
  if (status != cudaSuccess)
    throw std::runtime_error(std::string("the CUDA renderer could not be started: ") +
                             cudaGetErrorString(status));
}

}  // namespace yolodata
