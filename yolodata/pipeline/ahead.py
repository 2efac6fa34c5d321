"""Batches that are made before they are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from yolodata.pipeline.schedule import Schedule
from yolodata.pipeline.work import Work

Plan = Callable[[int, int, npt.NDArray[np.int64]], Work]
"""(epoch, start, positions (B,)) to a batch in the making."""


@dataclass(eq=False)
class Step:
    """A batch that was begun: `start` to `stop` of an epoch."""

    epoch: int
    start: int
    stop: int
    work: Work


class Ahead:
    """Consecutive batches in the making, across the ends of epochs.

    Args:
        schedule: of the loader.
        prefetch: how many.
        epochs: beyond which nothing is prepared; None for no end.
    """

    def __init__(self, schedule: Schedule, prefetch: int, epochs: int | None) -> None:
        self._schedule, self._prefetch, self._epochs = schedule, prefetch, epochs
        self._steps: deque[Step] = deque()
        self._thread: ThreadPoolExecutor | None = None
        self._later: Future[Any] | None = None

    @property
    def head(self) -> Step:
        """The batch that comes first."""
        return self._steps[0]

    def begins_at(self, epoch: int, position: int) -> bool:
        """Whether what is in the making is what comes from there on; nothing always is."""
        if self._schedule.batch(position) is None:
            epoch, position = epoch + 1, 0
        return not self._steps or (self.head.epoch, self.head.start) == (epoch, position)

    def fill(self, epoch: int, position: int, plan: Plan) -> None:
        """Begin what is missing, from a position on if nothing is in the making."""
        if self._steps:
            epoch, position = self._steps[-1].epoch, self._steps[-1].stop
        while len(self._steps) < self._prefetch:
            step = self._schedule.batch(position)
            if step is None:
                if self._epochs is not None and epoch + 1 >= self._epochs:
                    break
                epoch, position = epoch + 1, 0
                continue
            positions, stop = step
            self._steps.append(Step(epoch, position, stop, plan(epoch, position, positions)))
            position = stop
        for begun in self._steps:
            begun.work.start()

    def later(self, fill: Callable[[], Any]) -> None:
        """Have another thread call what fills this, while the consumer uses its batch.

        Until `settle`, nothing may change that it looks at. What it raises is forgotten: who fills
        next is told again.
        """
        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="yolodata-ahead")
        self._later = self._thread.submit(fill)

    def settle(self) -> None:
        """Wait until nobody is filling this."""
        later = self._later
        if later is not None:
            wait([later])
            self._later = None

    def pop(self) -> None:
        """Forget the first, which was handed out."""
        self._steps.popleft()

    def clear(self) -> list[Work]:
        """Forget all of them; returns what was in the making, the last first."""
        works = [step.work for step in reversed(self._steps)]
        self._steps.clear()
        return works
