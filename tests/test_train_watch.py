"""Who is lost: the monitor, with a store and heartbeats made by hand."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from typing import Any

import psutil
import pytest

from yolodata.train import signals
from yolodata.train.distributed.process_group import ProcessGroup
from yolodata.train.exit_codes import Preempted
from yolodata.train.watchdog.heartbeat import Heartbeat
from yolodata.train.watchdog.monitor import Monitor
from yolodata.train.watchdog.supervisor import Supervisor


class FakeStore(dict[str, Any]):
    """What a store is to the monitor."""

    set = dict.__setitem__

    def get(self, key: str) -> Any:  # type: ignore[override]
        return self[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch) -> Any:
    store = FakeStore()
    monkeypatch.setattr(ProcessGroup, "connect", lambda self: store)
    monkeypatch.setattr(threading.Thread, "start", lambda self: None)
    return Monitor(ProcessGroup(size=3), Heartbeat(stall=30), lambda: None, lambda: None), store


def beat(monitor: Any, rank: int, **facts: Any) -> None:
    usual = {"progress": [7, 2, 0], "doing": "in the forward pass", "where": "epoch 1, batch 7",
             "idle": 0.0, "limit": 30.0, "pid": os.getpid(), "host": "elsewhere", "number": 1,
             "born": psutil.Process().create_time()}  # fmt: skip
    monitor[1].set(f"heartbeat/{rank}", json.dumps({**usual, **facts}))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [float(round(time.monotonic()))]  # sums are exact
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_who_is_lost(clock: list[float], monitor: Any) -> None:
    def lost() -> Any:
        return monitor[0]._find_lost()

    monitor[0]._heartbeat.progress = (7, 3, 0)
    beat(monitor, 1)
    beat(monitor, 2, progress=[7, 3, 0], doing="in the backward pass")
    assert lost() is None
    # Rank 2 waits inside the backward pass for rank 1, which is behind: rank 1 is named.
    clock[0] += 31
    beat(monitor, 1, idle=29.0, limit=300.0, number=2)
    beat(monitor, 2, progress=[7, 3, 0], idle=31.0, number=2)
    assert lost() is None  # what rank 1 does may take longer
    beat(monitor, 1, idle=31.0, number=2)
    assert lost().rank == 1
    assert "in the forward pass at epoch 1, batch 7" in lost().reason
    # Packing may take as long as it takes.
    for rank in (1, 2):
        beat(monitor, rank, idle=500.0, limit=None, number=3)
    assert lost() is None
    # No new heartbeat.
    clock[0] += 21
    beat(monitor, 1, limit=None, number=4)
    assert lost().rank == 2
    assert "no sign of life" in lost().reason
    left = {"rank": 2, "how": "done", "reason": ""}
    monitor[1].set("left/2", json.dumps(left))  # it ended well
    assert lost() is None
    here = {"host": socket.gethostname(), "limit": None}
    beat(monitor, 1, number=5, **here)
    assert lost() is None
    beat(monitor, 1, number=6, **here, born=0.0)  # another process has its number now
    assert "died" in lost().reason
    beat(monitor, 1, number=7, **here, pid=2**22 + 1)
    assert "died" in lost().reason


def test_who_hangs_where_one_rank_may_work_alone(clock: list[float], monitor: Any) -> None:
    def lost() -> Any:
        return monitor[0]._find_lost()

    heartbeat = monitor[0]._heartbeat
    # Rank 0 evaluates; the others are done with that and wait for it, in the next step already.
    heartbeat.phase("saving")
    place = heartbeat.progress
    for rank in (1, 2):
        beat(monitor, rank, progress=[place[0] + 1, 0, 0])
    assert lost() is None
    clock[0] += 299
    for rank in (1, 2):
        beat(monitor, rank, progress=[place[0] + 1, 0, 0], idle=299.0, number=2)
    assert lost() is None
    # Rank 0 is done; what ranks 1 and 2 told last is from when they still waited for it.
    heartbeat.step("")
    heartbeat.doing_now("in the forward pass")
    assert lost() is None
    clock[0] += 31
    for rank in (1, 2):
        beat(monitor, rank, progress=list(heartbeat.progress), idle=1.0, number=3)
    assert lost() is None
    # Rank 1 hangs in a callback; rank 0 waits for it, and says so.
    heartbeat.phase("in callbacks")
    here = list(heartbeat.progress)
    heartbeat.wait()
    beat(monitor, 1, progress=here, doing="in callbacks", limit=300.0, number=4)
    beat(monitor, 2, progress=[*here[:2], 1], limit=300.0, number=4)
    assert lost() is None
    clock[0] += 301
    beat(monitor, 1, progress=here, doing="in callbacks", idle=301.0, limit=300.0, number=5)
    beat(monitor, 2, progress=[*here[:2], 1], idle=302.0, limit=300.0, number=5)
    assert lost().rank == 1
    assert "no progress for 301 s, with a limit of 300 s: it was in callbacks" in lost().reason


def test_limits_follow_what_is_usual(clock: list[float]) -> None:
    heartbeat = Heartbeat(stall=30)
    assert heartbeat.limit is None
    for _ in range(4):
        heartbeat.step("")
        assert heartbeat.limit == 300
        clock[0] += 100  # compiling
        heartbeat.step_finished()
        heartbeat.phase("writing a checkpoint")  # does not count
        clock[0] += 1000
        assert (heartbeat.limit, heartbeat.message()["idle"]) == (300, 1000)
    heartbeat.step("")
    assert heartbeat.limit == 1000
    heartbeat.phase("packing", unlimited=True)
    assert heartbeat.limit is None
    heartbeat.phase("validating", batches=True)
    place = heartbeat.progress
    for seconds, limit in ((200, 300), (2, 300), (4, 30), (1, 40)):
        assert heartbeat.limit == limit
        clock[0] += seconds
        heartbeat.batch_finished()
    assert (heartbeat.limit, heartbeat.message()["idle"], heartbeat.progress) == (40, 0, place)
    heartbeat.wait()
    assert place < heartbeat.progress
    waiting = heartbeat.progress
    heartbeat.phase("saving")
    assert (waiting < heartbeat.progress, heartbeat.limit) == (True, 300)


def test_an_interruption_that_is_swallowed_comes_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By Ultralytics' plots, say; and without a traceback by Python, where it frees objects."""

    class Freed:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(signals, "LATE", 0.05)
    supervisor = Supervisor(ProcessGroup(), 30.0, lambda: None)

    def trained() -> None:
        with supervisor.catch_signals(), supervisor.supervise():
            Freed()
            assert supervisor.stop.why == "SIGINT"
            time.sleep(5)

    def ended() -> None:
        try:
            supervisor.phase("trying")
        finally:
            with supervisor.undisturbed():
                time.sleep(0.2)

    with pytest.raises(Preempted):
        trained()
    assert capsys.readouterr().err == ""
    with pytest.raises(Preempted), supervisor.catch_signals():
        ended()
