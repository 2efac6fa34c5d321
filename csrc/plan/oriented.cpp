#include "plan/oriented.h"

#include <algorithm>
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
};
using Vertices = std::vector<Vertex>;

double cross(const Vertex& o, const Vertex& a, const Vertex& b) {
  return (a.x - o.x) * (b.y - o.y) - (a.y - o.y) * (b.x - o.x);
}

// Corners of the convex hull in order (Andrew's monotone chain).
Vertices hull_of(std::span<const float> points) {
  Vertices sorted;
  for (std::size_t i = 0; i < points.size(); i += 2) sorted.push_back({points[i], points[i + 1]});
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
  return hull;
}

// Extent of the vertices along a direction and across it.
struct Extent {
  double u1, u2, v1, v2;
};
Extent extent_of(const Vertices& vertices, double cosine, double sine) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Extent extent{kInfinity, -kInfinity, kInfinity, -kInfinity};
  for (const Vertex& vertex : vertices) {
    const double u = vertex.x * cosine + vertex.y * sine, v = vertex.y * cosine - vertex.x * sine;
    extent = {std::min(extent.u1, u), std::max(extent.u2, u), std::min(extent.v1, v),
              std::max(extent.v2, v)};
  }
  return extent;
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

OrientedBox rectangle_around(const Vertices& hull) {
  constexpr double kPi = std::numbers::pi;
  OrientedBox best{hull[0].x, hull[0].y, 0, 0, 0};
  double least = std::numeric_limits<double>::infinity();
  for (std::size_t i = 0; i < hull.size() && hull.size() > 1; ++i) {
    const Vertex& a = hull[i];
    const Vertex& b = hull[i + 1 == hull.size() ? 0 : i + 1];
    const double length = std::hypot(b.x - a.x, b.y - a.y);
    const double cosine = (b.x - a.x) / length, sine = (b.y - a.y) / length;
    const Extent extent = extent_of(hull, cosine, sine);
    const double width = extent.u2 - extent.u1, height = extent.v2 - extent.v1;
    if (!(width * height < least)) continue;
    least = width * height;
    const double u = (extent.u1 + extent.u2) / 2, v = (extent.v1 + extent.v2) / 2;
    best = {u * cosine - v * sine, u * sine + v * cosine, width, height, std::atan2(sine, cosine)};
  }
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
  const Extent upright = extent_of(visible, 1, 0);
  box = {static_cast<float>(upright.u1), static_cast<float>(upright.v1),
         static_cast<float>(upright.u2), static_cast<float>(upright.v2)};
  const double angle = rectangle_around(hull).angle;
  const double cosine = std::cos(angle), sine = std::sin(angle);
  const auto [u1, u2, v1, v2] = extent_of(visible, cosine, sine);
  std::vector<float> corners;
  for (const auto& [u, v] : {Vertex{u2, v2}, Vertex{u2, v1}, Vertex{u1, v1}, Vertex{u1, v2}}) {
    corners.push_back(static_cast<float>(u * cosine - v * sine));
    corners.push_back(static_cast<float>(u * sine + v * cosine));
  }
  outline = resample(corners, count);
}

}  // namespace yolodata
