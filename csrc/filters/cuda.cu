#include <cuda_runtime.h>

#include "core/cuda_check.h"
#include "filters/kernel_body.h"

namespace yolodata {
namespace {

// See kernel_body.h for what the steps do.
__global__ void __launch_bounds__(kFilterThreads) filter_kernel(const FilterLaunch launch) {
  __shared__ Surroundings around;
  const FilterTask& task = launch.tasks[blockIdx.z];
  const int thread = static_cast<int>(threadIdx.x);
  const std::int32_t left = static_cast<std::int32_t>(blockIdx.x) * kFilterWidth;
  const std::int32_t top = static_cast<std::int32_t>(blockIdx.y) * kFilterHeight;
  look_around(thread, launch, task, left, top, around);
  __syncthreads();
  filter_pixel(thread, launch, task, left, top, around);
}

__global__ void __launch_bounds__(kFilterThreads) tile_kernel(const FilterLaunch launch) {
  __shared__ TileStage tile;
  const FilterTask& task = launch.tasks[blockIdx.y];
  if (!has_tile(task, static_cast<std::int32_t>(blockIdx.x))) return;
  const int thread = static_cast<int>(threadIdx.x);
  const auto number = static_cast<std::int32_t>(blockIdx.x);
  clear(thread, tile);
  __syncthreads();
  count_levels(thread, launch, task, number, tile);
  __syncthreads();
  sum_excess(thread, task, tile);
  __syncthreads();
  write_table(thread, task, number, tile);
}

}  // namespace

void filter_cuda(const FilterLaunch& launch, void* stream) {
  if (launch.count == 0) return;
  const auto on = static_cast<cudaStream_t>(stream);
  const auto count = static_cast<unsigned>(launch.count);
  if (launch.tiles > 0) {
    const dim3 grid(static_cast<unsigned>(launch.tiles), count);
    tile_kernel<<<grid, kFilterThreads, 0, on>>>(launch);
  }
  const dim3 grid(static_cast<unsigned>(filter_blocks(launch.width, kFilterWidth)),
                  static_cast<unsigned>(filter_blocks(launch.height, kFilterHeight)), count);
  filter_kernel<<<grid, kFilterThreads, 0, on>>>(launch);
  require(cudaGetLastError(), "the CUDA filters could not be started");
}

}  // namespace yolodata
