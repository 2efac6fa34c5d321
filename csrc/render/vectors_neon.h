// Vectors of 16 bytes for jitter_loop.h: arm64, of which every processor has NEON.
#pragma once

#include <arm_neon.h>

#include <cstdint>

#include "render/byte_map.h"

namespace yolodata {
namespace {

class Neon {
 public:
  static constexpr int kBytes = 16;
  static constexpr bool kHasTables = false;
  using Bytes = uint8x16_t;
  using Words = uint16x8_t;
  using Mask = uint8x16_t;  // all bits of bytes
  struct Two {
    Words low, high;  // of the first eight pixels, and of the others
  };
  struct Reals {
    float32x4_t low, high;  // of eight words
  };
  struct Map {
    std::uint16_t whole, part;
  };

  static Bytes load(const std::uint8_t* bytes) { return vld1q_u8(bytes); }
  static void store(std::uint8_t* bytes, Bytes value) { vst1q_u8(bytes, value); }
  static Bytes zero() { return vdupq_n_u8(0); }
  template <int kByte>
  static Bytes bytes() {
    return vdupq_n_u8(kByte & 255);
  }
  template <int kWord>
  static Words words() {
    return words(kWord);
  }
  static Words words(int word) { return vdupq_n_u16(static_cast<std::uint16_t>(word)); }

  static Bytes max(Bytes a, Bytes b) { return vmaxq_u8(a, b); }
  static Bytes min(Bytes a, Bytes b) { return vminq_u8(a, b); }
  static Bytes subtract(Bytes a, Bytes b) { return vsubq_u8(a, b); }
  static bool all_zero(Bytes a) { return vmaxvq_u8(a) == 0; }
  template <int kBits>
  static Bytes shift(Bytes a) {
    return vshlq_n_u8(a, kBits);
  }

  static Mask equal(Bytes a, Bytes b) { return vceqq_u8(a, b); }
  template <int kLimit>
  static Mask at_least(Bytes a) {
    return vcgeq_u8(a, bytes<kLimit>());
  }
  static Mask differ(Mask a, Mask b) { return veorq_u8(a, b); }
  static Bytes select(Mask mask, Bytes yes, Bytes no) { return vbslq_u8(mask, yes, no); }
  static Bytes keep(Mask mask, Bytes a) { return vandq_u8(a, mask); }
  static Bytes drop(Mask mask, Bytes a) { return vbicq_u8(a, mask); }

  static Two widen(Bytes a) { return {vmovl_u8(vget_low_u8(a)), vmovl_high_u8(a)}; }
  static Two zip(Bytes a, Bytes b) {
    return {vreinterpretq_u16_u8(vzip1q_u8(a, b)), vreinterpretq_u16_u8(vzip2q_u8(a, b))};
  }
  // Of signed words; those beyond a byte become the nearest one.
  static Bytes pack(Two a) {
    return vqmovun_high_s16(vqmovun_s16(vreinterpretq_s16_u16(a.low)),
                            vreinterpretq_s16_u16(a.high));
  }
  // Sums of two products each, of bytes of `a` with signed ones.
  static Two pairs(Two a, Two b) { return {pairs(a.low, b.low), pairs(a.high, b.high)}; }
  static Two pairs(Two a, Bytes b) {
    const Words both = vreinterpretq_u16_u8(b);
    return pairs(a, {both, both});
  }
  static Words add(Words a, Words b) { return vaddq_u16(a, b); }
  static Words min_words(Words a, Words b) { return vminq_u16(a, b); }
  template <int kBits>
  static Words shift_right(Words a) {
    return vshrq_n_u16(a, kBits);
  }
  static Words high_product(Words a, Words b) {
    return upper(vmull_u16(vget_low_u16(a), vget_low_u16(b)), vmull_high_u16(a, b));
  }
  static Words rounded_high_product(Words a, Words b) {
    return vreinterpretq_u16_s16(vqrdmulhq_s16(vreinterpretq_s16_u16(a), vreinterpretq_s16_u16(b)));
  }

