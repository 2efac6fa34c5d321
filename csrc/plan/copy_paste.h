// Copy-paste (Ghiasi et al. 2021): which objects are pasted, and the pixels they cover.
#pragma once

#include "plan/label_table.h"
#include "plan/recipe.h"

namespace yolodata {

// Lets objects of recipe.layers[from] (or of the layer itself, mirrored: kMirror) be pasted onto a
// layer: the share of them, rounded, of those that hide less than 0.3 of every object there, those
// that hide least first. Returns false, and leaves the plan as it is, if there are none.
bool paste(Plan& plan, int onto, int from, double share, const LabelTable& table);

}  // namespace yolodata
