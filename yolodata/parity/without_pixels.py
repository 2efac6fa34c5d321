"""Upstream's transforms that draw, and make no pictures: what they draw depends on sizes alone."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import numpy as np

from yolodata._native import FILL


@functools.lru_cache(maxsize=1024)
def blank(height: int, width: int) -> Any:
    """Returns a grey picture (height, width, 3) that takes one byte of memory."""
    return np.broadcast_to(np.uint8(FILL), (height, width, 3))


def skip_pixels(stages: Iterable[Any], imgsz: int) -> None:
    """Has upstream's transforms draw what they would draw, and make no pictures."""

    def becomes(side: int, **more: Any) -> Any:
        def apply_image(labels: Any, params: Any = None) -> Any:
            return {**labels, "img": blank(side, side), **more}

        return apply_image

    def unchanged(labels: Any, params: Any = None) -> Any:
        return labels

    def through(method: Any, wrapped: bool) -> Any:
        """Has a method draw, with a picture of one pixel."""

        def apply_image(labels: Any, params: Any = None) -> Any:
            pixel = np.zeros((1, 1, 3), np.uint8)
            method({"img": pixel} if wrapped else pixel)
            return labels

        return apply_image

    for stage in stages:
        kind = type(stage).__name__
        if kind == "Mosaic":
            stage.buffer_enabled = False
            stage.apply_image = becomes(2 * imgsz)
        elif kind == "RandomPerspective":
            stage.apply_image = becomes(imgsz, resized_shape=(imgsz, imgsz))
        elif kind == "RandomHSV":
            stage.apply_image = through(stage.apply_image, wrapped=True)
        elif kind == "Format":  # draws in the middle of making a tensor
            stage.get_params = unchanged
            stage.apply_image = lambda labels, params, stage=stage: through(
                stage._format_img, wrapped=False
            )(labels)
            stage.apply_instances = unchanged
        elif kind in ("MixUp", "CutMix", "CopyPaste", "RandomFlip"):
            stage.apply_image = unchanged
        skip_pixels(getattr(stage, "transforms", None) or (), imgsz)
        if getattr(stage, "pre_transform", None) is not None:
            skip_pixels([stage.pre_transform], imgsz)
