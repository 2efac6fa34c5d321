// One sample at a time: its recipe, and what it looks like.
#pragma once

#include <nanobind/nanobind.h>

namespace yolodata {

void bind_recipe(nanobind::module_& m);

}  // namespace yolodata
