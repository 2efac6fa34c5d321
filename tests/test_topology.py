"""NUMA: made-up machines are read right, and threads really stay where they are told to.

No machine with two nodes was there: the pinning itself is tried with two made-up nodes of a core
each.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from ingesting import build
from loading import draw_dataset, grouped, packed, sample_digests

from yolodata import ConfigError, Loader, ValidationLoader, _native, topology
from yolodata.machine import usable_cores
from yolodata.pipeline import image_reader
from yolodata.pipeline.albumentations import pool
from yolodata.pipeline.config import AugmentConfig
from yolodata.pipeline.gpu.pinned import page_locked
from yolodata.pipeline.options import DeviceOptions
from yolodata.pipeline.pinning import pinning

IMGSZ = 64


def tree(root: Path, cores: list[str], far: int = 20, **files: str) -> Path:
    """A /sys of nodes 0, 1, ... with these cores, neighbours on a line."""
    row = range(len(cores))
    for node, text in enumerate(cores):
        away = " ".join(str(10 + (far - 10) * abs(node - other)) for other in row)
        place = f"devices/system/node/node{node}"
        build(root, {f"{place}/cpulist": f"{text}\n", f"{place}/distance": f"{away}\n"})
    return build(root, {f"devices/system/node/{name}": text for name, text in files.items()})


def counts(pinned: topology.Pinning) -> dict[tuple[int, ...], int]:
    return dict(Counter(pinned.cores))


def test_nodes(tmp_path: Path) -> None:
    assert topology.nodes(tmp_path) == []  # a system without any
    root = tree(tmp_path, ["0-1,4", "2-3"])
    first, second = topology.nodes(root)
    assert (first.cores, second.cores) == ((0, 1, 4), (2, 3))
    assert first.distances == {0: 10, 1: 20}
    two = {(0, 1, 4): 2, (2, 3): 2}
    assert counts(topology.spread(4, usable=range(5), root=root)) == two


def test_nodes_without_memory_and_without_cores(tmp_path: Path) -> None:
    # Node 2 has cores alone, and is nearer to 1; node 3 has memory alone.
    root = tree(tmp_path, ["0-1", "2-3", "4-5", ""], has_memory="0-1,3\n")
    assert [(node.number, node.cores) for node in topology.nodes(root)] == [
        (0, (0, 1)),
        (1, (2, 3, 4, 5)),
    ]
    near = topology.gather(2, "cuda:0", 2, usable=range(6), root=root)
    assert near.near == (2, 3, 4, 5)
    assert counts(near) == {(2, 3, 4, 5): 2}
    alone = tree(tmp_path / "one", ["0-1", "2-3"], has_memory="0\n")
    assert topology.spread(4, usable=range(4), root=alone) == topology.Pinning()


def test_no_distances_and_no_list_of_memory(tmp_path: Path) -> None:
    names = {f"devices/system/node/node{n}/cpulist": f"{n}\n" for n in (0, 1)}
    root = build(tmp_path, names)
    assert [node.cores for node in topology.nodes(root)] == [(0,), (1,)]
    assert topology.gather(1, "cuda:0", 1, usable=(0, 1), root=root).cores == ((1,),)


def test_only_usable_cores_are_named(tmp_path: Path) -> None:
    """Offline cores, and those that a cpuset, a launcher or taskset keeps from us."""
    root = tree(tmp_path, ["0-3", "4-7", "8-11", "12-15"])
    usable = (1, 2, 9, 10, 11, 12)
    spread = topology.spread(6, usable=usable, root=root)
    assert counts(spread) == {(1, 2): 2, (9, 10, 11): 3, (12,): 1}
    assert spread.what == "threads: 2 on NUMA node 0, 3 on NUMA node 2, 1 on NUMA node 3"
    assert topology.spread(2, usable=(4, 5), root=root) == topology.Pinning()  # one node
    assert topology.spread(2, usable=(), root=root) == topology.Pinning()
    # The GPU's own node is forbidden: then the nearest that is not.
    near = topology.gather(2, "cuda:3", 1, usable=usable, root=root)
    assert counts(near) == {(1, 2): 2}
    assert near.near == (1, 2)


@pytest.mark.parametrize("threads", [1, 2, 3, 5, 16, 17, 64])
def test_threads_are_spread_as_cores_are(tmp_path: Path, threads: int) -> None:
    root = tree(tmp_path, ["0-7", "8-11", "12-13", "14-15"])
    usable = range(16)
    found = topology.spread(threads, usable=usable, root=root)
    for cores, count in counts(found).items():
        assert abs(count - threads * len(cores) / 16) < 1
    # Ranks side by side: each on as few nodes as its cores are on, all together evenly.
    ranks = [topology.spread(4, rank=r, ranks=4, usable=usable, root=root) for r in range(4)]
    assert [sorted(counts(rank).values()) for rank in ranks] == [[4], [4], [4], [2, 2]]
    assert sum((Counter(rank.cores) for rank in ranks), Counter()) == {
        tuple(range(8)): 8, tuple(range(8, 12)): 4, (12, 13): 2, (14, 15): 2,
    }  # fmt: skip


def test_threads_gather_near_their_gpu(tmp_path: Path) -> None:
    root = tree(tmp_path, ["0-3", "4-7", "8-11"])
    usable = range(12)

    def sizes(threads: int, near: int, sharing: int = 1) -> list[int]:
        found = topology.gather(threads, "cuda:1", near, sharing=sharing, usable=usable, root=root)
        assert found.near == tuple(range(4 * near, 4 * near + 4))
        placed = counts(found)
        return [placed.get(tuple(range(4 * n, 4 * n + 4)), 0) for n in range(3)]

    assert sizes(3, 2) == [0, 0, 3]
    assert sizes(6, 2) == [0, 2, 4]  # the next nearest
    assert sizes(3, 2, sharing=2) == [0, 1, 2]  # another rank has the other half
    assert sizes(12, 1) == [4, 4, 4]
    assert sum(sizes(30, 0)) == 30
    words = topology.gather(6, "cuda:1", 2, usable=usable, root=root).what
    assert words == "threads: 2 on NUMA node 1, 4 on NUMA node 2 (cuda:1 is at node 2)"


def test_the_node_of_a_gpu(tmp_path: Path) -> None:
    bus = "bus/pci/devices/0000"
    root = build(tmp_path, {f"{bus}:3b:00.0/numa_node": "1\n", f"{bus}:5e:00.0/numa_node": "-1\n"})
    assert topology.device_node("00000000:3B:00.0", root) == 1
    assert topology.device_node("0000:5e:00.0", root) is None  # the firmware does not say
    assert topology.device_node("0000:86:00.0", root) is None
    assert topology.device_node(None, root) is None


def test_hyper_threads(tmp_path: Path) -> None:
    place = "devices/system/cpu/cpu{}/topology/thread_siblings_list"
    root = build(tmp_path, {place.format(0): "0,2\n", place.format(1): "1\n"})
    assert topology.siblings(root) == {0: (0, 2), 1: (1,)}


def test_ranks_with_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four ranks: GPUs 0, 1 and 2 at node 1, GPU 3 at node 0."""
    tree(tmp_path, ["0-3", "4-7"])
    monkeypatch.setattr(topology, "SYS", tmp_path)
    monkeypatch.setattr(topology, "usable_cores", lambda: tuple(range(8)))
    for index in range(4):
        node = {f"bus/pci/devices/0000:{index:02x}:00.0/numa_node": "0" if index == 3 else "1"}
        build(tmp_path, node)
    place = {"pci_domain_id": 0, "pci_device_id": 0}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda i: SimpleNamespace(pci_bus_id=i, **place)
    )
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    one, two = tuple(range(4, 8)), tuple(range(4))

    def of_rank(rank: int, device: DeviceOptions) -> topology.Pinning:
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        return pinning("auto", 3, device, rank, 4)

    shared = of_rank(0, DeviceOptions("cuda:0"))
    assert counts(shared) == {one: 2, two: 1}  # a third of node 1
    assert counts(of_rank(3, DeviceOptions("cuda:3"))) == {two: 3}
    assert counts(of_rank(3, DeviceOptions(pin_memory=True))) == {two: 3}  # it feeds that one
    assert counts(of_rank(2, DeviceOptions())) == {one: 3}  # cores 4 and 5
    assert pinning("off", 3, DeviceOptions("cuda:0"), 0, 4) == topology.Pinning()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # each rank sees its own
    assert counts(of_rank(0, DeviceOptions("cuda:0"))) == {one: 2, two: 1}


