// Whether a recipe is safe to render: renderers themselves check nothing.
#pragma once

#include "plan/recipe.h"

namespace yolodata {

// Throws std::invalid_argument when following the plan would read outside an image or a mask.
void validate(const Plan& plan);

}  // namespace yolodata
