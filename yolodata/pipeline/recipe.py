"""One sample at a time: what the loaders do in bulk on native threads.

A `Recipe` is a training sample as plain data: which images, which transform, which colours. It
comes from `plan`, or from numbers of your own by `Recipe.from_dict`, and `render` turns it into
pixels. The dict has these keys:

    size: [height, width] of the picture.
    layers: one to six of
        canvas: [height, width] of the mosaic, or of the one image.
        tiles: images on the canvas, later ones on top, each
            image: dataset index; height, width: its size;
            x0, y0: where its pixel (0, 0) lies on the canvas;
            x1, y1, x2, y2: the part of the canvas that it covers, half open.
        matrix: nine numbers, the 3x3 map from canvas to picture, row major. (0, 0) is the centre
            of the first pixel.
        perspective: whether the last row of the matrix counts.
        scale: zoom of the matrix; objects are filtered by it.
        paste: None, or {layer, objects, runs}: what is pasted onto this layer. From the same layer,
            mirrored, onto its canvas; from another one onto the picture. Objects are [tile,
            object of its image] of that layer, for the labels. Runs [row, x1, x2] (half open, in
            order) are the pixels.
    mixup: None, or {layer, ratio}: layer 0 counts `ratio`, the other 1 - ratio.
    cutmix: None, or {layer, area}: inside area [x1, y1, x2, y2] of the picture the layer shows.
    hsv: None, or draws for hue, saturation, value: turns of hue, and gain minus one.
    flipud, fliplr, bgr: booleans.

What may be None or False may be left out. A key that is none of these is an error.

What no image covers is grey 114.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from yolodata.checks import shown, whole
from yolodata.errors import ArgumentError
from yolodata.pipeline.config import AugmentConfig
from yolodata.pipeline.schedule import MAX_EPOCH, MAX_SEED
from yolodata.pipeline.subset import Subset, check_open

if TYPE_CHECKING:
    from yolodata._native import Recipe
    from yolodata.shards import ShardDataset


def plan(
    config: AugmentConfig,
    shards: ShardDataset,
    *,
    seed: int = 0,
    epoch: int = 0,
    position: int = 0,
) -> Recipe:
    """Returns the recipe of one position of an epoch: what `Loader` renders there.

    That is a loader with default `labels` and `epochs`.

    Args:
        config: probabilities and ranges.
        shards: an open dataset.
        seed: 0 to 2**64 - 1.
        epoch: 0 to 2**32 - 1.
        position: 0 to len(shards) - 1; the image that stands there is the first of layer 0.

    Raises:
        ConfigError: a number is outside its range, or the shards cannot give pictures of
            `config.imgsz`.
    """
    from yolodata import _native

    if not isinstance(config, AugmentConfig):
        raise ArgumentError(
            f"config must be an AugmentConfig, got {shown(config)}; give "
            "yolodata.AugmentConfig(imgsz=640)"
        )
    subset = _subset(shards, config.imgsz, outlines=config.copy_paste > 0)
    seed, epoch = whole("seed", seed, 0, MAX_SEED), whole("epoch", epoch, 0, MAX_EPOCH)
    where = f" for the {subset.images} images of {shards.path}"
    position = whole("position", position, 0, subset.images - 1, where)
    return _native.plan(subset.index(), subset.plan_config(config), seed, epoch, position)


@lru_cache(maxsize=4)
def _subset_of(shards: ShardDataset, imgsz: int | None, outlines: bool) -> Subset:
    return Subset(shards, imgsz=imgsz, outlines=outlines)


def _subset(shards: ShardDataset, imgsz: int | None = None, *, outlines: bool) -> Subset:
    check_open(shards)
    return _subset_of(shards, imgsz, outlines)


def labels(
    recipe: Recipe, shards: ShardDataset, config: AugmentConfig | None = None
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Returns the objects that a recipe shows.

    Args:
        recipe: of `plan`.
        shards: the dataset that it was planned for.
        config: that of `Loader`. With `copy_paste` boxes are cut where outlines leave the picture,
            also of samples that nothing is pasted into. None tells it by whether something is.

    Returns:
        float32 classes (n, 1) and boxes (n, 4): centre x, centre y, width, height in 0-1 of the
        picture.

    Raises:
        ConfigError: `shards` is no open dataset.
        ValueError: the recipe shows images that the dataset does not have.
    """
    from yolodata import _native

    if config is None:
        outlines = any(layer["paste"] for layer in recipe.to_dict()["layers"])
    else:
        outlines = config.copy_paste > 0
    found = _native.labels(recipe, _subset(shards, outlines=outlines).index())
    return found["cls"], found["bboxes"]


def render(recipe: Recipe, images: Mapping[int, npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Renders a recipe on this thread.

    Args:
        recipe: what to render.
        images: dataset index to uint8 (H, W, 3) RGB, C-contiguous, of the size the recipe says.

    Returns:
        uint8 (3, H, W) RGB (BGR where the recipe says so).

    Raises:
        ValueError: an image is missing or has another size.
    """
    from yolodata import _native

    return _native.render(recipe, dict(images))
