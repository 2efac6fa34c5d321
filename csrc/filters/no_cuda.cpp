#include "core/no_cuda.h"
#include "filters/filters.h"

namespace yolodata {

void filter_cuda(const FilterLaunch&, void*) { refuse_cuda(); }

}  // namespace yolodata
