#include "engine/storage_wait.h"

#include <chrono>

#if defined(__linux__)
#include <fcntl.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#include <cstdlib>
#endif

namespace yolodata {

#if defined(__linux__)
namespace {

// /proc/thread-self/schedstat: nanoseconds of running, and of waiting for a processor.
struct Schedstat {
  int file = open("/proc/thread-self/schedstat", O_RDONLY | O_CLOEXEC);
  ~Schedstat() {
    if (file >= 0) close(file);
  }
};

std::int64_t queued_ns() {
  thread_local const Schedstat stat;
  char text[96];
  const ssize_t got = stat.file < 0 ? -1 : pread(stat.file, text, sizeof(text) - 1, 0);
  if (got <= 0) return 0;
  text[got] = '\0';
  char* rest = nullptr;
  std::strtoll(text, &rest, 10);
  return std::strtoll(rest, nullptr, 10);
}

std::int64_t running_ns() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::int64_t{1'000'000'000} * now.tv_sec + now.tv_nsec;
}

std::int64_t voluntary_switches() {
  rusage usage{};
  getrusage(RUSAGE_THREAD, &usage);
  return usage.ru_nvcsw;
}

}  // namespace

StorageWait::StorageWait()
    : switches_(voluntary_switches()), running_ns_(running_ns()), queued_ns_(queued_ns()) {}

std::int64_t StorageWait::of(std::int64_t wall_ns) const {
  if (voluntary_switches() == switches_) return 0;
  const std::int64_t used = running_ns() - running_ns_ + queued_ns() - queued_ns_;
  return wall_ns > used ? wall_ns - used : 0;
}

bool StorageWait::known() { return true; }
#else
StorageWait::StorageWait() : switches_(0), running_ns_(0), queued_ns_(0) {}
std::int64_t StorageWait::of(std::int64_t) const { return 0; }
bool StorageWait::known() { return false; }
#endif

std::int64_t wait_for_pages(const std::uint8_t* bytes, std::size_t count) {
  using Clock = std::chrono::steady_clock;
  constexpr std::size_t kPage = 4096;  // no processor has smaller ones
  const StorageWait storage;
  const auto start = Clock::now();
  const volatile std::uint8_t* const at = bytes;
  for (std::size_t i = 0; i < count; i += kPage) static_cast<void>(at[i]);
  if (count > 0) static_cast<void>(at[count - 1]);
  return storage.of(
      std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count());
}

}  // namespace yolodata
