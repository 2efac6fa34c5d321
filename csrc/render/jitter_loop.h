// The colour jitter on vectors of bytes, once for all instruction sets. V is a class of
// vectors_*.h: its vectors of bytes, of 16-bit words and of floats, and what a processor does with
// them.
#pragma once

#include <cstdint>

#include "render/colour_jitter.h"

namespace yolodata {

// jitter() of shade.h, in two steps over many pixels with bytes of hue, saturation and value in
// between: in one they are a chain of operations so long that a processor sees the next pixels too
// late to work on them meanwhile.
//
// Note [hue and saturation in 16 bits]. shade.h multiplies with reciprocals of 12 fractional bits
// and rounds: (number * reciprocal + 2048) >> 12.
// Hue: 8 * number is below 2^15, and so is the reciprocal of a range of 4 or more. The rounded high
// product of V, (8 * number * reciprocal + 2^14) >> 15, is the same. Ranges below 4 have
// reciprocals without a rounding error, so four times the range and four times the number give the
// same. Saturation: the reciprocal of a value of 16 or more has 16 bits, and high words of products
// are rounded down to four fractional bits, which does not change what is rounded later. Values
// below 16 are so small that the rounding of the reciprocal cannot be seen: sixteen times the value
// and the range give the same. tests/test_native.py compares all 2^24 colours.
template <typename V>
class JitterLoop {
  using Bytes = typename V::Bytes;
  using Words = typename V::Words;
  using Two = typename V::Two;
  using Reals = typename V::Reals;

 public:
  static constexpr int kMost = 640;  // columns at a time; whole vectors of all widths

  explicit JitterLoop(const ColourJitter& jitter)
      : jitter_(jitter),
        saturation_(V::prepare(jitter.saturation)),
        value_(V::prepare(jitter.value)),
        // Hues are then -180..179, and only negative ones have to be turned.
        turn_(V::words(jitter.hsv.hue_shift < 30 ? jitter.hsv.hue_shift
                                                 : jitter.hsv.hue_shift - 180)) {}

  void run(const Planes& row, int count) {
    for (int begin = 0; begin < count; begin += kMost) {
      const int most = smaller(count - begin, kMost);
      const Planes at = row.from(begin);
      for (int i = 0; i < most; i += V::kBytes) to_hsv(at.from(i), i);
      if (!V::kHasTables) look_up(most);
      for (int i = 0; i < most; i += V::kBytes) from_hsv(at.from(i), i);
    }
  }

 private:
  void to_hsv(const Planes& row, int at) {
    const Bytes red = V::load(row.channel[0]), green = V::load(row.channel[1]);
    const Bytes blue = V::load(row.channel[2]);
    const Bytes top = V::max(V::max(red, green), blue);
    const Bytes range = V::subtract(top, V::min(V::min(red, green), blue));
    V::store(values_ + at, V::map(V::widen(top), value_));
    if (V::all_zero(range)) {  // fill, and pictures without colour
      V::store(saturations_ + at, V::zero());
      return;
    }
    const auto is_red = V::equal(top, red), is_green = V::equal(top, green);
    // The hue's numerator is one channel less another, plus twice or four times the range.
    const Bytes more = V::select(is_red, green, V::select(is_green, blue, red));
    const Bytes less = V::select(is_red, blue, V::select(is_green, red, green));
    const auto is_narrow = V::equal(V::min(range, V::template bytes<3>()), range);
    const Bytes wide = V::max(range, V::template shift<2>(V::keep(is_narrow, range)));
    const Bytes past_red = V::drop(is_red, wide), past_green = V::drop(is_green, past_red);
    const Bytes plus = V::select(is_narrow, V::template bytes<32>(), V::template bytes<8>());
    const Bytes minus = V::select(is_narrow, V::template bytes<-32>(), V::template bytes<-8>());
    const Two differences = V::pairs(V::zip(more, less), V::zip(plus, minus));
    const Two sectors = V::pairs(V::zip(past_red, past_green), V::template bytes<16>());
    const Two by_range = V::template reciprocals<kHueNumerator>(wide);
    const auto turned = [this](Words difference, Words sector, Words reciprocal) {
      const Words place = V::add(difference, sector);
      const Words hue = V::add(V::rounded_high_product(place, reciprocal), turn_);
      // As unsigned numbers, negative ones are large.
      return V::min_words(hue, V::add(hue, V::template words<180>()));
    };
    V::store(hues_ + at, V::pack({turned(differences.low, sectors.low, by_range.low),
                                  turned(differences.high, sectors.high, by_range.high)}));

    const auto is_dark = V::equal(V::min(top, V::template bytes<15>()), top);
    const Bytes bright = V::max(top, V::template shift<4>(V::keep(is_dark, top)));
    const Bytes share = V::max(range, V::template shift<4>(V::keep(is_dark, range)));
    const Two by_value = V::template reciprocals<kSaturationNumerator>(bright);
    const Two shares = V::zip(V::zero(), share);  // times 256
    V::store(saturations_ + at,
             V::map({rounded(shares.low, by_value.low), rounded(shares.high, by_value.high)},
                    saturation_));
  }

