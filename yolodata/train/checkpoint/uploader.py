"""Checkpoints to another place, in the background, and back on a new machine.

    uploader = Uploader("s3://bucket/runs/a", keep=3)
    uploader.put(path)              # returns at once
    uploader.put(path, {"weights/best.pt": best})    # with other files, whole together or not there
    uploader.close(timeout=60)

    path = download_newest("s3://bucket/runs/a", folder)

`object_store` says how files lie there.
"""

from __future__ import annotations

import contextlib
import logging
import random
import shutil
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import tenacity

from yolodata.errors import ConfigError, YolodataError
from yolodata.train.checkpoint.object_store import DamagedObject, Entry, ObjectStore

log = logging.getLogger("yolodata")

_ATTEMPTS = 6  # of a download, which somebody waits for
# Trying again at once does not help; the next checkpoint is another try.
_LASTING = (PermissionError, FileNotFoundError, IsADirectoryError, NotADirectoryError)


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, Exception) and not isinstance(error, _LASTING)


class Backoff(tenacity.wait_exponential):
    """Waits 1, 2, 4, … 60 seconds after failures in a row, less a random half.

    tenacity's own jitter draws from the global random generator, which training draws from.

    Args:
        first: the longest first pause, in seconds.
        longest: the longest of all.
    """

    def __init__(self, first: float = 1.0, longest: float = 60.0) -> None:
        super().__init__(multiplier=first, max=longest)
        self._random = random.Random()

    def __call__(self, retry_state: tenacity.RetryCallState) -> float:
        """Returns the seconds to wait now."""
        return super().__call__(retry_state) * self._random.uniform(0.5, 1.0)


@dataclass
class Status:
    """What an `Uploader` did so far.

    Attributes:
        uploaded: files that are there, complete and read back.
        replaced: files that were given up for a newer one.
        failed: files that were given up for other reasons.
        errors: attempts that failed; `last_error` says why the last one did.
        bytes: of the files uploaded.
        uploading, waiting: names of files that are on their way, and next.
        newest: name of the newest file that is there.
    """

    uploaded: int = 0
    replaced: int = 0
    failed: int = 0
    errors: int = 0
    bytes: int = 0
    uploading: str | None = None
    waiting: str | None = None
    newest: str | None = None
    last_error: str | None = None


@dataclass
class _Job:
    name: str
    file: BinaryIO
    beside: dict[str, BinaryIO]
    sequence: int = 0

    def close(self) -> None:
        for file in (self.file, *self.beside.values()):
            file.close()


class _Abandoned(Exception):
    """A newer file is waiting, or the uploader is closed: no further attempt."""


