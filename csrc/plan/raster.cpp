#include "plan/raster.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <numeric>

#include "plan/label_table.h"

namespace yolodata {

namespace {

constexpr int kShift = 16;
constexpr std::int64_t kOne = std::int64_t{1} << kShift;

// Limits that no outline of things comes near: all pixels of a picture of 4096 x 4096 pixels, and
// sixteen times around them.
constexpr std::int64_t kMostRuns = std::int64_t{1} << 24;
constexpr std::int64_t kMostSteps = std::int64_t{1} << 28;

// Labels may have any finite number, and perspective any at all. What is this far outside may be
// anywhere there, but sums and products of whole pixels must fit into integers.
constexpr float kFar = 1 << 28;

bool is_far(std::span<const float> outline) {
  std::uint32_t far = 0;
  for (const float at : outline) far |= std::abs(at) <= kFar ? 0u : 1u;  // a NaN is, too
  return far != 0;
}

[[noreturn]] void fail_crossing(const std::string& where, std::size_t points) {
  throw LabelError(where + ": column polygon: outlines of one picture cross it too often (" +
                   std::to_string(points) + " points in one of them); pack simpler ones");
}

// Sorts by row and then by column: rows are counted, because each has few items.
template <typename T, typename Column>
void sort_rows(std::vector<T>& items, Column column) {
  if (items.empty()) return;
  const auto [low, high] = std::minmax_element(items.begin(), items.end(),
                                               [](const T& a, const T& b) { return a.y < b.y; });
  const std::int32_t top = low->y;
  std::vector<std::size_t> ends(static_cast<std::size_t>(high->y - top) + 2);
  for (const T& item : items) ++ends[static_cast<std::size_t>(item.y - top) + 1];
  std::partial_sum(ends.begin(), ends.end(), ends.begin());
  std::vector<T> sorted(items.size());
  for (const T& item : items) sorted[ends[static_cast<std::size_t>(item.y - top)]++] = item;
  auto first = sorted.begin();  // by now, each row ends where its successor began
  for (std::size_t row = 0; row + 1 < ends.size(); ++row) {
    const auto last = sorted.begin() + static_cast<std::ptrdiff_t>(ends[row]);
    if (last - first == 2) {  // most are
      if (column(first[1]) < column(first[0])) std::swap(first[0], first[1]);
    } else {
      std::sort(first, last, [&](const T& a, const T& b) { return column(a) < column(b); });
    }
    first = last;
  }
  items.swap(sorted);
}

}  // namespace

void Raster::emit(std::int32_t y, std::int64_t x1, std::int64_t x2, std::vector<Run>& runs) const {
  x1 = std::max<std::int64_t>(x1, 0);
  x2 = std::min<std::int64_t>(x2, width_);
  if (x1 < x2) runs.push_back({y, static_cast<std::int32_t>(x1), static_cast<std::int32_t>(x2)});
}

// Prolongs the run before, if it can: outlines go on in a row now and then.
void Raster::add_pixel(Point point, std::vector<Run>& runs) const {
  if (!runs.empty()) {
    Run& last = runs.back();
    if (last.y == point.y && point.x >= last.x1 - 1 && point.x <= last.x2) {
      last.x1 = std::min(last.x1, point.x);
      last.x2 = std::max(last.x2, point.x + 1);
      return;
    }
  }
  runs.push_back({point.y, point.x, point.x + 1});
}

bool Raster::inside(Point point) const {
  return point.x >= 0 && point.x < width_ && point.y >= 0 && point.y < height_;
}

// Cohen and Sutherland's clipping to whole pixels: rows first, each cut towards the end it is of.
bool Raster::clip(Point& a, Point& b) const {
  const auto cut = [](std::int32_t Point::* along, std::int32_t Point::* other, Point& end,
                      const Point& start, std::int32_t last) {
    const std::int32_t border = end.*along < 0 ? 0 : last;
    if (end.*along == std::clamp(end.*along, 0, last)) return;
    end.*other +=
        static_cast<std::int32_t>(static_cast<double>(border - end.*along) *
                                  (start.*other - end.*other) / (start.*along - end.*along));
    end.*along = border;
  };
  const std::int32_t right = width_ - 1, bottom = height_ - 1;
  const auto apart = [](std::int32_t p, std::int32_t q, std::int32_t last) {
    return (p < 0 && q < 0) || (p > last && q > last);
  };
  if (apart(a.x, b.x, right) || apart(a.y, b.y, bottom)) return false;
  cut(&Point::y, &Point::x, a, b, bottom);
  cut(&Point::y, &Point::x, b, a, bottom);
  if (apart(a.x, b.x, right)) return false;
  cut(&Point::x, &Point::y, a, b, right);
  cut(&Point::x, &Point::y, b, a, right);
  return true;
}

// Bresenham's line from the left end to the right one, both in the picture.
void Raster::line(Point a, Point b, std::vector<Run>& runs) const {
  if (b.x < a.x) std::swap(a, b);
  const std::int32_t dx = b.x - a.x, dy = std::abs(b.y - a.y), down = b.y < a.y ? -1 : 1;
  std::int32_t x = a.x, y = a.y;
  if (dx >= dy) {
    std::int32_t error = dx - 2 * dy, from = x;
    for (; x <= b.x; ++x, error -= 2 * dy)
      if (error < 0 || x == b.x) {
        runs.push_back({y, from, x + 1});
        from = x + 1;
        y += down;
        error += 2 * dx;
      }
  } else {
    std::int32_t error = dy - 2 * dx;
    for (std::int32_t i = 0; i <= dy; ++i, y += down, error -= 2 * dx) {
      runs.push_back({y, x, x + 1});
      if (error < 0) {
        ++x;
        error += 2 * dy;
      }
    }
  }
}

// Corners in whole pixels, one of those that follow each other in the same pixel.
void Raster::find_points(std::span<const float> outline) {
  points_.resize(outline.size() / 2);
  const auto convert = [&](auto whole_pixel) {
    for (std::size_t i = 0; i < points_.size(); ++i)
      points_[i] = {whole_pixel(outline[2 * i]), whole_pixel(outline[2 * i + 1])};
  };
  if (is_far(outline))
    convert(
        [](float at) { return static_cast<std::int32_t>(std::min(std::max(-kFar, at), kFar)); });
  else
    convert([](float at) { return static_cast<std::int32_t>(at); });
  if (points_.empty()) return;
  std::size_t kept = 0;
  Point last{~points_[0].x, 0};
  for (const Point point : points_) {  // without a branch: nobody could foresee it
    const std::int32_t differ = (point.x ^ last.x) | (point.y ^ last.y);
    points_[kept] = last = point;
    kept += differ != 0 ? 1 : 0;
  }
  points_.resize(kept);
}

void Raster::fill(std::span<const float> outline, std::vector<Run>& runs) {
  find_points(outline);
  crossings_.clear();
  if (points_.empty()) return;
  // Each step along an edge makes a run and a crossing at most.
  std::int64_t left = std::min(kMostSteps - steps_, kMostRuns - std::ssize(runs));
  steps_ += left;
  left -= std::ssize(points_);
  if (left < 0) fail_crossing(where_, outline.size() / 2);
  Point a = points_.back();
  for (const Point b : points_) {
    const bool is_step = std::abs(b.x - a.x) <= 1 && std::abs(b.y - a.y) <= 1;
    if (is_step && inside(a) && inside(b)) {
      add_pixel(b, runs);  // the other end belongs to the edge before
      if (a.y != b.y) crossings_.push_back({std::min(a.y, b.y), (a.y < b.y ? a.x : b.x) * kOne});
      a = b;
      continue;
    }
    Point from = a, to = b;  // as far as the picture goes
    const std::int32_t top = std::min(a.y, b.y), bottom = std::max(a.y, b.y);
    left -= std::max(std::min(bottom, height_) - std::max(top, 0), 0);
    if ((inside(a) && inside(b)) || clip(from, to)) {
      left -= std::abs(to.x - from.x);
      line(from, to, runs);
    }
    if (left < 0) fail_crossing(where_, outline.size() / 2);
    if (a.y != b.y) {
      if (from.y == to.y) from.y = a.y, to.y = b.y;
      const std::int64_t step = (std::int64_t{to.x} - from.x) * kOne / (to.y - from.y);
      for (std::int32_t y = std::max(top, 0); y < std::min(bottom, height_); ++y)
        crossings_.push_back({y, from.x * kOne + (y - from.y) * step});
    }
    a = b;
  }
  steps_ -= left;
  sort_rows(crossings_, [](const Crossing& crossing) { return crossing.x; });
  for (std::size_t i = 0; i + 1 < crossings_.size(); i += 2)
    emit(crossings_[i].y, (crossings_[i].x + kOne - 1) >> kShift,
         (crossings_[i + 1].x >> kShift) + 1, runs);
}

void merge(std::vector<Run>& runs) {
  sort_rows(runs, [](const Run& run) { return run.x1; });
  std::size_t kept = 0;
  for (const Run& run : runs) {
    if (kept > 0 && runs[kept - 1].y == run.y && run.x1 <= runs[kept - 1].x2)
      runs[kept - 1].x2 = std::max(runs[kept - 1].x2, run.x2);
    else
      runs[kept++] = run;
  }
  runs.resize(kept);
}

std::vector<std::int32_t> packed(const std::vector<Run>& runs, std::int32_t height) {
  std::vector<std::int32_t> mask(static_cast<std::size_t>(height) + 1);
  mask.reserve(mask.size() + 2 * runs.size());
  for (const Run& run : runs) {
    ++mask[static_cast<std::size_t>(run.y) + 1];
    mask.push_back(run.x1);
    mask.push_back(run.x2);
  }
  std::partial_sum(mask.begin(), mask.begin() + height + 1, mask.begin());
  return mask;
}

std::vector<Shrink::Tap> Shrink::taps(std::int32_t size, std::int32_t count) {
  const double scale = static_cast<double>(size) / count;
  std::vector<Tap> found(static_cast<std::size_t>(count));
  for (std::int32_t i = 0; i < count; ++i) {
    const float at = static_cast<float>((i + 0.5) * scale - 0.5);
    const float before = std::floor(at);
    Tap tap{static_cast<std::int32_t>(before),
            static_cast<std::int32_t>(std::lrint((at - before) * 2048))};
    if (tap.first < 0) tap = {0, 0};
    if (tap.first >= size - 1) tap = {size - 1, 0};
    found[static_cast<std::size_t>(i)] = tap;
  }
  return found;
}

Shrink::Shrink(std::int32_t width, std::int32_t height, std::int32_t ratio)
    : rows_(taps(height, std::max(height / ratio, 1))),
      columns_(taps(width, std::max(width / ratio, 1))),
      stride_(width + 1),
      slots_(static_cast<std::size_t>(height), -1) {
  std::int32_t count = 0;
  for (const Tap& tap : rows_)
    for (const std::int32_t row : {tap.first, std::min(tap.first + 1, height - 1)})
      if (slots_[static_cast<std::size_t>(row)] < 0)
        slots_[static_cast<std::size_t>(row)] = count++;
  lines_.resize(static_cast<std::size_t>(count) * static_cast<std::size_t>(stride_));
}

std::vector<Run> Shrink::operator()(std::span<const Run> runs) {
  std::vector<Run> result;
  const auto at = [this](std::int32_t row) {
    return slots_[static_cast<std::size_t>(row)] < 0
               ? nullptr
               : lines_.data() +
                     std::int64_t{slots_[static_cast<std::size_t>(row)]} * std::int64_t{stride_};
  };
  std::int32_t top = INT32_MAX, bottom = -1, left = INT32_MAX, right = -1;
  for (const Run& run : runs) {
    std::uint8_t* const line = at(run.y);
    if (line == nullptr) continue;
    if (run.x2 - run.x1 == 1)  // as most are, of edges
      line[run.x1] = 1;
    else
      std::fill(line + run.x1, line + run.x2, std::uint8_t{1});
    top = std::min(top, run.y);
    bottom = std::max(bottom, run.y);
    left = std::min(left, run.x1);
    right = std::max(right, run.x2 - 1);
  }
  if (bottom < 0) return result;
  const std::int32_t last_row = static_cast<std::int32_t>(slots_.size()) - 1;
  const auto from = [](const std::vector<Tap>& taps, std::int32_t edge) {  // sees `edge` or more
    return std::partition_point(taps.begin(), taps.end(),
                                [edge](const Tap& tap) { return tap.first + 1 < edge; }) -
           taps.begin();
  };
  const auto columns = static_cast<std::ptrdiff_t>(columns_.size());
  for (auto row = from(rows_, top); row < static_cast<std::ptrdiff_t>(rows_.size()); ++row) {
    const Tap& tap = rows_[static_cast<std::size_t>(row)];
    if (tap.first > bottom) break;
    const std::uint8_t* const p = at(tap.first);
    const std::uint8_t* const q = at(std::min(tap.first + 1, last_row));
    std::int32_t begin = -1;
    auto column = from(columns_, left);
    for (; column < columns; ++column) {
      const Tap& across = columns_[static_cast<std::size_t>(column)];
      if (across.first > right) break;
      const std::int32_t x = across.first, a = 2048 - across.weight, b = across.weight;
      const int sum = p[x] + p[x + 1] + q[x] + q[x + 1];
      bool set = sum == 4;
      if (sum % 4 != 0) {  // on an edge
        const std::int32_t above = (2048 - tap.weight) * ((p[x] * a + p[x + 1] * b) >> 4) >> 16;
        const std::int32_t below = tap.weight * ((q[x] * a + q[x + 1] * b) >> 4) >> 16;
        set = above + below >= 2;
      }
      if (set && begin < 0) begin = static_cast<std::int32_t>(column);
      if (!set && begin >= 0) {
        result.push_back(
            {static_cast<std::int32_t>(row), begin, static_cast<std::int32_t>(column)});
        begin = -1;
      }
    }
    if (begin >= 0)
      result.push_back({static_cast<std::int32_t>(row), begin, static_cast<std::int32_t>(column)});
  }
  for (std::int32_t y = top; y <= bottom; ++y)  // clean again for the next shape
    if (std::uint8_t* const line = at(y)) std::fill(line + left, line + right + 1, std::uint8_t{0});
  return result;
}

}  // namespace yolodata
