"""How much a pack will take, said before it begins: file sizes, and the headers of a sample.

Of up to `ALL` images each header is read, of more every so-manieth, in the source's order. An image
that cannot be opened counts as nothing, because it will be left out. What is not counted but
estimated comes with two standard errors, and with what a few encoded pictures tell for `reencode`.
Labels are not counted: about a hundredth of it.
"""

from __future__ import annotations

import errno
import math
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from yolodata.errors import DatasetError, ShardError
from yolodata.files import open_regular, read_regular, stored_bytes
from yolodata.images.decode import decode_image
from yolodata.images.formats import open_picture
from yolodata.images.limits import most_bytes
from yolodata.images.resize import resized_shape
from yolodata.ingest.convert import PackSettings
from yolodata.ingest.sample import QUALITY, Split
from yolodata.shards.format import aligned
from yolodata.terminal import size_text

ALL = 64  # images of which each is looked at
SAMPLE = 400  # headers at most; fewer where packing itself does not take long
SIZES = 4096  # file sizes at most
GROWTH = 0.02  # of progressive files that become baseline ones; of photographs -0.01 to 0.035
GROWTH_ERROR = 0.03
ENCODED = 8  # pictures at most: one of so many images, and so many where it was asked for
PER_ENCODED = 200
ASKED = 4
ENCODE_SECONDS = 0.3
COMFORTABLE = 1 / 3
"""Share of the room that raw shards may take where `codec="auto"` chooses them."""


@dataclass(frozen=True)
class Amount:
    """Bytes on disk, and by how many that may be wrong (two standard errors; 0 is counted)."""

    nbytes: float = 0.0
    error: float = 0.0

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.nbytes + other.nbytes, math.hypot(self.error, other.error))

    def __str__(self) -> str:
        if self.error <= self.nbytes / 1000:
            return size_text(self.nbytes)
        return f"about {size_text(self.nbytes)} (± {100 * self.error / self.nbytes:.0f} %)"


class _Look(NamedTuple):
    """(height, width) in pixels, and whether it is a progressive JPEG file."""

    shape: tuple[int, int]
    progressive: bool


@dataclass(frozen=True)
class Estimate:
    """What shards of some images will take.

    Attributes:
        raw: as pixels.
        jpeg: as the files that they are.
        reencoded: as JPEG files of `quality`, none larger than imgsz; None where that is not known:
            of few images, nobody asked for it.
        quality: of these.
    """

    raw: Amount
    jpeg: Amount
    reencoded: Amount | None
    quality: int

    def __add__(self, other: Estimate) -> Estimate:
        smaller = None
        if self.reencoded is not None and other.reencoded is not None:
            smaller = self.reencoded + other.reencoded
        return Estimate(self.raw + other.raw, self.jpeg + other.jpeg, smaller, self.quality)

    def of(self, settings: PackSettings) -> Amount:
        """Gives what these settings take."""
        if settings.codec == "raw":
            return self.raw
        return self.jpeg if settings.reencode is None else self.reencoded or self.jpeg

    def others(self, settings: PackSettings) -> dict[str, Amount]:
        """Gives what other settings would take."""
        kinds = {}
        if settings.codec != "raw":
            kinds["codec=raw"] = self.raw
        if settings.codec != "jpeg" or settings.reencode is not None:
            kinds["codec=jpeg"] = self.jpeg
        if settings.reencode is None and self.reencoded not in (None, self.jpeg):
            kinds[f"codec=jpeg reencode={self.quality}"] = self.reencoded
        return kinds


