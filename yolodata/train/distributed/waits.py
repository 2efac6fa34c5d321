"""How long this rank waits for sums over ranks, and how much of that is due to a slower one.

Note [stragglers]. A collective ends on all ranks at about the same time. So the rank that comes
last waits for the transfer alone, and every other one waits longer by what it was earlier. The
smallest wait of all ranks is the transfer; what is above it is the straggler's. That needs no clock
that ranks share.

A step has three kinds of collectives: sums of the loss (`global_loss`), the sum of the gradients,
of which only what the backward pass does not hide counts, and what the ranks agree on at its end.
Their waits travel with the latter, those of agreeing with the next one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from yolodata.telemetry.clocks import Clock, HostClock, StreamClock

LAG = 4
"""Steps after which a GPU's waits are asked for: it is through with them, so nobody has to wait."""

LOSS, GRADIENTS = 0, 1


@dataclass
class _Step:
    """The waits of one step: moments of the two kinds, and seconds of agreeing before it."""

    number: int = 0
    spans: tuple[list[tuple[Any, Any]], ...] = field(default_factory=lambda: ([], []))
    agreeing: float = 0.0


class CollectiveWaits:
    """The waits of this rank, step by step; all ranks call the same in the same order.

        waits.begin_epoch()
        waits.begin()                        # a step of it
        with waits.of(LOSS): ...             # a collective
        waits.watch(loss); loss.backward(); waits.summed()
        with waits.agreeing(): largest = ranks.largest(waits.offer(step))
        found = waits.settle(largest)

    Args:
        device: that the rank trains on.
        clock: of its collectives; None is that of the device.

    Attributes:
        lag: steps after which the waits of a step are known.
    """

    def __init__(self, device: torch.device, clock: Clock | None = None) -> None:
        on_gpu = device.type == "cuda"
        self.lag = LAG if on_gpu else 0
        self._clock: Clock = clock or (StreamClock() if on_gpu else HostClock())
        self._step = _Step()
        self._steps: deque[_Step] = deque(maxlen=self.lag + 1)
        self._alone: Any = None  # since when the gradients of this rank are there
        self._agreed = 0.0  # seconds
        self._offered: _Step | None = None
        self._mine: list[float] = []

    def begin_epoch(self) -> None:
        """An epoch begins, or goes on: the time until now, and what it held, is no step's."""
        self._steps.clear()
        self._agreed = 0.0

    def begin(self) -> None:
        """A step begins."""
        self._step, self._alone = _Step(), None

    @contextmanager
    def of(self, kind: int) -> Iterator[None]:
        """The block is a collective of that kind."""
        begun = self._clock.now()
        yield
        self._step.spans[kind].append((begun, self._clock.now()))

    def watch(self, loss: torch.Tensor) -> None:
        """Notes when this rank's own part of the backward pass has ended; before `backward`.

        The engine calls at its end what was queued, in order. The wrapped model queues its waiting
        for the other ranks when its last gradient is there, which is after this.
        """

        loss.register_hook(self._queue)  # type: ignore[no-untyped-call]

    def _queue(self, gradient: torch.Tensor) -> None:
        engine: Any = torch.autograd.Variable._execution_engine
        engine.queue_callback(self._gradients_are_there)

    def _gradients_are_there(self) -> None:
        self._alone = self._clock.now()

    def summed(self) -> None:
        """The backward pass has ended; the gradients are those of all ranks."""
        if self._alone is not None:
            self._step.spans[GRADIENTS].append((self._alone, self._clock.now()))

    @contextmanager
    def agreeing(self) -> Iterator[None]:
        """The block is what the ranks agree on at the end of a step."""
        start = time.perf_counter()
        yield
        self._agreed = time.perf_counter() - start

    def offer(self, step: int) -> list[int]:
        """Returns what the others are told: whether the waits are unknown, and the shortest ones.

        Args:
            step: steps of the run that are done.

        Returns:
            integers, of which all ranks are to take the largest: 0 or 1, and the microseconds of
            each kind of collective, negative.
        """
        this, self._step = self._step, _Step()
        this.number, this.agreeing = step, self._agreed
        self._steps.append(this)
        self._offered = None
        if len(self._steps) > self.lag:
            then = self._steps[0]
            waits = [[self._clock.seconds(*span) for span in of_a_kind] for of_a_kind in then.spans]
            if not any(wait is None for of_a_kind in waits for wait in of_a_kind):
                self._offered = then
                known = [sum(wait or 0.0 for wait in of_a_kind) for of_a_kind in waits]
                self._mine = [*known, then.agreeing]
        if self._offered is None:
            return [1, 0, 0, 0]
        return [0, *(-round(1e6 * seconds) for seconds in self._mine)]

    def settle(self, largest: list[int]) -> tuple[int, float, float] | None:
        """Returns what is known of an earlier step.

        Args:
            largest: of what all ranks offered.

        Returns:
            the step, its seconds for collectives, and its seconds for slower ranks; None where some
            rank does not know its waits.
        """
        unknown, *shortest = largest
        if unknown or self._offered is None:
            return None
        transfer = -1e-6 * sum(shortest)
        return self._offered.number, transfer, max(0.0, sum(self._mine) - transfer)
