"""Masks, oriented boxes and pasted objects, against OpenCV and against what they have to mean."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import make_images, make_index

from yolodata import AugmentConfig, Recipe, _native
from yolodata.pipeline.letterbox import oriented_boxes

Outlines = list[list[tuple[float, float]]]

corner = st.tuples(st.floats(0, 1, width=32), st.floats(0, 1, width=32))
polygons = st.lists(st.lists(corner, min_size=3, max_size=12), min_size=1, max_size=6)


def index_of(
    outlines: Outlines, size: int, points: int, oriented: bool = False
) -> _native.LabelTable:
    """One picture of `size` x `size` with objects of these outlines, in 0-1."""
    flat = np.array([point for outline in outlines for point in outline], np.float32)
    lengths = [len(outline) for outline in outlines]
    boxes = []
    for outline in outlines:
        low, high = np.min(outline, 0), np.max(outline, 0)
        boxes.append([*(low + high) / 2, *(high - low)])
    side = np.array([size], np.uint32)
    return _native.LabelTable(
        side, side,
        np.array([0, len(outlines)], np.uint64),
        np.arange(len(outlines), dtype=np.float32),
        np.array(boxes, np.float32),
        np.cumsum([0, *lengths]).astype(np.uint64), flat,
        outline_points=points, oriented=oriented,
    )  # fmt: skip


def whole(size: int, left: int = 0, top: int = 0) -> Any:
    return np.array([[size, size, 1.0, left, top]], np.float64)


@settings(max_examples=80, deadline=None)
@given(polygons, st.sampled_from([1, 2, 3, 4, 8]), st.integers(17, 90), st.integers(-30, 30))
def test_masks_are_opencvs(outlines: Outlines, ratio: int, size: int, shift: int) -> None:
    """Every pixel, for any polygon, cut off or self-crossing or not, at any ratio."""
    index, places = index_of(outlines, size, 40), whole(size, shift, -shift)
    images = np.zeros(1, np.int64)
    found = _native.letterbox_masks(index, images, places, size, size, ratio, False)["masks"]
    drawn = _native.letterbox_outlines(index, images, places)
    assert len(found) == len(drawn)
    for mask, outline in zip(found, drawn, strict=True):
        canvas = np.zeros((size, size), np.uint8)
        cv2.fillPoly(canvas, [outline.astype(np.int32)], 1)
        small = size // ratio
        np.testing.assert_array_equal(mask, cv2.resize(canvas, (small, small)))


@settings(max_examples=40, deadline=None)
@given(polygons, st.integers(17, 90))
def test_overlap_shows_the_small_ones(outlines: Outlines, size: int) -> None:
    index, images = index_of(outlines, size, 40), np.zeros(1, np.int64)
    separate = _native.letterbox_masks(index, images, whole(size), size, size, 2, False)
    together = _native.letterbox_masks(index, images, whole(size), size, size, 2, True)
    masks, order = separate["masks"], together["order"]
    assert sorted(order) == list(range(len(outlines)))
    areas = masks.sum((1, 2)).astype(int)[order]
    seen = areas[areas > 0]
    assert (np.diff(seen) <= 0).all()
    expected = np.zeros(masks.shape[1:], int)
    for number, which in enumerate(order, 1):
        expected[masks[which] == 1] = number
    np.testing.assert_array_equal(together["masks"][0], expected)
    if len(set(areas)) == len(areas):  # of equal ones, each way has another on top
        shown = separate["sem_masks"][0] == together["sem_masks"][0]
        assert shown[expected > 0].all()


@settings(max_examples=80, deadline=None)
@given(polygons, st.integers(0, 359))
def test_oriented_boxes_are_opencvs(outlines: Outlines, degrees: int) -> None:
    """The planner's native rectangles are those that validation has OpenCV make."""
    size = 640
    index = index_of(outlines, size, 30, oriented=True)
    cosine, sine = np.cos(np.radians(degrees)) * 0.6, np.sin(np.radians(degrees)) * 0.6
    centre = size / 2
    matrix = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1]], np.float64)
    matrix[:2, 2] = centre - matrix[:2, :2] @ [centre, centre]
    tile = {"image": 0, "x0": 0, "y0": 0, "x1": 0, "y1": 0, "x2": size, "y2": size}
    layer = {
        "canvas": [size, size], "tiles": [{**tile, "height": size, "width": size}],
        "matrix": matrix.ravel().tolist(), "perspective": False, "scale": 0.6,
    }  # fmt: skip
    recipe = Recipe.from_dict(
        {"size": [size, size], "layers": [layer], "mixup": None, "cutmix": None, "hsv": None,
         "flipud": False, "fliplr": False, "bgr": False}
    )  # fmt: skip
    found = _native.labels(recipe, index)
    kept = found["cls"][:, 0].astype(int)
    drawn = _native.letterbox_outlines(index, np.zeros(1, np.int64), whole(size))
    m = matrix.astype(np.float32)
    turned = [
        (np.column_stack([drawn[i], np.ones(len(drawn[i]), np.float32)]) @ m.T)[:, :2].copy()
        for i in kept
    ]
    expected = oriented_boxes(turned, (size, size))
    for ours, theirs in zip(found["bboxes"].astype(float), expected.astype(float), strict=True):
        sides = ours[2:4] * size, theirs[2:4] * size
        assert np.prod(sides[0]) == pytest.approx(np.prod(sides[1]), rel=1e-4, abs=0.05)
        turned_by = abs(ours[4] - theirs[4]) % np.pi
        if min(turned_by, np.pi - turned_by) < 1e-3:  # or both are smallest
            np.testing.assert_allclose(ours[:4], theirs[:4], atol=1e-5)


