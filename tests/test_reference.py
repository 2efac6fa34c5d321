"""The native renderer against the NumPy oracle, bit for bit; the oracle against OpenCV."""

from __future__ import annotations

import copy
from typing import Any

import cv2
import numpy as np
import pytest
import reference
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import yolodata
from yolodata import _native

Drawn = tuple[dict[str, Any], dict[int, Any]]


def native(recipe: dict[str, Any], images: dict[int, Any], slow: bool = False) -> Any:
    return _native.render(yolodata.Recipe.from_dict(recipe), images, reference=slow)


def check(recipe: dict[str, Any], images: dict[int, Any]) -> None:
    expected = reference.render(recipe, images)
    np.testing.assert_array_equal(native(recipe, images), expected)
    np.testing.assert_array_equal(native(recipe, images, slow=True), expected)


def one_tile(image: Any, matrix: Any = np.eye(3), size: Any = None, **changes: Any) -> Drawn:
    height, width = image.shape[:2]
    tile = {"image": 5, "x0": 0, "y0": 0, "x1": 0, "y1": 0, "x2": width, "y2": height}
    tile |= {"height": height, "width": width}
    matrix = np.asarray(matrix, np.float32)
    layer = {
        "canvas": [height, width],
        "tiles": [tile],
        "matrix": [float(v) for v in matrix.reshape(-1)],
        "perspective": bool((matrix[2] != (0, 0, 1)).any()),
        "scale": 1.0,
    }
    recipe = {"size": list(size or (height, width)), "layers": [layer], "mixup": None}
    recipe |= {"cutmix": None, "hsv": None, "flipud": False, "fliplr": False, "bgr": False}
    return {**recipe, **changes}, {5: image}


def noise(height: int, width: int, seed: int = 0) -> Any:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# The oracle itself: against values found by hand, and against OpenCV.


def test_oracle_moves_by_whole_pixels() -> None:
    image = noise(3, 4)
    recipe, images = one_tile(image, [[1, 0, 1], [0, 1, -1], [0, 0, 1]])
    expected = np.full((3, 4, 3), 114, np.uint8)
    expected[:2, 1:] = image[1:, :3]
    picture = reference.render(recipe, images)
    np.testing.assert_array_equal(picture, expected.transpose(2, 0, 1))
    recipe |= {"flipud": True, "fliplr": True, "bgr": True}
    np.testing.assert_array_equal(reference.render(recipe, images), picture[::-1, ::-1, ::-1])


def test_oracle_blends_neighbours_with_grey_outside() -> None:
    recipe, images = one_tile(np.array([[[0, 100, 201]]], np.uint8), size=(1, 1))
    recipe["layers"][0]["matrix"] = [1.0, 0, 0.5, 0, 1, 0.25, 0, 0, 1]  # we look at (-0.5, -0.25)
    picture = reference.render(recipe, images)
    expected = [114 * 0.625 + value * 0.375 for value in (0, 100, 201)]  # 71.25, 108.75, 146.625
    assert picture.reshape(3).tolist() == [round(value) for value in expected]


def test_later_tiles_win_and_mixes_come_in_order() -> None:
    images = {i: np.full((2, 2, 3), v, np.uint8) for i, v in enumerate((10, 200, 50))}
    tile = {"x0": 0, "y0": 0, "x1": 0, "y1": 0, "x2": 2, "y2": 2, "height": 2, "width": 2}
    recipe, _ = one_tile(images[0])
    base = recipe["layers"][0]
    base["tiles"] = [{**tile, "image": 0}, {**tile, "image": 1, "x2": 1}]
    other = {**base, "tiles": [{**tile, "image": 2}]}
    recipe |= {
        "layers": [base, other, {**base, "tiles": [{**tile, "image": 0}]}],
        "mixup": {"layer": 1, "ratio": 0.25},
        "cutmix": {"layer": 2, "area": [0, 1, 2, 2]},
    }
    check(recipe, images)
    assert reference.render(recipe, images)[0].tolist() == [[87, 40], [10, 10]]


