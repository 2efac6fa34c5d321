// The label table as Python gives it: borrowed arrays, and what keeps them alive.
#pragma once

#include <memory>

#include "plan/label_table.h"

namespace yolodata {

// A label table together with the arrays it borrows from.
struct OwnedLabelTable {
  LabelTable view{};
  std::shared_ptr<void> columns, polygons, keypoints;
};

}  // namespace yolodata
