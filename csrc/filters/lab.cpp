// Note [tables without roots]. OpenCV makes its tables in software floating point, so that they are
// the same everywhere. The compiler makes ours, without libm: an entry is the number of half steps
// that a curve has passed, and the curve's inverse, a polynomial, says whether it has passed one.
// Cube roots and Y are compared as integers. sRGB is compared in double precision, where even the
// closest comparison is decided by 4e-6 of the value, and rounding errors are below 1e-14. OpenCV's
// roots are in single precision, which tips two entries over. Every colour reaches its entries in
// tests/test_lab.py.
#include "filters/lab.h"

namespace yolodata {
namespace {

using Integer = std::int64_t;

constexpr Integer rounded(Integer a, Integer b) { return (2 * a + b) / (2 * b); }

constexpr Integer cube(Integer a) { return a * a * a; }

// Whether so much linear light is what an sRGB value stands for, or more; both 0 to 1.
constexpr bool reaches(double linear, double srgb) {
  if (srgb <= 0.04045) return linear >= srgb / 12.92;
  const double s = (srgb + 0.055) / 1.055, s3 = s * s * s, l2 = linear * linear;
  return l2 * l2 * linear >= (s3 * s3) * (s3 * s3);  // l >= s^2.4
}

constexpr LabTables make_tables() {
  LabTables tables{};

  for (int i = 0, passed = 0; i < 256; ++i) {
    while (!reaches((passed + 0.5) / 2040, i / 255.0)) ++passed;
    tables.linear[i] = static_cast<std::uint16_t>(passed);
  }

  for (int i = 0, passed = 0; i < 4096; ++i) {
    while (passed < 255 && reaches(i / 4096.0, (passed + 0.5) / 255)) ++passed;
    tables.encoded[i] = static_cast<std::uint8_t>(passed);
  }

  Integer passed = 0;
  for (Integer i = 0; i <= 2040; ++i) {
    // Up to (6/29)^3 the line that touches the curve there, 841 t / 108 + 4 / 29.
    if (i * cube(29) <= 2040 * cube(6)) {
      passed = rounded((i * cube(29) + 4 * 2040 * 108) * 32768, 2040 * 108 * 29);
    } else {
      while (cube(2 * passed + 1) * 2040 <= i * cube(65536)) ++passed;
    }
    tables.cube_root[i] = static_cast<std::uint16_t>(passed);
  }
  --tables.cube_root[49];   // in truth 9454.50014
  ++tables.cube_root[628];  // in truth 22125.499995

  // Up to L = 8 the line.
  for (Integer i = 0; i < 256; ++i) {
    const Integer y = i * 100 <= 8 * 255 ? rounded(i * 100 * 27 * 16384, 255 * cube(29))
                                         : rounded(cube(5 * i + 204) * 16384, cube(1479));
    tables.luminance[i] = static_cast<std::uint16_t>(y);
  }
  return tables;
}

constexpr LabTables kTables = make_tables();

}  // namespace

const LabTables& lab_tables() { return kTables; }

}  // namespace yolodata
