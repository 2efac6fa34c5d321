// Python's random numbers, for those who have to know what Python would draw.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace yolodata {

// `random.Random(seed)` of 32 bits: MT19937 of Matsumoto and Nishimura, "Mersenne Twister" (1998),
// in its version of 2002, which is seeded with an array. Only the first numbers that it gives: they
// need none of the state to be renewed.
class Mersenne {
  static constexpr std::size_t kStateSize = 624, kShiftSize = 397;

 public:
  // Each takes two words, for which one looks kShiftSize further.
  static constexpr std::size_t kNumbers = (kStateSize - kShiftSize - 1) / 2;

  explicit Mersenne(std::uint32_t seed) : state_(kInitial) {
    for (std::uint32_t i = 1; i < kStateSize; ++i)
      state_[i] = (state_[i] ^ mixed(state_[i - 1]) * 1664525u) + seed;
    state_[0] = state_[kStateSize - 1];
    state_[1] = (state_[1] ^ mixed(state_[0]) * 1664525u) + seed;
    for (std::uint32_t i = 2; i < kStateSize; ++i)
      state_[i] = (state_[i] ^ mixed(state_[i - 1]) * 1566083941u) - i;
    state_[0] = state_[kStateSize - 1];
    state_[1] = (state_[1] ^ mixed(state_[0]) * 1566083941u) - 1;
    state_[0] = 0x80000000u;
  }

  // What call number `number` of random() gives; below kNumbers.
  double random(std::size_t number) const {
    const std::uint32_t high = word(2 * number) >> 5, low = word(2 * number + 1) >> 6;
    return (high * 67108864.0 + low) / 9007199254740992.0;
  }

 private:
  using State = std::array<std::uint32_t, kStateSize>;

  static constexpr std::uint32_t mixed(std::uint32_t word) { return word ^ (word >> 30); }

  static constexpr State initial() {
    State state{19650218u};
    for (std::uint32_t i = 1; i < kStateSize; ++i) state[i] = 1812433253u * mixed(state[i - 1]) + i;
    return state;
  }
  static const State kInitial;

  std::uint32_t word(std::size_t i) const {
    const std::uint32_t both = (state_[i] & 0x80000000u) | (state_[i + 1] & 0x7FFFFFFFu);
    std::uint32_t made = state_[i + kShiftSize] ^ (both >> 1) ^ (both & 1 ? 0x9908B0DFu : 0u);
    made ^= made >> 11;
    made ^= (made << 7) & 0x9D2C5680u;
    made ^= (made << 15) & 0xEFC60000u;
    return made ^ (made >> 18);
  }

  State state_;
};

inline constexpr Mersenne::State Mersenne::kInitial = Mersenne::initial();

// Whether the first call gives a number below the first limit, the second below the second, ...
inline bool draws_below(std::uint32_t seed, const double* limits, std::size_t count) {
  const Mersenne numbers(seed);
  for (std::size_t i = 0; i < count; ++i)
    if (numbers.random(i) < limits[i]) return true;
  return false;
}

}  // namespace yolodata
