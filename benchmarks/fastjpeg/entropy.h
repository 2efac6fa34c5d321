// Huffman decoding of a baseline scan, several restart intervals at a time in one thread.
//
// A Huffman decoder waits: the place of a symbol is known once the one before it has been looked
// up. Intervals do not depend on each other, so a processor that runs ahead decodes one while it
// waits for another. Each interval has a `Lane`; lanes take turns, a few symbols a turn.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

namespace fastjpeg {

constexpr int kBlock = 64;  // coefficients

// Place in a block (row major) of the coefficient that comes k-th in the file.
inline constexpr uint8_t kNaturalOrder[kBlock] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

// A canonical code as a DHT marker gives it: how many codes of each length, symbols in code order.
struct HuffmanCode {
  uint8_t count[17] = {1};  // count[1..16]; count[0] is 0 in a code that was read
  uint8_t symbol[256] = {};

  bool operator==(const HuffmanCode& other) const {
    return std::memcmp(this, &other, sizeof *this) == 0;
  }

  // Calls f(code, length, symbol) in order; false if the lengths are more than a prefix code
  // allows.
  template <class F>
  bool for_each(F f) const {
    uint32_t code = 0;
    int at = 0;
    for (int length = 1; length <= 16; ++length, code <<= 1) {
      for (int i = 0; i < count[length]; ++i, ++code) {
        if (at > 255 || code >> length) return false;
        f(code, length, symbol[at++]);
      }
    }
    return true;
  }

  // Symbol and length of the code that `bits` (16 of them) begin with; length 0 if there is none.
  void find(uint32_t bits, int& found_symbol, int& found_length) const {
    found_symbol = found_length = 0;
    uint32_t code = 0;
    int at = 0;
    for (int length = 1; length <= 16; ++length, code <<= 1) {
      const uint32_t offset = (bits >> (16 - length)) - code;
      if (offset < count[length]) {
        found_symbol = symbol[at + offset];
        found_length = length;
        return;
      }
      at += count[length];
      code += count[length];
    }
  }
};

// JPEG writes a value of `size` bits as itself if it is positive, less one if it is negative.
inline int extend(uint32_t bits, int size) {
  return size != 0 && bits < 1u << (size - 1) ? int(bits) - (1 << size) + 1 : int(bits);
}

// Code and value bits are looked up together: an entry says how many bits to drop, how far to go in
// the block and what to write there.
#ifndef FASTJPEG_BITS
#define FASTJPEG_BITS 11
#endif
struct Table {
  static constexpr int kBits = FASTJPEG_BITS;
  static constexpr uint32_t kEndOfBlock = 128, kEscape = 192;  // advances past any block

  uint32_t entry[1 << kBits];  // bits 0..7 length, 8..15 advance, 16..31 value
  HuffmanCode code;
  bool dc;

  static uint32_t pack(int length, uint32_t advance, int value) {
    return uint32_t(length) | advance << 8 | uint32_t(value) << 16;
  }

  // Coefficients that a symbol advances by; 0 for a symbol that no decoder knows.
  static uint32_t advance(int symbol, bool dc) {
    if (dc) return symbol < 16 ? 1 : 0;
    if (symbol == 0) return kEndOfBlock;
    return (symbol & 15) == 0 && symbol != 0xf0 ? 0 : uint32_t(symbol >> 4) + 1;
  }

  bool build(const HuffmanCode& from, bool is_dc) {
    code = from;
    dc = is_dc;
    std::fill(entry, entry + (1 << kBits), pack(0, kEscape, 0));
    const bool good = code.for_each([this](uint32_t bits, int length, int symbol) {
      const int size = symbol & 15, total = length + size;
      const uint32_t step = advance(symbol, dc);
      if (length > kBits || step == 0) return;
      uint32_t* at = entry + (bits << (kBits - length));
      if (total > kBits) {  // the code is known, its value needs another look
        std::fill(at, at + (1 << (kBits - length)), pack(length, kEscape, symbol));
        return;
      }
      for (int value = 0; value < 1 << size; ++value, at += 1 << (kBits - total)) {
        std::fill(at, at + (1 << (kBits - total)),
                  pack(total, step, extend(uint32_t(value), size)));
      }
    });
    if (!good) code = HuffmanCode();
    return good;
  }

