#include "render/rows.h"

#include <cstring>

#include "render/simd.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

namespace yolodata {

YD_TARGETS void blend_rows(const std::uint8_t* __restrict__ top,
                           const std::uint8_t* __restrict__ bottom, float weight, int count,
                           float* __restrict__ line) {
  for (int i = 0; i < count; ++i)
    line[i] = blend(static_cast<float>(top[i]), static_cast<float>(bottom[i]), weight);
}

#if defined(__SSE2__)
// cvtps rounds to nearest even, like round_int.
YD_TARGETS void resample_row(const float* __restrict__ line,
                             const std::int32_t* __restrict__ offsets,
                             const float* __restrict__ weights, int count,
                             std::uint32_t* __restrict__ words) {
  const auto pixel = [&](int i) __attribute__((always_inline)) {
    const float* p = line + offsets[i];
    const __m128 left = _mm_loadu_ps(p), right = _mm_loadu_ps(p + 3);
    const __m128 value =
        _mm_add_ps(left, _mm_mul_ps(_mm_set1_ps(weights[i]), _mm_sub_ps(right, left)));
    return _mm_cvtps_epi32(value);
  };
  int i = 0;
  for (; i + 4 <= count; i += 4) {
    const __m128i low = _mm_packs_epi32(pixel(i), pixel(i + 1));
    const __m128i high = _mm_packs_epi32(pixel(i + 2), pixel(i + 3));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(words + i), _mm_packus_epi16(low, high));
  }
  for (; i < count; ++i) {
    const __m128i low = _mm_packs_epi32(pixel(i), _mm_setzero_si128());
    words[i] = static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm_packus_epi16(low, low)));
  }
}

std::uint32_t interpolate_word(const std::uint8_t* top_left, std::int64_t stride, float wx,
                               float wy) {
  const auto load = [](const std::uint8_t* p) {
    std::int32_t bytes;
    std::memcpy(&bytes, p, 4);
    const __m128i zero = _mm_setzero_si128();
    const __m128i half = _mm_unpacklo_epi8(_mm_cvtsi32_si128(bytes), zero);
    return _mm_cvtepi32_ps(_mm_unpacklo_epi16(half, zero));
  };
  const auto mixed = [](__m128 a, __m128 b, __m128 weight) {
    return _mm_add_ps(a, _mm_mul_ps(weight, _mm_sub_ps(b, a)));
  };
  const __m128 down = _mm_set1_ps(wy);
  const __m128 left = mixed(load(top_left), load(top_left + stride), down);
  const __m128 right = mixed(load(top_left + 3), load(top_left + 3 + stride), down);
  const __m128i value = _mm_cvtps_epi32(mixed(left, right, _mm_set1_ps(wx)));
  const __m128i low = _mm_packs_epi32(value, value);
  return static_cast<std::uint32_t>(_mm_cvtsi128_si32(_mm_packus_epi16(low, low)));
}
#else
void resample_row(const float* line, const std::int32_t* offsets, const float* weights, int count,
                  std::uint32_t* words) {
  for (int i = 0; i < count; ++i) {
    const float* p = line + offsets[i];
    std::uint32_t word = 0;
    for (int c = 0; c < 3; ++c)
      word |= static_cast<std::uint32_t>(round_int(blend(p[c], p[c + 3], weights[i]))) << (8 * c);
    words[i] = word;
  }
}

std::uint32_t interpolate_word(const std::uint8_t* p, std::int64_t stride, float wx, float wy) {
  std::uint32_t word = 0;
  for (int c = 0; c < 3; ++c)
    word |= static_cast<std::uint32_t>(interpolate(p[c], p[c + 3], p[c + stride],
                                                   p[c + 3 + stride], wx, wy))
            << (8 * c);
  return word;
}
#endif

YD_TARGETS void map_row(const Layer& layer, std::int32_t x, std::int32_t y, std::int32_t step,
                        int count, const Points& points) {
  const Layer local = layer;  // so that the compiler knows the stores below cannot change it
  std::int32_t* __restrict__ xs = points.x;
  std::int32_t* __restrict__ ys = points.y;
  float* __restrict__ wxs = points.wx;
  float* __restrict__ wys = points.wy;
  for (int i = 0; i < count; ++i) {
    Point point = to_canvas(local, x + i * step, y);
    const bool inside = touches(local, point);
    point.x = inside ? point.x : -2.0f;
    point.y = inside ? point.y : -2.0f;
    const std::int32_t ix = floor_int(point.x), iy = floor_int(point.y);
    xs[i] = ix;
    ys[i] = iy;
    wxs[i] = point.x - static_cast<float>(ix);
    wys[i] = point.y - static_cast<float>(iy);
  }
}

YD_TARGETS void mix_rows(std::uint32_t* __restrict__ words,
                         const std::uint32_t* __restrict__ others, double ratio, int count) {
  for (int i = 0; i < count; ++i) {
    const std::uint32_t a = words[i], b = others[i];
    std::uint32_t word = 0;
    for (int c = 0; c < 24; c += 8)
      word |= static_cast<std::uint32_t>(mix(static_cast<std::int32_t>(a >> c & 255),
                                             static_cast<std::int32_t>(b >> c & 255), ratio))
              << c;
    words[i] = word;
  }
}

YD_TARGETS void jitter_row(const std::uint32_t* __restrict__ words, const HsvJitter& hsv,
                           int count, std::uint8_t* __restrict__ red,
                           std::uint8_t* __restrict__ green, std::uint8_t* __restrict__ blue) {
  const HsvJitter local = hsv;
  for (int i = 0; i < count; ++i) {
    const std::int32_t word = static_cast<std::int32_t>(words[i]);
    const Rgb pixel = jitter(local, {word & 255, word >> 8 & 255, word >> 16 & 255});
    red[i] = static_cast<std::uint8_t>(pixel.r);
    green[i] = static_cast<std::uint8_t>(pixel.g);
    blue[i] = static_cast<std::uint8_t>(pixel.b);
  }
}

YD_TARGETS void split_row(const std::uint32_t* __restrict__ words, int count,
                          std::uint8_t* __restrict__ red, std::uint8_t* __restrict__ green,
                          std::uint8_t* __restrict__ blue) {
  for (int i = 0; i < count; ++i) {
    red[i] = static_cast<std::uint8_t>(words[i]);
    green[i] = static_cast<std::uint8_t>(words[i] >> 8);
    blue[i] = static_cast<std::uint8_t>(words[i] >> 16);
  }
}

}  // namespace yolodata
