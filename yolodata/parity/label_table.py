"""Labels of an Ultralytics dataset as the label table of the native planner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from yolodata import _native
from yolodata.pipeline.subset import OUTLINE_POINTS


def label_table(
    labels: Sequence[dict[str, Any]],
    task: str,
    *,
    sizes: npt.NDArray[np.uint32] | None = None,
    flip_idx: Sequence[int] | None = None,
    outlines: bool = False,
    outline_points: int | None = None,
) -> _native.LabelTable:
    """Makes the label table of N images.

    Args:
        labels: what upstream's dataset holds, a dict an image: "cls" (n, 1), "bboxes" (n, 4) xywh
            in 0-1, "segments" n arrays (k, 2) in 0-1 or none, "keypoints" (n, K, 3), "shape".
        task: "detect", "segment", "pose" or "obb".
        sizes: uint32 (N, 2) height and width in pixels; None takes those of the files. Recipes
            that name the sizes of their images themselves do not look at them.
        flip_idx: for each keypoint the one that it becomes in a mirror.
        outlines: for "detect": keep outlines whole, to paste objects by them.
        outline_points: points of an outline before it is transformed; None takes upstream's.
    """
    counts = [len(label["cls"]) for label in labels]
    cls = np.concatenate([label["cls"].reshape(-1) for label in labels]).astype(np.float32)
    box = np.concatenate([label["bboxes"].reshape(-1, 4) for label in labels]).astype(np.float32)
    polygons = [np.asarray(s, np.float32) for label in labels for s in label["segments"]]
    if sizes is None:
        sizes = np.array([label["shape"] for label in labels], np.uint32)
    table: list[Any] = [np.ascontiguousarray(sizes[:, 0]), np.ascontiguousarray(sizes[:, 1])]
    table += [np.cumsum([0, *counts]).astype(np.uint64), cls, np.ascontiguousarray(box)]
    if polygons:
        table += [
            np.cumsum([0, *map(len, polygons)]).astype(np.uint64),
            np.ascontiguousarray(np.concatenate(polygons), np.float32),
        ]
    more: dict[str, Any] = {}
    if task in ("segment", "obb") or (task == "detect" and outlines):
        more["outline_points"] = outline_points or OUTLINE_POINTS[task]
    if task == "obb":
        more["oriented"] = True
    if task == "pose":
        points = np.concatenate([label["keypoints"] for label in labels])
        more["keypoints"] = np.ascontiguousarray(points, np.float32)
        if flip_idx:
            more["flip_idx"] = np.array(flip_idx, np.int32)
    return _native.LabelTable(*table, **more)
