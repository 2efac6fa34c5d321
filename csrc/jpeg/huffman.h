// Huffman codes of a JPEG file, looked up so that most need one step.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace yolodata::jpeg {

inline constexpr int kEnd = 128;  // the run of "no more coefficients"

// Where the k-th coefficient of the zigzag stands in its block, row by row. A run may lead beyond
// the end of a block: to the first place behind it.
inline constexpr auto kPlace = [] {
  std::array<std::uint8_t, 64 + 16 + kEnd> place{};
  for (std::uint8_t& p : place) p = 64;
  int k = 0;
  for (int diagonal = 0; diagonal < 15; ++diagonal)
    for (int i = 0; i <= diagonal; ++i) {
      const int row = diagonal % 2 ? i : diagonal - i, column = diagonal - row;
      if (row < 8 && column < 8) place[k++] = static_cast<std::uint8_t>(8 * row + column);
    }
  return place;
}();

struct HuffmanTable {
  static constexpr int kLook = 10;  // bits looked up at once

  // By the next kLook bits, where they hold a whole code and its value: value << 16 | run << 8 |
  // length of both. Else kLong, and below it, where they hold the code, symbol << 8 | its length.
  static constexpr std::uint32_t kLong = 0x80;
  std::array<std::uint32_t, 1 << kLook> one;

  // The same with the one after it, where they hold that too, of tables that have runs:
  //   0-5 length of all, 8-15 run, 16-23 how much further the second one stands (0: there is none,
  //   and its value is the first one's), 24-31 length of the first, 32-47 and 48-63 values.
  std::array<std::uint64_t, 1 << kLook> two;

  // Codes of more than kLook bits: up to `last[n]` (of 16 bits, what follows filled with ones),
  // they have n bits, and number (code >> (16 - n)) - shift[n] in `symbols`.
  std::array<std::int32_t, 18> last, shift;
  std::array<std::uint8_t, 256> symbols;
  bool defined = false;

  // `counts`: codes of 1 to 16 bits, then their symbols. False where they do not make a code that
  // baseline files may have. `size` is that of symbols.
  bool make(const std::uint8_t* counts, const std::uint8_t* values, std::size_t size, bool ac);

 private:
  void pair_up();
};

}  // namespace yolodata::jpeg
