#include "render/rows.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "core/simd.h"
#include "render/rows_avx2.h"

namespace yolodata {

namespace {

#if defined(__x86_64__)
// YOLODATA_PORTABLE=1 in the environment chooses the loops of other processors, for comparison.
bool has_avx2() {
  static const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                          std::getenv("YOLODATA_PORTABLE") == nullptr;
  return has;
}
#endif

}  // namespace

#if defined(__x86_64__)
// Calls the AVX2 loop where the processor has it, and otherwise does nothing.
#define YD_AVX2(call) (has_avx2() ? avx2::call : 0)
#else
#define YD_AVX2(call) 0
#endif

void blend_rows(const std::uint8_t* top, const std::uint8_t* bottom, float weight, int count,
                float* line) {
  for (int i = YD_AVX2(blend_rows(top, bottom, weight, count, line)); i < count; ++i) {
    const float a = static_cast<float>(top[i]), b = static_cast<float>(bottom[i]);
    line[i] = a + weight * (b - a);
  }
}

int resample_row(const float* line, const std::int32_t* offsets, const float* weights, int count,
                 float tolerance, std::uint32_t* words, std::int32_t* doubtful) {
  std::int32_t* const begin = doubtful;
  int i = YD_AVX2(resample_row(line, offsets, weights, count, tolerance, words, doubtful));
  for (; i < count; ++i) {
    const float* p = line + offsets[i];
    std::uint32_t word = 0;
    bool doubt = false;
    for (int c = 0; c < 3; ++c) {
      const float value = p[c] + weights[i] * (p[c + 3] - p[c]);
      const std::int32_t low = round_int(std::max(value - tolerance, 0.0f));
      doubt |= low != round_int(value + tolerance);
      word |= static_cast<std::uint32_t>(low) << (8 * c);
    }
    words[i] = word;
    if (doubt) *doubtful++ = i;
  }
  return static_cast<int>(doubtful - begin);
}

void interpolate_run(const std::uint8_t* image, std::int64_t stride, const Points& points,
                     int first, int last, std::int64_t ahead, std::uint32_t* words) {
#if defined(__x86_64__)
  if (has_avx2()) return avx2::interpolate_run(image, stride, points, first, last, ahead, words);
#endif
  for (int i = first; i < last; ++i) {
    const std::uint8_t* p = image + points.y[i] * stride + 3 * std::int64_t{points.x[i]};
    std::uint32_t word = 0;
    for (int c = 0; c < 3; ++c)
      word |= static_cast<std::uint32_t>(interpolate(p[c], p[c + 3], p[c + stride],
                                                     p[c + 3 + stride], points.wx[i], points.wy[i]))
              << (8 * c);
    words[i] = word;
  }
}

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
    point.x = inside ? point.x : static_cast<float>(kOutside);
    point.y = inside ? point.y : static_cast<float>(kOutside);
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

void jitter_row(std::uint32_t* words, const HsvJitter& hsv, int count) {
  const auto jittered = [&hsv](std::uint32_t word) {
    const auto bits = static_cast<std::int32_t>(word);
    const Rgb pixel = jitter(hsv, {bits & 255, bits >> 8 & 255, bits >> 16 & 255});
    return static_cast<std::uint32_t>(pixel.r | pixel.g << 8 | pixel.b << 16);
  };
  const std::uint32_t fill = jittered(kFillWord);
  for (int i = YD_AVX2(jitter_row(words, hsv, fill, count)); i < count; ++i)
    words[i] = jittered(words[i]);
}

void split_row(const std::uint32_t* words, int count, std::uint8_t* red, std::uint8_t* green,
               std::uint8_t* blue) {
  for (int i = YD_AVX2(split_row(words, count, red, green, blue)); i < count; ++i) {
    red[i] = static_cast<std::uint8_t>(words[i]);
    green[i] = static_cast<std::uint8_t>(words[i] >> 8);
    blue[i] = static_cast<std::uint8_t>(words[i] >> 16);
  }
}

void finish_picture() {
#if defined(__x86_64__)
  if (has_avx2()) avx2::finish();
#endif
}

}  // namespace yolodata
