"""How much of the processor other processes take while something is measured."""

from __future__ import annotations

import resource
import time

from yolodata.machine import ranks_here, usable_cores
from yolodata.telemetry import processor


class Others:
    """Counts from when it is made."""

    def __init__(self) -> None:
        self._cores = usable_cores()
        self._begun, self._busy, self._own = time.monotonic(), self._all(), _own()

    def cores(self) -> float:
        """Returns how many of the cores that we may use were busy with others, in the mean.

        Children of ours that still run count as others: ask when they have ended. Beside other
        ranks nobody knows who is another: 0.
        """
        if ranks_here() > 1:
            return 0.0
        seconds = max(time.monotonic() - self._begun, 1e-6)
        others = (self._all() - self._busy) - (_own() - self._own)
        return max(0.0, others / seconds)

    def _all(self) -> float:
        """Seconds in which our cores were not idle."""
        try:
            return processor.busy(self._cores)
        except (OSError, RuntimeError):
            return 0.0


def _own() -> float:
    """Processor seconds of this process, and of its children that have ended."""
    used = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        times = resource.getrusage(who)
        used += times.ru_utime + times.ru_stime
    return used
