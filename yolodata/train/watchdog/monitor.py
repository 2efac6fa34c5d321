"""Finds out that a rank is lost, and ends the others with the reason.

Note [monitor]. A rank whose peer is lost waits inside a collective, where no exception reaches it,
so a thread does the watching. Each rank writes a heartbeat into torchrun's store once a second:
what it is doing, and since when. Rank 0 reads all of them, the others read rank 0's and those of
their machine. A rank is lost when

- it says so: it failed, and why,
- its process is gone (seen at once on the same machine),
- its heartbeat is stale for two thirds of `stall`: killed, frozen, cut off from the network,
- its phase takes longer than the phase's time limit (see `heartbeat`), and no rank has been further
  behind meanwhile. The others wait for it.

Note [first cause]. Every rank ends with the same reason, and what a rank says of itself comes
before what others saw of it. No clock decides that, but the order of events:

1. A rank that leaves writes why (`left`), and the store has confirmed it, before the rank closes a
   connection or its process ends. Whoever sees a broken connection or a dead process reads `left`
   after that, and finds what there is.
2. The first verdict stands, for all (`lost`, by compare-and-set). If it was guessed from outside,
   and the rank did say why meanwhile, that is taken.
3. Nobody ends before all others know (`heard`), because torchrun ends the rest, and the store,
   when the first process ends. Only for the lost rank's own end do the others of its machine wait,
   so that torchrun, too, sees it first. A rank that has no heartbeat any more is not waited for.

A collective that breaks is an error like others to the rank it breaks in. It is that rank's own
only if every other rank is seen to live on.
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
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

import psutil

from yolodata.train.exit_codes import PEER_LOST, leave_status
from yolodata.train.watchdog.heartbeat import INTERVAL, Heartbeat

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

    from yolodata.train.distributed.process_group import ProcessGroup

QUICK = 0.1
"""Seconds between two heartbeats while a rank leaves, or wants to know why others did."""


@dataclass(frozen=True)
class Verdict:
    """A rank that is lost (-1 is torchrun's store), or that left, and how that was found out.

    It failed, was asked to stop, is done, or ended because another is lost by its own words; the
    rest was seen by others.
    """

    rank: int
    how: Literal["failed", "stopped", "done", "ended", "died", "silent", "stalled", "no store"]
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
        self._others = [rank for rank in range(self._size) if rank != self._rank]
        neighbours = {0, *process_group.ranks_here}
        self._watched = [r for r in self._others if self._rank == 0 or r in neighbours]
        self._serves = process_group.serves_store
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
        self._verdict: Verdict | None = None
        self._stopped: Verdict | None = None  # a rank that left because it was asked to
        self._departed: set[int] = set()  # ranks that left in good order
        self._acknowledged: set[str] = set()  # what the others know that this one knows
        self._waiting_since: float | None = None  # for the others to know
        self._numbers_asked: dict[int, int] | None = None  # heartbeats when `why` was asked
        self._goodbye: dict[str, str] | None = None  # what this rank leaves
        self._ending = threading.Lock()  # who ends the process: the main thread, or this one
        self._main_ends, self._exiting = False, False
        self._wake, self._known, self._gone = (threading.Event() for _ in range(3))
        self._send_heartbeat()
        threading.Thread(target=self._run, name="yolodata-monitor", daemon=True).start()
        threading.Thread(target=self._watch_store, name="yolodata-store", daemon=True).start()

    # For the thread that trains.

    def announce_stop(self) -> None:
        """Tells all ranks that this one was asked to stop; safe in a signal handler."""
        self._told_to_stop = True

    def why(self) -> Verdict | None:
        """Returns why a collective broke, or None if all other ranks live on without a word.

        It takes two heartbeats of theirs, or as long as it takes to find out that there are none.
        From here on a lost rank is told to who asks, instead of ending this process.
        """
        self._take_over()  # if it is too late for that, the process ends meanwhile
        self._wake.set()
        self._known.wait()
        return self._verdict or self._stopped

    def failed(self, reason: str) -> None:
        """Tells the other ranks that this one ends, and why; returns when they know.

        It has to be called before this rank closes its connections to them.
        """
        self._leave({"how": "failed", "reason": reason})

    def stop(self, preempted: str = "") -> Verdict | None:
        """This rank leaves in good order; the others no longer wait for its heartbeat.

        Args:
            preempted: who was asked to stop, if it leaves before its work is done.

        Returns:
            Who is lost, if that is why it was asked: torchrun stops all ranks when one ends.
        """
        how = "stopped" if preempted else "done"
        self._leave({"how": how, "reason": preempted})
        return self._verdict

    def _leave(self, goodbye: dict[str, str]) -> None:
        if not self._take_over():
            print(f"yolodata: {goodbye['reason']}", file=sys.stderr)
            threading.Event().wait()  # for the end, which has begun
        self._goodbye = goodbye
        self._wake.set()
        self._gone.wait()

    def _take_over(self) -> bool:
        """From here on the main thread ends the process; False: a thread does so already."""
        with self._ending:
            self._main_ends = True
            return not self._exiting

    # The threads.

    def _run(self) -> None:
        pause = INTERVAL
        while not self._gone.is_set():
            self._wake.wait(pause)
            self._wake.clear()
            pause = INTERVAL
            try:
                self._look()
            except Exception:  # `_watch_store` knows how long it has been so
                self._look_without_store()
            else:
                if self._verdict is not None or self._main_ends:
                    pause = QUICK

    def _look(self) -> None:
        self._send_heartbeat()
        goodbye = self._goodbye
        how = None if goodbye is None else goodbye["how"]
        if goodbye is not None and how == "failed":
            self._write_left(goodbye)
            if self._verdict is None:
                self._decide(Verdict(self._rank, "failed", goodbye["reason"]))
        if how != "done":
            if self._verdict is None:
                self._decide(self._published() or self._find_lost())
            self._ask_the_lost()
        self._pass_stop_on()
        if goodbye is not None and how != "failed" and self._verdict is None:
            self._write_left(goodbye)
        self._acknowledge()
        if self._verdict is not None or (goodbye is not None and self._serves):
            if not self._awaited():
                if self._verdict is not None and how != "failed":
                    self._write_left({"how": "ended", "reason": ""})
                self._conclude()
        elif goodbye is not None:
            self._conclude()
        elif self._main_ends:
            self._look_for_blame()

    def _look_without_store(self) -> None:
        """The store does not answer, or no longer; who has died on this machine is seen without."""
        silent = time.monotonic() - self._answered
        if self._verdict is None and self._stopped is None:
            dead = next((r for r, beat in self._received.items() if _process_is_gone(beat)), None)
            if dead is not None:
                self._verdict = self._died(dead)
            elif silent > self._heartbeat.silence + 2 * INTERVAL:
                where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
                reason = (
                    f"torchrun's store at {where} has not answered for {silent:.0f} s; the machine "
                    "of rank 0 is gone or cut off, or its torchrun has ended"
                )
                self._verdict = Verdict(-1, "no store", reason)
        if self._verdict is not None or self._goodbye or (self._stopped and self._main_ends):
            self._conclude()  # nobody can be told any more

    def _watch_store(self) -> None:
        """A thread of its own: the store's connection waits for ever where the network is cut."""
        while not self._gone.wait(INTERVAL):
            if time.monotonic() - self._answered > self._heartbeat.silence + 2 * INTERVAL:
                self._look_without_store()

    def _conclude(self) -> None:
        """The main thread is told what it waits for; if it waits for nothing, the process ends."""
        with self._ending:
            ends = not self._main_ends and not self._exiting
            self._exiting |= ends
        if ends and self._verdict is not None:
            self._end(self._verdict)
        self._known.set()
        if self._goodbye:
            self._gone.set()

    def _end(self, verdict: Verdict) -> None:
        print(f"yolodata: rank {self._rank} ends: {verdict.reason}", file=sys.stderr)
        if verdict.rank == self._rank:
            faulthandler.dump_traceback()
        try:
            self._last_words()
        finally:
            leave_status(PEER_LOST, verdict.reason)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(PEER_LOST)

    # What is in the store.

    def _send_heartbeat(self) -> None:
        self._number += 1
        message = {**self._heartbeat.message(), "number": self._number}
        self._store.set(f"heartbeat/{self._rank}", json.dumps(message))

    def _receive_heartbeats(self, ranks: Iterable[int]) -> None:
        for rank in ranks:
            if rank in self._departed or not self._has(f"heartbeat/{rank}"):
                continue  # not there yet: torchrun knows whether it will be
            beat = self._read(f"heartbeat/{rank}")
            if self._received.get(rank, {}).get("number") != beat["number"]:
                self._changed[rank] = time.monotonic()
            self._received[rank] = beat

    def _write_left(self, goodbye: dict[str, str]) -> None:
        key = f"left/{self._rank}"
        self._store.set(key, json.dumps({"rank": self._rank, **goodbye}))
        self._has(key)  # its answer comes after what was written before

    def _left(self, rank: int) -> Verdict | None:
        """How a rank left, by its own words, if it has."""
        key = f"left/{rank}"
        return Verdict(**self._read(key)) if self._has(key) else None

    def _published(self) -> Verdict | None:
        return Verdict(**self._read("lost")) if self._has("lost") else None

    def _decide(self, found: Verdict | None) -> None:
        """The first verdict is everybody's."""
        if found is not None:
            first = self._store.compare_set("lost", "", json.dumps(asdict(found)))
            self._verdict = Verdict(**json.loads(first))

    def _ask_the_lost(self) -> None:
        """What a rank itself said by now is better than what others guessed."""
        if self._verdict is not None and self._verdict.how != "failed":
            left = self._left(self._verdict.rank)
            if left is not None and left.how == "failed":
                self._verdict = left

    def _pass_stop_on(self) -> None:
        if self._told_to_stop:
            self._store.set("stop", "1")
        elif self._has("stop"):
            self._told_to_stop = True
            self._stop_requested()

    def _has(self, key: str) -> bool:
        there = self._store.check([key])
        self._answered = time.monotonic()
        return there

    def _read(self, key: str) -> Any:
        return json.loads(self._store.get(key))

    # Who is lost.

    def _find_lost(self) -> Verdict | None:
        watched = self._others if self._main_ends else self._watched
        self._receive_heartbeats(watched)
        for rank in watched:
            beat = self._received.get(rank)
            gone = beat is not None and _process_is_gone(beat)
            left = self._left(rank)  # after its end, if that was seen
            if left is not None:
                if left.how == "failed":
                    return left
                if left.how == "stopped":
                    self._stopped = self._stopped or left
                self._departed.add(rank)
                self._received.pop(rank, None)
                continue
            if beat is None:
                continue
            silent = time.monotonic() - self._changed[rank]
            if gone:
                return self._died(rank)
            if silent > self._heartbeat.silence:
                return Verdict(
                    rank,
                    "silent",
                    f"{_name(rank, beat)} gives no sign of life for {silent:.0f} s "
                    f"(frozen, killed or cut off from the network): {_state(beat)}",
                )
        return self._find_stalled(time.monotonic()) if self._rank == 0 else None

    def _died(self, rank: int) -> Verdict:
        beat = self._received[rank]
        return Verdict(rank, "died", f"{_name(rank, beat)} died: {_state(beat)}")

    def _find_stalled(self, now: float) -> Verdict | None:
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
        return Verdict(
            rank,
            "stalled",
            f"{_name(rank, beat)} stalled: no progress for {beat['idle']:.0f} s, with a limit of "
            f"{beat['limit']:.0f} s: {_state(beat)}; if that may take so long, raise "
            "yolodata.stall",
        )

    def _look_for_blame(self) -> None:
        """A collective broke in this rank: did another leave, or do all of them live on?

        Two heartbeats have to be new: one may have been on its way when the question was asked.
        """
        numbers = {rank: beat["number"] for rank, beat in self._received.items()}
        if self._numbers_asked is None:
            self._numbers_asked = numbers
        asked = self._numbers_asked
        alive = all(number >= asked.get(rank, 0) + 2 for rank, number in numbers.items())
        if self._stopped is not None or alive:
            self._conclude()

    # Who knows.

    def _acknowledge(self) -> None:
        """Tells the other ranks what this one knows."""
        for news, known in (("lost", self._verdict), ("stopped", self._stopped)):
            if known is not None and news not in self._acknowledged:
                self._store.set(f"heard/{news}/{self._rank}", "1")
                self._acknowledged.add(news)

    def _awaited(self) -> bool:
        """Whether another rank still needs this one, or the store, to learn why the run ends."""
        if self._waiting_since is None:
            self._waiting_since = time.monotonic()
        self._receive_heartbeats(self._others)
        return any(self._awaited_by(rank) for rank in self._others)

    def _awaited_by(self, rank: int) -> bool:
        """Whether a rank is waited for: the lost one ends first, who has the store ends last."""
        beat = self._received.get(rank)
        if beat is not None and _process_is_gone(beat):
            return False
        here = beat is not None and beat["host"] == socket.gethostname()
        lost = None if self._verdict is None else self._verdict.rank
        left = self._has(f"left/{rank}")
        knows = left or self._has(f"heard/{'stopped' if lost is None else 'lost'}/{rank}")
        if self._goodbye is None and lost != self._rank:
            knows = knows and not (lost == rank and here) and (left or not self._serves)
        if knows:
            return False
        since = self._changed.get(rank, self._waiting_since)
        if since is not None and time.monotonic() - since <= self._heartbeat.silence:
            return True
        if beat is not None and here and not left:  # frozen: it does not end by itself
            with contextlib.suppress(ProcessLookupError):
                os.kill(beat["pid"], signal.SIGKILL)
        return False


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
