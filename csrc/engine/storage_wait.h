// How long a thread stands still for bytes of a mapped file that are not in memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace yolodata {

// Of the thread that makes it, from then on.
//
// A thread whose page is still to be read gives its processor away by itself. So of the time since,
// that counts in which the thread neither ran nor waited for a processor; and none at all where it
// never gave its processor away. Faults do not tell: since Linux 6.4, to wait for a page that a
// read-ahead has begun to bring is a minor one.
class StorageWait {
 public:
  StorageWait();
  std::int64_t of(std::int64_t wall_ns) const;  // nanoseconds of waiting in the `wall_ns` since

  static bool known();  // whether the system tells

 private:
  std::int64_t switches_, running_ns_, queued_ns_;
};

// Reads a byte of each page of [bytes, bytes + count), so that all of them are in memory; returns
// how many nanoseconds the thread waited for that.
std::int64_t wait_for_pages(const std::uint8_t* bytes, std::size_t count);

}  // namespace yolodata
