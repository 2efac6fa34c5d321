"""What has to hold for every recipe that the planner makes, and for its labels."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pictures import index_of, make_columns, make_images, situations

from yolodata import AugmentConfig, Recipe, _native
from yolodata.pipeline.letterbox import oriented_boxes

some = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])

OBJECTS = 3  # on each picture
TASKS: dict[str, dict[str, Any]] = {
    "detect": {},
    "segment": {"outlines": 60},
    "pose": {"keypoints": (5, 3)},
    "pose without visibility": {"keypoints": (4, 2)},
    "obb": {"outlines": 60, "oriented": True},
}
every_task = pytest.mark.parametrize("task", TASKS)


def numbered(sizes: list[tuple[int, int]], task: str, seed: int = 0) -> dict[str, Any]:
    """Columns of objects that have a class each: its row."""
    columns = make_columns(sizes, OBJECTS, seed, **TASKS[task])
    return {**columns, "cls": np.arange(len(columns["cls"]), dtype=np.float32)}


def changed(recipe: Recipe, **values: Any) -> Recipe:
    return Recipe.from_dict({**recipe.to_dict(), **values})


def shown_by(values: dict[str, Any]) -> Counter[int]:
    """How often a recipe may show each object: once a tile, and where it is pasted."""
    layers, found = values["layers"], Counter[int]()
    shown = [part["layer"] for part in (values["mixup"], values["cutmix"]) if part]
    for layer in (layers[i] for i in (0, *shown)):
        found.update(tile["image"] * OBJECTS + k for tile in layer["tiles"] for k in range(OBJECTS))
        if paste := layer["paste"]:
            tiles = layers[paste["layer"]]["tiles"]
            found.update(tiles[tile]["image"] * OBJECTS + k for tile, k in paste["objects"])
    return found


@every_task
@some
@given(situations())
def test_objects_come_from_the_pictures_shown_and_lie_inside(task: str, situation: Any) -> None:
    """No object from nowhere, nor one too often; with its own keypoints, and its own mask."""
    config, sizes, seed, epoch = situation
    columns = numbered(sizes, task)
    index = index_of(columns)
    for position in range(len(sizes)):
        values = (
            recipe := _native.plan(index, config.to_native(), seed, epoch, position)
        ).to_dict()
        found = _native.labels(recipe, index, int(task == "segment"), False)
        rows = found["cls"][:, 0].astype(int)
        assert Counter(rows.tolist()) <= shown_by(values)
        x, y, w, h = found["bboxes"][:, :4].T
        assert (w > 0).all()
        assert (h > 0).all()
        if task == "obb":  # corners may stand out, around what is inside
            w = h = np.zeros_like(w)
        for low, high in ((x - w / 2, x + w / 2), (y - h / 2, y + h / 2)):
            assert ((low >= -1e-5) & (high <= 1 + 1e-5)).all()
        if task.startswith("pose"):
            xy, visible = found["keypoints"][..., :2], found["keypoints"][..., 2]
            assert ((xy >= 0) & (xy <= 1)).all()
            own = columns["keypoints"][rows, :, 2]
            if values["fliplr"] != values["flipud"]:
                own = own[:, columns["flip_idx"]]
            assert ((visible == 0) | (visible == own)).all()
        if task == "segment":
            assert len(found["masks"]) == len(rows)
            for mask, box in zip(found["masks"], found["bboxes"], strict=True):
                lies_within(mask, box)


def lies_within(mask: Any, box: Any) -> None:
    """The mask's whole pixels, which may stand out of the box by one."""
    size = np.array(mask.shape[::-1])
    points = np.argwhere(mask)[:, ::-1]
    if len(points):
        assert (points.min(0) >= (box[:2] - box[2:] / 2) * size - 1.5).all()
        assert (points.max(0) <= (box[:2] + box[2:] / 2) * size + 1.5).all()


