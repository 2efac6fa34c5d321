"""One writer at a time, and what to tell whose disk refuses a write."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

from yolodata.errors import ShardError
from yolodata.files import write_all
from yolodata.folders import Folder
from yolodata.shards.format import WORK_FOLDER

LOCK = "lock"
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FORBIDDEN = (errno.EROFS, errno.EACCES, errno.EPERM)
_SAID = (errno.ELOOP, errno.EMLINK, errno.EPERM)  # by `Folder`, with what to do
_IN_THE_WAY = (errno.EISDIR, errno.ENOTDIR, errno.EINVAL)

_held: set[tuple[int, int]] = set()
_held_guard = threading.Lock()


def storage_error(where: Path, error: OSError) -> ShardError:
    """Says what to tell somebody whose disk refused a write."""
    if isinstance(error, ShardError):
        return error
    why = error.strerror or str(error)
    if error.filename is not None and error.errno in _SAID + _IN_THE_WAY:
        hint = "" if error.errno in _SAID else "; remove it, or choose another folder"
        result = ShardError(f"{error.filename}: {why}{hint}")
    else:
        first = "make room and " if error.errno in _FULL else ""
        if error.errno in _FORBIDDEN:
            first = "choose another folder, or get the right to write there and "
        result = ShardError(
            f"{where}: cannot write: {why}; {first}run the same command again: it continues where "
            "it stopped"
        )
    result.errno = error.errno
    return result


class Lock:
    """Held by the one process that writes a dataset; the kernel frees it when that process dies.

    A POSIX record lock, because a child process must not inherit it: worker processes may outlive
    a packer that was killed. Such a lock does not exclude its own process, hence the set.

    Attributes:
        folder: of the dataset.
        work: the folder of temporary files in it, which holds the lock.

    Raises:
        ShardError: another writer holds it.
        OSError: there can be no lock, or others can change what is in one of the folders.
    """

    def __init__(self, folder: Folder) -> None:
        self.folder = folder
        folder.check_ours()
        while True:
            self.work = folder.folder(WORK_FOLDER, create=True)
            self.work.check_ours()
            with _held_guard:
                # Looked up first: closing any descriptor of the file would free this process' lock.
                if self._there() in _held:
                    raise self._busy("this process")
                try:
                    self._fd = self.work.open(LOCK, os.O_RDWR | os.O_CREAT)
                except FileNotFoundError:
                    continue  # the previous owner has just removed the folder
                self._key = _identity(os.fstat(self._fd))
                try:
                    fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    if error.errno in (errno.EACCES, errno.EAGAIN):
                        owner = os.pread(self._fd, 100, 0).decode(errors="replace").strip()
                        os.close(self._fd)
                        owner = owner if owner.isdecimal() else "unknown"
                        raise self._busy(f"process {owner}") from None
                    warnings.warn(
                        f"{self.work.path / LOCK}: this file system has no locks "
                        f"({error.strerror}); make sure that only one process writes here",
                        stacklevel=2,
                    )
                _held.add(self._key)
            if self._there() == self._key:
                break  # and not a file that the previous owner has removed
            self.release()
        with contextlib.suppress(OSError):  # only for messages; the disk may be full
            os.ftruncate(self._fd, 0)
            write_all(self._fd, f"{os.getpid()}\n".encode(), 0)

    def _there(self) -> tuple[int, int] | None:
        found = self.work.stat(LOCK)
        return None if found is None else _identity(found)

    def _busy(self, owner: str) -> ShardError:
        return ShardError(
            f"{self.folder.path}: {owner} is writing this dataset; wait for it, end it, or choose "
            "another folder"
        )

    def remove(self) -> None:
        """Frees the lock and removes its folder, which should hold nothing else any more."""
        with contextlib.suppress(OSError):
            self.work.remove(LOCK)  # whoever has opened it before will notice that it is gone
        self.release()
        with contextlib.suppress(OSError):
            self.folder.remove_folder(WORK_FOLDER)

    def release(self) -> None:
        """Frees the lock; the file stays."""
        if self._fd >= 0:
            with _held_guard:
                _held.discard(self._key)
                os.close(self._fd)
            self._fd = -1
            self.work.close()


@contextlib.contextmanager
def file_lock(folder: Folder, name: str, *, wait: bool = True) -> Iterator[None]:
    """Holds a file of a folder, which is made if needed, as the only process that does.

    Args:
        folder: where the file lies.
        name: of the file, whose content does not matter.
        wait: for a process that holds it.

    Raises:
        BlockingIOError: another process holds it, and it is not waited for.
        OSError: it cannot be made, or is something else.
    """
    while True:
        fd = folder.open(name, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            found = folder.stat(name)
            # Whoever held it before may have removed it, and another one have made a new one.
            if found is not None and _identity(found) == _identity(os.fstat(fd)):
                yield
                return
        finally:
            os.close(fd)


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino
