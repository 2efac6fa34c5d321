// Rows of layers that neither rotate nor shear: most of them. Their columns map to the same canvas
// columns in every row, so that a row needs two passes that read memory in order: blend two canvas
// rows, then pick and blend pixels of that line.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "render/rows.h"
#include "render/shade.h"

namespace yolodata {

// Columns [begin, end) of a canvas row that show one tile (or none: -1).
struct Span {
  std::int32_t begin, end;
  int tile;
};

// The spans of one canvas row, which also hold for all rows of its band [top, bottom).
class Band {
 public:
  explicit Band(const Layer& layer) : layer_(layer) {}

  bool covers(std::int32_t row) const { return row >= top_ && row < bottom_; }

  // Spans from column `begin` to `end`, fill included, in order.
  const std::vector<Span>& at(std::int32_t row, std::int32_t begin, std::int32_t end) {
    if (!covers(row)) find(row, begin, end);
    return spans_;
  }

 private:
  void find(std::int32_t row, std::int32_t begin, std::int32_t end) {
    top_ = INT32_MIN;
    bottom_ = INT32_MAX;
    std::int32_t edges[2 * kMaxTiles + 2] = {begin, end};
    int count = 2;
    for (int i = 0; i < layer_.tile_count; ++i) {
      const Tile& tile = layer_.tiles[i];
      for (const std::int32_t y : {tile.y1, tile.y2}) {
        if (y <= row) top_ = std::max(top_, y);
        if (y > row) bottom_ = std::min(bottom_, y);
      }
      if (row < tile.y1 || row >= tile.y2) continue;
      for (const std::int32_t x : {tile.x1, tile.x2})
        if (x > begin && x < end) edges[count++] = x;
    }
    std::sort(edges, edges + count);
    spans_.clear();
    for (int i = 0; i + 1 < count; ++i) {
      if (edges[i] == edges[i + 1]) continue;
      const int tile = tile_at(layer_, edges[i], row);
      if (!spans_.empty() && spans_.back().tile == tile)
        spans_.back().end = edges[i + 1];
      else
        spans_.push_back({edges[i], edges[i + 1], tile});
    }
  }

  const Layer& layer_;
  std::int32_t top_ = 1, bottom_ = 0;
  std::vector<Span> spans_;
};

// Rows of a layer whose map keeps rows rows and columns columns.
class AxisRows {
 public:
  static bool fits(const Layer& layer) {
    return !layer.perspective && layer.inverse[1] == 0.0f && layer.inverse[3] == 0.0f;
  }

  // For output columns [begin, end) of a picture of `width`, mirrored if `fliplr`.
  AxisRows(const Layer& layer, const ImageView* images, std::int32_t width, bool fliplr,
           bool flipud, std::int32_t begin, std::int32_t end)
      : layer_(layer),
        images_(images),
        width_(width),
        fliplr_(fliplr),
        begin_(begin),
        end_(end),
        upper_(layer),
        lower_(layer),
        upwards_(flipud != (layer.inverse[4] < 0.0f)),
        rows_ahead_(static_cast<int>(std::min(std::abs(layer.inverse[4]), 3.0f) + 0.99f)) {
    first_ = end;
    last_ = begin;
    std::int32_t least = INT32_MAX, most = INT32_MIN;
    offsets_.resize(static_cast<std::size_t>(end - begin));
    weights_.resize(offsets_.size());
    for (std::int32_t x = begin; x < end; ++x) {
      const float at = to_canvas(layer, unflip(x, width, fliplr), 0).x;
      if (!(at > -1.0f && at < static_cast<float>(layer.width))) continue;
      first_ = std::min(first_, x);
      last_ = x + 1;
      const std::int32_t ix = floor_int(at);
      least = std::min(least, ix);
      most = std::max(most, ix + 2);
      offsets_[static_cast<std::size_t>(x - begin)] = ix;
      const float weight = at - static_cast<float>(ix);
      weights_[static_cast<std::size_t>(x - begin)] = weight;
      short_weights_ &= is_short(weight);
    }
    doubtful_.resize(offsets_.size());
    if (first_ >= last_) return;
    left_ = least;
    right_ = most;
    for (std::int32_t x = first_; x < last_; ++x) {
      auto& offset = offsets_[static_cast<std::size_t>(x - begin)];
      offset = 3 * (offset - left_);
    }
    const std::size_t bytes = 3 * static_cast<std::size_t>(right_ - left_);
    line_.resize(bytes + 8);
    top_.resize(bytes);
    bottom_.resize(bytes);
  }

  void render(std::int32_t y, std::uint32_t* words) {
    const float at = to_canvas(layer_, 0, y).y;
    const bool inside = at > -1.0f && at < static_cast<float>(layer_.height);
    const std::int32_t first = inside ? first_ : end_, last = inside ? last_ : end_;
    std::fill(words + begin_, words + std::min(first, end_), kFillWord);
    if (first >= last) return std::fill(words + begin_, words + end_, kFillWord);
    std::fill(words + last, words + end_, kFillWord);

    const std::int32_t iy = floor_int(at);
    blend_line(iy, at - static_cast<float>(iy));
    for (const Piece& piece : pieces_)
      if (piece.empty)
        std::fill(words + piece.begin, words + piece.end, kFillWord);
      else
        resample(piece, y, words);
  }

