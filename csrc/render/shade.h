// The value of one output pixel: the only place that says what a picture looks like.
//
// Called by the loops of cpu.cpp and by the kernel of cuda.cu. Both must give the same bits, so:
// multiply-add is fused where `fused` says so and nowhere else (-ffp-contract=off, --fmad=false),
// no libm, no accumulation from pixel to pixel, and every rounding written out. A faster loop may
// do something else only where it can prove that the bits are these.
//
// Note [linear sampling]. This is the arithmetic of OpenCV 5's warpAffine and warpPerspective
// (INTER_LINEAR, 8 bits, on processors with FMA), to the bit: coordinates and weights in single
// precision, two blends across and one down, each one fused multiply-add, ties to even. A neighbour
// outside the canvas counts as the fill colour on its own.
#pragma once

#include <cmath>
#include <cstdint>

#include "core/host_device.h"
#include "plan/recipe.h"

namespace yolodata {

// An image in memory: `height` rows of `width` RGB triples, without gaps.
struct ImageView {
  const std::uint8_t* pixels;
  std::int32_t width, height;
};

// What a layer is made of, where it lies in memory.
struct LayerSources {
  ImageView images[kMaxTiles];  // of its tiles
  // Pixels that something is pasted over, if the layer has such. Row y, of the canvas or of the
  // picture (see Layer::paste_from), shows it in runs number mask[y] to mask[y + 1], exclusive; the
  // columns of run i, [x1, x2), are at mask[height + 1 + 2 * i]. Runs are in order and apart.
  const std::int32_t* mask;
};

struct Sources {
  LayerSources layers[kMaxLayers];
};

struct Rgb {
  std::int32_t r, g, b;
};

YD_HD std::int32_t floor_int(float value) {
  const std::int32_t truncated = static_cast<std::int32_t>(value);
  return truncated - (value < static_cast<float>(truncated));
}

// To the nearest integer, ties to even, for 0 <= value < 2^22.
YD_HD std::int32_t round_int(float value) {
  return static_cast<std::int32_t>((value + kWhole) - kWhole);
}

// a * b + c, rounded once.
YD_HD float fused(float a, float b, float c) { return fmaf(a, b, c); }

YD_HD float blend(float a, float b, float weight) { return fused(weight, b - a, a); }

// A point of the canvas, in pixels.
struct Point {
  float x, y;
};

YD_HD Point to_canvas(const Layer& layer, std::int32_t x, std::int32_t y) {
  const float* m = layer.inverse;
  const float fx = static_cast<float>(x), fy = static_cast<float>(y);
  Point point{fused(m[0], fx, m[1] * fy + m[2]), fused(m[3], fx, m[4] * fy + m[5])};
  if (layer.perspective) {
    const float w = fused(m[6], fx, m[7] * fy + m[8]);  // zero gives no number: outside
    point.x /= w;
    point.y /= w;
  }
  return point;
}

// Whether the map keeps rows rows and columns columns: neither rotates nor shears.
YD_HD bool keeps_axes(const Layer& layer) {
  return !layer.perspective && layer.inverse[1] == 0.0f && layer.inverse[3] == 0.0f;
}

// Where a coordinate lies between two pixels: the first of them, and the weight of the second.
struct Between {
  std::int32_t first;
  float weight;
};

YD_HD Between between(float at) {
  const std::int32_t first = floor_int(at);
  return {first, at - static_cast<float>(first)};
}

// Whether any of the four neighbours of the point lies on the canvas (false for NaN).
YD_HD bool touches(const Layer& layer, Point point) {
  return point.x > -1.0f && point.y > -1.0f && point.x < static_cast<float>(layer.width) &&
         point.y < static_cast<float>(layer.height);
}

// What canvas pixels show, where it is no tile.
inline constexpr int kNoTile = -1;  // nothing but fill
inline constexpr int kSeam = -2;    // several things, or nobody knows

// Topmost tile at a canvas pixel, or kNoTile.
YD_HD int tile_at(const Layer& layer, std::int32_t x, std::int32_t y) {
  for (int i = layer.tile_count - 1; i >= 0; --i) {
    const Tile& tile = layer.tiles[i];
    if (x >= tile.x1 && x < tile.x2 && y >= tile.y1 && y < tile.y2) return i;
  }
  return kNoTile;
}

// What all canvas pixels of a rectangle show; corners included.
YD_HD int tile_of(const Layer& layer, std::int32_t left, std::int32_t top, std::int32_t right,
                  std::int32_t bottom) {
  for (int i = layer.tile_count - 1; i >= 0; --i) {
    const Tile& tile = layer.tiles[i];
    if (right < tile.x1 || left >= tile.x2 || bottom < tile.y1 || top >= tile.y2) continue;
    const bool inside = left >= tile.x1 && right < tile.x2 && top >= tile.y1 && bottom < tile.y2;
    return inside ? i : kSeam;
  }
  return kNoTile;
}

YD_HD const std::uint8_t* tile_pixel(const Tile& tile, const ImageView& image, std::int32_t x,
                                     std::int32_t y) {
  return image.pixels + 3 * (static_cast<std::int64_t>(y - tile.y0) * image.width + (x - tile.x0));
}

// Whether a mask of `height` rows has a pixel of columns [x1, x2) of row y.
YD_HD bool in_mask(const std::int32_t* mask, std::int32_t height, std::int32_t x1, std::int32_t x2,
                   std::int32_t y) {
  if (y < 0 || y >= height) return false;
  const std::int32_t* const runs = mask + height + 1;
  for (std::int32_t i = mask[y]; i < mask[y + 1]; ++i)
    if (x1 < runs[2 * i + 1]) return x2 > runs[2 * i];
  return false;
}

// Whether something is pasted over one of the four canvas pixels from (x, y) on.
YD_HD bool is_pasted(const Layer& layer, const LayerSources& sources, std::int32_t x,
                     std::int32_t y) {
  return layer.paste_from == kMirror && (in_mask(sources.mask, layer.height, x, x + 2, y) ||
                                         in_mask(sources.mask, layer.height, x, x + 2, y + 1));
}

YD_HD Rgb canvas_pixel(const Layer& layer, const LayerSources& sources, std::int32_t x,
                       std::int32_t y) {
  if (layer.paste_from == kMirror && in_mask(sources.mask, layer.height, x, x + 1, y))
    x = layer.width - 1 - x;
  const int i = tile_at(layer, x, y);
  if (i < 0) return {kFill, kFill, kFill};
  const std::uint8_t* p = tile_pixel(layer.tiles[i], sources.images[i], x, y);
  return {p[0], p[1], p[2]};
}

YD_HD std::int32_t interpolate(std::int32_t p00, std::int32_t p01, std::int32_t p10,
                               std::int32_t p11, float wx, float wy) {
  const float top = blend(static_cast<float>(p00), static_cast<float>(p01), wx);
  const float bottom = blend(static_cast<float>(p10), static_cast<float>(p11), wx);
  return round_int(blend(top, bottom, wy));
}

// Between two pixels in memory, from `p` on, and the two below, from `q` on.
YD_HD Rgb interpolate(const std::uint8_t* p, const std::uint8_t* q, float wx, float wy) {
  return {interpolate(p[0], p[3], q[0], q[3], wx, wy), interpolate(p[1], p[4], q[1], q[4], wx, wy),
          interpolate(p[2], p[5], q[2], q[5], wx, wy)};
}

// See Note [linear sampling]. `known` is what the surroundings of the pixel show, if somebody found
// out: a tile, kNoTile, or kSeam.
YD_HD Rgb sample(const Layer& layer, const LayerSources& sources, std::int32_t x, std::int32_t y,
                 int known = kSeam) {
  if (known == kNoTile) return {kFill, kFill, kFill};
  const Point point = to_canvas(layer, x, y);
  if (!touches(layer, point)) return {kFill, kFill, kFill};
  const auto [ix, wx] = between(point.x);
  const auto [iy, wy] = between(point.y);
  const int tile = known != kSeam                      ? known
                   : is_pasted(layer, sources, ix, iy) ? kSeam
                                                       : tile_of(layer, ix, iy, ix + 1, iy + 1);
  if (tile == kNoTile) return {kFill, kFill, kFill};
  if (tile != kSeam) {
    const ImageView& image = sources.images[tile];
    const std::uint8_t* p = tile_pixel(layer.tiles[tile], image, ix, iy);
    return interpolate(p, p + 3 * static_cast<std::int64_t>(image.width), wx, wy);
  }
  const Rgb p00 = canvas_pixel(layer, sources, ix, iy);
  const Rgb p01 = canvas_pixel(layer, sources, ix + 1, iy);
  const Rgb p10 = canvas_pixel(layer, sources, ix, iy + 1);
  const Rgb p11 = canvas_pixel(layer, sources, ix + 1, iy + 1);
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

// Note [8-bit HSV]. OpenCV's BGR2HSV for bytes is integer: hue in 0..179 (two degrees a unit),
// saturation and value in 0..255, through reciprocals of 12 fractional bits. Its tables are
// round(255 * 2^12 / value) and round(180 * 2^12 / (6 * range)); a float quotient rounds to the
// same integers for every byte d: true ones are at least 1/(2d) from where rounding changes (2^12
// has no factor 2d), four units in the last place of the largest. The way back is single precision
// and truncates (its vectorised loop; the few pixels at the end of a row whose width is no multiple
// of 32 are rounded instead). Of the three channels one is the value, one the value without its
// share of colour, and one lies in between; the sector of the hue says which is which.
YD_HD std::int32_t reciprocal(float numerator, std::int32_t denominator) {
  const std::int32_t divisor = denominator > 0 ? denominator : 1;  // its product is 0 anyway
  return round_int(near_quotient(numerator, static_cast<float>(divisor)));
}

YD_HD std::int32_t larger(std::int32_t a, std::int32_t b) { return a > b ? a : b; }
YD_HD std::int32_t smaller(std::int32_t a, std::int32_t b) { return a < b ? a : b; }

// A product with a reciprocal, rounded.
YD_HD std::int32_t scaled(std::int32_t number, std::int32_t reciprocal) {
  return (number * reciprocal + 2048) >> 12;
}

inline constexpr std::int32_t kHueNumerator = 30 << 12, kSaturationNumerator = 255 << 12;
YD_HD std::int32_t hue_reciprocal(std::int32_t range) {
  return reciprocal(static_cast<float>(kHueNumerator), range);
}
YD_HD std::int32_t saturation_reciprocal(std::int32_t top) {
  return reciprocal(static_cast<float>(kSaturationNumerator), top);
}

// Where a pixel lies on the circle of hues, in units of 60 degrees by `range`; negative for
// magentas.
YD_HD std::int32_t place_on_wheel(Rgb pixel, std::int32_t top, std::int32_t range) {
  const std::int32_t from_red = pixel.g - pixel.b;
  const std::int32_t from_green = pixel.b - pixel.r + 2 * range;
  const std::int32_t from_blue = pixel.r - pixel.g + 4 * range;
  return top == pixel.r ? from_red : (top == pixel.g ? from_green : from_blue);
}

// Hues before the jitter.
inline constexpr std::int32_t kLeastHue = -30, kHues = 181;

YD_HD std::int32_t turn(std::int32_t hue, std::int32_t shift) {
  const std::int32_t turned = (hue < 0 ? hue + 180 : hue) + shift;
  return turned >= 180 ? turned - 180 : turned;
}

// A byte times the jitter's gain, cut off at 255.
YD_HD std::int32_t raise(std::int32_t byte, float gain) {
  return smaller(static_cast<std::int32_t>(static_cast<float>(byte) * gain), 255);
}

// A sixth of the circle of hues, and how far the channel in between is from the value there, as a
// share of the saturation.
struct Sector {
  std::int32_t number;
  float share;
};

YD_HD Sector sector_of(std::int32_t hue) {
  const float sixths = static_cast<float>(hue) * (6.0f / 180.0f);
  const std::int32_t number = static_cast<std::int32_t>(sixths);
  const float past = sixths - static_cast<float>(number);
  return {number, number % 2 != 0 ? past : 1.0f - past};
}

// A byte as a fraction of one.
YD_HD float unit(std::int32_t byte) { return static_cast<float>(byte) * (1.0f / 255.0f); }

// The channel in between, and the lowest: bytes, before their fractions are cut off.
YD_HD float middle_of(float value, float saturation, float share) {
  return value * fused(-saturation, share, 1.0f) * 255.0f;
}
YD_HD float low_of(float value, float saturation) { return value * (1.0f - saturation) * 255.0f; }

// See Note [8-bit HSV].
YD_HD Rgb jitter(const HsvJitter& hsv, Rgb pixel) {
  const std::int32_t brightest = larger(larger(pixel.r, pixel.g), pixel.b);
  const std::int32_t range = brightest - smaller(smaller(pixel.r, pixel.g), pixel.b);
  const std::int32_t hue = scaled(place_on_wheel(pixel, brightest, range), hue_reciprocal(range));
  const auto [sector, share] = sector_of(turn(hue, hsv.hue_shift));
  const float saturation =
      unit(raise(scaled(range, saturation_reciprocal(brightest)), hsv.saturation));
  const std::int32_t top = raise(brightest, hsv.value);
  const float value = unit(top);
  const std::int32_t middle = static_cast<std::int32_t>(middle_of(value, saturation, share));
  const std::int32_t low = static_cast<std::int32_t>(low_of(value, saturation));
  switch (sector) {
    case 0: return {top, middle, low};
    case 1: return {middle, top, low};
    case 2: return {low, top, middle};
    case 3: return {low, middle, top};
    case 4: return {middle, low, top};
    default: return {top, low, middle};
  }
}

// Position in the picture before the flips.
YD_HD std::int32_t unflip(std::int32_t at, std::int32_t size, std::int32_t flip) {
  return flip ? size - 1 - at : at;
}

// What output pixel (x, y) shows before its colours are changed, whoever knows the values of
// layers: `look` is called with a layer and the position before the flips.
template <typename Look>
YD_HD Rgb compose(const Recipe& recipe, const Sources& sources, std::int32_t x, std::int32_t y,
                  const Look& look) {
  x = unflip(x, recipe.width, recipe.finish.fliplr);
  y = unflip(y, recipe.height, recipe.finish.flipud);
  const auto show = [&](int layer) {
    const int from = recipe.layers[layer].paste_from;
    if (from >= 0 && in_mask(sources.layers[layer].mask, recipe.height, x, x + 1, y)) layer = from;
    return look(layer, x, y);
  };
  const bool cut = recipe.cutmix_layer != kNoLayer && in_cut(recipe, x, y);
  Rgb pixel = show(cut ? recipe.cutmix_layer : 0);
  if (recipe.mixup_layer != kNoLayer && !cut) {
    const Rgb other = show(recipe.mixup_layer);
    pixel = {mix(pixel.r, other.r, recipe.mixup_ratio), mix(pixel.g, other.g, recipe.mixup_ratio),
             mix(pixel.b, other.b, recipe.mixup_ratio)};
  }
  return pixel;
}

// The value of output pixel (x, y).
YD_HD Rgb shade(const Recipe& recipe, const Sources& sources, std::int32_t x, std::int32_t y) {
  Rgb pixel = compose(recipe, sources, x, y, [&](int layer, std::int32_t at_x, std::int32_t at_y) {
    return sample(recipe.layers[layer], sources.layers[layer], at_x, at_y);
  });
  if (recipe.finish.hsv.enabled) pixel = jitter(recipe.finish.hsv, pixel);
  if (recipe.finish.bgr) pixel = {pixel.b, pixel.g, pixel.r};
  return pixel;
}

}  // namespace yolodata
