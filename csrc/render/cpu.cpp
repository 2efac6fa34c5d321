// Pictures on a CPU thread, one output row at a time: shade.h's operations in shade.h's order, or
// such as are proven to give the same bytes.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <utility>

#include "core/aligned_vector.h"
#include "render/colour_jitter.h"
#include "render/render.h"
#include "render/row_ops.h"
#include "render/warp_axis_aligned.h"
#include "render/warp_general.h"

namespace yolodata {
namespace {

// A row of pixels in memory: loops may write up to a block past its end.
class PlaneRow {
 public:
  explicit PlaneRow(int count)
      : stride_(whole_lines(static_cast<std::size_t>(whole_blocks(count) + kBlock))),
        bytes_(3 * stride_) {}

  Planes planes() { return {{bytes_.data(), bytes_.data() + stride_, &bytes_[2 * stride_]}}; }

 private:
  std::size_t stride_;
  AlignedVector<std::uint8_t> bytes_;
};

// Rows of one layer, by whichever way fits it, and of the one that is pasted from over them.
class LayerRows {
 public:
  LayerRows(const Recipe& recipe, const Sources& sources, int layer, std::int32_t begin,
            std::int32_t end)
      : recipe_(recipe), mask_(sources.layers[layer].mask), begin_(begin), end_(end) {
    const Layer& which = recipe.layers[layer];
    const LayerSources& its = sources.layers[layer];
    const bool fliplr = recipe.finish.fliplr != 0;
    if (keeps_axes(which))
      axis_.emplace(which, its, recipe.width, fliplr, recipe.finish.flipud != 0, begin, end);
    else
      free_.emplace(which, its, recipe.width, fliplr, begin, end);
    if (which.paste_from < 0) return;
    pasted_ = std::make_unique<LayerRows>(recipe, sources, which.paste_from, begin, end);
    scratch_.emplace(recipe.width);
  }

  // May overwrite what lies right of the layer's columns, up to a block.
  void render(std::int32_t y, const Planes& row) {
    if (axis_)
      axis_->render(y, row);
    else
      free_->render(y, row);
    if (pasted_ && mask_[y] < mask_[y + 1]) paste(y, row);
  }

 private:
  void paste(std::int32_t y, const Planes& row) {
    const Planes from = scratch_->planes();
    pasted_->render(y, from);
    const std::int32_t* const runs = mask_ + recipe_.height + 1;
    for (std::int32_t i = mask_[y]; i < mask_[y + 1]; ++i) {
      std::int32_t x1 = runs[2 * i], x2 = runs[2 * i + 1];
      if (recipe_.finish.fliplr) x1 = recipe_.width - std::exchange(x2, recipe_.width - x1);
      x1 = std::max(x1, begin_);
      x2 = std::min(x2, end_);
      for (int c = 0; x1 < x2 && c < 3; ++c)
        std::copy(from.channel[c] + x1, from.channel[c] + x2, row.channel[c] + x1);
    }
  }

  const Recipe& recipe_;
  const std::int32_t* mask_;
  std::int32_t begin_, end_;
  std::optional<AxisAlignedWarp> axis_;
  std::optional<GeneralWarp> free_;
  std::unique_ptr<LayerRows> pasted_;
  std::optional<PlaneRow> scratch_;
};

}  // namespace

void render_cpu(const Recipe& recipe, const Sources& sources, std::uint8_t* out) {
  const std::int32_t width = recipe.width, height = recipe.height;
  const auto columns = static_cast<std::size_t>(width);
  PlaneRow row(width), other(width);
  const Planes pixels = row.planes(), others = other.planes();
  LayerRows base(recipe, sources, 0, 0, width);
  std::optional<LayerRows> mixup, cutmix;
  const Mixing mixing = find_mixing(recipe.mixup_ratio);
  if (recipe.mixup_layer != kNoLayer) mixup.emplace(recipe, sources, recipe.mixup_layer, 0, width);
  std::int32_t x1 = 0, x2 = 0;  // of the cut in the finished picture, if there is one
  if (recipe.cutmix_layer != kNoLayer) {
    x1 = recipe.finish.fliplr ? width - recipe.cut_x2 : recipe.cut_x1;
    x2 = recipe.finish.fliplr ? width - recipe.cut_x1 : recipe.cut_x2;
    cutmix.emplace(recipe, sources, recipe.cutmix_layer, x1, x2);
  }
  std::optional<ColourJitter> jitter;
  if (recipe.finish.hsv.enabled) jitter.emplace(recipe.finish.hsv);
  const std::size_t plane = columns * static_cast<std::size_t>(height);
  for (std::int32_t y = 0; y < height; ++y) {
    const std::int32_t line = unflip(y, height, recipe.finish.flipud);
    base.render(line, pixels);
    if (mixup) {
      mixup->render(line, others);
      mix_rows(pixels, others, mixing, whole_blocks(width));
    }
    if (cutmix && line >= recipe.cut_y1 && line < recipe.cut_y2) {
      cutmix->render(line, others);
      for (int c = 0; c < 3; ++c)
        std::copy(others.channel[c] + x1, others.channel[c] + x2, pixels.channel[c] + x1);
    }
    if (jitter) jitter_row(*jitter, pixels, whole_blocks(width));
    std::uint8_t* red = out + static_cast<std::size_t>(y) * columns;
    std::uint8_t* blue = red + 2 * plane;
    if (recipe.finish.bgr) std::swap(red, blue);
    store_row(pixels.channel[0], width, red);
    store_row(pixels.channel[1], width, out + plane + static_cast<std::size_t>(y) * columns);
    store_row(pixels.channel[2], width, blue);
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