 private:
  // Output columns [begin, end) that see nothing but fill, or not.
  struct Piece {
    std::int32_t begin, end;
    bool empty;
  };

  // Note [order of blends]. shade.h blends across, then down; a line is blended down, then across.
  // For the same weights the two differ by less than 6.2e-5 (four roundings of at most half a unit
  // in the last place of 255 on either side, those of the first pass counted twice), so they can
  // only round to different bytes within that of a tie: there shade.h is asked. Weights of at most
  // seven bits make no rounding error at all, and many true ties.
  void resample(const Piece& piece, std::int32_t y, std::uint32_t* words) {
    constexpr float kTolerance = 1.0f / 8192.0f;
    const std::int32_t skip = piece.begin - begin_;
    words += piece.begin;
    const int count =
        resample_row(line_.data(), offsets_.data() + skip, weights_.data() + skip,
                     piece.end - piece.begin, exact_ ? 0.0f : kTolerance, words, doubtful_.data());
    for (int i = 0; i < count; ++i) {
      const std::int32_t x = piece.begin + doubtful_[static_cast<std::size_t>(i)];
      const Rgb pixel = sample(layer_, images_, unflip(x, width_, fliplr_), y);
      words[x - piece.begin] = static_cast<std::uint32_t>(pixel.r | pixel.g << 8 | pixel.b << 16);
    }
  }

  static bool is_short(float weight) {
    return weight * 128.0f == static_cast<float>(static_cast<int>(weight * 128.0f));
  }

  void blend_line(std::int32_t iy, float weight) {
    exact_ = short_weights_ && is_short(weight);
    const bool same_band = upper_.covers(iy);
    const auto& spans = upper_.at(iy, left_, right_);
    if (!upper_.covers(iy + 1)) {  // a seam lies between the two rows
      copy(spans, iy, top_.data());
      copy(lower_.at(iy + 1, left_, right_), iy + 1, bottom_.data());
      pieces_.assign(1, {first_, last_, false});
      pieces_are_of_band_ = false;
      return blend_rows(top_.data(), bottom_.data(), weight, static_cast<int>(top_.size()),
                        line_.data());
    }
    if (!same_band || !pieces_are_of_band_) find_pieces(spans);
    for (const Span& span : spans) {
      float* line = line_.data() + 3 * (span.begin - left_);
      const int count = 3 * (span.end - span.begin);
      if (span.tile < 0) {
        std::fill(line, line + count, static_cast<float>(kFill));
        continue;
      }
      const std::int64_t stride = 3 * static_cast<std::int64_t>(images_[span.tile].width);
      const std::uint8_t* top = pixel_of(layer_, images_, span.tile, span.begin, iy);
      fetch_ahead(upwards_ ? top - rows_ahead_ * stride : top + 2 * stride, stride, count);
      blend_rows(top, top + stride, weight, count, line);
    }
  }

  // Asks for what the next output row needs and this one does not: parts of rows lie too far apart
  // for processors to foresee them. Addresses outside the image do no harm.
  void fetch_ahead(const std::uint8_t* first, std::int64_t stride, int bytes) const {
    for (int row = 0; row < rows_ahead_; ++row)
      for (int i = 0; i < bytes; i += 64) __builtin_prefetch(first + row * stride + i);
  }

  void find_pieces(const std::vector<Span>& spans) {
    std::fill(top_.begin(), top_.end(), std::uint8_t{0});  // scratch: whether a column is fill
    for (const Span& span : spans)
      if (span.tile < 0)
        std::fill(top_.begin() + (span.begin - left_), top_.begin() + (span.end - left_),
                  std::uint8_t{1});
    pieces_.clear();
    for (std::int32_t x = first_; x < last_; ++x) {
      const auto column =
          static_cast<std::size_t>(offsets_[static_cast<std::size_t>(x - begin_)] / 3);
      const bool empty = top_[column] && top_[column + 1];
      if (pieces_.empty() || pieces_.back().empty != empty)
        pieces_.push_back({x, x + 1, empty});
      else
        pieces_.back().end = x + 1;
    }
    pieces_are_of_band_ = true;
  }

  void copy(const std::vector<Span>& spans, std::int32_t row, std::uint8_t* out) const {
    for (const Span& span : spans) {
      std::uint8_t* to = out + 3 * (span.begin - left_);
      const int count = 3 * (span.end - span.begin);
      if (span.tile < 0) {
        std::fill(to, to + count, static_cast<std::uint8_t>(kFill));
        continue;
      }
      const std::uint8_t* from = pixel_of(layer_, images_, span.tile, span.begin, row);
      std::copy(from, from + count, to);
    }
  }

  const Layer& layer_;
  const ImageView* images_;
  std::int32_t width_;
  bool fliplr_;
  std::int32_t begin_, end_;
  bool short_weights_ = true, exact_ = false;
  std::vector<std::int32_t> doubtful_;
  std::int32_t first_, last_;          // output columns that touch the canvas
  std::int32_t left_ = 0, right_ = 0;  // canvas columns they need
  Band upper_, lower_;
  bool upwards_;    // output rows ask for canvas rows from below to above
  int rows_ahead_;  // canvas rows from an output row to the next
  std::vector<std::int32_t> offsets_;
  std::vector<float> weights_, line_;
  std::vector<std::uint8_t> top_, bottom_;
  std::vector<Piece> pieces_;
  bool pieces_are_of_band_ = false;
};

}  // namespace yolodata
