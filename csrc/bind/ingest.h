// What packing asks the core for.
#pragma once

#include <nanobind/nanobind.h>

namespace yolodata {

void bind_ingest(nanobind::module_& m);

}  // namespace yolodata
