// The one file that knows which compiler is at work.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__CUDACC__)
#define YD_HD __host__ __device__ __forceinline__
#else
#define YD_HD inline __attribute__((always_inline))
#endif

#if defined(__CUDA_ARCH__)  // nvcc's host compiler does not know the pragma
#define YD_PRAGMA(text) _Pragma(#text)
#define YD_UNROLL(times) YD_PRAGMA(unroll times)
#else
#define YD_UNROLL(times)
#endif

#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800  // those before have no such instruction
#define YD_CONVERTS_PAIRS 1
#else
#define YD_CONVERTS_PAIRS 0
#endif

namespace yolodata {

// What one instruction of a GPU does, and the same in C++. tests/test_kernel_emulation.py compares
// all that comes of it with shade.h, on the CPU and on a device.

YD_HD std::uint32_t bits_of(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  std::uint32_t bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
#endif
}

YD_HD float float_of(std::uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
#endif
}

// A quotient that may be wrong by two units in the last place.
YD_HD float near_quotient(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fdividef(a, b);
#else
  return a / b;
#endif
}

// The four of the eight bytes of `low` and then `high` whose numbers are the hexadecimal digits of
// `numbers`, the last digit's first; digits are below 8.
YD_HD std::uint32_t pick_bytes(std::uint32_t low, std::uint32_t high, std::uint32_t numbers) {
#if defined(__CUDA_ARCH__)
  std::uint32_t picked;  // __byte_perm would first cut the numbers off
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(picked) : "r"(low), "r"(high), "r"(numbers));
  return picked;
#else
  const std::uint64_t bytes = std::uint64_t{high} << 32 | low;
  std::uint32_t picked = 0;
  for (int i = 0; i < 4; ++i)
    picked |= static_cast<std::uint32_t>(bytes >> (numbers >> 4 * i & 7u) * 8 & 255u) << 8 * i;
  return picked;
#endif
}

// 32 bits from bit `by` modulo 32 on of `low` and then `high`.
YD_HD std::uint32_t pick_bits(std::uint32_t low, std::uint32_t high, std::uint32_t by) {
#if defined(__CUDA_ARCH__)
  return __funnelshift_r(low, high, by);
#else
  return static_cast<std::uint32_t>((std::uint64_t{high} << 32 | low) >> by % 32);
#endif
}

// A sum with 1.5 * 2^23 has no room for a fraction: its bits are kWholeBits more than an integer.
inline constexpr float kWhole = 12582912.0f;
inline constexpr std::uint32_t kWholeBits = 0x4B400000u;

// kWholeBits more than the integer part, for 0 <= value < 2^22.
YD_HD std::uint32_t whole_bits(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(__fadd_rz(value, kWhole));
#else
  return kWholeBits + static_cast<std::uint32_t>(value);
#endif
}

// kWhole more than the largest integer that is no larger than a number, for |value| < 2^22.
YD_HD float plus_floor(float value) {
#if defined(__CUDA_ARCH__)
  return __fadd_rd(value, kWhole);
#else
  const float truncated = static_cast<float>(static_cast<std::int32_t>(value));
  return (truncated - static_cast<float>(value < truncated)) + kWhole;
#endif
}

// Adds to what the threads of a block share; nobody may ask for the sum meanwhile.
YD_HD void add_shared(std::int32_t& sum, std::int32_t value) {
#if defined(__CUDA_ARCH__)
  atomicAdd(&sum, value);
#else
  sum += value;
#endif
}

// What was read from memory before is read again behind this place, instead of being kept in
// registers meanwhile.
YD_HD void forget_memory() {
#if defined(__CUDA_ARCH__)
  asm volatile("" ::: "memory");
#endif
}

// Two numbers in half precision, the first in the lower 16 bits; to nearest, ties to even. Each is
// 0 or from 2^-14 to 1.
YD_HD std::uint32_t to_float16(float first, float second) {
#if YD_CONVERTS_PAIRS
  std::uint32_t both;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  return both;
#else
  const auto rounded = [](float value) {
    const std::uint32_t bits = bits_of(value);
    return value == 0 ? 0 : ((bits + 0xFFFu + (bits >> 13 & 1u)) >> 13) - (112u << 10);
  };
  return rounded(second) << 16 | rounded(first);
#endif
}

// The same as bfloat16.
YD_HD std::uint32_t to_bfloat16(float first, float second) {
#if YD_CONVERTS_PAIRS
  std::uint32_t both;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(both) : "f"(second), "f"(first));
  return both;
#else
  const auto rounded = [](float value) {
    const std::uint32_t bits = bits_of(value);
    return (bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16;
  };
  return rounded(second) << 16 | rounded(first);
#endif
}

}  // namespace yolodata
