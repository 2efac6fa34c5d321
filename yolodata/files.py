"""Files that are opened with care, written whole and synced; checksums."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

Buffer = bytes | bytearray | memoryview

CHECKSUM = re.compile(r"[0-9a-f]{16}")
"""What `file_checksum` returns: XXH3-64, as 16 hexadecimal digits."""

_BLOCK = 4 << 20  # bytes read at a time
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def write_all(fd: int, data: Buffer, at: int | None = None) -> None:
    """Write everything, at the file's position or at byte `at`."""
    view = memoryview(data).cast("B")
    while view:
        if at is None:
            done = os.write(fd, view)
        else:
            done = os.pwrite(fd, view, at)
            at += done
        view = view[done:]


def open_regular(path: str | os.PathLike[str]) -> int:
    """Opens a file for reading, without waiting, whatever the path leads to.

    A FIFO would be waited for, a device may never end. Links are followed: what is only read may
    lie anywhere.

    Returns:
        its descriptor.

    Raises:
        OSError: there is no such file, or it is no regular one.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    regular(fd, path)
    return fd


def regular(fd: int, path: str | os.PathLike[str]) -> os.stat_result:
    """Says what is known of an open file, which must be a regular one; closes it if it is not.

    Raises:
        OSError: what it is instead.
    """
    found = os.fstat(fd)
    if stat.S_ISREG(found.st_mode):
        return found
    os.close(fd)
    kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
    number = errno.EISDIR if stat.S_ISDIR(found.st_mode) else errno.EINVAL
    raise OSError(number, f"must be a file, is {kind}", os.fspath(path))


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """Reads a file of at most `limit` bytes; see `open_regular`.

    Raises:
        OSError: there is no such file, it is no regular one, or it is larger (EFBIG).
    """
    fd = open_regular(path)
    try:
        size = _size(fd, path, limit)
        # As many bytes as there are, and not `limit`: so many would be set aside for each file.
        data = os.read(fd, min(size + 1, limit))
        while more := os.read(fd, min(limit - len(data), _BLOCK)):  # short, growing, of no size
            data += more
        return data
    finally:
        os.close(fd)


def read_lines(path: str | os.PathLike[str], limit: int, longest: int = 1 << 20) -> Iterator[bytes]:
    """Reads the lines of a file of at most `limit` bytes; those above `longest` are left out.

    Yields:
        lines with their ends; the last one may have none.

    Raises:
        OSError: as `read_regular`.
    """
    with os.fdopen(open_regular(path), "rb") as file:
        _size(file.fileno(), path, limit)
        while line := file.readline(longest):
            whole = len(line) < longest or line.endswith(b"\n")
            if whole:
                yield line
            while not whole:
                rest = file.readline(longest)
                whole = len(rest) < longest or rest.endswith(b"\n")


def _size(fd: int, path: str | os.PathLike[str], limit: int) -> int:
    size = os.fstat(fd).st_size
    if size > limit:
        raise OSError(
            errno.EFBIG, f"has {size} bytes, at most {limit} are allowed", os.fspath(path)
        )
    return size


def resolved(path: str | os.PathLike[str]) -> Path:
    """Follows all links of a path, which need not lead anywhere; `Path.resolve` fails at loops."""
    return Path(os.path.realpath(path))


def sync_file(path: Path) -> None:
    """Make durable what was written to a file, by whomever."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_folder(path: Path) -> None:
    """Make renames and removals in a folder durable."""
    sync_file(path)


def file_checksum(file: BinaryIO) -> str:
    """XXH3-64 of a file from where it is read next, as 16 hexadecimal digits."""
    import xxhash

    digest = xxhash.xxh3_64()
    while block := file.read(_BLOCK):
        digest.update(block)
    return digest.hexdigest()


def stored_bytes(folder: Path) -> int:
    """Bytes of all files below a folder."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # removed meanwhile
                total += os.lstat(os.path.join(path, name)).st_size
    return total
