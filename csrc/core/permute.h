// The order of an epoch: a pseudo-random bijection on [0, n), evaluated one position at a time.
//
// A balanced Feistel network permutes [0, 4^h) with 4^h >= n; cycle walking (Black and Rogaway,
// "Ciphers with arbitrary finite domains", CT-RSA 2002) brings it down to [0, n). No table is kept,
// so five million images cost nothing and any position can be asked for on its own.
#pragma once

#include <cstdint>

#include "core/rng.h"

namespace yolodata {

class Permutation {
 public:
  Permutation(std::uint64_t n, std::uint64_t seed, std::uint32_t epoch) : n_(n), epoch_(epoch) {
    key_ = {static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)};
    while (half_bits_ < 32 && (std::uint64_t{1} << (2 * half_bits_)) < n) ++half_bits_;
  }

  // Dataset index at `position`, which must be below n.
  std::uint64_t operator()(std::uint64_t position) const {
    if (n_ < 2) return 0;
    std::uint64_t value = position;
    do value = encrypt(value);
    while (value >= n_);
    return value;
  }

 private:
  std::uint64_t encrypt(std::uint64_t value) const {
    constexpr std::uint32_t kOrderSlot = 0xFFFF;  // apart from every slot of a sample
    const std::uint64_t mask = (std::uint64_t{1} << half_bits_) - 1;
    std::uint64_t left = value >> half_bits_;
    std::uint64_t right = value & mask;
    for (std::uint32_t round = 0; round < 6; ++round) {
      const Words words =
          philox({kOrderSlot, epoch_, static_cast<std::uint32_t>(right), round}, key_);
      const std::uint64_t next = left ^ (words[0] & mask);
      left = right;
      right = next;
    }
    return left << half_bits_ | right;
  }

  std::uint64_t n_;
  std::uint32_t epoch_;
  std::array<std::uint32_t, 2> key_{};
  int half_bits_ = 1;
};

}  // namespace yolodata
