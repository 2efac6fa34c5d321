#include "jpeg/frame.h"

#include <cstring>

#include "jpeg/segments.h"

namespace yolodata::jpeg {
namespace {

struct Tables {
  std::array<std::array<std::int16_t, kCoefficients>, 4> step{};
  std::array<bool, 4> stepped{};
};

bool read_steps(const std::uint8_t* body, std::size_t size, Tables& tables) {
  constexpr std::size_t kTable = 1 + kCoefficients;
  if (size % kTable) return false;
  for (; size; size -= kTable, body += kTable) {
    if (body[0] > 3) return false;  // also tables of 16 bits
    tables.stepped[body[0]] = true;
    for (std::size_t k = 0; k < kCoefficients; ++k) {
      if (body[1 + k] == 0) return false;
      tables.step[body[0]][kPlace[k]] = body[1 + k];
    }
  }
  return true;
}

bool read_codes(const std::uint8_t* body, std::size_t size, Frame& frame) {
  const auto make = [&frame](std::uint8_t destination, const std::uint8_t* counts,
                             const std::uint8_t* symbols, std::size_t count) {
    if (destination & 0xEE) return false;
    const bool ac = destination >> 4;
    return (ac ? frame.ac : frame.dc)[destination & 1].make(counts, symbols, count, ac);
  };
  return each_huffman_table(body, size, make);
}

// Of a YCbCr picture the components are numbered 1, 2, 3: whoever numbers them otherwise may mean
// other colours.
bool read_components(const std::uint8_t* body, std::size_t size, Frame& frame,
                     std::array<std::uint8_t, 3>& steps) {
  if (size < 6 || body[0] != 8) return false;
  frame.height = big_endian(body + 1);
  frame.width = big_endian(body + 3);
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
  if (!begins_as_jpeg(data, size)) return false;
  Tables tables;
  std::array<std::uint8_t, 3> steps{};
  const std::uint8_t* ids = nullptr;
  for (auto* table : {&frame.dc, &frame.ac})
    for (HuffmanTable& each : *table) each.defined = false;
  for (std::size_t at = 2;;) {
    const auto segment = next_segment(data, size, at);
    if (!segment || segment->begin != at || !segment->is_whole(size)) return false;
    const std::uint8_t marker = segment->marker;
    const std::uint8_t* const body = data + segment->body();
    const std::size_t bytes = segment->bytes();
    at = segment->end();
    if (marker == kDqt) {
      if (!read_steps(body, bytes, tables)) return false;
    } else if (marker == kDht) {
      if (!read_codes(body, bytes, frame)) return false;
    } else if (marker == kSof0) {
      if (ids != nullptr || !read_components(body, bytes, frame, steps)) return false;
      ids = body + 6;
    } else if (marker == kSos) {
      if (ids == nullptr || !read_scan(body, bytes, ids, frame)) return false;
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
