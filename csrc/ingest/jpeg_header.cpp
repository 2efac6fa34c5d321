#include "ingest/jpeg_header.h"

#include <cstring>

namespace yolodata {
namespace {

constexpr std::uint8_t kJfif = 0xE0, kDqt = 0xDB, kDht = 0xC4, kDri = 0xDD, kSos = 0xDA;
constexpr std::int64_t kSure = 1 << 26;  // pixels that no limit against bombs forbids

// Baseline, extended, progressive; Huffman.
bool is_frame(std::uint8_t marker) { return marker >= 0xC0 && marker <= 0xC2; }

std::int32_t big_endian(const std::uint8_t* at) { return at[0] << 8 | at[1]; }

bool eight_bit_tables(const std::uint8_t* at, std::size_t bytes) {
  if (bytes % 65) return false;
  for (std::size_t k = 0; k < bytes; k += 65)
    if (at[k] >> 4) return false;
  return true;
}

}  // namespace

std::optional<std::pair<std::int32_t, std::int32_t>> ordinary_jpeg_size(const std::uint8_t* data,
                                                                        std::size_t size) {
  if (size < 5 || std::memcmp(data, "\xff\xd8\xff", 3) != 0 ||
      std::memcmp(data + size - 2, "\xff\xd9", 2) != 0)
    return std::nullopt;
  bool jfif = false;
  std::int32_t width = 0, height = 0, components = 0;
  for (std::size_t at = 2; at + 4 <= size && data[at] == 0xFF;) {
    const std::uint8_t marker = data[at + 1];
    const auto length = static_cast<std::size_t>(big_endian(data + at + 2));  // counts itself
    const std::uint8_t* const body = data + at + 4;
    at += 2 + length;
    if (length < 2 || at > size) return std::nullopt;
    if (marker == kSos) {
      if (components == 0 || (components == 3 && !jfif)) return std::nullopt;
      const std::int64_t pixels = std::int64_t{width} * height;
      if (pixels == 0 || pixels > kSure) return std::nullopt;
      return std::pair(width, height);
    }
    if (marker == kJfif) {
      if (length != 16 || std::memcmp(body, "JFIF", 5) != 0) return std::nullopt;
      jfif = true;
    } else if (marker == kDqt) {
      if (!eight_bit_tables(body, length - 2)) return std::nullopt;
    } else if (is_frame(marker)) {
      if (components || length <= 7 || body[0] != 8) return std::nullopt;
      components = body[5];
      if (components != 1 && components != 3) return std::nullopt;
      if (length != 8 + 3 * static_cast<std::size_t>(components)) return std::nullopt;
      height = big_endian(body + 1);
      width = big_endian(body + 3);
    } else if (marker != kDht && marker != kDri) {
      return std::nullopt;
    }
  }
  return std::nullopt;
}

}  // namespace yolodata
