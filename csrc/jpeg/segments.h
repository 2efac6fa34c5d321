// What a JPEG file is made of (ITU-T T.81, annexes B and C): markers, segments, Huffman tables. Who
// reads one decides what else may stand there.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <optional>

namespace yolodata::jpeg {

// Markers, each behind a byte 0xFF.
inline constexpr std::uint8_t kTem = 0x01;
inline constexpr std::uint8_t kSof0 = 0xC0, kSof1 = 0xC1, kSof2 = 0xC2, kSof9 = 0xC9, kSof15 = 0xCF;
inline constexpr std::uint8_t kDht = 0xC4, kJpg = 0xC8, kDac = 0xCC;  // no frames, among these
inline constexpr std::uint8_t kRst0 = 0xD0, kSoi = 0xD8, kEoi = 0xD9, kSos = 0xDA;
inline constexpr std::uint8_t kDqt = 0xDB, kDri = 0xDD, kCom = 0xFE;
inline constexpr std::uint8_t kApp0 = 0xE0, kApp1 = 0xE1, kApp14 = 0xEE, kApp15 = 0xEF;

inline constexpr int kCoefficients = 64;                // of a block
inline constexpr int kLongestCode = 16;                 // bits of a Huffman code
inline constexpr int kMostSymbols = 256;                // of a Huffman table
inline constexpr int kDcBits = 11, kAcBits = 10;        // of the largest values of 8-bit samples
inline constexpr int kEndOfBlock = 0, kZeroRun = 0xF0;  // symbols: EOB, ZRL

// Whether a marker has neither a length nor a body. What is below 0xC0 is reserved, but for TEM.
constexpr bool stands_alone(std::uint8_t marker) {
  return marker < kSof0 || (marker >= kRst0 && marker <= kEoi);
}

constexpr bool is_frame(std::uint8_t marker) {
  return marker >= kSof0 && marker <= kSof15 && marker != kDht && marker != kJpg && marker != kDac;
}

constexpr std::int32_t big_endian(const std::uint8_t* at) { return at[0] << 8 | at[1]; }

inline bool begins_as_jpeg(const std::uint8_t* data, std::size_t size) {
  return size >= 2 && data[0] == 0xFF && data[1] == kSoi;
}

// A marker of a file, and the length that stands behind it, if it does not stand alone.
struct Segment {
  std::size_t begin;  // the byte of the file that is the marker's 0xFF
  std::uint8_t marker;
  std::size_t length;  // counts itself; 0 where the file ends before it, see `body`

  std::size_t body() const { return begin + 4; }
  std::size_t bytes() const { return length - 2; }  // of the body
  std::size_t end() const { return begin + 2 + length; }
  bool is_whole(std::size_t file_size) const { return length >= 2 && end() <= file_size; }
};

// The segment at byte `at`, or behind whatever lies there. Nothing where no marker follows.
inline std::optional<Segment> next_segment(const std::uint8_t* data, std::size_t size,
                                           std::size_t at) {
  while (at < size) {
    const void* const found = std::memchr(data + at, 0xFF, size - at);
    if (found == nullptr) return std::nullopt;
    at = static_cast<std::size_t>(static_cast<const std::uint8_t*>(found) - data);
    while (at < size && data[at] == 0xFF) ++at;
    if (at == size || data[at] == 0) continue;
    const bool has_length = size - at >= 3;
    return Segment{at - 1, data[at],
                   has_length ? static_cast<std::size_t>(big_endian(data + at + 1)) : 0};
  }
  return std::nullopt;
}

// Calls `visit(destination, counts, symbols, size)` for every table of a DHT segment: `counts` of
// codes of 1 to 16 bits, and their `size` symbols. False where one is cut off, or `visit` says so.
template <typename Visit>
bool each_huffman_table(const std::uint8_t* body, std::size_t bytes, Visit visit) {
  while (bytes) {
    if (bytes < 1 + kLongestCode) return false;
    std::size_t size = 0;
    for (int k = 1; k <= kLongestCode; ++k) size += body[k];
    const std::size_t whole = 1 + kLongestCode + size;
    if (size > kMostSymbols || whole > bytes) return false;
    if (!visit(body[0], body + 1, body + 1 + kLongestCode, size)) return false;
    body += whole;
    bytes -= whole;
  }
  return true;
}

// Calls `visit(length, code, place)` for every code of a table, in the order of its symbols: codes
// of a length are numbers that follow each other. False where there are too many: the code of ones
// alone is no code.
template <typename Visit>
bool each_code(const std::uint8_t* counts, Visit visit) {
  std::int32_t code = 0;
  int place = 0;
  for (int length = 1; length <= kLongestCode; ++length, code <<= 1)
    for (int k = 0; k < counts[length - 1]; ++k, ++code, ++place) {
      if (code >= (1 << length) - 1) return false;
      visit(length, code, place);
    }
  return true;
}

}  // namespace yolodata::jpeg
