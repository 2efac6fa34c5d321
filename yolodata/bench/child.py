"""The measuring side: one loader in one process, told through a pipe what to do.

Messages are tuples, command first: ("slice", seconds), ("profile", seconds) or ("stop",). Answers
are ("done", value) or ("failed", text).
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yolodata.bench import cores
from yolodata.bench.rows import Row
from yolodata.bench.subject import Subject, Task, make

_CHECKED_PICTURES = 96
_PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>


@dataclass(frozen=True)
class Sample:
    """One slice of work.

    Attributes:
        pictures: handed to the consumer.
        seconds: wall time from the first to the last of them.
        stages_ms: milliseconds of all threads together a picture, by stage.
        counts: per picture, such as decodes.
    """

    pictures: int
    seconds: float
    stages_ms: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)

    @property
    def img_s(self) -> float:
        """Pictures a second."""
        return self.pictures / self.seconds


@dataclass(frozen=True)
class Ready:
    """What a child knows before the first slice.

    Attributes:
        shape: of a picture, (3, H, W).
        dtype: of a picture.
        brightness: of the first pictures, 0-255: mean, and standard error of the mean.
        objects: of the first pictures: mean number, and standard error of the mean; None where
            they cannot be counted.
        pinned: whether it stays on its cores.
        facts: constants worth printing.
    """

    shape: tuple[int, ...]
    dtype: str
    brightness: tuple[float, float]
    objects: tuple[float, float] | None
    pinned: bool
    facts: dict[str, float]


def serve(connection: Connection, row: Row, task: Task, log: Path) -> None:
    """Entry point of a child process; returns when told to stop, or when the parent is gone."""
    begin(log)
    subject: Subject | None = None
    try:
        subject = _build(row, task)
        batches = subject.batches()
        connection.send(("done", _get_ready(subject, batches, task)))
        while True:
            command, *arguments = connection.recv()
            if command == "stop":
                break
            if command == "slice":
                connection.send(("done", measure(subject, batches, arguments[0], row.threads)))
            elif command == "profile":
                from yolodata.bench.profiling import profile

                connection.send(("done", profile(subject, batches, arguments[0])))
            else:
                raise ValueError(f"unknown command {command!r}")
    except EOFError:  # the parent is gone
        pass
    except Exception as error:
        traceback.print_exc()
        connection.send(("failed", f"{type(error).__name__}: {error}"))
    finally:
        if subject is not None:
            subject.close()


def begin(log: Path) -> None:
    """What every child does first: a session of its own, and a log that ends with any crash.

    On Linux it dies with its parent, also with one that was killed: what goes on would disturb
    whatever is measured next.
    """
    if hasattr(os, "setsid"):
        os.setsid()  # so that the parent can end it with all the workers it starts
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    _redirect(log)
    faulthandler.enable()
    if hasattr(signal, "SIGUSR1"):
        faulthandler.register(signal.SIGUSR1)  # the parent asks where it hangs


def measure(
    subject: Subject, batches: Iterator[dict[str, Any]], seconds: float, threads: int = 1
) -> Sample:
    """Take batches for at least `seconds`, then wait until the loader has nothing left to do.

    Batches that were made during the pause before are taken first and not counted: a full queue
    at the start would otherwise look like speed. From there on the loader works as fast as it
    can, because the consumer asks for the next batch at once. Workers that begin together end
    together, one batch each: the slice ends after a multiple of `threads` batches, since it would
    otherwise count the time of work that it does not count.
    """
    for _ in range(subject.ahead):
        next(batches)
    subject.finish()
    before = subject.read()
    pictures = taken = 0
    own_clock = 0.0
    start = now = time.perf_counter()
    while now - start < seconds or taken % max(threads, 1):
        batch = next(batches)
        pictures += len(batch["img"])
        own_clock += batch.get("seconds", 0.0)
        taken += 1
        now = time.perf_counter()
    subject.finish()
    took = own_clock or time.perf_counter() - start
    added = subject.read().since(before)
    cores.settle()
    counts = {name: n / pictures for name, n in added.counts.items()}
    return Sample(pictures, took, added.milliseconds_each(pictures), counts)


def _build(row: Row, task: Task) -> Subject:
    import torch

    if row.cores == 1:
        torch.set_num_threads(1)
    subject = make(row, task)
    if row.cores == 1:
        import cv2

        cv2.setNumThreads(0)
    return subject


def _get_ready(subject: Subject, batches: Iterator[dict[str, Any]], task: Task) -> Ready:
    """Warm up, look at some pictures, and only then move to the cores to be measured on."""
    seen = 0
    shape: tuple[int, ...] = ()
    dtype = ""
    brightness: list[float] = []
    objects: list[float] = []
    while seen < max(subject.warm_up, _CHECKED_PICTURES):
        batch = next(batches)
        image = batch["img"]
        if seen < _CHECKED_PICTURES:
            shape, dtype = tuple(image.shape[1:]), str(image.dtype).removeprefix("torch.")
            grey_levels = _on_host(image[:, :, ::4, ::4]) * (255 if "float" in dtype else 1)
            brightness += grey_levels.mean(axis=(1, 2, 3)).tolist()
            if "batch_idx" in batch:
                found = _on_host(batch["batch_idx"]).astype(np.int64)
                objects += np.bincount(found, minlength=len(image)).tolist()
        seen += len(image)
    subject.finish()
    facts = subject.facts()
    pinned = cores.pin(task.cores)
    cores.settle()
    counted = _mean(objects) if objects else None
    return Ready(shape, dtype, _mean(brightness), counted, pinned, facts)


def _on_host(values: Any) -> npt.NDArray[Any]:
    """An array of an array, or of a tensor wherever it lies; 16-bit floats become float32."""
    if hasattr(values, "cpu"):
        values = values.cpu()
        values = values.float() if values.dtype.is_floating_point else values
    return np.asarray(values)


def _mean(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error."""
    return float(np.mean(values)), float(np.std(values) / max(len(values), 1) ** 0.5)


def _redirect(log: Path) -> None:
    """Send everything that is printed, also by C code, to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)
    sys.stdout = os.fdopen(1, "w", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
