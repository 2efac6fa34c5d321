"""What surrounds a training run: signals, the monitor of the other ranks, and how both end it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum

from yolodata.redaction import redacted
from yolodata.shards.mapping import explaining_cut_off
from yolodata.train.distributed.process_group import ProcessGroup
from yolodata.train.exit_codes import MISTAKE, STATUS, PeerLost, Preempted
from yolodata.train.signals import StopRequest
from yolodata.train.watchdog.heartbeat import Heartbeat
from yolodata.train.watchdog.monitor import Monitor, Verdict


class Action(IntEnum):
    """What a rank wants at the end of a step; all ranks do what the largest says."""

    CONTINUE = 0
    SAVE = 1
    """Writes a checkpoint at the next update."""
    STOP = 2
    """Writes one at the next update, and ends."""
    STOP_NOW = 3
    """Writes one without waiting for an update, and ends."""


class Supervisor:
    """Ends a run in an orderly way: when it is asked to stop, and when another rank is lost.

    Within steps a request to stop waits for the step's end, where the ranks agree on it, if that
    comes soon (`signals.LATE`). Elsewhere (setup, validation, plots) it interrupts at once, by
    `Preempted`. Some code swallows that: Ultralytics' plots, and Python where it frees objects. The
    next phase raises it again, and so does the reminder of `signals.LATE`.

    Args:
        process_group: the ranks.
        stall: see `TrainSettings`, seconds.
        last_words: called before the process is ended because another rank is lost.
    """

    def __init__(
        self, process_group: ProcessGroup, stall: float, last_words: Callable[[], None]
    ) -> None:
        self.process_group = process_group
        self.heartbeat = Heartbeat(stall)
        self.stop = StopRequest(self._on_request)
        self.monitor: Monitor | None = None
        self._last_words = last_words
        self._interruptible = False
        self._interrupted = False  # and nobody has seen to it yet

    @contextmanager
    def catch_signals(self) -> Iterator[None]:
        """Catches requests to stop; torchrun also makes them to a rank that ends already.

        A shard that is cut off while it is read is named, which else SIGBUS would end without a
        word; the process ends with `MISTAKE`.
        """
        unraisable = sys.unraisablehook

        def say_others(args: sys.UnraisableHookArgs) -> None:
            if not isinstance(args.exc_value, Preempted):
                unraisable(args)

        self.stop.install()
        sys.unraisablehook = say_others
        try:
            with explaining_cut_off(MISTAKE, os.environ.get(STATUS, "")):
                yield
        finally:
            sys.unraisablehook = unraisable
            self.stop.remove()

    @contextmanager
    def supervise(self) -> Iterator[None]:
        """Watches the other ranks, as long as this lasts; they know why this one leaves it.

        The connections to them are to be closed after it.

        Raises:
            Preempted: training was asked to stop.
            PeerLost: another rank is dead, stalled or failed; says which and why.
        """
        try:
            if not self.process_group.alone:
                self.monitor = Monitor(
                    self.process_group, self.heartbeat, self._asked_by_another, self._last_words
                )
            self._interruptible = True
            yield
        except Preempted:
            self.leave_preempted()
            raise
        except BaseException as error:
            self._interruptible = self.heartbeat.in_step = False
            self._explain(error)
            raise
        else:
            self._leave()
        finally:
            self._interruptible = False

    def leave_preempted(self) -> None:
        """Tells the other ranks that this one was asked to stop.

        Raises:
            PeerLost: it was asked because another one is lost.
        """
        lost = self._leave(f"rank {self.process_group.rank} was asked to stop")
        if lost is not None:
            raise PeerLost(self.process_group.rank, lost.reason)

    def phase(self, doing: str, *, unlimited: bool = False, batches: bool = False) -> None:
        """A phase begins that may be interrupted; see `Heartbeat.phase`.

        Raises:
            Preempted: this process was asked to stop.
        """
        self.heartbeat.phase(doing, unlimited=unlimited, batches=batches)
        self._interruptible = True
        if self.stop:
            raise Preempted(self.stop.why)

    def step(self, where: str) -> None:
        """A training step begins; it will be finished."""
        self._interruptible = False
        self.heartbeat.step(where)

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Keeps a request to stop from interrupting what is done here."""
        before, self._interruptible = self._interruptible, False
        self._interrupted = False
        try:
            yield
        finally:
            self._interruptible = before

    def action(self, checkpoint_due: bool) -> Action:
        """Returns what this rank wants at the end of a step."""
        if self.stop:
            return Action.STOP_NOW if self.stop.urgent else Action.STOP
        return Action.SAVE if checkpoint_due else Action.CONTINUE

    def _on_request(self) -> None:
        if self.monitor is not None:
            self.monitor.announce_stop()
        due = self.heartbeat.in_step or self._interrupted
        if self._interruptible or (due and self.stop.late):
            self._interruptible, self._interrupted = False, True
            self.heartbeat.in_step = False  # left half-way
            raise Preempted(self.stop.why)

    def _asked_by_another(self) -> None:
        """In the monitor's thread; only a signal can raise an exception in the main one."""
        if self.heartbeat.in_step:
            return  # the ranks agree at its end
        main = threading.main_thread()
        self.stop.why = self.stop.why or "another rank was asked to stop"
        if signal.getsignal(signal.SIGUSR1) == self.stop._handle and main.ident is not None:
            self.stop.passed_on = "another rank was asked to stop"
            signal.pthread_kill(main.ident, signal.SIGUSR1)

    def _leave(self, preempted: str = "") -> Verdict | None:
        self._interruptible = self._interrupted = self.heartbeat.in_step = False
        monitor, self.monitor = self.monitor, None
        return None if monitor is None else monitor.stop(preempted)

    def _explain(self, error: BaseException) -> None:
        """Says what is behind an error: a collective breaks when another rank is lost."""
        if self.monitor is None:
            return
        rank = self.process_group.rank
        found = self.monitor.why() if isinstance(error, RuntimeError) else None
        if found is None:
            said = redacted(f"{type(error).__name__}: {error}")
            self.monitor.failed(f"rank {rank} failed: {said}")
            self.monitor = None
            return
        self._leave(found.reason if found.how == "stopped" else "")
        if found.how == "stopped":  # in good order; this one was on its way to meet it
            raise Preempted(self.stop.why or found.reason) from error
        raise PeerLost(rank, found.reason) from error
