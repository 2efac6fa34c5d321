// Closed polygons, given as x, y pairs; the last point joins the first.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
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
  constexpr std::size_t kLanes = 8;  // several at once: each comparison waits for the one before
  float least[kLanes], most[kLanes];
  for (std::size_t k = 0; k < kLanes; ++k) least[k] = most[k] = points[k % 2];
  const auto add = [&](std::size_t k, float at) {
    least[k] = std::min(least[k], at);
    most[k] = std::max(most[k], at);
  };
  std::size_t i = 0;
  for (; i + kLanes <= points.size(); i += kLanes)
    for (std::size_t k = 0; k < kLanes; ++k) add(k, points[i + k]);
  for (std::size_t k = 0; i + k < points.size(); ++k) add(k, points[i + k]);
  for (std::size_t k = 2; k < kLanes; ++k) {
    add(k % 2, least[k]);
    add(k % 2, most[k]);
  }
  return {least[0], least[1], most[0], most[1]};
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
  // A corner that is clearly outside of the box is not in the polygon. "Clearly": more than
  // `contains` may be wrong by, which may be anything where a number is infinite or none.
  std::uint32_t wild = 0;
  for (const float at : points) wild |= std::abs(at) < 1e30f ? 0u : 1u;
  const float slack = 1.0f + 1e-6f * std::max(std::abs(all.x1), std::abs(all.x2));
  for (const float x : {0.0f, width})
    for (const float y : {0.0f, height}) {
      const bool is_apart = x < all.x1 - slack || x > all.x2 + slack || y < all.y1 || y > all.y2;
      if ((wild != 0 || !is_apart) && contains(points, x, y)) see(x, y);
    }
  return seen;
}

// The closed polygon with points added evenly along its index until there are `count` (its own
// points stay). A polygon that already has `count` points is returned as it is.
std::vector<float> resample(std::span<const float> points, std::size_t count);

}  // namespace yolodata
