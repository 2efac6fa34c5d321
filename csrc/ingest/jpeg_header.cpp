#include "ingest/jpeg_header.h"

#include <algorithm>
#include <cstring>

namespace yolodata {
namespace {

constexpr std::uint8_t kDht = 0xC4, kJpg = 0xC8, kDac = 0xCC;  // what is no frame of C0 to CF
constexpr std::uint8_t kRst0 = 0xD0, kEoi = 0xD9;              // these and between: no length
constexpr std::uint8_t kSos = 0xDA, kDqt = 0xDB, kDri = 0xDD, kJfif = 0xE0, kExif = 0xE1;
constexpr std::size_t kFar = 1 << 18;    // bytes of the longest header that is looked at
constexpr std::int64_t kSure = 1 << 26;  // pixels that no limit against bombs forbids

bool is_frame(std::uint8_t marker) {
  return marker >= 0xC0 && marker <= 0xCF && marker != kDht && marker != kJpg && marker != kDac;
}

std::int32_t big_endian(const std::uint8_t* at) { return at[0] << 8 | at[1]; }

bool eight_bit_tables(const std::uint8_t* at, std::size_t bytes) {
  if (bytes % 65) return false;
  for (std::size_t k = 0; k < bytes; k += 65)
    if (at[k] >> 4) return false;
  return true;
}

// Baseline, extended or progressive, Huffman; 8 bits; grey or three components.
bool plain_frame(std::uint8_t marker, const std::uint8_t* body, std::size_t bytes) {
  if (marker > 0xC2 || bytes < 6 || body[0] != 8) return false;
  const std::size_t components = body[5];
  return (components == 1 || components == 3) && bytes == 6 + 3 * components;
}

}  // namespace

std::optional<JpegHeader> read_jpeg_header(const std::uint8_t* data, std::size_t size) {
  if (size < 2 || std::memcmp(data, "\xff\xd8", 2) != 0) return std::nullopt;
  const std::size_t end = std::min(size, kFar);
  JpegHeader header{0, 0, std::memcmp(data + size - 2, "\xff\xd9", 2) == 0};
  bool jfif = false;
  int frames = 0, components = 0;
  for (std::size_t at = 2; at + 10 <= end && data[at] == 0xFF;) {
    const std::uint8_t marker = data[at + 1];
    const auto length = static_cast<std::size_t>(big_endian(data + at + 2));  // counts itself
    if (marker < 0xC0 || marker == 0xFF || (marker >= kRst0 && marker <= kEoi) || length < 2)
      return std::nullopt;
    const std::uint8_t* const body = data + at + 4;
    const std::size_t bytes = length - 2;
    if (marker == kExif && std::memcmp(body, "Exif\0", 6) == 0) return std::nullopt;
    at += 2 + length;
    if (marker == kSos) {
      if (frames == 0) return std::nullopt;
      const std::int64_t pixels = std::int64_t{header.width} * header.height;
      header.plain = header.plain && frames == 1 && (components == 1 || jfif) && at <= size &&
                     pixels > 0 && pixels <= kSure;
      return header;
    }
    if (at > end) return std::nullopt;
    if (is_frame(marker)) {
      if (frames++ == 0) {
        if (bytes < 6) return std::nullopt;
        header.height = big_endian(body + 1);
        header.width = big_endian(body + 3);
        components = body[5];
      }
      header.plain = header.plain && plain_frame(marker, body, bytes);
    } else if (marker == kJfif) {
      jfif = length == 16 && std::memcmp(body, "JFIF", 5) == 0;
      header.plain = header.plain && jfif;
    } else if (marker == kDqt) {
      header.plain = header.plain && eight_bit_tables(body, bytes);
    } else if (marker != kDht && marker != kDri) {
      header.plain = false;
    }
  }
  return std::nullopt;
}

}  // namespace yolodata
