"""Transforms that a device applies itself: Albumentations' bits, and the stream of the CPU."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from loading import grouped
from test_device import shards, stream, twin
from test_host_transforms import SETTINGS, often, seen

from yolodata import Loader
from yolodata._native import Filter
from yolodata.pipeline.albumentations.decisions import Decisions
from yolodata.pipeline.albumentations.filters import filter_of, is_exact
from yolodata.pipeline.albumentations.transforms import composed, seeds
from yolodata.pipeline.gpu.device_transforms import DeviceTransforms

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))

import small_render

__all__ = ["seen", "shards", "twin"]  # fixtures

KINDS: dict[str, Callable[[ModuleType], Any]] = {
    "blur": lambda A: A.Blur((3, 15)),
    "median": lambda A: A.MedianBlur((3, 7)),
    "grey": lambda A: A.ToGray(),
    "clahe": lambda A: A.CLAHE((1.0, 40.0)),
    "clahe of other tiles": lambda A: A.CLAHE((1.0, 8.0), (3, 5)),
    "brightness": lambda A: A.RandomBrightnessContrast((-0.9, 0.9), (-0.9, 0.9)),
    "safe brightness": lambda A: A.RandomBrightnessContrast(ensure_safe_range=True),
    "gamma": lambda A: A.RandomGamma((30, 300)),
}


def drawn(transform: Any, seed: int) -> dict[str, Any]:
    """Parameters of a transform."""
    transform.set_random_state(np.random.default_rng(seed), random.Random(seed))
    data = {"image": np.zeros((1, 1, 3), np.uint8)}
    params = transform.update_transform_params(transform.get_params(), data)
    return {**params, **transform.get_params_dependent_on_data(params, data)}


def pictures() -> list[Any]:
    """Noise of all sizes, and something smooth."""
    draw = np.random.default_rng(0)
    sizes = [(1, 1), (1, 40), (7, 5), (2, 3), (33, 129), (64, 96)]
    noise = [draw.integers(0, 256, (*size, 3), np.uint8) for size in sizes]
    smooth = cv2.GaussianBlur(draw.integers(0, 256, (160, 160, 3), np.uint8), (0, 0), 5)
    return [*noise, cv2.normalize(smooth, None, 0, 255, cv2.NORM_MINMAX)]


@pytest.mark.parametrize("kind", KINDS)
def test_filters_make_what_albumentations_makes(albumentations, kind: str) -> None:
    """The CUDA kernels' bodies, on the CPU. Pictures are RGB here, and BGR there."""
    transform = KINDS[kind](albumentations)
    assert is_exact(transform)
    changed = 0
    for seed, picture in enumerate(pictures()):
        if kind == "grey" and 1 in picture.shape:
            continue  # Albumentations loses such an axis
        params = drawn(transform, seed)
        made = filter_of(transform, params)
        assert made is not None
        bgr = np.ascontiguousarray(picture[..., ::-1])
        want = transform.apply_with_params(params, image=bgr)["image"][..., ::-1]
        assert np.array_equal(made.apply(picture), want)
        changed += not np.array_equal(want, picture)
    assert changed > 3


