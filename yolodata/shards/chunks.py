"""Samples that are written in one piece, past the page cache.

Note [past the page cache]. Pages that the cache has to get first cost the processor more than
writing them: the system has to find them, and under a virtual machine the host as well. A
megabyte written through the cache took 0.3 to 4 ms of a core on one such machine, written past it
(O_DIRECT) from 2 MB pages 0.02 ms; decoding a megabyte of pixels takes 4 ms. What is packed is also
not what will be read next, and would push out what is. The disk takes the bytes from where they
are, so they must lie in memory as they shall stand in the file, at addresses that suit it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os

import numpy as np
import numpy.typing as npt

from yolodata.files import write_all
from yolodata.folders import Folder
from yolodata.shards.format import SHARD_HEADER, aligned
from yolodata.shards.layout import shard_header

Bytes = npt.NDArray[np.uint8]

_HUGE = 2 << 20  # bytes of a huge page
_DIRECT = getattr(os, "O_DIRECT", 0)


def memory(nbytes: int) -> Bytes:
    """Gives memory at an address that suits a disk, in huge pages where there are any."""
    mapped = mmap.mmap(-1, nbytes + _HUGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            mapped.madvise(mmap.MADV_HUGEPAGE)
    whole = np.frombuffer(mapped, np.uint8)
    return whole[-whole.ctypes.data % _HUGE :][:nbytes]


class Chunk:
    """Samples side by side as they stand in a shard: each in pages of its own, filled with zeros.

    Args:
        memory: whole pages.
    """

    def __init__(self, memory: Bytes) -> None:
        self.memory = memory
        self._end = 0

    def room(self, nbytes: int) -> Bytes:
        """Gives the place of the next sample; to be written to before it is taken."""
        return self.memory[self._end : self._end + nbytes]

    def picture(self, size: tuple[int, int]) -> Bytes:
        """Gives the same as pixels: uint8 (height, width, 3)."""
        return self.room(size[0] * size[1] * 3).reshape(*size, 3)

    def take(self, nbytes: int) -> Bytes:
        """Makes what was written to `room` the next sample."""
        begin, self._end = self._end, self._end + aligned(nbytes)
        self.memory[begin + nbytes : self._end] = 0
        return self.memory[begin : begin + nbytes]

    def content(self) -> Bytes:
        """Gives all samples."""
        return self.memory[: self._end]


class PageFile:
    """A file that is written in whole pages, past the page cache where its file system can."""

    def __init__(self, folder: Folder, name: str) -> None:
        self._fd = -1
        flags = os.O_WRONLY | os.O_CREAT
        try:
            self._fd = folder.open(name, flags | _DIRECT)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._fd = folder.open(name, flags)

    def write(self, data: Bytes, at: int) -> None:
        """Writes whole pages of memory to whole pages of the file, from byte `at`."""
        try:
            write_all(self._fd, data.data, at)
        except OSError as error:
            flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
            if error.errno != errno.EINVAL or not flags & _DIRECT:
                raise
            # Some file systems only say so now, some after having stored a part of a page.
            fcntl.fcntl(self._fd, fcntl.F_SETFL, flags & ~_DIRECT)
            write_all(self._fd, data.data, at)

    def write_header(self, nbytes: int) -> None:
        """Writes the header of a shard whose tensor has `nbytes` bytes."""
        page = memory(SHARD_HEADER)
        page[:] = np.frombuffer(shard_header(nbytes), np.uint8)
        self.write(page, 0)

    def truncate(self, nbytes: int) -> None:
        """Cuts off what is behind a shard's tensor of `nbytes` bytes."""
        os.ftruncate(self._fd, SHARD_HEADER + nbytes)

    def sync(self) -> None:
        """Waits until everything is on the disk."""
        os.fsync(self._fd)

    def stat(self) -> os.stat_result:
        """What is known of the file."""
        return os.fstat(self._fd)

    def close(self) -> None:
        """Closes the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> PageFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()
