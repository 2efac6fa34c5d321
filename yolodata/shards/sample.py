"""What a packer stores, and the checks that keep a wrong sample out of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from yolodata.errors import ShardError
from yolodata.shards.decode import resized_shape
from yolodata.shards.format import DatasetMeta
from yolodata.shards.journal import Annotation

Float32 = npt.NDArray[np.float32]


class LeftOut(NamedTuple):
    """An image of the source that is not stored, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class StoredSample:
    """One image as it is stored.

    Attributes:
        data: any contiguous buffer: uint8 RGB pixels (height, width, 3) for "raw", the bytes of a
            picture file for "jpeg".
        height, width: pixels, after resizing the longer side to the dataset's imgsz.
        orig_height, orig_width: pixels, of the decoded original.
        label_height, label_width: pixels, as upstream's label check reports the picture's size.
        name: path of the source picture; bytes that are not UTF-8 as `os.fsdecode` gives them.
        cls, box, polygons, keypoints: see `Annotation`.
        checksum: xxh3_64 of `data`, None to leave it to the writer.
    """

    data: Any
    height: int
    width: int
    orig_height: int
    orig_width: int
    label_height: int
    label_width: int
    name: str
    cls: Float32
    box: Float32
    polygons: Sequence[Float32] | None = None
    keypoints: Float32 | None = None
    checksum: int | None = None

    @property
    def labels(self) -> Annotation:
        """The part that is not pixels."""
        return Annotation(
            self.cls, self.box, self.polygons, self.keypoints, self.label_height, self.label_width
        )


def check_sample(sample: StoredSample, data: memoryview, meta: DatasetMeta) -> None:
    """A reader must be able to accept the sample.

    Raises:
        ShardError: names the image and what is wrong.
    """

    def wrong(what: str) -> ShardError:
        return ShardError(f"{sample.name}: {what}; nothing of this image was stored")

    original = (sample.orig_height, sample.orig_width)
    if not all(0 < side <= 1 << 20 for side in original):
        raise wrong(f"original size must be 1 to {1 << 20} pixels a side, got {original}")
    size = resized_shape(*original, meta.imgsz)
    if (sample.height, sample.width) != size:
        raise wrong(
            f"size must be {size}, what {original} becomes at imgsz={meta.imgsz}, got "
            f"{(sample.height, sample.width)}"
        )
    if not data.nbytes:
        raise wrong("there are no bytes to store")
    if meta.codec == "raw" and data.nbytes != sample.height * sample.width * 3:
        raise wrong(
            f"raw pixels must have {sample.height} * {sample.width} * 3 bytes, got {data.nbytes}"
        )
    if not sample.name:
        raise wrong("the name is empty")
    check_labels(sample.labels, meta, sample.name)


def check_labels(labels: Annotation, meta: DatasetMeta, name: str) -> None:
    """A reader must be able to accept the labels.

    Raises:
        ShardError: names the image and what is wrong.
    """

    def wrong(what: str) -> ShardError:
        return ShardError(f"{name}: {what}; nothing of this image was stored")

    n = len(labels.cls)
    for array, key, shape in (
        (labels.cls, "cls", (n,)),
        (labels.box, "box", (n, 4)),
        (labels.keypoints, "keypoints", (n, meta.keypoints, 3)),
    ):
        if key == "keypoints" and meta.keypoints is None:
            if array is not None:
                raise wrong("has keypoints, but the dataset has no kpt_shape")
            continue
        if array is None or array.shape != shape or array.dtype != np.float32:
            got = "None" if array is None else f"{array.dtype} {array.shape}"
            raise wrong(f"{key} must be float32 {shape}, got {got}")
        if not np.isfinite(array).all():
            raise wrong(f"{key} has values that are not finite")
    cls = labels.cls
    if n and not ((cls >= 0) & (cls < len(meta.names)) & (np.floor(cls) == cls)).all():
        raise wrong(f"classes must be whole numbers from 0 to {len(meta.names) - 1}, got {cls}")
    label_size = (labels.label_height, labels.label_width)
    if not all(0 < side <= 1 << 20 for side in label_size):
        raise wrong(f"label size must be 1 to {1 << 20} pixels a side, got {label_size}")
    if labels.polygons is None:
        return
    if len(labels.polygons) != n:
        raise wrong(f"must have a polygon, maybe empty, for each of {n} objects")
    for polygon in labels.polygons:
        if polygon.dtype != np.float32 or polygon.ndim != 2 or polygon.shape[1] != 2:
            raise wrong(
                f"polygons must be float32 (points, 2), got {polygon.dtype} {polygon.shape}"
            )
    if n and not np.isfinite(np.concatenate(labels.polygons)).all():
        raise wrong("polygon has values that are not finite")
