#include "jpeg/frame.h"

#include <cstring>

namespace yolodata::jpeg {
namespace {

constexpr std::uint8_t kSof0 = 0xC0, kDht = 0xC4, kSos = 0xDA, kDqt = 0xDB;
constexpr std::uint8_t kApp0 = 0xE0, kApp14 = 0xEE, kApp15 = 0xEF, kCom = 0xFE;

std::size_t big_endian(const std::uint8_t* at) {
  return static_cast<std::size_t>(at[0] << 8 | at[1]);
}

struct Tables {
  std::array<std::array<std::int16_t, 64>, 4> step{};
  std::array<bool, 4> stepped{};
};

bool read_steps(const std::uint8_t* body, std::size_t size, Tables& tables) {
  if (size % 65) return false;
  for (; size; size -= 65, body += 65) {
    if (body[0] > 3) return false;  // also tables of 16 bits
    tables.stepped[body[0]] = true;
    for (std::size_t k = 0; k < 64; ++k) {
      if (body[1 + k] == 0) return false;
      tables.step[body[0]][kPlace[k]] = body[1 + k];
    }
  }
  return true;
}

bool read_codes(const std::uint8_t* body, std::size_t size, Frame& frame) {
  while (size) {
    if (size < 17 || (body[0] & 0xEE)) return false;
    std::size_t symbols = 0;
    for (int i = 1; i <= 16; ++i) symbols += body[i];
    if (symbols > 256 || size < 17 + symbols) return false;
    const bool ac = body[0] >> 4;
    HuffmanTable& table = (ac ? frame.ac : frame.dc)[body[0] & 1];
    if (!table.make(body + 1, body + 17, symbols, ac)) return false;
    body += 17 + symbols;
    size -= 17 + symbols;
  }
  return true;
}

// Of a YCbCr picture the components are numbered 1, 2, 3: whoever numbers them otherwise may mean
// other colours.
bool read_components(const std::uint8_t* body, std::size_t size, Frame& frame,
                     std::array<std::uint8_t, 3>& steps) {
  if (size < 6 || body[0] != 8) return false;
  frame.height = static_cast<std::int32_t>(big_endian(body + 1));
  frame.width = static_cast<std::int32_t>(big_endian(body + 3));
  frame.components = body[5];
  const auto count = static_cast<std::size_t>(frame.components);
  if (frame.height == 0 || frame.width == 0 || (count != 1 && count != 3)) return false;
  if (size != 6 + 3 * count) return false;
  for (std::size_t c = 0; c < count; ++c) {
    const std::uint8_t* const at = body + 6 + 3 * c;
    if (count == 3 && at[0] != c + 1) return false;
    if (at[2] > 3) return false;
    frame.component[c].across = at[1] >> 4;
    frame.component[c].down = at[1] & 15;
    steps[c] = at[2];
  }
  const auto is = [&](std::size_t c, int across, int down) {
    return frame.component[c].across == across && frame.component[c].down == down;
  };
  if (count == 1) return is(0, 1, 1);
  return is(1, 1, 1) && is(2, 1, 1) && (is(0, 1, 1) || is(0, 2, 1) || is(0, 2, 2));
}

bool read_scan(const std::uint8_t* body, std::size_t size, const std::uint8_t* ids, Frame& frame) {
  const auto count = static_cast<std::size_t>(frame.components);
  if (size != 4 + 2 * count || body[0] != count) return false;
  for (std::size_t c = 0; c < count; ++c) {
    const std::uint8_t* const at = body + 1 + 2 * c;
    if (at[0] != ids[3 * c] || (at[1] & 0xEE)) return false;
    frame.component[c].dc = at[1] >> 4;
    frame.component[c].ac = at[1] & 1;
    if (!frame.dc[at[1] >> 4].defined || !frame.ac[at[1] & 1].defined) return false;
  }
  return std::memcmp(body + 1 + 2 * count, "\x00\x3f\x00", 3) == 0;
}

}  // namespace

bool read_frame(const std::uint8_t* data, std::size_t size, Frame& frame) {
  if (size < 4 || std::memcmp(data, "\xff\xd8", 2) != 0) return false;
  Tables tables;
  std::array<std::uint8_t, 3> steps{};
  const std::uint8_t* ids = nullptr;
  for (auto* table : {&frame.dc, &frame.ac})
    for (HuffmanTable& each : *table) each.defined = false;
  for (std::size_t at = 2;;) {
    if (size - at < 4 || data[at] != 0xFF) return false;
    const std::uint8_t marker = data[at + 1];
    const std::size_t length = big_endian(data + at + 2);  // counts itself
    if (length < 2 || size - at - 2 < length) return false;
    const std::uint8_t* const body = data + at + 4;
    at += 2 + length;
    if (marker == kDqt) {
      if (!read_steps(body, length - 2, tables)) return false;
    } else if (marker == kDht) {
      if (!read_codes(body, length - 2, frame)) return false;
    } else if (marker == kSof0) {
      if (ids != nullptr || !read_components(body, length - 2, frame, steps)) return false;
      ids = body + 6;
    } else if (marker == kSos) {
      if (ids == nullptr || !read_scan(body, length - 2, ids, frame)) return false;
      frame.bits = at;
      break;
    } else if (marker == kApp14 || (marker != kCom && (marker < kApp0 || marker > kApp15))) {
      return false;  // Adobe's says which colours; what else may stand here is no baseline
    }
  }
  for (int c = 0; c < frame.components; ++c) {
    if (!tables.stepped[steps[c]]) return false;
    frame.component[c].step = tables.step[steps[c]];
  }
  return true;
}

}  // namespace yolodata::jpeg
