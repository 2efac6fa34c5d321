"""Checkpoint files: whole or not there.

A file is named EPOCH-STEP-CHECKSUM.ckpt; the checksum (XXH3-64) is of its content, so that a file
that was cut, or damaged on the way to another machine, is known without anything beside it. It is
written under a temporary name, synced, renamed. The content is what `torch.load` reads with
`weights_only=True`: tensors and plain values, no code.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import xxhash

from yolodata.errors import YolodataError

log = logging.getLogger("yolodata")

SUFFIX = ".ckpt"
NAME = re.compile(r"(?P<epoch>\d{5})-(?P<step>\d{8})-(?P<sum>[0-9a-f]{16})\.ckpt")


def checksum(path: Path) -> str:
    """Of a file's content."""
    digest = xxhash.xxh3_64()
    with path.open("rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def write(folder: Path, state: dict[str, Any]) -> Path:
    """Writes a state; the file is on disk, under its name, when this returns."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{os.getpid()}-{threading.get_ident()}.tmp"
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        path = folder / f"{state['epoch']:05d}-{state['step']:08d}-{checksum(temporary)}.ckpt"
        temporary.rename(path)
    finally:
        temporary.unlink(missing_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    return path


def listed(folder: Path) -> list[Path]:
    """Checkpoints of a folder, the newest (by epoch and step) first."""
    found = [path for path in folder.glob("*.ckpt") if NAME.fullmatch(path.name)]
    return sorted(found, key=lambda p: (p.name.rsplit("-", 1)[0], p.stat().st_mtime), reverse=True)


def place(name: str) -> str:
    """Where in the run a checkpoint is, by its name; later places compare greater."""
    return name[:14]


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint file, or None."""
    named = NAME.fullmatch(path.name)
    if named is None:
        return "its name is not that of a checkpoint"
    try:
        found = checksum(path)
    except OSError as error:
        return f"it cannot be read ({error})"
    return None if found == named["sum"] else f"its checksum is {found}: it is cut or damaged"


def newest(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; damaged ones are named in the log."""
    for path in listed(folder):
        wrong = damage(path)
        if wrong is None:
            return path
        log.warning("%s is not used, %s; looking for an older one", path, wrong)
    return None


def read(path: Path) -> dict[str, Any]:
    """The state in a checkpoint file.

    Raises:
        YolodataError: the file is damaged, or of another version.
    """
    wrong = damage(path)
    if wrong is not None:
        raise YolodataError(f"{path} cannot be resumed from: {wrong}; name another checkpoint")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state.get("version") != 1:
        raise YolodataError(
            f"{path} has version {state.get('version')}, this yolodata reads 1; resume with the "
            "version that wrote it"
        )
    return state


def forget_newer(path: Path) -> None:
    """Removes checkpoints after this one: they are damaged, or of a future that is given up."""
    for other in listed(path.parent):
        if place(other.name) > place(path.name):
            log.warning("%s is removed: the run goes on from an earlier one", other)
            other.unlink(missing_ok=True)


def remove_remains(folder: Path) -> None:
    """Temporary files of processes that were killed while they wrote."""
    for path in folder.glob(".*.tmp"):
        path.unlink(missing_ok=True)


class Writer:
    """Writes checkpoints in a thread; the step only pays for the copy of the state.

    Args:
        folder: where to.
        keep: how many stay.
        written: called, in the thread, with each file that is there.
    """

    def __init__(
        self, folder: Path, keep: int, written: Callable[[Path], None] | None = None
    ) -> None:
        self.folder, self.keep, self._written = folder, keep, written
        self._thread: threading.Thread | None = None
        self._problem: Exception | None = None
        self.seconds: list[float] = []  # of each write, in the thread

    @property
    def busy(self) -> bool:
        """Whether the last checkpoint is still being written."""
        return self._thread is not None and self._thread.is_alive()

    def put(self, state: dict[str, Any]) -> None:
        """Write a state, which nobody changes any more; waits for the one before.

        Raises:
            YolodataError: the one before could not be written.
        """
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(state,), name="yolodata-write")
        self._thread.start()

    def wait(self, timeout: float | None = None) -> None:
        """Until the last checkpoint is on disk.

        Raises:
            YolodataError: it could not be written.
        """
        if self._thread is not None:
            self._thread.join(timeout)
        if self._problem is not None:
            problem, self._problem = self._problem, None
            raise YolodataError(
                f"a checkpoint could not be written into {self.folder}: {problem}; make room, or "
                "give another project="
            ) from problem

    def _write(self, state: dict[str, Any]) -> None:
        start = time.perf_counter()
        try:
            path = write(self.folder, state)
            for old in [p for p in listed(self.folder) if p != path][self.keep - 1 :]:
                old.unlink(missing_ok=True)
        except Exception as error:
            self._problem = error
            return
        self.seconds.append(time.perf_counter() - start)
        if self._written is not None:
            self._written(path)
