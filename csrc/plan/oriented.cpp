#include "plan/oriented.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numbers>
#include <tuple>
#include <utility>

#include "core/polygon.h"

namespace yolodata {
namespace {

struct Vertex {
  double x, y;
  int number = 0;  // of the point it is
};
using Vertices = std::vector<Vertex>;

double cross(const Vertex& o, const Vertex& a, const Vertex& b) {
  return (a.x - o.x) * (b.y - o.y) - (a.y - o.y) * (b.x - o.x);
}

// Corners of the convex hull in order, beginning where their numbers rise or fall all the way, or
// else at the right: as OpenCV's, because rounding may decide by the order (see Calipers).
void begin_as_opencv(Vertices& hull) {
  const auto rotate_to = [&hull](auto first) { std::rotate(hull.begin(), first, hull.end()); };
  const auto x = [](const Vertex& a, const Vertex& b) {
    return std::tie(a.x, a.y) < std::tie(b.x, b.y);
  };
  const auto number = [](const Vertex& a, const Vertex& b) { return a.number < b.number; };
  rotate_to(std::max_element(hull.begin(), hull.end(), x));
  const Vertices from_right = hull;
  rotate_to(std::min_element(hull.begin(), hull.end(), number));
  if (std::is_sorted(hull.begin(), hull.end(), number)) return;
  rotate_to(std::max_element(hull.begin(), hull.end(), number));
  if (std::is_sorted(hull.rbegin(), hull.rend(), number)) return;
  hull = from_right;
}

// Corners of the convex hull in order (Andrew's monotone chain). Points that perspective sends to
// infinity have no order, and are left out.
Vertices hull_of(std::span<const float> points) {
  Vertices sorted;
  for (std::size_t i = 0; i < points.size(); i += 2)
    if (std::isfinite(points[i]) && std::isfinite(points[i + 1]))
      sorted.push_back({points[i], points[i + 1], static_cast<int>(i)});
  const auto key = [](const Vertex& v) { return std::tie(v.x, v.y); };
  std::sort(sorted.begin(), sorted.end(),
            [&](const Vertex& a, const Vertex& b) { return key(a) < key(b); });
  sorted.erase(std::unique(sorted.begin(), sorted.end(),
                           [&](const Vertex& a, const Vertex& b) { return key(a) == key(b); }),
               sorted.end());
  if (sorted.size() < 3) return sorted;
  Vertices hull;
  const auto add = [&hull](const Vertex& vertex, std::size_t least) {
    while (hull.size() > least && cross(hull[hull.size() - 2], hull.back(), vertex) <= 0)
      hull.pop_back();
    hull.push_back(vertex);
  };
  for (const Vertex& vertex : sorted) add(vertex, 1);
  const std::size_t lower = hull.size();
  for (auto vertex = sorted.rbegin() + 1; vertex != sorted.rend(); ++vertex) add(*vertex, lower);
  hull.pop_back();
  begin_as_opencv(hull);
  return hull;
}

// The box around the vertices where `position` says they are.
template <typename Position>
Box extent_of(const Vertices& vertices, Position position) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  Box box{kInfinity, kInfinity, -kInfinity, -kInfinity};
  for (const Vertex& vertex : vertices) {
    const auto [u, v] = position(static_cast<float>(vertex.x), static_cast<float>(vertex.y));
    box = {std::min(box.x1, u), std::min(box.y1, v), std::max(box.x2, u), std::max(box.y2, v)};
  }
  return box;
}

// The part of a convex polygon with keep(vertex) >= 0, which is linear (Sutherland and Hodgman).
template <typename Keep>
Vertices cut(const Vertices& vertices, Keep keep) {
  Vertices kept;
  for (std::size_t i = 0; i < vertices.size(); ++i) {
    const Vertex& a = vertices[i];
    const Vertex& b = vertices[i + 1 == vertices.size() ? 0 : i + 1];
    const double from = keep(a), to = keep(b);
    if (from >= 0) kept.push_back(a);
    if ((from < 0) != (to < 0)) {
      const double t = from / (from - to);
      kept.push_back({a.x + t * (b.x - a.x), a.y + t * (b.y - a.y)});
    }
  }
  return kept;
}

double area_of(const Vertices& vertices) {
  double twice = 0;
  for (std::size_t i = 2; i < vertices.size(); ++i)
    twice += cross(vertices[0], vertices[i - 1], vertices[i]);
  return twice / 2;
}

// Rotating calipers: four sides around the hull turn together until one lies along an edge, then
// until the next does. Triangles and rectangles have many smallest rectangles, and rounding decides
// between them: this is OpenCV's, in single precision (degrees too), and the last of equal ones.
class Calipers {
 public:
  explicit Calipers(const Vertices& hull) {
    for (const Vertex& vertex : hull)
      hull_.push_back({static_cast<float>(vertex.x), static_cast<float>(vertex.y)});
    const auto extreme = [this](auto value) {
      return static_cast<std::size_t>(
          std::max_element(hull_.begin(), hull_.end(),
                           [&](Vector p, Vector q) { return value(p) < value(q); }) -
          hull_.begin());
    };
    at_ = {extreme([](Vector p) { return -p.y; }), extreme([](Vector p) { return p.x; }),
           extreme([](Vector p) { return p.y; }), extreme([](Vector p) { return -p.x; })};
  }

