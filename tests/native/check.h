// What the programs share: numbers that are the same everywhere, memory that ends where it says,
// and promises.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>

namespace yolodata {

// A broken promise ends the program with what was broken.
inline void expect(bool promise, const std::string& what) {
  if (promise) return;
  std::fprintf(stderr, "broken: %s\n", what.c_str());
  std::exit(1);
}

// SplitMix64.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    std::uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  int below(int end) { return static_cast<int>(next() % static_cast<std::uint64_t>(end)); }
  int from(int low, int high) { return low + below(high - low + 1); }
  bool one_in(int times) { return below(times) == 0; }
  std::uint8_t byte() { return static_cast<std::uint8_t>(next() >> 56); }
  // All 24 bits of a float in [0, 1).
  float unit() { return static_cast<float>(next() >> 40) * 0x1p-24f; }
  float real(float low, float high) { return low + (high - low) * unit(); }

 private:
  std::uint64_t state_;
};

// `count` values, behind which lies a page that nobody may touch.
template <typename T>
class Guarded {
 public:
  explicit Guarded(std::size_t count) : count_(count) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    const std::size_t room = (count * sizeof(T) + page - 1) / page * page;
    bytes_ = room + page;
    memory_ = static_cast<std::uint8_t*>(
        mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    expect(memory_ != MAP_FAILED, "memory suffices");
    expect(mprotect(memory_ + room, page, PROT_NONE) == 0, "a page can be guarded");
    values_ = reinterpret_cast<T*>(memory_ + room) - count;
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() { munmap(memory_, bytes_); }

  T* data() { return values_; }
  T& operator[](std::size_t i) { return values_[i]; }
  std::size_t size() const { return count_; }
  T* begin() { return values_; }
  T* end() { return values_ + count_; }

 private:
  std::size_t count_, bytes_;
  std::uint8_t* memory_;
  T* values_;
};

// FNV-1a over all bytes that were shown to it.
class Digest {
 public:
  void add(const void* data, std::size_t size) {
    const auto* const bytes = static_cast<const std::uint8_t*>(data);
    for (std::size_t i = 0; i < size; ++i) state_ = (state_ ^ bytes[i]) * 0x100000001B3u;
  }
  std::uint64_t value() const { return state_; }

 private:
  std::uint64_t state_ = 0xCBF29CE484222325u;
};

}  // namespace yolodata
