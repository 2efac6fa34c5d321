"""Finds out that a rank is lost, and ends the others with the reason.

Note [monitor]. A rank whose peer is lost waits inside a collective, where no exception reaches it,
so a thread does the watching. Each rank writes a heartbeat into torchrun's store once a second:
what it is doing, and since when. Rank 0 reads all of them, the others read rank 0's. A rank is lost
when

- its process is gone (seen at once on the same machine),
- its heartbeat is stale for two thirds of `stall`: killed, frozen, cut off from the network,
- its phase takes longer than the phase's time limit (see `heartbeat`), and no rank has been further
  behind meanwhile. The others wait for it.

Whoever finds a rank lost writes the reason into the store. Each rank prints it and ends. A lost
process that is frozen on the same machine is killed, because no signal that can be caught reaches
it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import psutil

from yolodata.train.watchdog.exit_codes import PEER_LOST, leave_status
from yolodata.train.watchdog.heartbeat import INTERVAL, Heartbeat

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

    from yolodata.train.distributed.process_group import ProcessGroup


@dataclass(frozen=True)
class Lost:
    """A rank that is lost (-1 is torchrun's store), and how that was found out."""

    rank: int
    reason: str


class Monitor:
    """The thread of a rank that watches the others.

    Args:
        process_group: the ranks.
        heartbeat: of this one.
        stop_requested: called (in the thread) when another rank was asked to stop.
        last_words: called before this process is ended; lets a checkpoint be finished, say.
    """

    def __init__(
        self,
        process_group: ProcessGroup,
        heartbeat: Heartbeat,
        stop_requested: Callable[[], None],
        last_words: Callable[[], None],
    ) -> None:
        self._rank, self._size = process_group.rank, process_group.size
        self._heartbeat = heartbeat
        self._stop_requested, self._last_words = stop_requested, last_words
        self._store: Store = process_group.connect()
        self._number = 0  # of heartbeats sent
        self._received: dict[int, dict[str, Any]] = {}  # the last heartbeat of each rank
        self._changed: dict[int, float] = {}  # when it came
        self._behind: tuple[Any, ...] = ()  # how far the last are, and who they are
        self._behind_since = 0.0
        self._answered = time.monotonic()  # when the store last did
        self._told_to_stop = False
        self._over = threading.Event()
        self._goodbye: tuple[str, str] | None = None
        self._asked_why, self._known = threading.Event(), threading.Event()
        self._found: Lost | None = None
        self._send_heartbeat()
        self._thread = threading.Thread(target=self._run, name="yolodata-monitor", daemon=True)
        self._thread.start()
        threading.Thread(target=self._watch_store, name="yolodata-store", daemon=True).start()

    # For the thread that trains.

    def announce_stop(self) -> None:
        """Tells all ranks that this one was asked to stop; safe in a signal handler."""
        self._told_to_stop = True

    def why(self, patience: float) -> str | None:
        """Returns why a collective broke: which rank is lost, or None if that is not known.

        From here on a lost rank is told to who asks, instead of ending this process.

        Args:
            patience: seconds that the monitor has to find out.
        """
        self._asked_why.set()
        self._known.wait(patience)
        return None if self._found is None else self._found.reason

    def failed(self, reason: str) -> None:
        """Tells the other ranks that this one ends, and why; it is no longer watched."""
        self._leave("lost", json.dumps(asdict(Lost(self._rank, reason))))

    def stop(self) -> None:
        """This rank is done; the others no longer wait for its heartbeat."""
        self._leave(f"done/{self._rank}", "1")

    def _leave(self, key: str, value: str) -> None:
        self._goodbye = (key, value)
        self._over.set()
        self._thread.join(5)  # a store that has gone answers nobody

    # The threads.

    def _run(self) -> None:
        while not self._over.wait(INTERVAL):
            try:
                self._send_heartbeat()
                found = self._published() or self._find_lost()
                if found is not None:
                    self._publish(found)
                self._pass_stop_on()
            except Exception:
                continue  # `_watch_store` knows how long it has been so
            self._answered = time.monotonic()
            if found is not None and not self._over.is_set():
                self._kill_frozen(found.rank)
                self._conclude(found)
        with contextlib.suppress(Exception):  # the store may have gone with the others
            if self._told_to_stop:
                self._store.set("stop", "1")
            if self._goodbye and not self._store.check([self._goodbye[0]]):
                self._store.set(*self._goodbye)

    def _watch_store(self) -> None:
        """A thread of its own: the store's connection waits for ever where the network is cut."""
        while not self._over.wait(INTERVAL):
            silent = time.monotonic() - self._answered
            if silent > self._heartbeat.silence + 2 * INTERVAL:
                where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
                reason = (
                    f"torchrun's store at {where} has not answered for {silent:.0f} s; the machine "
                    "of rank 0 is gone or cut off, or its torchrun has ended"
                )
                self._conclude(Lost(-1, reason))

    def _conclude(self, found: Lost) -> None:
        if self._asked_why.is_set():
            self._found = found
            self._known.set()
            self._over.wait()
        else:
            self._end(found)

    def _end(self, found: Lost) -> None:
        print(f"yolodata: rank {self._rank} ends: {found.reason}", file=sys.stderr)
        if found.rank == self._rank:
            faulthandler.dump_traceback()
        try:
            self._last_words()
        finally:
            leave_status(PEER_LOST)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(PEER_LOST)

    # What is in the store.

    def _send_heartbeat(self) -> None:
        self._number += 1
        message = {**self._heartbeat.message(), "number": self._number}
        self._store.set(f"heartbeat/{self._rank}", json.dumps(message))

    def _published(self) -> Lost | None:
        return Lost(**self._read("lost")) if self._store.check(["lost"]) else None

    def _publish(self, found: Lost) -> None:
        if not self._store.check(["lost"]):
            self._store.set("lost", json.dumps(asdict(found)))

    def _pass_stop_on(self) -> None:
        if self._told_to_stop:
            self._store.set("stop", "1")
        elif self._store.check(["stop"]):
            self._told_to_stop = True
            self._stop_requested()

    def _read(self, key: str) -> Any:
        return json.loads(self._store.get(key))

    # Who is lost.

    def _find_lost(self) -> Lost | None:
        now = time.monotonic()
        for rank in range(1, self._size) if self._rank == 0 else (0,):
            if self._store.check([f"done/{rank}"]):
                self._received.pop(rank, None)
                continue
            if not self._store.check([f"heartbeat/{rank}"]):
                continue  # not there yet: torchrun knows whether it will be
            beat = self._read(f"heartbeat/{rank}")
            if self._received.get(rank, {}).get("number") != beat["number"]:
                self._changed[rank] = now
            self._received[rank] = beat
            silent = now - self._changed[rank]
            if _process_is_gone(beat):
                return Lost(rank, f"{_name(rank, beat)} died: {_state(beat)}")
            if silent > self._heartbeat.silence:
                return Lost(
                    rank,
                    f"{_name(rank, beat)} gives no sign of life for {silent:.0f} s "
                    f"(frozen, killed or cut off from the network): {_state(beat)}",
                )
        return self._find_stalled(now) if self._rank == 0 else None

    def _find_stalled(self, now: float) -> Lost | None:
        beats = {**self._received, 0: self._heartbeat.message()}
        least = min(tuple(beat["progress"]) for beat in beats.values())
        behind = sorted(rank for rank in beats if tuple(beats[rank]["progress"]) == least)
        if (least, behind) != self._behind:
            self._behind, self._behind_since = (least, behind), now
        rank = max(behind, key=lambda rank: float(beats[rank]["idle"]))
        beat = beats[rank]
        # Who waited for a rank still says so when that one has come past it, until the next beat.
        awaited = min(beat["idle"], now - self._behind_since)
        if beat["limit"] is None or awaited <= beat["limit"]:
            return None
        return Lost(
            rank,
            f"{_name(rank, beat)} stalled: no progress for {beat['idle']:.0f} s, with a limit of "
            f"{beat['limit']:.0f} s: {_state(beat)}; if that may take so long, raise "
            "yolodata.stall",
        )

    def _kill_frozen(self, rank: int) -> None:
        """A process that is frozen on this machine does not end by itself."""
        if rank in (-1, self._rank) or not self._store.check([f"heartbeat/{rank}"]):
            return
        beat = self._read(f"heartbeat/{rank}")
        patience = time.monotonic() + INTERVAL + 1  # for it to read this, and to print its stack
        while beat["host"] == socket.gethostname() and not _process_is_gone(beat):
            if time.monotonic() > patience:
                os.kill(beat["pid"], signal.SIGKILL)
                return
            time.sleep(0.1)


def _process_is_gone(beat: dict[str, Any]) -> bool:
    """Whether the process of a heartbeat is known to be dead; that of another machine is not."""
    if beat["host"] != socket.gethostname():
        return False
    try:
        process = psutil.Process(beat["pid"])
        return process.create_time() != beat["born"] or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _name(rank: int, beat: dict[str, Any]) -> str:
    return f"rank {rank} (process {beat['pid']} on {beat['host']})"


def _state(beat: dict[str, Any]) -> str:
    where = f" at {beat['where']}" if beat["where"] else ""
    return f"it was {beat['doing']}{where}"
