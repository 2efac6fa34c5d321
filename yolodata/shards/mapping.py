"""Bytes of finished files: read-only maps, or positioned reads where a map is dangerous.

Note [maps and network file systems]. When a mapped file becomes shorter, touching the lost pages
kills the process (SIGBUS). On a local disk only somebody who truncates the file can cause that,
and nothing here ever does; on a network file system a server can. Files there are read with
`pread`, which reports an error instead.

Note [maps that others can cut off]. On a local disk that is the owner, or anybody where everybody
may write. What `pread` costs decides. A picture file is decoded, beside which a copy of it is
little: 0.06 ms of 1.39 ms for 130 kB (one core of a virtual machine, 25 interleaved rounds). Raw
pixels are rendered from the map itself, and a loader of one thread made 30 % fewer pictures with
copies. So files are read, and raw pixels are mapped; a process that may not end without a word
names the file (`explaining_cut_off`). Root is not protected: in containers most files are
another's.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yolodata import _native
from yolodata.errors import ShardError
from yolodata.files import open_regular
from yolodata.mounts import MOUNTS, mount_of
from yolodata.shards.format import SHARD_HEADER
from yolodata.terminal import encodable

Bytes = npt.NDArray[np.uint8]

_OPEN_FILES = 64  # descriptors that a PreadFiles keeps
_LARGE = 1 << 30  # bytes that are read in a second


class _Map:
    """A read-only shared map that owns no file descriptor (mmap.mmap keeps one for each map).

    NumPy reads `__array_interface__` and keeps this object alive as the base of its views.
    """

    _libc: Any = None

    def __init__(self, fd: int, path: Path, nbytes: int) -> None:
        if _Map._libc is None:
            libc = ctypes.CDLL(None, use_errno=True)
            libc.mmap.restype = ctypes.c_void_p
            libc.mmap.argtypes = [
                ctypes.c_void_p,
                ctypes.c_size_t,
                ctypes.c_int,
                ctypes.c_int,
                ctypes.c_int,
                ctypes.c_long,
            ]
            libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
            libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
            _Map._libc = libc
        self._nbytes = nbytes
        self._munmap, self._forget = _Map._libc.munmap, _native.forget_map
        self._address = _Map._libc.mmap(None, nbytes, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
        if self._address in (None, ctypes.c_void_p(-1).value):
            self._address = None
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        _native.note_map(self._address, nbytes, encodable(os.path.abspath(path)))
        self.__array_interface__ = {
            "version": 3,
            "typestr": "|u1",
            "shape": (nbytes,),
            "data": (self._address, True),  # True: read-only
        }

    def __del__(self) -> None:
        if getattr(self, "_address", None) is not None:
            self._forget(self._address)
            self._munmap(self._address, self._nbytes)


def will_need(data: Bytes) -> None:
    """Has the kernel read mapped bytes into the page cache, without waiting for it."""
    address = data.ctypes.data
    begin = address & -mmap.PAGESIZE
    nbytes = address + data.nbytes - begin
    _Map._libc.madvise(begin, nbytes, mmap.MADV_WILLNEED)  # advice: failure is no error


def open_checked(path: Path, nbytes: int) -> int:
    """Opens a file for reading; its size must be `nbytes`.

    Raises:
        ShardError: missing, unreadable, no regular file, or of another size.
    """
    try:
        fd = open_regular(path)
    except OSError as error:
        raise ShardError(
            f"{path}: cannot be opened: {error.strerror}; restore the file or pack again"
        ) from None
    size = os.fstat(fd).st_size
    if size != nbytes:
        os.close(fd)
        raise size_error(path, size, nbytes)
    return fd


def size_error(path: Path, size: int, nbytes: int) -> ShardError:
    """A file that was cut off, or grew."""
    fate = f"ends at byte {size}" if size < nbytes else f"has {size} bytes"
    return ShardError(
        f"{path}: {fate}, it must have {nbytes} bytes; restore the file or pack again"
    )


@contextlib.contextmanager
def opened(path: Path, nbytes: int) -> Iterator[int]:
    """Yields the descriptor of a file of `nbytes` bytes; see `open_checked`."""
    fd = open_checked(path, nbytes)
    try:
        yield fd
    finally:
        os.close(fd)


def map_file(fd: int, path: Path, nbytes: int) -> Bytes:
    """Maps the `nbytes` bytes of an open file, read-only.

    Raises:
        ShardError: it cannot be mapped.
    """
    try:
        return np.asarray(_Map(fd, path, nbytes)) if nbytes else np.empty(0, np.uint8)
    except OSError as error:
        raise ShardError(
            f"{path}: cannot be mapped: {error.strerror}; open the dataset with io='pread'"
        ) from None


def read_at(fd: int, path: Path, at: int, nbytes: int) -> Bytes:
    """Reads `nbytes` bytes from byte `at`.

    Raises:
        ShardError: the file ends before, or cannot be read.
    """
    out = np.empty(nbytes, np.uint8)
    view = out.data
    done = 0
    while done < nbytes:
        try:
            got = os.preadv(fd, [view[done : done + (1 << 30)]], at + done)
        except OSError as error:
            raise ShardError(
                f"{path}: byte {at + done}: cannot be read: {error.strerror}; restore the file or "
                "pack again"
            ) from None
        if not got:
            raise ShardError(
                f"{path}: ends at byte {at + done}, {nbytes - done} bytes are missing; restore the "
                "file or pack again"
            )
        done += got
    return out


def read_file(fd: int, path: Path, nbytes: int) -> Bytes:
    """Reads the `nbytes` bytes of an open file into read-only memory.

    Raises:
        ShardError: the file ends before, or cannot be read.
    """
    data = read_at(fd, path, 0, nbytes)
    data.setflags(write=False)
    return data


def is_hollow(fd: int) -> bool:
    """Whether nearly all of a large file are holes, which take hours to read and no disk to make.

    Labels cannot be packed so tightly by a file system that compresses: their checksums and boxes
    are as good as random. A file system that counts no blocks says nothing.
    """
    found = os.fstat(fd)
    stored = 512 * found.st_blocks
    return found.st_size > _LARGE and 0 < stored < found.st_size // 64


class _Descriptor:
    """Closes its descriptor when the last thread that reads from it has let go."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        os.close(self.fd)


