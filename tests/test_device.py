"""Batches on a device: the CPU's stream from every cache, and nothing used too early."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loading import digest, draw_dataset, grouped, packed
from twin import TwinStream, stand_in

from yolodata import AugmentConfig, ConfigError, DeviceOptions, Loader, ValidationLoader
from yolodata.pipeline import image_reader, letterbox
from yolodata.pipeline import loader as loaders
from yolodata.pipeline.backend import wait_for
from yolodata.pipeline.gpu import backend as gpu_backend
from yolodata.pipeline.gpu import batch as gpu_batch
from yolodata.pipeline.gpu import dataset_cache, image_decoder
from yolodata.pipeline.gpu import jpeg_decoder as dali
from yolodata.pipeline.gpu import stream as gpu_stream
from yolodata.pipeline.gpu.backend import GpuBackend
from yolodata.pipeline.gpu.dataset_cache import FreeMemory, choose
from yolodata.pipeline.gpu.jpeg_decoder import release_unused_memory
from yolodata.pipeline.options import CACHES
from yolodata.shards import reader

IMGSZ = 64
RECIPE = AugmentConfig(imgsz=IMGSZ, mixup=0.4, cutmix=0.4, degrees=8.0, flipud=0.3)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same pictures as raw and as JPEG shards; none needs resizing."""
    root = tmp_path_factory.mktemp("device")
    yaml = draw_dataset(root / "data", {"train": 41}, sides=(40, 65), seed=3)
    squared(root / "data" / "images" / "train")
    return {codec: packed(yaml, root / codec, codec, IMGSZ) for codec in ("raw", "jpeg")}


def squared(folder: Path) -> None:
    """Give every picture a longer side of IMGSZ, so that decoders alone decide its pixels."""
    import cv2

    for file in folder.glob("*.jpg"):
        picture = cv2.imread(str(file))
        size = (IMGSZ, min(IMGSZ, picture.shape[0]))
        cv2.imwrite(str(file), cv2.resize(picture, size))


@pytest.fixture
def twin(monkeypatch: pytest.MonkeyPatch) -> TwinStream:
    stream = TwinStream()
    stand_in(monkeypatch, lambda: stream)
    return stream


