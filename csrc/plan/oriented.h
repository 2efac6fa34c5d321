// Oriented boxes: outlines that are rectangles at any angle.
#pragma once

#include <span>
#include <vector>

#include "core/geometry.h"

namespace yolodata {

// Centre, sides (the longer one is `width`) and the angle of the longer one from the x axis to the
// y axis, in radians from -pi/4 to below 3/4 pi.
struct OrientedBox {
  double x, y, width, height, angle;
};

// The smallest rectangle around points given as x, y pairs, of which there is at least one. It
// lies along an edge of the convex hull (Freeman and Shapira 1975).
OrientedBox smallest_rectangle(std::span<const float> points);

// Cuts an object off at [0, width] x [0, height]: what remains becomes the rectangle around it that
// has the angle of the whole, with as many points as the outline had. All zero if nothing remains.
void clip_oriented(std::vector<float>& outline, Box& box, float width, float height);

}  // namespace yolodata
