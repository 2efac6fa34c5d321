"""What surrounds a training run: signals, the watch over other ranks, and how both end it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from yolodata.train.distributed.process_group import World
from yolodata.train.signals import StopRequest
from yolodata.train.watchdog.exit_codes import PeerLost, Preempted
from yolodata.train.watchdog.heartbeat import Pulse
from yolodata.train.watchdog.monitor import Watch

NOTHING, DUE, STOP, URGENT = range(4)
"""What a rank wants at the end of a step; all do what the largest says: go on, write a checkpoint
at the next update, that and end, that and end without waiting for an update."""


class Guard:
    """Ends a run in an orderly way: when it is asked to stop, and when another rank is lost.

    Within steps a request to stop waits for the step's end, where the ranks agree on it. Elsewhere
    (setup, validation, plots) it interrupts at once, by `Preempted`.

    Args:
        world: the ranks.
        stall: see `TrainSettings`.
        last_words: called before the process is ended because another rank is lost.
    """

    def __init__(self, world: World, stall: float, last_words: Callable[[], None]) -> None:
        self.world = world
        self.pulse = Pulse(stall)
        self.stop = StopRequest(self._on_request)
        self.watch: Watch | None = None
        self._last_words = last_words
        self._interruptible = False

    @contextmanager
    def on_duty(self) -> Iterator[None]:
        """As long as this lasts, signals are caught, and the ranks watch one another.

        Raises:
            Preempted: training was asked to stop.
            PeerLost: another rank is dead, stalled or failed; says which and why.
        """
        self.stop.install()
        try:
            if not self.world.alone:
                self.watch = Watch(self.world, self.pulse, self._asked_by_another, self._last_words)
            self._interruptible = True
            yield
        except Preempted:
            self._leave()
            raise
        except Exception as error:
            self._interruptible = False
            self._explain(error)
            raise
        else:
            self._leave()
        finally:
            self._interruptible = False
            self.stop.remove()

    def section(self, doing: str, *, endless: bool = False, parts: bool = False) -> None:
        """Something begins that may be interrupted; see `Pulse.section`."""
        self.pulse.section(doing, endless=endless, parts=parts)
        self._interruptible = True
        if self.stop:
            raise Preempted(self.stop.why)

    def step(self, where: str) -> None:
        """A training step begins; it will be finished."""
        self._interruptible = False
        self.pulse.step(where)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """What is done here is not interrupted by a request to stop."""
        before, self._interruptible = self._interruptible, False
        try:
            yield
        finally:
            self._interruptible = before

    def wish(self, due: bool) -> int:
        """What this rank wants at the end of a step."""
        if self.stop:
            return URGENT if self.stop.urgent else STOP
        return DUE if due else NOTHING

    def _on_request(self) -> None:
        if self.watch is not None:
            self.watch.announce_stop()
        if self._interruptible:
            self._interruptible = False
            raise Preempted(self.stop.why)

    def _asked_by_another(self) -> None:
        """In the watch's thread; exceptions can only be raised in the main one, by a signal."""
        if self.pulse.in_step:
            return  # the ranks agree at its end
        main = threading.main_thread()
        if signal.getsignal(signal.SIGUSR1) == self.stop._handle and main.ident is not None:
            signal.pthread_kill(main.ident, signal.SIGUSR1)

    def _leave(self) -> None:
        self._interruptible = False
        if self.watch is not None:
            self.watch.stop()
            self.watch = None

    def _explain(self, error: Exception) -> None:
        """Says what is behind an error: a collective breaks when another rank is lost."""
        if self.watch is None:
            return
        watch = self.watch
        if isinstance(error, RuntimeError):
            reason = watch.why(3.0 if self.stop else self.pulse.silence + 5)
            if reason is not None:
                self._leave()
                raise PeerLost(f"rank {self.world.rank} ends: {reason}") from error
            if self.stop:  # the others left in good order, this one was on its way to meet them
                self._leave()
                raise Preempted(self.stop.why) from error
        watch.failed(f"rank {self.world.rank} failed: {type(error).__name__}: {error}")
        self._leave()
