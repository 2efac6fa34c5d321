// jitter_row of colour_jitter.h for one instruction set each: only where the processor has it.
#pragma once

#include "render/row_types.h"

namespace yolodata {

struct ColourJitter;

namespace avx2 {
void jitter_row(const ColourJitter& jitter, const Planes& row, int count);
}
namespace avx512 {
void jitter_row(const ColourJitter& jitter, const Planes& row, int count);
}
namespace neon {
void jitter_row(const ColourJitter& jitter, const Planes& row, int count);
}

}  // namespace yolodata
