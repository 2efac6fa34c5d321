"""Transforms of Albumentations that a device applies itself: which, and as what.

Only what has been seen to give the same bits counts: before a transform is taken over, the device's
code makes some pictures on the CPU, and Albumentations makes the same. Where they differ, as they
may with an OpenCV or an Albumentations of another version, the transform stays on the CPU.
"""

from __future__ import annotations

import copy
import functools
import logging
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from yolodata._native import Filter

log = logging.getLogger("yolodata")

_TRIALS = 8  # of parameters, and of pictures


def filter_of(transform: Any, params: Mapping[str, Any]) -> Filter | None:
    """Returns what a device applies in place of a transform.

    Args:
        transform: of Albumentations.
        params: what it drew, as its `apply_with_params` is given them.

    Returns:
        None if only the CPU can do that.
    """
    made = _makers().get(type(transform))
    return None if made is None else made(transform, params)


@functools.cache
def _makers() -> dict[type, Callable[[Any, Mapping[str, Any]], Filter | None]]:
    """Returns how filters are made, by the class of what they stand for."""
    import albumentations as A

    from yolodata._native import Filter

    def blur(transform: Any, params: Mapping[str, Any]) -> Filter | None:
        return Filter.blur(params["kernel"]) if params["kernel"] <= Filter.MAX_BLUR else None

    def median(transform: Any, params: Mapping[str, Any]) -> Filter | None:
        return Filter.median(params["kernel"]) if params["kernel"] <= Filter.MAX_MEDIAN else None

    def grey(transform: Any, params: Mapping[str, Any]) -> Filter | None:
        usual = transform.method == "weighted_average" and transform.num_output_channels == 3
        return Filter.grey() if usual else None

    def clahe(transform: Any, params: Mapping[str, Any]) -> Filter | None:
        across, down = transform.tile_grid_size
        if across * down > Filter.MAX_TILES:
            return None
        return Filter.clahe(params["clip_limit"], across, down)

    values = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, axis=2)

    def table(transform: Any, params: Mapping[str, Any]) -> Filter:
        """Asks the transform itself what becomes of each value."""
        levels = transform.apply(values.copy(), **params)
        return Filter.table(np.ascontiguousarray(levels[:, 0, ::-1].T))

    def brightness(transform: Any, params: Mapping[str, Any]) -> Filter | None:
        return table(transform, params) if transform.brightness_by_max else None

    return {
        A.Blur: blur,
        A.MedianBlur: median,
        A.ToGray: grey,
        A.CLAHE: clahe,
        A.RandomBrightnessContrast: brightness,
        A.RandomGamma: table,
    }


def is_exact(transform: Any) -> bool:
    """Returns whether a device would do what a transform does, as far as some trials show.

    A transform that only the CPU can do is not. Its generators are left as they are.
    """
    if type(transform) not in _makers():
        return False
    transform = copy.deepcopy(transform)
    transform.set_random_state(np.random.default_rng(0), random.Random(0))
    for trial in range(_TRIALS):
        picture = _picture(trial)
        try:
            params = transform.update_transform_params(transform.get_params(), {"image": picture})
            params |= transform.get_params_dependent_on_data(params, {"image": picture})
            made = filter_of(transform, params)
            want = transform.apply_with_params(params, image=picture.copy())["image"]
        except Exception as error:  # it is another version's, or fails: it does so where it is used
            log.debug("%s is left to the CPU: %s", type(transform).__name__, error)
            return False
        if made is None:
            continue  # so are other samples, when they draw that
        got = made.apply(np.ascontiguousarray(picture[..., ::-1]))[..., ::-1]
        if not np.array_equal(got, want):
            log.info(
                "%s runs on the CPU: Albumentations and OpenCV make something else of it on this "
                "machine than the device would",
                type(transform).__name__,
            )
            return False
    return True


def _picture(number: int) -> Any:
    """Returns uint8 (H, W, 3): noise over something that is darker here and lighter there."""
    draw = np.random.default_rng(number)
    height, width = (67, 93) if number % 2 else (64, 128)
    light = np.linspace(0, 150, width) + np.linspace(0, 60, height)[:, None]
    return (light[..., None] + draw.integers(0, 46, (height, width, 3))).astype(np.uint8)
