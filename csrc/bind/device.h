// The part of the module that works on addresses, of device memory for one.
#pragma once

#include <nanobind/nanobind.h>

namespace yolodata {

void bind_device(nanobind::module_& m);

}  // namespace yolodata