def test_pin_is_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="pin must be one of auto, off, got 'numa'"):
        Loader(tmp_path, 1, **grouped(pin="numa"))


# The real thing, on nodes that are made up.

two_cores = pytest.mark.skipif(len(usable_cores()) < 2, reason="needs two usable cores")


@pytest.fixture
def made_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[int, int]:
    """Two nodes of one core each."""
    first, second = usable_cores()[:2]
    monkeypatch.setattr(topology, "SYS", tree(tmp_path / "sys", [str(first), str(second)]))
    return first, second


def native_threads() -> list[set[int]]:
    """Affinities of the engine's threads of this process."""
    found = []
    for task in Path("/proc/self/task").iterdir():
        if (task / "comm").read_text().strip() == "yolodata":
            found.append(os.sched_getaffinity(int(task.name)))
    return found


@two_cores
@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_threads_stay_on_their_nodes_and_the_stream_is_the_same(
    albumentations: Any,
    tmp_path: Path,
    made_up: tuple[int, int],
    monkeypatch: pytest.MonkeyPatch,
    codec: str,
) -> None:
    shards = packed(draw_dataset(tmp_path / "set", {"train": 24}), tmp_path / codec, codec, IMGSZ)
    augment = AugmentConfig(imgsz=IMGSZ, mosaic=0.8, mixup=0.3, degrees=5.0)
    transforms = [albumentations.Blur(p=0.5)]
    seen: dict[str, set[tuple[int, ...]]] = {"read": set(), "transform": set()}
    places, arrived = 1, threading.Condition()

    def watched(name: str, function: Any) -> Any:
        def call(*arguments: Any) -> Any:
            with arrived:
                seen[name].add(tuple(sorted(os.sched_getaffinity(0))))
                arrived.notify_all()
                # Threads of one place could do it all while those of the other have no turn.
                assert arrived.wait_for(lambda: len(seen[name]) >= places, 60)
            return function(*arguments)

        return call

    monkeypatch.setattr(image_reader, "decode_into", watched("read", image_reader.decode_into))
    monkeypatch.setattr(
        pool, "render_with_transforms", watched("transform", pool.render_with_transforms)
    )

    def stream(**how: Any) -> tuple[list[str], list[set[int]], str]:
        for name in seen:
            seen[name].clear()
        with Loader(shards, 8, **grouped(augment=augment, seed=3, **how)) as loader:
            made = [d for _ in range(2) for batch in loader for d in sample_digests(batch)]
            return made, native_threads(), loader.preflight

    here = os.sched_getaffinity(0)
    one, two = ({core} for core in made_up)
    free, unpinned, nothing = stream(threads=3, pin="off", transforms=transforms)
    assert nothing == ""
    assert all(one | two <= affinity for affinity in unpinned)
    assert seen["transform"] == {tuple(sorted(here))}
    places = 2
    made, affinities, words = stream(threads=4, transforms=transforms)
    assert made == free
    assert words == "threads: 2 on NUMA node 0, 2 on NUMA node 1"
    pinned = [affinity for affinity in affinities if affinity in (one, two)]
    assert sorted(pinned, key=min) == [one, one, two, two]
    assert seen["transform"] == {(core,) for core in made_up}
    if codec == "jpeg":
        assert seen["read"] == {(core,) for core in made_up}
    places = 1
    plain, affinities, _ = stream(threads=2)
    assert plain == stream(threads=1, pin="off")[0]
    assert one in affinities
    assert two in affinities
    assert os.sched_getaffinity(0) == here  # the consumer's is its own affair

    with ValidationLoader(shards, 8, **grouped(threads=2)) as loader:
        list(loader)
        until = time.monotonic() + 60
        while one not in native_threads():  # the other one may have done it all
            assert time.monotonic() < until
            time.sleep(0.01)