  // See Note [gains in 16 bits]. A gain that needs its table is 1 here.
  static Map prepare(const ByteMap& map) {
    return {static_cast<std::uint16_t>(map.is_table ? 1 : map.whole),
            static_cast<std::uint16_t>(map.is_table ? 0 : map.part)};
  }
  static Bytes map(Two a, const Map& map) {
    const auto raised = [&map](Words word) {
      const Words part =
          upper(vmull_n_u16(vget_low_u16(word), map.part), vmull_high_n_u16(word, map.part));
      return vmlaq_n_u16(part, word, map.whole);
    };
    return pack({raised(a.low), raised(a.high)});  // which cuts off at 255
  }

  // kNumerator / a, rounded; anything for 0.
  template <int kNumerator>
  static Two reciprocals(Bytes a) {
    const Two words = widen(max(a, bytes<1>()));
    return {quotients<kNumerator>(words.low), quotients<kNumerator>(words.high)};
  }

  static Reals unit(Words a) { return times(a, 1.0f / 255.0f); }
  static Reals sixths(Words a) { return times(a, 6.0f / 180.0f); }
  static Reals upper_halves(Words a) {
    return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(a), 16)),
            vreinterpretq_f32_u32(vshll_high_n_u16(a, 16))};
  }
  static Reals distance(Reals a, Reals b) {
    return {vabdq_f32(a.low, b.low), vabdq_f32(a.high, b.high)};
  }
  static Reals one_less(Reals a) {
    const float32x4_t one = vdupq_n_f32(1.0f);
    return {vsubq_f32(one, a.low), vsubq_f32(one, a.high)};
  }
  static Reals one_less(Reals a, Reals b) {  // 1 - a * b, rounded once
    const float32x4_t one = vdupq_n_f32(1.0f);
    return {vfmsq_f32(one, a.low, b.low), vfmsq_f32(one, a.high, b.high)};
  }
  // a * b * 255
  static Reals bytes_of(Reals a, Reals b) {
    return {vmulq_n_f32(vmulq_f32(a.low, b.low), 255.0f),
            vmulq_n_f32(vmulq_f32(a.high, b.high), 255.0f)};
  }
  // The whole parts of numbers below 256.
  static Bytes truncate(Reals low, Reals high) {
    return vuzp1q_u8(vreinterpretq_u8_u16(truncated(low)), vreinterpretq_u8_u16(truncated(high)));
  }

 private:
  static Words lower(uint32x4_t a, uint32x4_t b) {  // halves of dwords
    return vuzp1q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b));
  }
  static Words upper(uint32x4_t a, uint32x4_t b) {
    return vuzp2q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b));
  }
  static Words truncated(Reals a) { return lower(vcvtq_u32_f32(a.low), vcvtq_u32_f32(a.high)); }

  static Words pairs(Words a, Words b) {
    const int16x8_t even = vreinterpretq_s16_u16(vandq_u16(a, words(255)));
    const int16x8_t odd = vreinterpretq_s16_u16(vshrq_n_u16(a, 8));
    const int16x8_t by = vreinterpretq_s16_u16(b);
    const int16x8_t by_even = vshrq_n_s16(vshlq_n_s16(by, 8), 8), by_odd = vshrq_n_s16(by, 8);
    return vreinterpretq_u16_s16(vmlaq_s16(vmulq_s16(even, by_even), odd, by_odd));
  }

  static Reals reals(Words a) {
    return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(a))), vcvtq_f32_u32(vmovl_high_u16(a))};
  }
  static Reals times(Words a, float factor) {
    const Reals real = reals(a);
    return {vmulq_n_f32(real.low, factor), vmulq_n_f32(real.high, factor)};
  }

  // One division for two: kNumerator / (a * b), times b or a. See shade.h for why that suffices.
  template <int kNumerator>
  static Words quotients(Words a) {
    const Reals real = reals(a);
    const float32x4_t both =
        vdivq_f32(vdupq_n_f32(static_cast<float>(kNumerator)), vmulq_f32(real.low, real.high));
    const float32x4_t whole = vdupq_n_f32(kWhole);  // 16 bits of the sums are used
    return lower(vreinterpretq_u32_f32(vfmaq_f32(whole, both, real.high)),
                 vreinterpretq_u32_f32(vfmaq_f32(whole, both, real.low)));
  }
};

}  // namespace
}  // namespace yolodata
