"""Who is lost: the watch, with a store and beats made by hand."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from typing import Any

import pytest

from yolodata.train.watch import Pulse, Watch
from yolodata.train.world import World


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
    usual = {"at": [7, 2], "doing": "in the forward pass", "where": "epoch 1, batch 7", "idle": 0.0,
             "limit": 30.0, "pid": os.getpid(), "host": "elsewhere", "number": 1}  # fmt: skip
    watch[1].set(f"beat/{rank}", json.dumps({**usual, **facts}))


def test_who_is_lost(watch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = watch[0]._lost
    watch[0]._pulse.at = (7, 3)
    beat(watch, 1)
    beat(watch, 2, at=[7, 3], doing="in the backward pass")
    assert lost() is None
    # Rank 2 waits inside the backward pass for rank 1, which is behind: rank 1 is named.
    beat(watch, 1, idle=29.0, limit=300.0, number=2)
    beat(watch, 2, at=[7, 3], idle=31.0, number=2)
    assert lost() is None  # what rank 1 does may take longer
    beat(watch, 1, idle=31.0, number=2)
    assert lost()["rank"] == 1
    assert "in the forward pass at epoch 1, batch 7" in lost()["reason"]
    # Packing may take as long as it takes.
    for rank in (1, 2):
        beat(watch, rank, idle=500.0, limit=None, number=3)
    assert lost() is None
    # No new beat.
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 21)
    beat(watch, 1, limit=None, number=4)
    assert lost()["rank"] == 2
    assert "no sign of life" in lost()["reason"]
    watch[1].set("done/2", "1")  # it ended well
    assert lost() is None
    beat(watch, 1, host=socket.gethostname(), pid=2**22 + 1, number=5)
    assert "died" in lost()["reason"]


def test_limits_follow_what_is_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    pulse = Pulse(stall=30)
    assert pulse.limit() is None
    for _ in range(4):
        pulse.step("")
        assert pulse.limit() == 300
        now[0] += 100  # compiling
    pulse.step("")
    assert pulse.limit() == 1000
    pulse.section("packing", endless=True)
    assert pulse.limit() is None
    pulse.section("validating", parts=True)
    place = pulse.at
    for seconds, limit in ((200, 300), (2, 300), (4, 30), (1, 40)):
        assert pulse.limit() == limit
        now[0] += seconds
        pulse.part()
    assert (pulse.limit(), pulse.beat()["idle"], pulse.at) == (40, 0, place)
    pulse.section("saving")
    assert pulse.limit() == 300
