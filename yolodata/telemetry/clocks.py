"""Moments on the host, and in a GPU's stream, and the seconds between them."""

from __future__ import annotations

import time
from typing import Any, Protocol


class Clock(Protocol):
    """Takes moments; nobody waits for it."""

    def now(self) -> Any:
        """Returns this moment."""

    def seconds(self, begun: Any, ended: Any) -> float | None:
        """Returns the seconds between two moments; None while the second has not come."""


class HostClock:
    """`Clock` of the host: what is asked for happens at once."""

    def now(self) -> float:
        """See `Clock`."""
        return time.perf_counter()

    def seconds(self, begun: float, ended: float) -> float | None:
        """See `Clock`."""
        return ended - begun


class StreamClock:
    """`Clock` of the GPU's stream that is current when a moment is taken.

    A moment is an event in it: it comes when the GPU has done all that was enqueued before.
    """

    def now(self) -> Any:
        """See `Clock`; costs the host a few microseconds."""
        import torch

        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event

    def seconds(self, begun: Any, ended: Any) -> float | None:
        """See `Clock`; never waits."""
        if not ended.query():
            return None
        return 1e-3 * float(begun.elapsed_time(ended))
