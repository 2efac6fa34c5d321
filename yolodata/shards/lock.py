"""One writer at a time, and what to tell whose disk refuses a write."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import threading
import warnings
from pathlib import Path

from yolodata.errors import ShardError
from yolodata.files import write_all

_held: set[tuple[int, int]] = set()
_held_guard = threading.Lock()


def storage_error(where: Path, error: OSError) -> ShardError:
    """Says what to tell somebody whose disk refused a write."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        hint = "make room and run the same command again: it continues where it stopped"
    else:
        hint = "run the same command again: it continues where it stopped"
    result = ShardError(f"{where}: cannot write: {error.strerror or error}; {hint}")
    result.errno = error.errno
    return result


class Lock:
    """Held by the one process that writes a dataset; the kernel frees it when that process dies.

    A POSIX record lock, because a child process must not inherit it: worker processes may outlive
    a packer that was killed. Such a lock does not exclude its own process, hence the set.

    Raises:
        ShardError: another writer holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        while True:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _held_guard:
                # Looked up first: closing any descriptor of the file would free this process' lock.
                if path.exists() and _identity(os.stat(path)) in _held:
                    raise self._busy("this process")
                try:
                    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
                except FileNotFoundError:
                    continue  # the previous owner has just removed the folder
                self._fd, self._key = fd, _identity(os.fstat(fd))
                try:
                    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError as error:
                    if error.errno in (errno.EACCES, errno.EAGAIN):
                        owner = os.pread(fd, 100, 0).decode(errors="replace").strip()
                        os.close(fd)
                        raise self._busy(f"process {owner or 'unknown'}") from None
                    warnings.warn(
                        f"{path}: this file system has no locks ({error.strerror}); make sure that "
                        "only one process writes here",
                        stacklevel=2,
                    )
                _held.add(self._key)
            try:
                if _identity(os.stat(path)) == self._key:
                    break  # and not a file that the previous owner has removed
            except FileNotFoundError:
                pass
            self.release()
        with contextlib.suppress(OSError):  # only for messages; the disk may be full
            os.ftruncate(fd, 0)
            write_all(fd, f"{os.getpid()}\n".encode(), 0)

    def _busy(self, owner: str) -> ShardError:
        return ShardError(
            f"{self.path.parent.parent}: {owner} is writing this dataset; wait for it, end it, or "
            "choose another folder"
        )

    def remove(self) -> None:
        """Frees the lock and removes its folder, which should hold nothing else any more."""
        with contextlib.suppress(OSError):
            self.path.unlink()  # whoever has opened this file before will notice that it is gone
        self.release()
        with contextlib.suppress(OSError):
            self.path.parent.rmdir()

    def release(self) -> None:
        """Frees the lock; the file stays."""
        if self._fd >= 0:
            with _held_guard:
                _held.discard(self._key)
                os.close(self._fd)
            self._fd = -1


def _identity(stat: os.stat_result) -> tuple[int, int]:
    return stat.st_dev, stat.st_ino
