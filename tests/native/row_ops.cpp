// Every loop of row_ops.h against the operations of shade.h, with the bodies that YOLODATA_SIMD
// chooses: all bytes where they can be counted, random numbers elsewhere, memory that ends where
// the header says it may.
#include "render/row_ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "check.h"
#include "core/instruction_set.h"
#include "render/colour_jitter.h"

using namespace yolodata;

namespace {

constexpr int kPairs = 1 << 16;  // of bytes

// A compiler that fuses a product and a sum on its own breaks shade.h's promise.
void check_arithmetic() {
  volatile float unknown = 1.0f + 0x1p-12f;  // to the compiler
  const float a = unknown, square_less_one = a * a + -1.0f;
  expect(square_less_one == 0x1p-11f, "a product is rounded before it is added to");
  expect(fused(a, a, -1.0f) == 0x1p-11f + 0x1p-24f, "fused() rounds once");
}

// Three channels of `count` bytes each.
class Row {
 public:
  explicit Row(int count)
      : channels_{Guarded<std::uint8_t>(static_cast<std::size_t>(count)),
                  Guarded<std::uint8_t>(static_cast<std::size_t>(count)),
                  Guarded<std::uint8_t>(static_cast<std::size_t>(count))} {}

  void fill(Random& random) {
    for (auto& channel : channels_)
      for (auto& byte : channel) byte = random.byte();
  }
  Planes planes() { return {{channels_[0].data(), channels_[1].data(), channels_[2].data()}}; }
  std::uint8_t& at(int channel, int i) { return channels_[channel][static_cast<std::size_t>(i)]; }

 private:
  Guarded<std::uint8_t> channels_[3];
};

void check_splits(Random& random) {
  for (int count = 0; count < 200; ++count) {
    Guarded<std::uint8_t> pixels(static_cast<std::size_t>(3 * count));
    for (auto& byte : pixels) byte = random.byte();
    Row row(count);
    split_pixels(pixels.data(), count, random.from(-9999, 9999), row.planes());
    for (int i = 0; i < 3 * count; ++i)
      expect(row.at(i % 3, i / 3) == pixels[static_cast<std::size_t>(i)], "split_pixels");
  }
}

// A line of bytes, and columns that look at it.
struct Resampling {
  Resampling(const std::vector<std::int32_t>& left, const std::vector<float>& weight)
      : left(left),
        weight(weight),
        starts(left.size() / 4),
        picks(4 * left.size()),
        exact(left.size() / kBlock),
        exact_weights(left.size()),
        line(*std::max_element(left.begin(), left.end()) + kPicked),
        values(3 * left.size()),
        empty(left.size() / kBlock) {
    columns.count = static_cast<int>(left.size());
    columns.left = this->left.data();
    columns.weight = this->weight.data();
    find_picks(columns, starts.data(), picks.data());
    find_exact(columns, exact.data(), exact_weights.data());
    std::fill(values.begin(), values.end(), kUntouched);
  }

  void run() { resample_row(line.planes(), columns, empty.data(), values.data()); }

  float value(int channel, int i) const {
    return values[static_cast<std::size_t>(channel * columns.count + i)];
  }
  std::int32_t byte(int channel, int i, int right) {
    return line.at(channel, left[static_cast<std::size_t>(i)] + right);
  }

