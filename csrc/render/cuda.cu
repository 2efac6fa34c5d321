#include <cuda_runtime.h>

#include "core/cuda_check.h"
#include "render/block.h"
#include "render/render.h"

namespace yolodata {
namespace {

// How many blocks a multiprocessor is to have at work, which is to say 48 registers a thread. For
// sm_100 and later the compiler needs 64 not to spill.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 1000
constexpr int kBlocksAtOnce = 4;
#else
constexpr int kBlocksAtOnce = 5;
#endif

// See block.h for what the steps do.
template <typename T, bool kChannelsLast>
__global__ void __launch_bounds__(kBlockThreads, kBlocksAtOnce) render_kernel(const Launch launch) {
  __shared__ Stage<T> stage;
  const Place block{static_cast<std::int32_t>(blockIdx.z),
                    static_cast<std::int32_t>(blockIdx.x) * kBlockWidth,
                    static_cast<std::int32_t>(blockIdx.y) * kBlockHeight};
  const int thread = static_cast<int>(threadIdx.x);
  load(thread, launch, block, stage);
  __syncthreads();
  look(thread, launch, block, stage);
  __syncthreads();
#pragma unroll 1
  for (Place place = block; place.y < smaller(block.y + kBlockHeight, launch.height);
       place.y += kStripHeight) {
    fetch(thread, launch, place, stage);
    __syncthreads();
    shade_strip<T, kChannelsLast>(thread, launch, place, stage);
    __syncthreads();
    store<T, kChannelsLast>(thread, launch, place, stage);
  }
}

}  // namespace

#define YD_STRING_(x) #x
#define YD_STRING(x) YD_STRING_(x)
const char* cuda_build() { return "CUDA run time " YD_STRING(CUDART_VERSION); }

void render_cuda(const Shot* shots, std::int32_t count, std::int32_t width, std::int32_t height,
                 const Output& out, void* stream) {
  if (count == 0) return;
  const Launch launch{shots, width, height, out.data, out.format};
  const dim3 grid(static_cast<unsigned>(blocks_across(width)),
                  static_cast<unsigned>(blocks_down(height)), static_cast<unsigned>(count));
  const auto on = static_cast<cudaStream_t>(stream);
  const bool bytes = out.format == Format::kUint8;
  if (bytes && out.channels_last)
    render_kernel<std::uint8_t, true><<<grid, kBlockThreads, 0, on>>>(launch);
  else if (bytes)
    render_kernel<std::uint8_t, false><<<grid, kBlockThreads, 0, on>>>(launch);
  else if (out.channels_last)
    render_kernel<std::uint16_t, true><<<grid, kBlockThreads, 0, on>>>(launch);
  else
    render_kernel<std::uint16_t, false><<<grid, kBlockThreads, 0, on>>>(launch);
  require(cudaGetLastError(), "the CUDA renderer could not be started");
}

const void* register_host(const void* memory, std::size_t bytes) {
  void* host = const_cast<void*>(memory);
  // Drivers without read-only registration refuse the flag for memory that may be written to, and
  // its absence for memory that may not.
  const unsigned flags = cudaHostRegisterMapped | cudaHostRegisterPortable;
  if (cudaHostRegister(host, bytes, flags | cudaHostRegisterReadOnly) != cudaSuccess) {
    static_cast<void>(cudaGetLastError());
    require(cudaHostRegister(host, bytes, flags), "host memory could not be registered");
  }
  void* device = nullptr;
  const cudaError_t status = cudaHostGetDevicePointer(&device, host, 0);
  if (status != cudaSuccess) unregister_host(memory);
  require(status, "registered host memory has no address on the device");
  return device;
}

void unregister_host(const void* memory) noexcept {
  if (cudaHostUnregister(const_cast<void*>(memory)) != cudaSuccess)
    static_cast<void>(cudaGetLastError());
}

}  // namespace yolodata