  void from_hsv(const Planes& row, int at) const {
    const Bytes saturation = V::load(saturations_ + at), value = V::load(values_ + at);
    if (V::all_zero(saturation)) {
      for (std::uint8_t* channel : row.channel) V::store(channel, value);
      return;
    }
    const Bytes hue = V::load(hues_ + at);
    const auto from_60 = V::template at_least<60>(hue), from_120 = V::template at_least<120>(hue);
    // The upper halves of 1.0f, 3.0f, 5.0f: the odd number of sixths next to the hue.
    const Bytes odd_low =
        V::select(from_120, V::template bytes<0xA0>(),
                  V::select(from_60, V::template bytes<0x40>(), V::template bytes<0x80>()));
    const Bytes odd_high = V::select(from_60, V::template bytes<0x40>(), V::template bytes<0x3F>());
    const Two hues = V::widen(hue), saturations = V::widen(saturation), values = V::widen(value);
    const Two odds = V::zip(odd_low, odd_high);
    const auto [first_low, first_middle] =
        channels(hues.low, saturations.low, values.low, odds.low);
    const auto [second_low, second_middle] =
        channels(hues.high, saturations.high, values.high, odds.high);
    const Bytes low = V::truncate(first_low, second_low);
    const Bytes middle = V::truncate(first_middle, second_middle);
    // By sector of 30 hues, red is top, middle, low, low, middle, top; green is the same two
    // sectors later, and blue another two. Between two limits one of two comparisons holds.
    const auto from_30 = V::template at_least<30>(hue), from_90 = V::template at_least<90>(hue);
    const auto from_150 = V::template at_least<150>(hue);
    V::store(row.channel[0],
             V::select(V::differ(from_30, from_150),
                       V::select(V::differ(from_60, from_120), low, middle), value));
    V::store(row.channel[1],
             V::select(V::differ(from_30, from_90), value, V::select(from_120, low, middle)));
    V::store(row.channel[2],
             V::select(V::differ(from_90, from_150), value, V::select(from_60, middle, low)));
  }

  static Words rounded(Words number, Words reciprocal) {
    return V::template shift_right<4>(
        V::add(V::high_product(number, reciprocal), V::template words<8>()));
  }

  struct Channels {
    Reals low, middle;
  };

  // The share is the distance from the odd number next to `sixths`, with shade.h's rounding: sixths
  // less the number of a sector is exact.
  static Channels channels(Words hue, Words saturation_byte, Words value_byte, Words odd) {
    const Reals value = V::unit(value_byte), saturation = V::unit(saturation_byte);
    const Reals share = V::distance(V::sixths(hue), V::upper_halves(odd));
    return {V::bytes_of(value, V::one_less(saturation)),
            V::bytes_of(value, V::one_less(saturation, share))};
  }

  // See Note [gains in 16 bits].
  void look_up(int count) {
    for (int i = 0; jitter_.saturation.is_table && i < count; ++i)
      saturations_[i] = jitter_.saturation.table[saturations_[i]];
    for (int i = 0; jitter_.value.is_table && i < count; ++i)
      values_[i] = jitter_.value.table[values_[i]];
  }

  const ColourJitter& jitter_;
  typename V::Map saturation_, value_;
  Words turn_;
  alignas(64) std::uint8_t hues_[kMost], saturations_[kMost], values_[kMost];
};

}  // namespace yolodata
