"""How long a step takes with some loader: measured, without what was prefetched before."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import psutil

from yolodata.doctor.step import Step, WaitingStep

Batch = Mapping[str, Any]

_LEAST = 3  # steps that are measured in any case


class Feed(Protocol):
    """A loader that is open.

    Attributes:
        batches: without an end.
        prefetched: how many may be ready before the first is asked for.
        producers: processes (or threads) that make batches at the same time; 0 is the caller.
    """

    batches: Iterator[Batch]
    prefetched: int
    producers: int

    def close(self) -> None:
        """Ends what it started."""
        ...


Opener = Callable[[], AbstractContextManager[Feed]]


@dataclass(frozen=True)
class Pace:
    """What was measured.

    Attributes:
        step_ms: milliseconds from step to step, waiting for the batch included; the mean.
        own_ms: milliseconds of the step alone, on batches that are there.
        batches: how many were measured.
        cpu_ms: milliseconds of processor time a batch, of all processes of the loader together.
        main_ms: of it, that of the thread that trains.
        alone_ms: milliseconds a batch of the loader alone; None where that was not measured.
        each_ms: every step in turn, in milliseconds.
    """

    step_ms: float
    own_ms: float
    batches: int
    cpu_ms: float = 0.0
    main_ms: float = 0.0
    alone_ms: float | None = None
    each_ms: tuple[float, ...] = field(default=(), repr=False)

    @property
    def waiting(self) -> float:
        """Share (0-1) of a step in which it waits for its batch."""
        return max(0.0, 1 - self.own_ms / self.step_ms)

    @property
    def jitter(self) -> float:
        """The step that 95 of 100 are shorter than, by the median."""
        if not self.each_ms:
            return 1.0
        return float(np.percentile(self.each_ms, 95) / max(np.median(self.each_ms), 1e-6))


def of_step(step: Step, batch: Batch, seconds: float) -> Pace:
    """Measures the step on one batch again and again: what no loader can beat."""
    step(batch)  # libraries choose algorithms, allocators grow
    each: list[float] = []
    end = time.perf_counter() + seconds
    while len(each) < _LEAST or time.perf_counter() < end:
        start = time.perf_counter()
        step(batch)
        each.append(1e3 * (time.perf_counter() - start))
    # A disturbance makes a step longer, never shorter.
    own = float(np.median(each))
    return Pace(own, own, len(each), each_ms=tuple(each))


def of_loader(feed: Feed, step: Step, own_ms: float, seconds: float) -> Pace:
    """Measures the step with a loader.

    A step that only waits leaves the loader the processor: its batches are drained without any
    step, and the step's time is the larger of both. Any other step is made. What was prefetched
    while nobody trained would be faster than the loader is, and is dropped first.

    Args:
        feed: the loader.
        step: that takes its batches.
        own_ms: milliseconds of the step on a batch that is there.
        seconds: of the measurement, dropping included; exceeded where three steps take longer.
    """
    start = time.perf_counter()
    drains = isinstance(step, WaitingStep) and feed.producers > 0
    # Whoever drains leaves nothing ready; but each producer's first batch took longer.
    for _ in range(max(feed.producers if drains else feed.prefetched, 1)):
        next(feed.batches)
    left = seconds - (time.perf_counter() - start)
    tree = ProcessTree()
    each: list[float] = []
    begin = last = time.perf_counter()
    # Producers of one speed deliver in turns: whole turns are measured.
    turn = max(feed.producers, 1)
    least = turn * -(-_LEAST // turn)
    while len(each) < least or len(each) % turn or last - begin < left:
        batch = next(feed.batches)
        if not drains:
            step(batch)
        now = time.perf_counter()
        each.append(1e3 * (now - last))
        last = now
    count = len(each)
    cpu, main = tree.seconds()
    cpu_ms, main_ms = 1e3 * cpu / count, 1e3 * main / count
    mean = 1e3 * (last - begin) / count
    alone = mean if drains else None
    if drains:
        mean = max(own_ms + main_ms, mean)
        each = _steps(each, own_ms + main_ms)
    elif not isinstance(step, WaitingStep):
        main_ms = cpu_ms = 0.0  # most of it is the step's
    return Pace(mean, own_ms, count, cpu_ms, main_ms, alone, tuple(each))


def _steps(arrivals: list[float], own_ms: float) -> list[float]:
    """Milliseconds of each step that takes its batch when that has arrived, or later."""
    ready = end = 0.0
    found = []
    for between in arrivals:
        ready += between
        last, end = end, max(end, ready) + own_ms
        found.append(end - last)
    return found


class ProcessTree:
    """Processor time of this process and its children since this was made."""

    def __init__(self) -> None:
        me = psutil.Process()
        self._processes = [me, *me.children(recursive=True)]
        self._before, self._thread = self._read(), time.thread_time()

    def seconds(self) -> tuple[float, float]:
        """Returns the seconds of all together, and those of this thread alone."""
        thread = time.thread_time() - self._thread
        used = [now - before for now, before in zip(self._read(), self._before, strict=True)]
        return sum(used), thread

    def _read(self) -> list[float]:
        found = []
        for process in self._processes:
            try:
                times = process.cpu_times()
                found.append(times.user + times.system)
            except psutil.Error:  # it has ended
                found.append(0.0)
        return found
