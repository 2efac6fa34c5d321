// What the targets share.
#pragma once

#include <fuzzer/FuzzedDataProvider.h>

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

// A broken promise ends the process, as a sanitizer's finding does.
inline void must(bool promise) {
  if (!promise) std::abort();
}

namespace yolodata {

// A number as a recipe or a label may hold it: mostly ordinary, sometimes at or beyond a limit.
inline float any_float(FuzzedDataProvider& input) {
  switch (input.ConsumeIntegralInRange<int>(0, 7)) {
    case 0: {
      const auto bits = input.ConsumeIntegral<std::uint32_t>();
      float value;
      std::memcpy(&value, &bits, sizeof value);
      return value;
    }
    case 1:
      return input.PickValueInArray(
          {0.0f, 1.0f, -1.0f, 0.5f, 1e-30f, 1e30f, -1e30f, 2147483648.0f, 3e38f, -3e38f, 1e-45f});
    default: return input.ConsumeFloatingPointInRange<float>(-0.5f, 1.5f);
  }
}

}  // namespace yolodata
