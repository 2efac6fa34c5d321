// A training sample as plain data: which pixels go where, before any pixel is touched.
//
// Coordinates. A layer is a canvas (the mosaic, or one image) that a 3x3 matrix warps onto the
// output picture. Pixel (x, y) means the centre of that pixel; (0, 0) is the first one. Rectangles
// are half open. The canvas is never made: the inverse map asks the tiles directly.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace yolodata {

inline constexpr int kMaxTiles = 9;  // a 3x3 mosaic
// Base, mixup partner, cutmix partner, and one to paste from each.
inline constexpr int kMaxLayers = 6;
inline constexpr int kMaxCanvas = 1 << 20;  // pixels of a side
inline constexpr int kNoLayer = -1;
inline constexpr int kMirror = -2;  // the layer's own canvas, left and right exchanged
inline constexpr int kFill = 114;   // grey of everything that no image covers

// One image laid on the canvas. Later tiles of a layer cover earlier ones.
struct Tile {
  std::int64_t image;           // dataset index
  std::int32_t x1, y1, x2, y2;  // the part of the canvas it covers
  std::int32_t x0, y0;          // where the image's own pixel (0, 0) lies on the canvas
  std::int32_t width, height;   // size of the whole image
};

struct Layer {
  std::int32_t width, height;  // canvas
  std::int32_t tile_count;
  std::int32_t perspective;  // 0: the last row of `matrix` is (0, 0, 1)
  std::int32_t
      paste_from;    // kNoLayer; kMirror, pasted onto the canvas; or a layer, onto the picture
  double scale;      // zoom of the matrix, for the filtering of boxes
  float matrix[9];   // canvas -> output, row major
  float inverse[9];  // output -> canvas, derived from `matrix`
  Tile tiles[kMaxTiles];
};

// Products of bytes and gains that are drawn up to this fit into integers.
inline constexpr double kMaxHsvDraw = 1e6;

// Colour jitter in HSV space; gains multiply saturation and value, the shift turns the hue.
struct HsvJitter {
  double draws[3];  // as drawn: gain times uniform(-1, 1)
  std::int32_t enabled;
  std::int32_t hue_shift;   // 0..179, in units of two degrees
  float saturation, value;  // >= 0
};

// What is done to the picture once every pixel is in its place, in this order.
struct Finish {
  HsvJitter hsv;
  std::int32_t flipud, fliplr;
  std::int32_t bgr;  // red and blue change places
};

// Calls `visit` with every step of a finish and its name. A step that is all zero does nothing.
template <typename AnyFinish, typename Visit>
void each_step(AnyFinish& finish, Visit visit) {
  auto& [hsv, flipud, fliplr, bgr] = finish;  // all of them: fewer names do not compile
  visit("hsv", hsv);
  visit("flipud", flipud);
  visit("fliplr", fliplr);
  visit("bgr", bgr);
}

struct Recipe {
  std::int32_t width, height;  // output picture
  std::int32_t layer_count;
  std::int32_t mixup_layer;   // kNoLayer, or the layer blended into layer 0
  std::int32_t cutmix_layer;  // kNoLayer, or the layer shown inside the rectangle
  std::int32_t cut_x1, cut_y1, cut_x2, cut_y2;
  double mixup_ratio;  // weight of layer 0
  Finish finish;
  Layer layers[kMaxLayers];
};

// A recipe without layers.
inline Recipe empty_recipe(std::int32_t width, std::int32_t height) {
  Recipe recipe{};
  recipe.width = width;
  recipe.height = height;
  recipe.mixup_layer = recipe.cutmix_layer = kNoLayer;
  recipe.mixup_ratio = 1.0;
  return recipe;
}

// Objects that are pasted onto a layer (see Layer::paste_from).
struct Paste {
  std::int32_t layer;                                // onto which
  std::vector<std::array<std::int32_t, 2>> objects;  // tile of the source, object of its image
  std::vector<std::int32_t> mask;                    // their pixels, see LayerSources
};

// A recipe is plain data of a fixed size, which kernels read; what varies in size is beside it.
struct Plan {
  Recipe recipe;
  std::vector<Paste> pastes;

  const Paste* paste_onto(int layer) const {
    for (const Paste& paste : pastes)
      if (paste.layer == layer) return &paste;
    return nullptr;
  }
};

}  // namespace yolodata
