#include "jpeg/huffman.h"

#include <algorithm>

#include "jpeg/segments.h"

namespace yolodata::jpeg {

bool HuffmanTable::make(const std::uint8_t* counts, const std::uint8_t* values, std::size_t size,
                        bool ac) {
  symbols.fill(0);
  one.fill(kLong);
  last.fill(-1);
  last[17] = 1 << 16;
  shift.fill(0);
  std::copy_n(values, size, symbols.begin());
  for (std::size_t i = 0; i < size; ++i) {
    const int bits = ac ? values[i] & 15 : values[i];
    // Of what has no value of its own, only these two are baseline.
    if (bits > (ac ? kAcBits : kDcBits)) return false;
    if (ac && bits == 0 && values[i] != kEndOfBlock && values[i] != kZeroRun) return false;
  }
  const bool good = each_code(counts, [this, ac](int length, std::int32_t code, int place) {
    shift[length] = code - place;
    last[length] = ((code + 1) << (kLongestCode - length)) - 1;
    if (length > kLook) return;
    const int symbol = symbols[place];
    const int run = ac ? symbol == kEndOfBlock ? kEnd : symbol >> 4 : 0;
    const int bits = ac ? symbol & 15 : symbol, rest = kLook - length;
    for (std::int32_t tail = 0; tail < 1 << rest; ++tail) {
      std::uint32_t& entry = one[static_cast<std::size_t>(code << rest | tail)];
      if (bits > rest) {
        entry = static_cast<std::uint32_t>(symbol << 8 | kLong | length);
        continue;
      }
      std::int32_t value = tail >> (rest - bits);
      if (bits && value < 1 << (bits - 1)) value += 1 - (1 << bits);
      entry = static_cast<std::uint32_t>(value) << 16 |
              static_cast<std::uint32_t>(run << 8 | (length + bits));
    }
  });
  if (!good) return false;
  if (ac) pair_up();
  defined = true;
  return true;
}

void HuffmanTable::pair_up() {
  for (std::uint32_t bits = 0; bits < 1 << kLook; ++bits) {
    const std::uint64_t first = one[bits], length = first & 63, run = first >> 8 & 255;
    std::uint64_t& entry = two[bits];
    if (first & kLong) {
      entry = first;
      continue;
    }
    entry = (first >> 16) * 0x0001'0001'0000'0000 | length << 24 | run << 8 | length;
    if (run == kEnd) continue;
    const std::uint64_t second = one[bits << length & ((1 << kLook) - 1)];
    if (second & kLong || length + (second & 63) > kLook) continue;
    entry = second >> 16 << 48 | (first >> 16) << 32 | length << 24 |
            (1 + (second >> 8 & 255)) << 16 | run << 8 | (length + (second & 63));
  }
}

}  // namespace yolodata::jpeg
