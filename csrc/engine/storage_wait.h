// How long a thread stands still because pages of a mapped file are read from storage.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/resource.h>
#include <time.h>
#endif

namespace yolodata {

// Of the thread that makes it, from then on. A page that is not in memory is a major fault, and the
// thread gets no processor time until it is there. Without such a fault all time counts as work:
// the thread may only have lost its processor to another one.
class StorageWait {
 public:
#if defined(__linux__)
  static constexpr bool kKnown = true;
  StorageWait() : faults_(faults()), processor_ns_(processor_ns()) {}

  // Nanoseconds of waiting in the `wall_ns` since.
  std::int64_t of(std::int64_t wall_ns) const {
    if (faults() == faults_) return 0;
    const std::int64_t idle_ns = wall_ns - (processor_ns() - processor_ns_);
    return idle_ns > 0 ? idle_ns : 0;
  }

 private:
  static std::int64_t faults() {
    rusage usage{};
    getrusage(RUSAGE_THREAD, &usage);
    return usage.ru_majflt;
  }
  static std::int64_t processor_ns() {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return std::int64_t{1'000'000'000} * now.tv_sec + now.tv_nsec;
  }

  std::int64_t faults_, processor_ns_;
#else
  static constexpr bool kKnown = false;
  std::int64_t of(std::int64_t) const { return 0; }
#endif
};

}  // namespace yolodata
