// Rows of layers that rotate, shear or have perspective: each pixel is mapped on its own, and runs
// of pixels that look at one image are done together.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "render/row_ops.h"
#include "render/shade.h"

namespace yolodata {

// In rows. With flipud they come in the other order; then it helps less.
inline constexpr float kPrefetchDistance = 8;

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
    down_x_ =
        static_cast<std::int64_t>(kPrefetchDistance * std::clamp(layer.inverse[1], -8.0f, 8.0f));
    down_y_ =
        static_cast<std::int64_t>(kPrefetchDistance * std::clamp(layer.inverse[4], -8.0f, 8.0f));
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
        mixed_.push_back(i++);
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
    if (layer_.paste_from == kMirror) find_pasted(points, count);
    if (!mixed_.empty()) show_mixed(points, out);
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
    if (x < -1) return {kLeast, kLeast, -1, kMost, kNoTile};  // also where there is no number
    if (y < -1) return {kLeast, kLeast, kMost, -1, kNoTile};
    if (x >= layer_.width) return {layer_.width, kLeast, kMost, kMost, kNoTile};
    if (y >= layer_.height) return {kLeast, layer_.height, kMost, kMost, kNoTile};
    if (x < 0 || y < 0) return {x, y, x, y, kNoTile};
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

  // Pixels of which something is pasted over a neighbour. Most blocks of columns see no row where
  // there is such a thing.
  void find_pasted(const Points& points, int count) {
    const std::int32_t* const mask = sources_.mask;
    for (int begin = 0; begin < count; begin += kBlock) {
      const int end = std::min(begin + kBlock, count);
      std::int32_t top = INT32_MAX, bottom = INT32_MIN;
      for (int i = begin; i < end; ++i) {
        top = std::min(top, points.y[i]);
        bottom = std::max(bottom, points.y[i]);
      }
      top = std::clamp(top, 0, layer_.height);
      bottom = std::clamp(bottom + 2, 0, layer_.height);
      if (mask[top] >= mask[bottom]) continue;
      for (int i = begin; i < end; ++i)
        if (is_pasted(layer_, sources_, points.x[i], points.y[i])) mixed_.push_back(i);
    }
  }

  // Shows the pixels whose neighbours are of several kinds: side by side, they are an image of two
  // lines.
  void show_mixed(const Points& points, const Planes& out) {
    const std::size_t count = mixed_.size();
    const auto room = count + kBlock;
    for (auto* const numbers : {&mixed_x_, &mixed_y_}) numbers->resize(room);
    for (auto* const weights : {&mixed_wx_, &mixed_wy_}) weights->resize(room);
    const std::size_t stride = 6 * count;
    neighbours_.resize(2 * stride + 2);
    shown_.resize(3 * room);
    for (std::size_t k = 0; k < count; ++k) {
      const int i = mixed_[k];
      mixed_x_[k] = static_cast<std::int32_t>(2 * k);
      mixed_wx_[k] = points.wx[i];
      mixed_wy_[k] = points.wy[i];
      for (const int down : {0, 1})
        for (const int right : {0, 1}) {
          const Rgb pixel = canvas_pixel(layer_, sources_, points.x[i] + right, points.y[i] + down);
          std::uint8_t* const to =
              &neighbours_[(down != 0 ? stride : 0) + 6 * k + (right != 0 ? 3 : 0)];
          to[0] = static_cast<std::uint8_t>(pixel.r);
          to[1] = static_cast<std::uint8_t>(pixel.g);
          to[2] = static_cast<std::uint8_t>(pixel.b);
        }
    }
    const Planes shown{{shown_.data(), shown_.data() + room, shown_.data() + 2 * room}};
    interpolate_run(neighbours_.data(), static_cast<std::int64_t>(stride),
                    {mixed_x_.data(), mixed_y_.data(), mixed_wx_.data(), mixed_wy_.data()},
                    static_cast<int>(count), 0, shown);
    for (int c = 0; c < 3; ++c)
      for (std::size_t k = 0; k < count; ++k) out.channel[c][mixed_[k]] = shown.channel[c][k];
    mixed_.clear();
  }

  const Layer& layer_;
  const LayerSources& sources_;
  std::int32_t begin_, end_;
  std::int32_t from_, step_;      // first column before the flip, and the way from there
  std::int64_t down_x_, down_y_;  // canvas pixels from a row to the one kPrefetchDistance later
  bool hidden_[kMaxTiles]{};
  std::vector<std::int32_t> x_, y_;
  std::vector<float> wx_, wy_;
  std::vector<int> mixed_;  // columns for show_mixed, and what it needs for them
  std::vector<std::int32_t> mixed_x_, mixed_y_;  // the latter all zero
  std::vector<float> mixed_wx_, mixed_wy_;
  std::vector<std::uint8_t> neighbours_, shown_;
};

}  // namespace yolodata