def pasted(mode: str, **changes: Any) -> tuple[Recipe, dict[int, Any], _native.LabelTable]:
    """A recipe that pastes, its images and its index."""
    sizes = [(96, 96)] * 6
    images, index = make_images(sizes), make_index(sizes, outlines=100)
    config = AugmentConfig(imgsz=96, copy_paste=1.0, copy_paste_mode=mode, **changes)
    for position in range(6):
        recipe = _native.plan(index, config.to_native(), 3, 0, position)
        if any(layer["paste"] for layer in recipe.to_dict()["layers"]):
            return recipe, images, index
    raise AssertionError("nothing was pasted")


@pytest.mark.parametrize("mode", ["flip", "mixup"])
def test_only_pasted_pixels_change(mode: str) -> None:
    """What is pasted is what the mask covers, and comes from where the recipe says."""
    still = {"hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0, "fliplr": 0.0, "translate": 0.0}
    recipe, images, _ = pasted(mode, mosaic=0.0, scale=0.0, **still)
    values = recipe.to_dict()
    paste = values["layers"][0]["paste"]
    plain = {**values, "layers": [{**layer, "paste": None} for layer in values["layers"]]}
    before = _native.render(Recipe.from_dict(plain), images)
    after = _native.render(recipe, images)
    mask = np.zeros((96, 96), bool)
    for y, x1, x2 in paste["runs"]:
        mask[y, x1:x2] = True
    assert 0 < mask.sum() < mask.size
    source = before[:, :, ::-1]
    if mode == "mixup":
        layers = [plain["layers"][paste["layer"]]]
        source = _native.render(Recipe.from_dict({**plain, "layers": layers}), images)
    np.testing.assert_array_equal(after[:, ~mask], before[:, ~mask])
    np.testing.assert_array_equal(after[:, mask], source[:, mask])


@pytest.mark.parametrize("mode", ["flip", "mixup"])
def test_pasted_objects_are_labelled(mode: str) -> None:
    """Twice the objects, or those of two pictures; each inside of the picture, with its mask."""
    recipe, _, index = pasted(mode, mosaic=0.0, scale=0.0, translate=0.0, fliplr=0.0)
    values = recipe.to_dict()
    count = len(values["layers"][0]["paste"]["objects"])
    plain = {**values, "layers": [{**layer, "paste": None} for layer in values["layers"]]}
    before = _native.labels(Recipe.from_dict(plain), index)
    after = _native.labels(recipe, index, 1, False)
    assert len(after["cls"]) == len(before["cls"]) + count
    np.testing.assert_array_equal(after["bboxes"][: len(before["cls"])], before["bboxes"])
    mask = np.zeros((96, 96), bool)
    for y, x1, x2 in values["layers"][0]["paste"]["runs"]:
        mask[y, x1:x2] = True
    np.testing.assert_array_equal(after["masks"][-count:].any(0), mask)


@pytest.mark.parametrize("mode", ["flip", "mixup"])
def test_recipes_that_paste_survive_a_round_trip(mode: str) -> None:
    recipe, _, _ = pasted(mode, mixup=1.0)
    assert Recipe.from_dict(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("paste", "message"),
    [
        ({"layer": 7}, "pasted onto from layer 7"),
        ({"runs": [[0, 5, 200]]}, "inside the picture"),
        ({"runs": [[0, 5, 9], [0, 8, 12]]}, "do not touch"),
        ({"runs": [[3, 5, 9], [2, 5, 9]]}, "in order"),
        ({"runs": [[-1, 5, 9]]}, "in order"),
        ({"runs": [[0, 9, 9]]}, "x1 < x2"),
    ],
)
def test_a_mask_that_would_be_read_elsewhere_is_refused(
    paste: dict[str, Any], message: str
) -> None:
    values = pasted("flip", mosaic=0.0)[0].to_dict()
    values["layers"][0]["paste"] |= paste
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict(values)


def test_a_bad_paste_is_refused() -> None:
    recipe, _, index = pasted("flip")
    with pytest.raises(ValueError, match="already"):
        _native.paste(recipe, index, 0, 0, 0.5)
    with pytest.raises(ValueError, match="outlines"):
        _native.paste(recipe, make_index([(96, 96)] * 6), 0, 0, 0.5)
    values = recipe.to_dict()
    del values["layers"][0]["paste"]
    with pytest.raises(ValueError, match="share"):
        _native.paste(Recipe.from_dict(values), index, 0, 0, 1.5)
