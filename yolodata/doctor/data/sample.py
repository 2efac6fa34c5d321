"""Some images of a dataset: which, read as they lie there, copied, or stored in another way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from yolodata.files import open_regular, read_regular
from yolodata.images.formats import open_picture
from yolodata.images.headers import read_header
from yolodata.images.limits import most_bytes, why_not_decoded
from yolodata.images.resize import resized_shape
from yolodata.ingest.yolo import label_path

_COPIED = 48
_ENOUGH_BYTES = 64 * 2**20  # copied, of at least `_FEWEST` images
_FEWEST = 12  # where time is short, or they are huge: a mixture of images is hardly known then
_ALONE = 6  # images that are read one after the other
_MOST = 100_000  # images of which upstream's loader is told
_LARGE = 1.5  # times imgsz
_QUALITY = 90  # of pictures that are made smaller
_READERS = 8


@dataclass(frozen=True)
class Copies:
    """Images in files of their own, beside label files.

    Attributes:
        files: of the images.
        nbytes: bytes of each image.
        read_ms: milliseconds to read one of the originals, while nothing else reads.
    """

    files: list[Path]
    nbytes: list[int]
    read_ms: float


@dataclass(frozen=True)
class Looks:
    """What the images of a sample are like.

    Attributes:
        progressive: share (0-1) of JPEG files that are progressive.
        longer_side: pixels, the mean.
        large: share of images whose longer side is more than 1.5 times imgsz.
    """

    progressive: float
    longer_side: float
    large: float


def told(images: Sequence[str], seed: int) -> list[str]:
    """Returns the images that a loader is told of: all, or so many that its lists stay short."""
    if len(images) <= _MOST:
        return list(images)
    chosen = np.random.default_rng(seed).choice(len(images), _MOST, replace=False)
    return [images[i] for i in sorted(chosen)]


def forget(files: Sequence[str | Path]) -> None:
    """Drops files from the page cache, so that they are read as on a machine that starts."""
    if not hasattr(os, "posix_fadvise"):
        return
    for file in files:
        try:
            descriptor = open_regular(file)
        except OSError:
            continue
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def readable(images: Sequence[str]) -> list[str]:
    """Returns those that a loader may be told of, by their headers; upstream checks each file.

    It would wait for a FIFO, and end with what is no picture.
    """
    with ThreadPoolExecutor(_READERS) as pool:
        good = list(pool.map(_is_readable, images))
    return [image for image, is_good in zip(images, good, strict=True) if is_good]


def _is_readable(file: str) -> bool:
    try:
        with os.fdopen(open_regular(file), "rb") as opened:
            if os.fstat(opened.fileno()).st_size > most_bytes():
                return False
            with open_picture(opened) as image:
                plain = image.format == "JPEG"
        header = None if plain else read_header(read_regular(file, most_bytes()))
    except Exception:  # Pillow raises whatever it meets
        return False
    return header is None or not why_not_decoded(header)


def copy(images: Sequence[str], folder: Path, seed: int, seconds: float) -> Copies:
    """Copies some images, and their label files, into a folder.

    Args:
        images: of the dataset.
        folder: gets `images/` and `labels/`.
        seed: chooses the images.
        seconds: after which no more are read.
    """
    count = min(len(images), _COPIED)
    chosen = np.random.default_rng(seed).choice(len(images), count, replace=False)
    into = folder / "images"
    into.mkdir(parents=True, exist_ok=True)
    (folder / "labels").mkdir(exist_ok=True)
    forget([images[i] for i in chosen])
    end = time.monotonic() + seconds
    read = 0

    def take(number: int) -> tuple[Path, int, float] | None:
        nonlocal read
        enough = read > _ENOUGH_BYTES or time.monotonic() > end
        if number >= _FEWEST and enough:
            return None
        source = images[chosen[number]]
        start = time.perf_counter()
        try:
            data = read_regular(source, most_bytes())
        except OSError:
            return None  # upstream would leave it out, or never come to an end
        taken = time.perf_counter() - start
        read += len(data)
        header = read_header(data)
        if header is not None and why_not_decoded(header):
            return None  # packing leaves it out
        try:
            open_picture(data).close()
        except Exception:  # Pillow raises whatever it meets; upstream leaves the image out
            return None
        file = into / f"{number:06d}{Path(source).suffix.lower()}"
        file.write_bytes(data)
        try:
            labels = read_regular(label_path(source), most_bytes())
        except OSError:
            labels = b""
        Path(label_path(str(file))).write_bytes(labels)
        return file, len(data), taken

    alone = [one for one in map(take, range(min(count, _ALONE))) if one]
    with ThreadPoolExecutor(_READERS) as pool:
        others = [one for one in pool.map(take, range(_ALONE, count)) if one]
    read_ms = 1e3 * float(np.mean([s for _, _, s in alone])) if alone else 0.0
    found = alone + others
    return Copies([file for file, _, _ in found], [size for _, size, _ in found], read_ms)


def look(files: Sequence[Path], imgsz: int) -> Looks:
    """Reads the headers of images."""
    jpegs = progressive = large = 0
    sides = []
    for file in files:
        try:
            with open_picture(file.read_bytes()) as image:
                sides.append(max(image.size))
                jpegs += image.format == "JPEG"
                progressive += bool(image.info.get("progressive"))
        except Exception:  # Pillow raises whatever it meets
            continue
        large += sides[-1] > _LARGE * imgsz
    return Looks(
        progressive / jpegs if jpegs else 0.0,
        float(np.mean(sides)) if sides else 0.0,
        large / len(sides) if sides else 0.0,
    )


def as_baseline(files: Sequence[Path], folder: Path) -> list[Path]:
    """Stores images once more: progressive JPEG files as baseline ones of the same quantisation."""

    def convert(image: Image.Image, target: Path) -> bool:
        if image.format != "JPEG" or not image.info.get("progressive"):
            return False
        image.save(target, "JPEG", quality="keep", progressive=False)
        return True

    return _converted(files, folder, convert)


def as_small(files: Sequence[Path], folder: Path, imgsz: int) -> list[Path]:
    """Stores images once more: those larger than imgsz as JPEG files of that size."""

    def convert(image: Image.Image, target: Path) -> bool:
        if max(image.size) <= imgsz:
            return False
        width, height = image.size
        height, width = resized_shape(height, width, imgsz)
        image.draft("RGB", (width, height))  # a JPEG is decoded at about that size: far sooner
        small = image.convert("RGB").resize((width, height), Image.Resampling.BILINEAR)
        small.save(target, "JPEG", quality=_QUALITY)
        return True

    return _converted(files, folder, convert)


def _converted(
    files: Sequence[Path], folder: Path, convert: Callable[[Image.Image, Path], bool]
) -> list[Path]:
    """Stores images in another way; what `convert` leaves alone is stored as it is."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "labels").mkdir(exist_ok=True)

    def store(file: Path) -> Path:
        data = file.read_bytes()
        target = folder / "images" / f"{file.stem}.jpg"
        try:
            with open_picture(data) as image:
                done = convert(image, target)
        except Exception:
            done = False  # what cannot be read is left out by the loader, here as there
        if not done:
            target = folder / "images" / file.name
            target.write_bytes(data)
        Path(label_path(str(target))).write_bytes(Path(label_path(str(file))).read_bytes())
        return target

    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(store, files))
