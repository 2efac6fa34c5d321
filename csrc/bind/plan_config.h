// The planner's settings as a class.
#pragma once

#include <nanobind/nanobind.h>

namespace yolodata {

void bind_plan_config(nanobind::module_& m);

}  // namespace yolodata
