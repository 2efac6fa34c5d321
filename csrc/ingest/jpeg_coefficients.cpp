#include "ingest/jpeg_coefficients.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <limits>
#include <utility>

#include "jpeg/segments.h"

namespace yolodata {
namespace {

using namespace jpeg;

constexpr std::int64_t kMostBlocks = 1 << 22;  // 512 MiB of coefficients
constexpr int kMostInMcu = 10;                 // blocks, in a scan of several components
constexpr int kFast = 9;                       // bits of the codes that one look-up decodes
constexpr int kDcSymbol = 15;                  // libjpeg refuses a table with a larger one

[[noreturn]] void doubt(const char* why) { throw JpegDoubt{why}; }

std::int32_t ceil_div(std::int32_t a, std::int32_t b) { return (a + b - 1) / b; }

// Symbols by the bits of their codes, T.81 F.2.2.3.
struct HuffmanTable {
  bool there = false;
  std::array<std::uint16_t, 1 << kFast> fast{};  // length << 8 | symbol; 0: longer, or no code
  // By length: one more than its last code, 0 without any; of a code's symbol, less the code.
  std::array<std::int32_t, kLongestCode + 1> limit{}, offset{};
  std::array<std::uint8_t, kMostSymbols> symbols{};
};

HuffmanTable huffman_table(const std::uint8_t* counts, const std::uint8_t* symbols,
                           std::size_t size) {
  HuffmanTable table;
  table.there = true;
  std::copy(symbols, symbols + size, table.symbols.begin());
  const bool good = each_code(counts, [&](int length, std::int32_t code, int place) {
    table.limit[length] = code + 1;
    table.offset[length] = place - code;
    if (length > kFast) return;
    const int free = kFast - length;
    const auto entry = static_cast<std::uint16_t>(length << 8 | symbols[place]);
    std::fill_n(table.fast.begin() + (code << free), 1 << free, entry);
  });
  if (!good) doubt("a Huffman table has too many codes");
  return table;
}

// The bits of a scan up to the next marker. Behind them come zeros, until it is seen that some were
// used.
class BitReader {
 public:
  BitReader(const std::uint8_t* at, const std::uint8_t* end) : at_(at), end_(end) {}

  int symbol(const HuffmanTable& table) {
    fill();
    if (const int entry = table.fast[bits_ >> (64 - kFast)]) {
      drop(entry >> 8);
      return entry & 255;
    }
    for (int length = kFast + 1; length <= kLongestCode; ++length) {
      const auto code = static_cast<std::int32_t>(bits_ >> (64 - length));
      if (code >= table.limit[length]) continue;
      drop(length);
      return table.symbols[code + table.offset[length]];
    }
    doubt("a scan has a code that is in no table");
  }

  int bits(int count) {  // at most 16
    if (count == 0) return 0;
    fill();
    const auto found = static_cast<int>(bits_ >> (64 - count));
    drop(count);
    return found;
  }

  // A value of so many bits, T.81 F.2.2.1.
  int value(int count) {
    const int found = bits(count);
    return count && found < 1 << (count - 1) ? found - (1 << count) + 1 : found;
  }

  // Goes behind the marker that must follow here, and gives it.
  std::uint8_t marker() {
    fill();
    if (count_ >= 8 || !at_marker_) doubt("something lies between a scan and the next marker");
    const std::uint8_t found = at_[1];
    at_ += 2;
    bits_ = 0;
    count_ = 0;
    at_marker_ = false;
    return found;
  }

  const std::uint8_t* at() const { return at_; }

 private:
  void fill() {
    while (count_ <= 48 && !at_marker_) {
      if (end_ - at_ < 2) doubt("it ends within a scan");
      const std::uint8_t byte = *at_;
      if (byte == 0xFF && at_[1] != 0) {
        at_marker_ = true;
        return;
      }
      at_ += byte == 0xFF ? 2 : 1;
      bits_ |= std::uint64_t{byte} << (56 - count_);
      count_ += 8;
    }
  }

