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
import errno
import logging
import os
import random
import shutil
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import tenacity

from yolodata.checks import whole
from yolodata.errors import ConfigError, YolodataError
from yolodata.files import file_checksum
from yolodata.folders import Folder
from yolodata.train.checkpoint.manifest import Entry, Facts, Manifest
from yolodata.train.checkpoint.object_store import DamagedObject, ObjectStore, RefusedObject

log = logging.getLogger("yolodata")

_ATTEMPTS = 6  # of a download, which somebody waits for
# Trying again at once does not help; the next checkpoint is another try.
_LASTING = (
    PermissionError, FileNotFoundError, IsADirectoryError, NotADirectoryError, YolodataError,
)  # fmt: skip
_NAMED = 5  # files that are passed over and named, of thousands maybe


def _may_pass(error: BaseException) -> bool:
    lasting = isinstance(error, _LASTING) and not isinstance(error, DamagedObject)
    return isinstance(error, Exception) and not lasting


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
        self._keep, self._patience = whole("keep", keep, 1), patience
        self._store = ObjectStore(url, options)
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
                raise ConfigError(f"the uploader of {self._store.shown} is closed; make a new one")
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
                    lost.name, self._store.shown, timeout or 0.0,
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
        said = self._store.said(error)
        with self._changed:
            self._status.errors += 1
            self._status.last_error = said
            cause = (type(error), getattr(error, "errno", None), consequence)
            known = cause in self._reported
            self._reported.add(cause)
        if not known:
            log.warning(
                "upload to %s: %s: %s; %s. Training goes on; this cause is not named again",
                self._store.shown, what, said, consequence,
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


class Expectations:
    """What is expected of files that are downloaded; each method says what is wrong, or None.

    A file that is not as expected counts as damaged. This class expects nothing.
    """

    def wrong_name(self, name: str, checksum: str) -> str | None:
        """Of a file's name, beside the checksum of its content (XXH3-64, 16 digits)."""

    def wrong_content(self, name: str, opened: BinaryIO) -> str | None:
        """Of what is in a file, whose size and checksum are right."""

    def wrong_beside(self, name: str, size: int) -> str | None:
        """Of the relative path and the bytes of a file beside it."""

    def wrong_content_beside(self, name: str, opened: BinaryIO) -> str | None:
        """Of what is in a file beside it, whose size and checksum are right."""


def download_newest(
    url: str | Path,
    folder: str | Path,
    *,
    wanted: Callable[[str], bool] = lambda name: True,
    beside: Path | None = None,
    expected: Expectations | None = None,
    backoff: Backoff | None = None,
    options: Mapping[str, Any] | None = None,
) -> Path | None:
    """Brings the newest whole file of a URL into a folder, under the name that it was put with.

    Damaged and incomplete ones, and such as are not `expected`, are passed over; the log of
    "yolodata" names the first of them. A whole one that is not `wanted`, by its name, is left
    there, and older ones are not looked at. The files that were put beside it are brought into the
    folder `beside` once it is known to be whole, and before it gets its name, so that an
    interruption repeats them; one of them that is damaged, or not as expected, is named and left
    out.

    Returns:
        The file, whose checksum was compared; None where there is no whole one that is wanted.

    Raises:
        ConfigError: there is no file system for the URL.
        YolodataError: the URL cannot be read, after several attempts: nobody knows what is there.
            Or the disk has no room for the file.
    """
    store = ObjectStore(url, options)

    def report(state: tenacity.RetryCallState) -> None:
        error = state.outcome.exception() if state.outcome else None
        log.warning("%s: %s; trying again", store.shown, store.said(error))

    attempts = tenacity.Retrying(
        retry=tenacity.retry_if_exception(_may_pass)
        & tenacity.retry_if_not_exception_type(DamagedObject),
        stop=tenacity.stop_after_attempt(_ATTEMPTS),
        wait=backoff or Backoff(),
        before_sleep=report,
        reraise=True,
    )
    download = _Download(store, attempts, Path(folder), beside, expected or Expectations(), wanted)
    try:
        return download.newest()
    except YolodataError:
        raise
    except Exception as error:
        raise YolodataError(
            f"{store.shown}: cannot be read, so that its newest checkpoint is not known "
            f"({store.said(error)}); see to access and network, or resume without it"
        ) from None


@dataclass(frozen=True)
class _Download:
    """See `download_newest`."""

    store: ObjectStore
    attempts: tenacity.Retrying
    folder: Path
    beside: Path | None
    expected: Expectations
    wanted: Callable[[str], bool]

    def newest(self) -> Path | None:
        """Brings the newest whole file; None where there is none.

        Raises:
            YolodataError: there are some, and none can be read.
        """
        passed_over, refused = 0, None
        for entry in self.attempts(self.store.entries):
            try:
                found = self._bring(entry)
                break
            except DamagedObject as error:
                passed_over += 1
                refused = error if isinstance(error, RefusedObject) else refused
                if passed_over <= _NAMED:
                    log.warning("%s; looking for an older one", error)
        else:
            if refused is not None:  # it may be whole, and a run that began anew would replace it
                raise YolodataError(
                    f"{self.store.shown}: has no checkpoint that can be read: {refused}; see to "
                    "access, give another upload URL, or resume without it"
                )
            found = None
        if passed_over > _NAMED:
            log.warning("%s: %d more are not whole", self.store.shown, passed_over - _NAMED)
        return found

    def _bring(self, entry: Entry) -> Path | None:
        manifest: Manifest = self._twice(self.store.manifest, entry)
        main = manifest.main
        self._refuse(main, self.expected.wrong_name(main.name, main.xxh3_64))
        path: Path = self.folder / main.name
        if not self.wanted(main.name):
            if not _is_here(path, main):  # whoever lies must not end the search
                self._twice(self.store.check, main)
            return None
        with Folder.at(self.folder, create=True) as folder, folder.writing(main.name) as file:
            self._twice(self.store.fetch, main, file)
            self._refuse(main, self.expected.wrong_content(main.name, file))
            for facts in manifest.beside if self.beside is not None else ():
                self._bring_beside(facts)
        return path

    def _bring_beside(self, facts: Facts) -> None:
        assert self.beside is not None
        try:
            self._refuse(facts, self.expected.wrong_beside(facts.name, facts.bytes))
            path = self.beside / facts.name
            if _is_here(path, facts):
                return
            with _inside(self.beside, facts.name) as folder, folder.writing(path.name) as file:
                self._twice(self.store.fetch, facts, file)
                self._refuse(facts, self.expected.wrong_content_beside(facts.name, file))
        except (DamagedObject, _NotHere) as error:
            log.warning("%s; %s is left out", error, facts.name)

    def _twice(self, call: Callable[..., Any], *given: Any) -> Any:
        """Once more where something is damaged: it may have been on the way."""
        try:
            return self.attempts(call, *given)
        except RefusedObject:
            raise
        except DamagedObject:
            return self.attempts(call, *given)

    def _refuse(self, facts: Facts, wrong: str | None) -> None:
        if wrong is not None:
            raise DamagedObject(f"{self.store.shown}/{facts.file} is not used: {wrong}")


class _NotHere(Exception):
    """A file has no place in a folder of ours."""


@contextlib.contextmanager
def _inside(path: Path, name: str) -> Iterator[Folder]:
    """The folder in which a file of a relative path lies; links are not followed."""
    with contextlib.ExitStack() as opened:
        try:
            folder = opened.enter_context(Folder.at(path, create=True))
            for part in name.split("/")[:-1]:
                folder = opened.enter_context(folder.folder(part, create=True))
            known = folder.stat(name.rpartition("/")[2])
            if known is not None and stat.S_ISDIR(known.st_mode):
                raise IsADirectoryError(errno.EISDIR, "is a folder", str(path / name))
        except OSError as error:
            raise _NotHere(str(error)) from None
        yield folder


def _is_here(path: Path, facts: Facts) -> bool:
    """Whether a file has this content already."""
    with (
        contextlib.suppress(OSError),
        Folder.at(path.parent) as folder,
        os.fdopen(folder.open(path.name, os.O_RDONLY), "rb") as file,
    ):
        size = os.fstat(file.fileno()).st_size
        return size == facts.bytes and file_checksum(file) == facts.xxh3_64
    return False
