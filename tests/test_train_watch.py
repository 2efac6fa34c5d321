"""Who is lost: the watch, with a store and beats made by hand."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from typing import Any

import pytest

from yolodata.train.distributed.process_group import World
from yolodata.train.watchdog.heartbeat import Pulse
from yolodata.train.watchdog.monitor import Watch


class Shelf(dict[str, Any]):
    """What a store is to the watch."""

    set = dict.__setitem__

    def get(self, key: str) -> Any:  # type: ignore[override]
        return self[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self for key in keys)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Any:
    shelf = Shelf()
    monkeypatch.setattr(World, "connect", lambda self: shelf)
    monkeypatch.setattr(threading.Thread, "start", lambda self: None)
    return Watch(World(size=3), Pulse(stall=30), lambda: None, lambda: None), shelf


def beat(watch: Any, rank: int, **facts: Any) -> None:
    usual = {"at": [7, 2, 0], "doing": "in the forward pass", "where": "epoch 1, batch 7",
             "idle": 0.0, "limit": 30.0, "still": 0.0, "patience": None, "pid": os.getpid(),
             "host": "elsewhere", "number": 1}  # fmt: skip
    watch[1].set(f"beat/{rank}", json.dumps({**usual, **facts}))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [time.monotonic()]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_who_is_lost(clock: list[float], watch: Any) -> None:
    lost = watch[0]._lost
    watch[0]._pulse.at = (7, 3, 0)
    beat(watch, 1)
    beat(watch, 2, at=[7, 3, 0], doing="in the backward pass")
    assert lost() is None
    # Rank 2 waits inside the backward pass for rank 1, which is behind: rank 1 is named.
    clock[0] += 31
    beat(watch, 1, idle=29.0, limit=300.0, number=2)
    beat(watch, 2, at=[7, 3, 0], idle=31.0, number=2)
    assert lost() is None  # what rank 1 does may take longer
    beat(watch, 1, idle=31.0, number=2)
    assert lost()["rank"] == 1
    assert "in the forward pass at epoch 1, batch 7" in lost()["reason"]
    # Packing may take as long as it takes.
    for rank in (1, 2):
        beat(watch, rank, idle=500.0, limit=None, number=3)
    assert lost() is None
    # No new beat.
    clock[0] += 21
    beat(watch, 1, limit=None, number=4)
    assert lost()["rank"] == 2
    assert "no sign of life" in lost()["reason"]
    watch[1].set("done/2", "1")  # it ended well
    assert lost() is None
    beat(watch, 1, host=socket.gethostname(), pid=2**22 + 1, number=5)
    assert "died" in lost()["reason"]


def test_who_hangs_where_no_duration_is_usual(clock: list[float], watch: Any) -> None:
    lost, pulse = watch[0]._lost, watch[0]._pulse
    facts = {"limit": 300.0, "patience": 45.0}
    pulse.at, pulse._endless = (7, 3, 0), False
    ahead = {"at": [7, 4, 0], "idle": 90.0, "still": 90.0, **facts}
    beat(watch, 2, **ahead)
    beat(watch, 1, at=[7, 3, 0], still=1.0, **facts)
    assert lost() is None
    clock[0] += 46
    beat(watch, 1, at=[7, 3, 0], idle=47.0, still=44.0, number=2, **facts)
    beat(watch, 2, number=2, **ahead)
    assert lost() is None  # rank 1 works, and rank 0 may be waiting for it; rank 2 is further
    beat(watch, 1, at=[7, 3, 0], idle=47.0, still=46.0, number=2, **facts)
    assert lost()["rank"] == 1
    assert "no progress for 47 s and no work for 46 s" in lost()["reason"]
    pulse.worked = clock[0]
    assert lost() is None
    # Rank 0 is done; what rank 1 told last is from when it still waited for rank 0.
    pulse.section("saving")
    assert lost() is None
    # Rank 1 does not work, it spins until rank 0 is there.
    pulse.section("in callbacks")
    beat(watch, 1, at=[*pulse.at[:2], 1], number=3, **facts)
    beat(watch, 2, **{**ahead, "at": [7, 9, 0], "number": 3})
    assert lost() is None
    clock[0] += 46
    beat(watch, 1, at=[*pulse.at[:2], 1], idle=46.0, number=4, **facts)
    beat(watch, 2, **{**ahead, "at": [7, 9, 0], "number": 4})
    assert lost()["rank"] == 0
    # Busy for ever.
    pulse.worked = clock[0] = clock[0] + 255
    for rank in (1, 2):
        beat(watch, rank, at=[7, 9, 0], number=5, **facts)
    assert "no progress for 301 s, with a limit of 300 s" in lost()["reason"]


def test_limits_follow_what_is_usual(clock: list[float]) -> None:
    pulse = Pulse(stall=30)
    assert pulse.limit() is pulse.patience() is None
    for _ in range(4):
        pulse.step("")
        assert (pulse.limit(), pulse.patience()) == (300, 45)
        clock[0] += 100  # compiling
        pulse.stepped()
        pulse.section("writing a checkpoint")  # does not count
        clock[0] += 1000
        pulse.worked = clock[0] - 7
        assert (pulse.limit(), pulse.patience(), pulse.beat()["still"]) == (300, 45, 7)
    pulse.step("")
    assert (pulse.limit(), pulse.patience()) == (1000, None)
    pulse.section("packing", endless=True)
    assert pulse.limit() is pulse.patience() is None
    pulse.section("validating", parts=True)
    place = pulse.at
    for seconds, limit, patience in ((200, 300, 45), (2, 300, 45), (4, 30, None), (1, 40, None)):
        assert (pulse.limit(), pulse.patience()) == (limit, patience)
        clock[0] += seconds
        pulse.part()
    assert (pulse.limit(), pulse.beat()["idle"], pulse.at) == (40, 0, place)
    pulse.wait()
    assert place < pulse.at
    waiting = pulse.at
    pulse.section("saving")
    assert (waiting < pulse.at, pulse.limit(), pulse.patience()) == (True, 300, 45)
