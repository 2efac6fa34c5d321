#include "render/render_task.h"

#include <cstring>

namespace yolodata {

void set_masks(const Plan& plan, Sources& sources) {
  for (const Paste& paste : plan.pastes) sources.layers[paste.layer].mask = paste.mask.data();
}

std::size_t move_masks(const Plan& plan, std::uint8_t* memory, std::size_t offset,
                       std::uintptr_t address, Sources& sources) {
  for (const Paste& paste : plan.pastes) {
    const std::size_t bytes = paste.mask.size() * sizeof(std::int32_t);
    if (memory != nullptr) {
      std::memcpy(memory + offset, paste.mask.data(), bytes);
      sources.layers[paste.layer].mask = reinterpret_cast<const std::int32_t*>(address + offset);
    }
    offset += bytes;
  }
  return offset;
}

}  // namespace yolodata
