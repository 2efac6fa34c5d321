"""Colours to L*a*b* and back, and CLAHE: the bits of the installed OpenCV."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from pictures import make_images

from yolodata import _native
from yolodata._native import Filter

Array = np.ndarray[Any, np.dtype[Any]]

SIZES = [(1, 1), (1, 50), (7, 5), (2, 90), (33, 640), (64, 60), (123, 200)]
GRIDS = [(8, 8), (1, 1), (3, 5), (60, 1)]
LIMITS = [0.0, 0.5, 1.0, 2.7, 4.0, 40.0]


def opencvs_clahe(picture: Array, limit: float, grid: tuple[int, int]) -> Array:
    lab = cv2.cvtColor(picture, cv2.COLOR_RGB2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=limit, tileGridSize=grid).apply(lab[..., 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)


def our_clahe(picture: Array, limit: float, grid: tuple[int, int]) -> Array:
    """The filter takes RGB for BGR that is taken for RGB."""
    made = Filter.clahe(limit, *grid).apply(np.ascontiguousarray(picture[..., ::-1]))
    return np.asarray(made[..., ::-1])


def various(height: int, width: int) -> Array:
    """Waves with noise on the left, noise of few grey levels, which are clipped, on the right."""
    picture = make_images([(height, width)], seed=height)[0]
    rng = np.random.default_rng(width)
    picture[:, width // 2 :] = rng.integers(90, 97, picture[:, width // 2 :].shape)
    return picture


@pytest.fixture(scope="module")
def every_colour() -> Array:
    """uint8 (4096, 4096, 3)."""
    colours = np.arange(1 << 24, dtype=np.uint32)
    channels = [(colours >> shift).astype(np.uint8) for shift in (16, 8, 0)]
    return np.stack(channels, -1).reshape(4096, 4096, 3)


def test_every_colour_has_opencvs_lab_bytes(every_colour: Array) -> None:
    ours = _native.lab_of(every_colour)
    assert np.array_equal(ours, cv2.cvtColor(every_colour, cv2.COLOR_RGB2LAB))
    # In floating point, as textbooks have it, some colours are a step off.
    some = every_colour[::64]
    exact = cv2.cvtColor(some.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    textbook = np.rint(exact * [2.55, 1, 1] + [0, 128, 128]).astype(int)
    assert 1 <= np.abs(textbook - ours[::64]).max() <= 3


def test_every_lab_colour_has_opencvs_bytes(every_colour: Array) -> None:
    ours = _native.rgb_of_lab(every_colour)
    assert np.array_equal(ours, cv2.cvtColor(every_colour, cv2.COLOR_LAB2RGB))
    assert not np.array_equal(ours, cv2.cvtColor(every_colour, cv2.COLOR_LAB2LRGB))


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_clahe_of_any_size_has_opencvs_bits(size: tuple[int, int]) -> None:
    """Also where neither, one or both sides divide into tiles, and tiles exceed the picture."""
    picture = various(*size)
    for grid, limit in product(GRIDS, LIMITS):
        ours = our_clahe(picture, limit, grid)
        assert np.array_equal(ours, opencvs_clahe(picture, limit, grid)), (grid, limit)


def test_clahe_of_photographs_has_opencvs_bits(real_data: Path) -> None:
    files = sorted((real_data / "coco-mini" / "images").rglob("*.jpg"))[:8]
    assert files
    for i, file in enumerate(files):
        picture = cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB)
        limit, grid = 1 + 3 * i / len(files), (8, 8) if i % 2 else (5, 9)
        ours = our_clahe(picture, limit, grid)
        assert np.array_equal(ours, opencvs_clahe(picture, limit, grid)), file


@pytest.mark.parametrize(
    "off", [(2.7, (5, 3)), (2.5, (3, 5)), (0.0, (3, 5))], ids=["turned grid", "limit", "no limit"]
)
def test_other_settings_give_other_pictures(off: tuple[float, tuple[int, int]]) -> None:
    picture = various(123, 200)
    assert not np.array_equal(our_clahe(picture, *off), opencvs_clahe(picture, 2.7, (3, 5)))
