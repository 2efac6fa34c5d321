#include "render/row_ops.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/instruction_set.h"
#include "render/row_ops_avx2.h"
#include "render/row_ops_avx512.h"
#include "render/row_ops_neon.h"

namespace yolodata {

// Calls a loop that is written for the chosen instruction set, if there is one: YD_SIMD for all
// that there are, YD_X86 for those that compilers do as well for arm64.
#if defined(__x86_64__)
#define YD_X86(call)                                           \
  (instruction_set() == InstructionSet::kAvx512 ? avx512::call \
   : instruction_set() == InstructionSet::kAvx2 ? avx2::call   \
                                                : 0)
#define YD_SIMD(call) YD_X86(call)
#elif defined(__aarch64__)
#define YD_X86(call) 0
#define YD_SIMD(call) (instruction_set() == InstructionSet::kNeon ? neon::call : 0)
#else
#define YD_X86(call) 0
#define YD_SIMD(call) 0
#endif

void split_pixels(const std::uint8_t* pixels, int count, [[maybe_unused]] std::ptrdiff_t prefetch,
                  const Planes& out) {
  std::uint8_t* __restrict__ const red = out.channel[0];
  std::uint8_t* __restrict__ const green = out.channel[1];
  std::uint8_t* __restrict__ const blue = out.channel[2];
  for (int i = YD_X86(split_pixels(pixels, count, prefetch, out)); i < count; ++i) {
    red[i] = pixels[3 * i];
    green[i] = pixels[3 * i + 1];
    blue[i] = pixels[3 * i + 2];
  }
}

namespace {

// Whether all neighbours of `count` columns lie in `bytes` bytes, and where those start.
struct Group {
  bool fits;
  std::int32_t start;
};

Group group_of(const Columns& columns, int i, int count, std::int32_t bytes) {
  const std::int32_t* const first = columns.left + i / count * count;
  const auto [least, most] = std::minmax_element(first, first + count);
  return {*most - *least <= bytes - 2, *least};
}

}  // namespace

void find_picks(Columns& columns, std::int32_t* start, std::uint8_t* picks) {
  columns.start = start;
  columns.picks = picks;
  const bool wide = instruction_set() == InstructionSet::kAvx512;
  columns.together = wide ? Columns::kBySixteen : Columns::kByEight;
  for (int i = 0; i < columns.count; i += 4) {
    Group group = wide ? group_of(columns, i, 16, 64) : group_of(columns, i, 8, 16);
    if (!group.fits && !wide) {
      columns.together = std::min(columns.together, Columns::kByFour);
      group = group_of(columns, i, 4, 16);
    }
    if (!group.fits) columns.together = Columns::kApart;
    start[i / 4] = group.start;
    for (int k = i; k < i + 4; ++k) {
      constexpr std::uint8_t kNone = 128;
      const auto at = static_cast<std::uint8_t>(columns.left[k] - group.start);
      picks[4 * k] = at;
      picks[4 * k + 1] = kNone;
      picks[4 * k + 2] = static_cast<std::uint8_t>(at + 1);
      picks[4 * k + 3] = kNone;
    }
  }
}

void find_exact(Columns& columns, std::uint8_t* exact, std::uint32_t* weights) {
  constexpr std::int32_t kOne = 1 << 15;
  columns.exact = exact;
  columns.weights = weights;
  for (int i = 0; i < columns.count; i += kBlock) {
    bool all = true;
    for (int k = i; k < i + kBlock; ++k) {
      const float scaled = columns.weight[k] * static_cast<float>(kOne);
      const auto right = static_cast<std::int32_t>(scaled);
      all &= static_cast<float>(right) == scaled;
      weights[k] = (static_cast<std::uint32_t>(right - kOne) & 0xffffu) |
                   static_cast<std::uint32_t>(-right) << 16;
    }
    exact[i / kBlock] = all;
  }
}

void resample_row(const Planes& line, const Columns& columns, const std::uint8_t* empty,
                  float* out) {
  for (int i = YD_SIMD(resample_row(line, columns, empty, out)); i < columns.count; i += kBlock) {
    if (empty[i / kBlock]) continue;
    const std::int32_t* const left = columns.left + i;
    const float* const weight = columns.weight + i;
    for (int c = 0; c < 3; ++c) {
      float* const to = out + c * columns.count + i;
      std::uint8_t pairs[2 * kBlock];  // first what cannot be vectorised
      for (int k = 0; k < kBlock; ++k) std::memcpy(pairs + 2 * k, line.channel[c] + left[k], 2);
      for (int k = 0; k < kBlock; ++k) {
        const std::int32_t a = pairs[2 * k], b = pairs[2 * k + 1];
        to[k] = static_cast<float>(a) + weight[k] * static_cast<float>(b - a);
      }
    }
  }
}

int blend_rows(const float* top, const float* bottom, std::ptrdiff_t apart, float weight, int count,
               float tolerance, const Planes& out, std::int32_t* doubtful) {
  const float clear = 0.5f - tolerance;
  std::int32_t* const begin = doubtful;
  for (int i = YD_SIMD(blend_rows(top, bottom, apart, weight, count, out)); i < count; i += kBlock)
    for (int c = 0; c < 3; ++c) {
      const float* __restrict__ const a = top + c * apart + i;
      const float* __restrict__ const b = bottom + c * apart + i;
      std::uint8_t* __restrict__ const to = out.channel[c] + i;
      float off[kBlock];
      std::int32_t doubt = 0;
      for (int k = 0; k < kBlock; ++k) {
        const float value = a[k] + weight * (b[k] - a[k]);
        const float nearest = (value + kWhole) - kWhole;
        off[k] = std::abs(value - nearest);
        doubt |= off[k] > clear;
        to[k] = static_cast<std::uint8_t>(static_cast<std::int32_t>(nearest));
      }
      if (doubt == 0) continue;
      for (int k = 0; k < kBlock; ++k)
        if (off[k] > clear) *doubtful++ = i + k;
    }
  return static_cast<int>(doubtful - begin);
}

void map_row(const Layer& layer, std::int32_t x, std::int32_t y, std::int32_t step, int count,
             const Points& points) {
  const Layer local = layer;  // so that the compiler knows the stores below cannot change it
  std::int32_t* __restrict__ xs = points.x;
  std::int32_t* __restrict__ ys = points.y;
  float* __restrict__ wxs = points.wx;
  float* __restrict__ wys = points.wy;
  for (int i = YD_X86(map_row(layer, x, y, step, count, points)); i < count; ++i) {
    Point point = to_canvas(local, x + i * step, y);
    const bool inside = touches(local, point);
    point.x = inside ? point.x : static_cast<float>(kOutside);
    point.y = inside ? point.y : static_cast<float>(kOutside);
    const std::int32_t ix = floor_int(point.x), iy = floor_int(point.y);
    xs[i] = ix;
    ys[i] = iy;
    wxs[i] = point.x - static_cast<float>(ix);
    wys[i] = point.y - static_cast<float>(iy);
  }
}

int find_end(const Points& points, int first, int count, const Region& region) {
  const auto is_inside = [&](std::int32_t x, std::int32_t y) {
    return x >= region.x1 && x < region.x2 && y >= region.y1 && y < region.y2;
  };
  first = std::max(first, YD_SIMD(find_end(points, first, count, region)));
  while (first < count && is_inside(points.x[first], points.y[first])) ++first;
  return first;
}

void interpolate_run(const std::uint8_t* image, std::int64_t stride, const Points& points,
                     int count, [[maybe_unused]] std::int64_t prefetch, const Planes& out) {
  for (int i = YD_SIMD(interpolate_run(image, stride, points, count, prefetch, out)); i < count;
       ++i) {
    const std::uint8_t* p = image + points.y[i] * stride + 3 * std::int64_t{points.x[i]};
    const Rgb pixel = interpolate(p, p + stride, points.wx[i], points.wy[i]);
    out.channel[0][i] = static_cast<std::uint8_t>(pixel.r);
    out.channel[1][i] = static_cast<std::uint8_t>(pixel.g);
    out.channel[2][i] = static_cast<std::uint8_t>(pixel.b);
  }
}

// Note [mixing integers]. Byte a at ratio r and byte b at the rest make b + (a - b) r; doubles are
// wrong by less than 2^-43 then. So where (a - b) r is further from whole numbers, they are cut off
// to b and its floor, which an integer product finds if it does for all 510 differences. Equal
// bytes give themselves, or what doubles fall short of that.
Mixing find_mixing(double ratio) {
  constexpr double kSlack = 0x1p-40;
  Mixing mixing{ratio, -1, {}};
  if (!(ratio > 0 && ratio < 1)) return mixing;
  const auto share = static_cast<std::int32_t>(ratio * (1 << kMixingBits) + 0.5);
  if (share >> kMixingBits != 0) return mixing;
  for (std::int32_t difference = 1; difference < 256; ++difference) {
    const double product = difference * ratio;
    const auto whole = static_cast<std::int32_t>(product);
    const double past = product - whole;  // of the negative difference: one less this
    if (past < kSlack || past > 1 - kSlack || difference * share >> kMixingBits != whole ||
        -difference * share >> kMixingBits != -whole - 1)
      return mixing;
  }
  for (std::int32_t a = 0; a < 256; ++a)
    if (mix(a, a, ratio) != a)
      mixing.below[a % 16 + a / 128 * 16] |= static_cast<std::uint8_t>(1 << a / 16 % 8);
  mixing.share = share;
  return mixing;
}

void mix_rows(const Planes& row, const Planes& other, const Mixing& mixing, int count) {
  const double ratio = mixing.ratio;
  for (int c = 0; c < 3; ++c) {
    std::uint8_t* __restrict__ const bytes = row.channel[c];
    const std::uint8_t* __restrict__ const others = other.channel[c];
    for (int i = YD_SIMD(mix_bytes(bytes, others, mixing, count)); i < count; ++i)
      bytes[i] = static_cast<std::uint8_t>(mix(bytes[i], others[i], ratio));
  }
}

void store_row(const std::uint8_t* channel, int count, std::uint8_t* out) {
  const int done = YD_X86(store_row(channel, count, out));
  std::memcpy(out + done, channel + done, static_cast<std::size_t>(count - done));
}

void finish_picture() {
#if defined(__x86_64__)
  if (instruction_set() != InstructionSet::kPortable) avx2::finish();
#endif
}

}  // namespace yolodata
