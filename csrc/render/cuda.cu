#include <cuda_runtime.h>

#include "core/cuda_check.h"
#include "render/kernel_body.h"
#include "render/render.h"

namespace yolodata {
namespace {

// How many blocks a multiprocessor is to have at work, which is to say 48 registers a thread.
constexpr int kBlocksAtOnce = 5;

// The number of a thread in its block. What follows from it is computed anew behind each call:
// between strips it would take registers that pixels need.
__device__ __forceinline__ int this_thread() {
  int thread = static_cast<int>(threadIdx.x);
  asm volatile("" : "+r"(thread));
  __builtin_assume(thread >= 0 && thread < kBlockThreads);
  return thread;
}

// See kernel_body.h for what the steps do.
template <PixelFormat kFormat, bool kChannelsLast>
__global__ void __launch_bounds__(kBlockThreads, kBlocksAtOnce) render_kernel(const Launch launch) {
  __shared__ Stage stage;
  const Place block{static_cast<std::int32_t>(blockIdx.z),
                    static_cast<std::int32_t>(blockIdx.x) * kBlockWidth,
                    static_cast<std::int32_t>(blockIdx.y) * kBlockHeight, 0};
  load(this_thread(), launch, block, stage);
  __syncthreads();
  look(this_thread(), launch, block, stage);
  __syncthreads();
#pragma unroll 1
  for (int strip = 0; strip < kStrips; ++strip) {
    const Place place = strip_of(block, strip);
    if (place.y >= launch.height) return;
    const int thread = this_thread();
    fetch(thread, launch, place, stage);
    __syncthreads();
    shade_strip<kChannelsLast>(thread, launch, place, stage);
    __syncthreads();
    store<kFormat, kChannelsLast>(thread, launch, place, stage);
  }
}

}  // namespace

#define YD_STRING_(x) #x
#define YD_STRING(x) YD_STRING_(x)
const char* cuda_build() { return "CUDA run time " YD_STRING(CUDART_VERSION); }

void render_cuda(const RenderTask* tasks, std::int32_t count, std::int32_t width,
                 std::int32_t height, const Output& out, void* stream) {
  if (count == 0) return;
  const Launch launch{tasks, width, height, out.data};
  const dim3 grid(static_cast<unsigned>(blocks_across(width)),
                  static_cast<unsigned>(blocks_down(height)), static_cast<unsigned>(count));
  const auto on = static_cast<cudaStream_t>(stream);
  with_constants(out, [&](auto format, auto channels_last) {
    render_kernel<format.value, channels_last.value><<<grid, kBlockThreads, 0, on>>>(launch);
  });
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
