// Labels as arrays.
#pragma once

#include <nanobind/nanobind.h>

#include "engine/engine.h"

namespace yolodata {

namespace nb = nanobind;

// Of a whole batch, after wait().
nb::dict batch_labels(const Job& job);

}  // namespace yolodata
