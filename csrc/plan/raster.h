// Polygons to pixels.
//
// Note [inside]. A pixel belongs to a polygon when OpenCV's fillPoly says so, which both of
// upstream's uses of polygons go by, pasting and training masks: corners are cut down to whole
// pixels, edges are drawn as 8-connected lines, and between them a row is filled by the even-odd
// rule, where edges cross it in 16.16 fixed point. Self-crossing polygons have holes.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace yolodata {

// Pixels [x1, x2) of row y.
struct Run {
  std::int32_t y, x1, x2;
};

// Fills polygons of pictures of one size.
class Raster {
 public:
  // `where` the polygons are from, for messages.
  Raster(std::int32_t width, std::int32_t height, std::string where)
      : width_(width), height_(height), where_(std::move(where)) {}

  // Appends the runs of a polygon (x, y pairs) to `runs`, in any order and overlapping. Throws
  // LabelError where edges that cross the picture again and again would take memory or time without
  // end.
  void fill(std::span<const float> outline, std::vector<Run>& runs);

 private:
  struct Point {
    std::int32_t x, y;
  };
  struct Crossing {
    std::int32_t y;
    std::int64_t x;  // 16.16
  };

  bool inside(Point point) const;
  void find_points(std::span<const float> outline);
  void add_pixel(Point point, std::vector<Run>& runs) const;
  bool clip(Point& a, Point& b) const;  // to the picture; false: nothing of the line is in it
  void line(Point a, Point b, std::vector<Run>& runs) const;
  void emit(std::int32_t y, std::int64_t x1, std::int64_t x2, std::vector<Run>& runs) const;

  std::int32_t width_, height_;
  std::string where_;
  std::int64_t steps_ = 0;  // along edges, of all polygons
  std::vector<Point> points_;
  std::vector<Crossing> crossings_;
};

// Sorts runs by row and column and joins those that touch.
void merge(std::vector<Run>& runs);

// Runs in order of rows as LayerSources::mask has them: the rows' beginnings, then the runs.
std::vector<std::int32_t> packed(const std::vector<Run>& runs, std::int32_t height);

// Shrinks shapes of {0, 1} by `ratio` as OpenCV's linear resize does: of the two rows and columns
// around the centre of each pixel, half or more must be set.
class Shrink {
 public:
  Shrink(std::int32_t width, std::int32_t height, std::int32_t ratio);

  std::int32_t width() const { return static_cast<std::int32_t>(columns_.size()); }
  std::int32_t height() const { return static_cast<std::int32_t>(rows_.size()); }

  // The shrunk shape, whose runs do not overlap.
  std::vector<Run> operator()(std::span<const Run> runs);

 private:
  // The second of two neighbours counts `weight` 2048ths, the first one the rest.
  struct Tap {
    std::int32_t first, weight;
  };
  static std::vector<Tap> taps(std::int32_t size, std::int32_t count);

  std::vector<Tap> rows_, columns_;
  std::int32_t stride_;
  std::vector<std::int32_t> slots_;  // of each full row: where it is in `lines_`, or -1
  std::vector<std::uint8_t> lines_;  // rows that are looked at, two for each row of the result
};

}  // namespace yolodata