@every_task
@some
@given(situations())
def test_flips_are_involutions(task: str, situation: Any) -> None:
    """A flipped recipe gives the flipped picture and labels, and again the first ones."""
    config, sizes, seed, epoch = situation
    columns, images = numbered(sizes, task), make_images(sizes)
    index = index_of(columns)
    recipe = _native.plan(index, config.to_native(), seed, epoch, 0)
    values = recipe.to_dict()
    for name, axis in (("fliplr", 0), ("flipud", 1)):
        other = changed(recipe, **{name: not values[name]})
        picture, flipped = _native.render(recipe, images), _native.render(other, images)
        np.testing.assert_array_equal(np.flip(flipped, 2 - axis), picture)
        masks = int("outlines" in TASKS[task])  # of oriented ones too, to see the outlines
        before, after = (_native.labels(r, index, masks, False) for r in (recipe, other))
        np.testing.assert_array_equal(after["cls"], before["cls"])
        boxes = after["bboxes"].copy()
        boxes[:, axis] = 1 - boxes[:, axis]
        if task == "obb":
            same_rectangles(boxes * [1, 1, 1, 1, -1], before["bboxes"])
        else:
            np.testing.assert_allclose(boxes, before["bboxes"], atol=1e-5)
        if masks:
            same_but_for_edges(np.flip(after["masks"], 2 - axis), before["masks"])
        if task.startswith("pose"):
            points = after["keypoints"][:, columns["flip_idx"]]
            points[..., axis] = 1 - points[..., axis]
            np.testing.assert_allclose(points, before["keypoints"], atol=1e-5)
        assert changed(other, **{name: values[name]}) == recipe


def same_but_for_edges(ours: Any, theirs: Any) -> None:
    """Masks (n, H, W) of corners that are cut to whole pixels after the flip.

    What lies along a border is drawn on one side and not on the other.
    """
    for a, b in zip(ours, theirs, strict=True):
        for inner, outer in ((a, b), (b, a)):
            assert not (inner & ~cv2.dilate(outer, np.ones((5, 5))))[3:-3, 3:-3].any()


def same_rectangles(ours: Any, theirs: Any) -> None:
    """Oriented boxes (n, 5); of several around an outline that are smallest, either is right."""
    np.testing.assert_allclose(*(boxes[:, 2:4].prod(1) for boxes in (ours, theirs)), atol=1e-5)
    for a, b in zip(ours.astype(float), theirs.astype(float), strict=True):
        turns = (b[4] - a[4]) / (np.pi / 2)
        sides = a[[2, 3]] if round(turns) % 2 == 0 else a[[3, 2]]
        if abs(turns - round(turns)) < 1e-3:
            np.testing.assert_allclose([*a[:2], *sides], b[:4], atol=1e-4)