def estimate(splits: Iterable[Split], settings: PackSettings) -> Estimate:
    """Estimates what all images of some splits take; opens a few of them.

    Args:
        splits: of one source.
        settings: what is to be packed. Pictures of another size are told of with its `reencode`, or
            `QUALITY`.
    """
    quality = settings.reencode or QUALITY
    total = Estimate(Amount(), Amount(), Amount(), quality)
    every = [split.paths for split in splits]
    many = sum(map(len, every)) >= PER_ENCODED
    least = int(many) if settings.reencode is None else ASKED  # of a small split among large ones
    for paths in every:
        encoded = min(ENCODED, max(least, len(paths) // PER_ENCODED))
        total += _of_paths(paths, settings, quality, encoded)
    return total


def _of_paths(paths: Sequence[str], settings: PackSettings, quality: int, encoded: int) -> Estimate:
    count, imgsz = len(paths), settings.imgsz
    files = _total([_file_size(path) for path in _sample(paths, SIZES)], count)
    looks = [(path, _look(path)) for path in _sample(paths, min(SAMPLE, count // 8))]
    found = [(path, look.shape) for path, look in looks]
    changed = [look.progressive and not settings.keep_files for _, look in looks]
    files = _grown(files, changed)
    raw = [aligned(3 * _pixels(shape, imgsz)) for _, shape in found]
    large = [path for path, shape in found if max(shape) > imgsz]
    if not large:
        return Estimate(_total(raw, count), files, files, quality)
    few = [large[k * len(large) // encoded] for k in range(min(encoded, len(large)))]
    density = _bytes_per_pixel(few, imgsz, quality)
    if density is None:
        return Estimate(_total(raw, count), files, None, quality)
    smaller = _total(
        [
            aligned(int(density.nbytes * _pixels(shape, imgsz)))
            if max(shape) > imgsz
            else _file_size(path)
            for path, shape in found
        ],
        count,
    )
    smaller = _grown(
        smaller, [c and max(s) <= imgsz for c, (_, s) in zip(changed, found, strict=True)]
    )
    wrong = smaller.nbytes * density.error / density.nbytes
    smaller = Amount(smaller.nbytes, math.hypot(smaller.error, wrong))
    return Estimate(_total(raw, count), files, smaller, quality)


def _grown(files: Amount, changed: Sequence[bool]) -> Amount:
    """Files of which a sample says how many become baseline ones."""
    if not any(changed):
        return files
    share = sum(changed) / len(changed)
    grown = files.nbytes * (1 + GROWTH * share)
    return Amount(grown, math.hypot(files.error, files.nbytes * GROWTH_ERROR * share))


def _sample(paths: Sequence[str], most: int) -> Sequence[str]:
    """Gives so many of them at equal distances, but at least `ALL`, or all there are."""
    most = max(most, ALL)
    if len(paths) <= most:
        return paths
    return [paths[int((k + 0.5) * len(paths) / most)] for k in range(most)]


def _pixels(shape: tuple[int, int], imgsz: int) -> int:
    return math.prod(resized_shape(*shape, imgsz)) if min(shape) else 0


def _total(sample: Sequence[int], count: int) -> Amount:
    """Gives the sum over `count` images of which the sample is a part."""
    if not sample:
        return Amount()
    mean = sum(sample) / len(sample)
    if len(sample) == count:
        return Amount(mean * count)
    spread = float(np.std(sample, ddof=1)) / math.sqrt(len(sample))
    return Amount(mean * count, 2 * spread * count * math.sqrt(1 - len(sample) / count))


def _file_size(path: str) -> int:
    """Bytes on disk; 0 for what will be left out."""
    try:
        size = os.stat(path).st_size
    except (OSError, ValueError):
        return 0
    return aligned(size) if size <= most_bytes() else 0


def _look(path: str) -> _Look:
    """What the header of an image says; of what is no image, that it has no pixels."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            if os.fstat(file.fileno()).st_size > most_bytes():
                return _Look((0, 0), False)  # Pillow reads all of a WebP or AVIF file
            with open_picture(file) as image:
                return _Look((image.height, image.width), bool(image.info.get("progressive")))
    except Exception:  # Pillow raises nearly anything on damaged files; packing will say why
        return _Look((0, 0), False)


def _bytes_per_pixel(paths: Sequence[str], imgsz: int, quality: int) -> Amount | None:
    """Gives bytes a pixel of pictures that were shrunk to imgsz and encoded; None without any."""
    found: list[float] = []
    ends = time.monotonic() + ENCODE_SECONDS
    for path in paths:
        try:
            data = np.frombuffer(read_regular(path, most_bytes()), np.uint8)
            picture = decode_image(data, imgsz, path)
        except (OSError, DatasetError, MemoryError):
            continue  # packing will say why
        encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        found.append(encoded.size / math.prod(picture.shape[:2]))
        if time.monotonic() > ends:
            break
    if not found:
        return None
    mean = sum(found) / len(found)
    spread = float(np.std(found, ddof=1)) if len(found) > 1 else mean / 4
    return Amount(mean, 2 * spread / math.sqrt(len(found)))


def room(out: Path, splits: Iterable[str]) -> float:
    """Gives the bytes that these splits may take in a folder, which need not exist.

    What they hold there already counts as free: it is continued or replaced. Infinity where the
    file system does not say.
    """
    place = out
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        usage = shutil.disk_usage(place)
    except OSError:
        return math.inf
    if not usage.total:
        return math.inf
    return usage.free + sum(stored_bytes(out / split) for split in splits)


def choose_codec(found: Estimate, free: float) -> tuple[str, str]:
    """Gives the codec that `codec="auto"` means where nothing is packed yet, and why."""
    need = found.raw.nbytes + found.raw.error
    if need <= free * COMFORTABLE:
        return "raw", "pixels take less than a third of the room"
    return "jpeg", f"pixels would take {found.raw}, more than a third of the room"


def announcement(
    splits: Mapping[str, Split], out: Path, settings: PackSettings, found: Estimate, free: float
) -> str:
    """Says before packing what will be packed, where, what it takes, and what else there is.

    Raises:
        ShardError: it cannot fit, even if the estimate is as wrong as may be.
    """
    counts = " and ".join(f"{len(split.paths):,} {name}" for name, split in splits.items())
    others = found.others(settings)
    kind = "pixels" if settings.codec == "raw" else "JPEG files"
    need = found.of(settings)
    if need.nbytes - need.error > free:
        fitting = [f"{kind} ({amount})" for kind, amount in others.items() if amount.nbytes < free]
        advice = f"use {' or '.join(fitting)}, " if fitting else ""
        error = ShardError(
            f"{out}: {counts} images take {need} as codec={settings.codec} of imgsz="
            f"{settings.imgsz}, but {size_text(free)} are free there; {advice}choose a smaller "
            "imgsz or another folder, or make room"
        )
        error.errno = errno.ENOSPC
        raise error
    where = f", {size_text(free)} free there" if math.isfinite(free) else ""
    text = f"packing {counts} images as {kind}, imgsz {settings.imgsz}, into {out}: {need}{where}"
    return f"{text} ({', '.join(f'{kind}: {amount}' for kind, amount in others.items())})"
