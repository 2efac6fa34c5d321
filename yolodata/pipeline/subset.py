"""Which images and objects of a shard dataset take part.

Ultralytics narrows a dataset while building it (`fraction`, `classes`, `single_cls`, all polygons
or none). Here the columns are narrowed once, without copies where nothing changes.
"""

from __future__ import annotations

import logging
import os
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolodata.checks import shown, whole
from yolodata.errors import ArgumentError, ConfigError
from yolodata.images.resize import resized_shapes
from yolodata.pipeline.options import LabelOptions
from yolodata.pipeline.schedule import ReuseWindow, reuse_window
from yolodata.terminal import encodable

if TYPE_CHECKING:
    from yolodata import _native
    from yolodata.pipeline.config import AugmentConfig
    from yolodata.shards.reader import ShardDataset

log = logging.getLogger("yolodata")

Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]
UInt64 = npt.NDArray[np.uint64]
UInt32 = npt.NDArray[np.uint32]


OUTLINE_POINTS = {"detect": 1000, "segment": 1000, "obb": 100}
"""Points that upstream gives an outline before it transforms it."""


class Subset:
    """The first images of a dataset and, of their objects, those of the wanted classes.

    Columns are laid out like the dataset's (see docs/shard-format.md): `height`, `width`
    (pixels of the picture at `imgsz`), `object_offset`, `cls` (M,) float32, `box` (M, 4) float32
    centre x, centre y, width, height in 0-1, and `polygon_offset`, `polygon`, or None.

    For poses, `keypoints` (M, K, 3) float32 are kept and polygons are not, as upstream does.

    Polygons are kept only when every object of the selected images has one, before classes are
    filtered: like upstream, a mixed dataset is treated as boxes. Segmentation and oriented boxes
    refuse it.

    Args:
        shards: an open dataset directory.
        options: which images and objects take part; None is all of them, for "detect".
        imgsz: longer side of the pictures; None takes the dataset's own. Only original JPEG files
            can be read at another size than they were packed for.
        outlines: keep polygons whole for "detect" too, to paste by them, not only their boxes.

    Raises:
        ConfigError: a setting is out of range, or the dataset lacks what the task needs.
    """

    def __init__(
        self,
        shards: ShardDataset,
        options: LabelOptions | None = None,
        *,
        imgsz: int | None = None,
        outlines: bool = False,
    ) -> None:
        options = options or LabelOptions()
        task = options.task
        self.shards = shards
        self.task = _served(task, shards)
        self.imgsz = shards.meta.imgsz if imgsz is None else imgsz
        self.mask_ratio = 0
        if task == "segment":
            self.mask_ratio = whole("mask_ratio", options.mask_ratio, 1, self.imgsz, " (imgsz)")
        self.overlap_mask = options.overlap_mask
        self.images = _image_count(shards, options.fraction)
        self.height, self.width = self._sizes()
        images = self.images
        objects = int(shards.object_offset[images])
        self.object_offset: UInt64 = shards.object_offset[: images + 1]
        self.cls: Float32 = shards.cls[:objects]
        self.box: Float32 = shards.box[:objects]
        self.polygon_offset: UInt64 | None = None
        self.polygon: Float32 | None = None
        self.keypoints: Float32 | None = None
        if task == "pose" and shards.keypoints is not None:
            self.keypoints = shards.keypoints[:objects]
        offsets = shards.polygon_offset[: objects + 1]
        without = int((offsets[1:] == offsets[:-1]).sum())
        if task != "pose" and not without:  # of no objects, all have one
            self.polygon_offset = offsets
            self.polygon = shards.polygon[: int(offsets[-1])]
        elif task in ("segment", "obb"):
            raise ConfigError(
                f"{without} of {objects} objects in {shards.path} have no outline, which "
                f"task={task!r} needs of each; give their labels polygons and pack again, or train "
                "a detection model"
            )
        if outlines and self.polygon is None:
            _say_nothing_is_pasted(shards, task, without, objects)
        wanted = self.polygon is not None and (outlines or task != "detect")
        self._outline_points = OUTLINE_POINTS[task] if wanted else 0
        if options.classes is not None:
            self._keep_classes(options.classes)
        if options.single_cls:
            self.cls = np.zeros_like(self.cls)
        self._index: _native.LabelTable | None = None

    def _sizes(self) -> tuple[UInt32, UInt32]:
        shards, images = self.shards, self.images
        if self.imgsz == shards.meta.imgsz:
            return shards.height[:images], shards.width[:images]
        if shards.meta.codec != "jpeg" or shards.meta.source.get("reencode"):
            raise ConfigError(
                f"imgsz={self.imgsz} was asked for, but the shards in {shards.path} hold pictures "
                f"of imgsz={shards.meta.imgsz}; use that size, or pack again with --imgsz "
                f"{self.imgsz} (shards of original files, --codec jpeg, serve any size)"
            )
        sides = shards.orig_height[:images], shards.orig_width[:images]
        height, width = resized_shapes(*sides, self.imgsz)
        return height.astype(np.uint32), width.astype(np.uint32)

    def _keep_classes(self, classes: Sequence[int]) -> None:
        wanted = [int(c) for c in classes]
        check_classes(wanted, len(self.shards.meta.names))
        keep = np.isin(self.cls, np.asarray(wanted, dtype=np.float32))
        if keep.all():
            return
        before = np.concatenate(([0], np.cumsum(keep, dtype=np.uint64))).astype(np.uint64)
        self.object_offset = before[self.object_offset.astype(np.int64)]
        if self.polygon_offset is not None and self.polygon is not None:
            lengths = np.diff(self.polygon_offset).astype(np.int64)
            self.polygon = self.polygon[np.repeat(keep, lengths)]
            self.polygon_offset = np.concatenate(([0], np.cumsum(lengths[keep]))).astype(np.uint64)
        self.cls, self.box = self.cls[keep], self.box[keep]
        if self.keypoints is not None:
            self.keypoints = self.keypoints[keep]

    def index(self) -> _native.LabelTable:
        """Returns the label table as the native planner reads it."""
        if self._index is None:
            from yolodata import _native

            self._index = _native.LabelTable(
                self.height,
                self.width,
                self.object_offset,
                self.cls,
                self.box,
                self.polygon_offset,
                self.polygon,
                self.keypoints,
                self._flip_idx(),
                self._outline_points,
                self.oriented,
                self._where,
            )
        return self._index

    @property
    def _where(self) -> str:
        """For messages: C++ takes UTF-8 alone, which a path need not be."""
        return encodable(str(self.shards.path / self.shards.meta.labels.file))

    @property
    def oriented(self) -> bool:
        """Whether boxes have an angle."""
        return self.task == "obb"

    def _flip_idx(self) -> npt.NDArray[np.int32] | None:
        order = self.shards.meta.flip_idx
        if self.keypoints is None or not order:
            return None
        return np.array(order, np.int32)

    def plan_config(self, augment: AugmentConfig, shuffle: bool = True) -> _native.PlanConfig:
        """Returns the planner's settings for training on this subset."""
        if self.keypoints is not None and self._flip_idx() is None:
            # Nobody knows what is left and what is right.
            augment = replace(augment, fliplr=0.0, flipud=0.0)
        window: ReuseWindow = {"streams": 1, "window": 0}
        if self.shards.meta.codec != "raw":
            window = reuse_window(self.images)
        return augment.to_native(
            shuffle=shuffle, mask_ratio=self.mask_ratio, overlap_mask=self.overlap_mask, **window
        )

    def objects(self, image: int) -> slice:
        """Returns the rows of `cls` and `box` that belong to an image."""
        return slice(int(self.object_offset[image]), int(self.object_offset[image + 1]))

    def excerpt(self, images: Sequence[int], emptied: frozenset[int]) -> _native.LabelTable:
        """Returns the labels of a few images, numbered from 0; those in `emptied` have none."""
        from yolodata import _native

        rows = [
            np.zeros(0, np.int64)
            if i in emptied
            else np.arange(self.objects(i).start, self.objects(i).stop, dtype=np.int64)
            for i in images
        ]
        objects = np.concatenate(rows) if rows else np.zeros(0, np.int64)
        offset = np.cumsum([0, *(len(r) for r in rows)]).astype(np.uint64)
        polygon_offset, polygon = None, None
        if self.polygon_offset is not None and self.polygon is not None:
            spans = [
                (int(self.polygon_offset[o]), int(self.polygon_offset[o + 1])) for o in objects
            ]
            polygon_offset = np.cumsum([0, *(b - a for a, b in spans)]).astype(np.uint64)
            points = [self.polygon[a:b] for a, b in spans]
            polygon = np.concatenate(points) if points else np.zeros((0, 2), np.float32)
        ids = np.asarray(images, dtype=np.int64)
        return _native.LabelTable(
            np.ascontiguousarray(self.height[ids]),
            np.ascontiguousarray(self.width[ids]),
            offset,
            np.ascontiguousarray(self.cls[objects]),
            np.ascontiguousarray(self.box[objects]),
            polygon_offset,
            polygon,
            None if self.keypoints is None else np.ascontiguousarray(self.keypoints[objects]),
            self._flip_idx(),
            self._outline_points,
            self.oriented,
            self._where,
        )


