// Closed polygons, given as x, y pairs; the last point joins the first.
#pragma once

#include <algorithm>
#include <cmath>
#include <span>
#include <vector>

#include "core/geometry.h"

namespace yolodata {

// Inside or on the edge, by counting the crossings of a ray to the right.
inline bool contains(std::span<const float> points, float px, float py) {
  const std::size_t n = points.size() / 2;
  bool inside = false;
  for (std::size_t i = 0, j = n - 1; i < n; j = i++) {
    const float xi = points[2 * i], yi = points[2 * i + 1];
    const float xj = points[2 * j], yj = points[2 * j + 1];
    const double cross =
        static_cast<double>(xj - xi) * (py - yi) - static_cast<double>(yj - yi) * (px - xi);
    if (cross == 0 && px >= std::min(xi, xj) && px <= std::max(xi, xj) && py >= std::min(yi, yj) &&
        py <= std::max(yi, yj))
      return true;
    if ((yi > py) != (yj > py) && ((cross > 0) == (yj > yi))) inside = !inside;
  }
  return inside;
}

inline Box bounds(std::span<const float> points) {
  Box box{points[0], points[1], points[0], points[1]};
  for (std::size_t i = 2; i < points.size(); i += 2) {
    box.x1 = std::min(box.x1, points[i]);
    box.x2 = std::max(box.x2, points[i]);
    box.y1 = std::min(box.y1, points[i + 1]);
    box.y2 = std::max(box.y2, points[i + 1]);
  }
  return box;
}

// Box of the part of the polygon inside [0, width] x [0, height]; all zero when there is none.
//
// Its extremes are vertices inside, crossings of edges with the four borders, or corners of the
// picture that lie in the polygon.
inline Box visible_bounds(std::span<const float> points, float width, float height) {
  const Box all = bounds(points);
  if (all.x1 >= 0 && all.y1 >= 0 && all.x2 <= width && all.y2 <= height) return all;
  if (all.x2 < 0 || all.y2 < 0 || all.x1 > width || all.y1 > height) return {0, 0, 0, 0};
  Box seen{0, 0, 0, 0};
  bool any = false;
  const auto see = [&](float x, float y) {
    if (!any) seen = {x, y, x, y};
    any = true;
    seen = {std::min(seen.x1, x), std::min(seen.y1, y), std::max(seen.x2, x), std::max(seen.y2, y)};
  };
  const std::size_t n = points.size() / 2;
  for (std::size_t i = 0; i < n; ++i) {
    const std::size_t next = i + 1 == n ? 0 : i + 1;
    const float x = points[2 * i], y = points[2 * i + 1];
    const float dx = points[2 * next] - x, dy = points[2 * next + 1] - y;
    if (x >= 0 && y >= 0 && x <= width && y <= height) see(x, y);
    // Edges well on one side of a border do not cross it; most are.
    const auto apart = [](float a, float b, float border) {
      return (a - border) * (b - border) > 1.0f;
    };
    for (const float border : {0.0f, width}) {
      if (apart(x, points[2 * next], border)) continue;
      const float t = (border - x) / dx;
      const float cy = y + t * dy;
      if (t >= 0 && t <= 1 && cy >= 0 && cy <= height) see(x + t * dx, cy);
    }
    for (const float border : {0.0f, height}) {
      if (apart(y, points[2 * next + 1], border)) continue;
      const float t = (border - y) / dy;
      const float cx = x + t * dx;
      if (t >= 0 && t <= 1 && cx >= 0 && cx <= width) see(cx, y + t * dy);
    }
  }
  for (const float x : {0.0f, width})
    for (const float y : {0.0f, height})
      if (contains(points, x, y)) see(x, y);
  return seen;
}

// The closed polygon with points added evenly along its index until there are `count` (its own
// points stay). A polygon that already has `count` points is returned as it is.
inline std::vector<float> resample(std::span<const float> points, std::size_t count) {
  const std::size_t n = points.size() / 2;
  if (n >= count) return {points.begin(), points.end()};
  const std::size_t added = count > n + 1 ? count - (n + 1) : 0;
  const double step = added > 1 ? static_cast<double>(n) / static_cast<double>(added - 1) : 0.0;
  std::vector<float> result(2 * (added + n + 1));
  float* to = result.data();
  const auto at = [&](double position) {
    const std::size_t i = std::min(static_cast<std::size_t>(position), n - 1);
    const std::size_t next = i + 1 == n ? 0 : i + 1;
    const double t = position - static_cast<double>(i);
    for (std::size_t c = 0; c < 2; ++c)
      *to++ = static_cast<float>(
          points[2 * i + c] + (static_cast<double>(points[2 * next + c]) - points[2 * i + c]) * t);
  };
  std::size_t vertex = 0;
  for (std::size_t k = 0; k < added; ++k) {
    const double position = k + 1 == added ? static_cast<double>(n) : static_cast<double>(k) * step;
    for (; vertex <= n && static_cast<double>(vertex) <= position; ++vertex)
      at(static_cast<double>(vertex));
    at(position);
  }
  for (; vertex <= n; ++vertex) at(static_cast<double>(vertex));
  return result;
}

}  // namespace yolodata