  // What an escape stands for, given 57 bits of data; 0 if there is no such code.
  static uint32_t resolve(uint32_t escape, uint64_t bits, const uint32_t* of) {
    int length = int(escape & 0xff), symbol = int(escape >> 16);
    if (length == 0) {
      // An entry is the first member of its table, and tables do not move.
      const Table& table = *reinterpret_cast<const Table*>(of);
      table.code.find(uint32_t(bits >> 48), symbol, length);
      if (length == 0 || advance(symbol, table.dc) == 0) return 0;
      if (symbol == 0 && !table.dc) return pack(length, kEndOfBlock, 0);
    }
    const int size = symbol & 15;
    return pack(length + size, uint32_t(symbol >> 4) + 1,
                extend(uint32_t(bits << length >> 1 >> (63 - size)), size));
  }
};

// The tables of each block, in the order of the file, for one row of MCUs a lane. After a row comes
// a pair that holds a lane where it is: nothing is read, nothing is written.
struct Script {
  struct Pair {
    const uint32_t *dc, *ac;
  };
  std::vector<Pair> pairs;
  std::vector<uint32_t> hold = std::vector<uint32_t>(size_t{1} << Table::kBits);
};

// The entropy-coded bytes of a scan without the stuffed zeros, restart intervals apart.
struct Scan {
  struct Interval {
    size_t begin, end;  // bytes in `bytes`
  };
  // A lane looks where it is after a few symbols of at most 31 bits each, and loads eight bytes.
  static constexpr size_t kPadding = 64;

  std::vector<uint8_t> bytes;
  std::vector<Interval> intervals;

  // False if there is no proper end, or restart markers out of order.
  bool unstuff(const uint8_t* from, const uint8_t* end) {
    bytes.resize(size_t(end - from) + 64 + kPadding);
    intervals.clear();
    uint8_t* to = bytes.data();
    size_t begin = 0;
    const __m256i ff = _mm256_set1_epi8(-1);
    for (;;) {
      uint32_t mask = 0;
      while (from + 33 <= end) {
        const __m256i v = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), v);
        mask = uint32_t(_mm256_movemask_epi8(_mm256_cmpeq_epi8(v, ff)));
        if (mask != 0) break;
        from += 32;
        to += 32;
      }
      if (mask != 0) {
        const int plain = __builtin_ctz(mask);
        from += plain;
        to += plain;
      } else {
        while (from + 1 < end && *from != 0xff) *to++ = *from++;
        if (from + 1 >= end) return false;
      }
      const uint8_t marker = from[1];
      if (marker == 0) {
        *to++ = 0xff;
        from += 2;
        continue;
      }
      if (marker == 0xff) {  // fill bytes may stand before a marker
        ++from;
        continue;
      }
      const size_t at = size_t(to - bytes.data());
      intervals.push_back({begin, at});
      if (marker != 0xd0 + ((intervals.size() - 1) & 7)) {
        std::memset(to, 0, kPadding);
        return marker == 0xd9;
      }
      from += 2;
      begin = at;  // a lane that reads on past its end finds the next interval's bytes: harmless
    }
  }
};

// Where the coefficient goes that is the k-th of its block, counted from 1. What is past the block
// is written where the next block's first coefficient will be, or where libjpeg writes it.
struct Places {
  uint8_t at[256];

  constexpr Places() : at() {
    for (int k = 80; k < 256; ++k) at[k] = kBlock;
    for (int k = 1; k <= 64; ++k) at[k] = kNaturalOrder[k - 1];
    for (int k = 65; k < 80; ++k) at[k] = kBlock - 1;
  }
};
inline constexpr Places kPlaces;

// Decodes one restart interval. No branch depends on a symbol, but for rare long codes: the end of
// a block cannot be predicted, and would throw away what was begun of all lanes.
class Lane {
 public:
  void start(const Scan& scan, size_t interval) {
    bytes_ = scan.bytes.data();
    position_ = scan.intervals[interval].begin * 8;
    end_ = scan.intervals[interval].end * 8;
  }

  // Decodes a row of MCUs next: from the script's pair `first` to the next one that holds.
  void aim(const Script& script, size_t first) {
    at_ = first * sizeof(Script::Pair);
    k_ = 0;
    table_ = script.pairs[first].dc;
  }

