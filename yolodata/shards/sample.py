"""What a packer stores, and the checks that keep a wrong sample out of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from yolodata.errors import ShardError
from yolodata.images.limits import MAX_PIXELS
from yolodata.images.resize import resized_shape
from yolodata.shards.format import MAX_NAME, MAX_SAMPLE, MAX_SIDE, DatasetMeta

Float32 = npt.NDArray[np.float32]

_FLOAT32 = np.dtype(np.float32)  # np.float32 would be made one for every comparison


class LeftOut(NamedTuple):
    """An image of the source that is not stored, and why."""

    name: str
    reason: str


class Annotation(NamedTuple):
    """The labels of one image with n objects, as upstream's label check gives them.

    Attributes:
        cls: float32 (n,), class numbers.
        box: float32 (n, 4), centre x, centre y, width, height as fractions of the picture.
        polygons: for each object float32 (points, 2), x, y as fractions; None if there are none.
        keypoints: float32 (n, K, 3), x, y as fractions, visibility; None without kpt_shape.
        label_height, label_width: pixels, the picture's size as the label check reports it.
    """

    cls: Float32
    box: Float32
    polygons: Sequence[Float32] | None
    keypoints: Float32 | None
    label_height: int
    label_width: int


class StoredSample(NamedTuple):
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
        notes: (kind, note) of what there is to know about it; see notes.py.
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
    notes: tuple[tuple[str, str], ...] = ()

    @property
    def labels(self) -> Annotation:
        """Gives the part that is not pixels."""
        return Annotation(
            self.cls, self.box, self.polygons, self.keypoints, self.label_height, self.label_width
        )


def check_samples(
    samples: Sequence[StoredSample], data: Sequence[memoryview], meta: DatasetMeta
) -> None:
    """Checks that a reader will accept these samples and their bytes.

    Raises:
        ShardError: names the first bad image and what is wrong.
    """
    labels = [sample.labels for sample in samples]
    for sample, view, annotation in zip(samples, data, labels, strict=True):
        _check_form(sample, view.nbytes, meta)
        _check_labels_form(annotation, meta, sample.name)
    # All at once: for the few numbers of one image, a call of NumPy costs more than its work.
    if samples and not _good_values(labels, meta):
        for sample in samples:
            _check_values(sample.labels, meta, sample.name)


def _check_size(size: tuple[int, int], what: str, name: str) -> None:
    height, width = size
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and height * width <= MAX_PIXELS):
        raise _wrong(
            name, f"{what} size must be 1 to {MAX_SIDE} pixels a side and {MAX_PIXELS} in all, "
            f"got {size}"
        )  # fmt: skip


def _check_form(sample: StoredSample, nbytes: int, meta: DatasetMeta) -> None:
    original = (sample.orig_height, sample.orig_width)
    _check_size(original, "original", sample.name)
    size = resized_shape(*original, meta.imgsz)
    if (sample.height, sample.width) != size:
        raise _wrong(
            sample.name,
            f"size must be {size}, what {original} becomes at imgsz={meta.imgsz}, got "
            f"{(sample.height, sample.width)}",
        )
    if not 0 < nbytes <= MAX_SAMPLE:
        raise _wrong(sample.name, f"must have 1 to {MAX_SAMPLE} bytes to store, has {nbytes}")
    if meta.codec == "raw" and nbytes != sample.height * sample.width * 3:
        raise _wrong(
            sample.name,
            f"raw pixels must have {sample.height} * {sample.width} * 3 bytes, got {nbytes}",
        )
    if not sample.name:
        raise _wrong(sample.name, "the name is empty")
    if len(sample.name) > MAX_NAME // 4:  # four bytes a character at most
        length = len(sample.name.encode("utf-8", "surrogateescape"))
        if length > MAX_NAME:
            raise _wrong(
                sample.name[:100] + "…", f"the name has {length} bytes, at most {MAX_NAME} fit"
            )


def check_labels(labels: Annotation, meta: DatasetMeta, name: str) -> None:
    """Checks that a reader will accept the labels.

    Raises:
        ShardError: names the image and what is wrong.
    """
    _check_labels_form(labels, meta, name)
    _check_values(labels, meta, name)


def _wrong(name: str, what: str) -> ShardError:
    return ShardError(f"{name}: {what}; nothing of this image was stored")


def _check_labels_form(labels: Annotation, meta: DatasetMeta, name: str) -> None:
    n = len(labels.cls)
    _check_array(labels.cls, "cls", (n,), name)
    _check_array(labels.box, "box", (n, 4), name)
    if meta.keypoints is not None:
        _check_array(labels.keypoints, "keypoints", (n, meta.keypoints, 3), name)
    elif labels.keypoints is not None:
        raise _wrong(name, "has keypoints, but the dataset has no kpt_shape")
    label_size = (labels.label_height, labels.label_width)
    _check_size(label_size, "label", name)
    if labels.polygons is None:
        return
    if len(labels.polygons) != n:
        raise _wrong(name, f"must have a polygon, maybe empty, for each of {n} objects")
    for polygon in labels.polygons:
        if polygon.dtype != _FLOAT32 or polygon.ndim != 2 or polygon.shape[1] != 2:
            raise _wrong(
                name, f"polygons must be float32 (points, 2), got {polygon.dtype} {polygon.shape}"
            )


def _check_array(array: Float32 | None, key: str, shape: tuple[int, ...], name: str) -> None:
    if array is None or array.shape != shape or array.dtype != _FLOAT32:
        got = "None" if array is None else f"{array.dtype} {array.shape}"
        raise _wrong(name, f"{key} must be float32 {shape}, got {got}")


def _check_values(labels: Annotation, meta: DatasetMeta, name: str) -> None:
    for key, arrays in (
        ("cls", [labels.cls]),
        ("box", [labels.box]),
        ("keypoints", [] if labels.keypoints is None else [labels.keypoints]),
        ("polygon", labels.polygons or []),
    ):
        if not all(np.isfinite(array).all() for array in arrays):
            raise _wrong(name, f"{key} has values that are not finite")
    if not _are_classes(labels.cls, meta):
        raise _wrong(
            name,
            f"classes must be whole numbers from 0 to {len(meta.names) - 1}, got {labels.cls}",
        )


def _good_values(labels: Sequence[Annotation], meta: DatasetMeta) -> bool:
    """Whether `_check_values` would accept all of these."""
    numbers = [one.box.ravel() for one in labels]
    numbers += [one.keypoints.ravel() for one in labels if one.keypoints is not None]
    numbers += [polygon.ravel() for one in labels for polygon in one.polygons or ()]
    return bool(np.isfinite(np.concatenate(numbers)).all()) and _are_classes(
        np.concatenate([one.cls for one in labels]), meta
    )


def _are_classes(cls: Float32, meta: DatasetMeta) -> bool:
    good = (cls >= 0) & (cls < len(meta.names)) & (np.floor(cls) == cls)  # none of it for a NaN
    return bool(good.all())
