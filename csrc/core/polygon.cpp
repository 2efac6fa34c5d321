#include "core/polygon.h"

#include <cstdint>

#include "core/simd.h"

namespace yolodata {
namespace {

// Points of an edge from `a` to `b`, which is number `edge`, at `step` times `first` to `last`,
// exclusive.
YD_TARGETS void add_points(const float* a, const float* b, double edge, double step,
                           std::int32_t first, std::int32_t last, float* to) {
  const double x = a[0], y = a[1], dx = b[0] - x, dy = b[1] - y;
  for (std::int32_t k = first; k < last; ++k) {
    const double t = k * step - edge;
    to[2 * (k - first)] = static_cast<float>(x + dx * t);
    to[2 * (k - first) + 1] = static_cast<float>(y + dy * t);
  }
}

}  // namespace

std::vector<float> resample(std::span<const float> points, std::size_t count) {
  const std::size_t n = points.size() / 2;
  if (n >= count) return {points.begin(), points.end()};
  // Positions are multiples of the step, but for the last one, which is exactly at the end.
  const auto added = static_cast<std::int32_t>(count > n + 1 ? count - (n + 1) : 0);
  const double step = added > 1 ? static_cast<double>(n) / (added - 1) : 0.0;
  const std::int32_t multiples = std::max(added - 1, 0);
  std::vector<float> result(2 * (static_cast<std::size_t>(added) + n + 1));
  float* to = result.data();
  std::int32_t k = 0;
  for (std::size_t i = 0; i < n; ++i) {
    const auto edge = static_cast<double>(i);
    const float* const a = &points[2 * i];
    const float* const b = &points[i + 1 == n ? 0 : 2 * (i + 1)];
    const auto add = [&](double at, std::int32_t first, std::int32_t last) {
      add_points(a, b, edge, at, first, last, to);
      to += 2 * (last - first);
    };
    // The vertex comes before a point at the same place.
    add(edge, 1, 2);
    std::int32_t end = multiples;
    if (i + 1 < n && multiples > 0) {
      end = std::min(static_cast<std::int32_t>((edge + 1) / step), multiples);
      while (end > k && (end - 1) * step >= edge + 1) --end;
      while (end < multiples && end * step < edge + 1) ++end;
    }
    add(step, k, end);
    k = end;
    if (i + 1 < n) continue;
    add(edge + 1, 1, 2);
    if (added > 0) add(edge + 1, 1, 2);
  }
  return result;
}

}  // namespace yolodata