@pytest.mark.parametrize("perspective", [False, True])
def test_oracle_warps_as_opencv(perspective: bool) -> None:
    random = np.random.default_rng(1)
    wrong = total = 0
    for seed in range(6):
        image = noise(90, 120, seed)
        matrix = np.eye(3) + random.normal(0, 0.2, (3, 3))
        matrix[:2, 2] += random.uniform(-20, 20, 2)
        matrix[2] = (*random.normal(0, 1e-3, 2), 1) if perspective else (0, 0, 1)
        recipe, images = one_tile(image, matrix, (100, 110))
        m = np.asarray(matrix, np.float32)
        grey = (114, 114, 114)
        if perspective:
            theirs = cv2.warpPerspective(image, m, (110, 100), borderValue=grey)
        else:
            theirs = cv2.warpAffine(image, m[:2], (110, 100), borderValue=grey)
        ours = reference.render(recipe, images).transpose(1, 2, 0)
        assert np.abs(ours.astype(int) - theirs).max() <= 1
        wrong, total = wrong + (ours != theirs).sum(), total + theirs.size
    assert wrong <= 0.001 * total


# Native = oracle.


@st.composite
def matrices(draw: st.DrawFn, canvas: tuple[int, int], size: tuple[int, int]) -> tuple[Any, bool]:
    """Any map that has an inverse; most show something of the canvas, some nothing."""
    number = st.floats(-2, 2, width=32)
    kind = draw(st.sampled_from(["move", "axes", "short", "affine", "perspective", "extreme"]))
    m = np.eye(3)
    if kind == "axes":
        m[0, 0], m[1, 1] = draw(number), draw(number)
    elif kind == "short":  # weights of few bits: sums that lie on ties
        m[0, 0], m[1, 1] = (draw(st.sampled_from([0.5, 1, 2, 4, -1])) for _ in range(2))
    elif kind != "move":
        m[:2, :2] = [[draw(number) for _ in range(2)] for _ in range(2)]
    if kind == "perspective":
        m[2, :2] = [draw(st.floats(-0.25, 0.25, width=32)) for _ in range(2)]
        m[2, 2] = draw(st.sampled_from([1.0, -1.0, 0.5, 0.0]))
    elif kind == "extreme":
        m[:2] *= 10.0 ** draw(st.integers(-30, 30))
    centre = np.array([canvas[1] / 2, canvas[0] / 2, 1.0])
    step = 1 if kind == "move" else 1 / 128 if kind == "short" else None
    for axis, side in enumerate((size[1], size[0])):
        offset = draw(st.integers(-side, side)) if step else draw(st.floats(-side, side, width=32))
        shift = side / 2 + offset / 3 - m[axis] @ centre
        m[axis, 2] += np.round(shift / step) * step if step else shift
    m = m.astype(np.float32)
    with np.errstate(all="ignore"):
        exact = m.astype(np.float64)
        assume(np.isfinite(m).all() and np.linalg.det(exact) != 0)
    layer = {"matrix": m.reshape(-1)}
    assume(np.isfinite(reference.inverse(layer)).all())
    return [float(v) for v in layer["matrix"]], kind == "perspective"


