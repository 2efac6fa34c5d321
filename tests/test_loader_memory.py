"""Memory that loaders, packing and their threads took goes back to the system."""

from __future__ import annotations

import gc
import platform
import threading
from pathlib import Path

import numpy as np
import pytest
from loading import draw_dataset, packed

from yolodata import AugmentConfig, Loader, ReadOptions, ValidationLoader
from yolodata.doctor.memory.process import anonymous_bytes
from yolodata.machine import fresh_memory, give_back_memory

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's malloc_trim")
MB = 1 << 20


def held() -> int:
    gc.collect()
    return anonymous_bytes()


def test_what_lies_between_pieces_in_use_goes_back() -> None:
    give_back_memory()
    before = held()
    pieces = [np.ones(100_000, np.uint8) for _ in range(1000)]
    kept = pieces[::50]
    del pieces
    assert held() > before + 50 * MB  # the negative control: freeing alone gives nothing back
    give_back_memory()
    assert held() < before + 20 * MB
    assert len(kept) == 20


def test_memory_of_a_thread_goes_back_when_it_is_forgotten() -> None:
    """`give_back_memory` alone does not reach the top of another thread's heap."""
    before, peaks = held(), []

    def use() -> None:
        some = [fresh_memory(1_000_000) for _ in range(50)]
        for memory in some:
            memory[:] = 1
        peaks.append(anonymous_bytes())

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert peaks[0] > before + 40 * MB
    assert held() < before + 5 * MB
    assert fresh_memory(0).shape == (0,)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = draw_dataset(tmp_path_factory.mktemp("source"), {"train": 24, "val": 8})
    return packed(source, source.parent / "jpeg", "jpeg", 640)


@pytest.mark.parametrize("forgotten", [False, True])
def test_loaders_that_were_opened_leave_the_process_as_large_as_it_was(
    shards: Path, forgotten: bool
) -> None:
    def used(imgsz: int) -> int:
        reading = ReadOptions(threads=3, prefetch=3)
        made = (
            Loader(shards, 8, augment=AugmentConfig(imgsz=imgsz), reading=reading),
            ValidationLoader(shards, 8, imgsz=imgsz, reading=reading),
        )
        for loader in made:
            next(iter(loader))
            if not forgotten:
                loader.close()
        del made, loader
        for thread in threading.enumerate():  # that prepares batches, and ends itself
            if thread.name.startswith("yolodata"):
                thread.join(10)
        return held()

    sizes = [used(imgsz) for imgsz in (640, 640, 320, 544, 640)]
    assert max(sizes[2:]) - sizes[1] < 6 * MB, [size // MB for size in sizes]


def test_what_others_allocated_for_a_loader_goes_back_too(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenCV, Albumentations and NumPy take pieces of the heap: after each end, and a pack."""
    ends: list[str] = []
    for where in ("pipeline.loader", "pipeline.validation", "ingest.packing"):
        monkeypatch.setattr(
            f"yolodata.{where}.give_back_memory", lambda where=where: ends.append(where)
        )
    for made, where in ((Loader, "pipeline.loader"), (ValidationLoader, "pipeline.validation")):
        with made(shards, 8) as loader:
            next(iter(loader))
            assert ends == []
        assert ends == [where]
        loader = made(shards, 8)
        next(iter(loader))
        if made is Loader:
            loader._prefetcher.settle()  # or the thread that prepares batches would be the last
        del loader
        assert ends == [where] * 2
        ends.clear()
    yaml = draw_dataset(shards.parent / "more", {"train": 2})
    packed(yaml, shards.parent / "more-raw", "raw", 64)
    assert ends == ["ingest.packing"]
