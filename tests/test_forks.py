"""A forked child that ends leaves the device, the threads and the files of its parent alone."""

from __future__ import annotations

import contextlib
import gc
import os
import weakref
from collections.abc import Callable
from typing import Any

import pytest
from loading import grouped
from test_device import IMGSZ, RECIPE, shards, twin
from twin import TwinEvent, TwinStream

from yolodata import ConfigError, Loader, ValidationLoader
from yolodata.pipeline.cpu.backend import CpuBackend
from yolodata.pipeline.gpu import backend as gpu_backend
from yolodata.pipeline.gpu.backend import GpuBackend
from yolodata.pipeline.gpu.dataset_cache import CachedDataset
from yolodata.pipeline.image_cache import ImageCache

__all__ = ["shards", "twin"]  # fixtures


def said_by_child(act: Callable[[], list[str]]) -> list[str]:
    """What a function returns in a forked child, where all finalizers have run before."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # never comes back to pytest
        lines = ["it did not end"]
        with contextlib.suppress(BaseException):
            lines = act()
        os.write(writer, "\n".join(lines).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        lines = pipe.read().splitlines()
    assert os.waitpid(child, 0)[1] == 0
    return lines


@pytest.fixture
def calls(twin: TwinStream, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the device, and of what the parent opened."""
    made: list[str] = []

    def note(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def noted(*arguments: Any, **named: Any) -> Any:
            made.append(f"{owner.__name__}.{name}")
            return real(*arguments, **named)

        monkeypatch.setattr(owner, name, noted)

    for owner in (TwinStream, TwinEvent, GpuBackend, CpuBackend, ImageCache, CachedDataset):
        for name, value in list(vars(owner).items()):
            if callable(value) and not name.startswith("_"):
                note(owner, name)
    note(gpu_backend, "release_unused_memory")
    return made


@pytest.mark.parametrize("way", ["forgotten", "closed", "at exit"])
@pytest.mark.parametrize(("codec", "cache"), [("raw", "device"), ("raw", "none"), ("jpeg", "none")])
def test_a_child_asks_nothing_of_the_device(shards, calls, codec, cache, way) -> None:
    loader = Loader(shards[codec], 8, **grouped(augment=RECIPE, device="cuda", cache=cache))
    held = [loader, iter(loader)]
    next(held[1])
    loader._prefetcher.settle()
    pending = [weakref.ref(step.pending) for step in loader._prefetcher._steps]
    finalizers = [loader._close_backend, loader._prefetcher._thread._end]
    del loader

    def end() -> list[str]:
        calls.clear()
        if way == "closed":
            held[0].close()
        if way == "at exit":
            for finalizer in finalizers:
                finalizer()
        held.clear()
        gc.collect()
        # If they were freed, events and memory that other streams have used would ask the driver.
        return [*calls, *("freed" for ref in pending if ref() is None)]

    assert pending
    assert said_by_child(end) == []
    calls.clear()
    held.clear()  # the parent's own end
    gc.collect()
    assert {"GpuBackend.close", "TwinEvent.synchronize"} <= set(calls)
    assert all(ref() is None for ref in pending)


def test_a_child_does_not_touch_the_threads_of_validation(shards, calls) -> None:
    held = [ValidationLoader(shards["jpeg"], 8, imgsz=IMGSZ)]
    held.append(iter(held[0]))
    next(held[1])

    def end() -> list[str]:
        calls.clear()
        held.clear()
        gc.collect()
        return calls

    assert said_by_child(end) == []
    held.clear()
    gc.collect()
    assert {"CpuBackend.discard", "CpuBackend.close"} <= set(calls)


def test_a_child_cannot_move_the_parents_stream(shards, twin) -> None:
    """Nor does it wait for a thread that it does not have."""
    with Loader(
        shards["raw"], 8, **grouped(augment=RECIPE, device="cuda", cache="device")
    ) as loader:
        next(iter(loader))

        def move() -> list[str]:
            said = []
            for change in (loader.reset, loader.close_mosaic, lambda: loader.set_epoch(3)):
                try:
                    change()
                except ConfigError as error:
                    said.append(str(error))
            return said

        assert [line.startswith("the loader was made") for line in said_by_child(move)] == [
            True
        ] * 3