_without_outlines: set[Path] = set()  # datasets of which that was said


def _say_nothing_is_pasted(shards: ShardDataset, task: str, without: int, objects: int) -> None:
    """Warns, once a dataset, that copy-paste changes nothing: it pastes outlines, as upstream."""
    if shards.path in _without_outlines or os.environ.get("RANK", "0") != "0":
        return
    _without_outlines.add(shards.path)
    why = f"{without} of {objects} objects in {shards.path} have no outline"
    if task == "pose":
        why = "objects with keypoints are not pasted"
    log.warning(
        "copy_paste pastes nothing: %s. It needs a polygon of every object; turn it off with "
        "copy_paste=0.0",
        why,
    )


def _served(task: str, shards: ShardDataset) -> str:
    """Returns the task; ConfigError if it needs labels that the dataset does not have."""
    if task == "pose" and shards.keypoints is None:
        raise ConfigError(
            f"{shards.path}: has no keypoints, which task='pose' needs; pack a dataset whose YAML "
            "has kpt_shape, with --task pose"
        )
    return task


def _image_count(shards: ShardDataset, fraction: float | int) -> int:
    """Returns how many images `fraction` stands for.

    Like upstream, it counts the source's images in order, those that were left out too.
    """
    images = len(shards)
    if isinstance(fraction, bool) or not fraction > 0:
        raise ConfigError(
            f"fraction must be a share in (0, 1] or a number of images, got {fraction!r}"
        )
    if images == 0:
        raise ConfigError("the dataset has no images; pack a split that has some")
    left_out = sorted(name for name, _ in shards.meta.left_out)
    total = images + len(left_out)
    if isinstance(fraction, int) and fraction != 1:
        count = fraction
    elif fraction > 1:
        raise ConfigError(
            f"fraction={fraction!r} is above 1; give a share up to 1.0, or a whole number of images"
        )
    else:
        count = max(1, round(total * fraction))
    if count >= total:
        return images
    within = bisect_left(
        range(images), count, key=lambda i: i + bisect_left(left_out, shards.name(i))
    )
    return max(1, within)


