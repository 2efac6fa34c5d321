"""One image of a source to one stored sample: what a packing worker does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
import xxhash

from yolodata.checks import flag, one_of, whole
from yolodata.errors import ConfigError, ResourceError, lacking
from yolodata.images.headers import is_iso_media, read_header
from yolodata.images.resize import resize, resized_shape
from yolodata.ingest.baseline import as_baseline
from yolodata.ingest.image_check import (
    CheckedImage,
    check_image,
    decode,
    decode_rgb,
    decoded_shape,
    read_file,
    unreadable,
)
from yolodata.ingest.labels import check_labels
from yolodata.ingest.sample import TASKS, LabelRules, Labels, RawLabels, Refused, Split
from yolodata.shards.chunks import Chunk
from yolodata.shards.format import CODECS, aligned
from yolodata.shards.notes import LABELS, PICTURES
from yolodata.shards.sample import StoredSample

_HELD = 256 << 20  # bytes of files that wait for being decoded


@dataclass(frozen=True)
class PackSettings:
    """What decides about the bytes that are stored.

    Attributes:
        codec: "raw" (pixels), "jpeg" (the files), or "auto": what the output holds already; else
            raw if that takes no more than a third of the room there, or else jpeg
            (`codec="jpeg"`).
        imgsz: longer side in pixels, 10 to 16384 (`imgsz=320`).
        reencode: JPEG quality, 1 to 100, with which images larger than imgsz are stored at imgsz;
            None stores none anew. Not for codec "raw"; with "auto" it counts where jpeg is chosen
            (`reencode=90`).
        task: whose label decisions. "pose" requires keypoints in every row; all others decide
            alike (`task="pose"`).
        single_cls: classes are not compared with the number of names (`single_cls=True`).
        keep_files: JPEG files with several scans (progressive ones) keep their bytes. Otherwise
            all but unusual ones become baseline files with the same pixels, which decode two to
            four times as fast. Not for codec "raw"; with "auto" it counts where jpeg is chosen
            (`keep_files=True`).

    Raises:
        ConfigError: a value is out of range or of the wrong type, or contradicts another one.
    """

    codec: str = "raw"
    imgsz: int = 640
    reencode: int | None = None
    task: str = "detect"
    single_cls: bool = False
    keep_files: bool = False

    def __post_init__(self) -> None:
        one_of("codec", self.codec, (*CODECS, "auto"))
        whole("imgsz", self.imgsz, 10, 16384)
        if self.reencode is not None:
            whole("reencode", self.reencode, 1, 100)
            if self.codec == "raw":
                raise ConfigError(
                    f"reencode must be left out for codec {self.codec!r}, which stores pixels, got "
                    f"{self.reencode}; use codec 'jpeg'"
                )
        flag("single_cls", self.single_cls)
        flag("keep_files", self.keep_files)
        if self.keep_files and self.codec == "raw":
            raise ConfigError(
                f"keep_files must be left out for codec {self.codec!r}, which stores pixels, got "
                "True; use codec 'jpeg'"
            )
        if self.task not in TASKS:
            raise ConfigError(f"task must be one of {', '.join(TASKS)}, got {self.task!r}")

    @property
    def together(self) -> int:
        """How many images are stored together: what a worker is asked for at a time."""
        return max(1, min(8, 8 * 640**2 // self.imgsz**2))

    @property
    def chunk_nbytes(self) -> int:
        """How many bytes the pixels of these images take at most."""
        return self.together * aligned(self.imgsz**2 * 3)


class Outcome(NamedTuple):
    """What became of one image: a sample, or the reason why there is none."""

    sample: StoredSample | None
    reason: str = ""


class _Accepted(NamedTuple):
    """One image that was checked and not yet decoded.

    size: (height, width) in pixels, to be expected after resizing.
    """

    path: str
    checked: CheckedImage
    labels: Labels
    size: tuple[int, int]


class _Stored(NamedTuple):
    """What is stored of an image: `data`.

    shape: (height, width) of the decoded picture, size: resized; note: of what was done, or "".
    """

    image: _Accepted
    shape: tuple[int, int]
    size: tuple[int, int]
    data: Any
    note: str
    checksum: int


def prepare(
    split: Split,
    indices: Iterable[int],
    rules: LabelRules,
    settings: PackSettings,
    chunk: Chunk | None = None,
) -> list[Outcome]:
    """Reads, checks and converts some images; what a worker does. Never raises for a broken image.

    First all are checked, then all decoded, then all put together. Decoding pushes Python code out
    of the processor's caches, and whatever runs between two decodes takes twice as long. Only where
    their files are large, some are done before the others are read.

    Args:
        split: the source's images.
        indices: which of them.
        rules: for their labels.
        settings: what is made of them.
        chunk: memory for their pixels, of `settings.chunk_nbytes` bytes.

    Raises:
        ResourceError: the machine lacks memory or open files, or cannot read.
    """
    outcomes: list[Outcome] = []
    examined: list[_Accepted | Outcome] = []

    def finish() -> None:
        stored = [
            found if isinstance(found, Outcome) else _store(found, settings, chunk)
            for found in examined
        ]
        examined.clear()
        outcomes.extend(f if isinstance(f, Outcome) else _outcome(f) for f in stored)

    held = 0
    for index in indices:
        examined.append(found := _examine(split, index, rules, settings.imgsz))
        held += 0 if isinstance(found, Outcome) else len(found.checked.data)
        if held > _HELD:
            finish()
            held = 0
    finish()
    return outcomes


def try_decoding(path: str, settings: PackSettings) -> None:
    """Calls every decoder on a file that packing calls; what they say of it does not matter."""
    try:
        checked = check_image(read_file(path), path)
        background = check_labels(RawLabels(None), LabelRules(1))
        size = resized_shape(*checked.label_shape, settings.imgsz)
        _store(_Accepted(path, checked, background, size), settings, None)
    except (Refused, ResourceError):
        return


def _examine(split: Split, index: int, rules: LabelRules, imgsz: int) -> _Accepted | Outcome:
    path = split.paths[index]
    try:
        checked = check_image(read_file(path), path)
        labels = read_labels(split, index, rules, checked.label_shape)
    except Refused as refusal:
        return Outcome(None, str(refusal))
    except Exception as error:
        _clear_of_blame(path, error)
        raise
    return _Accepted(path, checked, labels, resized_shape(*checked.label_shape, imgsz))


def read_labels(split: Split, index: int, rules: LabelRules, shape: tuple[int, int]) -> Labels:
    """Reads the labels of image `index`, of (height, width) pixels, and decides on them.

    Raises:
        Refused: the image is left out for them.
        ResourceError: the machine cannot read them at the moment.
    """
    try:
        raw = split.raw_labels(index)
        return check_labels(raw._replace(notes=raw.notes + raw.size_notes(*shape)), rules)
    except OSError as error:
        raise unreadable(error, split.paths[index], "label file cannot be read") from error


def _clear_of_blame(path: str, error: Exception) -> None:
    """Raises ResourceError if it is the machine that lacks something, and not the image."""
    why = "" if isinstance(error, ResourceError) else lacking(error)
    if why:
        raise ResourceError(f"{path}: {why}; no image was left out for it ({error})") from error


def _store(image: _Accepted, settings: PackSettings, chunk: Chunk | None) -> _Stored | Outcome:
    note = ""
    try:
        if settings.codec == "raw":
            shape, size, data = _pixels(image, settings.imgsz, chunk)
        else:
            shape, size, data, note = _encoded(image, settings)
    except Refused as refusal:
        return Outcome(None, str(refusal))
    except Exception as error:
        _clear_of_blame(image.path, error)
        raise
    checksum = xxhash.xxh3_64_intdigest(data)  # while it is in the cache
    return _Stored(image, shape, size, data, note, checksum)


def _outcome(stored: _Stored) -> Outcome:
    path, checked, labels, _ = stored.image
    notes = [(PICTURES, note) for note in (checked.note, stored.note) if note]
    notes += [(LABELS, note) for note in labels.notes]
    sample = StoredSample(
        data=stored.data,
        height=stored.size[0],
        width=stored.size[1],
        orig_height=stored.shape[0],
        orig_width=stored.shape[1],
        label_height=checked.label_shape[0],
        label_width=checked.label_shape[1],
        name=path,
        cls=labels.cls,
        box=labels.box,
        polygons=labels.polygons,
        keypoints=labels.keypoints,
        checksum=stored.checksum,
        notes=tuple(notes),
    )
    return Outcome(sample)


def _pixels(
    image: _Accepted, imgsz: int, chunk: Chunk | None
) -> tuple[tuple[int, int], tuple[int, int], Any]:
    """The picture's size, its size after resizing, and its pixels then."""
    checked, size = image.checked, image.size
    target = None if chunk is None else chunk.picture(size)
    picture = decode_rgb(checked, image.path, target)
    height, width, _ = picture.shape
    shape = height, width
    if shape != checked.label_shape:
        size = resized_shape(height, width, imgsz)
        target = None if chunk is None else chunk.picture(size)
    pixels = resize(picture, size, target)
    if chunk is None or target is None:
        return shape, size, pixels
    if pixels is not target:
        np.copyto(target, pixels)
    return shape, size, chunk.take(pixels.nbytes)


