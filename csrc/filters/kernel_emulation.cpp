// The CUDA kernels' bodies on the CPU: every block in turn, every step by every thread of it.
#include "filters/kernel_body.h"

namespace yolodata {
namespace {

template <typename Step>
void each_thread(Step step) {
  for (int thread = 0; thread < kFilterThreads; ++thread) step(thread);
}

void make_table(const FilterLaunch& launch, const FilterTask& task, std::int32_t number) {
  TileStage tile;
  each_thread([&](int thread) { clear(thread, tile); });
  each_thread([&](int thread) { count_levels(thread, launch, task, number, tile); });
  each_thread([&](int thread) { sum_excess(thread, task, tile); });
  each_thread([&](int thread) { write_table(thread, task, number, tile); });
}

void make_picture(const FilterLaunch& launch, const FilterTask& task) {
  Surroundings around;
  for (std::int32_t top = 0; top < launch.height; top += kFilterHeight)
    for (std::int32_t left = 0; left < launch.width; left += kFilterWidth) {
      each_thread([&](int thread) { look_around(thread, launch, task, left, top, around); });
      each_thread([&](int thread) { filter_pixel(thread, launch, task, left, top, around); });
    }
}

}  // namespace

void filter_emulated(const FilterLaunch& launch) {
  for (std::int32_t i = 0; i < launch.count; ++i) {
    const FilterTask& task = launch.tasks[i];
    for (std::int32_t number = 0; has_tile(task, number); ++number)
      make_table(launch, task, number);
    make_picture(launch, task);
  }
}

}  // namespace yolodata
