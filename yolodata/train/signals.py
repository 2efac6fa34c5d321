"""SIGTERM, SIGUSR1 and SIGINT while training runs.

Slurm, Kubernetes and spot machines send SIGTERM (Slurm SIGUSR1 on request) some time before they
take the machine away; torchrun passes SIGTERM and SIGINT on to the ranks.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
IMPATIENT = 3.0
"""A second Ctrl-C ends the process at once, if it comes this many seconds after the first;
launchers and terminals send one signal several times."""

URGENT = 4.0
"""Seconds after the signal from which no update is waited for."""


class StopRequest:
    """Whether this process was asked to stop.

    Args:
        on_request: called once, in the main thread, when it is.
    """

    def __init__(self, on_request: Callable[[], None]) -> None:
        self._on_request = on_request
        self._before: dict[signal.Signals, Any] = {}
        self.at: float | None = None
        self.why = ""
        self.passed_on = ""  # what a signal means that this process sends to itself

    def __bool__(self) -> bool:
        return self.at is not None

    @property
    def urgent(self) -> bool:
        """Whether the time to be exact about where to stop is over."""
        return self.at is not None and time.monotonic() - self.at > URGENT

    def install(self) -> None:
        """Installs the handlers; does nothing outside the main thread, where Python allows none."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._handle)

    def remove(self) -> None:
        """Puts the handlers back that were there before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def request(self, why: str) -> None:
        """Asks this process to stop, as a signal would."""
        if self.at is None:
            self.at, self.why = time.monotonic(), why
            self._on_request()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.at is not None and time.monotonic() - self.at > IMPATIENT
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.request(self.passed_on or signal.Signals(number).name)
