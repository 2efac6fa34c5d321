#include "ingest/jpeg_header.h"

#include <cstring>

#include "jpeg/segments.h"

namespace yolodata {
namespace {

using namespace jpeg;

constexpr std::size_t kFar = 1 << 18;    // bytes of the longest header that is ordinary
constexpr std::int64_t kSure = 1 << 26;  // pixels that no limit against bombs forbids

bool is_progressive(std::uint8_t frame) { return (frame & 3) == 2; }

bool eight_bit_tables(const std::uint8_t* at, std::size_t bytes) {
  constexpr std::size_t kTable = 1 + kCoefficients;
  if (bytes % kTable) return false;
  for (std::size_t k = 0; k < bytes; k += kTable)
    if (at[k] >> 4) return false;
  return true;
}

// Baseline, extended or progressive, Huffman; 8 bits; grey or three components.
bool plain_frame(std::uint8_t marker, const std::uint8_t* body, std::size_t bytes) {
  if (marker > kSof2 || bytes < 6 || body[0] != 8) return false;
  const std::size_t components = body[5];
  return (components == 1 || components == 3) && bytes == 6 + 3 * components;
}

// How many scans begin from byte `at` on, which lies inside one.
std::int64_t count_scans(const std::uint8_t* data, std::size_t size, std::size_t at) {
  std::int64_t scans = 0;
  while (const auto segment = next_segment(data, size, at)) {
    if (segment->marker == kEoi) break;
    at = segment->begin + 2;
    // Inside a scan, decoders may step over any of these, and go on behind it.
    if (stands_alone(segment->marker)) continue;
    if (segment->marker == kSos) ++scans;
    if (segment->body() > size) break;
    at = segment->end();
  }
  return scans;
}

}  // namespace

std::optional<JpegHeader> read_jpeg_header(const std::uint8_t* data, std::size_t size) {
  if (!begins_as_jpeg(data, size)) return std::nullopt;
  JpegHeader header{0, 0, 1, true, std::memcmp(data + size - 2, "\xff\xd9", 2) == 0};
  bool jfif = false;
  int frames = 0, components = 0;
  std::uint8_t frame = 0;
  for (std::size_t at = 2;;) {
    const auto segment = next_segment(data, size, at);
    if (!segment || segment->body() > size) return std::nullopt;
    const bool has_six = size - segment->body() >= 6;  // bytes, which may be asked for below
    header.ordinary = header.ordinary && has_six && segment->begin == at;
    const std::uint8_t marker = segment->marker;
    if (marker == kEoi || marker == kSoi) return std::nullopt;
    if (stands_alone(marker)) {
      if (marker != kTem && marker < kSof0) return std::nullopt;  // of an unknown length
      header.ordinary = false;
      at = segment->begin + 2;
      continue;
    }
    if (segment->length < 2) {
      header.ordinary = false;
      at = segment->body();
      continue;
    }
    const std::uint8_t* const body = data + segment->body();
    const std::size_t bytes = segment->bytes();
    if (marker == kApp1 && has_six && std::memcmp(body, "Exif\0", 6) == 0) header.ordinary = false;
    at = segment->end();
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
    } else if (marker == kApp0) {
      jfif = bytes == 14 && std::memcmp(body, "JFIF", 5) == 0;
      header.plain = header.plain && jfif;
    } else if (marker == kDqt) {
      header.plain = header.plain && eight_bit_tables(body, bytes);
    } else if (marker != kDht && marker != kDri) {
      header.plain = false;
    }
  }
}

}  // namespace yolodata