def stream(loader: Loader, epochs: int = 2, convert: Any = None) -> list[str]:
    hashes = []
    for _ in range(epochs):
        for batch in loader:
            if convert is not None:
                batch["img"] = convert(batch["img"])
            batch = {k: v.cpu() if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
            picture = batch["img"].contiguous()
            if picture.dtype == torch.bfloat16:  # NumPy has no such thing
                picture = picture.view(torch.int16)
            hashes.append(digest({**batch, "img": picture}))
    return hashes


def as_output(name: str) -> Any:
    return None if name == "uint8" else lambda x: (x.float() / 255).to(getattr(torch, name))


@pytest.mark.parametrize("cache", ["device", "host", "none"])
@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_every_tier_gives_the_stream_of_the_cpu(shards, twin, codec, cache) -> None:
    with Loader(shards[codec], 8, **grouped(augment=RECIPE, seed=4, threads=2)) as loader:
        want = stream(loader)
    for prefetch, seed in ((1, 0), (3, 1), (6, 2)):
        twin._random.seed(seed)
        with Loader(
            shards[codec],
            8,
            **grouped(
                augment=RECIPE, seed=4, threads=2, prefetch=prefetch, device="cuda", cache=cache
            ),
        ) as loader:
            assert stream(loader) == want
            assert loader.cache == cache
            assert loader.preflight


@pytest.mark.parametrize("cache", ["device", "none"])
@pytest.mark.parametrize("output", ["uint8", "float16", "bfloat16"])
def test_outputs_need_no_further_pass(shards, twin, output, cache) -> None:
    with Loader(shards["raw"], 8, augment=RECIPE) as loader:
        want = stream(loader, 1, as_output(output))
    for channels_last in (False, True):
        with Loader(
            shards["raw"],
            8,
            **grouped(
                augment=RECIPE,
                device="cuda",
                cache=cache,
                output=output,
                channels_last=channels_last,
            ),
        ) as loader:
            batch = next(iter(loader))
            order = torch.channels_last if channels_last else torch.contiguous_format
            assert batch["img"].is_contiguous(memory_format=order)
            loader.set_epoch(0)
            assert stream(loader, 1) == want


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
@pytest.mark.parametrize("cache", ["device", "host", "none"])
@pytest.mark.parametrize("too_small", [0, 16])
def test_validation_is_the_cpus(shards, twin, monkeypatch, codec, cache, too_small) -> None:
    """Pictures, padding and labels; also where labels told a size that images do not fit."""
    shapes = letterbox.batch_shapes
    monkeypatch.setattr(letterbox, "batch_shapes", lambda *given: shapes(*given) - too_small)
    settings: dict[str, Any] = {"split": "train", "stride": 16}
    with ValidationLoader(shards[codec], 8, **settings) as loader:
        want = stream(loader)
        assert bool(loader._shrunk) == bool(too_small)
    options = DeviceOptions("cuda", cache)
    with ValidationLoader(shards[codec], 8, **settings, device=options) as loader:
        assert stream(loader) == want
        assert loader.cache == ("none" if too_small else cache)


def test_the_consumers_thread_only_takes_what_is_ready(shards, twin, monkeypatch) -> None:
    """After the first batch, others plan, enqueue and collate: it has better things to do."""
    here, done_here = threading.current_thread(), []

    def note(owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def noted(*arguments: Any) -> Any:
            if threading.current_thread() is here:
                done_here.append(name)
            return real(*arguments)

        monkeypatch.setattr(owner, name, noted)

    note(GpuBackend, "submit")
    note(gpu_batch.GpuBatch, "_enqueue")
    note(loaders, "training_batch")
    with Loader(
        shards["raw"], 8, **grouped(augment=RECIPE, device="cuda", cache="device", prefetch=3)
    ) as loader:
        batches = (batch for _ in range(3) for batch in loader)
        next(batches)
        assert set(done_here) == {"submit", "_enqueue", "training_batch"}
        for turn in range(2 * len(loader)):
            loader._prefetcher.settle()
            for step in loader._prefetcher._steps:
                wait_for(step.pending._writing)
            done_here.clear()
            next(batches)
            assert not done_here or turn == 0  # what was planned with the first one


def test_a_loader_on_a_device_resumes_and_changes_its_mind(shards, twin) -> None:
    with Loader(shards["raw"], 8, augment=RECIPE) as loader:
        want = stream(loader, 3)
    steps = len(want) // 3
    with Loader(
        shards["raw"], 8, **grouped(augment=RECIPE, device="cuda", cache="device")
    ) as first:
        ahead = iter(first)
        for _ in range(3):
            next(ahead)
        state = first.state_dict()
    for cache in ("device", "none"):
        with Loader(
            shards["raw"], 8, **grouped(augment=RECIPE, device="cuda", cache=cache)
        ) as second:
            for _ in zip(second, range(2), strict=False):
                pass  # batches made ahead are thrown away by what follows
            second.load_state_dict(state)
            assert stream(second, 1) == want[3:steps]
            second.set_epoch(2)
            assert stream(second, 1) == want[2 * steps :]


def test_memory_given_back_too_early_is_noticed(shards, twin, monkeypatch) -> None:
    """Negative control of the twin, with labels: addresses that are overwritten would crash it."""
    with Loader(shards["raw"], 8, augment=RECIPE) as loader:
        want = stream(loader, 1)
    monkeypatch.setattr(
        gpu_stream.StagingPool, "give", lambda self, m, event: self._idle.insert(0, m)
    )

    def consumed(pause: float) -> list[str]:
        """Slowly: batches are enqueued ahead, and not done when they are."""
        how = grouped(augment=RECIPE, device="cuda", cache="none", prefetch=4)
        with Loader(shards["raw"], 8, **how) as loader:
            return stream(loader, 1, lambda picture: time.sleep(pause) or picture)

    assert any(consumed(pause) != want for pause in (0.1, 0.5, 2.0))  # slower on a busy machine


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_a_device_without_room_falls_one_tier_and_says_so(shards, twin, codec, caplog) -> None:
    with Loader(shards[codec], 8, augment=RECIPE) as loader:
        want = stream(loader, 1)
    twin.free = 300_000  # enough for batches, not for the dataset
    caplog.set_level(logging.WARNING, "yolodata")
    with Loader(
        shards[codec], 8, **grouped(augment=RECIPE, device="cuda", cache="device")
    ) as loader:
        assert stream(loader, 1) == want
        assert loader.cache == "host"
    assert "cache=device does not work here, cache=host is used instead" in caplog.text
    assert "300000" in caplog.text


def test_memory_that_cannot_be_locked_falls_to_rendering_on_the_cpu(
    shards, twin, monkeypatch, caplog
) -> None:
    with Loader(shards["raw"], 8, augment=RECIPE) as loader:
        want = stream(loader, 1)
    pinned = twin.pinned

    def refuse(nbytes: int) -> torch.Tensor:
        if nbytes > 200_000:
            raise RuntimeError("cannot lock memory")
        return pinned(nbytes)

    monkeypatch.setattr(twin, "pinned", refuse)
    with Loader(shards["raw"], 8, **grouped(augment=RECIPE, device="cuda", cache="host")) as loader:
        assert stream(loader, 1) == want
        assert loader.cache == "none"
    assert "cannot lock memory" in caplog.text


@pytest.mark.parametrize("seconds", [None, (1.0, 1.0), (1.0, 0.5)], ids=["measured", "map", "copy"])
def test_the_shards_map_is_read_where_it_lies(shards, twin, monkeypatch, seconds) -> None:
    """Where the driver accepts it and a copy is not faster; the map is let go of on close."""
    locked: dict[int, int] = {}
    monkeypatch.setattr(twin, "register_host", lambda a, n: locked.setdefault(a, n) and a)
    monkeypatch.setattr(twin, "unregister_host", locked.pop)
    if seconds is not None:
        times = dict(zip(("map", "copy"), seconds, strict=True))
        monkeypatch.setattr(dataset_cache, "render_seconds", lambda *_: times)
    with Loader(shards["raw"], 8, augment=RECIPE) as loader:
        want = stream(loader, 1)
    loader = Loader(shards["raw"], 8, **grouped(augment=RECIPE, device="cuda", cache="host"))
    assert stream(loader, 1) == want
    assert "pictures/s are rendered from the map" in loader.preflight
    if seconds is None:
        assert bool(locked) == ("; the shards' map:" in loader.preflight)
    else:
        assert bool(locked) == (seconds[1] == 1.0)
    assert all(address % 4096 == 0 for address in locked)
    # A copy that was only tried is gone.
    assert any(kept.nbytes > 200_000 for kept in twin._pinned.values()) == (not locked)
    loader.close()
    assert not locked


@pytest.mark.parametrize("cache", ["device", "host", "none"])
def test_shards_without_a_map_are_read(shards, twin, cache) -> None:
    """As on a network file system."""
    with Loader(shards["raw"], 8, augment=RECIPE) as loader:
        want = stream(loader, 1)
    with (
        reader.open(shards["raw"], split="train", io="pread") as dataset,
        Loader(dataset, 8, **grouped(augment=RECIPE, device="cuda", cache=cache)) as loader,
    ):
        assert stream(loader, 1) == want
        assert loader.cache == cache


@pytest.mark.parametrize("cache", ["device", "host", "none"])
def test_what_cannot_be_read_is_grey_in_every_tier(shards, twin, tmp_path, cache) -> None:
    yaml = draw_dataset(tmp_path / "data", {"train": 12}, sides=(60, 65))
    root = packed(yaml, tmp_path / "shards", "jpeg", IMGSZ)
    file = root / "train" / "shard-00000.safetensors"
    with Loader(root, 4, **grouped(augment=RECIPE, max_unreadable=1.0)) as loader:
        offset = int(loader._subset.shards.offset[5])
        header = file.stat().st_size - loader._subset.shards.shard_data(0).nbytes
    content = bytearray(file.read_bytes())
    content[header + offset : header + offset + 400] = bytes(400)
    file.write_bytes(content)
    with Loader(root, 4, **grouped(augment=RECIPE, max_unreadable=1.0)) as loader:
        want = stream(loader, 1)
        bad = loader.unreadable()
        assert len(bad) == 1
    with Loader(
        root, 4, **grouped(augment=RECIPE, max_unreadable=1.0, device="cuda", cache=cache)
    ) as loader:
        got = stream(loader, 1)
        assert list(loader.unreadable()) == list(bad)
    assert len(got) == len(want)
    close = AugmentConfig(imgsz=IMGSZ, mosaic=0.0)  # one image a picture: easy to look at
    with Loader(
        root, 1, **grouped(augment=close, max_unreadable=1.0, device="cuda", cache=cache)
    ) as loader:
        grey = [b for b in loader if b["im_file"][0] in bad]
        assert len(grey) == 1
        assert len(grey[0]["cls"]) == 0
        assert grey[0]["img"].float().std() == 0


@pytest.mark.parametrize("cache", ["device", "host", "none"])
def test_memory_that_ends_while_decoding_makes_nothing_grey(
    shards, twin, monkeypatch, cache
) -> None:
    """The image is a good one: a smaller cache takes it, and where there is none, nothing does."""

    def broken(self: Any) -> Any:
        raise RuntimeError("no such library")

    monkeypatch.setattr(dali.DaliDecoder, "_build", broken)  # so that all are decoded on the CPU
    with Loader(shards["jpeg"], 8, augment=RECIPE) as loader:
        want = stream(loader, 1)
    refused = []

    def without_memory(dataset: Any, image: int, *rest: Any) -> Any:
        if image == 5 and (len(refused) < 2 or cache == "none"):
            refused.append(image)
            raise MemoryError
        return image_reader.decode_into(dataset, image, *rest)

    for place in (dataset_cache, image_decoder):
        monkeypatch.setattr(place, "decode_into", without_memory)
    with Loader(shards["jpeg"], 8, **grouped(augment=RECIPE, device="cuda", cache=cache)) as loader:
        if cache == "none":
            with pytest.raises(MemoryError):
                stream(loader, 1)
        else:
            assert stream(loader, 1) == want
        assert not loader.unreadable()
    assert refused


def test_memory_is_given_back_when_nobody_writes_to_it(shards, twin, monkeypatch) -> None:
    """Also where one reader of a batch lacks memory, and the others are at work."""

    def broken(self: Any) -> Any:
        raise RuntimeError("no such library")

    monkeypatch.setattr(dali.DaliDecoder, "_build", broken)
    made, writing, given = [], [], []

    class Noted(image_decoder.ImageDecoder):
        def __init__(self, *what: Any) -> None:
            super().__init__(*what)
            made.append(what)

    monkeypatch.setattr(gpu_backend, "ImageDecoder", Noted)

    def slow(dataset: Any, image: int, *rest: Any) -> Any:
        if image == 1:
            raise MemoryError
        writing.append(image)
        time.sleep(0.2)
        image_reader.decode_into(dataset, image, *rest)
        writing.remove(image)

    with reader.open(shards["jpeg"], split="train") as dataset:
        with Loader(
            dataset, 8, **grouped(augment=RECIPE, device="cuda", cache="none", threads=4)
        ) as loader:
            list(loader)
        decoder = image_decoder.ImageDecoder(*made[0])  # another one, which nobody else asks
        monkeypatch.setattr(image_decoder, "decode_into", slow)
        monkeypatch.setattr(decoder._staging, "give", lambda *_: given.append(list(writing)))
        with pytest.raises(MemoryError):
            decoder.read([1, 2, 4, 6])
        assert given == [[]]
        decoder.close()


def test_memory_is_freed_by_close(shards, twin, monkeypatch) -> None:
    alive: list[Any] = []
    memory = twin.empty

    def watched(nbytes: int) -> torch.Tensor:
        made = memory(nbytes)
        alive.append(weakref.ref(made))
        return made

    monkeypatch.setattr(twin, "empty", watched)
    for cache in ("device", "none"):
        loader = Loader(shards["jpeg"], 8, **grouped(augment=RECIPE, device="cuda", cache=cache))
        batches = iter(loader)
        next(batches)
        loader.close()
        del batches
        gc.collect()
        kept = [ref() for ref in alive if ref() is not None]
        assert not kept
        alive.clear()


GB = 10**9


def test_auto_leaves_room_for_training() -> None:
    room = FreeMemory(device_free=70 * GB, device_total=80 * GB, host=64 * GB)
    assert choose("auto", "raw", 20 * GB, room).cache == "device"
    assert choose("auto", "raw", 30 * GB, room).cache == "host"
    assert choose("auto", "jpeg", 30 * GB, room).cache == "none"
    assert choose("auto", "raw", 40 * GB, room).cache == "none"
    assert choose("auto", "raw", 20 * GB, FreeMemory(10 * GB, 80 * GB, 64 * GB)).cache == "host"
    assert "30.0 GB" in choose("auto", "raw", 30 * GB, room).why
    assert "up to 2.0 GB of page-locked" in choose("auto", "raw", 40 * GB, room, 0, 2 * GB).why
    # What is kept of JPEG shards takes device memory, too.
    window = choose("auto", "jpeg", 30 * GB, room, 2 * GB)
    assert (window.cache, "up to 2.0 GB of them in device memory" in window.why) == ("none", True)
    assert choose("auto", "jpeg", 30 * GB, room, 25 * GB).cache == "host"


def test_ranks_share_the_memory_of_a_machine(shards, twin, monkeypatch) -> None:
    seen = []
    monkeypatch.setattr(
        gpu_backend, "choose", lambda *a, real=choose: seen.append(a[3]) or real(*a)
    )
    for ranks in (1, 4):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", str(ranks))
        with Loader(
            shards["jpeg"], 8, **grouped(augment=RECIPE, device="cuda", cache="none")
        ) as loader:
            loader._open_backend()
            assert "of them in device memory" in loader.preflight
    assert seen[1].host < 0.5 * seen[0].host


@given(
    st.sampled_from(CACHES), st.sampled_from(["raw", "jpeg"]),
    *[st.integers(0, 10**13)] * 4,
)  # fmt: skip
def test_auto_never_takes_what_is_not_there(cache, codec, nbytes, free, more, host) -> None:
    choice = choose(cache, codec, nbytes, FreeMemory(free, free + more, host))
    assert cache in ("auto", choice.cache)
    assert choice.why
    if cache == "auto" and nbytes:
        assert choice.cache != "device" or nbytes < free
        assert choice.cache != "host" or nbytes < host


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "cuda", "cache": "disk"}, "auto, device, host, none"),
        ({"cache": "device"}, "for a CUDA device"),
        ({"output": "float16"}, "choose a CUDA device"),
        ({"device": "cuda", "output": "float64"}, "uint8, float16, bfloat16"),
        ({"device": "mps"}, "cpu or cuda"),
        ({"device": "cuda", "hw_decoder_load": 2}, "'auto' or a share, 0 to 1, got 2"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(shards, settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Loader(shards["raw"], 4, **grouped(**settings))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_named(shards) -> None:
    with pytest.raises(ConfigError, match="finds no CUDA device"):
        Loader(shards["raw"], 4, device="cuda")
    with pytest.raises(ConfigError, match="finds no CUDA device"):
        ValidationLoader(shards["raw"], 4, device="cuda:1")


@pytest.mark.gpu
@pytest.mark.parametrize("cache", ["device", "host", "none"])
@pytest.mark.parametrize("codec", ["raw", "jpeg"])
@pytest.mark.parametrize("output", ["uint8", "float16"])
def test_a_real_device_gives_the_stream_of_the_cpu(shards, codec, cache, output) -> None:
    if codec == "jpeg" and cache != "host":
        pytest.skip("the device's JPEG decoder may differ by a grey level; see test_dali")
    with Loader(shards[codec], 8, augment=RECIPE, seed=4) as loader:
        want = stream(loader, 2, as_output(output))
    with Loader(
        shards[codec],
        8,
        **grouped(augment=RECIPE, seed=4, device="cuda", cache=cache, output=output),
    ) as loader:
        assert stream(loader) == want
        assert loader.cache == cache


@pytest.mark.gpu
@pytest.mark.parametrize("cache", ["device", "none"])
def test_a_real_devices_jpeg_decoder_is_close(shards, cache) -> None:
    with (
        Loader(shards["jpeg"], 8, augment=RECIPE, seed=4) as host,
        Loader(
            shards["jpeg"], 8, **grouped(augment=RECIPE, seed=4, device="cuda", cache=cache)
        ) as there,
    ):
        for ours, theirs in zip(there, host, strict=True):
            apart = (ours["img"].cpu().int() - theirs["img"].int()).abs().float()
            assert apart.mean() < 1.0
            assert torch.equal(ours["bboxes"].cpu(), theirs["bboxes"])


@pytest.mark.gpu
def test_a_real_devices_jpeg_decoder_gives_one_stream(shards) -> None:
    """Decoded once, or when needed; alone in a batch, or among many."""
    streams = []
    for cache, prefetch in (("device", 4), ("none", 4), ("none", 1)):
        with Loader(
            shards["jpeg"],
            8,
            **grouped(augment=RECIPE, seed=4, device="cuda", cache=cache, prefetch=prefetch),
        ) as loader:
            streams.append(stream(loader, 2))
    assert streams[0] == streams[1] == streams[2]


@pytest.mark.gpu
def test_a_busy_consumer_never_sees_a_batch_too_early(shards) -> None:
    """The consumer's stream is kept busy while batches are made and thrown away."""
    with Loader(shards["raw"], 8, augment=RECIPE) as loader:
        want = [torch.as_tensor(np.asarray(batch["img"])).long().sum() for batch in loader]
    heavy = torch.randn(3000, 3000, device="cuda")
    sums = []
    with Loader(
        shards["raw"], 8, **grouped(augment=RECIPE, device="cuda", cache="device", prefetch=2)
    ) as loader:
        for _ in range(4):
            loader.set_epoch(0)
            for batch in loader:
                heavy = torch.tanh(heavy @ heavy)
                sums.append(batch["img"].long().sum())
                del batch
    assert torch.stack(sums).cpu().tolist() == [int(s) for s in want] * 4


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("codec", "cache"), [("raw", "device"), ("jpeg", "device"), ("jpeg", "none")]
)
def test_a_real_devices_memory_is_freed(shards, codec, cache) -> None:
    """As the driver counts it: what torch and DALI keep in their pools is not free."""

    def free() -> int:
        gc.collect()
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        return torch.cuda.mem_get_info()[0]

    def use() -> int:
        loader = Loader(shards[codec], 8, **grouped(augment=RECIPE, device="cuda", cache=cache))
        next(iter(loader))
        left = torch.cuda.mem_get_info()[0]
        loader.close()
        return left

    use()  # libraries and kernels are loaded once, and stay
    before = free()
    assert use() < before
    after = free()
    assert after >= before - (1 << 20)
    release_unused_memory()
    assert free() <= after + (1 << 20)  # nothing was left to be given back


@pytest.mark.parametrize("dali_works", [True, False])
def test_several_runs_of_the_decoder_are_under_way(shards, twin, monkeypatch, dali_works) -> None:
    """Each waits for the other; without DALI, CPU threads do."""
    monkeypatch.setattr(gpu_backend, "DECODED_AT_ONCE", 4)
    both = threading.Barrier(2, timeout=300)
    with Loader(
        shards["jpeg"], 8, **grouped(augment=RECIPE, device="cuda", cache="none", threads=2)
    ) as loader:
        decoder = loader._open_backend()._images._source.read.__self__
        if not dali_works:
            decoder._dali = None
        where, name = (dali, "_outputs") if dali_works else (image_decoder, "decode_into")
        real, met = getattr(where, name), threading.Event()

        def meet(*arguments: Any) -> Any:
            if not met.is_set():
                both.wait()
                met.set()
            return real(*arguments)

        monkeypatch.setattr(where, name, meet)
        next(iter(loader))
        assert met.is_set()


def test_the_engines_share_is_passed_on_and_reported(shards, twin, monkeypatch) -> None:
    monkeypatch.setattr(dali.DaliDecoder, "hw_decoder_load", property(lambda self: self._load))
    for cache in ("device", "none"):
        for asked, share in (("auto", 0.0), (0.4, 0.4)):
            with Loader(
                shards["jpeg"],
                8,
                **grouped(augment=RECIPE, device="cuda", cache=cache, hw_decoder_load=asked),
            ) as loader:
                assert loader.hw_decoder_load is None
                next(iter(loader))
                assert loader.hw_decoder_load == share
                assert loader.preflight.endswith(f"; hw_decoder_load={share}")


def test_without_dali_pictures_are_decoded_on_the_cpu(shards, twin, monkeypatch, caplog) -> None:
    def broken(self: Any) -> Any:
        raise RuntimeError("no such library")

    with Loader(shards["jpeg"], 8, augment=RECIPE) as loader:
        want = stream(loader, 1)
    monkeypatch.setattr(dali.DaliDecoder, "_build", broken)
    for cache in ("device", "none"):
        with Loader(
            shards["jpeg"], 8, **grouped(augment=RECIPE, device="cuda", cache=cache)
        ) as loader:
            assert stream(loader, 1) == want
            assert loader.cache == cache
    assert "decoded on the CPU and uploaded, without DALI" in caplog.text
    assert "no such library" in caplog.text