  // Lets N lanes decode what they aim at; false if one found bad data. They take turns symbol by
  // symbol: a processor looks only about a hundred instructions ahead for one that need not wait.
  // The block of the script's i-th pair is blocks[64 i]; blocks are zero before, and a lane has one
  // more than it decodes. DC coefficients are differences.
  template <int N>
  [[gnu::noinline]] static bool decode(Lane* lanes, const Script& script, int16_t* blocks) {
    // Of each lane: the next bits, with a one after the last; coefficients done of the block;
    // bytes in the script, of which 16 are one block; the table of the next symbol.
    uint64_t bits[N], k[N], at[N];
    const uint32_t* table[N];
    const char* const pairs = reinterpret_cast<const char*>(script.pairs.data());
    const uint64_t zero = 0;
    static_assert(sizeof(Script::Pair) == 16 && offsetof(Script::Pair, ac) == 8);
#pragma GCC unroll 8
    for (int l = 0; l < N; ++l) {
      k[l] = lanes[l].k_;
      at[l] = lanes[l].at_;
      table[l] = lanes[l].table_;
    }
    const auto put = [&](int l, uint32_t e, uint64_t next) __attribute__((always_inline)) {
      blocks[at[l] * 4 + kPlaces.at[next]] = int16_t(e >> 16);
      // if (next >= 64) table = dc of the next block, k = 0, at += 16;
      // else table = ac of this one, k = next. Compilers make a branch of it.
      uint64_t next_at = at[l] + 16;
      uint64_t next_k = next;
      const uint32_t* next_table = *reinterpret_cast<const uint32_t* const*>(pairs + at[l] + 8);
      asm("cmp $64, %[next]\n\t"
          "cmovae %[dc], %[table]\n\t"
          "cmovae %[zero], %[k]\n\t"
          "cmovb %[same], %[at]"
          : [table] "+r"(next_table), [k] "+r"(next_k), [at] "+r"(next_at)
          : [next] "r"(next), [zero] "r"(zero), [same] "r"(at[l]),
            [dc] "m"(*reinterpret_cast<const uint32_t* const*>(pairs + at[l] + 16))
          : "cc");
      table[l] = next_table;
      k[l] = next_k;
      at[l] = next_at;
    };
    bool ok = true;
    for (bool going = true; going && ok;) {
      uint64_t at_begin[N];
#pragma GCC unroll 8
      for (int l = 0; l < N; ++l) {
        at_begin[l] = lanes[l].position_;
        bits[l] = (lanes[l].peek(at_begin[l]) & ~uint64_t{0x7f}) | 0x40;
      }
#pragma GCC unroll 8
      for (int i = 0; i < kSymbols; ++i) {
#pragma GCC unroll 8
        for (int l = 0; l < N; ++l) {
          const uint32_t e = table[l][bits[l] >> (64 - Table::kBits)];
          const uint64_t next = k[l] + (e >> 8 & 0xff);
          if (__builtin_expect(next >= Table::kEscape, 0)) {
            uint64_t& position = lanes[l].position_;
            position += uint64_t(__builtin_ctzll(bits[l])) - 6;
            const uint32_t longer = Table::resolve(e, lanes[l].peek(position), table[l]);
            ok &= longer != 0;
            put(l, longer, k[l] + (longer >> 8 & 0xff));
            position += longer & 0xff;
            bits[l] = (lanes[l].peek(position) & ~uint64_t{0x7f}) | 0x40;
            continue;
          }
          put(l, e, next);
          bits[l] <<= e & 0x3f;
        }
      }
      going = false;
#pragma GCC unroll 8
      for (int l = 0; l < N; ++l) {
        lanes[l].position_ += uint64_t(__builtin_ctzll(bits[l])) - 6;
        going |= table[l] != script.hold.data();
        ok &= lanes[l].position_ <= lanes[l].end_;
      }
    }
    for (int l = 0; l < N; ++l) {
      lanes[l].k_ = k[l];
      lanes[l].at_ = at[l];
      lanes[l].table_ = table[l];
    }
    return ok;
  }

 private:
  // That one load of 57 bits is enough for.
  static constexpr int kSymbols = 57 / Table::kBits;

  uint64_t peek(uint64_t position) const {
    uint64_t word;
    std::memcpy(&word, bytes_ + (position >> 3), 8);
    return __builtin_bswap64(word) << (position & 7);
  }

  const uint8_t* bytes_;
  uint64_t position_, end_;  // bits
  uint64_t at_, k_;
  const uint32_t* table_;
};

inline bool decode_lanes(Lane* lanes, int n, const Script& script, int16_t* blocks) {
  bool ok = true;
  const auto take = [&](auto count) {
    for (; n >= count; n -= count, lanes += count) {
      ok &= Lane::decode<count>(lanes, script, blocks);
    }
  };
  take(std::integral_constant<int, 4>());
  take(std::integral_constant<int, 3>());
  take(std::integral_constant<int, 2>());
  take(std::integral_constant<int, 1>());
  return ok;
}

}  // namespace fastjpeg
