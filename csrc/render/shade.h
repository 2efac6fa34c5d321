// The value of one output pixel: the only place that says what a picture looks like.
//
// Called by the loops of cpu.cpp and by the kernel of cuda.cu. Both must give the same bits, so:
// no fused multiply-add (-ffp-contract=off, --fmad=false), no libm, no accumulation from pixel to
// pixel, and every rounding written out. Faster loops may reorder pixels, never these operations.
//
// Note [linear sampling]. OpenCV 5's warpAffine and warpPerspective (INTER_LINEAR) interpolate in
// single precision between the centres of four pixels; a neighbour outside the canvas counts as
// the fill colour on its own. Here the two rows are blended first, then the two columns: a row of
// the output then needs one pass over each pair of canvas rows.
#pragma once

#include <cstdint>

#include "core/host_device.h"
#include "plan/recipe.h"

namespace yolodata {

// An image in memory: `height` rows of `width` RGB triples, without gaps.
struct ImageView {
  const std::uint8_t* pixels;
  std::int32_t width, height;
};

// The images of a recipe's tiles, in the same places.
struct Sources {
  ImageView images[kMaxLayers][kMaxTiles];
};

struct Rgb {
  std::int32_t r, g, b;
};

YD_HD std::int32_t floor_int(float value) {
  const std::int32_t truncated = static_cast<std::int32_t>(value);
  return truncated - (value < static_cast<float>(truncated));
}

// To the nearest integer, ties to even, for 0 <= value < 2^22: the sum has no room for a fraction.
YD_HD std::int32_t round_int(float value) {
  constexpr float kShift = 12582912.0f;  // 1.5 * 2^23
  return static_cast<std::int32_t>((value + kShift) - kShift);
}

YD_HD float blend(float a, float b, float weight) { return a + weight * (b - a); }

// A point of the canvas, in pixels.
struct Point {
  float x, y;
};

YD_HD Point to_canvas(const Layer& layer, std::int32_t x, std::int32_t y) {
  const float* m = layer.inverse;
  const float fx = static_cast<float>(x), fy = static_cast<float>(y);
  Point point{m[0] * fx + (m[1] * fy + m[2]), m[3] * fx + (m[4] * fy + m[5])};
  if (layer.perspective) {
    const float w = m[6] * fx + (m[7] * fy + m[8]);
    const float scale = w != 0.0f ? 1.0f / w : 0.0f;
    point.x *= scale;
    point.y *= scale;
  }
  return point;
}

// Whether any of the four neighbours of the point lies on the canvas (false for NaN).
YD_HD bool touches(const Layer& layer, Point point) {
  return point.x > -1.0f && point.y > -1.0f && point.x < static_cast<float>(layer.width) &&
         point.y < static_cast<float>(layer.height);
}

// Topmost tile at a canvas pixel, or -1.
YD_HD int tile_at(const Layer& layer, std::int32_t x, std::int32_t y) {
  for (int i = layer.tile_count - 1; i >= 0; --i) {
    const Tile& tile = layer.tiles[i];
    if (x >= tile.x1 && x < tile.x2 && y >= tile.y1 && y < tile.y2) return i;
  }
  return -1;
}

YD_HD Rgb canvas_pixel(const Layer& layer, const ImageView* images, std::int32_t x,
                       std::int32_t y) {
  const int i = tile_at(layer, x, y);
  if (i < 0) return {kFill, kFill, kFill};
  const Tile& tile = layer.tiles[i];
  const std::int64_t pixel =
      static_cast<std::int64_t>(y - tile.y0) * images[i].width + (x - tile.x0);
  const std::uint8_t* p = images[i].pixels + 3 * pixel;
  return {p[0], p[1], p[2]};
}

YD_HD std::int32_t interpolate(std::int32_t p00, std::int32_t p01, std::int32_t p10,
                               std::int32_t p11, float wx, float wy) {
  const float left = blend(static_cast<float>(p00), static_cast<float>(p10), wy);
  const float right = blend(static_cast<float>(p01), static_cast<float>(p11), wy);
  return round_int(blend(left, right, wx));
}

// See Note [linear sampling].
YD_HD Rgb sample(const Layer& layer, const ImageView* images, std::int32_t x, std::int32_t y) {
  const Point point = to_canvas(layer, x, y);
  if (!touches(layer, point)) return {kFill, kFill, kFill};
  const std::int32_t ix = floor_int(point.x), iy = floor_int(point.y);
  const float wx = point.x - static_cast<float>(ix), wy = point.y - static_cast<float>(iy);
  const Rgb p00 = canvas_pixel(layer, images, ix, iy);
  const Rgb p01 = canvas_pixel(layer, images, ix + 1, iy);
  const Rgb p10 = canvas_pixel(layer, images, ix, iy + 1);
  const Rgb p11 = canvas_pixel(layer, images, ix + 1, iy + 1);
  return {interpolate(p00.r, p01.r, p10.r, p11.r, wx, wy),
          interpolate(p00.g, p01.g, p10.g, p11.g, wx, wy),
          interpolate(p00.b, p01.b, p10.b, p11.b, wx, wy)};
}

// MixUp truncates, as NumPy's cast does. Double precision: a * r + a * (1 - r) may fall just below
// a, and upstream's pictures show it.
YD_HD std::int32_t mix(std::int32_t a, std::int32_t b, double ratio) {
  return static_cast<std::int32_t>(a * ratio + b * (1.0 - ratio));
}

YD_HD bool in_cut(const Recipe& recipe, std::int32_t x, std::int32_t y) {
  return x >= recipe.cut_x1 && x < recipe.cut_x2 && y >= recipe.cut_y1 && y < recipe.cut_y2;
}

// Note [8-bit HSV]. OpenCV's BGR2HSV for bytes is integer: hue in 0..179, saturation in 0..255,
// through reciprocals of 12 fractional bits. Its tables are round(255 * 2^12 / v) and
// round(180 * 2^12 / (6 * d)); a float quotient rounds to the same integers for every byte.
// The way back is single precision: a channel is v * (1 - s * t), where t is how far the hue is
// from the channel's plateau, 0..1.
YD_HD std::int32_t reciprocal(float numerator, std::int32_t denominator) {
  const std::int32_t divisor = denominator > 0 ? denominator : 1;
  return round_int(numerator / static_cast<float>(divisor));
}

// One channel from hue (0..179), saturation and value (0..1); `offset` is 150 for red, 90 for
// green, 30 for blue.
YD_HD std::int32_t hsv_channel(std::int32_t hue, float saturation, float value,
                               std::int32_t offset) {
  std::int32_t k = hue + offset;
  k = k >= 180 ? k - 180 : k;
  std::int32_t t = k < 120 - k ? k : 120 - k;
  t = t > 30 ? 30 : t;
  t = t < 0 ? 0 : t;
  const float share = static_cast<float>(t) * (1.0f / 30.0f);
  return round_int(value * (1.0f - saturation * share) * 255.0f);
}

YD_HD Rgb jitter(const HsvJitter& hsv, Rgb in) {
  const std::int32_t largest = in.r > in.g ? (in.r > in.b ? in.r : in.b) : (in.g > in.b ? in.g : in.b);
  const std::int32_t least = in.r < in.g ? (in.r < in.b ? in.r : in.b) : (in.g < in.b ? in.g : in.b);
  const std::int32_t range = largest - least;
  // range == 0 or largest == 0 leave a zero product, whatever the reciprocal is.
  const std::int32_t s = (range * reciprocal(1044480.0f, largest) + 2048) >> 12;
  const std::int32_t from_red = in.g - in.b;
  const std::int32_t from_green = in.b - in.r + 2 * range;
  const std::int32_t from_blue = in.r - in.g + 4 * range;
  const std::int32_t sector =
      largest == in.r ? from_red : (largest == in.g ? from_green : from_blue);
  std::int32_t h = (sector * reciprocal(122880.0f, range) + 2048) >> 12;
  h = h < 0 ? h + 180 : h;

  h += hsv.hue_shift;
  h = h >= 180 ? h - 180 : h;
  const float raised_s = static_cast<float>(s) * hsv.saturation;
  const float raised_v = static_cast<float>(largest) * hsv.value;
  const std::int32_t new_s = static_cast<std::int32_t>(raised_s < 255.0f ? raised_s : 255.0f);
  const std::int32_t new_v = static_cast<std::int32_t>(raised_v < 255.0f ? raised_v : 255.0f);

  const float saturation = static_cast<float>(new_s) * (1.0f / 255.0f);
  const float value = static_cast<float>(new_v) * (1.0f / 255.0f);
  return {hsv_channel(h, saturation, value, 150), hsv_channel(h, saturation, value, 90),
          hsv_channel(h, saturation, value, 30)};
}

// Position in the picture before the flips.
YD_HD std::int32_t unflip(std::int32_t at, std::int32_t size, std::int32_t flip) {
  return flip ? size - 1 - at : at;
}

// The whole recipe for output pixel (x, y).
YD_HD Rgb shade(const Recipe& recipe, const Sources& sources, std::int32_t x, std::int32_t y) {
  x = unflip(x, recipe.width, recipe.fliplr);
  y = unflip(y, recipe.height, recipe.flipud);
  Rgb pixel;
  if (recipe.cutmix_layer != kNoLayer && in_cut(recipe, x, y)) {
    const int layer = recipe.cutmix_layer;
    pixel = sample(recipe.layers[layer], sources.images[layer], x, y);
  } else {
    pixel = sample(recipe.layers[0], sources.images[0], x, y);
    if (recipe.mixup_layer != kNoLayer) {
      const int layer = recipe.mixup_layer;
      const Rgb other = sample(recipe.layers[layer], sources.images[layer], x, y);
      pixel = {mix(pixel.r, other.r, recipe.mixup_ratio), mix(pixel.g, other.g, recipe.mixup_ratio),
               mix(pixel.b, other.b, recipe.mixup_ratio)};
    }
  }
  if (recipe.hsv.enabled) pixel = jitter(recipe.hsv, pixel);
  if (recipe.bgr) pixel = {pixel.b, pixel.g, pixel.r};
  return pixel;
}

}  // namespace yolodata
