// Batches on native threads: jobs, and the engine that runs them.
#pragma once

#include <nanobind/nanobind.h>

namespace yolodata {

void bind_engine(nanobind::module_& m);

}  // namespace yolodata
