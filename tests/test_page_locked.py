"""Page-locked memory: as much as is asked for, and given back when the device has read it."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import itertools
import logging
import time
from typing import Any

import pytest
import torch
from loading import grouped
from test_device import IMGSZ, RECIPE, shards, stream, twin

from yolodata import Loader
from yolodata.pipeline.gpu import stream as device
from yolodata.pipeline.gpu.context import GpuContext
from yolodata.pipeline.gpu.pinned import page_locked

__all__ = ["shards", "twin"]  # fixtures


class Driver:
    """Locks nothing, and looks at what it is told to unlock."""

    def __init__(self, moved: int = 0) -> None:
        self.locked: dict[int, int] = {}
        self.first_bytes: list[bytes] = []
        self._moved = moved

    def register_host(self, address: int, nbytes: int) -> int:
        self.locked[address] = nbytes
        return address + self._moved

    def unregister_host(self, address: int) -> None:
        self.first_bytes.append(ctypes.string_at(address, 3))  # still there
        del self.locked[address]


def test_it_is_unlocked_with_its_last_view_and_before_it_is_freed() -> None:
    driver = Driver()
    nbytes = 157 * 1000 * 1000 + 1
    memory = page_locked(nbytes, driver.register_host, driver.unregister_host)
    assert (memory.numel(), memory.data_ptr() % 4096) == (nbytes, 0)
    assert driver.locked == {memory.data_ptr(): nbytes}
    memory[:3] = torch.tensor([1, 2, 3])
    view = memory.numpy()[1:].view()
    del memory
    gc.collect()
    assert driver.locked
    del view
    assert not driver.locked
    assert driver.first_bytes == [b"\1\2\3"]


def test_memory_at_another_address_is_refused_and_unlocked() -> None:
    driver = Driver(moved=4096)
    with pytest.raises(RuntimeError, match="another address"):
        page_locked(100, driver.register_host, driver.unregister_host)
    assert not driver.locked


def test_what_the_driver_refuses_is_torchs_and_said_once(monkeypatch, caplog) -> None:
    stream: Any = object.__new__(device.CudaStream)
    stream.device, stream._complained = torch.device("cuda", 0), False
    asked: list[dict[str, Any]] = []

    def refuse(*_: Any) -> int:
        raise RuntimeError("host memory could not be registered: operation not supported")

    monkeypatch.setattr(device.CudaStream, "register_host", refuse)
    monkeypatch.setattr(torch.cuda, "device", lambda where: contextlib.nullcontext())
    monkeypatch.setattr(torch, "empty", lambda size, **how: asked.append({"size": size, **how}))
    caplog.set_level(logging.WARNING, "yolodata")
    for _ in range(2):
        stream.pinned(1000)
    assert asked == [{"size": 1000, "dtype": torch.uint8, "pin_memory": True}] * 2
    assert caplog.text.count("operation not supported") == 1


@pytest.mark.parametrize("cache", ["device", "host", "none"])
def test_close_gives_all_of_it_back(shards, twin, cache) -> None:
    loader = Loader(shards["raw"], 8, **grouped(augment=RECIPE, device="cuda", cache=cache))
    batch = next(iter(loader))
    assert twin._pinned
    loader.close()
    assert not twin._pinned
    assert batch["img"].float().mean() > 0


def test_rendered_pictures_do_not_wait_in_it_for_the_consumer(shards, twin) -> None:
    """Batches that were uploaded need it no more, though they have not been handed out."""
    give_up = time.monotonic() + 60  # threads that render may be late
    how = grouped(augment=RECIPE, device="cuda", cache="none", prefetch=12)
    with Loader(shards["raw"], 8, **how) as loader:
        for epoch in itertools.count(1):
            for _ in loader:
                loader._prefetcher.settle()
                twin.record_event().synchronize()
            pictures = [kept for kept in twin._pinned.values() if kept.nbytes > 3 * 8 * IMGSZ**2]
            if epoch >= 5 and 0 < len(pictures) < 8:
                break
            assert time.monotonic() < give_up


def test_memory_forgotten_too_early_is_noticed(shards, twin, monkeypatch) -> None:
    """Negative control of the twin."""
    with Loader(shards["raw"], 8, augment=RECIPE) as loader:
        want = stream(loader)
    monkeypatch.setattr(GpuContext, "keep_memory", lambda *_: None)
    monkeypatch.setattr(twin, "go_on", lambda until=None: until and type(twin).go_on(twin, until))

    def consumed(pause: float) -> list[str]:
        """Slowly: batches are enqueued ahead, and not done when they are."""
        how = grouped(augment=RECIPE, device="cuda", cache="none", prefetch=8)
        with Loader(shards["raw"], 8, **how) as loader:
            return stream(loader, 2, lambda picture: time.sleep(pause) or picture)

    assert any(consumed(pause) != want for pause in (0.03, 0.3, 1.0))  # slower on a busy machine


@pytest.mark.gpu
def test_copies_from_it_do_not_wait() -> None:
    stream = device.open_stream(torch.device("cuda"))
    assert isinstance(stream, device.CudaStream)
    nbytes = (32 << 20) + 4096
    memory, target = stream.pinned(nbytes), stream.empty(nbytes)
    assert not stream._complained
    assert memory.is_pinned()
    assert memory[4096:].is_pinned()
    memory.random_()
    with torch.cuda.stream(stream.torch_stream):
        torch.cuda._sleep(1_000_000_000)
    slept = stream.record_event()
    stream.copy(memory, target)
    assert not slept.query()
    stream.record_event().synchronize()
    assert torch.equal(target.cpu(), memory)


@pytest.mark.gpu
def test_it_is_given_back_to_the_system(monkeypatch) -> None:
    stream = device.open_stream(torch.device("cuda"))
    unlocked: list[int] = []
    real = type(stream).unregister_host
    monkeypatch.setattr(
        type(stream), "unregister_host", lambda self, at: (unlocked.append(at), real(self, at))
    )
    memory = stream.pinned(1 << 20)
    address = memory.data_ptr()
    del memory
    assert unlocked == [address]
