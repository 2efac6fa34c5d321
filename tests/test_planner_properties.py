"""What has to hold for every recipe that the planner makes, and for its labels."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from pictures import make_images, make_index, situations

from yolodata import AugmentConfig, Recipe, _native

some = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def planned(situation: Any) -> tuple[list[Recipe], dict[int, Any], _native.Index]:
    """Recipes of a drawn situation, over objects with outlines."""
    config, sizes, seed, epoch = situation
    index = make_index(sizes, outlines=60)
    native = config.to_native()
    recipes = [_native.plan(index, native, seed, epoch, p) for p in range(len(sizes))]
    return recipes, make_images(sizes), index


@some
@given(situations())
def test_labels_lie_in_their_picture_and_come_from_its_images(situation: Any) -> None:
    """No object from nowhere: three an image, and those that are pasted."""
    recipes, _, index = planned(situation)
    for recipe in recipes:
        found = _native.labels(recipe, index, 1, False)
        x, y, w, h = found["bboxes"].T
        for low, high in ((x - w / 2, x + w / 2), (y - h / 2, y + h / 2)):
            assert ((low >= -1e-5) & (high <= 1 + 1e-5) & (high > low)).all()
        values = recipe.to_dict()
        shown = [tile["image"] for layer in values["layers"] for tile in layer["tiles"]]
        pasted = sum(len(layer["paste"]["objects"]) for layer in values["layers"] if layer["paste"])
        assert len(found["cls"]) <= 3 * len(shown) + pasted
        assert len(found["masks"]) == len(found["cls"])
        for mask, box in zip(found["masks"], found["bboxes"], strict=True):
            rows, columns = np.nonzero(mask)
            if len(rows):  # whole pixels, which may stand out of the box by one
                height, width = mask.shape
                assert columns.min() >= (box[0] - box[2] / 2) * width - 1.5
                assert columns.max() <= (box[0] + box[2] / 2) * width + 1.5
                assert rows.min() >= (box[1] - box[3] / 2) * height - 1.5
                assert rows.max() <= (box[1] + box[3] / 2) * height + 1.5


@some
@given(situations())
def test_flips_are_involutions(situation: Any) -> None:
    """A flipped recipe gives the flipped picture, boxes and masks, and again the first ones."""
    recipes, images, index = planned(situation)
    values = recipes[0].to_dict()
    for name, axis in (("fliplr", 2), ("flipud", 1)):
        other = Recipe.from_dict({**values, name: not values[name]})
        picture, flipped = _native.render(recipes[0], images), _native.render(other, images)
        np.testing.assert_array_equal(np.flip(flipped, axis), picture)
        before, after = (_native.labels(r, index, 1, False) for r in (recipes[0], other))
        boxes = after["bboxes"].copy()
        boxes[:, 2 - axis] = 1 - boxes[:, 2 - axis]
        np.testing.assert_allclose(boxes, before["bboxes"], atol=1e-5)
        np.testing.assert_array_equal(after["cls"], before["cls"])
        again = Recipe.from_dict({**other.to_dict(), name: values[name]})
        assert again == recipes[0]


def test_settings_that_change_nothing_give_the_source() -> None:
    size = (64, 64)
    images, index = make_images([size]), make_index([size], outlines=60)
    still = AugmentConfig(
        imgsz=64, mosaic=0, scale=0, translate=0, fliplr=0, hsv_h=0, hsv_s=0, hsv_v=0
    )
    recipe = _native.plan(index, still.to_native(), 7, 3, 0)
    np.testing.assert_array_equal(_native.render(recipe, images), images[0].transpose(2, 0, 1))
    found = _native.labels(recipe, index)
    whole = _native.letterbox_outlines(index, np.array([0]), np.array([[64.0, 64, 1, 0, 0]]))
    assert len(found["cls"]) == len(whole)
    for box, outline in zip(found["bboxes"] * 64, whole, strict=True):
        low, high = outline.min(0), outline.max(0)
        np.testing.assert_allclose(box, [*(low + high) / 2, *(high - low)], atol=1e-3)
