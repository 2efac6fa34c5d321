#include "ingest/jpeg_header.h"

#include <cstring>

namespace yolodata {
namespace {

constexpr std::uint8_t kTem = 0x01;
constexpr std::uint8_t kDht = 0xC4, kJpg = 0xC8, kDac = 0xCC;   // what is no frame of C0 to CF
constexpr std::uint8_t kRst0 = 0xD0, kSoi = 0xD8, kEoi = 0xD9;  // these and between: no length
constexpr std::uint8_t kSos = 0xDA, kDqt = 0xDB, kDri = 0xDD, kJfif = 0xE0, kExif = 0xE1;
constexpr std::size_t kFar = 1 << 18;    // bytes of the longest header that is ordinary
constexpr std::int64_t kSure = 1 << 26;  // pixels that no limit against bombs forbids

bool is_frame(std::uint8_t marker) {
  return marker >= 0xC0 && marker <= 0xCF && marker != kDht && marker != kJpg && marker != kDac;
}

bool is_progressive(std::uint8_t frame) { return (frame & 3) == 2; }

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

// Where the next marker's number stands, behind its last 0xFF; `size` where there is none.
std::size_t next_marker(const std::uint8_t* data, std::size_t size, std::size_t at) {
  while (at < size) {
    const void* const found = std::memchr(data + at, 0xFF, size - at);
    if (found == nullptr) return size;
    at = static_cast<std::size_t>(static_cast<const std::uint8_t*>(found) - data);
    while (at < size && data[at] == 0xFF) ++at;
    if (at < size && data[at] != 0) return at;
  }
  return size;
}

// How many scans begin from byte `at` on, which lies inside one.
std::int64_t count_scans(const std::uint8_t* data, std::size_t size, std::size_t at) {
  std::int64_t scans = 0;
  while ((at = next_marker(data, size, at)) < size) {
    const std::uint8_t marker = data[at++];
    if (marker == kEoi) break;
    // Inside a scan, decoders may step over any of these, and go on behind it.
    if (marker < 0xC0 || (marker >= kRst0 && marker <= kSoi)) continue;
    if (marker == kSos) ++scans;
    if (size - at < 2) break;
    at += static_cast<std::size_t>(big_endian(data + at));
  }
  return scans;
}

}  // namespace

std::optional<JpegHeader> read_jpeg_header(const std::uint8_t* data, std::size_t size) {
  if (size < 2 || std::memcmp(data, "\xff\xd8", 2) != 0) return std::nullopt;
  JpegHeader header{0, 0, 1, true, std::memcmp(data + size - 2, "\xff\xd9", 2) == 0};
  bool jfif = false;
  int frames = 0, components = 0;
  std::uint8_t frame = 0;
  for (std::size_t at = 2;;) {
    const std::size_t place = next_marker(data, size, at);
    // The marker, its length, and what may be asked of its first six bytes below.
    const bool whole = place < size && size - place >= 9;
    header.ordinary = header.ordinary && whole && place == at + 1;
    if (place >= size || size - place < 3) return std::nullopt;
    const std::uint8_t marker = data[place];
    at = place + 1;
    if (marker == kEoi || marker == kSoi) return std::nullopt;
    if (marker < 0xC0 || (marker >= kRst0 && marker < kSoi)) {
      if (marker != kTem && marker < 0xC0) return std::nullopt;  // of an unknown length
      header.ordinary = false;
      continue;
    }
    const auto length = static_cast<std::size_t>(big_endian(data + at));  // counts itself
    if (length < 2) {
      header.ordinary = false;
      at += 2;
      continue;
    }
    const std::uint8_t* const body = data + at + 2;
    const std::size_t bytes = length - 2;
    if (marker == kExif && whole && std::memcmp(body, "Exif\0", 6) == 0) header.ordinary = false;
    at += length;
    if (marker == kSos) {
      if (frames == 0 || body == data + size) return std::nullopt;
      const std::int64_t pixels = std::int64_t{header.width} * header.height;
      header.plain = header.plain && header.ordinary && frames == 1 && (components == 1 || jfif) &&
                     at <= size && pixels > 0 && pixels <= kSure;
      // Of files whose first scan has all components, decoders read no further.
      if ((is_progressive(frame) || body[0] < components) && at < size)
        header.scans += count_scans(data, size, at);
      return header;
    }
    header.ordinary = header.ordinary && at <= kFar;
    if (at > size) return std::nullopt;
    if (is_frame(marker)) {
      if (bytes < 6) return std::nullopt;
      if (frames++ == 0) {
        frame = marker;
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
}

}  // namespace yolodata
