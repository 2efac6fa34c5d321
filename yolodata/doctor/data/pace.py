"""How long a step takes with some loader: measured, without what was prefetched before."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from yolodata.doctor.step import Step, WaitingStep
from yolodata.doctor.trimmed_mean import trimmed_mean
from yolodata.telemetry import processor

Batch = Mapping[str, Any]

_LEAST = 3  # steps that are measured in any case
_HIDES = 1.5  # times the step: a loader that takes longer hides it, and its handing over
_KNOWN = 0.01  # standard error of a mean, as a share of it, from which more batches tell no more
_ENOUGH_TURNS = 12  # for a standard error
_ENOUGH_TIME = 0.3  # share of the seconds: what others do on the machine comes and goes


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


@dataclass(frozen=True)
class Pace:
    """What was measured.

    Attributes:
        step_ms: milliseconds from step to step, waiting for the batch included; the mean.
        own_ms: milliseconds of the step alone, on batches that are there.
        batches: how many were measured.
        cpu_ms: milliseconds of processor time a batch, of all processes of the loader together; 0
            where it is not known, for a loader within the process that trains.
        main_ms: of it, that of the thread that trains.
        alone_ms: milliseconds a batch of the loader alone; None where that was not measured.
        each_ms: every step in turn, in milliseconds.
        error_ms: standard error of `step_ms`; 0 where it is not known.
    """

    step_ms: float
    own_ms: float
    batches: int
    cpu_ms: float = 0.0
    main_ms: float = 0.0
    alone_ms: float | None = None
    each_ms: tuple[float, ...] = field(default=(), repr=False)
    error_ms: float = 0.0

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
    own = trimmed_mean(each)
    return Pace(own, own, len(each), each_ms=tuple(each))


def of_loader(feed: Feed, step: Step, own_ms: float, seconds: float) -> Pace:
    """Measures the step with a loader.

    A step that only waits leaves the loader the processor. Its loader is drained first, without any
    step, so that nothing is ready. One that is much slower than the step hides the step: its pace
    is the step's. Any other is measured with the step, which also waits for each batch to be handed
    over. A step that computes is always made; what was prefetched while nobody trained would be
    faster than the loader is, and is dropped first.

    Args:
        feed: the loader.
        step: that takes its batches.
        own_ms: milliseconds of the step on a batch that is there.
        seconds: of the measurement, dropping included; exceeded where three steps take longer, and
            not used up where the mean is known well before.
    """
    end = time.perf_counter() + seconds
    drains = isinstance(step, WaitingStep) and feed.producers > 0
    # Whoever drains leaves nothing ready; but each producer's first batch took longer.
    for _ in range(max(feed.producers if drains else feed.prefetched, 1)):
        next(feed.batches)
    if not drains:
        made = _taken(feed, step, end)
        return Pace(
            made.step_ms, own_ms, len(made.each_ms), *made.cpu_ms, None, tuple(made.each_ms),
            error_of_mean(made.each_ms, feed.producers),
        )  # fmt: skip
    alone = _taken(feed, None, (time.perf_counter() + end) / 2)
    if alone.step_ms > _HIDES * own_ms:
        alone = alone.and_then(_taken(feed, None, end))
        made, each = alone, _steps(alone.each_ms, own_ms + alone.cpu_ms[1])
    else:
        for _ in range(feed.producers):  # the first find nothing ready
            step(next(feed.batches))
        made = _taken(feed, step, end)
        each = made.each_ms
    return Pace(
        made.step_ms, own_ms, len(each), *alone.cpu_ms, alone.step_ms, tuple(each),
        error_of_mean(made.each_ms, feed.producers),
    )  # fmt: skip


def joined(one: Pace, other: Pace) -> Pace:
    """The mean of two measurements of the same, by their numbers of batches."""
    count = one.batches + other.batches

    def mean(first: float, second: float) -> float:
        return (first * one.batches + second * other.batches) / count

    alone = None
    if one.alone_ms is not None and other.alone_ms is not None:
        alone = mean(one.alone_ms, other.alone_ms)
    return Pace(
        mean(one.step_ms, other.step_ms), one.own_ms, count, mean(one.cpu_ms, other.cpu_ms),
        mean(one.main_ms, other.main_ms), alone, one.each_ms + other.each_ms,
        math.hypot(one.error_ms * one.batches, other.error_ms * other.batches) / count,
    )  # fmt: skip


@dataclass(frozen=True)
class _Taken:
    """Batches that were taken one after the other.

    Attributes:
        each_ms: milliseconds from one to the next.
        seconds: see `ProcessTree.seconds`.
    """

    each_ms: list[float]
    seconds: tuple[float, float]

    @property
    def step_ms(self) -> float:
        """Milliseconds from batch to batch, the mean."""
        return sum(self.each_ms) / len(self.each_ms)

    @property
    def cpu_ms(self) -> tuple[float, float]:
        """Milliseconds of processor time a batch, of all, and of this thread."""
        everyone, main = (1e3 * seconds / len(self.each_ms) for seconds in self.seconds)
        return everyone, main

    def and_then(self, other: _Taken) -> _Taken:
        """These batches, and those that were taken after them."""
        everyone, main = (a + b for a, b in zip(self.seconds, other.seconds, strict=True))
        return _Taken(self.each_ms + other.each_ms, (everyone, main))


def _taken(feed: Feed, step: Step | None, end: float) -> _Taken:
    """Takes batches, with a step on each if there is one, until the time is over or well used."""
    # Where the process trains, most of its time is the step's.
    tree = ProcessTree(with_own=step is None or isinstance(step, WaitingStep))
    each: list[float] = []
    begin = last = time.perf_counter()
    enough = begin + _ENOUGH_TIME * (end - begin)
    # Producers of one speed deliver in turns: whole turns are measured.
    turn = max(feed.producers, 1)
    least = turn * -(-_LEAST // turn)
    while True:
        batch = next(feed.batches)
        if step is not None:
            step(batch)
        now = time.perf_counter()
        each.append(1e3 * (now - last))
        last = now
        if len(each) % turn or len(each) < least:
            continue
        if last >= end or (last > enough and mean_is_known(each, turn)):
            return _Taken(each, tree.seconds())


def mean_is_known(each_ms: Sequence[float], producers: int) -> bool:
    """Whether the standard error of a mean is so small that more batches tell no more.

    Args: see `error_of_mean`.
    """
    turns = len(each_ms) // max(producers, 1)
    mean = sum(each_ms) / len(each_ms)
    return turns >= _ENOUGH_TURNS and error_of_mean(each_ms, producers) < _KNOWN * mean


def error_of_mean(each_ms: Sequence[float], producers: int) -> float:
    """The standard error of a mean, in milliseconds.

    Args:
        each_ms: milliseconds of each batch, of whole turns.
        producers: that deliver in turns; turns hardly depend on each other, batches do.
    """
    turns = np.reshape(each_ms, (-1, max(producers, 1))).mean(axis=1)
    if len(turns) < 2:
        return 0.0
    return float(turns.std(ddof=1) / np.sqrt(len(turns)))


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
    """Processor time of this process and its children since this was made.

    Args:
        with_own: this process counts, and not its children alone.
    """

    def __init__(self, *, with_own: bool) -> None:
        self._with_own = with_own
        self._processes = processor.family()[0 if with_own else 1 :]
        self._before, self._thread = processor.seconds(self._processes), time.thread_time()

    def seconds(self) -> tuple[float, float]:
        """Returns the seconds of all together, and of them those of this thread alone."""
        thread = time.thread_time() - self._thread if self._with_own else 0.0
        return sum(processor.seconds(self._processes)) - sum(self._before), thread