@two_cores
def test_a_batch_is_divided_among_nodes() -> None:
    """Each node begins with pictures of its own, and helps the other at the end."""
    first, second = usable_cores()[:2]
    size, count = 640, 96
    recipe = grey_picture(size)
    image = np.full((size, size, 3), 114, np.uint8)
    images = np.zeros(1, np.int64), np.array([image.ctypes.data], np.uint64)

    def render(engine: _native.Engine) -> int:
        out = np.empty((count, 3, size, size), np.uint8)
        job = engine.submit_render([recipe] * count, *images, out)
        assert job.wait(60)
        assert (out == 114).all()  # no picture was left out
        return job.taken_over()

    engine = _native.Engine(2, [[first], [second]])
    # Threads that take what comes next take over half. Other work may keep a core busy for a while.
    assert any(render(engine) < count / 4 for _ in range(10))
    out = np.empty((count, 3, size, size), np.uint8)
    cancelled = engine.submit_render([recipe] * count, *images, out)
    cancelled.cancel()
    with pytest.raises(RuntimeError, match="cancelled"):
        cancelled.wait(60)
    engine.close()
    alone = _native.Engine(3)  # one part, which everybody takes of
    assert render(alone) == 0
    alone.close()


def grey_picture(size: int) -> _native.Recipe:
    """A rotated grey image in grey."""
    side, none = np.full(1, size, np.uint32), np.zeros(0, np.float32)
    table = _native.LabelTable(
        side, side, np.zeros(2, np.uint64), none, none.reshape(0, 4), np.zeros(1, np.uint64),
        none.reshape(0, 2),
    )  # fmt: skip
    config = AugmentConfig(imgsz=size, mosaic=0.0, degrees=45.0, hsv_h=0.0, hsv_s=0.0, hsv_v=0.0)
    return _native.plan(table, config.to_native(), 0, 0, 0)


