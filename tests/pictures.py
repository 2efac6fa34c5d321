"""Drawn pictures, label tables and settings for tests of the native core."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from yolodata import AugmentConfig, _native


def make_index(
    sizes: list[tuple[int, int]], objects: int = 3, seed: int = 0, outlines: int = 0
) -> _native.Index:
    """Some objects on every picture; with `outlines`, polygons of seven that get so many points."""
    rng = np.random.default_rng(seed)
    n = len(sizes)
    offsets = np.arange(n + 1, dtype=np.uint64) * np.uint64(objects)
    box = np.concatenate(
        [rng.uniform(0.2, 0.8, (n * objects, 2)), rng.uniform(0.05, 0.4, (n * objects, 2))], 1
    )
    corners: tuple[Any, ...] = (None, None)
    if outlines:
        turns = np.sort(rng.uniform(0, 2 * np.pi, (n * objects, 7)), 1)[..., None]
        around = np.concatenate([np.cos(turns), np.sin(turns)], 2) * box[:, None, 2:] / 2
        points = (box[:, None, :2] + around).clip(0, 1).astype(np.float32).reshape(-1, 2)
        corners = np.arange(n * objects + 1, dtype=np.uint64) * np.uint64(7), points
    return _native.Index(
        np.array([h for h, _ in sizes], np.uint32),
        np.array([w for _, w in sizes], np.uint32),
        offsets,
        rng.integers(0, 5, n * objects).astype(np.float32),
        box.astype(np.float32),
        *corners,
        outline_points=outlines,
    )


def make_images(sizes: list[tuple[int, int]], seed: int = 0) -> dict[int, Any]:
    """Smooth pictures with noise, so that neither flat areas nor edges are missing."""
    rng = np.random.default_rng(seed)
    images = {}
    for i, (h, w) in enumerate(sizes):
        y, x = np.mgrid[0:h, 0:w]
        waves = np.stack(
            [127 + 120 * np.sin((x * a + y * b) / 9.0) for a, b in rng.normal(size=(3, 2))], -1
        )
        images[i] = np.clip(waves + rng.integers(-9, 9, (h, w, 3)), 0, 255).astype(np.uint8)
    return images


@st.composite
def situations(draw: Any) -> tuple[AugmentConfig, list[tuple[int, int]], int, int]:
    imgsz = draw(st.sampled_from([32, 33, 48, 64, 96]))
    side = st.integers(1, imgsz)
    sizes = draw(st.lists(st.tuples(side, side), min_size=1, max_size=6))
    share = st.sampled_from([0.0, 0.5, 1.0])
    config = AugmentConfig(
        imgsz=imgsz,
        mosaic=draw(share),
        mosaic_grid=draw(st.sampled_from([4, 9])),
        degrees=draw(st.sampled_from([0.0, 0.0, 10.0, 180.0])),
        translate=draw(st.sampled_from([0.0, 0.1, 0.9])),
        scale=draw(st.sampled_from([0.0, 0.5, 0.9, (0.05, 8.0)])),
        shear=draw(st.sampled_from([0.0, 5.0, 80.0])),
        perspective=draw(st.sampled_from([0.0, 0.0, 0.001, 0.05])),
        hsv_h=draw(st.sampled_from([0.0, 0.015, 1.0])),
        hsv_s=draw(share),
        hsv_v=draw(share),
        flipud=draw(share),
        fliplr=draw(share),
        bgr=draw(share),
        mixup=draw(share),
        cutmix=draw(share),
        copy_paste=draw(share),
        copy_paste_mode=draw(st.sampled_from(["flip", "mixup"])),
    )
    return config, sizes, draw(st.integers(0, 2**64 - 1)), draw(st.integers(0, 2**32 - 1))
