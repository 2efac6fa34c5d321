"""Seconds that a device spends on a loader's batches, counted without waiting for it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from yolodata.telemetry import Telemetry

if TYPE_CHECKING:
    from yolodata.pipeline.gpu.stream import Stream

_MOST = 1024
"""Spans that may be open; more are those of a loader that nobody asks; the oldest is dropped."""


class DeviceTimes:
    """Spans between two moments in a device's streams, counted once both have come.

    Used by one thread at a time.

    Args:
        stream: reads the moments.
        telemetry: adds up the seconds of each stage: "copy", "kernel", and "device_wait", in which
            the consumer's stream had nothing to do until a batch was there.
    """

    def __init__(self, stream: Stream, telemetry: Telemetry) -> None:
        self._stream, self._telemetry = stream, telemetry
        self._open: deque[tuple[str, Any, Any]] = deque(maxlen=_MOST)

    def add(self, stage: str, begun: Any, ended: Any) -> None:
        """Has a span counted to a stage, a few batches later."""
        self._open.append((stage, begun, ended))

    def count(self) -> None:
        """Counts what has come; the rest waits, in order, for the next call."""
        found: dict[str, float] = {}
        while self._open:
            stage, begun, ended = self._open[0]
            seconds = self._stream.seconds(begun, ended)
            if seconds is None:
                break
            self._open.popleft()
            found[stage] = found.get(stage, 0.0) + seconds
        if found:
            self._telemetry.record(found, {})
