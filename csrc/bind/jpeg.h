// JPEG files to pixels.
#pragma once

#include <nanobind/nanobind.h>

namespace yolodata {

void bind_jpeg(nanobind::module_& m);

}  // namespace yolodata
