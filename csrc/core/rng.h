// Counter-based random numbers: every draw is a function of integers, nothing is remembered.
//
// Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). The key
// is the seed; the counter is (slot, epoch, position), so that a draw does not depend on how many
// other draws came before it, on the thread, or on the process.
#pragma once

#include <array>
#include <cstdint>

namespace yolodata {

using Words = std::array<std::uint32_t, 4>;

// Ten Philox rounds; `philox({0,0,0,0}, {0,0})` is the first published test vector.
inline Words philox(Words counter, std::array<std::uint32_t, 2> key) {
  constexpr std::uint64_t kMultiplier0 = 0xD2511F53;
  constexpr std::uint64_t kMultiplier1 = 0xCD9E8D57;
  constexpr std::uint32_t kWeyl0 = 0x9E3779B9;
  constexpr std::uint32_t kWeyl1 = 0xBB67AE85;
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = kMultiplier0 * counter[0];
    const std::uint64_t product1 = kMultiplier1 * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(product0)};
    key = {key[0] + kWeyl0, key[1] + kWeyl1};
  }
  return counter;
}

// What the draws of one sample are keyed by.
struct DrawKey {
  std::uint64_t seed;
  std::uint32_t epoch;
  std::uint64_t position;
};

// The numbered draws of one named slot. Slot numbers are part of the stream: never renumber them.
class Draws {
 public:
  Draws(const DrawKey& key, std::uint32_t slot) : key_(key), slot_(slot) {}

  // Uniform in [0, 1) with 53 bits; `i` numbers the draws inside the slot.
  double unit(std::uint32_t i) const { return static_cast<double>(bits(i) >> 11) * 0x1.0p-53; }

  double uniform(std::uint32_t i, double low, double high) const {
    return low + (high - low) * unit(i);
  }

  // Uniform in [0, n), by the high half of a 64 x 64 bit product (bias below n / 2^64).
  std::uint64_t below(std::uint32_t i, std::uint64_t n) const {
    return static_cast<std::uint64_t>((static_cast<unsigned __int128>(bits(i)) * n) >> 64);
  }

  std::uint64_t bits(std::uint32_t i) const {
    const Words words = philox(
        {slot_ | ((i >> 1) << 16), key_.epoch, static_cast<std::uint32_t>(key_.position),
         static_cast<std::uint32_t>(key_.position >> 32)},
        {static_cast<std::uint32_t>(key_.seed), static_cast<std::uint32_t>(key_.seed >> 32)});
    const int half = static_cast<int>(i & 1) * 2;
    return static_cast<std::uint64_t>(words[half]) << 32 | words[half + 1];
  }

 private:
  DrawKey key_;
  std::uint32_t slot_;
};

}  // namespace yolodata
