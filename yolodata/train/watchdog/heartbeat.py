"""What a rank is doing, since when, and how long that may take.

Note [time limits]. Every phase of a run has one time limit, in units of the setting `stall` (30 s).

| phase | limit |
| --- | --- |
| a step of training, a batch of validation | `stall`, or ten times the longest one so far |
| the first four steps, the first two batches of validation | ten times `stall` |
| between them: callbacks, metrics, plots, saving, a checkpoint | ten times `stall` |
| a tracker of experiments, whose server may not answer (it has time limits of its own) | none |
| setting up (packing, scanning, downloads, connecting) and the end (uploads) | none |

The first steps compile, choose kernels and fill caches, so that they say nothing of the others.
Nobody knows how long a callback takes; its limit is generous. Setting up may take hours.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

INTERVAL = 1.0
"""Seconds between two heartbeats."""

LONG = 10.0
"""A phase of unknown duration may take so many times `stall`."""

WARM_UP_STEPS, WARM_UP_BATCHES = 3, 1
"""Steps, and batches of validation, that say nothing of how long others take."""


class RepeatedPhase:
    """The time limit of a phase that comes again and again.

    Args:
        stall: seconds that each one may take at least.
        warm_up: how many first ones say nothing of the others.
    """

    def __init__(self, stall: float, warm_up: int) -> None:
        self._stall, self._warm_up = stall, warm_up
        self._longest = 0.0

    def finished(self, seconds: float) -> None:
        """Another one is over."""
        self._warm_up -= 1
        if self._warm_up < 0:
            self._longest = max(self._longest, seconds)

    def limit(self) -> float:
        """Seconds that the next one may take."""
        return LONG * self._stall if self._warm_up >= 0 else max(self._stall, 10 * self._longest)


class Heartbeat:
    """What this process is doing; the trainer says it, the monitor tells the other ranks.

    Args:
        stall: see `TrainSettings`, seconds.

    Attributes:
        progress: steps begun, things begun since then, and whether this rank only waits for the
            others. It is the same on every rank, so that the smallest one is furthest behind.
        in_step: whether a step is being made.
        since: when the last thing began (`time.monotonic`).
        limit: seconds that it may take; None is for ever.
    """

    def __init__(self, stall: float = 30.0) -> None:
        self.stall = stall
        self.progress = (0, 0, 0)
        self.doing = "starting"
        self.where = ""
        self.in_step = False
        self.since = time.monotonic()
        self.limit: float | None = None
        self._steps = RepeatedPhase(stall, WARM_UP_STEPS)
        self._batches = RepeatedPhase(stall, WARM_UP_BATCHES)
        self._step_began = 0.0
        self._process = {
            "pid": os.getpid(),
            "born": psutil.Process().create_time(),
            "host": socket.gethostname(),
        }

    @property
    def silence(self) -> float:
        """Seconds without a heartbeat after which a rank counts as lost."""
        return max(4 * INTERVAL, self.stall * 2 / 3)

    def doing_now(self, doing: str) -> None:
        """Something else begins within the phase."""
        self.doing, self.since = doing, time.monotonic()
        self.progress = (self.progress[0], self.progress[1] + 1, 0)

    @contextmanager
    def beside(self, doing: str) -> Iterator[None]:
        """Something within the phase that other ranks do not do, and that may take for ever.

        How far the rank is stays, so that it is the one that the others wait for.
        """
        before = self.doing, self.limit
        self.doing, self.limit, self.since = doing, None, time.monotonic()
        try:
            yield
        finally:
            (self.doing, self.limit), self.since = before, time.monotonic()

    def wait(self) -> None:
        """From here on this rank only waits for others, until something else begins.

        Others may still do what this rank has done, or need not do: one of them is behind then.
        """
        self.doing, self.since = "waiting for the other ranks", time.monotonic()
        self.progress = (*self.progress[:2], 1)

    def step(self, where: str) -> None:
        """A training step begins."""
        self.where, self.in_step = where, True
        self.limit = self._steps.limit()
        self.doing, self.since = "waiting for data", time.monotonic()
        self._step_began = self.since
        self.progress = (self.progress[0] + 1, 0, 0)

    def step_finished(self) -> None:
        """The step is over."""
        self._steps.finished(time.monotonic() - self._step_began)
        self.in_step = False

    def phase(self, doing: str, *, unlimited: bool = False, batches: bool = False) -> None:
        """A phase begins that is no step.

        Args:
            doing: what, in words.
            unlimited: it may take for ever.
            batches: it consists of batches; `batch_finished` is called after each.
        """
        self.in_step = False
        self.limit = None if unlimited else LONG * self.stall
        if batches:
            self.limit = self._batches.limit()
        self.doing_now(doing)

    def batch_finished(self) -> None:
        """A batch of the phase is over; ranks may have different numbers of them."""
        now = time.monotonic()
        self._batches.finished(now - self.since)
        self.limit, self.since = self._batches.limit(), now

    def message(self) -> dict[str, Any]:
        """Returns what the other ranks are told; JSON."""
        return {
            "progress": self.progress,
            "doing": self.doing,
            "where": self.where,
            "idle": time.monotonic() - self.since,
            "limit": self.limit,
            **self._process,
        }
