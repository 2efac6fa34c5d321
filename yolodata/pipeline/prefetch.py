"""Batches that are made before they are asked for."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from yolodata.pipeline.background import Background
from yolodata.pipeline.batch import Batch
from yolodata.pipeline.cpu.backend import Work
from yolodata.pipeline.schedule import Schedule

Plan = Callable[[int, int, npt.NDArray[np.int64]], Work]
"""(epoch, start, positions (B,)) to a batch in the making."""


@dataclass(frozen=True)
class Collated:
    """A batch as the consumer gets it.

    Attributes:
        batch: the dict.
        samples: pictures in it.
        seconds: thread-seconds that it took, by stage.
    """

    batch: Batch
    samples: int
    seconds: dict[str, float]


@dataclass(eq=False)
class Step:
    """A batch that was begun: `start` to `stop` of an epoch."""

    epoch: int
    start: int
    stop: int
    work: Work
    collated: Collated | None = None


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
        self._handed_out: list[Step] = []
        self._background = Background()

    def at(self, epoch: int, position: int) -> Step | None:
        """The batch that begins there, if it comes first in what is in the making."""
        head = self._steps[0] if self._steps else None
        found = head is not None and head.start == position and head.epoch == epoch
        return head if found else None

    def begins_at(self, epoch: int, position: int) -> bool:
        """Whether what is in the making is what comes from there on; nothing always is."""
        if self._schedule.ends(position):
            epoch, position = epoch + 1, 0
        return not self._steps or self.at(epoch, position) is not None

    def fill(self, epoch: int, position: int, plan: Plan) -> None:
        """Begin what is missing, from a position on if nothing is in the making."""
        self._handed_out.clear()
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

    def collate(self, collate: Callable[[Work], Collated]) -> None:
        """Collate the batches that are ready, so that nothing is left to do for the consumer."""
        for step in self._steps:
            if step.collated is None and step.work.ready():
                step.collated = collate(step.work)

    def later(self, fill: Callable[[], Any]) -> None:
        """Have another thread call what fills this, while the consumer uses its batch.

        Until `settle`, nothing may change that it looks at. What it raises is forgotten: who fills
        next is told again.
        """
        self._background.begin(fill)

    def settle(self) -> None:
        """Wait until nobody is filling this; raises ConfigError in another process."""
        self._background.settle()

    def pop(self) -> None:
        """Take the first away, which is handed out; `fill` takes the time to forget it."""
        self._handed_out.append(self._steps.popleft())

    def clear(self) -> list[Work]:
        """Forget all of them; returns what was in the making, the last first."""
        works = [step.work for step in reversed(self._steps)]
        self._steps.clear()
        self._handed_out.clear()
        return works

    def close(self, stop: Callable[[], Any]) -> None:
        """End the thread of `later`, call what ends the making of batches, and forget them."""
        self._background.close()
        stop()
        self.clear()
