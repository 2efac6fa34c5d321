"""Machines that leave a training and join it again: ranks that start anew find each other."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import TCPStore
from torch.distributed.distributed_c10d import PrefixStore, Store

from yolodata.train.distributed.process_group import ProcessGroup


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
        return [name.result(timeout=60) for name in names]


def test_a_start_has_one_name_that_no_other_start_had(store: TCPStore) -> None:
    """Each agent of torchrun counts its own restarts, so its environment cannot give the name."""
    names = [start(store, size) for size in (2, 1, 3, 2)]
    assert all(len(set(each)) == 1 for each in names)
    assert len({each[0] for each in names}) == len(names)


def test_a_process_that_died_while_it_started_holds_nobody_up(store: TCPStore) -> None:
    client(store).add("processes", 1)
    assert len(set(start(store, 2))) == 1
