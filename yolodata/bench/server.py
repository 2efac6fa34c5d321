"""The measuring side: rows of one process, told through a pipe what to do.

Messages are tuples, command first: ("start", row id, limit in seconds), ("slice", row id, seconds,
steps), ("profile", row id, seconds, steps) or ("stop",). Answers are ("done", value), ("failed",
text) where a row did not start, or ("over", text) where the process is of no more use.
"""

from __future__ import annotations

import os
import signal
import time
import traceback
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import numpy.typing as npt

from yolodata.bench import cores, profiling
from yolodata.bench.gpu_utilisation import UtilisationMeter
from yolodata.bench.subject import Batch, Jobs, Row, Sample, Subject, Task

Answer = Generator[Batch, None, tuple[str, Any]]

_CHECKED_PICTURES = 96
_LEAD = 0.5
"""Seconds, at most, before the clock of a slice starts. After a pause a machine may be slow for as
long: on a shared Xeon, batches from raw shards first took three times as long as later. Slices of
1.2 s made those of yolodata seem 16 to 23 % slower than slices of 4 s, Ultralytics' 5 to 10 %."""


class Server:
    """Carries out what the parent asks for, and yields the batches that are taken meanwhile.

    Whoever iterates over it is the consumer: a loop that drops batches, or Ultralytics' loop, which
    takes a step on each.

    Args:
        connection: to the parent.
        jobs: the rows, each with its task.
        make: builds what a row measures.
    """

    subject: Subject  # the one in use
    warm_steps = 0  # batches of each row that the consumer gets before it is ready
    meter: UtilisationMeter | None = None  # of the GPU, if anyone looks at it

    def __init__(
        self, connection: Connection, jobs: Jobs, make: Callable[[Row, Task], Subject]
    ) -> None:
        self._connection, self._make = connection, make
        self._jobs = {row.id: (row, task) for row, task in jobs}
        self.subjects: dict[str, Subject] = {}

    def describe(self) -> dict[str, Any]:
        """Facts of the whole process."""
        return {}

    def __iter__(self) -> Iterator[Batch]:
        """Batches until the parent says stop; raises EOFError if it is gone."""
        while True:
            command, *arguments = self._connection.recv()
            if command == "stop":
                return
            answer = yield from getattr(self, f"_{command}")(*arguments)
            self._connection.send(answer)

    def open(self, name: str) -> Subject:
        """Build what a row measures, once."""
        if name not in self.subjects:
            self.subjects[name] = self._make(*self._jobs[name])
        return self.subjects[name]

    def _start(self, name: str, limit: float) -> Answer:
        """Make a row ready (see `Measured.ready`); where it cannot be, the others go on."""
        row, task = self._jobs[name]
        try:
            with _alarm(limit, f"did not start within {limit:g} s, its limit (--start-limit)"):
                cores.settle()  # workers are forked: no thread of ours may be at work meanwhile
                subject = self.open(name)
                ready = _warm(subject, 0 if row.trains else _CHECKED_PICTURES)
        except Exception as error:
            traceback.print_exc()
            if name in self.subjects:
                self.subjects.pop(name).close()
            return "failed", f"{type(error).__name__}: {error}"
        self.subject = subject
        for _ in range(self.warm_steps):
            yield next(subject.batches)
        subject.finish()
        ready |= {"facts": subject.facts(), "pinned": cores.pin(task.cores)}
        _signal(subject, signal.SIGSTOP)
        cores.settle()
        return "done", ready | {"about": subject.about(), "process": self.describe()}

    def _slice(self, name: str, seconds: float, steps: int) -> Answer:
        with self._in_turn(name) as subject:
            turn = 1 if steps else self._jobs[name][0].threads
            yield from _take(subject, min(_LEAD, seconds), turn)
            sample = yield from measure(subject, seconds, steps, turn, self.meter)
        return "done", sample

    def _profile(self, name: str, seconds: float, steps: int) -> Answer:
        with self._in_turn(name) as subject:
            if steps:
                found = yield from profiling.of_steps(subject, steps, self._jobs[name][1].device)
            else:
                found = profiling.of_loader(subject, seconds)
        return "done", found

    @contextmanager
    def _in_turn(self, name: str) -> Iterator[Subject]:
        """A subject whose batches that were made during the pause before are gone.

        Its worker processes, where they are known, do nothing while it is not its turn. They would
        fill their queue meanwhile, which is seconds of work: steps after that would be faster than
        those of a long training, and others' steps would be slowed down.
        """
        self.subject = subject = self.subjects[name]
        _signal(subject, signal.SIGCONT)
        for _ in range(subject.prefetched):
            next(subject.batches)
        subject.finish()
        yield subject
        _signal(subject, signal.SIGSTOP)
        cores.settle()

    def close(self) -> None:
        """Close all subjects."""
        for subject in self.subjects.values():
            _signal(subject, signal.SIGCONT)
            subject.close()


