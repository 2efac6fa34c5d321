"""Albumentations beside a device: the CPU's stream, and only those samples leave that have to."""

from __future__ import annotations

import random
import re
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from loading import damage, draw_dataset, grouped, packed
from test_device import IMGSZ, RECIPE, as_output, shards, stream, twin
from test_device_memory import Stubborn
from test_segment import with_outlines
from training import network

from yolodata import AugmentConfig, Loader, YolodataError
from yolodata.pipeline.albumentations import pool
from yolodata.pipeline.albumentations.decisions import Decisions
from yolodata.pipeline.albumentations.transforms import composed, seeds
from yolodata.pipeline.gpu import host_transforms

__all__ = ["shards", "twin"]  # fixtures
CACHES = [(codec, cache) for codec in ("raw", "jpeg") for cache in ("device", "host", "none")]
SETTINGS: dict[str, Any] = {"augment": RECIPE, "seed": 4, "threads": 2}


def now_and_then(A: ModuleType) -> list[Any]:
    """Fire on a sample in six; a device has no filters for them."""
    return [A.GaussianBlur(p=0.05), A.ToSepia(p=0.05), A.Solarize(p=0.05), A.Sharpen(p=0.05)]


def often(A: ModuleType) -> list[Any]:
    """All that a device applies, several to a sample; and one that it does not."""
    return [
        A.Blur((3, 15), p=0.3), A.MedianBlur(p=0.3), A.ToGray(p=0.2), A.Solarize(p=0.1),
        A.CLAHE(p=0.3), A.RandomBrightnessContrast(p=0.3), A.RandomGamma(p=0.3), A.CLAHE(p=0.1),
    ]  # fmt: skip


