"""What goes on in the background, and is waited for like a job of the native engine."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from typing import Protocol

_TICK = 0.2  # seconds between looks at signals (Ctrl-C) while native code is waited for


class Waitable(Protocol):
    """Something that will be done."""

    def wait(self, timeout: float | None = None) -> bool:
        """Returns whether all is done after `timeout` seconds; raises what went wrong."""


class Job(Waitable, Protocol):
    """A native job, or what is used like one."""

    def done(self) -> bool:
        """Returns whether nothing goes on any more."""

    def cancel(self) -> None:
        """Drops what has not begun."""

    def seconds(self) -> dict[str, float]:
        """Returns thread-seconds by stage."""


class JobGroup:
    """Several jobs as one."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs

    def wait(self, timeout: float | None = None) -> bool:
        """See `Job`."""
        end = math.inf if timeout is None else time.monotonic() + timeout
        for job in self._jobs:
            left = end - time.monotonic()
            if not job.wait(None if math.isinf(left) else max(0.0, left)):
                return False
        return True

    def done(self) -> bool:
        """See `Job`."""
        return all(job.done() for job in self._jobs)

    def cancel(self) -> None:
        """See `Job`."""
        for job in self._jobs:
            job.cancel()

    def seconds(self) -> dict[str, float]:
        """See `Job`."""
        return total_seconds(self._jobs)


def total_seconds(jobs: Iterable[Job]) -> dict[str, float]:
    """Returns thread-seconds by stage of several jobs."""
    total: dict[str, float] = {}
    for job in jobs:
        for stage, seconds in job.seconds().items():
            total[stage] = total.get(stage, 0.0) + seconds
    return total


def wait_for(job: Waitable) -> None:
    """Blocks until a job is done; raises what went wrong in it."""
    while not job.wait(_TICK):
        pass
