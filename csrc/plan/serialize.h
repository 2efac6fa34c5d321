// A recipe as bytes that leave the process: to a DALI graph, say, on the same machine.
#pragma once

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "plan/recipe.h"

namespace yolodata {

// Before each recipe. Change the version when what follows changes.
struct RecipeHeader {
  char magic[8];
  std::uint32_t version;
  std::uint32_t size;  // of everything
};

inline constexpr char kRecipeMagic[] = "yolodata";
inline constexpr std::uint32_t kRecipeVersion = 3;

// The header, the recipe as it lies in memory, and for each paste the layer, the number of words
// of its mask, and those. Which objects are pasted is a matter of labels, and left out.
inline std::vector<std::uint8_t> to_bytes(const Plan& plan) {
  static_assert(std::is_trivially_copyable_v<Recipe>);
  std::vector<std::uint8_t> bytes(sizeof(RecipeHeader));
  const auto append = [&bytes](const void* data, std::size_t size) {
    const auto* from = static_cast<const std::uint8_t*>(data);
    bytes.insert(bytes.end(), from, from + size);
  };
  append(&plan.recipe, sizeof plan.recipe);
  for (const Paste& paste : plan.pastes) {
    const std::int32_t words[2] = {paste.layer, static_cast<std::int32_t>(paste.mask.size())};
    append(words, sizeof words);
    append(paste.mask.data(), paste.mask.size() * sizeof(std::int32_t));
  }
  RecipeHeader header{{}, kRecipeVersion, static_cast<std::uint32_t>(bytes.size())};
  std::memcpy(header.magic, kRecipeMagic, sizeof header.magic);
  std::memcpy(bytes.data(), &header, sizeof header);
  return bytes;
}

// Throws std::invalid_argument for anything else than what `to_bytes` of this version made. Whether
// the plan makes sense is for `validate` to say.
inline Plan from_bytes(const void* data, std::size_t size) {
  const auto* bytes = static_cast<const std::uint8_t*>(data);
  std::size_t at = 0;
  const auto fail = [](const std::string& got) {
    throw std::invalid_argument("expected the bytes of a recipe, version " +
                                std::to_string(kRecipeVersion) + ", got " + got);
  };
  const auto read = [&](void* to, std::size_t count) {
    if (count > size - at) fail(std::to_string(size) + " bytes, which are too few");
    if (count > 0) std::memcpy(to, bytes + at, count);
    at += count;
  };
  RecipeHeader header;
  read(&header, sizeof header);
  if (std::memcmp(header.magic, kRecipeMagic, sizeof header.magic) != 0) fail("something else");
  if (header.version != kRecipeVersion)
    fail("version " + std::to_string(header.version) +
         "; make the recipes and the operator with the same yolodata");
  if (header.size != size) fail(std::to_string(size) + " bytes of " + std::to_string(header.size));
  Plan plan;
  read(&plan.recipe, sizeof plan.recipe);
  while (at < size) {
    std::int32_t words[2];
    read(words, sizeof words);
    Paste paste{words[0], {}, {}};
    if (words[1] < 0 || static_cast<std::size_t>(words[1]) > (size - at) / sizeof(std::int32_t))
      fail("a mask of " + std::to_string(words[1]) + " words");
    paste.mask.resize(static_cast<std::size_t>(words[1]));
    read(paste.mask.data(), paste.mask.size() * sizeof(std::int32_t));
    plan.pastes.push_back(std::move(paste));
  }
  return plan;
}

}  // namespace yolodata
