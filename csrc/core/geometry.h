// 3x3 matrices and boxes. Matrices are double while they are composed and float when they are used.
#pragma once

#include <algorithm>
#include <array>

namespace yolodata {

using Matrix3 = std::array<double, 9>;

inline Matrix3 multiply(const Matrix3& a, const Matrix3& b) {
  Matrix3 product{};
  for (int row = 0; row < 3; ++row)
    for (int column = 0; column < 3; ++column)
      for (int k = 0; k < 3; ++k) product[row * 3 + column] += a[row * 3 + k] * b[k * 3 + column];
  return product;
}

// Corners in pixels.
struct Box {
  float x1, y1, x2, y2;
};

inline float area(const Box& box) { return (box.x2 - box.x1) * (box.y2 - box.y1); }

inline Box clip(const Box& box, float width, float height) {
  return {std::clamp(box.x1, 0.0f, width), std::clamp(box.y1, 0.0f, height),
          std::clamp(box.x2, 0.0f, width), std::clamp(box.y2, 0.0f, height)};
}

}  // namespace yolodata
