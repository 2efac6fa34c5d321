// The colour jitter of one picture on a CPU thread: jitter() of shade.h, on rows of pixels.
#pragma once

#include "render/byte_map.h"
#include "render/row_types.h"
#include "render/shade.h"

namespace yolodata {

// What a picture's jitter does to every byte of saturation and value: found once, used for all
// rows.
struct ColourJitter {
  explicit ColourJitter(const HsvJitter& hsv)
      : hsv(hsv), saturation(hsv.saturation), value(hsv.value) {}

  HsvJitter hsv;
  ByteMap saturation, value;
};

// Changes the colours of `count` pixels, in whole blocks. May overwrite what is right of them, up
// to a block.
void jitter_row(const ColourJitter& jitter, const Planes& row, int count);

}  // namespace yolodata
