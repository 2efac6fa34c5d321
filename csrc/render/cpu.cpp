// Pictures on a CPU thread, one output row at a time.
//
// Most recipes neither rotate nor shear. Their columns then map to the same canvas columns in
// every row, and a row needs two passes that read memory in order: blend two canvas rows, then
// pick and blend pixels of that line (AxisRows). All other recipes map each pixel on its own
// (FreeRows). Both apply shade.h's operations in its order.
#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "render/render.h"
#include "render/rows.h"

namespace yolodata {
namespace {

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

const std::uint8_t* pixel_of(const Layer& layer, const ImageView* images, int tile, std::int32_t x,
                             std::int32_t y) {
  const Tile& t = layer.tiles[tile];
  return images[tile].pixels +
         3 * (static_cast<std::int64_t>(y - t.y0) * images[tile].width + (x - t.x0));
}

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

constexpr float kRowsAhead = 8;  // with flipud the rows come in the other order; then it helps less

// Rows of any layer: rotation, shear, perspective.
class FreeRows {
 public:
  FreeRows(const Layer& layer, const ImageView* images, std::int32_t width, bool fliplr,
           std::int32_t begin, std::int32_t end)
      : layer_(layer), images_(images), begin_(begin), end_(end) {
    const auto count = static_cast<std::size_t>(end - begin);
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

  void render(std::int32_t y, std::uint32_t* words) {
    const int count = end_ - begin_;
    const Points points{x_.data(), y_.data(), wx_.data(), wy_.data()};
    map_row(layer_, from_, y, step_, count, points);
    const std::int32_t* const xs = points.x;
    const std::int32_t* const ys = points.y;
    words += begin_;
    for (int i = 0; i < count;) {
      const int first = i;
      if (ys[i] == kOutside) {
        while (i < count && ys[i] == kOutside) ++i;
        std::fill(words + first, words + i, kFillWord);
        continue;
      }
      const Region region = region_at(xs[i], ys[i]);
      const std::uint32_t width = static_cast<std::uint32_t>(region.x2 - region.x1);
      const std::uint32_t height = static_cast<std::uint32_t>(region.y2 - region.y1);
      while (i < count && static_cast<std::uint32_t>(xs[i] - region.x1) < width &&
             static_cast<std::uint32_t>(ys[i] - region.y1) < height)
        ++i;
      if (i == first) {  // its neighbours lie in different regions
        words[i] = slow(from_ + step_ * i, y);
        ++i;
      } else if (region.tile < 0) {
        std::fill(words + first, words + i, kFillWord);
      } else {
        const Tile& tile = layer_.tiles[region.tile];
        const ImageView& image = images_[region.tile];
        const std::int64_t stride = 3 * static_cast<std::int64_t>(image.width);
        interpolate_run(image.pixels - tile.y0 * stride - 3 * std::int64_t{tile.x0}, stride, points,
                        first, i, down_y_ * stride + 3 * down_x_, words);
      }
    }
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

  // Canvas pixels [x1, x2) x [y1, y2) whose four neighbours all show the same tile, or none (-1).
  struct Region {
    std::int32_t x1, y1, x2, y2;
    int tile;
  };

  // The region around a canvas pixel; empty when the pixel lies on a seam. The last row of an image
  // is left out: two bytes after a pixel are then its image's.
  Region region_at(std::int32_t x, std::int32_t y) const {
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

  std::uint32_t slow(std::int32_t x, std::int32_t y) const {
    const Rgb pixel = sample(layer_, images_, x, y);
    return static_cast<std::uint32_t>(pixel.r | pixel.g << 8 | pixel.b << 16);
  }

  const Layer& layer_;
  const ImageView* images_;
  std::int32_t begin_, end_;
  std::int32_t from_, step_;      // first column before the flip, and the way from there
  std::int64_t down_x_, down_y_;  // canvas pixels from a row to the one kRowsAhead later
  bool hidden_[kMaxTiles]{};
  std::vector<std::int32_t> x_, y_;
  std::vector<float> wx_, wy_;
};

// Rows of one layer, by whichever way fits it.
class LayerRows {
 public:
  LayerRows(const Recipe& recipe, const Sources& sources, int layer, std::int32_t begin,
            std::int32_t end) {
    const Layer& which = recipe.layers[layer];
    const ImageView* images = sources.images[layer];
    const bool fliplr = recipe.fliplr != 0;
    if (AxisRows::fits(which))
      axis_.emplace(which, images, recipe.width, fliplr, recipe.flipud != 0, begin, end);
    else
      free_.emplace(which, images, recipe.width, fliplr, begin, end);
  }

  void render(std::int32_t y, std::uint32_t* words) {
    if (axis_) return axis_->render(y, words);
    free_->render(y, words);
  }

 private:
  std::optional<AxisRows> axis_;
  std::optional<FreeRows> free_;
};

}  // namespace

void render_cpu(const Recipe& recipe, const Sources& sources, std::uint8_t* out) {
  const std::int32_t width = recipe.width, height = recipe.height;
  const auto columns = static_cast<std::size_t>(width);
  std::vector<std::uint32_t> words(columns), others;
  LayerRows base(recipe, sources, 0, 0, width);
  std::optional<LayerRows> mixup, cutmix;
  if (recipe.mixup_layer != kNoLayer) {
    others.resize(columns);
    mixup.emplace(recipe, sources, recipe.mixup_layer, 0, width);
  }
  if (recipe.cutmix_layer != kNoLayer) {
    const std::int32_t x1 = recipe.fliplr ? width - recipe.cut_x2 : recipe.cut_x1;
    const std::int32_t x2 = recipe.fliplr ? width - recipe.cut_x1 : recipe.cut_x2;
    cutmix.emplace(recipe, sources, recipe.cutmix_layer, x1, x2);
  }
  const std::size_t plane = columns * static_cast<std::size_t>(height);
  for (std::int32_t y = 0; y < height; ++y) {
    const std::int32_t row = unflip(y, height, recipe.flipud);
    base.render(row, words.data());
    if (mixup) {
      mixup->render(row, others.data());
      mix_rows(words.data(), others.data(), recipe.mixup_ratio, width);
    }
    if (cutmix && row >= recipe.cut_y1 && row < recipe.cut_y2) cutmix->render(row, words.data());
    std::uint8_t* red = out + static_cast<std::size_t>(y) * columns;
    std::uint8_t* blue = red + 2 * plane;
    if (recipe.bgr) std::swap(red, blue);
    std::uint8_t* green = out + plane + static_cast<std::size_t>(y) * columns;
    if (recipe.hsv.enabled) jitter_row(words.data(), recipe.hsv, width);
    split_row(words.data(), width, red, green, blue);
  }
  finish_picture();
}

void render_reference(const Recipe& recipe, const Sources& sources, std::uint8_t* out) {
  const std::int64_t plane = static_cast<std::int64_t>(recipe.width) * recipe.height;
  for (std::int32_t y = 0; y < recipe.height; ++y)
    for (std::int32_t x = 0; x < recipe.width; ++x) {
      const Rgb pixel = shade(recipe, sources, x, y);
      std::uint8_t* at = out + static_cast<std::int64_t>(y) * recipe.width + x;
      at[0] = static_cast<std::uint8_t>(pixel.r);
      at[plane] = static_cast<std::uint8_t>(pixel.g);
      at[2 * plane] = static_cast<std::uint8_t>(pixel.b);
    }
}

}  // namespace yolodata
