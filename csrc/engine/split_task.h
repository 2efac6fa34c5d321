// A render task in two steps (see plan/split_colour.h), for those who change the picture between
// them.
#pragma once

#include <cstdint>

#include "render/render_task.h"

namespace yolodata {

struct TaskHalves {
  RenderTask placed, finished;
};

// `picture` is where the second half will find what the first one made and somebody changed: uint8
// (height, width, 3) RGB, in memory that its renderer can read.
TaskHalves split_colour(const RenderTask& task, const std::uint8_t* picture);

}  // namespace yolodata