@st.composite
def layers(draw: st.DrawFn, images: dict[int, Any], size: tuple[int, int]) -> dict[str, Any]:
    canvas = draw(st.integers(1, 30)), draw(st.integers(1, 50))
    tiles = []
    for _ in range(draw(st.integers(1, 5))):
        number = draw(st.sampled_from(sorted(images)))
        height, width = images[number].shape[:2]
        y0 = draw(st.integers(-(height // 2), canvas[0] - height // 2))
        x0 = draw(st.integers(-(width // 2), canvas[1] - width // 2))
        y1, y2 = (min(max(y, 0), canvas[0]) for y in (y0, y0 + height))
        x1, x2 = (min(max(x, 0), canvas[1]) for x in (x0, x0 + width))
        if draw(st.integers(0, 3)) == 0:  # only a part of what would fit
            x1, y1 = draw(st.integers(x1, x2)), draw(st.integers(y1, y2))
        tile = {"image": number, "height": height, "width": width, "x0": x0, "y0": y0}
        tiles.append({**tile, "x1": x1, "y1": y1, "x2": x2, "y2": y2})
    matrix, perspective = draw(matrices(canvas, size))
    return {
        "canvas": list(canvas),
        "tiles": tiles,
        "matrix": matrix,
        "perspective": perspective,
        "scale": 1.0,
    }


@st.composite
def runs(draw: st.DrawFn, height: int, width: int) -> list[list[int]]:
    """A mask: rows of runs that do not touch."""
    edges = st.lists(st.integers(0, width), min_size=2, max_size=8, unique=True).map(sorted)
    found = []
    for y in sorted(draw(st.sets(st.integers(0, height - 1), max_size=12))):
        ends = draw(edges) if width else []
        found += [[y, a, b] for a, b in zip(ends[::2], ends[1::2], strict=False)]
    return found


@st.composite
def samples(draw: st.DrawFn) -> Drawn:
    """Recipes of every kind over tiny images."""
    seed = draw(st.integers(0, 2**32 - 1))
    side = st.integers(1, 30)
    images = {
        3 * i: noise(draw(side), draw(side), seed + i) for i in range(draw(st.integers(1, 3)))
    }
    size = draw(st.integers(1, 33)), draw(st.integers(1, 70))
    recipe: dict[str, Any] = {
        "size": list(size),
        "layers": [draw(layers(images, size))],
        "mixup": None,
        "cutmix": None,
        "hsv": None,
    }
    if draw(st.booleans()):
        recipe["layers"].append(draw(layers(images, size)))
        recipe["mixup"] = {"layer": 1, "ratio": draw(st.floats(0, 1))}
    if draw(st.booleans()):
        recipe["layers"].append(draw(layers(images, size)))
        x = sorted(draw(st.integers(0, size[1])) for _ in range(2))
        y = sorted(draw(st.integers(0, size[0])) for _ in range(2))
        area = [x[0], y[0], x[1], y[1]]
        recipe["cutmix"] = {"layer": len(recipe["layers"]) - 1, "area": area}
    for i in range(len(recipe["layers"])):
        layer = recipe["layers"][i]
        if draw(st.booleans()):  # pasted from itself, mirrored
            layer["paste"] = {"layer": i, "objects": [], "runs": draw(runs(*layer["canvas"]))}
        elif draw(st.booleans()):  # or from a layer of its own
            source = {"layer": len(recipe["layers"]), "objects": [], "runs": draw(runs(*size))}
            layer["paste"] = source
            recipe["layers"].append(draw(layers(images, size)))
    if draw(st.booleans()):
        recipe["hsv"] = np.random.default_rng(seed).uniform(-1, 1, 3).tolist()
    for flag in ("flipud", "fliplr", "bgr"):
        recipe[flag] = draw(st.booleans())
    return recipe, images


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(samples())
def test_native_equals_oracle(drawn: Drawn) -> None:
    check(*drawn)


def test_every_pair_of_bytes_is_mixed_as_doubles_do() -> None:
    first = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 256, 1).repeat(3, 2)
    images = {5: np.ascontiguousarray(first), 6: np.ascontiguousarray(first.swapaxes(0, 1))}
    recipe, _ = one_tile(images[5])
    other = copy.deepcopy(recipe["layers"][0])
    other["tiles"][0]["image"] = 6
    recipe["layers"].append(other)
    ratios = [0.0, 1.0, 0.5, 0.25, 1 / 3, 2 / 255, 1e-9, 1 - 2**-53]
    ratios += list(np.random.default_rng(0).beta(32, 32, 60))
    for ratio in ratios:
        recipe["mixup"] = {"layer": 1, "ratio": float(ratio)}
        expected = (images[5] * ratio + images[6] * (1 - ratio)).astype(np.uint8)
        np.testing.assert_array_equal(native(recipe, images).transpose(1, 2, 0), expected)


@pytest.mark.parametrize("tilt", [0.02, 0.4, 1.2])
@pytest.mark.parametrize("perspective", [0.0, 0.0004])
def test_long_rows_that_turn(tilt: float, perspective: float) -> None:
    turn = [[np.cos(tilt), -np.sin(tilt), 90], [np.sin(tilt), np.cos(tilt), -40]]
    matrix = np.array([*turn, [perspective, -perspective, 1]])
    recipe, images = one_tile(noise(300, 500, 1), matrix, size=[90, 700])
    for flip in (False, True):
        recipe["fliplr"] = flip
        check(recipe, images)


@pytest.mark.parametrize("grid", [4, 9])
@pytest.mark.parametrize("size", [64, 96])
def test_planned_recipes_equal_oracle(grid: int, size: int) -> None:
    shapes = [(size, size - 7 * i) if i % 2 else (size - 5 * i, size) for i in range(8)]
    images = {i: noise(*shape, i) for i, shape in enumerate(shapes)}
    index = _native.LabelTable(
        np.array([shape[0] for shape in shapes], np.uint32),
        np.array([shape[1] for shape in shapes], np.uint32),
        np.arange(9, dtype=np.uint64),
        np.zeros(8, np.float32),
        np.tile(np.array([0.5, 0.5, 0.4, 0.4], np.float32), (8, 1)),
    )
    shared = {"mosaic": 0.7, "mixup": 0.4, "cutmix": 0.4, "flipud": 0.5, "bgr": 0.5}
    kinds = [{}, {"degrees": 30.0, "shear": 10.0}, {"perspective": 0.001, "degrees": 10.0}]
    for kind in kinds:
        config = yolodata.AugmentConfig(imgsz=size, mosaic_grid=grid, **shared, **kind)
        for position in range(8):
            recipe = _native.plan(index, config.to_native(), size, 0, position)
            check(recipe.to_dict(), images)


def test_maps_without_measure_are_rendered_or_refused() -> None:
    image = noise(7, 9)
    for value in (1e-30, 1e-6, 1e6, 1e30):
        for w in (0.0, 1e-20, -1.0):
            matrix = [[value, 0.3, 5], [0.1, -value, 3], [0.01, -0.02, w]]
            recipe, images = one_tile(image, matrix, (33, 65))
            if np.isfinite(reference.inverse(recipe["layers"][0])).all():
                check(recipe, images)
            else:
                with pytest.raises(ValueError, match="matrix"):
                    native(recipe, images)


def test_half_a_pixel_is_seen() -> None:
    recipe, images = one_tile(noise(20, 30), [[0.9, 0.1, 2], [-0.1, 0.9, 3], [0, 0, 1]])
    shifted = copy.deepcopy(recipe)
    shifted["layers"][0]["matrix"][2] += 0.5
    same = native(shifted, images) == reference.render(recipe, images)
    assert same.mean() < 0.5


# Colours: all of them.


@pytest.fixture(scope="module")
def every_colour() -> Any:
    channels = np.arange(256, dtype=np.uint8)
    return np.stack(np.meshgrid(*[channels] * 3, indexing="ij"), -1).reshape(4096, 4096, 3)


@pytest.mark.parametrize("seed", range(4))
def test_every_colour_as_opencv(every_colour: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    draws = (random.uniform(-1, 1, 3) * [(0.015, 0.7, 0.4), (0.5, 0.9, 0.9)][seed % 2]).tolist()
    theirs = reference.jitter(every_colour, draws)
    ours = native(*one_tile(every_colour, hsv=draws)).transpose(1, 2, 0)
    wrong = (ours != theirs).sum()
    assert wrong <= 1e-3 * theirs.size
    if wrong:
        assert np.abs(ours.astype(np.int16) - theirs).max() <= 1
    part = every_colour[seed::64]
    np.testing.assert_array_equal(ours[seed::64], reference.recolour(part, draws))
