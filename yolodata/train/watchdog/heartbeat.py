"""What a rank is doing, since when, and how long that may take."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

EVERY = 1.0
FREE_STEPS, FREE_PARTS = 3, 1
"""The first steps compile, choose kernels, fill caches: they say nothing of how long others take.
So do the first batches of validation."""


class Usual:
    """How long one of many similar things may take, by how long the others took.

    Args:
        stall: seconds that each may take; ten times that as long as nothing is known.
        free: how many first ones say nothing of the others.
    """

    def __init__(self, stall: float, free: int) -> None:
        self._stall, self._free = stall, free
        self._longest = 0.0

    def took(self, seconds: float) -> None:
        """Another one is over."""
        self._free -= 1
        if self.known:
            self._longest = max(self._longest, seconds)

    @property
    def known(self) -> bool:
        """Whether enough of them are over to tell."""
        return self._free < 0

    def limit(self) -> float:
        """Seconds that the next one may take."""
        return max(self._stall, 10 * self._longest) if self.known else 10 * self._stall


class Pulse:
    """What this process is doing; marked by the trainer, told to the other ranks by the watch.

    Attributes:
        at: steps begun, things begun since then, and whether this rank only waits for the others
            to come as far: the same on every rank, so that the smallest is furthest behind.
        in_step: whether a step is being made.
        worked: when this process was last seen to work (`time.monotonic`); set by the watch.
    """

    def __init__(self, stall: float = 30.0) -> None:
        self.stall = stall
        self.at = (0, 0, 0)
        self.doing = "starting"
        self.where = ""
        self.in_step = False
        self.since = self.worked = time.monotonic()
        self._steps, self._parts = Usual(stall, FREE_STEPS), Usual(stall, FREE_PARTS)
        self._usual: Usual | None = None
        self._endless = True
        self._began = 0.0

    @property
    def silence(self) -> float:
        """Seconds without a beat after which a rank is gone."""
        return max(4 * EVERY, self.stall * 2 / 3)

    def mark(self, doing: str) -> None:
        """Something else begins."""
        self.doing, self.since = doing, time.monotonic()
        self.at = (self.at[0], self.at[1] + 1, 0)

    def wait(self) -> None:
        """From here on this rank waits for others, until something else begins.

        It needs saying where others may still be at what this rank has done, or need not do:
        waiting for them, a rank may look busy.
        """
        self.doing, self.since = "waiting for the other ranks", time.monotonic()
        self.at = (*self.at[:2], 1)

    def step(self, where: str) -> None:
        """A training step begins."""
        self.where, self.in_step = where, True
        self._usual, self._endless = self._steps, False
        self.doing, self.since = "waiting for data", time.monotonic()
        self._began = self.since
        self.at = (self.at[0] + 1, 0, 0)

    def stepped(self) -> None:
        """The step is over; how long it took, the next ones may take."""
        self._steps.took(time.monotonic() - self._began)
        self.in_step = False

    def section(self, doing: str, *, endless: bool = False, parts: bool = False) -> None:
        """Something begins that is no step.

        Args:
            doing: what, in words.
            endless: it takes as long as it takes.
            parts: it consists of many similar parts; `part` is called after each.
        """
        self.in_step = False
        self._usual, self._endless = self._parts if parts else None, endless
        self.mark(doing)

    def part(self) -> None:
        """A part of the section is over; ranks may have different numbers of them."""
        now = time.monotonic()
        self._parts.took(now - self.since)
        self._usual, self.since = self._parts, now

    def limit(self) -> float | None:
        """Seconds without a move after which this rank is stalled; None: it cannot be."""
        if self._endless:
            return None
        return 10 * self.stall if self._usual is None else self._usual.limit()

    def patience(self) -> float | None:
        """Seconds without work after which this rank is stalled; None: work does not matter.

        It does where nobody knows how long things take.
        """
        if self._endless or (self._usual is not None and self._usual.known):
            return None
        return 1.5 * self.stall

    def beat(self) -> dict[str, Any]:
        """What the other ranks are told."""
        now = time.monotonic()
        return {
            "at": self.at,
            "doing": self.doing,
            "where": self.where,
            "idle": now - self.since,
            "limit": self.limit(),
            "still": now - max(self.since, self.worked),
            "patience": self.patience(),
            "pid": os.getpid(),
            "host": socket.gethostname(),
        }
