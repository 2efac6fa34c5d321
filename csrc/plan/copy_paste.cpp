#include "plan/copy_paste.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "plan/objects.h"
#include "plan/raster.h"

namespace yolodata {
namespace {

// Objects of `from` by how much they hide of any one object of `onto`, those that hide too much
// left out.
std::vector<const Object*> eligible(const Objects& from, const Objects& onto) {
  constexpr float kMost = 0.3f;
  std::vector<std::pair<float, const Object*>> found;
  for (const Object& object : from.list) {
    float most = 0;
    for (const Object& other : onto.list) most = std::max(most, covered(object.box, other.box));
    if (most < kMost) found.emplace_back(most, &object);
  }
  std::stable_sort(found.begin(), found.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<const Object*> objects;
  for (const auto& [hidden, object] : found) objects.push_back(object);
  return objects;
}

}  // namespace

bool paste(Plan& plan, int onto, int from, double share, const LabelTable& table) {
  Layer& layer = plan.recipe.layers[onto];
  Objects targets, sources;
  std::int32_t width, height;
  if (from == kMirror) {
    targets = canvas_objects(plan, onto, table);
    width = layer.width;
    height = layer.height;
    sources = targets;
    for (Object& object : sources.list)
      object = mirrored(std::move(object), static_cast<float>(width));
  } else {
    targets = layer_objects(plan, onto, table);
    width = plan.recipe.width;
    height = plan.recipe.height;
    if (!targets.list.empty()) sources = layer_objects(plan, from, table);
  }
  std::vector<const Object*> chosen = eligible(sources, targets);
  chosen.resize(static_cast<std::size_t>(
      std::nearbyint(share * static_cast<double>(chosen.size()))));  // ties to even, as Python's
  if (chosen.empty()) return false;
  Paste paste{onto, {}, {}};
  Raster raster(width, height, table.where);
  std::vector<Run> runs;
  for (const Object* object : chosen) {
    paste.objects.push_back({object->tile, object->number});
    if (!object->outline.empty()) {
      raster.fill(object->outline, runs);
      continue;
    }
    Object drawn = *object;
    draw_outline(drawn, layer, table, sources.points);
    raster.fill(drawn.outline, runs);
  }
  merge(runs);
  paste.mask = packed(runs, height);
  layer.paste_from = from;
  plan.pastes.push_back(std::move(paste));
  return true;
}

}  // namespace yolodata
