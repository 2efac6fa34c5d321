"""Memory that loaders, packing and their threads took goes back to the system."""

from __future__ import annotations

import gc
import os
import platform
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loading import draw_dataset, packed

from yolodata import AugmentConfig, Loader, ReadOptions, ValidationLoader
from yolodata.doctor.memory.process import anonymous_bytes
from yolodata.errors import ResourceError
from yolodata.machine import fresh_memory, give_back_memory
from yolodata.shards import open as open_shards

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
    for much in (1 << 60, 1 << 70):
        with pytest.raises(ResourceError, match=r"out of memory: .* TiB cannot be had at once"):
            fresh_memory(much)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = draw_dataset(tmp_path_factory.mktemp("source"), {"train": 24, "val": 8})
    return packed(source, source.parent / "jpeg", "jpeg", 640)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    source = draw_dataset(tmp_path_factory.mktemp("both"), {"train": 9})
    return {codec: packed(source, source.parent / codec, codec, 64) for codec in ("raw", "jpeg")}


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
    # What leaks stays: a single larger one is memory that a thread was just giving back.
    assert min(sizes[3:]) - sizes[1] < 6 * MB, [size // MB for size in sizes]


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


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
@pytest.mark.parametrize("io", ["mmap", "pread"])
@pytest.mark.parametrize("made", [Loader, ValidationLoader])
def test_a_closed_loader_holds_no_shard(
    both: dict[str, Path], codec: str, io: str, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither map nor descriptor, although it is still there, unless the dataset was given open."""
    monkeypatch.setattr("yolodata.shards.reader.on_network", lambda path: io == "pread")
    shard = str(both[codec] / "train" / "shard-")

    def holds() -> bool:
        maps = Path("/proc/self/maps").read_text()
        open_files = [os.path.realpath(fd) for fd in Path("/proc/self/fd").iterdir()]
        return shard in maps or any(file.startswith(shard) for file in open_files)

    loader = made(both[codec], 8, split="train")
    batch = next(iter(loader))
    before = batch["img"].clone()
    assert holds()
    loader.close()
    assert not holds()
    assert loader.dataset.labels[0]["im_file"] == loader.dataset.im_files[0]  # still readable
    assert (batch["img"] == before).all()
    with open_shards(both[codec], split="train") as given:
        with made(given, 8) as loader:
            next(iter(loader))
        assert holds()
