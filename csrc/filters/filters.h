// From pictures and filters to pictures, many at a time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "filters/clahe.h"
#include "filters/filter.h"
#include "filters/lab.h"

namespace yolodata {

// A filter and what it is applied to: uint8 (height, width, 3) RGB.
struct alignas(16) FilterTask {
  Filter filter;
  ClaheGrid grid;  // of kClahe
  const std::uint8_t* from;
  std::uint8_t* to;      // apart from `from`
  std::uint8_t* tables;  // of kClahe: room for kTablesBytes
};

// Memory for the tables of the tiles of a picture.
inline constexpr std::size_t kTablesBytes = std::size_t{kClaheBins} * kMaxTilesOfClahe;

// Pictures of one size.
struct FilterLaunch {
  const FilterTask* tasks;
  std::int32_t count, width, height;
  std::int32_t tiles;  // the most that a kClahe among them has; 0 without any
  const LabTables* lab;
};

// Applies filters on a CUDA device, which can read and write all that the launch points to. Work is
// enqueued on `stream` (a cudaStream_t) and not waited for; nothing is allocated. Throws
// std::runtime_error when the library was built without CUDA or a kernel cannot be started.
void filter_cuda(const FilterLaunch& launch, void* stream);

// The same on the calling CPU thread, from and to its own memory: the kernels' bodies in loops.
void filter_emulated(const FilterLaunch& launch);

}  // namespace yolodata
