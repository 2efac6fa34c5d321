"""Files that survive a crash: complete writes, durable renames, checksums."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

Buffer = bytes | bytearray | memoryview

_BLOCK = 4 << 20  # bytes read at a time


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


def write_durably(path: Path, data: Buffer) -> None:
    """Create or overwrite a file and sync it; it may be half written after a crash."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        write_all(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)


@contextlib.contextmanager
def temporary_file(folder: Path) -> Iterator[Path]:
    """Yields a name of its own, `.….tmp`, in a folder; a file of that name is removed at the end.

    `publish` takes the file out of its reach.
    """
    path = folder / f".{secrets.token_hex(8)}.tmp"
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def publish(temporary: Path, final: Path) -> None:
    """Give a synced file its final name, durably."""
    os.replace(temporary, final)
    sync_folder(final.parent)


def remove_temporary(folder: Path) -> None:
    """Remove what processes that were killed left of `temporary_file`."""
    remove_quietly(folder.glob(".*.tmp"))


def remove_quietly(files: Iterable[Path]) -> None:
    """Remove files that nobody needs; what cannot be removed stays."""
    for file in files:
        with contextlib.suppress(OSError):
            file.unlink()


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