def _encoded(
    image: _Accepted, settings: PackSettings
) -> tuple[tuple[int, int], tuple[int, int], Any, str]:
    """The picture's size, its size after resizing, the bytes that are stored for it, and a note."""
    checked, picture = image.checked, None
    data: Any
    if settings.reencode is not None:
        picture = decode(checked.data, image.path)
        size = resized_shape(picture.shape[0], picture.shape[1], settings.imgsz)
        if max(picture.shape) > settings.imgsz:
            options = [cv2.IMWRITE_JPEG_QUALITY, settings.reencode]
            data = cv2.imencode(".jpg", resize(picture, size), options)[1].data
            return (picture.shape[0], picture.shape[1]), size, data, ""
    made = None if settings.keep_files else as_baseline(checked, image.path, picture)
    if made is not None:
        data, shape, note = made
    elif picture is not None:
        data, shape, note = checked.data, (picture.shape[0], picture.shape[1]), ""
    else:
        data, shape, note = checked.data, decoded_shape(checked, image.path), ""
    if made is None and not checked.plain:
        _check_stated(data, shape)
    return shape, resized_shape(*shape, settings.imgsz), data, note


def _check_stated(data: bytes, shape: tuple[int, int]) -> None:
    """Raises Refused for a file that states more than it has: readers would not decode it."""
    header = None if is_iso_media(data) else read_header(data)
    height, width = shape
    if header is not None and header.height * header.width > height * width:
        raise Refused(
            f"its file states {header.width} x {header.height} pixels, and {width} x {height} are "
            "decoded; save it anew, or pack with codec=raw"
        )
