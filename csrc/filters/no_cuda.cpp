#include <stdexcept>

#include "filters/filters.h"

namespace yolodata {

void filter_cuda(const FilterLaunch&, void*) {
  throw std::runtime_error(
      "this yolodata was built without CUDA; rebuild it with YOLODATA_CUDA=on, or render on the "
      "CPU");
}

}  // namespace yolodata