  static constexpr float kUntouched = -7.0f;
  std::vector<std::int32_t> left;
  std::vector<float> weight;
  std::vector<std::int32_t> starts;
  std::vector<std::uint8_t> picks, exact;
  std::vector<std::uint32_t> exact_weights;
  Row line;
  std::vector<float> values;
  std::vector<std::uint8_t> empty;
  Columns columns{};
};

// Loops for processors without fused multiply-add may differ by this, see Note [order of blends].
float allowance() { return instruction_set() == InstructionSet::kPortable ? 6.2e-5f : 0.0f; }

float a_weight(Random& random) {
  constexpr float kSpecial[] = {0.0f, 0.5f, 0.25f, 0x1p-24f, 1.0f - 0x1p-24f, 1.0f / 3.0f, 0x1p-7f};
  return random.one_in(3) ? kSpecial[random.below(7)] : random.unit();
}

// See Note [exact blends].
float a_short_weight(Random& random) {
  return static_cast<float>(random.below(1 << 15)) * 0x1p-15f;
}

// All pairs of neighbours, so far apart that every way to pick them is taken.
void check_resampling_of_all_pairs(Random& random) {
  for (const int step : {2, 3, 4, 5, 40, -2, -3, -4, -5}) {
    std::vector<std::int32_t> left(kPairs);
    std::vector<float> weight(kPairs);
    for (int i = 0; i < kPairs; ++i) {
      left[static_cast<std::size_t>(i)] = step > 0 ? i * step : (i + 1 - kPairs) * step;
      weight[static_cast<std::size_t>(i)] = a_weight(random);
      if (i / kBlock % 2) weight[static_cast<std::size_t>(i)] = a_short_weight(random);
    }
    Resampling made(left, weight);
    for (int i = 0; i < kPairs / kBlock; ++i)
      expect(i % 2 <= made.exact[static_cast<std::size_t>(i)], "find_exact: all that are short");
    const int reach = std::abs(step);
    const auto narrow = reach * 7 <= 14   ? Columns::kByEight
                        : reach * 3 <= 14 ? Columns::kByFour
                                          : Columns::kApart;
    const auto wide = reach * 15 <= 62 ? Columns::kBySixteen : Columns::kApart;
    const bool is_wide = instruction_set() == InstructionSet::kAvx512;
    expect(made.columns.together == (is_wide ? wide : narrow), "find_picks: together");
    made.line.fill(random);
    for (int i = 0; i < kPairs; ++i)
      for (int c = 0; c < 3; ++c) {
        const int pair = (i + c * 21845) % kPairs;
        made.line.at(c, left[static_cast<std::size_t>(i)]) = static_cast<std::uint8_t>(pair >> 8);
        made.line.at(c, left[static_cast<std::size_t>(i)] + 1) = static_cast<std::uint8_t>(pair);
      }
    made.run();
    for (int i = 0; i < kPairs; ++i)
      for (int c = 0; c < 3; ++c) {
        const float exact =
            blend(static_cast<float>(made.byte(c, i, 0)), static_cast<float>(made.byte(c, i, 1)),
                  weight[static_cast<std::size_t>(i)]);
        expect(std::abs(made.value(c, i) - exact) <= allowance(), "resample_row: all pairs");
      }
  }
}

// Rows as warps make them, across and then down: the bytes of shade.h, or a doubt.
void check_blends(Random& random) {
  std::int64_t doubts = 0, bytes = 0;
  for (int turn = 0; turn < 400; ++turn) {
    const int count = kBlock * random.from(1, 12);
    const auto columns = static_cast<std::size_t>(count);
    const bool is_short = random.one_in(4);  // weights of seven bits make no rounding error
    const float zoom = random.real(0.05f, random.one_in(3) ? 6.0f : 1.5f);
    const bool mirrored = random.one_in(2);
    std::vector<std::int32_t> left(columns);
    std::vector<float> weight(columns);
    for (int i = 0; i < count; ++i) {
      const float at = zoom * static_cast<float>(mirrored ? count - 1 - i : i);
      left[static_cast<std::size_t>(i)] = static_cast<std::int32_t>(at);
      const float part = at - std::floor(at);
      weight[static_cast<std::size_t>(i)] = is_short ? std::floor(part * 128.0f) / 128.0f : part;
    }
    Resampling top(left, weight), bottom(left, weight);
    for (Resampling* row : {&top, &bottom}) {
      row->line.fill(random);
      for (auto& empty : row->empty) empty = random.one_in(5);
      row->run();
    }
    const float down = is_short ? static_cast<float>(random.below(128)) / 128.0f : a_weight(random);
    for (int i = 0; i < count; ++i)
      for (Resampling* row : {&top, &bottom})
        if (row->empty[static_cast<std::size_t>(i / kBlock)])
          for (int c = 0; c < 3; ++c) {
            float& value = row->values[static_cast<std::size_t>(c * count + i)];
            expect(value == Resampling::kUntouched, "resample_row leaves empty blocks");
            value = static_cast<float>(kFill);
          }
    Row out(count);
    std::vector<std::int32_t> doubtful(3 * columns);
    const int found = blend_rows(top.values.data(), bottom.values.data(), count, down, count,
                                 is_short ? 0.0f : 1.0f / 8192.0f, out.planes(), doubtful.data());
    doubtful.resize(static_cast<std::size_t>(found));
    doubts += found, bytes += 3 * count;
    for (int i = 0; i < count; ++i) {
      if (std::find(doubtful.begin(), doubtful.end(), i) != doubtful.end()) continue;
      for (int c = 0; c < 3; ++c) {
        std::int32_t p[4];
        for (int k = 0; k < 4; ++k) {
          Resampling& row = k < 2 ? top : bottom;
          p[k] = row.empty[static_cast<std::size_t>(i / kBlock)] ? kFill : row.byte(c, i, k % 2);
        }
        expect(out.at(c, i) ==
                   interpolate(p[0], p[1], p[2], p[3], weight[static_cast<std::size_t>(i)], down),
               "blend_rows of resample_row");
      }
    }
  }
  expect(allowance() > 0 ? doubts * 200 < bytes : doubts == 0, "few bytes are doubtful");
}

// All pairs of bytes, blended down.
void check_blends_of_all_pairs(Random& random) {
  std::vector<float> top(3 * kPairs), bottom(3 * kPairs);
  for (std::size_t i = 0; i < top.size(); ++i) {
    const std::size_t pair = i % kPairs;
    top[i] = static_cast<float>(pair >> 8), bottom[i] = static_cast<float>(pair & 255u);
  }
  std::vector<std::int32_t> doubtful(3 * kPairs);
  for (int turn = 0; turn < 12; ++turn) {
    const float weight = a_weight(random);
    Row out(kPairs);
    const int found = blend_rows(top.data(), bottom.data(), kPairs, weight, kPairs, 1.0f / 8192.0f,
                                 out.planes(), doubtful.data());
    std::vector<bool> in_doubt(kPairs);
    for (int i = 0; i < found; ++i)
      in_doubt[static_cast<std::size_t>(doubtful[static_cast<std::size_t>(i)])] = true;
    for (int i = 0; i < kPairs; ++i)
      for (int c = 0; c < 3; ++c)
        expect(in_doubt[static_cast<std::size_t>(i)] ||
                   out.at(c, i) == round_int(blend(static_cast<float>(i >> 8),
                                                   static_cast<float>(i & 255), weight)),
               "blend_rows: all pairs");
  }
}

// Points of an image that ends two bytes past the last pixel that is looked at: anywhere, or next
// to each other on a line of any direction.
void check_interpolation(Random& random) {
  for (int turn = 0; turn < 600; ++turn) {
    const int width = random.from(2, 90), height = random.from(2, 40), count = random.from(1, 700);
    const auto stride = static_cast<std::int64_t>(3 * width);
    std::vector<std::int32_t> x(static_cast<std::size_t>(count)), y(x);
    std::vector<float> wx(x.size()), wy(x.size());
    const bool is_line = !random.one_in(4), is_exact = random.one_in(2);
    const float steep = random.one_in(3) ? 2.0f : 0.2f;
    const float across = random.real(-2.5f, 2.5f), down = random.real(-steep, steep);
    std::int64_t last = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = random.below(width - 1), y[i] = random.below(height - 1);
      if (is_line) {  // from the point where it begins, and again where it leaves the image
        const auto past = static_cast<float>(i % 40);
        const auto at = [past](std::int32_t from, float step, int size) {
          return std::clamp(from + static_cast<std::int32_t>(std::floor(step * past)), 0, size - 2);
        };
        x[i] = at(x[i / 40 * 40], across, width), y[i] = at(y[i / 40 * 40], down, height);
      }
      wx[i] = is_exact ? a_short_weight(random) : a_weight(random), wy[i] = a_weight(random);
      last = std::max(last, (y[i] + 1) * stride + 3 * (x[i] + 1));
    }
    Guarded<std::uint8_t> image(static_cast<std::size_t>(last + 3 + 2));
    for (auto& byte : image) byte = random.byte();
    Row out(whole_blocks(count));
    interpolate_run(image.data(), stride, {x.data(), y.data(), wx.data(), wy.data()}, count,
                    random.from(-9999, 9999), out.planes());
    for (int i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const std::uint8_t* const p = image.data() + y[at] * stride + 3 * x[at];
      const Rgb pixel = interpolate(p, p + stride, wx[at], wy[at]);
      expect(out.at(0, i) == pixel.r && out.at(1, i) == pixel.g && out.at(2, i) == pixel.b,
             "interpolate_run");
    }
  }
}

