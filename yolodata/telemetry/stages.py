"""Seconds by stage and events by name."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Reading:
    """What a `Telemetry` showed at one moment.

    Attributes:
        seconds: time spent in each stage, of all threads together.
        counts: how often each thing happened.
    """

    seconds: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)

    def since(self, earlier: Reading) -> Reading:
        """Returns what was added between an earlier reading and this one."""
        return Reading(
            {name: s - earlier.seconds.get(name, 0.0) for name, s in self.seconds.items()},
            {name: n - earlier.counts.get(name, 0) for name, n in self.counts.items()},
        )

    def milliseconds_each(self, things: int) -> dict[str, float]:
        """Returns milliseconds of each stage, divided among `things` (pictures, say)."""
        return {name: 1e3 * s / max(things, 1) for name, s in self.seconds.items()}


class Telemetry:
    """Adds up seconds by stage and events by name; any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seconds: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, stage: str, seconds: float) -> None:
        """Counts `seconds` to a stage."""
        self.record({stage: seconds}, {})

    def count(self, name: str, events: int = 1) -> None:
        """Counts events."""
        self.record({}, {name: events})

    def record(self, seconds: Mapping[str, float], counts: Mapping[str, int]) -> None:
        """Counts several stages and events at once."""
        with self._lock:
            for stage, more in seconds.items():
                self._seconds[stage] = self._seconds.get(stage, 0.0) + more
            for name, events in counts.items():
                self._counts[name] = self._counts.get(name, 0) + events

    @contextmanager
    def time(self, stage: str) -> Iterator[None]:
        """Counts the time of the `with` block to a stage, also when it raises."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, time.perf_counter() - start)

    def read(self) -> Reading:
        """Returns a copy of everything counted so far."""
        with self._lock:
            return Reading(dict(self._seconds), dict(self._counts))
