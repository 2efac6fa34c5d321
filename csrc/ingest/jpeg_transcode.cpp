#include "ingest/jpeg_transcode.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <cstring>

#include "ingest/jpeg_header.h"

namespace yolodata {
namespace {

using namespace jpeg;

constexpr int kReserved = kMostSymbols;  // takes the code of all ones, which may not be used
constexpr int kKinds = 2;                // of tables: of the first component, and of the others

using Counts = std::array<std::uint64_t, kReserved + 1>;  // how often each symbol is needed

struct Code {
  std::uint16_t bits = 0;
  std::uint8_t length = 0;
};

struct HuffmanTable {
  std::array<std::uint8_t, kLongestCode> lengths{};  // how many codes have each
  std::vector<std::uint8_t> symbols;                 // in the order of their codes
  std::array<Code, kMostSymbols> codes{};
};

// How many codes of each length a shortest code has (Huffman), none longer than 16 (T.81 K.2).
std::vector<int> code_lengths(const Counts& counts, const std::vector<int>& rarest_first) {
  const auto leaves = static_cast<int>(rarest_first.size());
  struct Node {
    std::uint64_t count;
    int parent;
  };
  std::vector<Node> nodes;
  for (const int symbol : rarest_first) nodes.push_back({counts[symbol], 0});
  // Leaves and joined nodes each come in ascending order, so the rarest one is at either front.
  int leaf = 0, joined = leaves;
  const auto rarest = [&] {
    const bool from_leaves = leaf < leaves && (joined == static_cast<int>(nodes.size()) ||
                                               nodes[leaf].count <= nodes[joined].count);
    return from_leaves ? leaf++ : joined++;
  };
  while (static_cast<int>(nodes.size()) < 2 * leaves - 1) {
    const int a = rarest(), b = rarest();
    nodes[a].parent = nodes[b].parent = static_cast<int>(nodes.size());
    nodes.push_back({nodes[a].count + nodes[b].count, 0});
  }
  std::vector<int> depths(nodes.size()), lengths(leaves + 1);
  for (auto k = static_cast<int>(nodes.size()) - 2; k >= 0; --k)
    depths[k] = depths[nodes[k].parent] + 1;
  for (int k = 0; k < leaves; ++k) ++lengths[depths[k]];
  for (int length = leaves; length > kLongestCode; --length)
    while (lengths[length] > 0) {
      // Two of the longest become one, a bit shorter; the other takes half the place of a short
      // one.
      int shorter = length - 2;
      while (lengths[shorter] == 0) --shorter;
      lengths[length] -= 2;
      ++lengths[length - 1];
      lengths[shorter + 1] += 2;
      --lengths[shorter];
    }
  lengths.resize(kLongestCode + 1);
  return lengths;
}

HuffmanTable huffman_table(Counts counts) {
  counts[kReserved] = 1;
  std::vector<int> order;
  for (int symbol = kReserved; symbol >= 0; --symbol)
    if (counts[symbol]) order.push_back(symbol);
  std::stable_sort(order.begin(), order.end(),
                   [&counts](int a, int b) { return counts[a] < counts[b]; });
  std::vector<int> lengths = code_lengths(counts, order);
  HuffmanTable table;
  table.symbols.assign(order.rbegin(), order.rend() - 1);  // all but the reserved one
  --*std::find_if(lengths.rbegin(), lengths.rend(), [](int count) { return count > 0; });
  std::copy(lengths.begin() + 1, lengths.end(), table.lengths.begin());
  each_code(table.lengths.data(), [&table](int length, std::int32_t code, int place) {
    table.codes[table.symbols[static_cast<std::size_t>(place)]] = {
        static_cast<std::uint16_t>(code), static_cast<std::uint8_t>(length)};
  });
  return table;
}

// Bits, most significant first; 0xFF is followed by a zero byte. Writes where there is room for
// all.
class BitWriter {
 public:
  explicit BitWriter(std::uint8_t* at) : at_(at) {}

  void put(std::uint32_t bits, int count) {  // at most 27
    bits_ = bits_ << count | bits;
    count_ += count;
    if (count_ >= 32) flush(4);
  }

  std::uint8_t* finish() {
    if (const int rest = count_ % 8) put((1u << (8 - rest)) - 1, 8 - rest);
    flush(count_ / 8);
    return at_;
  }

 private:
  void flush(int bytes) {
    for (int k = 0; k < bytes; ++k) {
      count_ -= 8;
      const auto value = static_cast<std::uint8_t>(bits_ >> count_);
      *at_++ = value;
      *at_ = 0;
      at_ += value == 0xFF;
    }
  }