class Uploader:
    """Brings files to a URL in one thread of its own; nothing that goes wrong there is raised.

    A file that waits is replaced by a newer one, so that there is at most one waiting and one on
    its way. A file is held open from `put` on: it may be removed meanwhile, but not written to.
    An attempt that fails is repeated (see `Backoff`); every cause is reported in the log of
    "yolodata" once.

    Args:
        url: any that fsspec knows, or a path; a folder of this run alone.
        keep: how many files stay there; older ones are removed once a newer one is complete.
        patience: seconds after which a file is given up.
        backoff: pauses between attempts.
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
        self._store = ObjectStore(url, options)
        self._keep, self._patience = keep, patience
        self._backoff = backoff or Backoff()
        self._changed = threading.Condition()
        self._waiting: _Job | None = None
        self._current: _Job | None = None
        self._closed = False
        self._arrived = True  # the last file that was put, once nothing is under way
        self._status = Status()
        self._reported: set[tuple[Any, ...]] = set()
        self._thread: threading.Thread | None = None

    # The training's side.

    def put(self, path: str | Path, beside: Mapping[str, Path] | None = None) -> None:
        """Has a file uploaded; returns at once.

        Args:
            path: the file.
            beside: files that belong to it, by relative path. They count once it does, and are
                brought back with it. They are read now, but for weights (`.pt`), which are held
                open as the file is.

        Raises:
            ConfigError: the uploader is closed.
        """
        path = Path(path)
        try:
            job = _Job(path.name, path.open("rb"), _opened(beside or {}))
        except OSError as error:
            self._give_up(path.name, error)
            return
        with self._changed:
            if self._closed:
                job.close()
                raise ConfigError(f"the uploader of {self._store.url} is closed; make a new one")
            if self._waiting is not None:
                self._waiting.close()
                self._status.replaced += 1
            self._waiting = job
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="yolodata-upload", daemon=True
                )
                self._thread.start()
            self._changed.notify_all()

    def status(self) -> Status:
        """Returns what was done so far."""
        with self._changed:
            return replace(
                self._status,
                uploading=self._current.name if self._current else None,
                waiting=self._waiting.name if self._waiting else None,
            )

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until nothing is under way; returns whether the last file that was put is there."""
        with self._changed:
            idle = self._changed.wait_for(
                lambda: self._waiting is None and self._current is None, timeout
            )
            return idle and self._arrived

    def close(self, timeout: float | None = None) -> bool:
        """Does what `flush` does; gives up, and names, what is under way when time is up."""
        arrived = self.flush(timeout)
        with self._changed:
            self._closed = True
            left, self._waiting = self._waiting, None
            if left is not None:
                left.close()
            lost = left or self._current
            if lost is not None:
                log.warning(
                    "%s is not at %s: time was up after %g s",
                    lost.name, self._store.url, timeout or 0.0,
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

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closed)
                if self._waiting is None:
                    return
                job, self._waiting = self._waiting, None
                self._current = job
            with contextlib.closing(job):
                arrived = self._deliver(job)
            with self._changed:
                self._arrived, self._current = arrived, None
                self._changed.notify_all()

    def _deliver(self, job: _Job) -> bool:
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_pass),
            stop=tenacity.stop_before_delay(self._patience),
            wait=self._backoff,
            before_sleep=partial(self._report_attempt, job.name),
            sleep=self._pause,
            reraise=True,
        )
        try:
            size = attempts(self._attempt, job)
        except _Abandoned:
            with self._changed:
                if self._waiting is None:
                    self._status.failed += 1
                else:
                    self._status.replaced += 1
            return False
        except Exception as error:
            self._give_up(job.name, error)
            return False
        with self._changed:
            self._status.uploaded += 1
            self._status.bytes += size
            self._status.newest = job.name
        try:
            self._store.keep_newest(self._keep)
        except Exception as error:
            self._report("older files", error, "they stay until the next upload")
        return True

    def _attempt(self, job: _Job) -> int:
        job.sequence = job.sequence or self._store.next_sequence()
        return self._store.put(job.file, job.name, job.sequence, job.beside)

    def _pause(self, seconds: float) -> None:
        with self._changed:
            if self._changed.wait_for(lambda: self._waiting or self._closed, seconds):
                raise _Abandoned

    def _give_up(self, name: str, error: Exception) -> None:
        with self._changed:
            self._status.failed += 1
            self._arrived = False
        self._report(name, error, "it is given up, the next one will be tried")

    def _report_attempt(self, name: str, state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        self._report(name, error, "trying again")

    def _report(self, what: str, error: BaseException | None, consequence: str) -> None:
        said = f"{type(error).__name__}: {error}"
        with self._changed:
            self._status.errors += 1
            self._status.last_error = said
            cause = (type(error), getattr(error, "errno", None), consequence)
            known = cause in self._reported
            self._reported.add(cause)
        if not known:
            log.warning(
                "upload to %s: %s: %s; %s. Training goes on; this cause is not named again",
                self._store.url, what, said, consequence,
            )  # fmt: skip


def _opened(files: Mapping[str, Path]) -> dict[str, BinaryIO]:
    """Opens files; of those that are written in place, a copy is taken."""
    opened: dict[str, BinaryIO] = {}
    for name, path in files.items():
        with contextlib.suppress(FileNotFoundError):  # removed since it was listed
            file: BinaryIO = path.open("rb")
            if path.suffix != ".pt":
                with file:
                    copy = tempfile.TemporaryFile()  # noqa: SIM115
                    shutil.copyfileobj(file, copy)
                copy.flush()
                file = copy
            opened[name] = file
    return opened


def download_newest(
    url: str | Path,
    folder: str | Path,
    *,
    wanted: Callable[[str], bool] = lambda name: True,
    beside: Path | None = None,
    backoff: Backoff | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path | None:
    """Brings the newest whole file of a URL into a folder, under the name that it was put with.

    Damaged and incomplete ones are named in the log of "yolodata" and passed over. One that is not
    `wanted`, by its name, is left there, and older ones are not looked at. The files that were put
    beside it are brought into the folder `beside` before it, so that an interruption repeats them;
    one of them that is damaged is named and left out.

    Returns:
        The file, whose checksum was compared; None where there is no whole one that is wanted.

    Raises:
        ConfigError: there is no file system for the URL.
        YolodataError: the URL cannot be read, after several attempts: nobody knows what is there.
    """
    store, folder = ObjectStore(url, options), Path(folder)
    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_may_pass)
        & tenacity.retry_if_not_exception_type(DamagedObject),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=backoff or Backoff(),
        before_sleep=tenacity.before_sleep_log(log, logging.WARNING),
        reraise=True,
    )
    try:
        for entry in attempts(store.entries):
            for last in (False, True):  # it may have been damaged on the way
                try:
                    if not wanted(attempts(store.name, entry)):
                        return None
                    if beside is not None and not last:
                        for name in attempts(store.names_beside, entry):
                            _bring_beside(attempts, store, entry, name, beside)
                    return attempts(store.get, entry, folder)
                except DamagedObject as error:
                    if last:
                        log.warning("%s; looking for an older one", error)
    except Exception as error:
        raise YolodataError(
            f"{url} cannot be read, so that its newest checkpoint is not known "
            f"({type(error).__name__}: {error}); see to access and network, or resume without it"
        ) from error
    return None


def _bring_beside(
    attempts: tenacity.Retrying, store: ObjectStore, entry: Entry, name: str, folder: Path
) -> None:
    for last in (False, True):  # it may have been damaged on the way
        try:
            attempts(store.get_beside, entry, name, folder)
        except DamagedObject as error:
            if last:
                log.warning("%s; %s is left out", error, name)
        else:
            return
