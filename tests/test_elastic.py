"""Machines that leave a training and join it again: ranks that start anew find each other."""

from __future__ import annotations

import os
import runpy
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch.distributed.run
from torch.distributed import TCPStore
from torch.distributed.distributed_c10d import PrefixStore, Store

from yolodata.errors import ConfigError, YolodataError
from yolodata.train.distributed import process_group, torchrun
from yolodata.train.distributed.process_group import ProcessGroup
from yolodata.train.exit_codes import PeerLost


@pytest.fixture
def store() -> TCPStore:
    """A store that outlives the ranks, as that of a torchrun agent does."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def client(store: TCPStore) -> Store:
    return PrefixStore("starts", TCPStore("127.0.0.1", store.port, wait_for_workers=False))


def start(store: TCPStore, size: int) -> list[str]:
    """What ranks that start together call this start, rank 0 last; threads instead of processes."""
    ranks = [ProcessGroup(rank, size=size) for rank in reversed(range(size))]
    with ThreadPoolExecutor(size) as threads:
        names = [threads.submit(rank._name_start, client(store)) for rank in ranks]
        return [name.result(timeout=300) for name in names]


def test_a_start_has_one_name_that_no_other_start_had(store: TCPStore) -> None:
    """Each agent of torchrun counts its own restarts, so its environment cannot give the name."""
    names = [start(store, size) for size in (2, 1, 3, 2)]
    assert all(len(set(each)) == 1 for each in names)
    assert len({each[0] for each in names}) == len(names)


def test_a_process_that_died_while_it_started_holds_nobody_up(store: TCPStore) -> None:
    client(store).add("processes", 1)
    assert len(set(start(store, 2))) == 1


def test_ranks_that_do_not_meet_end_and_say_what_to_do(
    store: TCPStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where torchrun told them two stores."""
    monkeypatch.setattr(process_group, "TOGETHER", 0.2)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    for rank in range(2):
        with pytest.raises(YolodataError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
            ProcessGroup(rank, size=2)._name_start(client(store))


LAUNCHED = {"RANK": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": "29500", "WORLD_SIZE": "2"}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RANK", "x"), ("RANK", "2"), ("RANK", "-1"), ("LOCAL_RANK", "1"),
        ("LOCAL_WORLD_SIZE", "3"), ("MASTER_PORT", "0"), ("MASTER_PORT", "9" * 9),
    ],
)  # fmt: skip
def test_an_environment_that_no_launcher_makes_is_refused(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each, text in {**LAUNCHED, name: value}.items():
        monkeypatch.setenv(each, text)
    with pytest.raises(ConfigError, match=f"{name}='{value}'.*; start the processes with torchrun"):
        ProcessGroup.join()


@pytest.mark.parametrize(("rank", "error"), [("1", PeerLost), ("0", YolodataError)])
def test_a_store_that_is_gone_is_a_lost_peer(
    rank: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a first machine which was taken away; the job is to be started again (76)."""

    def unreachable(*_: Any, **__: Any) -> None:
        raise torch.distributed.DistNetworkError("no answer\nframe #0")

    monkeypatch.setattr(torch.distributed, "TCPStore", unreachable)
    monkeypatch.setattr(process_group, "_server", None)
    for each, text in {**LAUNCHED, "RANK": rank}.items():
        monkeypatch.setenv(each, text)
    with pytest.raises(YolodataError, match=r"at 127\.0\.0\.1:29500 \(no answer\)") as found:
        ProcessGroup.join()
    assert type(found.value) is error


@pytest.mark.parametrize(
    ("given", "environment", "elastic"),
    [
        (["--nnodes=1:2"], None, True),
        (["--nnodes", "1:2"], None, True),
        ([], "1:2", True),
        (["--nnodes=2"], "1:2", False),
        (["--standalone"], None, False),
    ],
)
def test_elastic_torchrun_gets_a_store_of_each_start(
    monkeypatch: pytest.MonkeyPatch, given: list[str], environment: str | None, elastic: bool
) -> None:
    name, seen = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", []
    monkeypatch.setenv(name, "")  # so that it is put back
    monkeypatch.delenv(name)
    monkeypatch.delenv("PET_NNODES", raising=False)
    if environment is not None:
        monkeypatch.setenv("PET_NNODES", environment)
    monkeypatch.setattr(torchrun, "SIGNALS", ())
    monkeypatch.setattr(torch.distributed.run, "main", lambda _: seen.append(os.getenv(name)))
    monkeypatch.setattr(sys, "argv", ["torchrun", *given, "-m", "yolodata.train"])
    assert torchrun.main() == 0
    assert seen == ["1" if elastic else None]


BENCHMARK = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "elastic.py"))


def life(name: int, ranks: int, batches: range) -> list[dict[str, Any]]:
    """What ranks note of batches of four samples."""
    return [
        {"life": str(name), "at": [0, batch], "rank": rank, "ranks": ranks, "loss": {"box": 1.0},
         "fed": [f"{batch}:{place}" for place in range(rank, 4, ranks)]}
        for batch in batches for rank in range(ranks)
    ]  # fmt: skip


def judged(lines: list[dict[str, Any]]) -> tuple[list[str], int]:
    """What the benchmark finds wrong, and how many batches were trained again."""
    line = BENCHMARK["surviving_line"]
    kept, found = line(lines)
    whole, _ = line(life(0, 1, range(1, 7)))
    return [*found["wrong"], *BENCHMARK["compared"](kept, whole)["wrong"]], found["repeated"]


def test_the_benchmark_of_elastic_training_tells_wrong_from_right() -> None:
    two, one = life(1, 2, range(1, 5)), life(2, 1, range(3, 6))
    again = life(3, 2, range(6, 7))
    assert judged([*two, *one, *again]) == ([], 2)  # batches 3 and 4
    assert judged([*two, *one])[0]  # the last is missing
    assert judged([*two[:2], *one, *again])[0]  # one in between is
    assert judged([*two[1:], *one, *again])[0]  # a rank's part is
    one[0]["fed"].reverse()
    assert judged([*two, *one, *again])[0] == ["batch (0, 3) had other samples"]
