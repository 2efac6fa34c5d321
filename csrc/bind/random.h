// The random numbers of an epoch, and those of Python.
#pragma once

#include <nanobind/nanobind.h>

namespace yolodata {

void bind_random(nanobind::module_& m);

}  // namespace yolodata
