"""Training samples: upstream draws, both sides carry it out, pictures and labels are compared."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from yolodata import _native
from yolodata.parity import upstream
from yolodata.parity.kinds import chains
from yolodata.parity.tally import Tally, missed


def training(
    source: upstream.Upstream, n: int, seed: int = 0, broken: bool = False
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """Compares at least `n` samples of each chain.

    Args:
        source: the training dataset.
        n: samples of a chain, dealt out to its kinds.
        seed: of upstream's draws.
        broken: the matrix of the kinds called "default" is spoiled.

    Returns:
        by chain, its figures with those of its "kinds"; and the limits missed: names, and
        sentences.
    """
    figures: dict[str, Any] = {}
    failed: list[tuple[str, str]] = []
    for chain, (base, kinds) in chains(source.task, source.polygons).items():
        total = Tally()
        by_kind = {}
        for kind, hyp in kinds.items():
            spoiled = broken and kind == "default"
            tally = compare(source, {**base, **hyp}, -(-n // len(kinds)), seed, spoiled)
            by_kind[kind] = tally.report()
            failed += missed(chain, kind, by_kind[kind]).items()
            total.merge(tally)
        figures[chain] = {**total.report(), "kinds": by_kind}
    return figures, failed


def compare(
    source: upstream.Upstream, hyp: dict[str, Any], n: int, seed: int, broken: bool = False
) -> Tally:
    """Compares `n` samples of one kind; `broken` spoils the matrix of our first layer."""
    source.use(**hyp)
    tally = Tally()
    upstream.seed(seed)
    for i in range(n):
        sample, values, images = source.sample((seed + i) % len(source.dataset))
        if values["failed_cuts"]:
            tally.left_out += 1
            continue
        tally.mixups += values["mixup"] is not None
        tally.cutmixes += values["cutmix"] is not None
        if broken:
            layer = values["layers"][0]
            layer["matrix"] = spoiled_matrix(layer["matrix"], source.imgsz)
        tally.pastes += bool(values["pastes"])
        recipe = source.recipe(values)
        picture = source.picture(recipe, values, images)
        labels = _native.labels(recipe, source.table, source.mask_ratio, source.overlap_mask)
        tally.add(picture, sample["img"].numpy(), labels, sample)
    return tally


def spoiled_matrix(matrix: list[float], imgsz: int) -> list[float]:
    """Returns the matrix half a pixel to the right, and turned by 0.002 radians in the middle."""
    cosine, sine, middle = math.cos(0.002), math.sin(0.002), imgsz / 2
    turn = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0], [0.0, 0.0, 1.0]])
    turn[:2, 2] = middle - turn[:2, :2] @ [middle, middle] + [0.5, 0.0]
    return [float(value) for value in (turn @ np.reshape(matrix, (3, 3))).ravel()]
