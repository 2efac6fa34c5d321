"""How to time what a device does. All of it also runs on the CPU, where figures mean nothing."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch

from yolodata.bench.subject import Batch, Subject, Task

POOL_BYTES = 512 << 20  # what a ceiling rotates among: many times any GPU's L2
_IN_FLIGHT = 2  # batches that a consumer has not finished when it asks for the next
_BURST_SECONDS = 0.02  # of one measurement by events: thousands of times what an event costs


class Pace:
    """Keeps a consumer from running ahead of its device, as a training step would.

    Loaders only enqueue work. A consumer that took batch after batch without using them would
    measure how fast work can be enqueued, and fill the device's memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._events: deque[Any] = deque()

    def keep(self) -> None:
        """Say that a batch was taken: waits for the one that was taken two turns before."""
        if self._on_gpu:
            event: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record()
            self._events.append(event)
            while len(self._events) > _IN_FLIGHT:
                self._events.popleft().synchronize()

    def finish(self) -> None:
        """Wait for everything on the device."""
        if self._on_gpu:
            torch.cuda.synchronize()
        self._events.clear()


class Burst(Subject):
    """Launches that are timed on the device itself, several at a time.

    Subclasses say in `once` what is launched, and in `bytes_each` how many bytes a picture moves.
    """

    bytes_each: float

    def __init__(self, task: Task) -> None:
        self.device = torch.device(task.device)
        super().__init__(
            self._bursts(), warm_up=4 * task.batch, finish=Pace(self.device).finish,
            facts=lambda: {"bytes_each": self.bytes_each},
        )  # fmt: skip

    def once(self) -> Any:
        """Enqueue one batch on the current stream; returns its pictures (B, 3, H, W)."""
        raise NotImplementedError

    def repeats(self) -> int:
        """How many launches take long enough to be timed together."""
        self.once()  # the first time costs what no other does
        return max(1, round(_BURST_SECONDS / max(self.burst(1), 1e-7)))

    def burst(self, repeats: int) -> float:
        """Seconds that so many launches take, by a GPU's own events or by the system's clock."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            for _ in range(repeats):
                self.once()
            return time.perf_counter() - start
        begin: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        end: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        begin.record()
        for _ in range(repeats):
            self.once()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3

    def _bursts(self) -> Iterator[Batch]:
        pictures, repeats = self.once(), self.repeats()
        while True:
            yield {"img": pictures, "repeats": repeats, "seconds": self.burst(repeats)}
