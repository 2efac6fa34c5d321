"""Where a device's memory ends: nothing is lost, nothing is kept, and the trainer is told."""

from __future__ import annotations

import random
import weakref
from typing import Any

import pytest
import torch
from loading import draw_dataset, grouped, packed
from test_device import IMGSZ, RECIPE, shards, stream, twin

from yolodata import Loader
from yolodata.errors import is_out_of_memory
from yolodata.pipeline.gpu import backend as gpu_backend
from yolodata.pipeline.gpu import jpeg_decoder as dali
from yolodata.pipeline.image_cache import ImageCache
from yolodata.pipeline.options import DeviceOptions

__all__ = ["shards", "twin"]  # fixtures
CACHES = [("raw", "device"), ("raw", "none"), ("jpeg", "device"), ("jpeg", "none")]


class Stubborn:
    """A loader whose batches are asked for until they come; counts errors."""

    def __init__(self, loader: Loader) -> None:
        self._loader, self.errors = loader, 0

    def __iter__(self) -> Any:
        batches = iter(self._loader)
        while True:
            try:
                yield next(batches)
            except torch.OutOfMemoryError:
                self.errors += 1
            except StopIteration:
                return


@pytest.mark.parametrize(("codec", "cache"), CACHES)
def test_a_batch_that_had_no_memory_is_made_later(shards, twin, codec, cache) -> None:
    """Every allocation may fail, several times in a row; the stream stays the same."""
    with Loader(shards[codec], 8, augment=RECIPE) as loader:
        want = stream(loader, 1)
    for seed in range(3):
        draw = random.Random(seed)
        with Loader(
            shards[codec], 8, **grouped(augment=RECIPE, device="cuda", cache=cache)
        ) as loader:
            loader._open_backend()
            twin.short = lambda draw=draw: draw.random() < 0.5
            stubborn = Stubborn(loader)
            assert stream(stubborn, 1) == want
            assert stubborn.errors
            twin.short = lambda: False


@pytest.mark.parametrize(("codec", "cache"), CACHES)
def test_memory_that_comes_free_in_time_is_no_error(shards, twin, codec, cache) -> None:
    with Loader(shards[codec], 8, augment=RECIPE) as loader:
        want = stream(loader, 1)
    full, freed = [False], []
    twin.short = lambda: full[0]

    def free() -> None:
        full[0] = False
        freed.append(1)

    twin.on_empty_cache = free

    def fill_up(picture: torch.Tensor) -> torch.Tensor:
        full[0] = True
        return picture

    with Loader(
        shards[codec], 8, **grouped(augment=RECIPE, device="cuda", cache=cache, prefetch=1)
    ) as loader:
        loader._open_backend()
        full[0] = True
        assert stream(loader, 1, fill_up) == want
    assert freed


def test_a_decoder_without_memory_does_not_blame_the_files(shards, twin, monkeypatch) -> None:
    with Loader(shards["jpeg"], 8, augment=RECIPE) as loader:
        want = stream(loader, 1)
    outputs, draw = dali._outputs, random.Random(0)

    def full(graph: Any) -> Any:
        pictures = outputs(graph)
        if draw.random() < 0.5:
            raise RuntimeError("Error in thread 1: CUDA allocation failed")
        return pictures

    def again(pictures: ImageCache, lease: Any) -> None:
        begin_anew(pictures, lease)
        lease.ready(lease)  # for an error before, from a thread that comes late

    begin_anew = ImageCache.again
    monkeypatch.setattr(ImageCache, "again", again)
    with Loader(
        shards["jpeg"], 8, **grouped(augment=RECIPE, device="cuda", cache="none")
    ) as loader:
        monkeypatch.setattr(gpu_backend, "DECODED_AT_ONCE", 4)
        loader._open_backend()
        monkeypatch.setattr(dali, "_outputs", full)
        monkeypatch.setattr(dali.DaliDecoder, "_by_opencv", None)
        stubborn = Stubborn(loader)
        assert stream(stubborn, 1) == want
        assert stubborn.errors
        assert not loader.unreadable()


def test_the_words_of_allocators_are_known() -> None:
    for text in (
        "CUDA out of memory. Tried to allocate 2.00 GiB", "std::bad_alloc",
        "Can't allocate 123 bytes on device 0.", "CUDA runtime API error: out of memory",
        "nvJPEG error (5): NVJPEG_STATUS_ALLOCATOR_FAILURE", "CUBLAS_STATUS_ALLOC_FAILED",
    ):  # fmt: skip
        assert is_out_of_memory(RuntimeError(text))
    assert is_out_of_memory(MemoryError())
    result = SystemError("<built-in function resize> returned a result with an exception set")
    assert not is_out_of_memory(result)
    result.__cause__ = MemoryError()
    assert is_out_of_memory(result)
    assert not is_out_of_memory(RuntimeError("Unsupported JPEG marker"))


@pytest.mark.parametrize("cache", ["device", "none"])
def test_dali_gives_its_memory_back(shards, twin, monkeypatch, cache) -> None:
    """When the dataset is on the device, or the loader closed; no picture is alive then."""
    backend = pytest.importorskip("nvidia.dali.backend")
    outputs, pictures, alive = dali._outputs, [], []

    def watched(graph: Any) -> Any:
        made = outputs(graph)
        pictures.extend(weakref.ref(picture) for picture in made)
        return made

    def release() -> None:
        alive.append(sum(ref() is not None for ref in pictures))

    monkeypatch.setattr(dali, "_outputs", watched)
    monkeypatch.setattr(backend, "ReleaseUnusedMemory", release, raising=False)
    loader = Loader(shards["jpeg"], 8, **grouped(augment=RECIPE, device="cuda", cache=cache))
    batches = iter(loader)
    next(batches)
    assert len(pictures) >= 8
    if cache == "none":
        assert not alive
        loader.close()
    assert alive[-1:] == [0]
    loader.close()
    monkeypatch.delattr(backend, "ReleaseUnusedMemory")
    dali.release_unused_memory()  # of a version without it


def test_ultralytics_halves_a_batch_that_has_no_room(tmp_path, twin, monkeypatch) -> None:
    """Its own loop, its own way to go on; the batches are made on the twin."""
    from test_ultralytics import train

    from yolodata import DetectionTrainer
    from yolodata.ultralytics import trainer as trainers

    class OnDevice(DetectionTrainer):
        def _delivery(self) -> DeviceOptions:
            twin.free = 3 * 3 * IMGSZ * IMGSZ
            return DeviceOptions("cuda", "none")

    yaml = draw_dataset(tmp_path / "set", {"train": 6, "val": 2})
    for split in ("train", "val"):
        packed(yaml, tmp_path / "shards", "raw", IMGSZ, splits=[split])
    said: list[str] = []
    monkeypatch.setattr(trainers.LOGGER, "info", lambda text="", *_: said.append(str(text)))
    trainer, seen = train(tmp_path, tmp_path / "shards", trainer=OnDevice, epochs=1)
    assert trainer.batch_size == 2
    assert len(seen["0"]) == 3
    assert sum("cache=none: asked for" in text for text in said) == 1
