// From a recipe and its images to pixels.
#pragma once

#include <cstdint>

#include "plan/recipe.h"
#include "render/shade.h"

namespace yolodata {

// Writes one picture, uint8 planes R, G, B of recipe.height rows of recipe.width bytes.
// Every tile's image must be as large as the tile says (see `check`).
void render_cpu(const Recipe& recipe, const Sources& sources, std::uint8_t* out);

// The same by calling shade() for every pixel: slow, and the definition that render_cpu must equal.
void render_reference(const Recipe& recipe, const Sources& sources, std::uint8_t* out);

// Throws std::invalid_argument when following the recipe would read outside an image.
void check(const Recipe& recipe);

// How the library was built: "none", or the CUDA run-time version and architectures.
const char* cuda_build();

// Renders `count` pictures into device memory, `out` uint8 (count, 3, height, width); all recipes
// must have the same size. `recipes` and `sources` are device arrays whose ImageViews point to
// memory the device can read. Work is enqueued on `stream` (a cudaStream_t) and not waited for.
// Throws std::runtime_error when the library was built without CUDA or the launch fails.
void render_cuda(const Recipe* recipes, const Sources* sources, std::int32_t count,
                 std::int32_t width, std::int32_t height, std::uint8_t* out, void* stream);

}  // namespace yolodata