def measure(
    subject: Subject,
    seconds: float,
    steps: int = 0,
    turn: int = 1,
    meter: UtilisationMeter | None = None,
) -> Generator[Batch, None, Sample]:
    """Yield batches for at least `seconds` and `steps`, then wait until they are really there.

    From the first batch on the loader works as fast as it can, because the consumer asks for the
    next one at once. Workers that begin together end together, one batch each: the slice ends after
    a multiple of `turn` batches, since it would otherwise count the time of work that it does not
    count.
    """
    before = subject.read()
    pictures = taken = 0
    own_clock = waited = 0.0
    if meter is not None:
        meter.start()
    start = now = time.perf_counter()
    while now - start < seconds or taken < steps or taken % max(turn, 1):
        batch = next(subject.batches)
        waited += time.perf_counter() - now
        pictures += len(batch["img"]) * batch.get("repeats", 1)
        own_clock += batch.get("seconds", 0.0)
        taken += 1
        yield batch
        now = time.perf_counter()
    subject.finish()  # the consumer asked for one more: what it does with the last was enqueued
    took = own_clock or time.perf_counter() - start
    busy = meter.stop() if meter is not None else None
    added = subject.read().since(before)
    counts = {name: n / pictures for name, n in added.counts.items()}
    stages = added.milliseconds_each(pictures)
    return Sample(pictures, took, stages, counts, taken, waited, busy)


def _take(subject: Subject, seconds: float, turn: int) -> Iterator[Batch]:
    """Yield batches for at least `seconds`, and a multiple of `turn`; none for 0."""
    taken, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds or taken % max(turn, 1):
        yield next(subject.batches)
        taken += 1
    subject.finish()


@contextmanager
def _alarm(seconds: float, text: str) -> Iterator[None]:
    """Raises TimeoutError with this text in the main thread, wherever it waits, if that is late."""

    def late(number: int, frame: object) -> None:
        raise TimeoutError(text)

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)


def _warm(subject: Subject, checked: int) -> dict[str, Any]:
    """Take batches until the speed no longer changes, and look at the first pictures."""
    seen = 0
    found: dict[str, Any] = {"shape": (), "dtype": ""}
    brightness: list[float] = []
    objects: list[float] = []
    while seen < max(subject.warm_up, checked):
        batch = next(subject.batches)
        image = batch["img"]
        if seen < checked:
            dtype = str(image.dtype).removeprefix("torch.")
            found = {"shape": tuple(image.shape[1:]), "dtype": dtype}
            grey_levels = on_host(image[:, :, ::4, ::4]) * (255 if "float" in dtype else 1)
            brightness += grey_levels.mean(axis=(1, 2, 3)).tolist()
            if "batch_idx" in batch:
                numbers = on_host(batch["batch_idx"]).astype(np.int64)
                objects += np.bincount(numbers, minlength=len(image)).tolist()
        seen += len(image)
    return found | {"brightness": _mean(brightness), "objects": _mean(objects) if objects else None}


def on_host(values: Any) -> npt.NDArray[Any]:
    """An array of an array, or of a tensor wherever it lies; 16-bit floats become float32."""
    if hasattr(values, "cpu"):
        values = values.cpu()
        values = values.float() if values.dtype.is_floating_point else values
    return np.asarray(values)


def _mean(values: list[float]) -> tuple[float, float]:
    """Mean and its standard error; zeros of nothing."""
    return (
        (float(np.mean(values)), float(np.std(values) / len(values) ** 0.5)) if values else (0, 0)
    )


def _signal(subject: Subject, number: int) -> None:
    for worker in subject.workers():
        with suppress(ProcessLookupError):
            os.kill(worker.pid, number)
