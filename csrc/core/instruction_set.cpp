#include "core/instruction_set.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

namespace yolodata {
namespace {

// From the best to the one that runs everywhere.
constexpr InstructionSet kSets[] = {InstructionSet::kAvx512, InstructionSet::kAvx2,
                                    InstructionSet::kNeon, InstructionSet::kPortable};

bool runs_here(InstructionSet set) {
  switch (set) {
    case InstructionSet::kAvx2:
#if defined(__x86_64__)
      return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
      return false;
#endif
    case InstructionSet::kAvx512:
#if defined(__x86_64__)
      return runs_here(InstructionSet::kAvx2) && __builtin_cpu_supports("avx512bw") &&
             __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi");
#else
      return false;
#endif
    case InstructionSet::kNeon:
#if defined(__aarch64__)
      return true;  // with fused multiply-add: every arm64 has it
#else
      return false;
#endif
    case InstructionSet::kPortable: break;
  }
  return true;
}

InstructionSet choose() {
  const char* const named = std::getenv("YOLODATA_SIMD");
  std::string here;
  for (const InstructionSet set : kSets) {
    if (!runs_here(set)) continue;
    if (named == nullptr || std::string(named) == name_of(set)) return set;
    here += (here.empty() ? "" : ", ") + std::string(name_of(set));
  }
  throw std::invalid_argument("YOLODATA_SIMD must be one that this processor runs (" + here +
                              "), got '" + named + "'; unset it to have the fastest");
}

}  // namespace

InstructionSet instruction_set() {
  static const InstructionSet chosen = choose();
  return chosen;
}

const char* name_of(InstructionSet set) {
  switch (set) {
    case InstructionSet::kAvx2: return "avx2";
    case InstructionSet::kAvx512: return "avx512";
    case InstructionSet::kNeon: return "neon";
    case InstructionSet::kPortable: break;
  }
  return "portable";
}

}  // namespace yolodata