void check_find_end(Random& random) {
  const auto coordinate = [&] {
    return random.one_in(9) ? static_cast<std::int32_t>(random.next()) : random.from(-3, 9);
  };
  for (int turn = 0; turn < 20000; ++turn) {
    const int count = random.from(1, 70), first = random.below(count);
    Guarded<std::int32_t> x(static_cast<std::size_t>(whole_blocks(count) + kBlock));
    Guarded<std::int32_t> y(x.size());
    Region region{coordinate(), coordinate(), coordinate(), coordinate(), 0};
    if (region.x1 > region.x2) std::swap(region.x1, region.x2);
    if (region.y1 > region.y2) std::swap(region.y1, region.y2);
    const bool is_full = random.one_in(2);  // mostly inside
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = is_full && !random.one_in(40) ? region.x1 : coordinate();
      y[i] = is_full && !random.one_in(40) ? region.y1 : coordinate();
    }
    int end = first;
    for (; end < count; ++end) {
      const auto at = static_cast<std::size_t>(end);
      if (x[at] < region.x1 || x[at] >= region.x2 || y[at] < region.y1 || y[at] >= region.y2) break;
    }
    expect(find_end({x.data(), y.data(), nullptr, nullptr}, first, count, region) == end,
           "find_end");
  }
}