def test_what_a_device_cannot_do_exactly_is_the_cpus(albumentations, monkeypatch) -> None:
    A = albumentations

    class Own(A.Blur):
        """Somebody's."""

    for transform in (Own(), A.InvertImg(), A.GaussianBlur()):
        assert not is_exact(transform)
    for transform, params in (
        (A.Blur(), {"kernel": 17}),
        (A.MedianBlur(), {"kernel": 9}),
        (A.ToGray(method="max"), {}),
        (A.ToGray(num_output_channels=1), {}),
        (A.CLAHE(tile_grid_size=(9, 9)), {"clip_limit": 2.0}),
        (A.RandomBrightnessContrast(brightness_by_max=False), {"alpha": 1.0, "beta": 2.0}),
    ):
        assert filter_of(transform, params) is None

    def unlike(self: Any, image: Any, **params: Any) -> Any:
        """As another version might: one unit apart in one place."""
        made = blurred(self, image, **params)
        made[-1, -1, 0] ^= 1
        return made

    blurred = A.Blur.apply
    assert is_exact(A.Blur())
    monkeypatch.setattr(A.Blur, "apply", unlike)
    assert not is_exact(A.Blur())
    # Neither is what this version calls otherwise, or what fails.
    monkeypatch.setattr(A.MedianBlur, "get_params", lambda self: {"ksize": 3})
    assert not is_exact(A.MedianBlur())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Filter.blur(4), "odd number of pixels wide, 15 at most, got 4"),
        (lambda: Filter.blur(17), "odd number of pixels wide, 15 at most, got 17"),
        (lambda: Filter.median(9), "odd number of pixels wide, 7 at most, got 9"),
        (lambda: Filter.clahe(2.0, 9, 8), "1 to 64 tiles, got 9 x 8"),
        (lambda: Filter.clahe(2.0, 0, 8), "1 to 64 tiles, got 0 x 8"),
        (lambda: Filter.clahe(float("nan"), 8, 8), "clip_limit must be a finite number"),
        (lambda: Filter.grey().apply(np.zeros((0, 4, 3), np.uint8)), "16384 .* a side, got 0 x 4"),
    ],
)
def test_filters_that_cannot_be(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(  # tests/test_host_transforms.py has the others
    ("codec", "cache"), [("raw", "none"), ("raw", "device"), ("jpeg", "host")]
)
def test_every_tier_gives_the_stream_of_the_cpu(
    albumentations, shards, twin, seen, codec, cache
) -> None:
    """Samples with one filter, with many, and with some that have to go to the CPU."""
    A = albumentations
    on_cpu = (codec, cache) == ("raw", "none")  # which renders there
    for transforms in (often(A), [A.RandomGamma(p=1.0)], [A.CLAHE(p=0.2)]):
        with Loader(
            shards[codec], 8, **grouped(transforms=transforms, epochs=2, **SETTINGS)
        ) as loader:
            want, images = stream(loader), len(loader.dataset)
        of_epochs = [s for epoch in (0, 1) for s in seeds(4, epoch, np.arange(images))]
        found = Decisions(composed(transforms), on_device=not on_cpu)(of_epochs)
        away = sorted(of_epochs[at] for at, filters in found.items() if filters is None)
        for prefetch, seed in ((1, 0), (4, 1)):
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
                counts = loader.telemetry.read().counts
            assert sorted(seen) == away
            assert counts.get("filtered", 0) == len(found) - len(away)
            assert on_cpu or counts["filtered"] > 0
        seen.clear()


def test_a_filter_that_is_left_out_is_noticed(albumentations, shards, twin, monkeypatch) -> None:
    """Negative control."""
    settings = {**SETTINGS, "transforms": [albumentations.Blur(p=0.3)]}
    with Loader(shards["raw"], 8, **grouped(**settings)) as loader:
        want = stream(loader, 1)
    monkeypatch.setattr(DeviceTransforms, "enqueue", lambda *_: None)
    with Loader(shards["raw"], 8, **grouped(device="cuda", cache="device", **settings)) as loader:
        assert stream(loader, 1) != want


@pytest.mark.gpu
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 129), (640, 640)])
def test_the_kernels_make_what_their_bodies_make(size: tuple[int, int]) -> None:
    """All kinds in one launch, of pictures that are not aligned."""
    draw = np.random.default_rng(1)
    pictures = draw.integers(0, 256, (len(small_render.FILTERS), *size, 3), np.uint8)
    got = small_render.filtered(torch.from_numpy(pictures).cuda()).numpy()
    for made, one, picture in zip(got, small_render.FILTERS.values(), pictures, strict=True):
        assert np.array_equal(made, one.apply(picture))
