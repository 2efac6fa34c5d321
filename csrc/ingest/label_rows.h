// Label text of ordinary images.
//
// Text is ordinary if nothing about it is near any limit: plain decimal numbers from 0 to 1 behind
// a class that exists, rows of one kind, no two of them alike. Its labels are what
// yolodata/ingest/labels.py makes of it, twenty times as fast. All other text is left to labels.py,
// which follows upstream into every corner and says what is wrong.
#pragma once

#include <cstddef>
#include <optional>
#include <string_view>
#include <vector>

namespace yolodata {

struct LabelRows {
  std::vector<float> cls;         // one a row
  std::vector<float> box;         // x, y, width, height
  std::vector<float> rest;        // what follows the box: keypoints; or x y pairs of polygons
  std::vector<std::size_t> ends;  // of the polygons, in points; empty without polygons
};

// `columns`: of a row with keypoints, 0 without them; `dims`: numbers of a keypoint, of which the
// first two are a place.
std::optional<LabelRows> ordinary_rows(std::string_view text, std::size_t classes,
                                       std::size_t columns, std::size_t dims);

}  // namespace yolodata
