"""SIGTERM, SIGUSR1 and SIGINT while training runs.

Slurm, Kubernetes and spot machines send SIGTERM (Slurm SIGUSR1 on request) some time before they
take the machine away; torchrun passes SIGTERM and SIGINT on to the ranks.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from yolodata.train.exit_codes import PREEMPTED, Preempted, leave_status

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
IMPATIENT = 3.0
"""A second Ctrl-C ends the process at once, if it comes this many seconds after the first;
launchers and terminals send one signal several times."""

URGENT = 4.0
"""Seconds after the signal from which no update is waited for."""


LATE = 15.0
"""Seconds after the signal from which a step's end is not waited for. Slurm, Kubernetes and
torchrun kill after 30 s, and the last upload takes up to 8."""

LEAVE, LEAST = 20.0, 5.0
"""Seconds after the signal until which trackers have time to end, and how many they have at least
once all else is done. torchrun takes some more to end."""


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Ends the process with a word when it is asked to stop, where nothing is being trained.

    Raises:
        Preempted: a signal came. `StopRequest` takes the signals over while training runs.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        if os.environ.get("RANK", "0") == "0":
            print(f"yolodata: {name}: ended; nothing was being trained", file=sys.stderr)
        raise Preempted(name)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)}
    ends = False
    try:
        yield
    except Preempted:
        # The process ends, with its status. `timeout`, for one, sends each signal twice, and the
        # second one would end Python within its own last second, with another status.
        ends = True
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if ends else handler)


def leave_in_time(trainer: Any) -> None:
    """A callback for `teardown`: a process that was asked to stop ends, whatever trackers do.

    Where an MLflow server does not answer, ending its run takes minutes, also while Python ends.
    Whoever asked kills the process before, and its exit status, which says to start it again, is
    lost.
    """
    stop = sys.exc_info()[1]
    if not isinstance(stop, Preempted):
        return
    now = time.monotonic()
    asked = trainer.supervisor.stop.at if hasattr(trainer, "supervisor") else None
    timer = threading.Timer(max((asked or now) + LEAVE - now, LEAST), _leave, [stop.why])
    timer.daemon = True
    timer.start()


def _leave(why: str) -> None:
    print("yolodata: an experiment tracker takes too long to end, and is left", file=sys.stderr)
    leave_status(PREEMPTED, why)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(PREEMPTED)


class StopRequest:
    """Whether this process was asked to stop.

    Args:
        on_request: called in the main thread when it is, and again once that is `LATE`.
    """

    def __init__(self, on_request: Callable[[], None]) -> None:
        self._on_request = on_request
        self._before: dict[signal.Signals, Any] = {}
        self._reminder: threading.Timer | None = None
        self.at: float | None = None
        self.why = ""
        self.passed_on = ""  # what a signal means that this process sends to itself

    def __bool__(self) -> bool:
        return self.at is not None

    @property
    def urgent(self) -> bool:
        """Whether the time to be exact about where to stop is over."""
        return self.at is not None and time.monotonic() - self.at > URGENT

    @property
    def late(self) -> bool:
        """Whether the time to finish a step is over."""
        return self.at is not None and time.monotonic() - self.at >= LATE

    def install(self) -> None:
        """Installs the handlers; does nothing outside the main thread, where Python allows none."""
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                self._before[number] = signal.signal(number, self._handle)

    def remove(self) -> None:
        """Puts the handlers back that were there before."""
        if self._reminder is not None:
            self._reminder.cancel()
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def request(self, why: str) -> None:
        """Asks this process to stop, as a signal would."""
        if self.at is None:
            self.at, self.why = time.monotonic(), self.why or why
            self._reminder = threading.Timer(LATE, self._remind)
            self._reminder.daemon = True
            self._reminder.start()
            self._on_request()
        elif self.late:
            self._on_request()

    def _remind(self) -> None:
        """In a thread; only a signal can raise an exception in the main one."""
        main = threading.main_thread().ident
        if self._before and main is not None:
            signal.pthread_kill(main, signal.SIGUSR1)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        again = self.at is not None and time.monotonic() - self.at > IMPATIENT
        if again and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.request(self.passed_on or signal.Signals(number).name)
