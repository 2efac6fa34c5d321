#include "plan/plan_config.h"

#include <cmath>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace yolodata {
namespace {

void require(bool condition, const char* allowed, std::int32_t given) {
  if (!condition)
    throw std::invalid_argument(std::string(allowed) + ", got " + std::to_string(given));
}

}  // namespace

void validate(const PlanConfig& config) {
  require(config.imgsz >= 1 && config.imgsz <= 16384, "imgsz must be 1 to 16384", config.imgsz);
  require(config.mosaic_grid == 4 || config.mosaic_grid == 9, "mosaic_grid must be 4 or 9",
          config.mosaic_grid);
  require(config.streams >= 1, "streams must be 1 or more", config.streams);
  require(config.window >= 0, "window must be 0 (the whole dataset) or more", config.window);
  require(config.mask_ratio >= 0, "mask_ratio must be 0 (no masks) or more", config.mask_ratio);
  each_setting([&](const char* name, auto member) {
    if constexpr (std::is_same_v<decltype(member), double PlanConfig::*>)
      if (!std::isfinite(config.*member))
        throw std::invalid_argument(std::string(name) + " must be a finite number, got " +
                                    std::to_string(config.*member));
  });
}

}  // namespace yolodata
