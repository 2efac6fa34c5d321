"""Checkpoints to another place, in the background, and back on a new machine.

    uploader = Uploader("s3://bucket/runs/a", keep=3)
    uploader.put(path)              # returns at once
    uploader.close(timeout=60)

    path = newest("s3://bucket/runs/a", folder)

`yolodata.train.checkpoint.object_store` says how files lie there.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from yolodata.errors import ConfigError, YolodataError
from yolodata.train.checkpoint.object_store import Damaged, Digest, Remote

log = logging.getLogger("yolodata")

T = TypeVar("T")

_ATTEMPTS = 6  # of `newest`, which somebody waits for
# Trying again at once does not help; the next checkpoint is another try.
_LASTING = (PermissionError, FileNotFoundError, IsADirectoryError, NotADirectoryError)


@dataclass(frozen=True)
class Status:
    """What an `Uploader` did so far.

    Attributes:
        uploaded: files that are there, complete and checked.
        replaced: files that were given up for a newer one.
        failed: files that were given up for other reasons.
        errors: attempts that failed; `last_error` says why the last one did.
        bytes: of the files uploaded.
        uploading, waiting: names of files that are on their way, and next.
        newest: name of the newest file that is there.
        checked: how its arrival was: by the "checksum of the store", or "read back".
    """

    uploaded: int = 0
    replaced: int = 0
    failed: int = 0
    errors: int = 0
    bytes: int = 0
    uploading: str | None = None
    waiting: str | None = None
    newest: str | None = None
    checked: str | None = None
    last_error: str | None = None


@dataclass
class _Job:
    name: str
    file: BinaryIO


class Backoff:
    """Waiting times after failures in a row: doubled each time, less a random half.

    Args:
        first: the longest first one, in seconds.
        most: the longest of all.
    """

    def __init__(self, first: float = 1.0, most: float = 60.0) -> None:
        self._first, self._most = first, most
        self._failures = 0
        self._random = random.Random()  # not the global one, which training draws from

    def next(self) -> float:
        """Seconds to wait now, after another failure."""
        longest = min(self._most, self._first * 2.0 ** min(self._failures, 30))
        self._failures += 1
        return longest * self._random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """It worked."""
        self._failures = 0


class Uploader:
    """Brings files to a URL in one thread of its own; nothing that goes wrong there is raised.

    A file that waits is replaced by a newer one, so that there is at most one waiting and one on
    its way. A file is held open from `put` on: it may be removed meanwhile, but not written to.
    An attempt that fails is repeated after 1, 2, 4, … 60 seconds (and less, by chance); every cause
    is reported in the log of "yolodata" once.

    Args:
        url: any that fsspec knows, or a path; a folder of this run alone.
        keep: how many files stay there; older ones are removed once a newer one is complete.
        patience: seconds after which a file is given up.
        backoff: waiting times between attempts.
        options: for fsspec's file system.

    Raises:
        ConfigError: `keep` is no number from 1, or there is no file system for the URL.
    """

    def __init__(
        self,
        url: str | Path,
        keep: int = 3,
        *,
        patience: float = 900.0,
        backoff: Backoff | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
            raise ConfigError(f"keep must be a whole number from 1, got {keep!r}")
        self._remote = Remote(url, options)
        self._keep, self._patience = keep, patience
        self._backoff = backoff or Backoff()
        self._changed = threading.Condition()
        self._waiting: _Job | None = None
        self._current: _Job | None = None
        self._ended = False
        self._arrived = True  # the last file that was put, once nothing is under way
        self._status = Status()
        self._reported: set[tuple[Any, ...]] = set()
        self._sequence = 0
        self._thread: threading.Thread | None = None

    # The training's side.

    def put(self, path: str | Path) -> None:
        """Have a file uploaded; returns at once."""
        path = Path(path)
        try:
            job = _Job(path.name, path.open("rb"))
        except OSError as error:
            self._failed(path.name, error)
            return
        with self._changed:
            if self._ended:
                job.file.close()
                raise ConfigError(f"the uploader of {self._remote.url} is closed; make a new one")
            if self._waiting is not None:
                self._waiting.file.close()
                self._count(replaced=1)
            self._waiting = job
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._work, name="yolodata-upload", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def status(self) -> Status:
        """What was done so far."""
        with self._changed:
            return replace(
                self._status,
                uploading=self._current.name if self._current else None,
                waiting=self._waiting.name if self._waiting else None,
            )

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until nothing is under way; whether the last file that was put is there."""
        with self._changed:
            idle = self._changed.wait_for(self._is_idle, timeout)
            return idle and self._arrived

    def close(self, timeout: float | None = None) -> bool:
        """Like `flush`; what is still under way when time is up is given up, and said so."""
        arrived = self.flush(timeout)
        with self._changed:
            self._ended = True
            left, self._waiting = self._waiting, None
            if left is not None:
                left.file.close()
            lost = left or self._current
            if lost is not None:
                log.warning(
                    "%s is not at %s: time was up after %g s",
                    lost.name, self._remote.url, timeout or 0.0,
                )  # fmt: skip
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(None if lost is None else 0.2)  # a call that hangs is left alone
        return arrived

    def __enter__(self) -> Uploader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # The thread's side.

    def _is_idle(self) -> bool:
        return self._waiting is None and self._current is None

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._ended)
                if self._waiting is None:
                    return
                job, self._waiting = self._waiting, None
                self._current = job
            with job.file:
                arrived = self._deliver(job)
                if arrived:
                    self._clean_up()
            with self._changed:
                self._arrived, self._current = arrived, None
                self._changed.notify_all()

    def _deliver(self, job: _Job) -> bool:
        digest: Digest | None = None
        sequence = 0
        until = time.monotonic() + self._patience
        while True:
            try:
                if digest is None:
                    digest = Digest.of(job.file)
                sequence = sequence or self._next_sequence()
                how = self._remote.put(job.file, job.name, digest, sequence)
            except Exception as error:
                pause = self._backoff.next()
                if isinstance(error, _LASTING) or time.monotonic() + pause > until:
                    self._failed(job.name, error)
                    return False
                self._report(job.name, error, "trying again")
                with self._changed:
                    self._changed.wait_for(lambda: self._waiting or self._ended, pause)
                    if self._waiting is not None:  # a newer one is worth more
                        self._count(replaced=1)
                        return False
                    if self._ended:
                        self._count(failed=1)
                        return False
                continue
            self._backoff.reset()
            self._count(uploaded=1, bytes=digest.size)
            with self._changed:
                self._status = replace(self._status, newest=job.name, checked=how)
            return True

    def _next_sequence(self) -> int:
        self._sequence = max(self._sequence + 1, self._remote.next_sequence())
        return self._sequence

    def _clean_up(self) -> None:
        try:
            self._remote.keep_newest(self._keep)
        except Exception as error:
            self._report("older files", error, "they stay until the next upload")

    def _failed(self, name: str, error: Exception) -> None:
        self._count(failed=1)
        with self._changed:
            self._arrived = False
        self._report(name, error, "it is given up, the next one will be tried")

    def _report(self, what: str, error: Exception, consequence: str) -> None:
        said = f"{type(error).__name__}: {error}"
        with self._changed:
            self._count(errors=1)
            self._status = replace(self._status, last_error=said)
            cause = (type(error), getattr(error, "errno", None), consequence)
            known = cause in self._reported
            self._reported.add(cause)
        if not known:
            log.warning(
                "upload to %s: %s: %s; %s. Training goes on; this cause is not named again",
                self._remote.url, what, said, consequence,
            )  # fmt: skip

    def _count(self, **added: int) -> None:
        with self._changed:
            now = {name: getattr(self._status, name) + more for name, more in added.items()}
            self._status = replace(self._status, **now)


