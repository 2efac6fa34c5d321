// Rows of layers that rotate, shear or have perspective: each pixel is mapped on its own, and runs
// of pixels that look at one image are done together.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "render/row_ops.h"
#include "render/shade.h"

namespace yolodata {

inline constexpr float kRowsAhead =
    8;  // with flipud the rows come in the other order; then it helps less

// Rows of any layer: rotation, shear, perspective.
class GeneralWarp {
 public:
  GeneralWarp(const Layer& layer, const LayerSources& sources, std::int32_t width, bool fliplr,
              std::int32_t begin, std::int32_t end)
      : layer_(layer), sources_(sources), begin_(begin), end_(end) {
    const auto count = static_cast<std::size_t>(whole_blocks(end - begin) + kBlock);
    x_.resize(count);
    y_.resize(count);
    wx_.resize(count);
    wy_.resize(count);
    // A slanted row touches many rows of the image; processors do not foresee that.
    down_x_ = static_cast<std::int64_t>(kRowsAhead * std::clamp(layer.inverse[1], -8.0f, 8.0f));
    down_y_ = static_cast<std::int64_t>(kRowsAhead * std::clamp(layer.inverse[4], -8.0f, 8.0f));
    from_ = unflip(begin, width, fliplr);
    step_ = fliplr ? -1 : 1;
    for (int i = 0; i < layer.tile_count; ++i) hidden_[i] = is_hidden(i);
  }

  void render(std::int32_t y, const Planes& row) {
    const int count = end_ - begin_;
    const Planes out = row.from(begin_);
    const Points points{x_.data(), y_.data(), wx_.data(), wy_.data()};
    map_row(layer_, from_, y, step_, count, points);
    for (int i = 0; i < count;) {
      const int first = i;
      const Region region = region_at(points.x[i], points.y[i]);
      i = find_end(points, first, count, region);
      if (i == first) {  // its neighbours lie in different regions
        show_slowly(i++, y, out);
      } else if (region.tile < 0) {
        for (std::uint8_t* const channel : out.channel)
          std::fill(channel + first, channel + i, static_cast<std::uint8_t>(kFill));
      } else {
        const Tile& tile = layer_.tiles[region.tile];
        const ImageView& image = sources_.images[region.tile];
        const std::int64_t stride = 3 * static_cast<std::int64_t>(image.width);
        interpolate_run(image.pixels - tile.y0 * stride - 3 * std::int64_t{tile.x0}, stride,
                        points.from(first), i - first, down_y_ * stride + 3 * down_x_,
                        out.from(first));
      }
    }
    if (layer_.paste_from == kMirror)
      for (int i = 0; i < count; ++i)
        if (is_pasted(layer_, sources_, points.x[i], points.y[i])) show_slowly(i, y, out);
  }

 private:
  // Whether a later tile covers part of this one.
  bool is_hidden(int i) const {
    const Tile& tile = layer_.tiles[i];
    for (int j = i + 1; j < layer_.tile_count; ++j) {
      const Tile& other = layer_.tiles[j];
      if (other.x1 < tile.x2 && other.x2 > tile.x1 && other.y1 < tile.y2 && other.y2 > tile.y1)
        return true;
    }
    return false;
  }

  // The region around a canvas pixel; empty when the pixel lies on a seam. The last row of an image
  // is left out: two bytes after a pixel are then its image's.
  Region region_at(std::int32_t x, std::int32_t y) const {
    constexpr std::int32_t kLeast = INT32_MIN, kMost = INT32_MAX;
    if (x < -1) return {kLeast, kLeast, -1, kMost, -1};  // also where there is no number
    if (y < -1) return {kLeast, kLeast, kMost, -1, -1};
    if (x >= layer_.width) return {layer_.width, kLeast, kMost, kMost, -1};
    if (y >= layer_.height) return {kLeast, layer_.height, kMost, kMost, -1};
    if (x < 0 || y < 0) return {x, y, x, y, -1};
    const int top = tile_at(layer_, x, y);
    if (top >= 0 && !hidden_[top]) {
      const Tile& tile = layer_.tiles[top];
      return {tile.x1, tile.y1, tile.x2 - 1,
              std::max(std::min(tile.y2, tile.y0 + tile.height - 1) - 1, tile.y1), top};
    }
    Region region{0, 0, layer_.width, layer_.height, top};
    for (int i = 0; i < layer_.tile_count; ++i) {
      const Tile& tile = layer_.tiles[i];
      for (const std::int32_t edge : {tile.x1, tile.x2}) {
        if (edge <= x) region.x1 = std::max(region.x1, edge);
        if (edge > x) region.x2 = std::min(region.x2, edge);
      }
      for (const std::int32_t edge : {tile.y1, tile.y2}) {
        if (edge <= y) region.y1 = std::max(region.y1, edge);
        if (edge > y) region.y2 = std::min(region.y2, edge);
      }
    }
    if (top >= 0)
      region.y2 = std::min(region.y2, layer_.tiles[top].y0 + layer_.tiles[top].height - 1);
    --region.x2;
    region.y2 = std::max(region.y2 - 1, region.y1);
    return region;
  }

  void show_slowly(int i, std::int32_t y, const Planes& out) const {
    const Rgb pixel = sample(layer_, sources_, from_ + step_ * i, y);
    out.channel[0][i] = static_cast<std::uint8_t>(pixel.r);
    out.channel[1][i] = static_cast<std::uint8_t>(pixel.g);
    out.channel[2][i] = static_cast<std::uint8_t>(pixel.b);
  }

  const Layer& layer_;
  const LayerSources& sources_;
  std::int32_t begin_, end_;
  std::int32_t from_, step_;      // first column before the flip, and the way from there
  std::int64_t down_x_, down_y_;  // canvas pixels from a row to the one kRowsAhead later
  bool hidden_[kMaxTiles]{};
  std::vector<std::int32_t> x_, y_;
  std::vector<float> wx_, wy_;
};

}  // namespace yolodata
