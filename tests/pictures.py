"""Drawn pictures, label tables and settings for tests of the native core."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from yolodata import AugmentConfig, _native


def make_columns(
    sizes: list[tuple[int, int]],
    objects: int = 3,
    seed: int = 0,
    outlines: int = 0,
    oriented: bool = False,
    keypoints: tuple[int, int] | None = None,
) -> dict[str, Any]:
    """Some objects on every picture, for `index_of`.

    Args:
        sizes: (height, width) of each picture.
        objects: so many on each.
        seed: of their places and classes.
        outlines: polygons of seven, which get so many points.
        oriented: boxes at an angle; needs outlines.
        keypoints: kpt_shape: how many, and 3 for x, y and visibility or 2 for x and y alone, which
            are visible unless one of them is negative. Mirrored ones change places in pairs.
    """
    rng = np.random.default_rng(seed)
    count = len(sizes) * objects
    box = np.concatenate([rng.uniform(0.2, 0.8, (count, 2)), rng.uniform(0.05, 0.4, (count, 2))], 1)
    columns: dict[str, Any] = {
        "height": np.array([h for h, _ in sizes], np.uint32),
        "width": np.array([w for _, w in sizes], np.uint32),
        "object_offset": np.arange(len(sizes) + 1, dtype=np.uint64) * np.uint64(objects),
        "box": box.astype(np.float32),
        "outline_points": outlines,
        "oriented": oriented,
    }
    if outlines:
        turns = np.sort(rng.uniform(0, 2 * np.pi, (count, 7)), 1)[..., None]
        around = np.concatenate([np.cos(turns), np.sin(turns)], 2) * box[:, None, 2:] / 2
        columns["polygon_offset"] = np.arange(count + 1, dtype=np.uint64) * np.uint64(7)
        columns["polygon"] = (
            (box[:, None, :2] + around).clip(0, 1).astype(np.float32).reshape(-1, 2)
        )
    columns["cls"] = rng.integers(0, 5, count).astype(np.float32)
    if keypoints is not None:
        many, dims = keypoints
        xy = rng.uniform(-0.05, 1, (count, many, 2))
        visible = (xy >= 0).all(2) if dims == 2 else rng.integers(0, 3, xy.shape[:2])
        columns["keypoints"] = np.concatenate([xy, visible[..., None]], 2).astype(np.float32)
        partner = np.arange(many) ^ 1
        columns["flip_idx"] = np.where(partner < many, partner, many - 1).astype(np.int32)
    return columns


def index_of(columns: dict[str, Any]) -> _native.LabelTable:
    """The label table of these columns."""
    more = dict(columns)
    first = [more.pop(name) for name in ("height", "width", "object_offset", "cls", "box")]
    return _native.LabelTable(*first, **more)


def make_index(sizes: list[tuple[int, int]], *args: Any, **kwargs: Any) -> _native.LabelTable:
    """The label table of `make_columns`."""
    return index_of(make_columns(sizes, *args, **kwargs))


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
