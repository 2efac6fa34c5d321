"""One image of a source to one stored sample: what a packing worker does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import xxhash

from yolodata.errors import ConfigError
from yolodata.ingest.images import (
    CheckedImage,
    Picture,
    check_image,
    decode,
    decode_rgb,
    decoded_shape,
    read_file,
    resize,
)
from yolodata.ingest.labels import check_labels
from yolodata.ingest.sample import TASKS, LabelRules, Labels, Refused, Split
from yolodata.shards.chunks import Chunk
from yolodata.shards.decode import resized_shape
from yolodata.shards.format import CODECS, aligned
from yolodata.shards.sample import StoredSample


@dataclass(frozen=True)
class PackSettings:
    """What decides about the bytes that are stored.

    codec: "raw" or "jpeg". imgsz: longer side in pixels. reencode: JPEG quality 1-100 for pictures
    larger than imgsz, None to keep the original file bytes; for codec "jpeg" only. task: whose
    label decisions ("pose" requires keypoints in every row; all others decide alike). single_cls:
    classes are not compared with the number of names.
    """

    codec: str = "raw"
    imgsz: int = 640
    reencode: int | None = None
    task: str = "detect"
    single_cls: bool = False

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise ConfigError(f"codec has to be one of {', '.join(CODECS)}, not '{self.codec}'.")
        if not isinstance(self.imgsz, int) or not 10 <= self.imgsz <= 16384:
            raise ConfigError(
                f"imgsz has to be a whole number of pixels from 10 to 16384, not {self.imgsz!r}."
            )
        if self.reencode is not None and self.codec != "jpeg":
            raise ConfigError(
                f"reencode is for codec 'jpeg' only; codec '{self.codec}' stores pixels."
            )
        if self.reencode is not None and not 1 <= self.reencode <= 100:
            raise ConfigError(f"reencode is a JPEG quality from 1 to 100, not {self.reencode}.")
        if self.task not in TASKS:
            raise ConfigError(f"task has to be one of {', '.join(TASKS)}, not '{self.task}'.")

    @property
    def together(self) -> int:
        """Images that are stored together: what a worker is asked for at a time."""
        return max(1, min(8, 8 * 640**2 // self.imgsz**2))

    @property
    def chunk_nbytes(self) -> int:
        """Memory that the pixels of these images take at most."""
        return self.together * aligned(self.imgsz**2 * 3)


@dataclass(frozen=True)
class Outcome:
    """One image after a worker: either a sample, with notes, or the reason why there is none."""

    sample: StoredSample | None
    reason: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Accepted:
    """One image that was checked and not yet decoded."""

    path: str
    checked: CheckedImage
    labels: Labels


def prepare(
    split: Split,
    indices: Iterable[int],
    rules: LabelRules,
    settings: PackSettings,
    chunk: Chunk | None = None,
) -> Iterator[Outcome]:
    """Read, check and convert some images; what a worker does. Never raises for a bad image.

    chunk: pixels are put there.

    All are checked before the first is decoded: decoding pushes the Python code and Pillow out of
    the processor's caches, and checking is twice as slow after it.
    """
    for found in [_examine(split, index, rules) for index in indices]:
        try:
            yield found if isinstance(found, Outcome) else _convert(found, settings, chunk)
        except Refused as refusal:
            yield Outcome(None, str(refusal))


def _examine(split: Split, index: int, rules: LabelRules) -> _Accepted | Outcome:
    path = split.paths[index]
    try:
        checked = check_image(read_file(path), path)
        try:
            labels = check_labels(split.raw_labels(index), rules)
        except OSError as error:
            raise Refused(f"label file cannot be read: {error.strerror or error}") from error
    except Refused as refusal:
        return Outcome(None, str(refusal))
    return _Accepted(path, checked, labels)


def _convert(image: _Accepted, settings: PackSettings, chunk: Chunk | None) -> Outcome:
    checked, labels = image.checked, image.labels
    if settings.codec == "raw":
        height, width, stored = _pixels(checked, image.path, settings.imgsz, chunk)
    else:
        height, width, stored = _encoded(checked, image.path, settings)
    shape = resized_shape(height, width, settings.imgsz)
    sample = StoredSample(
        data=stored,
        height=shape[0],
        width=shape[1],
        orig_height=height,
        orig_width=width,
        label_height=checked.label_shape[0],
        label_width=checked.label_shape[1],
        name=image.path,
        cls=labels.cls,
        box=labels.box,
        polygons=labels.polygons,
        keypoints=labels.keypoints,
        checksum=xxhash.xxh3_64_intdigest(memoryview(stored).cast("B")),  # while it is in the cache
    )
    return Outcome(sample, notes=((checked.note,) if checked.note else ()) + labels.notes)


def _pixels(
    checked: CheckedImage, path: str, imgsz: int, chunk: Chunk | None
) -> tuple[int, int, Any]:
    """Height and width of the decoded picture, and its pixels, resized."""
    if chunk is None:
        picture = decode_rgb(checked, path)
        return *picture.shape[:2], resize(picture, imgsz)
    target = _room(chunk, resized_shape(*checked.label_shape, imgsz))
    picture = decode_rgb(checked, path, target)
    height, width = picture.shape[:2]
    target = _room(chunk, resized_shape(height, width, imgsz))
    pixels = resize(picture, imgsz, target)
    if pixels.ctypes.data != target.ctypes.data:
        np.copyto(target, pixels)
    return height, width, chunk.take(pixels.nbytes)


def _room(chunk: Chunk, shape: tuple[int, int]) -> Picture:
    return chunk.room(shape[0] * shape[1] * 3).reshape(*shape, 3)


def _encoded(checked: CheckedImage, path: str, settings: PackSettings) -> tuple[int, int, Any]:
    """Height and width of the decoded picture, and the bytes that are stored for it."""
    data: Any = checked.data
    if settings.reencode is None:
        height, width = decoded_shape(checked, path)
        return height, width, data
    picture = decode(data, path)
    height, width = picture.shape[:2]
    if max(height, width) > settings.imgsz:
        options = [cv2.IMWRITE_JPEG_QUALITY, settings.reencode]
        data = cv2.imencode(".jpg", resize(picture, settings.imgsz), options)[1].data
    return height, width, data
