// The loops of row_ops.h on vectors, once for all widths. V is a class of lanes_*.h: its vectors of
// floats and dwords, and what a processor does with them.
#pragma once

#include <cstdint>

#include "render/row_types.h"

namespace yolodata {
namespace {

// The next row is fetched to L1, and one so many rows further to L2, which waits for more lines of
// memory at a time than L1 can.
constexpr std::ptrdiff_t kRowsToL2 = 4;

// Of at least one vector of pixels.
template <typename V>
void split_pixels(const std::uint8_t* pixels, int count, std::ptrdiff_t prefetch,
                  const Planes& out) {
  constexpr int kLine = 64;  // bytes; as many pixels are three lines
  const Planes to = out;     // as in map_row
  for (int next = 0; next < count; next += V::kBytes) {
    const int i = next + V::kBytes > count ? count - V::kBytes : next;  // the last ones overlap
    const std::uint8_t* const p = pixels + 3 * i;
    if (next % kLine == 0)
      for (int line = 0; line < 3 * kLine; line += kLine) {
        __builtin_prefetch(p + prefetch + line);
        __builtin_prefetch(p + kRowsToL2 * prefetch + line, 0, 2);
      }
    V::split(p, to.from(i));
  }
}

// Note [exact blends]. Weights are often multiples of 2^-15: coordinates from 256 on have no finer
// parts. The blend of two bytes then has 23 bits, which a float holds, and so does the integer from
// which it is made: left * (1 - weight) + right * weight. Both weights are taken times -2^15,
// because 2^15 itself is too large for 16 bits. Otherwise the blend is made of floats, as in
// shade.h. A dword of `pairs` holds the left neighbour and, 16 bits up, the right one.
template <typename V>
struct Exact {
  using Weights = typename V::Dwords;
  static constexpr float kUnit = -1.0f / 32768.0f;  // of what `blend` returns
  static typename V::Floats blend(typename V::Dwords pairs, Weights weights) {
    return V::to_floats(V::add_products(pairs, weights));
  }
};

template <typename V>
struct Fused {
  using Weights = typename V::Floats;
  static constexpr float kUnit = 1.0f;
  static typename V::Floats blend(typename V::Dwords pairs, Weights weight) {
    const auto left = V::to_floats(V::bits_and(pairs, V::all(0xffff)));
    const auto rise = V::to_floats(V::add_products(pairs, V::all(0x0001ffff)));  // right less left
    return V::multiply_add(weight, rise, left);
  }
};

template <typename V>
typename V::Dwords weights_of(Exact<V>, const Columns& columns, int i) {
  return V::load(columns.weights + i);
}
template <typename V>
typename V::Floats weights_of(Fused<V>, const Columns& columns, int i) {
  return V::load(columns.weight + i);
}

// `How` gets the neighbours of a vector of columns, as bytes, and picks pairs from them.
template <typename V, typename How, typename Arithmetic>
void resample_block(const Planes& line, const Columns& columns, float* out) {
  const std::uint8_t *const red = line.channel[0], *const green = line.channel[1];
  const std::uint8_t* const blue = line.channel[2];
#pragma GCC unroll 4
  for (int i = 0; i < kBlock; i += V::kLanes) {
    const auto weights = weights_of(Arithmetic{}, columns, i);
    const auto picks = How::picks(columns, i);
    const auto blend = [&](typename V::Dwords bytes) {
      const auto blended = Arithmetic::blend(How::pick(bytes, picks), weights);
      return Arithmetic::kUnit == 1.0f ? blended : V::multiply(blended, V::all(Arithmetic::kUnit));
    };
    // All of them before the first store, which might be where the columns are, for all it knows.
    const auto reds = How::load(red, columns, i), greens = How::load(green, columns, i);
    const auto blues = How::load(blue, columns, i);
    V::store(out + i, blend(reds));
    V::store(out + columns.count + i, blend(greens));
    V::store(out + 2 * columns.count + i, blend(blues));
  }
}

template <typename V, typename How>
void resample_row(const Planes& line, const Columns& given, const std::uint8_t* empty, float* out) {
  const Planes from = line;  // as in map_row
  Columns columns = given;   // of the block, and of those after it
  for (int i = 0; i < given.count; i += kBlock) {
    const bool is_empty = *empty++ != 0, exact = *columns.exact++ != 0;
    if (!is_empty && exact) resample_block<V, How, Exact<V>>(from, columns, out);
    if (!is_empty && !exact) resample_block<V, How, Fused<V>>(from, columns, out);
    columns.left += kBlock;
    columns.weight += kBlock;
    columns.start += kBlock / 4;
    columns.picks += 4 * kBlock;
    columns.weights += kBlock;
    out += kBlock;
  }
}

template <typename V>
typename V::Floats blend(typename V::Floats a, typename V::Floats b, typename V::Floats weight) {
  return V::multiply_add(weight, V::subtract(b, a), a);
}

template <typename V>
void blend_rows(const float* top, const float* bottom, std::ptrdiff_t apart, float weight,
                int count, const Planes& out) {
  const Planes to = out;  // as in map_row
  const auto down = V::all(weight);
  for (int c = 0; c < 3; ++c, top += apart, bottom += apart)
    for (int i = 0; i < count; i += kBlock) {
      typename V::Dwords part[kBlock / V::kLanes];
      for (int k = 0; k < kBlock / V::kLanes; ++k) {
        const int at = i + k * V::kLanes;
        part[k] = V::to_nearest(blend<V>(V::load(top + at), V::load(bottom + at), down));
      }
      V::store_block(to.channel[c] + i, part);
    }
}

template <typename V>
void map_row(const Layer& layer, std::int32_t x, std::int32_t y, std::int32_t step, int count,
             const Points& points) {
  const Points to = points;  // the stores below cannot change it
  const float* const m = layer.inverse;
  const float fy = static_cast<float>(y);
  const bool perspective = layer.perspective != 0;
  const auto across_x = V::all(m[0]), down_x = V::all(m[1] * fy + m[2]);
  const auto across_y = V::all(m[3]), down_y = V::all(m[4] * fy + m[5]);
  const auto across_w = V::all(m[6]), down_w = V::all(m[7] * fy + m[8]);
  const auto next = V::all(static_cast<float>(V::kLanes * step));
  auto fx = V::multiply_add(V::to_floats(V::numbers()), V::all(static_cast<float>(step)),
                            V::all(static_cast<float>(x)));
  const auto split = [](typename V::Floats at, std::int32_t* first, float* weight) {
    const auto whole = V::floor(at);
    V::store(first, V::to_nearest(whole));
    V::store(weight, V::subtract(at, whole));
  };
  for (int i = 0; i < count; i += V::kLanes, fx = V::add(fx, next)) {
    auto at_x = V::multiply_add(across_x, fx, down_x);
    auto at_y = V::multiply_add(across_y, fx, down_y);
    if (perspective) {
      const auto w = V::multiply_add(across_w, fx, down_w);
      at_x = V::divide(at_x, w);
      at_y = V::divide(at_y, w);
    }
    split(at_x, to.x + i, to.wx + i);
    split(at_y, to.y + i, to.wy + i);
  }
}

template <typename V>
int find_end(const Points& points, int first, int count, const Region& region) {
  // One comparison sees both ends of a range, if it is an unsigned one.
  const auto from_x = V::all(region.x1), width = V::subtract(V::all(region.x2), from_x);
  const auto from_y = V::all(region.y1), height = V::subtract(V::all(region.y2), from_y);
  for (int i = first; i < count; i += V::kLanes) {
    const auto x = V::subtract(V::load(points.x + i), from_x);
    const auto y = V::subtract(V::load(points.y + i), from_y);
    const std::uint32_t outside = V::reach_either(x, width, y, height);
    if (outside == 0) continue;
    const int end = i + __builtin_ctz(outside);
    return end < count ? end : count;
  }
  return count;
}

// A picture goes to memory and is read much later: past the caches, if the row allows it. Returns
// how many bytes were stored.
template <typename V>
int store_row(const std::uint8_t* channel, int count, std::uint8_t* out) {
  if (reinterpret_cast<std::uintptr_t>(out) % V::kBytes != 0) return 0;
  int i = 0;
  for (; i + V::kBytes <= count; i += V::kBytes) V::stream(out + i, channel + i);
  return i;
}

}  // namespace
}  // namespace yolodata