def newest(
    url: str | Path,
    folder: str | Path,
    *,
    wanted: Callable[[str], bool] = lambda name: True,
    backoff: Backoff | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path | None:
    """Brings the newest whole file of a URL into a folder, under the name that it was put with.

    Damaged and incomplete ones are named in the log of "yolodata" and passed over. One that is not
    `wanted`, by its name, is left there, and older ones are not looked at.

    Returns:
        The file, whose checksum was compared; None where there is no whole one that is wanted.

    Raises:
        ConfigError: there is no file system for the URL.
        YolodataError: the URL cannot be read, after several attempts: nobody knows what is there.
    """
    remote, folder = Remote(url, options), Path(folder)
    backoff = backoff or Backoff()
    for entry in _persistently(remote.entries, remote.url, backoff):
        for last in (False, True):  # it may have been damaged on the way
            try:
                if not wanted(_persistently(partial(remote.name, entry), remote.url, backoff)):
                    return None
                return _persistently(partial(remote.get, entry, folder), remote.url, backoff)
            except Damaged as error:
                if last:
                    log.warning("%s; looking for an older one", error)
    return None


def _persistently(what: Callable[[], T], url: str, backoff: Backoff) -> T:
    attempt = 1
    while True:
        try:
            return what()
        except Damaged:
            raise
        except Exception as error:
            if attempt == _ATTEMPTS or isinstance(error, _LASTING):
                raise YolodataError(
                    f"{url} cannot be read, so that its newest checkpoint is not known "
                    f"({type(error).__name__}: {error}); see to access and network, or resume "
                    "without it"
                ) from error
            log.warning("%s: %s: %s; trying again", url, type(error).__name__, error)
        time.sleep(backoff.next())
        attempt += 1