  std::uint8_t* at_;
  std::uint64_t bits_ = 0;
  int count_ = 0;
};

int bit_length(int value) { return std::bit_width(static_cast<unsigned>(std::abs(value))); }

// Which coefficients of a block are not zero.
std::uint64_t present(const std::int16_t* block) {
  std::uint64_t found = 0;
  for (int k = 0; k < kCoefficients; k += 4) {  // most of them are zero
    std::uint64_t four;
    std::memcpy(&four, block + k, sizeof four);
    if (four == 0) continue;
    for (int j = k; j < k + 4; ++j) found |= std::uint64_t{block[j] != 0} << j;
  }
  return found;
}

// Goes through the symbols of the one scan (T.81 F.1.2): `dc` and `ac` are called with the kind of
// table, the symbol and the value that its bits are of.
template <typename Dc, typename Ac>
void each_symbol(const JpegCoefficients& image, Dc&& dc, Ac&& ac) {
  std::vector<int> predicted(image.components.size());
  const auto write = [&](std::size_t place, const std::int16_t* block) {
    const int kind = place == 0 ? 0 : 1, difference = block[0] - predicted[place];
    predicted[place] = block[0];
    if (bit_length(difference) > kDcBits) throw JpegDoubt{"a value is too large for baseline"};
    dc(kind, bit_length(difference), difference);
    int last = 0;
    for (std::uint64_t left = present(block) & ~std::uint64_t{1}; left; left &= left - 1) {
      const int k = std::countr_zero(left), value = block[k];
      int zeros = k - last - 1;
      for (; zeros > 15; zeros -= 16) ac(kind, kZeroRun, 0);
      if (bit_length(value) > kAcBits) throw JpegDoubt{"a value is too large for baseline"};
      ac(kind, zeros << 4 | bit_length(value), value);
      last = k;
    }
    if (last < kCoefficients - 1) ac(kind, kEndOfBlock, 0);
  };
  if (image.components.size() == 1) {
    const JpegComponent& only = image.components[0];
    for (std::int32_t row = 0; row < only.height; ++row)
      for (std::int32_t column = 0; column < only.width; ++column)
        write(0, only.block(row, column));
    return;
  }
  std::array<std::int16_t, kCoefficients> padding{};
  for (std::int32_t y = 0; y < image.mcu_rows; ++y)
    for (std::int32_t x = 0; x < image.mcu_columns; ++x)
      for (std::size_t place = 0; place < image.components.size(); ++place) {
        const JpegComponent& each = image.components[place];
        for (std::int32_t row = y * each.v; row < (y + 1) * each.v; ++row)
          for (std::int32_t column = x * each.h; column < (x + 1) * each.h; ++column) {
            const bool shown = row < each.height && column < each.width;
            // A block outside the picture is what costs least: as bright as the one before.
            padding[0] = static_cast<std::int16_t>(predicted[place]);
            write(place, shown ? each.block(row, column) : padding.data());
          }
      }
}

void put_word(std::vector<std::uint8_t>& out, std::size_t value) {
  out.push_back(static_cast<std::uint8_t>(value >> 8));
  out.push_back(static_cast<std::uint8_t>(value));
}

void put_table(std::vector<std::uint8_t>& out, int destination, const HuffmanTable& table) {
  out.insert(out.end(), {0xFF, kDht});
  put_word(out, 2 + 1 + kLongestCode + table.symbols.size());
  out.push_back(static_cast<std::uint8_t>(destination));
  out.insert(out.end(), table.lengths.begin(), table.lengths.end());
  out.insert(out.end(), table.symbols.begin(), table.symbols.end());
}

}  // namespace

std::vector<std::uint8_t> write_baseline_jpeg(const JpegCoefficients& image) {
  std::array<Counts, kKinds> dc_counts{}, ac_counts{};
  each_symbol(
      image, [&](int kind, int symbol, int) { ++dc_counts[kind][symbol]; },
      [&](int kind, int symbol, int) { ++ac_counts[kind][symbol]; });
  const std::size_t components = image.components.size();
  const int kinds = components == 1 ? 1 : kKinds;
  std::array<HuffmanTable, kKinds> dc, ac;
  std::vector<std::uint8_t> out = image.head;
  out[image.frame] = kSof0;
  std::uint64_t bits = 0;
  for (int kind = 0; kind < kinds; ++kind) {
    dc[kind] = huffman_table(dc_counts[kind]);
    ac[kind] = huffman_table(ac_counts[kind]);
    put_table(out, kind, dc[kind]);
    put_table(out, 0x10 | kind, ac[kind]);
    for (int k = 0; k < kMostSymbols; ++k)
      bits += dc_counts[kind][k] * (dc[kind].codes[k].length + k) +
              ac_counts[kind][k] * (ac[kind].codes[k].length + (k & 15));
  }
  out.insert(out.end(), {0xFF, kSos});
  put_word(out, 2 + 1 + 2 * components + 3);
  out.push_back(static_cast<std::uint8_t>(components));
  for (std::size_t place = 0; place < components; ++place)
    out.insert(out.end(),
               {image.components[place].id, static_cast<std::uint8_t>(place == 0 ? 0x00 : 0x11)});
  out.insert(out.end(), {0, kCoefficients - 1, 0});
  const std::size_t begin = out.size();
  out.resize(begin + 2 * (bits / 8 + 2));  // each byte may be followed by a zero
  BitWriter writer(out.data() + begin);
  const auto put = [&writer](const Code& code, int value, int count) {
    const auto low =
        static_cast<std::uint32_t>(value < 0 ? value - 1 : value) & ((1u << count) - 1);
    writer.put(std::uint32_t{code.bits} << count | low, code.length + count);
  };
  each_symbol(
      image, [&](int kind, int symbol, int value) { put(dc[kind].codes[symbol], value, symbol); },
      [&](int kind, int symbol, int value) { put(ac[kind].codes[symbol], value, symbol & 15); });
  out.resize(static_cast<std::size_t>(writer.finish() - out.data()));
  out.insert(out.end(), {0xFF, kEoi});
  return out;
}

Transcoded transcode_jpeg(const std::uint8_t* data, std::size_t size) {
  const auto header = read_jpeg_header(data, size);
  if (!header || header->scans < 2) return {};
  try {
    return {write_baseline_jpeg(read_jpeg_coefficients(data, size)), ""};
  } catch (const JpegDoubt& doubt) {
    return {{}, doubt.why};
  }
}

}  // namespace yolodata
