"""Recipes whose images are those of one batch: what a DALI graph can look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from yolodata.checks import whole
from yolodata.errors import ConfigError
from yolodata.pipeline.schedule import MAX_EPOCH

if TYPE_CHECKING:
    from yolodata.pipeline.config import AugmentConfig

Float32 = npt.NDArray[np.float32]

_LAST = (1 << 32) - 1  # seed and batch number are the halves of the 64 bits that a planner takes


@dataclass(frozen=True)
class BatchRecipes:
    """What goes into a graph, and what comes out beside its pictures.

    Attributes:
        recipes: for `fn.yolodata.render`, one uint8 (n,) a sample.
        cls: for each sample the classes (M,) of its objects, float32.
        bboxes: for each sample (M, 4) float32, centre x, centre y, width, height in 0-1.
    """

    recipes: list[npt.NDArray[np.uint8]]
    cls: list[Float32]
    bboxes: list[Float32]


def batch_recipes(
    config: AugmentConfig,
    sizes: Sequence[tuple[int, int]],
    *,
    seed: int = 0,
    epoch: int = 0,
    batch: int = 0,
    cls: Sequence[Float32] | None = None,
    bboxes: Sequence[Float32] | None = None,
) -> BatchRecipes:
    """Augmentation of a batch; partners of mosaic, mixup and cutmix are drawn from the batch.

    Picture i is made around image i. The result is a function of the arguments.

    Args:
        config: what is augmented and how much; pictures become imgsz x imgsz.
        sizes: (height, width) of the batch's images as the graph decodes them.
        seed, epoch, batch: numbers that tell batches apart, each below 2**32.
        cls, bboxes: objects of the images, laid out as in `BatchRecipes`; None: there are none.

    Raises:
        ConfigError: a number is outside its range, or labels and images differ in number or shape.
    """
    from yolodata import _native

    seed, batch = (whole(name, n, 0, _LAST) for name, n in (("seed", seed), ("batch", batch)))
    epoch = whole("epoch", epoch, 0, MAX_EPOCH)
    count = len(sizes)
    if not count:
        raise ConfigError("sizes must have an entry for each image of a batch, got none")
    classes = [np.zeros(0, np.float32)] * count if cls is None else [_float(c) for c in cls]
    boxes = (
        [np.zeros((0, 4), np.float32)] * count if bboxes is None else [_float(b) for b in bboxes]
    )
    if len(classes) != count or len(boxes) != count:
        raise ConfigError(
            f"cls and bboxes must have an entry for each of {count} images, got {len(classes)} "
            f"and {len(boxes)}"
        )
    for i, (c, b) in enumerate(zip(classes, boxes, strict=True)):
        if c.ndim != 1 or b.shape != (len(c), 4):
            raise ConfigError(
                f"image {i}: cls must be (M,) and bboxes (M, 4), got {c.shape} and {b.shape}"
            )
    index = _native.LabelTable(
        np.array([height for height, _ in sizes], np.uint32),
        np.array([width for _, width in sizes], np.uint32),
        np.cumsum([0, *(len(c) for c in classes)]).astype(np.uint64),
        np.concatenate(classes),
        np.concatenate(boxes),
    )
    native = config.to_native(shuffle=False)
    made = BatchRecipes([], [], [])
    of_batch = seed + (batch << 32)
    for i in range(count):
        recipe = _native.plan(index, native, of_batch, epoch, i)
        made.recipes.append(np.frombuffer(recipe.to_bytes(), np.uint8))
        labels = _native.labels(recipe, index)
        made.cls.append(labels["cls"][:, 0])
        made.bboxes.append(labels["bboxes"])
    return made


def _float(values: npt.ArrayLike) -> Float32:
    return np.ascontiguousarray(values, np.float32)
