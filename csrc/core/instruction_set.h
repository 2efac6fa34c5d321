// Which instructions the loops of a CPU are written with.
#pragma once

namespace yolodata {

enum class InstructionSet { kPortable, kAvx2, kAvx512, kNeon };

// The best one that this processor has, or the one that the environment names: YOLODATA_SIMD is
// portable (what the compiler makes of C++), avx2 (x86-64, with FMA), avx512 (with VBMI: since Ice
// Lake and Zen 4) or neon (arm64). All give the same bytes. Throws std::invalid_argument for
// another name, and for one that does not run here.
InstructionSet instruction_set();

const char* name_of(InstructionSet set);

}  // namespace yolodata
