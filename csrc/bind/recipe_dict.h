// Recipes to and from Python dicts (the schema is documented at yolodata.Recipe).
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>

#include "plan/label_table.h"
#include "plan/recipe.h"

namespace yolodata {

nanobind::dict recipe_to_dict(const Plan& plan);

// Throws std::invalid_argument with the field's name for anything missing, out of range or unknown.
Plan recipe_from_dict(const nanobind::dict& values);

// Throws std::invalid_argument unless every image of the recipe is in the label table.
void check_images(const Recipe& recipe, const LabelTable& table);

}  // namespace yolodata