void check_map(Random& random) {
  for (int turn = 0; turn < 400; ++turn) {
    Layer layer{};
    layer.width = random.from(1, 1500), layer.height = random.from(1, 1500);
    layer.perspective = random.one_in(2);
    for (int k = 0; k < 6; ++k) layer.inverse[k] = random.real(-2.0f, 2.0f);
    for (const int k : {2, 5}) layer.inverse[k] *= 300.0f;
    layer.inverse[6] = random.real(-0.01f, 0.01f), layer.inverse[7] = random.real(-0.01f, 0.01f);
    layer.inverse[8] = random.one_in(4) ? 0.0f : 1.0f;
    if (random.one_in(10)) layer.inverse[random.below(9)] = 3e38f;
    if (random.one_in(10)) layer.inverse[6] = layer.inverse[7] = layer.inverse[8] = 0;
    if (!layer.perspective) layer.inverse[6] = layer.inverse[7] = 0, layer.inverse[8] = 1;
    const int count = random.from(1, 200), from = random.below(700), row = random.below(700);
    const int step = random.one_in(2) ? 1 : -1;
    const auto columns = static_cast<std::size_t>(whole_blocks(count));
    Guarded<std::int32_t> x(columns), y(columns);
    Guarded<float> wx(columns), wy(columns);
    map_row(layer, from, row, step, count, {x.data(), y.data(), wx.data(), wy.data()});
    for (int i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(i);
      const Point point = to_canvas(layer, from + i * step, row);
      if (!touches(layer, point)) {  // not even at the canvas, or at -1 with a weight of nothing
        const bool left = x[at] < -1 || (x[at] == -1 && wx[at] == 0.0f);
        const bool above = y[at] < -1 || (y[at] == -1 && wy[at] == 0.0f);
        expect(left || above || x[at] >= layer.width || y[at] >= layer.height, "map_row: outside");
        continue;
      }
      const auto [column, across] = between(point.x);
      const auto [row_number, down] = between(point.y);
      expect(x[at] == column && wx[at] == across && y[at] == row_number && wy[at] == down,
             "map_row");
    }
  }
}

void check_mix(Random& random) {
  Row row(kPairs), other(kPairs);
  for (int turn = 0; turn < 40; ++turn) {
    // Ratios whose rest is rounded: only then do equal bytes not always give themselves.
    const double ratio = turn < 4 ? turn / 3.0 : random.unit() * std::sqrt(random.unit() * 0.5);
    for (int c = 0; c < 3; ++c)
      for (int i = 0; i < kPairs; ++i) {
        row.at(c, i) = static_cast<std::uint8_t>(i >> 8);
        other.at(c, i) = static_cast<std::uint8_t>(i);
      }
    mix_rows(row.planes(), other.planes(), find_mixing(ratio), kPairs);
    for (int c = 0; c < 3; ++c)
      for (int i = 0; i < kPairs; ++i)
        expect(row.at(c, i) == mix(i >> 8, i & 255, ratio), "mix_rows: all pairs");
  }
}

