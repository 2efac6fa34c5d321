// Filters, and the part of the module that applies them.
#pragma once

#include <nanobind/nanobind.h>

namespace yolodata {

void bind_filters(nanobind::module_& m);

}  // namespace yolodata
