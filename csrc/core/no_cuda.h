// What a build without CUDA says where it is asked for a device; for no_cuda.cpp files.
#pragma once

#include <stdexcept>

namespace yolodata {

[[noreturn]] inline void refuse_cuda() {
  throw std::runtime_error(
      "this yolodata was built without CUDA; rebuild it with YOLODATA_CUDA=on, or render on the "
      "CPU");
}

}  // namespace yolodata
