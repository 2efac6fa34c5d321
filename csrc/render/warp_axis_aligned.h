// Rows of layers that neither rotate nor shear: most of them. Their columns map to the same canvas
// columns in every row, so that canvas rows are blended across once, for all output rows that see
// them, and then two of them down: shade.h's operations in shade.h's order.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/aligned_vector.h"
#include "render/row_ops.h"
#include "render/shade.h"

namespace yolodata {

// Columns [begin, end) of a canvas row that show one tile, or kNoTile.
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
class AxisAlignedWarp {
 public:
  // For output columns [begin, end) of a picture of `width`, mirrored if `fliplr`.
  AxisAlignedWarp(const Layer& layer, const LayerSources& sources, std::int32_t width, bool fliplr,
                  bool flipud, std::int32_t begin, std::int32_t end)
      : layer_(layer),
        sources_(sources),
        mirrored_(layer),
        width_(width),
        fliplr_(fliplr),
        begin_(begin),
        count_(whole_blocks(end - begin)),
        lines_{Line(layer), Line(layer)},
        next_row_(
            std::max(static_cast<int>(std::min(std::abs(layer.inverse[4]), 99.0f) + 0.5f), 1)) {
    if (flipud != (layer.inverse[4] < 0.0f)) next_row_ = -next_row_;
    if (count_ == 0) return;
    const auto count = static_cast<std::size_t>(count_);
    lefts_.resize(count);
    weights_.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
      const std::int32_t x = std::min(begin + static_cast<std::int32_t>(i), end - 1);
      const float at = to_canvas(layer, unflip(x, width, fliplr), 0).x;
      if (at > -1.0f && at < static_cast<float>(layer.width)) {
        const auto [left, weight] = between(at);
        lefts_[i] = left;
        weights_[i] = weight;
        short_weights_ &= is_short(weights_[i]);
      } else {  // two neighbours off the canvas, on the right side
        lefts_[i] = at >= static_cast<float>(layer.width) ? layer.width : kOutside;
      }
    }
    const auto [least, most] = std::minmax_element(lefts_.begin(), lefts_.end());
    left_ = *least;
    right_ = *most + 2;
    for (std::int32_t& left : lefts_) left -= left_;
    starts_.resize(count / 4);
    picks_.resize(4 * count);
    exact_.resize(count / kBlock);
    pairs_.resize(count);
    columns_ = {count_,  lefts_.data(),   weights_.data(), nullptr,
                nullptr, Columns::kApart, nullptr,         nullptr};
    find_picks(columns_, starts_.data(), picks_.data());
    find_exact(columns_, exact_.data(), pairs_.data());
    line_stride_ = whole_lines(static_cast<std::size_t>(right_ - left_ + kPicked));
    line_.resize(3 * line_stride_);
    for (Line& line : lines_) {
      line.values.resize(3 * count);
      line.empty.resize(count / kBlock);
    }
    find_runs();
    doubtful_.resize(3 * count);
  }

  // May overwrite what is right of the columns, up to the end of a block.
  void render(std::int32_t y, const Planes& row) {
    if (count_ == 0) return;
    const Planes out = row.from(begin_);
    const float at = to_canvas(layer_, 0, y).y;
    if (!(at > -1.0f && at < static_cast<float>(layer_.height))) return fill(out, 0, count_);
    const auto [iy, weight] = between(at);
    const Line& top = line_of(iy);
    const Line& bottom = weight == 0.0f ? top : line_of(iy + 1);
    for (const Run& run : runs_)
      if (run.empty)
        fill(out, run.first, run.last);
      else
        blend(top, bottom, weight, y, run.first, run.last, out);
  }

 private:
  // A canvas row, blended across.
  struct Line {
    explicit Line(const Layer& layer) : band(layer) {}

    std::int32_t row = INT32_MIN;
    Band band;
    std::vector<std::uint8_t> empty;  // whether a block of columns sees nothing but fill
    AlignedVector<float> values;
  };

  static void fill(const Planes& out, int first, int last) {
    for (std::uint8_t* channel : out.channel)
      std::fill(channel + first, channel + last, static_cast<std::uint8_t>(kFill));
  }

  // Note [order of blends]. Where the processor has fused multiply-add, these are shade.h's
  // operations. The loops for those without round products too: the results differ by less than
  // 6.2e-5 (at most half a unit in the last place of 255 per rounding, of which a value has seen
  // five here and three there), so they can only be different bytes within that of a tie: there
  // shade.h is asked. Weights of at most seven bits make no rounding error at all, and many true
  // ties.
  void blend(const Line& top, const Line& bottom, float weight, std::int32_t y, int first, int last,
             const Planes& out) {
    constexpr float kTolerance = 1.0f / 8192.0f;
    const int count = blend_rows(
        top.values.data() + first, bottom.values.data() + first, count_, weight, last - first,
        short_weights_ && is_short(weight) ? 0.0f : kTolerance, out.from(first), doubtful_.data());
    for (int i = 0; i < count; ++i) {
      const int at = first + doubtful_[static_cast<std::size_t>(i)];
      const Rgb pixel = sample(layer_, sources_, unflip(begin_ + at, width_, fliplr_), y);
      out.channel[0][at] = static_cast<std::uint8_t>(pixel.r);
      out.channel[1][at] = static_cast<std::uint8_t>(pixel.g);
      out.channel[2][at] = static_cast<std::uint8_t>(pixel.b);
    }
  }

