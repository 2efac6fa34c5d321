"""The training loader when things go wrong: damaged samples, interruptions, forgotten loaders."""

from __future__ import annotations

import gc
import itertools
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from loading import damage, digest, draw_dataset, grouped, packed, sample_digests

from yolodata.errors import ConfigError, ShardError
from yolodata.pipeline import image_reader as sources
from yolodata.pipeline.config import AugmentConfig
from yolodata.pipeline.cpu.buffer_pool import BufferPool
from yolodata.pipeline.image_cache import ImageCache, ImageSource
from yolodata.pipeline.loader import Loader
from yolodata.pipeline.unreadable import labels_without
from yolodata.shards import reader
from yolodata.telemetry import Telemetry

IMAGES = 61
IMGSZ = 64
AUGMENT = AugmentConfig(imgsz=IMGSZ, mosaic=0.7, mixup=0.3, cutmix=0.5)
CODECS = pytest.mark.parametrize("codec", ["raw", "jpeg"])


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    source = draw_dataset(tmp_path_factory.mktemp("source"), {"train": IMAGES})
    return {codec: packed(source, source.parent / codec, codec, IMGSZ) for codec in ("raw", "jpeg")}


def make(shards: Any, batch_size: int = 8, **settings: Any) -> Loader:
    return Loader(
        shards,
        batch_size,
        **grouped(**{"augment": AUGMENT, "threads": 2, "prefetch": 2, **settings}),
    )


