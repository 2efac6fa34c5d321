// What is said when a mapped file is cut off while a thread reads it.
//
// Note [cut off]. A page of a map that its file no longer has cannot be read: the thread gets
// SIGBUS, which ends the process without a word. So does a page that the disk fails to give. No
// error can be raised in the middle of a loop over pixels, but the file can be named first. The
// handler does only what POSIX allows in one: no memory is taken, nothing is locked. A SIGBUS that
// is not ours goes to the handler that was there before.
#pragma once

#include <cstddef>
#include <string>

namespace yolodata {

// A file of this name is mapped at `address`. `path` is UTF-8.
void note_map(std::size_t address, std::size_t nbytes, const std::string& path);

// To be called before the memory is unmapped.
void forget_map(std::size_t address);

// What is done at a SIGBUS: the file is named on stderr, a line [status, reason] of JSON is
// appended to `file`, a descriptor (-1: to none), and the process ends with `status`. A status of
// -1 leaves SIGBUS to whoever had it before.
struct CutOff {
  int status = -1, file = -1;
};

// Sets that; returns what was set before.
CutOff explain_cut_off(CutOff how);

}  // namespace yolodata