  static bool is_short(float weight) {
    return weight * 128.0f == static_cast<float>(static_cast<int>(weight * 128.0f));
  }

  // Kept until the second next row is asked for: when rows are spread, several outputs share one.
  const Line& line_of(std::int32_t row) {
    Line& line = lines_[row & 1];
    if (line.row == row) return line;
    const bool same_band = line.band.covers(row);
    const auto& spans = line.band.at(row, left_, right_);
    if (!same_band) find_empty(spans, line);
    line.row = row;
    const Planes planes{{line_.data(), &line_[line_stride_], &line_[2 * line_stride_]}};
    for (const Span& span : spans) {
      const Planes out = planes.from(span.begin - left_);
      const int count = span.end - span.begin;
      if (span.tile < 0)
        fill(out, 0, count);
      else
        split_pixels(pixel_of(layer_, sources_, span.tile, span.begin, row), count,
                     next_row_ * 3 * std::ptrdiff_t{sources_.images[span.tile].width}, out);
    }
    if (layer_.paste_from == kMirror) paste(row, planes);
    resample_row(planes, columns_, line.empty.data(), line.values.data());
    return line;
  }

  // What is pasted over a canvas row comes from the other end of the same row.
  void paste(std::int32_t row, const Planes& planes) {
    if (!in_mask(sources_.mask, layer_.height, left_, right_, row)) return;
    const std::int32_t* const runs = sources_.mask + layer_.height + 1;
    const std::int32_t last = layer_.width - 1;
    for (std::int32_t i = sources_.mask[row]; i < sources_.mask[row + 1]; ++i) {
      const std::int32_t x1 = std::max(runs[2 * i], left_), x2 = std::min(runs[2 * i + 1], right_);
      for (const Span& span : mirrored_.at(row, 0, layer_.width)) {
        const std::int32_t begin = std::max(x1, last - span.end + 1);
        const std::int32_t end = std::min(x2, last - span.begin + 1);
        if (begin >= end) continue;
        if (span.tile < 0) {
          fill(planes, begin - left_, end - left_);
          continue;
        }
        const std::uint8_t* p = pixel_of(layer_, sources_, span.tile, last - begin, row);
        for (std::int32_t x = begin; x < end; ++x, p -= 3)
          for (int c = 0; c < 3; ++c) planes.channel[c][x - left_] = p[c];
      }
    }
  }

  // Empty blocks are the same in all rows of a band, unless something may be pasted over them.
  void find_empty(const std::vector<Span>& spans, Line& line) {
    if (layer_.paste_from == kMirror) return;
    for (const Span& span : spans)
      std::fill(&line_[0] + (span.begin - left_), &line_[0] + (span.end - left_),
                static_cast<std::uint8_t>(span.tile < 0));
    for (std::size_t block = 0; block < line.empty.size(); ++block) {
      const auto first = lefts_.begin() + static_cast<std::ptrdiff_t>(block * kBlock);
      line.empty[block] = std::all_of(first, first + kBlock, [this](std::int32_t left) {
        return line_[static_cast<std::size_t>(left)] && line_[static_cast<std::size_t>(left) + 1];
      });
      if (!line.empty[block]) continue;
      for (int c = 0; c < 3; ++c)
        std::fill_n(line.values.begin() + c * count_ + static_cast<std::ptrdiff_t>(block * kBlock),
                    kBlock, static_cast<float>(kFill));
    }
    find_runs();
  }

  void find_runs() {
    const auto empty = [this](int i) {
      const auto block = static_cast<std::size_t>(i / kBlock);
      return lines_[0].empty[block] && lines_[1].empty[block];
    };
    runs_.clear();
    for (int i = 0; i < count_;) {
      const int first = i;
      while (i < count_ && empty(i) == empty(first)) i += kBlock;
      runs_.push_back({first, i, empty(first) != 0});
    }
  }

  const Layer& layer_;
  const LayerSources& sources_;
  Band mirrored_;  // spans of whole canvas rows, for what is pasted
  std::int32_t width_;
  bool fliplr_;
  std::int32_t begin_;
  int count_;  // columns, in whole blocks
  std::vector<std::int32_t> lefts_, starts_;
  AlignedVector<float> weights_;
  AlignedVector<std::uint8_t> picks_;
  std::vector<std::uint8_t> exact_;
  AlignedVector<std::uint32_t> pairs_;  // of weights
  Columns columns_{};
  bool short_weights_ = true;
  std::int32_t left_ = 0, right_ = 0;  // canvas columns that the output columns need
  Line lines_[2];
  // Columns [first, last) of which both lines see nothing but fill, or not.
  struct Run {
    int first, last;
    bool empty;
  };
  std::vector<Run> runs_;
  int next_row_;  // about how many canvas rows there are from an output row to the next
  std::size_t line_stride_ = 0;
  AlignedVector<std::uint8_t> line_;  // a canvas row, channel by channel
  std::vector<std::int32_t> doubtful_;
};

}  // namespace yolodata
