"""Where the data are: kind of the file system, and how fast different places of it are read."""

from __future__ import annotations

import errno
import os
import random
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from yolodata.doctor.examination import Outcome
from yolodata.doctor.finding import Finding, Knob
from yolodata.doctor.setup import Setup
from yolodata.errors import DatasetError, ShardError
from yolodata.files import open_regular
from yolodata.images.decode import decode_image
from yolodata.images.formats import open_picture
from yolodata.mounts import Mount, mount_of

if TYPE_CHECKING:
    from yolodata.shards import ShardDataset

PLACES = 24
"""Images that are read."""


@dataclass(frozen=True)
class Place:
    """Bytes of one image."""

    file: str
    offset: int
    nbytes: int


@dataclass
class Sample:
    """Some images of the training split, read.

    Attributes:
        images: of the whole split.
        mount: the file system of the first image.
        seconds: that each read took.
        nbytes: bytes that all reads brought.
        decode_s: seconds that decoding all of these took, where that was asked for.
        cold: whether nothing came from the page cache; None where the kernel does not say.
        shapes: (height, width) of the images that were read, in pixels.
        not_done: why something is missing.
    """

    images: int = 0
    mount: Mount = field(default_factory=Mount)
    seconds: list[float] = field(default_factory=list)
    nbytes: int = 0
    decode_s: float = 0.0
    cold: bool | None = None
    shapes: list[tuple[int, int]] = field(default_factory=list)
    not_done: list[str] = field(default_factory=list)


def examine(setup: Setup, sample: Sample) -> Outcome:
    """Says what the sample shows; complains of pixels that are slower to read than to decode."""
    seconds = sum(sample.seconds)
    measured = {
        "file_system": sample.mount.kind or None,
        "file_system_where": sample.mount.where,
        "images": sample.images or None,
        "random_read_mb_s": sample.nbytes / seconds / 1e6 if seconds else None,
        "random_read_ms": statistics.median(sample.seconds) * 1e3 if seconds else None,
        "random_read_images": len(sample.seconds),
        "random_read_cold": sample.cold,
    }
    slower = _pixels_over_network(setup, sample)
    return Outcome(measured, [slower] if slower else [], sample.not_done)


def sample(setup: Setup, seconds: float) -> Sample:
    """Reads a few images of the training split, each from the disk and not from the page cache.

    The files' pages in the cache are dropped first; of what else is read, nothing is.

    Args:
        setup: names the data; its seed chooses the images.
        seconds: after which no further image is begun; four are read in any case.
    """
    found = Sample()
    rng = random.Random(setup.seed)
    try:
        find = _of_shards if setup.of_shards else _of_files
        places = find(setup, rng, found)
        if places:
            found.mount = mount_of(places[0].file)
            _read(places, time.monotonic() + seconds, found, decode=_caches_pixels(setup))
    except (DatasetError, ShardError, OSError) as error:
        found.not_done.append(f"random reads: {error}")
    return found


def _of_shards(setup: Setup, rng: random.Random, found: Sample) -> list[Place]:
    from yolodata.shards import open as open_shards
    from yolodata.shards import splits

    dataset: ShardDataset = open_shards(next(iter(splits(setup.data).values())))  # train first
    found.images = len(dataset)
    places = []
    for image in rng.sample(range(len(dataset)), min(PLACES, len(dataset))):
        file, _, byte = dataset.locate(image).rpartition(": byte ")
        places.append(Place(file, int(byte), int(dataset.nbytes[image])))
    dataset.close()
    return places


def _of_files(setup: Setup, rng: random.Random, found: Sample) -> list[Place]:
    from yolodata.ingest import open_source

    images = open_source(setup.data, splits=["train"]).splits["train"].paths
    found.images = len(images)
    files = rng.sample(images, min(PLACES, len(images)))
    return [Place(file, 0, os.stat(file).st_size) for file in files]


def _read(places: Sequence[Place], until: float, found: Sample, decode: bool) -> None:
    answers = []
    for count, place in enumerate(places):
        if count >= 4 and time.monotonic() > until:
            break
        fd = open_regular(place.file)
        try:
            _drop(fd, place)
            begun = time.perf_counter()
            answers.append(_cached(fd, place.offset))
            data = _all(fd, place)
            found.seconds.append(time.perf_counter() - begun)
        finally:
            os.close(fd)
        found.nbytes += len(data)
        if place.offset == 0:
            _look_at(data, found, place.file if decode else "")
    # One that came from the cache spoils the rate.
    found.cold = False if True in answers else None if None in answers else True


def _drop(fd: int, place: Place) -> None:
    """Has the kernel forget the bytes; those that are not yet on the disk it has to write first."""
    try:
        os.fdatasync(fd)
        os.posix_fadvise(fd, place.offset, place.nbytes, os.POSIX_FADV_DONTNEED)
    except (AttributeError, OSError):
        return  # not every system and file system can; `cold` says what came of it


def _cached(fd: int, offset: int) -> bool | None:
    """Whether the first byte is in the page cache: the kernel is asked not to wait for it."""
    try:
        return os.preadv(fd, [bytearray(1)], offset, os.RWF_NOWAIT) == 1
    except AttributeError:
        return None
    except OSError as error:
        return False if error.errno == errno.EAGAIN else None


def _all(fd: int, place: Place) -> bytes:
    parts, done = [], 0
    while done < place.nbytes:
        part = os.pread(fd, place.nbytes - done, place.offset + done)
        if not part:
            break
        parts.append(part)
        done += len(part)
    return b"".join(parts)


def _look_at(data: bytes, found: Sample, name: str) -> None:
    """Notes the size of an image and, where it has a name, how long it takes to decode."""
    try:
        with open_picture(data) as picture:
            shape = (picture.height, picture.width)
        begun = time.perf_counter()
        if name:
            decode_image(np.frombuffer(data, np.uint8), None, name)
            found.decode_s += time.perf_counter() - begun
    except Exception:  # a decoder's own; the section "data" meets the same file and says more
        return
    found.shapes.append(shape)


def _caches_pixels(setup: Setup) -> bool:
    """Whether Ultralytics writes the decoded images beside their files, in full size."""
    return setup.examined_loader == "ultralytics" and setup.train.cache == "disk"


def _pixels_over_network(setup: Setup, sample: Sample) -> Finding | None:
    """`cache=disk` where reading pixels takes longer than reading and decoding the files."""
    if not _caches_pixels(setup) or sample.mount.where not in ("network", "fuse"):
        return None
    if not sample.decode_s or sample.cold is False:  # how fast the mount is was not seen
        return None
    read_s, count = sum(sample.seconds), len(sample.shapes)
    pixels = sum(3 * height * width for height, width in sample.shapes)
    # As many megabytes a second as for files: more in large ones, so half as long is granted.
    pixels_s = read_s * pixels / sample.nbytes / 2
    files_s = read_s + sample.decode_s
    if pixels_s <= files_s:
        return None
    return Finding(
        cause="filesystem",
        kind="slow",
        title="Decoded images are read over the network, which takes longer than decoding them.",
        evidence=f"{sample.mount.point} is {sample.mount.kind}, {sample.nbytes / read_s / 1e6:.0f} "
        f"MB/s. A file takes {read_s / count * 1e3:.1f} ms to read and "
        f"{sample.decode_s / count * 1e3:.1f} ms to decode; the {pixels / count / 1e6:.1f} MB that "
        f"cache=disk stores of it take at least {pixels_s / count * 1e3:.1f} ms (calculated, at "
        "twice that rate).",
        knob=Knob("Leave out cache=disk.", {"cache": False}),
    )
