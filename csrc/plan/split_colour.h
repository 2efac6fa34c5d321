// A sample in two steps, for those who change the picture between them.
#pragma once

#include "plan/recipe.h"

namespace yolodata {

struct Halves {
  Plan placed;    // every pixel where it belongs, blended, in its own colour
  Plan finished;  // colour jitter, flips and the order of channels of that picture, as image 0
};

// One after the other, the halves make what the whole makes.
Halves split_colour(const Plan& plan);

// Makes a recipe the one of `placed`, and returns that of `finished`.
Recipe split_colour(Recipe& recipe);

}  // namespace yolodata
