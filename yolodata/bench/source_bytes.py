"""How many bytes of its sources a picture needs: the least that any renderer has to read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from yolodata.pipeline.config import AugmentConfig
    from yolodata.shards import ShardDataset

_STEP = 4  # one output pixel of so many in each direction stands for all
_PICTURES = 64


def mean_source_bytes(shards: ShardDataset, augment: AugmentConfig, *, seed: int = 0) -> float:
    """Mean of `source_bytes` over the first pictures of a loader's stream."""
    from yolodata.pipeline.recipe import plan

    positions = range(min(len(shards), _PICTURES))
    recipes = (plan(augment, shards, seed=seed, position=p).to_dict() for p in positions)
    return float(np.mean([source_bytes(recipe) for recipe in recipes]))


def source_bytes(recipe: Mapping[str, Any]) -> float:
    """Bytes of source pixels that a recipe shows, each one counted once.

    The part of the output that a tile covers is found on a grid of output pixels. It is as many
    source pixels as its area times the local zoom, at most the whole tile. Layers that a mixup
    or a cutmix adds are counted as far as they are shown.
    """
    height, width = recipe["size"]
    y, x = np.mgrid[_STEP // 2 : height : _STEP, _STEP // 2 : width : _STEP].astype(np.float64)
    cell = height * width / x.size
    total = 0.0
    for number, layer in enumerate(recipe["layers"]):
        shown = _shown(recipe, number, x, y)
        inverse = np.linalg.inv(np.array(layer["matrix"], np.float64).reshape(3, 3))
        u, v, w = np.tensordot(inverse, np.stack([x, y, np.ones_like(x)]), axes=1)
        u, v = u / w, v / w
        # Source pixels an output pixel: the Jacobian of a projective map.
        zoom = np.abs(np.linalg.det(inverse) / w**3)
        covered = np.zeros(x.shape, bool)
        for tile in reversed(layer["tiles"]):  # later tiles lie on top
            inside = (u >= tile["x1"]) & (u < tile["x2"]) & (v >= tile["y1"]) & (v < tile["y2"])
            here = inside & ~covered & shown
            covered |= inside
            area = (tile["x2"] - tile["x1"]) * (tile["y2"] - tile["y1"])
            total += min(float(zoom[here].sum()) * cell, float(area))
    return 3.0 * total


def _shown(recipe: Mapping[str, Any], layer: int, x: Any, y: Any) -> Any:
    """Which output pixels show a layer: all, but of the layers of a cutmix."""
    cut = recipe["cutmix"]
    if cut is None:
        return np.ones(x.shape, bool)
    x1, y1, x2, y2 = cut["area"]
    inside = (x >= x1) & (x < x2) & (y >= y1) & (y < y2)
    if layer == cut["layer"]:
        return inside
    return ~inside