  void drop(int count) {
    bits_ <<= count;
    count_ -= count;
    if (count_ < 0) doubt("a scan is cut off");
  }

  const std::uint8_t* at_;
  const std::uint8_t* end_;
  std::uint64_t bits_ = 0;  // the next one is the highest
  int count_ = 0;
  bool at_marker_ = false;
};

std::int16_t sample(std::int64_t value) {
  if (std::abs(value) > std::numeric_limits<std::int16_t>::max()) doubt("a value is too large");
  return static_cast<std::int16_t>(value);
}

class Reader {
 public:
  Reader(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {
    if (!begins_as_jpeg(data, size)) doubt("it does not begin as a JPEG file");
    found_.head.assign(data, data + 2);
  }

  // Up to the first scan; the segment of that one is not read.
  void read_head() {
    for (Segment segment; (segment = next()).marker != kSos;) {
      const std::uint8_t marker = segment.marker;
      const auto [body, bytes] = take(segment);
      if (marker == kDht) {
        read_huffman(body, bytes);
        continue;
      }
      if (marker == kDri) {
        read_restart(body, bytes);
        continue;
      }
      const std::size_t place = found_.head.size() + 1;
      if (marker == kSof0 || marker == kSof1 || marker == kSof2) {
        if (found_.frame) doubt("it has several frames");
        found_.frame = place;
        progressive_ = marker == kSof2;
        read_frame(body, bytes);
      } else if (marker == kDqt) {
        read_quantisation(body, bytes);
      } else if (marker >= kSof9 && marker < kRst0) {
        doubt("its code is arithmetic");
      } else if (marker > kSof2 && marker < kRst0) {
        doubt("it is lossless or hierarchical");
      } else if ((marker < kApp0 || marker > kApp15) && marker != kCom) {
        doubt("it has a marker that is not known here");
      }
      found_.head.insert(found_.head.end(), data_ + segment.begin, data_ + at_);
    }
    if (!found_.frame) doubt("it has a scan without a frame");
  }

  void read_scans() {
    lay_out();
    for (int scans = 1;; ++scans) {
      if (scans > kMostScans) doubt("it has more scans than are decoded");
      read_scan();
      Segment segment;
      while ((segment = next()).marker == kDht || segment.marker == kDri) {
        const auto [body, bytes] = take(segment);
        segment.marker == kDht ? read_huffman(body, bytes) : read_restart(body, bytes);
      }
      if (segment.marker == kEoi) break;
      if (segment.marker != kSos) doubt("it has a segment between two scans");
    }
    if (at_ + 2 != size_) doubt("something lies behind its end marker");
    for (const auto& known : missing_)
      if (known != std::array<std::int8_t, kCoefficients>{})
        doubt("it lacks some of its coefficients");
  }

  JpegCoefficients take() { return std::move(found_); }

 private:
  struct Body {
    const std::uint8_t* at;
    std::size_t bytes;
  };

  // The segment that must begin here.
  Segment next() const {
    if (size_ - at_ < 2) doubt("it has no end marker");
    const auto found = next_segment(data_, size_, at_);
    if (!found || found->begin != at_) doubt("it has a gap between two segments");
    return *found;
  }

  // Goes behind a segment, and gives its body.
  Body take(const Segment& segment) {
    if (!segment.is_whole(size_)) doubt("a segment is cut off");
    at_ = segment.end();
    return {data_ + segment.body(), segment.bytes()};
  }

  void read_restart(const std::uint8_t* body, std::size_t bytes) {
    if (bytes != 2) doubt("its restart interval cannot be read");
    restart_ = big_endian(body);
  }

  void read_quantisation(const std::uint8_t* body, std::size_t bytes) {
    if (bytes % (kCoefficients + 1)) doubt("a quantisation table is cut off");
    for (; bytes; body += kCoefficients + 1, bytes -= kCoefficients + 1) {
      if (*body > 3) doubt("a quantisation table has 16 bits");
      quantised_[*body] = true;
    }
  }

  void read_huffman(const std::uint8_t* body, std::size_t bytes) {
    const auto read = [this](std::uint8_t destination, const std::uint8_t* counts,
                             const std::uint8_t* symbols, std::size_t size) {
      if (destination & ~0x13) return false;
      // Used or not: a decoder looks at the table as a whole.
      if (destination >> 4 == 0 && std::any_of(symbols, symbols + size, [](std::uint8_t symbol) {
            return symbol > kDcSymbol;
          }))
        doubt("a Huffman table has a symbol that is too large");
      huffman_[destination >> 4][destination & 3] = huffman_table(counts, symbols, size);
      return true;
    };
    if (!each_huffman_table(body, bytes, read)) doubt("a Huffman table cannot be read");
  }

  void read_frame(const std::uint8_t* body, std::size_t bytes) {
    if (bytes < 6 || bytes != 6 + 3 * std::size_t{body[5]}) doubt("its frame cannot be read");
    if (body[0] != 8) doubt("it has more than 8 bits a sample");
    height_ = big_endian(body + 1);
    width_ = big_endian(body + 3);
    if (height_ == 0 || width_ == 0) doubt("its frame does not state its size");
    if (body[5] != 1 && body[5] != 3 && body[5] != 4) doubt("it has an odd number of components");
    for (const std::uint8_t* at = body + 6; at != body + bytes; at += 3) {
      JpegComponent next{at[0],
                         static_cast<std::uint8_t>(at[1] >> 4),
                         static_cast<std::uint8_t>(at[1] & 15),
                         at[2],
                         0,
                         0,
                         0,
                         0,
                         {}};
      if (next.h < 1 || next.h > 4 || next.v < 1 || next.v > 4 || next.table > 3)
        doubt("its frame cannot be read");
      for (const JpegComponent& other : found_.components)
        if (other.id == next.id) doubt("two components have one name");
      found_.components.push_back(next);
    }
  }

  // Makes room for the coefficients.
  void lay_out() {
    int h = 1, v = 1, together = 0;
    for (const JpegComponent& each : found_.components) {
      if (!quantised_[each.table]) doubt("it lacks a quantisation table");
      h = std::max<int>(h, each.h);
      v = std::max<int>(v, each.v);
      together += each.h * each.v;
    }
    const bool alone = found_.components.size() == 1;
    if (!alone && together > kMostInMcu) doubt("its components do not fit into one scan");
    found_.mcu_columns = ceil_div(width_, 8 * h);
    found_.mcu_rows = ceil_div(height_, 8 * v);
    std::int64_t blocks = 0;
    for (JpegComponent& each : found_.components) {
      each.width = ceil_div(width_ * each.h, 8 * h);
      each.height = ceil_div(height_ * each.v, 8 * v);
      each.stride = alone ? each.width : found_.mcu_columns * each.h;
      each.rows = alone ? each.height : found_.mcu_rows * each.v;
      blocks += std::int64_t{each.stride} * each.rows;
    }
    if (blocks > kMostBlocks) doubt("it is too large");
    for (JpegComponent& each : found_.components)
      each.values.resize(std::size_t{kCoefficients} * each.stride * each.rows);
    missing_.resize(found_.components.size());
    for (auto& bits : missing_) bits.fill(-1);
  }

  void read_scan() {
    const auto [body, bytes] = take(next());
    if (bytes < 4 || body[0] < 1 || body[0] > 4 || bytes != 4 + 2 * std::size_t{body[0]})
      doubt("a scan cannot be read");
    scan_.clear();
    for (int k = 0; k < body[0]; ++k) {
      const std::uint8_t id = body[1 + 2 * k], tables = body[2 + 2 * k];
      const auto at = std::find_if(found_.components.begin(), found_.components.end(),
                                   [id](const JpegComponent& each) { return each.id == id; });
      const auto place = static_cast<int>(at - found_.components.begin());
      if (at == found_.components.end() || tables >> 4 > 3 || (tables & 15) > 3 ||
          std::count_if(scan_.begin(), scan_.end(),
                        [place](const Member& other) { return other.place == place; }))
        doubt("a scan cannot be read");
      scan_.push_back({place, &huffman_[0][tables >> 4], &huffman_[1][tables & 15], 0});
    }
    const std::uint8_t* const rest = body + bytes - 3;
    first_ = rest[0];
    last_ = rest[1];
    high_ = rest[2] >> 4;
    low_ = rest[2] & 15;
    check_progression();
    reader_ = BitReader(data_ + at_, data_ + size_);
    run_ = 0;
    if (!progressive_) {
      need_tables(true, true);
      each_block([this](Member& member, std::int16_t* block) { sequential(member, block); });
    } else if (first_ == 0 && high_ == 0) {
      need_tables(true, false);
      each_block([this](Member& member, std::int16_t* block) { dc_first(member, block); });
    } else if (first_ == 0) {
      each_block([this](Member&, std::int16_t* block) {
        if (reader_.bits(1)) block[0] = static_cast<std::int16_t>(block[0] | 1 << low_);
      });
    } else if (high_ == 0) {
      need_tables(false, true);
      each_block([this](Member& member, std::int16_t* block) { ac_first(member, block); });
    } else {
      need_tables(false, true);
      each_block([this](Member& member, std::int16_t* block) { ac_refine(member, block); });
    }
    end_interval();
    reader_.marker();
    at_ = static_cast<std::size_t>(reader_.at() - data_) - 2;
  }

  // T.81 G.1.1.1: which bits of which coefficients a scan has, and that it is their turn.
  void check_progression() {
    if (!progressive_ && (first_ != 0 || last_ != 63 || high_ != 0 || low_ != 0))
      doubt("a scan cannot be read");
    if (last_ > 63 || first_ > last_ || low_ > 13 || (progressive_ && first_ == 0 && last_ != 0) ||
        (first_ > 0 && scan_.size() != 1) || (high_ != 0 && high_ != low_ + 1))
      doubt("a scan has an unusual range");
    int blocks = 0;
    for (const Member& member : scan_) {
      auto& missing = missing_[member.place];
      if (first_ > 0 && missing[0] < 0) doubt("its scans are in an unusual order");
      for (int k = first_; k <= last_; ++k) {
        if (missing[k] != (high_ ? high_ : -1)) doubt("its scans are in an unusual order");
        missing[k] = static_cast<std::int8_t>(low_);
      }
      blocks += found_.components[member.place].h * found_.components[member.place].v;
    }
    if (scan_.size() > 1 && blocks > kMostInMcu) doubt("a scan has too many blocks in an MCU");
  }

  struct Member {  // a component in a scan
    int place;
    const HuffmanTable *dc, *ac;
    std::int64_t predicted;
  };

  void need_tables(bool dc, bool ac) const {
    for (const Member& member : scan_)
      if ((dc && !member.dc->there) || (ac && !member.ac->there)) doubt("it lacks a Huffman table");
  }

  // Calls `decode` for each block of a scan, in its order (T.81 A.2).
  template <typename Decode>
  void each_block(Decode&& decode) {
    std::int64_t done = 0;
    if (scan_.size() == 1) {
      Member& member = scan_[0];
      JpegComponent& component = found_.components[member.place];
      for (std::int32_t row = 0; row < component.height; ++row)
        for (std::int32_t column = 0; column < component.width; ++column) {
          restart(done++);
          decode(member, component.block(row, column));
        }
      return;
    }
    for (std::int32_t y = 0; y < found_.mcu_rows; ++y)
      for (std::int32_t x = 0; x < found_.mcu_columns; ++x) {
        restart(done++);
        for (Member& member : scan_) {
          JpegComponent& component = found_.components[member.place];
          for (int row = 0; row < component.v; ++row)
            for (int column = 0; column < component.h; ++column)
              decode(member, component.block(y * component.v + row, x * component.h + column));
        }
      }
  }

  void restart(std::int64_t done) {
    if (restart_ == 0 || done == 0 || done % restart_) return;
    end_interval();
    if (reader_.marker() != kRst0 + (done / restart_ - 1) % 8) doubt("a restart marker is missing");
    for (Member& member : scan_) member.predicted = 0;
  }

  void end_interval() const {
    if (run_) doubt("a run goes beyond the end of its scan");
  }

  static int category(int symbol, int most) {
    if (symbol > most) doubt("a value is too large");
    return symbol;
  }

  void dc_first(Member& member, std::int16_t* block) {
    member.predicted += reader_.value(category(reader_.symbol(*member.dc), kDcBits));
    block[0] = sample(member.predicted * (1 << low_));
  }

  void sequential(Member& member, std::int16_t* block) {
    dc_first(member, block);
    for (int k = 1; k < kCoefficients; ++k) {
      const int symbol = reader_.symbol(*member.ac), zeros = symbol >> 4;
      if (symbol == kEndOfBlock) return;
      k += zeros;
      if (k >= kCoefficients) doubt("a block has too many coefficients");
      if ((symbol & 15) == 0 && zeros != 15) doubt("a code cannot be read");
      block[k] = static_cast<std::int16_t>(reader_.value(category(symbol & 15, kAcBits)));
    }
  }

  // A run of blocks without anything (more) of the band begins with this one.
  void begin_run(int symbol) { run_ = (1 << (symbol >> 4)) + reader_.bits(symbol >> 4) - 1; }

  void ac_first(const Member& member, std::int16_t* block) {
    if (run_) {
      --run_;
      return;
    }
    for (int k = first_; k <= last_; ++k) {
      const int symbol = reader_.symbol(*member.ac), zeros = symbol >> 4;
      if ((symbol & 15) == 0 && zeros != 15) return begin_run(symbol);
      k += zeros;
      if (k > last_) doubt("a block has too many coefficients");
      const int value = reader_.value(category(symbol & 15, kAcBits));
      block[k] = sample(std::int64_t{value} * (1 << low_));
    }
  }

  // One more bit of a coefficient that is not zero.
  void refine(std::int16_t& value) {
    if (reader_.bits(1)) value = sample(value + (value < 0 ? -(1 << low_) : 1 << low_));
  }

  void ac_refine(const Member& member, std::int16_t* block) {
    int k = first_;
    while (run_ == 0 && k <= last_) {
      const int symbol = reader_.symbol(*member.ac), size = symbol & 15;
      int zeros = symbol >> 4;
      if (size == 0 && zeros != 15) {
        begin_run(symbol);
        ++run_;  // this block is its first one
        break;
      }
      if (size > 1) doubt("a refinement is larger than a bit");
      const int value = size == 0 ? 0 : reader_.bits(1) ? 1 << low_ : -(1 << low_);
      for (; k <= last_; ++k) {
        if (block[k] != 0) {
          refine(block[k]);
        } else if (zeros-- == 0) {
          break;
        }
      }
      if (k > last_) doubt("a block has too many coefficients");
      block[k++] = static_cast<std::int16_t>(value);
    }
    if (run_ == 0) return;
    for (; k <= last_; ++k)
      if (block[k] != 0) refine(block[k]);
    --run_;
  }

  const std::uint8_t* const data_;
  const std::size_t size_;
  std::size_t at_ = 2;  // the byte that is next
  JpegCoefficients found_;
  bool progressive_ = false;
  std::int32_t height_ = 0, width_ = 0, restart_ = 0;
  std::array<bool, 4> quantised_{};
  std::array<std::array<HuffmanTable, 4>, 2> huffman_;
  std::vector<std::array<std::int8_t, kCoefficients>>
      missing_;  // bits that are not known yet; -1: none is

  // Of the scan that is read
  std::vector<Member> scan_;
  int first_ = 0, last_ = 0, high_ = 0, low_ = 0;
  std::int32_t run_ = 0;  // blocks that are still without anything
  BitReader reader_{nullptr, nullptr};
};

}  // namespace

JpegCoefficients read_jpeg_coefficients(const std::uint8_t* data, std::size_t size) {
  Reader reader(data, size);
  reader.read_head();
  reader.read_scans();
  return reader.take();
}

}  // namespace yolodata