def check_classes(classes: Sequence[int], count: int) -> None:
    """Refuses numbers of classes that a dataset of so many does not have.

    Raises:
        ConfigError: one is not below `count`.
    """
    unknown = sorted(number for number in set(classes) if not 0 <= number < count)
    if unknown:
        raise ConfigError(
            f"classes={list(classes)} names {unknown}, which the dataset does not have; it has "
            f"0 to {count - 1}"
        )


def check_open(shards: Any, or_else: str = "") -> None:
    """Raises ArgumentError for what is no open dataset; `or_else` says what is taken too."""
    from yolodata.shards.reader import ShardDataset

    if not isinstance(shards, ShardDataset):
        path = shards if isinstance(shards, (str, os.PathLike)) else "coco.shards/train"
        raise ArgumentError(
            f"shards must be {or_else}an open dataset, got {shown(shards)}; give "
            f"yolodata.open_shards({str(path)!r})"
        )


def open_shards(
    shards: str | os.PathLike[str] | ShardDataset, split: str | None, default: str = "train"
) -> ShardDataset:
    """Opens a dataset directory (or a split of a folder); an open one is returned as it is.

    Raises:
        ShardError: there is no dataset, or not of this split.
        ConfigError: what is open already is of another split; this is neither.
    """
    if isinstance(shards, (str, os.PathLike)):
        from yolodata.shards import reader
        from yolodata.shards.format import DATASET_FILE

        one = (Path(shards) / DATASET_FILE).exists()
        return reader.open(shards, split=default if split is None and not one else split)
    check_open(shards, "the path of a folder of shards, or ")
    if split not in (None, shards.meta.split):
        raise ConfigError(
            f"{shards.path}: is the split '{shards.meta.split}', split='{split}' was asked for; "
            "open that one, or leave split out"
        )
    return shards