class PreadFiles:
    """Positioned reads from many shards, with a bounded number of open descriptors.

    Args:
        check: called with path, first bytes and size of every file that is opened.
    """

    def __init__(self, check: Callable[[Path, Bytes, int], None]) -> None:
        self._check = check
        self._open: OrderedDict[Path, _Descriptor] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, path: Path, size: int, at: int, nbytes: int) -> Bytes:
        """Reads `nbytes` bytes from byte `at` of a file that must have `size` bytes.

        Raises:
            ShardError: missing, unreadable, or of another size.
        """
        with self._lock:
            file = self._open.pop(path, None)
            if file is None:
                file = _Descriptor(open_checked(path, size))
                self._check(path, read_at(file.fd, path, 0, SHARD_HEADER), size)
            self._open[path] = file
            while len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)
        return read_at(file.fd, path, at, nbytes)

    def close(self) -> None:
        """Lets go of all descriptors."""
        with self._lock:
            self._open.clear()


def is_of_others(found: os.stat_result) -> bool:
    """Whether another user than root could change a file, by its owner and mode."""
    me = os.geteuid()
    return me != 0 and (found.st_uid not in (0, me) or bool(found.st_mode & stat.S_IWOTH))


@contextlib.contextmanager
def explaining_cut_off(status: int, told: str = "") -> Iterator[None]:
    """Names a file that is cut off while it is mapped and read, before that ends the process.

    Args:
        status: what the process then ends with.
        told: a file that gets a line of JSON, [status, reason]; "" for none.
    """
    file = -1
    if told:
        with contextlib.suppress(OSError):
            file = os.open(told, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
    before = _native.explain_cut_off(status, file)
    try:
        yield
    finally:
        _native.explain_cut_off(*before)
        if file >= 0:
            os.close(file)


def on_network(path: Path, mounts: Path = MOUNTS) -> bool:
    """Whether a folder is on a network or user-space file system; False where that is unknown."""
    return mount_of(path, mounts).where in ("network", "fuse")