def test_places_of_an_engine_are_checked() -> None:
    with pytest.raises(ValueError, match="for each of 2 threads, or for none, got 1"):
        _native.Engine(2, [[0]])
    with pytest.raises(ValueError, match="a core is a number from 0, got -1"):
        _native.Engine(1, [[-1]])
    engine = _native.Engine(1, [[1 << 19]])  # no such core: it runs where it can
    engine.close()


@two_cores
def test_page_locked_memory_is_touched_near_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before it is locked, by a thread that stays near: its pages are there by then."""
    touched: list[set[int]] = []
    resident: list[str] = []
    real = topology.pin_thread

    def pin(cores: Any) -> None:
        real(cores)
        touched.append(os.sched_getaffinity(0))

    def lock(address: int, nbytes: int) -> int:
        _, _, rest = Path("/proc/self/smaps").read_text().partition(f"\n{address:x}-")
        resident.extend(line for line in rest.splitlines()[:6] if line.startswith("Rss:"))
        return address

    monkeypatch.setattr(topology, "pin_thread", pin)
    core, here = usable_cores()[1], os.sched_getaffinity(0)
    memory = page_locked(3 << 20, lock, lambda address: None, near=(core,))
    assert touched == [{core}]
    assert [line.split()[1:] for line in resident] == [["3072", "kB"]]
    assert int(memory.max()) == 0
    assert os.sched_getaffinity(0) == here  # whoever asked for it runs where it did
