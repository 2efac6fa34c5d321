// A shot in two steps (see plan/split_colour.h), for those who change the picture between them.
#pragma once

#include <cstdint>

#include "render/render.h"

namespace yolodata {

struct ShotHalves {
  Shot placed, finished;
};

// `picture` is where the second half will find what the first one made and somebody changed: uint8
// (height, width, 3) RGB, in memory that its renderer can read.
ShotHalves split_colour(const Shot& shot, const std::uint8_t* picture);

}  // namespace yolodata