both_ways = pytest.mark.parametrize("transforms", [now_and_then, often])


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Seeds of the samples that transforms were given."""
    drawn: list[int] = []
    changed = pool.apply

    def noted(transforms: Any, picture: Any, seed: int) -> Any:
        drawn.append(seed)
        return changed(transforms, picture, seed)

    for module in (pool, host_transforms):
        monkeypatch.setattr(module, "apply", noted)
    return drawn


@pytest.mark.parametrize(("codec", "cache"), CACHES)
def test_every_tier_gives_the_stream_of_the_cpu(
    albumentations, shards, twin, seen, codec, cache
) -> None:
    """With a few samples on a host_job and with all, and no others."""
    for transforms in (now_and_then(albumentations), [albumentations.Sharpen(p=1.0)]):
        with Loader(
            shards[codec], 8, **grouped(transforms=transforms, epochs=2, **SETTINGS)
        ) as loader:
            want, images = stream(loader), len(loader.dataset)
        drawn = [s for epoch in (0, 1) for s in seeds(4, epoch, np.arange(images))]
        firing = sorted(drawn[i] for i in Decisions(composed(transforms))(drawn))
        assert 0 < len(firing) == len(seen)
        assert sorted(seen) == firing
        for prefetch, seed in ((1, 0), (3, 1), (6, 2)):
            seen.clear()
            twin._random.seed(seed)
            with Loader(
                shards[codec],
                8,
                **grouped(
                    transforms=transforms,
                    prefetch=prefetch,
                    epochs=2,
                    device="cuda",
                    cache=cache,
                    **SETTINGS,
                ),
            ) as loader:
                assert stream(loader) == want
                read = loader.telemetry.read()
            assert sorted(seen) == firing
            assert read.counts["transformed"] == len(firing)
            assert read.seconds["transform"] > 0
        seen.clear()


@pytest.mark.parametrize("output", ["uint8", "float16", "bfloat16"])
@pytest.mark.parametrize("channels_last", [False, True])
@both_ways
def test_they_come_back_as_what_is_asked_for(
    albumentations, shards, twin, transforms, output, channels_last
) -> None:
    settings = {**SETTINGS, "transforms": transforms(albumentations)}
    with Loader(shards["raw"], 8, **grouped(**settings)) as loader:
        want = stream(loader, 1, as_output(output))
    with Loader(
        shards["raw"],
        8,
        **grouped(
            device="cuda", cache="device", output=output, channels_last=channels_last, **settings
        ),
    ) as loader:
        assert stream(loader, 1) == want


@pytest.mark.parametrize("name", ["InvertImg", "MedianBlur"])  # for the CPU, and for the device
def test_masks_go_with_them(albumentations, twin, tmp_path: Path, name: str) -> None:
    """What is pasted is placed in the first half, from masks that lie beside the recipes."""
    yaml = with_outlines(draw_dataset(tmp_path / "set", {"train": 16, "val": 2}))
    for split in ("train", "val"):
        packed(yaml, tmp_path / "shards", "raw", IMGSZ, splits=[split])
    settings = {
        "augment": AugmentConfig(imgsz=IMGSZ, copy_paste=0.8, degrees=8.0, flipud=0.5),
        "task": "segment",
        "transforms": [getattr(albumentations, name)(p=0.5)],
    }
    with Loader(tmp_path / "shards", 4, **grouped(**settings)) as loader:
        want = stream(loader)
    with Loader(
        tmp_path / "shards", 4, **grouped(device="cuda", cache="device", **settings)
    ) as loader:
        assert stream(loader) == want


def test_looking_at_a_sample_too_early_is_noticed(
    albumentations, shards, twin, monkeypatch
) -> None:
    """Negative control of the twin."""
    settings = {**SETTINGS, "transforms": now_and_then(albumentations)}
    with Loader(shards["raw"], 8, **grouped(**settings)) as loader:
        want = stream(loader, 1)

    class Early:
        def query(self) -> bool:
            return True

    begin = host_transforms.HostTransformJob.begin

    def early(self: Any, *arguments: Any) -> None:
        self._rendered = Early()
        begin(self, *arguments)

    monkeypatch.setattr(host_transforms.HostTransformJob, "begin", early)
    with Loader(shards["raw"], 8, **grouped(device="cuda", cache="device", **settings)) as loader:
        assert stream(loader, 1) != want


def test_what_is_thrown_away_leaves_nothing_behind(albumentations, shards, twin) -> None:
    settings = {**SETTINGS, "transforms": [albumentations.Sharpen(p=0.7)]}
    with Loader(shards["raw"], 8, **grouped(**settings)) as loader:
        want = stream(loader, 2)
        loader.close_mosaic()
        closed = stream(loader, 1)
    for cache in ("device", "none"):
        loader = Loader(shards["raw"], 8, **grouped(device="cuda", cache=cache, **settings))
        batches = iter(loader)
        next(batches)
        state = loader.state_dict()
        loader.set_epoch(1)
        assert stream(loader, 1) == want[len(want) // 2 :]
        loader.load_state_dict(state)
        assert stream(loader, 1) == want[1 : len(want) // 2]
        loader.set_epoch(2)
        next(iter(loader))
        loader.close_mosaic()
        loader.set_epoch(2)
        assert stream(loader, 1) == closed
        next(iter(loader))
        loader.close()
        assert not [t.name for t in threading.enumerate() if "transform" in t.name]


@pytest.mark.parametrize(("codec", "cache"), [("raw", "device"), ("jpeg", "none"), ("raw", "none")])
@both_ways
def test_a_batch_that_had_no_memory_is_made_later(
    albumentations, shards, twin, transforms, codec, cache
) -> None:
    settings = {**SETTINGS, "transforms": transforms(albumentations)}
    with Loader(shards[codec], 8, **grouped(**settings)) as loader:
        want = stream(loader, 1)
    draw = random.Random(0)
    with Loader(shards[codec], 8, **grouped(device="cuda", cache=cache, **settings)) as loader:
        loader._open_backend()
        twin.short = lambda: draw.random() < 0.5
        stubborn = Stubborn(loader)
        assert stream(stubborn, 1) == want
        assert stubborn.errors


def test_what_cannot_be_read_is_grey_there_too(albumentations, shards, twin, tmp_path) -> None:
    broken = damage(shards["jpeg"], tmp_path / "broken", [3, 5])
    settings = {**SETTINGS, "transforms": now_and_then(albumentations), "max_unreadable": 1.0}
    with Loader(broken, 8, **grouped(**settings)) as loader:
        want = stream(loader, 1)
        assert len(loader.unreadable()) == 2
    for cache in ("device", "none"):
        with Loader(broken, 8, **grouped(device="cuda", cache=cache, **settings)) as loader:
            assert stream(loader, 1) == want


@pytest.mark.parametrize("cache", ["device", "none"])
def test_a_transform_that_fails_ends_the_run(albumentations, shards, twin, cache) -> None:
    class Failing(albumentations.ToGray):
        def apply(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("no such luck")

    with Loader(
        shards["raw"],
        8,
        **grouped(transforms=[Failing(p=0.1)], device="cuda", cache=cache, **SETTINGS),
    ) as loader:
        for _ in range(2):  # and does so again
            with pytest.raises(YolodataError, match="a transform failed: RuntimeError: no such"):
                list(loader)


def test_a_trainer_keeps_its_device(albumentations, twin, tmp_path, monkeypatch) -> None:
    """With what Ultralytics applies by default, of which nothing leaves it; that is said once."""
    from test_ultralytics import QUIET

    from yolodata import DetectionTrainer
    from yolodata.ultralytics import trainer as trainers

    yaml = draw_dataset(tmp_path / "set", {"train": 60, "val": 4})
    values = {**QUIET, "project": str(tmp_path), "imgsz": IMGSZ, "model": network()}
    trainer: Any = DetectionTrainer(overrides={**values, "data": str(yaml), "epochs": 1})
    trainer.model = torch.nn.Conv2d(3, 8, 3)  # its order of memory is asked for
    said: list[str] = []
    monkeypatch.setattr(trainers.LOGGER, "info", lambda text="", *_: said.append(str(text)))
    streams, changed = [], []
    for device in ("cpu", "cuda"):
        trainer.device = torch.device(device)
        with trainer.get_dataloader(trainer.data["train"], 16, -1, "train") as loader:
            assert loader.device == device
            streams.append(stream(loader, 3))
            loader._prefetcher.settle()
            for step in loader._prefetcher._steps:  # transformed while nobody waits
                step.pending.wait()
            counts = loader.telemetry.read().counts
            changed.append((counts.get("transformed", 0), counts.get("filtered", 0)))
    assert streams[0] == streams[1]
    (on_cpu, none), (away, filtered) = changed
    assert 0 < on_cpu < 30
    assert (none, away, filtered) == (0, 0, on_cpu)
    (told,) = [text for text in said if "Albumentations" in text]
    assert re.search(r"about [345]\.\d% of the samples; about 0\.0% have to go to the CPU", told)


@pytest.mark.gpu
@pytest.mark.parametrize("cache", ["device", "host", "none"])
@pytest.mark.parametrize(
    ("codec", "output"), [("raw", "uint8"), ("raw", "float16"), ("jpeg", "uint8")]
)
def test_a_real_device_gives_the_stream_of_the_cpu(
    albumentations, shards, codec, cache, output
) -> None:
    if codec == "jpeg" and cache != "host":
        pytest.skip("the device's JPEG decoder may differ by a grey level; see test_dali")
    for transforms in (
        now_and_then(albumentations),
        often(albumentations),
        [albumentations.Sharpen(p=1.0)],
    ):
        settings = {**SETTINGS, "transforms": transforms}
        with Loader(shards[codec], 8, **grouped(**settings)) as loader:
            want = stream(loader, 2, as_output(output))
        with Loader(
            shards[codec], 8, **grouped(device="cuda", cache=cache, output=output, **settings)
        ) as loader:
            assert stream(loader) == want


@pytest.mark.gpu
def test_a_busy_consumer_never_sees_a_sample_too_early(albumentations, shards) -> None:
    """The consumer's stream is kept busy while samples are away."""
    settings = {**SETTINGS, "transforms": now_and_then(albumentations)}
    with Loader(shards["raw"], 8, **grouped(**settings)) as loader:
        want = [batch["img"].long().sum() for batch in loader]
    heavy, sums = torch.randn(3000, 3000, device="cuda"), []
    with Loader(
        shards["raw"], 8, **grouped(device="cuda", cache="device", prefetch=2, **settings)
    ) as loader:
        for _ in range(4):
            loader.set_epoch(0)
            for batch in loader:
                heavy = torch.tanh(heavy @ heavy)
                sums.append(batch["img"].long().sum())
                del batch
    assert torch.stack(sums).cpu().tolist() == [int(s) for s in want] * 4
