// The loops of row_ops.cpp for arm64, written out where compilers do badly. vfmaq is `fused` of
// shade.h, vcvtn its round_int.
#if defined(__aarch64__)

#include "render/row_ops_neon.h"

#include <arm_neon.h>

#include <cstring>

namespace yolodata::neon {
namespace {

inline float32x4_t blend(float32x4_t a, float32x4_t b, float32x4_t weight) {
  return vfmaq_f32(a, weight, vsubq_f32(b, a));
}

// The low bytes of sixteen numbers.
inline uint8x16_t low_bytes(const uint32x4_t (&part)[4]) {
  const auto low_halves = [](uint32x4_t a, uint32x4_t b) {
    return vuzp1q_u16(vreinterpretq_u16_u32(a), vreinterpretq_u16_u32(b));
  };
  return vuzp1q_u8(vreinterpretq_u8_u16(low_halves(part[0], part[1])),
                   vreinterpretq_u8_u16(low_halves(part[2], part[3])));
}

// How resample_row gets the neighbours of four columns, each as a dword with the left one in its
// low byte and the right one 16 bits up.
struct Together {  // from a register with all of them; numbers beyond its sixteen pick a zero
  static uint32x4_t load(const std::uint8_t* bytes, const Columns& columns, int i) {
    const uint8x16_t around = vld1q_u8(bytes + columns.start[i / 4]);
    return vreinterpretq_u32_u8(vqtbl1q_u8(around, vld1q_u8(columns.picks + 4 * i)));
  }
};

struct Apart {
  static uint32x4_t load(const std::uint8_t* bytes, const Columns& columns, int i) {
    std::uint64_t pairs = 0;
    for (int k = 0; k < 4; ++k) {
      std::uint16_t pair;
      std::memcpy(&pair, bytes + columns.left[i + k], sizeof pair);
      pairs |= std::uint64_t{pair} << 16 * k;
    }
    return vreinterpretq_u32_u16(vmovl_u8(vcreate_u8(pairs)));
  }
};

template <typename How>
void resample_row_by(const Planes& line, const Columns& given, const std::uint8_t* empty,
                     float* out) {
  const Columns columns = given;  // as in map_row
  const uint32x4_t lefts = vdupq_n_u32(0xffff);
  for (int i = 0; i < columns.count; i += 4) {
    if (i % kBlock == 0 && *empty++) {
      i += kBlock - 4;
      continue;
    }
    const float32x4_t weight = vld1q_f32(columns.weight + i);
    uint32x4_t pairs[3];  // of all channels, before a store that might have changed them
    for (int c = 0; c < 3; ++c) pairs[c] = How::load(line.channel[c], columns, i);
    for (int c = 0; c < 3; ++c)
      vst1q_f32(out + c * columns.count + i,
                blend(vcvtq_f32_u32(vandq_u32(pairs[c], lefts)),
                      vcvtq_f32_u32(vshrq_n_u32(pairs[c], 16)), weight));
  }
}

}  // namespace

int resample_row(const Planes& line, const Columns& columns, const std::uint8_t* empty,
                 float* out) {
  if (columns.together == Columns::kApart)
    resample_row_by<Apart>(line, columns, empty, out);
  else
    resample_row_by<Together>(line, columns, empty, out);
  return columns.count;
}

int blend_rows(const float* top, const float* bottom, std::ptrdiff_t apart, float weight, int count,
               const Planes& out) {
  const float32x4_t down = vdupq_n_f32(weight);
  for (int c = 0; c < 3; ++c, top += apart, bottom += apart)
    for (int i = 0; i < count; i += 16) {
      uint32x4_t part[4];
      for (int k = 0; k < 4; ++k)
        part[k] =
            vcvtnq_u32_f32(blend(vld1q_f32(top + i + 4 * k), vld1q_f32(bottom + i + 4 * k), down));
      vst1q_u8(out.channel[c] + i, low_bytes(part));
    }
  return count;
}

int find_end(const Points& points, int first, int count, const Region& region) {
  // One comparison of unsigned numbers sees both ends of a range.
  const auto x1 = static_cast<std::uint32_t>(region.x1), y1 = static_cast<std::uint32_t>(region.y1);
  const uint32x4_t from_x = vdupq_n_u32(x1), from_y = vdupq_n_u32(y1);
  const uint32x4_t width = vdupq_n_u32(static_cast<std::uint32_t>(region.x2) - x1);
  const uint32x4_t height = vdupq_n_u32(static_cast<std::uint32_t>(region.y2) - y1);
  for (int i = first; i < count; i += 4) {
    const uint32x4_t x = vsubq_u32(vreinterpretq_u32_s32(vld1q_s32(points.x + i)), from_x);
    const uint32x4_t y = vsubq_u32(vreinterpretq_u32_s32(vld1q_s32(points.y + i)), from_y);
    const uint32x4_t inside = vandq_u32(vcltq_u32(x, width), vcltq_u32(y, height));
    const std::uint64_t outside = ~vget_lane_u64(vreinterpret_u64_u16(vmovn_u32(inside)), 0);
    if (outside == 0) continue;
    const int end = i + __builtin_ctzll(outside) / 16;
    return end < count ? end : count;
  }
  return count;
}

// Eight bytes hold a pixel and its right neighbour; those of both rows are in a register. Each of
// the four pixels becomes three floats, and a zero.
int interpolate_run(const std::uint8_t* image, std::int64_t stride, const Points& points, int count,
                    std::int64_t prefetch, const Planes& out) {
  constexpr std::uint8_t kNone = 255;
  const auto from = [](std::uint8_t first_byte) {
    std::uint8_t picks[16];
    for (int k = 0; k < 16; ++k)
      picks[k] = k % 4 == 0 && k < 12 ? static_cast<std::uint8_t>(first_byte + k / 4) : kNone;
    return vld1q_u8(picks);
  };
  const uint8x16_t top_left = from(0), top_right = from(3), left = from(8), right = from(11);
  constexpr std::uint8_t kByChannel[16] = {0, 4, 8,  12, 1, 5, 9,  13,  //
                                           2, 6, 10, 14, 3, 7, 11, 15};
  const uint8x16_t by_channel = vld1q_u8(kByChannel);
  const Points at = points;  // as in map_row
  const Planes to = out;
  for (int i = 0; i < count; i += 4) {
    uint32x4_t values[4];
    for (int k = 0; k < 4; ++k) {
      const int n = i + k < count ? i + k : count - 1;
      const std::uint8_t* const p = image + at.y[n] * stride + 3 * std::int64_t{at.x[n]};
      if (k == 0) __builtin_prefetch(p + prefetch);
      const uint8x16_t four = vcombine_u8(vld1_u8(p), vld1_u8(p + stride));
      const auto pixel = [four](uint8x16_t picks) {
        return vcvtq_f32_u32(vreinterpretq_u32_u8(vqtbl1q_u8(four, picks)));
      };
      const float32x4_t across = vdupq_n_f32(at.wx[n]);
      const float32x4_t top = blend(pixel(top_left), pixel(top_right), across);
      const float32x4_t bottom = blend(pixel(left), pixel(right), across);
      values[k] = vcvtnq_u32_f32(blend(top, bottom, vdupq_n_f32(at.wy[n])));
    }
    const uint32x4_t channels = vreinterpretq_u32_u8(vqtbl1q_u8(low_bytes(values), by_channel));
    const std::uint32_t reds = vgetq_lane_u32(channels, 0), greens = vgetq_lane_u32(channels, 1);
    const std::uint32_t blues = vgetq_lane_u32(channels, 2);
    std::memcpy(to.channel[0] + i, &reds, sizeof reds);
    std::memcpy(to.channel[1] + i, &greens, sizeof greens);
    std::memcpy(to.channel[2] + i, &blues, sizeof blues);
  }
  return count;
}

// See Note [mixing integers].
int mix_bytes(std::uint8_t* bytes, const std::uint8_t* others, const Mixing& mixing, int count) {
  if (mixing.share < 0) return 0;  // compilers do the doubles as well
  const std::int32_t share = mixing.share;
  const uint8x16x2_t below = vld1q_u8_x2(mixing.below);
  const auto blend = [share](int16x8_t difference, uint8x8_t b) {
    const int32x4_t low = vmulq_n_s32(vmovl_s16(vget_low_s16(difference)), share);
    const int32x4_t high = vmulq_n_s32(vmovl_high_s16(difference), share);
    const int16x8_t floor = vshrq_n_s16(
        vuzp2q_s16(vreinterpretq_s16_s32(low), vreinterpretq_s16_s32(high)), kMixingBits - 16);
    return vadd_u8(b, vmovn_u16(vreinterpretq_u16_s16(floor)));
  };
  for (int i = 0; i < count; i += 16) {
    const uint8x16_t a = vld1q_u8(bytes + i), b = vld1q_u8(others + i);
    const int16x8_t low = vreinterpretq_s16_u16(vsubl_u8(vget_low_u8(a), vget_low_u8(b)));
    const int16x8_t high = vreinterpretq_s16_u16(vsubl_high_u8(a, b));
    const uint8x16_t mixed = vcombine_u8(blend(low, vget_low_u8(b)), blend(high, vget_high_u8(b)));
    const uint8x16_t row = vsliq_n_u8(vandq_u8(a, vdupq_n_u8(15)), vshrq_n_u8(a, 7), 4);
    const uint8x16_t place = vandq_u8(vshrq_n_u8(a, 4), vdupq_n_u8(7));
    const uint8x16_t bit = vshlq_u8(vdupq_n_u8(1), vreinterpretq_s8_u8(place));
    const uint8x16_t falls = vtstq_u8(vqtbl2q_u8(below, row), bit);  // by one: -1
    vst1q_u8(bytes + i, vaddq_u8(mixed, vandq_u8(falls, vceqq_u8(a, b))));
  }
  return count;
}

}  // namespace yolodata::neon
#endif
