"""Where objects lie: what a file system of fsspec's has, or a folder of this machine.

Both have files under plain names, and nothing else: folders, links, FIFOs and devices are not seen.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from yolodata.files import write_all
from yolodata.folders import Folder

PART = 16 << 20  # bytes that are sent, or asked for, in one request
_BLOCK = 1 << 20  # bytes that are copied at a time


class Place(Protocol):
    """Objects under names."""

    def sizes(self) -> dict[str, int]:
        """Bytes of each object, by name; none where nothing is there."""

    def put(self, name: str, file: BinaryIO) -> None:
        """Writes an object, durably: what an open file has, from its beginning."""

    def put_bytes(self, name: str, data: bytes) -> None:
        """Writes a small object, durably."""

    def open(self, name: str) -> BinaryIO:
        """Opens an object for reading.

        Raises:
            FileNotFoundError: there is none.
        """

    def head(self, name: str, limit: int) -> bytes:
        """Reads a small object, at most `limit` bytes of it."""

    def remove(self, name: str) -> None:
        """Removes an object; nothing is done where there is none."""


class RemotePlace:
    """A folder of a file system that fsspec has.

    Args:
        fs: the file system, an `fsspec.AbstractFileSystem`.
        root: the folder, without a slash at its end.
        has_folders: they have to be made.
        put_options: for its `put_file`.
    """

    def __init__(
        self, fs: Any, root: str, *, has_folders: bool, put_options: Mapping[str, Any]
    ) -> None:
        self._fs, self._root = fs, root
        self._has_folders, self._put_options = has_folders, put_options

    def sizes(self) -> dict[str, int]:
        """See `Place`."""
        self._fs.invalidate_cache()
        found: dict[str, int] = {}
        with contextlib.suppress(FileNotFoundError):
            for each in self._fs.ls(self._root, detail=True):
                if each.get("type") == "file" and isinstance(each.get("size"), int):
                    found[str(each["name"]).rpartition("/")[2]] = each["size"]
        return found

    def put(self, name: str, file: BinaryIO) -> None:
        """See `Place`."""
        self._make()
        # By the handle, not by the name: the file may have been removed since.
        source = f"/proc/self/fd/{file.fileno()}"
        self._fs.put_file(source, self._path(name), **self._put_options)

    def put_bytes(self, name: str, data: bytes) -> None:
        """See `Place`."""
        self._make()
        self._fs.pipe_file(self._path(name), data)

    def open(self, name: str) -> BinaryIO:
        """See `Place`."""
        opened: BinaryIO = self._fs.open(self._path(name), "rb", block_size=PART)
        return opened

    def head(self, name: str, limit: int) -> bytes:
        """See `Place`."""
        data: bytes = self._fs.cat_file(self._path(name), start=0, end=limit)
        return data

    def remove(self, name: str) -> None:
        """See `Place`."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(self._path(name))

    def _make(self) -> None:
        if self._has_folders:
            self._fs.makedirs(self._root, exist_ok=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"


class LocalPlace:
    """A folder of this machine.

    Args:
        root: the folder; links to it are followed, links in it are not.
    """

    def __init__(self, root: Path) -> None:
        self._root = root

    def sizes(self) -> dict[str, int]:
        """See `Place`."""
        found: dict[str, int] = {}
        with contextlib.suppress(FileNotFoundError), Folder.at(self._root) as folder:
            for name in folder.names():
                known = folder.stat(name)
                if known is not None and stat.S_ISREG(known.st_mode):
                    found[name] = known.st_size
        return found

    def put(self, name: str, file: BinaryIO) -> None:
        """See `Place`."""
        block = memoryview(bytearray(_BLOCK))  # one for all: fresh memory costs more than the copy
        with self._made(name) as fd:
            at = 0
            while count := os.preadv(file.fileno(), [block], at):
                write_all(fd, block[:count])
                at += count

    def put_bytes(self, name: str, data: bytes) -> None:
        """See `Place`."""
        with self._made(name) as fd:
            write_all(fd, data)

    @contextlib.contextmanager
    def _made(self, name: str) -> Any:
        """A new file, in the place of what has the name."""
        with Folder.at(self._root, create=True) as folder:
            folder.remove(name)
            fd = folder.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
            try:
                yield fd
                os.fsync(fd)
            finally:
                os.close(fd)
            folder.sync()

    def open(self, name: str) -> BinaryIO:
        """See `Place`."""
        with Folder.at(self._root) as folder:
            known = folder.stat(name)
            if known is None or not stat.S_ISREG(known.st_mode):
                raise FileNotFoundError(errno.ENOENT, "no file", str(self._root / name))
            return os.fdopen(folder.open(name, os.O_RDONLY), "rb")

    def head(self, name: str, limit: int) -> bytes:
        """See `Place`."""
        with self.open(name) as file:
            return file.read(limit)

    def remove(self, name: str) -> None:
        """See `Place`."""
        with contextlib.suppress(FileNotFoundError), Folder.at(self._root) as folder:
            folder.remove(name)