  OrientedBox smallest() {
    OrientedBox best{};
    float least = std::numeric_limits<float>::max();
    for (std::size_t step = 0; step < hull_.size(); ++step) {
      turn();
      const Vector across = between(at_[3], at_[1]), down = between(at_[0], at_[2]);
      const float width = across.x * side_.x + across.y * side_.y;
      const float height = -down.x * side_.y + down.y * side_.x;
      if (width * height > least) continue;
      least = width * height;
      const Vector &left = hull_[at_[3]], &bottom = hull_[at_[0]];
      const float u = side_.x * left.x + left.y * side_.y;
      const float v = -side_.y * bottom.x + bottom.y * side_.x;
      const Vector along{side_.x * width, side_.y * width};
      const Vector up{-side_.y * height, side_.x * height};
      best = {u * side_.x - v * side_.y + (along.x + up.x) * 0.5f,
              side_.x * v + side_.y * u + (along.y + up.y) * 0.5f, length(along), length(up),
              degrees(along)};
      if (!(best.angle >= -90 &&
            best.angle < 0)) {  // so far of what is `width`, even if it is the shorter side
        std::swap(best.width, best.height);
        best.angle = degrees({-along.y, along.x});
      }
    }
    return best;
  }

 private:
  struct Vector {
    float x, y;
  };

  static double length(Vector v) {
    return static_cast<float>(std::sqrt(double{v.x} * v.x + double{v.y} * v.y));
  }
  static double degrees(Vector v) {
    return static_cast<float>(std::atan2(double{-v.y}, double{-v.x}) * 180 / std::numbers::pi);
  }

  Vector between(std::size_t from, std::size_t to) const {
    return {hull_[to].x - hull_[from].x, hull_[to].y - hull_[from].y};
  }
  std::size_t next(std::size_t i) const { return i + 1 == hull_.size() ? 0 : i + 1; }

  // Lays the side that has least to turn on its next edge.
  void turn() {
    std::size_t which = 0;
    Vector least{};  // that edge, as the bottom side would see it
    for (std::size_t i = 0; i < 4; ++i) {
      Vector edge = between(at_[i], next(at_[i]));
      for (std::size_t quarter = 0; quarter < i; ++quarter) edge = {edge.y, -edge.x};
      if (i > 0 && !(edge.y * least.x + -edge.x * least.y < 0)) continue;
      which = i;
      least = edge;
    }
    const float inverse =
        static_cast<float>(1.0 / std::sqrt(double{least.x} * least.x + double{least.y} * least.y));
    side_ = {least.x * inverse, least.y * inverse};
    at_[which] = next(at_[which]);
  }

  std::vector<Vector> hull_;
  std::array<std::size_t, 4> at_;  // corners that the bottom, right, top and left side touch
  Vector side_{1, 0};              // direction of the bottom side
};

OrientedBox rectangle_around(const Vertices& hull) {
  constexpr double kPi = std::numbers::pi;
  OrientedBox best{};
  if (hull.size() == 1) best = {hull[0].x, hull[0].y, 0, 0, 0};
  if (hull.size() > 2) {
    best = Calipers(hull).smallest();
  } else if (hull.size() == 2) {
    const double dx = hull[1].x - hull[0].x, dy = hull[1].y - hull[0].y;
    best = {(hull[0].x + hull[1].x) / 2, (hull[0].y + hull[1].y) / 2, std::hypot(dx, dy), 0,
            std::atan2(dy, dx) * 180 / kPi};
  }
  best.angle *= kPi / 180;
  if (best.width < best.height) {
    std::swap(best.width, best.height);
    best.angle += kPi / 2;
  }
  while (best.angle >= 3 * kPi / 4) best.angle -= kPi;
  while (best.angle < -kPi / 4) best.angle += kPi;
  return best;
}

}  // namespace

OrientedBox smallest_rectangle(std::span<const float> points) {
  return rectangle_around(hull_of(points));
}

void clip_oriented(std::vector<float>& outline, Box& box, float width, float height) {
  const Box all = bounds(outline);
  if (all.x1 >= 0 && all.y1 >= 0 && all.x2 <= width && all.y2 <= height) return;
  const std::size_t count = outline.size() / 2;
  const Vertices hull = hull_of(outline);
  Vertices visible = cut(hull, [](const Vertex& v) { return v.x; });
  visible = cut(visible, [](const Vertex& v) { return v.y; });
  visible = cut(visible, [width](const Vertex& v) { return width - v.x; });
  visible = cut(visible, [height](const Vertex& v) { return height - v.y; });
  if (!(area_of(visible) > 0)) {
    box = {0, 0, 0, 0};
    outline.assign(2 * count, 0.0f);
    return;
  }
  box = extent_of(visible, [](float x, float y) { return std::pair{x, y}; });
  // Single precision and this order of corners, because upstream's outlines have them.
  double angle = rectangle_around(hull).angle;
  if (angle >= std::numbers::pi / 2) angle -= std::numbers::pi;
  const float cosine = static_cast<float>(std::cos(angle));
  const float sine = static_cast<float>(std::sin(angle));
  const Box turned = extent_of(visible, [=](float x, float y) {
    return std::pair{std::fma(y, sine, x * cosine), std::fma(y, cosine, x * -sine)};
  });
  std::vector<float> corners;
  for (const auto& [u, v] : {std::pair{turned.x2, turned.y2},
                             {turned.x2, turned.y1},
                             {turned.x1, turned.y1},
                             {turned.x1, turned.y2}}) {
    corners.push_back(std::fma(v, -sine, u * cosine));
    corners.push_back(std::fma(v, cosine, u * sine));
  }
  outline = resample(corners, count);
}

}  // namespace yolodata
