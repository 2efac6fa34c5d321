// A recipe as bytes that leave the process: to a DALI graph, say, on the same machine.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>

#include "plan/recipe.h"

namespace yolodata {

// What the bytes are, then the recipe as it lies in memory. Change the version when Recipe changes.
struct RecipeBytes {
  char magic[8];
  std::uint32_t version;
  std::uint32_t size;
  Recipe recipe;
};
static_assert(std::is_trivially_copyable_v<RecipeBytes>);

inline constexpr char kRecipeMagic[] = "yolodata";
inline constexpr std::uint32_t kRecipeVersion = 1;

inline RecipeBytes to_bytes(const Recipe& recipe) {
  RecipeBytes bytes;
  std::memset(&bytes, 0, sizeof bytes);  // no secrets between the members
  std::memcpy(bytes.magic, kRecipeMagic, sizeof bytes.magic);
  bytes.version = kRecipeVersion;
  bytes.size = sizeof bytes;
  bytes.recipe = recipe;
  return bytes;
}

// Throws std::invalid_argument for anything else than what `to_bytes` of this version made. Whether
// the recipe makes sense is for `check` to say.
inline Recipe from_bytes(const void* data, std::size_t size) {
  RecipeBytes bytes;
  const std::string expected = std::to_string(sizeof bytes) + " bytes of a recipe, version " +
                               std::to_string(kRecipeVersion);
  if (size != sizeof bytes)
    throw std::invalid_argument("expected " + expected + ", got " + std::to_string(size) +
                                " bytes");
  std::memcpy(&bytes, data, sizeof bytes);
  if (std::memcmp(bytes.magic, kRecipeMagic, sizeof bytes.magic) != 0)
    throw std::invalid_argument("expected " + expected + ", got something else");
  if (bytes.version != kRecipeVersion || bytes.size != sizeof bytes)
    throw std::invalid_argument("expected " + expected + ", got version " +
                                std::to_string(bytes.version) +
                                "; make the recipes and the operator with the same yolodata");
  return bytes.recipe;
}

}  // namespace yolodata
