"""How busy others keep the machine while something is measured."""

from __future__ import annotations

import time
from dataclasses import dataclass

import psutil

from yolodata.telemetry import processor


@dataclass(frozen=True)
class Load:
    """Seconds of all cores so far, as the system counts them: in steps of 10 ms."""

    at: float  # of the wall clock
    busy: float  # of all processes, and of the system itself
    ours: float  # of this process and what it started
    steal: float  # in which the host gave the cores to other machines

    @classmethod
    def now(cls) -> Load:
        """What the system says at this moment."""
        times = psutil.cpu_times()
        names = ("user", "nice", "system", "irq", "softirq")
        busy = sum(getattr(times, name, 0.0) for name in names)
        # Of one that ended just now, its parent has the time.
        ours = sum(processor.seconds(processor.family(), with_ended=True))
        return cls(time.perf_counter(), busy, ours, getattr(times, "steal", 0.0))

    def since(self, before: Load) -> tuple[float | None, float | None]:
        """Cores that others kept busy, and that the host took away; None: the system cannot tell.

        Some containers see no times but their own, or none: then less is busy than we are.
        """
        seconds = self.at - before.at
        busy, ours = self.busy - before.busy, self.ours - before.ours
        if busy < 0.5 * ours:
            return None, None
        return max(0.0, busy - ours) / seconds, max(0.0, self.steal - before.steal) / seconds
