"""Finds out that a rank is dead or stalled, and ends the others with the reason.

Note [watch]. A rank whose peer is gone waits inside a collective, where no exception reaches it, so
a thread does the watching. Each rank writes once a second what it is doing and since when (a
*beat*) into the store; rank 0 reads all of them, the others read rank 0's. A rank is lost when

- its process is gone (seen at once on the same machine),
- it stopped writing for two thirds of `stall`: killed, frozen, cut off,
- it has not moved for longer than what it is doing may take, and no rank has been further behind
  meanwhile: the others wait for it. A step, or a batch of validation, may take `stall` seconds, or
  ten times what the longest one took,
- it does not work, where nobody knows how long things take: in the first steps and batches of
  validation, which compile, and in what comes between (metrics, plots, saving, callbacks, a
  checkpoint), which one rank may do alone. Work is processor time, its own or that of its
  children, and waiting for a disk; see `work`. 1.5 times `stall` without any, on all ranks that
  are as far behind, is too long, and so is ten times `stall` with it: who is busy for ever cannot
  be told from who is slow.

Setting up (packing, scanning, downloads) and the end (upload) take as long as they take: there only
a rank that is gone is lost. Work would tell nothing: a rank may wait for hours, for the lock of
another run that packs the same data, say.

Whoever finds a rank lost writes the reason into the store; each rank prints it and ends, and kills
the lost process if it is frozen on the same machine, where no signal that can be caught reaches it.
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
from typing import TYPE_CHECKING, Any

from yolodata.train.watchdog.activity import Work
from yolodata.train.watchdog.exit_codes import PEER_LOST, leave_status
from yolodata.train.watchdog.heartbeat import EVERY, Pulse

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

    from yolodata.train.distributed.process_group import World


class Watch:
    """The thread of a rank that watches the others.

    Args:
        world: the ranks.
        pulse: of this one.
        asked: called (in the thread) when another rank was asked to stop.
        last_words: called before this process is ended; lets a checkpoint be finished, say.
    """

    def __init__(
        self,
        world: World,
        pulse: Pulse,
        asked: Callable[[], None],
        last_words: Callable[[], None],
    ) -> None:
        self._world, self._pulse, self._work = world, pulse, Work()
        self._asked, self._last_words = asked, last_words
        self._store: Store = world.connect()
        self._seen: dict[int, tuple[int, float]] = {}
        self._beats: dict[int, dict[str, Any]] = {}
        self._number = 0
        self._answered = time.monotonic()
        self._told_to_stop = False
        self._over = threading.Event()
        self._goodbye: tuple[str, ...] = ()
        self._asked_why, self._known = threading.Event(), threading.Event()
        self._found: dict[str, Any] | None = None
        self._behind: tuple[Any, ...] = ()  # how far the last are, who they are, and since when
        self._behind_since = 0.0
        self._births: dict[int, float] = {}
        self._beat()
        self._thread = threading.Thread(target=self._run, name="yolodata-watch", daemon=True)
        self._thread.start()
        threading.Thread(target=self._guard_store, name="yolodata-store", daemon=True).start()

    # For the thread that trains.

    def announce_stop(self) -> None:
        """Tells all ranks that this one was asked to stop; safe in a signal handler."""
        self._told_to_stop = True

    def why(self, patience: float) -> str | None:
        """Why a collective broke: which rank is lost; waits so long for the watch to find out.

        From here on a lost rank is told to who asks, instead of ending this process.
        """
        self._asked_why.set()
        self._known.wait(patience)
        return None if self._found is None else str(self._found["reason"])

    def failed(self, reason: str) -> None:
        """Tells the other ranks that this one ends, and why; it is no longer watched."""
        self._leave("verdict", json.dumps({"rank": self._world.rank, "reason": reason}))

    def stop(self) -> None:
        """This rank is done; the others no longer wait for a sign of it."""
        self._leave(f"done/{self._world.rank}", "1")

    def _leave(self, *message: str) -> None:
        self._goodbye = message
        self._over.set()
        self._thread.join(5)  # a store that has gone answers nobody

    # The threads.

    def _run(self) -> None:
        while not self._over.wait(EVERY):
            try:
                self._look_at_work()
                self._beat()
                found = self._verdict() or self._lost()
                if found is not None:
                    self._publish(found["rank"], found["reason"])
                self._pass_on()
            except Exception:
                continue  # `_guard_store` knows how long it has been so
            self._answered = time.monotonic()
            if found is not None and not self._over.is_set():
                self._kill_frozen(found["rank"])
                self._conclude(found)
        with contextlib.suppress(Exception):  # the store may have gone with the others
            if self._goodbye and not self._store.check([self._goodbye[0]]):
                self._store.set(*self._goodbye)

    def _guard_store(self) -> None:
        """The store's connection waits for ever where the network is cut."""
        while not self._over.wait(EVERY):
            silent = time.monotonic() - self._answered
            if silent > self._pulse.silence + 2 * EVERY:
                where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
                reason = (
                    f"torchrun's store at {where} has not answered for {silent:.0f} s; the machine "
                    "of rank 0 is gone or cut off, or its torchrun has ended"
                )
                self._conclude({"rank": -1, "reason": reason})

    def _conclude(self, found: dict[str, Any]) -> None:
        if self._asked_why.is_set():
            self._found = found
            self._known.set()
            self._over.wait()
        else:
            self._end(found)

    def _look_at_work(self) -> None:
        if self._pulse.patience() is not None and self._work.seen():
            self._pulse.worked = time.monotonic()

    def _beat(self) -> None:
        self._number += 1
        beat = {**self._pulse.beat(), "number": self._number}
        self._store.set(f"beat/{self._world.rank}", json.dumps(beat))

    def _verdict(self) -> dict[str, Any] | None:
        if not self._store.check(["verdict"]):
            return None
        found: dict[str, Any] = json.loads(self._store.get("verdict"))
        return found

    def _publish(self, rank: int, reason: str) -> None:
        if not self._store.check(["verdict"]):
            self._store.set("verdict", json.dumps({"rank": rank, "reason": reason}))

    def _pass_on(self) -> None:
        if self._told_to_stop:
            self._store.set("stop", "1")
        elif self._store.check(["stop"]):
            self._told_to_stop = True
            self._asked()

    def _lost(self) -> dict[str, Any] | None:
        mine = self._world.rank
        watched = range(1, self._world.size) if mine == 0 else [0]
        now = time.monotonic()
        for rank in watched:
            if self._store.check([f"done/{rank}"]):
                self._beats.pop(rank, None)
                continue
            key = f"beat/{rank}"
            beat = json.loads(self._store.get(key)) if self._store.check([key]) else None
            if beat is None:
                continue  # not there yet: torchrun knows whether it will be
            if self._seen.get(rank, (-1, 0.0))[0] != beat["number"]:
                self._seen[rank] = (beat["number"], now)
            self._beats[rank] = beat
            silent = now - self._seen[rank][1]
            if self._gone(beat):
                return {"rank": rank, "reason": f"{self._name(rank)} died: {_state(beat)}"}
            if silent > self._pulse.silence:
                return {
                    "rank": rank,
                    "reason": f"{self._name(rank)} gives no sign of life for {silent:.0f} s "
                    f"(frozen, killed or cut off from the network): {_state(beat)}",
                }
        return self._stalled() if mine == 0 else None

    def _stalled(self) -> dict[str, Any] | None:
        beats = {**self._beats, 0: self._pulse.beat()}
        place = min(tuple(beat["at"]) for beat in beats.values())
        behind = sorted(rank for rank in beats if tuple(beats[rank]["at"]) == place)
        now = time.monotonic()
        if (place, behind) != self._behind:
            self._behind, self._behind_since = (place, behind), now
        # Who waited for a rank still says so when that one has come past it, until the next beat.
        awaited = now - self._behind_since
        rank = max(behind, key=lambda rank: float(beats[rank]["idle"]))
        beat = beats[rank]
        if _exceeds(min(beat["idle"], awaited), beat["limit"]):
            how = f"no progress for {beat['idle']:.0f} s, with a limit of {beat['limit']:.0f} s"
        elif all(
            _exceeds(min(beats[each]["still"], awaited), beats[each]["patience"]) for each in behind
        ):
            how = (
                f"no progress for {beat['idle']:.0f} s and no work for {beat['still']:.0f} s "
                f"(processor, disk, child processes), with a limit of {beat['patience']:.0f} s"
            )
        else:
            return None
        return {
            "rank": rank,
            "reason": f"{self._name(rank)} stalled: {how}: {_state(beat)}; if that may take so "
            "long, raise yolodata.stall",
        }

    def _gone(self, beat: dict[str, Any]) -> bool:
        if beat["host"] != socket.gethostname():
            return False
        import psutil

        try:
            process = psutil.Process(beat["pid"])
            born = self._births.setdefault(beat["pid"], process.create_time())
            return process.create_time() != born or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def _name(self, rank: int) -> str:
        beat = self._beats.get(rank) or self._pulse.beat()
        return f"rank {rank} (process {beat['pid']} on {beat['host']})"

    def _end(self, found: dict[str, Any]) -> None:
        lost = found["rank"]
        print(f"yolodata: rank {self._world.rank} ends: {found['reason']}", file=sys.stderr)
        if lost == self._world.rank:
            faulthandler.dump_traceback()
        try:
            self._last_words()
        finally:
            leave_status(PEER_LOST)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(PEER_LOST)

    def _kill_frozen(self, rank: int) -> None:
        """A process that is frozen on this machine does not end by itself."""
        if rank in (-1, self._world.rank) or not self._store.check([f"beat/{rank}"]):
            return
        beat = json.loads(self._store.get(f"beat/{rank}"))
        patience = time.monotonic() + EVERY + 1  # for it to read this, and to say where it hangs
        while beat["host"] == socket.gethostname() and not self._gone(beat):
            if time.monotonic() > patience:
                os.kill(beat["pid"], signal.SIGKILL)
                return
            time.sleep(0.1)


def _exceeds(seconds: float, limit: float | None) -> bool:
    return limit is not None and seconds > limit


def _state(beat: dict[str, Any]) -> str:
    where = f" at {beat['where']}" if beat["where"] else ""
    return f"it was {beat['doing']}{where}"
