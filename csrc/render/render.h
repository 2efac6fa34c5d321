// From a recipe and its images to pixels.
#pragma once

#include <cstddef>
#include <cstdint>

#include "plan/recipe.h"
#include "render/render_task.h"
#include "render/shade.h"

namespace yolodata {

// Writes one picture, uint8 planes R, G, B of recipe.height rows of recipe.width bytes.
// Every tile's image must be as large as the tile says (see `validate`).
void render_cpu(const Recipe& recipe, const Sources& sources, std::uint8_t* out);

// The same by calling shade() for every pixel: slow, and the definition that render_cpu must equal.
void render_reference(const Recipe& recipe, const Sources& sources, std::uint8_t* out);

// How the library was built: "none", or the version of the CUDA run time.
const char* cuda_build();

// What pixels are written as: bytes, or 16-bit floats that are fractions of 255 (the half
// precision number, or bfloat16, next to float(byte) / 255).
enum class PixelFormat : std::int32_t { kUint8, kFloat16, kBfloat16 };

// A batch of pictures: (count, 3, height, width), or (count, height, width, 3) in memory if
// `channels_last`.
struct Output {
  void* data;
  PixelFormat format;
  bool channels_last;
};

// Renders `count` pictures of one size on a CUDA device. `tasks` and `out` are device memory; the
// ImageViews point to memory that the device can read, each large enough for its tile (see
// `validate`). Work is enqueued on `stream` (a cudaStream_t) and not waited for; nothing is
// allocated. Throws std::runtime_error when the library was built without CUDA or the launch fails.
void render_cuda(const RenderTask* tasks, std::int32_t count, std::int32_t width,
                 std::int32_t height, const Output& out, void* stream);

// The same on the calling CPU thread, from and to its own memory: the kernel's body in loops.
// Returns how many strips of blocks copied what they show before they interpolated (see Note
// [windows]).
std::int64_t render_emulated(const RenderTask* tasks, std::int32_t count, std::int32_t width,
                             std::int32_t height, const Output& out);

// Makes host memory readable by CUDA devices where it lies, and returns its address there. Throws
// std::runtime_error with the reason where the system refuses (no driver, memory that cannot be
// locked, a mapping that the driver does not take).
const void* register_host(const void* memory, std::size_t bytes);
void unregister_host(const void* memory) noexcept;

}  // namespace yolodata