@CODECS
def test_damaged_sample_is_replaced(
    both: dict[str, Path], codec: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    victim = 17
    shards = damage(both[codec], tmp_path / "damaged", [victim])

    def epoch(path: Path, threads: int) -> list[dict[str, Any]]:
        with make(path, threads=threads, check=codec == "raw", shuffle=False) as loader:
            batches = list(loader)
            name = loader.dataset.im_files[victim]
            expected = [name] if path == shards else []
            assert list(loader.unreadable()) == expected
            if expected:
                assert ("checksum" if codec == "raw" else "picture") in loader.unreadable()[name]
            return batches

    with caplog.at_level(logging.WARNING, "yolodata"):
        broken = epoch(shards, 2)
    assert len([r for r in caplog.records if "replaced by a grey image" in r.message]) == 1
    assert [digest(b) for b in epoch(shards, 1)] == [digest(b) for b in broken]
    whole = epoch(both[codec], 2)
    assert [len(b["im_file"]) for b in broken] == [len(b["im_file"]) for b in whole]
    different = [
        (a, b)
        for mine, theirs in zip(broken, whole, strict=True)
        for a, b in zip(sample_digests(mine), sample_digests(theirs), strict=True)
        if a != b
    ]
    assert 0 < len(different) < IMAGES  # only those that show the damaged image
    lost = sum(len(b["cls"]) for b in whole) - sum(len(b["cls"]) for b in broken)
    assert lost > 0

    # Where the damaged image is alone in the picture, the picture is grey and has no objects.
    still = AugmentConfig(imgsz=IMGSZ, mosaic=0, hsv_h=0, hsv_s=0, hsv_v=0)
    with make(
        shards, IMAGES, augment=still, check=codec == "raw", shuffle=False, threads=1
    ) as loader:
        batch = next(iter(loader))
    assert (batch["img"][victim] == 114).all()
    assert victim not in batch["batch_idx"].tolist()


@CODECS
def test_too_many_damaged_samples_end_the_run(
    both: dict[str, Path], codec: str, tmp_path: Path
) -> None:
    shards = damage(both[codec], tmp_path / "damaged", [3, 30, 50])
    with make(shards, check=True) as loader, pytest.raises(ShardError) as error:
        list(loader)
    names = [loader.dataset.im_files[i] for i in (3, 30, 50)]
    assert sum(name in str(error.value) for name in names) >= 2
    assert f"of {IMAGES} images cannot be read, more than max_unreadable=1.00%" in str(error.value)
    with make(shards, check=True, max_unreadable=0.05) as loader:
        assert len(list(loader)) == len(loader)
        assert len(loader.unreadable()) == 3
    one = damage(both[codec], tmp_path / "one", [3])
    with make(one, check=True, max_unreadable=0.0) as loader, pytest.raises(ShardError):
        list(loader)


def test_labels_without_nothing_are_all_labels(both: dict[str, Path]) -> None:
    with make(both["jpeg"], 16) as loader:
        loader._fill()
        pending = loader._prefetcher.at(0, 0).pending
        pending.wait()
        recipes = pending._samples.recipes()
        mine, native = labels_without(loader._subset, recipes, frozenset()), pending.labels()
        assert set(mine) == set(native)
        for name in native:
            np.testing.assert_array_equal(mine[name], native[name])
        everything = frozenset(range(IMAGES))
        assert len(labels_without(loader._subset, recipes, everything)["cls"]) == 0


@CODECS
def test_reads_without_mapping(both: dict[str, Path], codec: str) -> None:
    """On network file systems shards are read, not mapped; the stream is the same."""
    with make(both[codec]) as loader:
        expected = [digest(batch) for batch in loader]
    with make(reader.open(both[codec], split="train", io="pread")) as loader:
        assert [digest(batch) for batch in loader] == expected


def test_each_picture_is_decoded_about_once(
    both: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a reuse window that is much smaller than the dataset, and a real epoch of mosaics."""
    monkeypatch.setattr(
        "yolodata.pipeline.subset.reuse_window", lambda images: {"streams": 4, "window": 3}
    )
    mosaic = AugmentConfig(imgsz=IMGSZ, mosaic=1.0, mixup=0.5)
    outputs = decodes = 0
    for rank in range(2):
        with make(both["jpeg"], 2, augment=mosaic, rank=rank, world_size=2, epochs=3) as loader:
            for _ in range(3):
                outputs += sum(len(batch["im_file"]) for batch in loader)
            assert len(loader._open_backend().images._images) <= 6 + 4 * 2
            decodes += loader.telemetry.read().counts["decodes"]
    # Twelve pictures fill the window again in each epoch, as many as are left in it.
    assert outputs == 3 * 62
    assert decodes <= 1.05 * outputs


def test_oldest_pictures_go_first() -> None:
    read: list[int] = []

    def load(images: list[int], memory: list[Any]) -> list[tuple[Any, str]]:
        read.extend(images)
        return [(np.full(3, image, np.uint8), "") for image in images]

    pictures = ImageCache(ImageSource(load, threads=1, capacity=3), Telemetry())

    def use(*images: int, age: int) -> None:
        ready = threading.Event()
        lease = pictures.acquire(
            np.array(images), lambda lease: ready.set(), age=age, bases=frozenset(images)
        )
        assert ready.wait(10)
        pictures.release(lease)

    for age, images in enumerate([(1,), (2,), (1, 3), (4,), (1, 3, 4), (2,)]):
        use(*images, age=age)
    assert read == [1, 2, 3, 4, 2]  # 2 made room for 4, although 1 came first
    pictures.close()


def test_batches_keep_their_memory() -> None:
    buffers = BufferPool(spare=2)
    first = buffers.take(2, 8, 8)
    view = first[1, 0]
    address = first.data_ptr()
    del first
    view.fill_(7)
    others = [buffers.take(2, 8, 8) for _ in range(3)]
    assert address not in [other.data_ptr() for other in others]  # the view still holds it
    assert (view == 7).all()
    del view
    assert buffers.take(2, 8, 8).data_ptr() == address  # nobody looks any more
    assert buffers.take(1, 8, 8).shape == (1, 3, 8, 8)
    assert len({buffers.take(2, 8, 8).data_ptr() for _ in range(5)}) == 1
    shared = torch.utils.dlpack.from_dlpack(others[0])
    address = others[0].data_ptr()
    others.clear()
    assert buffers.take(2, 8, 8).data_ptr() != address
    assert shared.shape == (2, 3, 8, 8)


@CODECS
def test_memory_of_batches_is_used_again(both: dict[str, Path], codec: str) -> None:
    with make(both[codec], 4) as loader:
        addresses = {batch["img"].data_ptr() for _ in range(3) for batch in loader}
        assert len(addresses) <= 2 + 4  # prefetched, handed out, and on the way between


@CODECS
def test_handed_out_batches_never_change(both: dict[str, Path], codec: str) -> None:
    with make(both[codec], 4) as loader:
        kept = [(batch["img"][0], digest(batch), batch) for batch in loader]
        views = [(view, view.clone()) for view, _, _ in kept[::2]]
        assert [digest(batch) for _, _, batch in kept] == [d for _, d, _ in kept]
        del kept
        list(loader)
        list(loader)
    assert all(torch.equal(view, copy) for view, copy in views)


def threads() -> int:
    return len(os.listdir("/proc/self/task"))


def settles_at(count: int) -> bool:
    deadline = time.monotonic() + 60
    while threads() != count and time.monotonic() < deadline:
        time.sleep(0.05)
    return threads() == count


@CODECS
def test_nothing_is_left_behind(both: dict[str, Path], codec: str) -> None:
    with make(both[codec], threads=3) as loader:  # OpenCV starts threads of its own, for good
        list(loader)
    gc.collect()
    time.sleep(0.2)
    before = threads()
    make(both[codec])  # never used: never starts anything
    assert threads() == before
    for _ in range(3):
        loader = make(both[codec], threads=3)
        next(iter(loader))
        assert threads() > before
        loader.close()
        loader.close()
        with pytest.raises(ConfigError, match="closed"):
            next(iter(loader))
    assert settles_at(before)
    loader = make(both[codec], threads=3)
    batch = next(iter(loader))
    del loader  # forgotten with batches in the making
    assert settles_at(before)
    assert batch["img"].float().mean() > 0


@CODECS
def test_errors_in_the_background_reach_the_consumer(
    both: dict[str, Path], codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with make(both[codec], check=True) as loader:
        iterator = iter(loader)
        next(iterator)

        def fail(*_: Any) -> Any:
            raise RuntimeError("no such picture")

        monkeypatch.setattr(ImageCache, "pointers", fail)
        with pytest.raises(RuntimeError, match="no such picture"):
            list(itertools.islice(iterator, 5))
        position = loader.state_dict()["position"]
        monkeypatch.undo()
        loader.reset()
        rest = list(iterator)
        assert position + sum(len(batch["im_file"]) for batch in rest) == IMAGES


def test_survives_an_interruption(both: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while waiting; the stream can be taken up again where it was."""
    with make(both["jpeg"]) as loader:
        expected = [digest(batch) for batch in loader]
    slow = sources.decode_into

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.05)
        return slow(*arguments)

    monkeypatch.setattr("yolodata.pipeline.image_reader.decode_into", slowly)
    with make(both["jpeg"]) as loader:
        got = []
        interruptions = 0
        iterator = iter(loader)
        while True:
            signal.signal(signal.SIGALRM, signal.default_int_handler)
            # Far shorter than a decode: it strikes while the batch is waited for.
            signal.setitimer(signal.ITIMER_REAL, 0.02 if interruptions < 5 else 0)
            try:
                batch = next(iterator)
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                interruptions += 1
                continue
            except StopIteration:
                break
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            got.append(digest(batch))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert interruptions > 0
    assert got == expected


@CODECS
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_says_so_in_a_forked_process(both: dict[str, Path], codec: str) -> None:
    with make(both[codec]) as loader:
        iterator = iter(loader)
        next(iterator)
        child = os.fork()
        if child == 0:
            status = 1
            try:
                next(iterator)
            except ConfigError as error:
                status = 0 if "fork" in str(error) else 2
            finally:
                loader.close()  # must not wait for threads that do not exist
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert len(list(iterator)) == len(loader) - 1