HsvJitter a_jitter(Random& random) {
  HsvJitter hsv{};
  hsv.enabled = 1;
  hsv.hue_shift = random.below(180);
  hsv.saturation = random.one_in(8) ? 0.0f : random.real(0.0f, 2.0f);
  hsv.value = random.one_in(8) ? 1e6f : random.real(0.0f, 2.0f);
  return hsv;
}

// Colours number `first`, `first + step`, ... of all 2^24, and stretches of fill.
void check_jitter(Random& random, const HsvJitter& hsv, int first, int step) {
  constexpr int kColours = 1 << 24, kBlocks = 24;
  Row row(kBlock * (kBlocks + 1));  // with the room that jitter_row may overwrite
  const ColourJitter prepared(hsv);
  std::vector<Rgb> given(kBlock * kBlocks);
  for (int colour = first; colour < kColours;) {
    const int begin = kBlock * random.below(kBlocks), end = kBlock * kBlocks;
    bool is_fill = false;
    for (int i = begin; i < end; ++i) {
      if (i % kBlock == 0) is_fill = random.one_in(6);
      Rgb& pixel = given[static_cast<std::size_t>(i)];
      pixel = {colour >> 16 & 255, colour >> 8 & 255, colour & 255};
      if (is_fill) pixel = {kFill, kFill, kFill};
      if (!is_fill) colour += step;
      row.at(0, i) = static_cast<std::uint8_t>(pixel.r);
      row.at(1, i) = static_cast<std::uint8_t>(pixel.g);
      row.at(2, i) = static_cast<std::uint8_t>(pixel.b);
    }
    jitter_row(prepared, row.planes().from(begin), end - begin);
    for (int i = begin; i < end; ++i) {
      const Rgb pixel = jitter(hsv, given[static_cast<std::size_t>(i)]);
      expect(row.at(0, i) == pixel.r && row.at(1, i) == pixel.g && row.at(2, i) == pixel.b,
             "jitter_row");
    }
  }
}

void check_jitters(Random& random) {
  check_jitter(random, a_jitter(random), 0, 1);
  HsvJitter with_tables = a_jitter(random);  // see Note [gains in 16 bits]
  with_tables.saturation = 1.3f;
  with_tables.value = 300.0f;
  expect(ColourJitter(with_tables).saturation.is_table, "a gain that needs its table");
  check_jitter(random, with_tables, 0, 97);
  for (int turn = 0; turn < 180; ++turn) {  // every turn of the hue
    HsvJitter hsv = a_jitter(random);
    hsv.hue_shift = turn;
    check_jitter(random, hsv, random.below(499), 499);
  }
}

void check_store(Random& random) {
  for (int offset = 0; offset < 70; ++offset)
    for (int count = 0; count < 150; count += 1 + random.below(3)) {
      Guarded<std::uint8_t> channel(static_cast<std::size_t>(count));
      for (auto& byte : channel) byte = random.byte();
      alignas(64) std::uint8_t picture[256];
      std::memset(picture, 77, sizeof picture);
      store_row(channel.data(), count, picture + offset);
      finish_picture();
      for (int i = 0; i < 256; ++i) {
        const bool inside = i >= offset && i < offset + count;
        expect(picture[i] == (inside ? channel[static_cast<std::size_t>(i - offset)] : 77),
               "store_row");
      }
    }
}

}  // namespace

int main() {
  Random random(17);
  check_arithmetic();
  check_splits(random);
  check_resampling_of_all_pairs(random);
  check_blends(random);
  check_blends_of_all_pairs(random);
  check_interpolation(random);
  check_find_end(random);
  check_map(random);
  check_mix(random);
  check_jitters(random);
  check_store(random);
  std::printf("%s: every loop gives shade.h's bytes\n", name_of(instruction_set()));
}
