"""Batches that are made before they are asked for, by a thread that the consumer does not wait for.

Note [not an executor]. Asking a `ThreadPoolExecutor` and looking whether it is done costs the
asking thread about 100 us where its caches hold a training step; two queues cost a tenth of that.
"""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any

import numpy as np
import numpy.typing as npt

from yolodata.pipeline.backend import PendingBatch
from yolodata.pipeline.batch import Batch
from yolodata.pipeline.fork_safety import check_process, finalize
from yolodata.pipeline.schedule import MAX_EPOCH, Schedule

Submit = Callable[[int, int, npt.NDArray[np.int64]], PendingBatch]
"""(epoch, start, positions (B,)) to a batch in the making."""

Call = Callable[[], Any]


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
class Prefetched:
    """A batch that was begun: `start` to `stop` of an epoch."""

    epoch: int
    start: int
    stop: int
    pending: PendingBatch
    collated: Collated | None = None


class Prefetcher:
    """Consecutive batches in the making, across the ends of epochs.

    Args:
        schedule: of the loader.
        prefetch: how many.
        epochs: beyond which nothing is prepared; None for no end.
    """

    def __init__(self, schedule: Schedule, prefetch: int, epochs: int | None) -> None:
        self._schedule, self._prefetch = schedule, prefetch
        self._last_epoch = MAX_EPOCH if epochs is None else min(epochs - 1, MAX_EPOCH)
        self._steps: deque[Prefetched] = deque()
        self._handed_out: list[Prefetched] = []
        self._thread = BackgroundThread()

    def at(self, epoch: int, position: int) -> Prefetched | None:
        """Returns the batch that begins there, if it comes first in what is in the making."""
        head = self._steps[0] if self._steps else None
        found = head is not None and head.start == position and head.epoch == epoch
        return head if found else None

    def begins_at(self, epoch: int, position: int) -> bool:
        """Returns whether what is in the making is what comes from there on; nothing always is."""
        if self._schedule.ends(position):
            epoch, position = epoch + 1, 0
        return not self._steps or self.at(epoch, position) is not None

    def fill(self, epoch: int, position: int, submit: Submit) -> None:
        """Begins what is missing, from a position on if nothing is in the making."""
        self._handed_out.clear()
        if self._steps:
            epoch, position = self._steps[-1].epoch, self._steps[-1].stop
        while len(self._steps) < self._prefetch:
            step = self._schedule.batch(position)
            if step is None:
                if epoch >= self._last_epoch:
                    break
                epoch, position = epoch + 1, 0
                continue
            positions, stop = step
            self._steps.append(
                Prefetched(epoch, position, stop, submit(epoch, position, positions))
            )
            position = stop
        for begun in self._steps:
            begun.pending.start()

    def collate(self, collate: Callable[[PendingBatch], Collated]) -> None:
        """Collates the batches that are ready, so that nothing is left to do for the consumer."""
        for step in self._steps:
            if step.collated is None and step.pending.ready():
                step.collated = collate(step.pending)

    def fill_in_background(self, fill: Callable[[], Any]) -> None:
        """Has another thread call what fills this, while the consumer uses its batch.

        Until `settle`, nothing may change that it looks at. What it raises is forgotten: who fills
        next is told again.
        """
        self._thread.begin(fill)

    def settle(self) -> None:
        """Waits until nobody is filling this; raises ConfigError in another process."""
        self._thread.settle()

    def pop(self) -> None:
        """Takes the first away, which is handed out; `fill` takes the time to forget it."""
        self._handed_out.append(self._steps.popleft())

    def clear(self) -> list[PendingBatch]:
        """Forgets all of them; returns what was in the making, the last first."""
        pending = [step.pending for step in reversed(self._steps)]
        self._steps.clear()
        self._handed_out.clear()
        return pending

    def close(self, stop: Callable[[], Any]) -> None:
        """Ends the thread, calls what ends the making of batches, and forgets them."""
        self._thread.close()
        stop()
        self.clear()


class BackgroundThread:
    """A thread that calls one function at a time; it ends with this object, or with the process.

    Belongs to the process that made it, and is used by one thread at a time.
    """

    def __init__(self) -> None:
        self._calls: SimpleQueue[Call | None] = SimpleQueue()
        self._ends: SimpleQueue[None] = SimpleQueue()
        self._end: weakref.finalize[Any, BackgroundThread] | None = None
        self._busy = False
        self._process = os.getpid()

    def begin(self, call: Call) -> None:
        """Has the thread call a function; what it raises is forgotten. Settle first."""
        assert not self._busy
        if self._end is None or not self._end.alive:
            thread = threading.Thread(
                target=_serve, args=(self._calls, self._ends), name="yolodata-prefetch", daemon=True
            )
            thread.start()
            self._end = finalize(self, _end, thread, self._calls)
        self._busy = True
        self._calls.put(call)

    def settle(self) -> None:
        """Waits until the function has returned; may be interrupted (Ctrl-C) and called again.

        Raises:
            ConfigError: in a forked child, where it would never return.
        """
        if os.getpid() != self._process:
            check_process(self._process)
        if self._busy:
            self._ends.get()
            self._busy = False

    def close(self) -> None:
        """Ends the thread, after the function that it may be calling."""
        self.settle()
        if self._end is not None:
            self._end()


def _serve(calls: SimpleQueue[Call | None], ends: SimpleQueue[None]) -> None:
    while (call := calls.get()) is not None:
        with contextlib.suppress(BaseException):
            call()
        ends.put(None)
        call = None  # or it would be kept alive until the next one; may finalize who waits for it


def _end(thread: threading.Thread, calls: SimpleQueue[Call | None]) -> None:
    calls.put(None)
    if thread is not threading.current_thread():  # whose call had the last reference to its owner
        thread.join()
