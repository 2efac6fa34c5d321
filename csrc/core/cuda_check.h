// What CUDA's run time says, as an exception; for .cu files.
#pragma once

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace yolodata {

inline void require(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  static_cast<void>(cudaGetLastError());  // or the next caller of the run time would be blamed
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

}  // namespace yolodata