@pytest.mark.parametrize("mode", ["flip", "mixup"])
@some
@given(situations())
def test_a_pasted_objects_mask_is_where_its_pixels_are(mode: str, situation: Any) -> None:
    """Pixels change inside of the masks of what is pasted and nowhere else, to the source's."""
    config, sizes, seed, epoch = situation
    config = replace(config, imgsz=96, copy_paste=1.0, copy_paste_mode=mode)
    sizes = [(max(height, 48), max(width, 48)) for height, width in sizes]  # to have labels
    images, index = make_images(sizes), index_of(numbered(sizes, "segment"))
    recipe = _native.plan(index, config.to_native(), seed, epoch, 0)
    plain: dict[str, Any] = {"mixup": None, "cutmix": None, "hsv": None, "bgr": False,
                             "fliplr": False, "flipud": False}  # fmt: skip
    layers = recipe.to_dict()["layers"]
    paste = layers[0]["paste"]
    assume(paste is not None)
    source = layers[paste["layer"]]
    warped = changed(recipe, **plain)
    if mode == "flip":  # pasted before the warp: look at the canvas itself
        still = {"matrix": np.eye(3).ravel().tolist(), "perspective": False, "scale": 1.0}
        layers[0] |= still
        plain["size"] = layers[0]["canvas"]
    whole = changed(recipe, **plain, layers=layers)
    bare = changed(whole, layers=[{**layer, "paste": None} for layer in layers])
    picture, before = (_native.render(each, images) for each in (whole, bare))
    mask = np.zeros(plain.get("size", (config.imgsz,) * 2), bool)
    for y, x1, x2 in paste["runs"]:
        mask[y, x1:x2] = True
    origin = bare if mode == "flip" else changed(bare, layers=[{**source, "paste": None}])
    other = _native.render(origin, images)
    if mode == "flip":
        other = other[:, :, ::-1]
    np.testing.assert_array_equal(picture, np.where(mask, other, before))

    own = len(_native.labels(bare, index)["cls"])
    found, originals = (_native.labels(each, index, 1, False) for each in (whole, origin))
    for cls, pasted in zip(found["cls"][own:, 0], found["masks"][own:], strict=True):
        alike = originals["masks"][originals["cls"][:, 0] == cls]  # a mosaic may have it twice
        if len(alike) == 1:
            same_but_for_edges(alike[..., :: -1 if mode == "flip" else 1], pasted[None])
    masks = found["masks"][own:].any(0)
    assert not (masks & ~mask).any()
    if len(found["cls"]) == own + len(paste["objects"]):  # none is too small for a label
        np.testing.assert_array_equal(masks, mask)

    if mode == "flip":  # and the warp takes the canvas as it would any picture
        height, width = plain["size"]
        tile = {"image": 0, "height": height, "width": width,
                "x0": 0, "y0": 0, "x1": 0, "y1": 0, "x2": width, "y2": height}  # fmt: skip
        layer = {**warped.to_dict()["layers"][0], "tiles": [tile], "paste": None}
        canvas = {0: np.ascontiguousarray(picture.transpose(1, 2, 0))}
        np.testing.assert_array_equal(
            _native.render(warped, images), _native.render(changed(warped, layers=[layer]), canvas)
        )


@every_task
@some
@given(st.integers(0, 16), st.integers(0, 16), st.integers(33, 70), st.integers(0, 99))
def test_settings_that_change_nothing_give_the_source(
    task: str, left: int, top: int, imgsz: int, seed: int
) -> None:
    """The picture and its labels, in the middle of grey where it is smaller."""
    height, width = imgsz - 2 * top, imgsz - 2 * left
    columns = numbered([(height, width)], task, seed)
    images, index = make_images([(height, width)], seed), index_of(columns)
    still = AugmentConfig(
        imgsz=imgsz, mosaic=0, scale=0, translate=0, fliplr=0, hsv_h=0, hsv_s=0, hsv_v=0
    )
    recipe = _native.plan(index, still.to_native(), seed, 3, 0)
    expected = np.full((3, imgsz, imgsz), 114, np.uint8)
    expected[:, top : top + height, left : left + width] = images[0].transpose(2, 0, 1)
    np.testing.assert_array_equal(_native.render(recipe, images), expected)

    def moved(points: Any) -> Any:
        return points * [width, height] + [left, top]

    centre, half = columns["box"][:, :2], columns["box"][:, 2:] / 2
    low, high = moved(centre - half), moved(centre + half)
    outlines = []
    if "polygon" in columns:
        outlines = list(moved(columns["polygon"]).astype(np.float32).reshape(OBJECTS, 7, 2))
        low, high = np.min(outlines, 1), np.max(outlines, 1)
    found = _native.labels(recipe, index)
    rows = found["cls"][:, 0].astype(int)
    gone = np.setdiff1d(np.arange(OBJECTS), rows)
    assert ((high - low)[gone] < 2.01).any(1).all()  # too small to train with
    if task == "obb":
        return same_rectangles(found["bboxes"], oriented_boxes(outlines, (imgsz, imgsz))[rows])
    boxes = np.concatenate([(low + high) / 2, high - low], 1) / imgsz
    np.testing.assert_allclose(found["bboxes"], boxes[rows], atol=1e-5)
    if task.startswith("pose"):
        points = moved(columns["keypoints"][rows, :, :2])
        outside = ((points < 0) | (points > imgsz)).any(2)
        visible = np.where(outside, 0, columns["keypoints"][rows, :, 2])
        np.testing.assert_array_equal(found["keypoints"][..., 2], visible)
        points = points.clip(0, imgsz) / imgsz
        np.testing.assert_allclose(found["keypoints"][..., :2], points, atol=1e-5)
