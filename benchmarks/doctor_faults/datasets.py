"""Datasets of drawn pictures like COCO's, also as progressive JPEG files or enlarged.

A few hundred different pictures are drawn, and linked under as many names as are wanted: a loader
reads a file as often as it has names, and a disk that is mounted over the folder has no two files
in the cache for one reading.
"""

from __future__ import annotations

import atexit
import os
import random
import shutil
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from yolodata.machine import usable_cores

DIFFERENT = 192  # pictures that are drawn
LARGE = 48  # of them that are enlarged: 4K pictures take long to encode
NAMES = 6000  # of files; more than are read in a run
QUALITY = 92


@dataclass(frozen=True)
class Pictures:
    """How the pictures of a dataset are stored.

    Attributes:
        width: pixels of the longer side; 0 is as drawn, 640 mostly.
        progressive: share (0-1) of progressive JPEG files; the others are baseline.
        large: share (0-1) of pictures of `width`; the others are as drawn.
    """

    width: int = 0
    progressive: float = 0.0
    large: float = 1.0


def dataset(pictures: Pictures = Pictures()) -> Path:
    """The YAML of a dataset, made the first time: `images/train` and `labels/train` beside it."""
    return _made(pictures)


@cache
def _root() -> Path:
    """A folder that is removed when this process ends."""
    root = Path(tempfile.mkdtemp())
    owner = os.getpid()  # a forked child removes nothing
    atexit.register(lambda: os.getpid() == owner and shutil.rmtree(root, ignore_errors=True))
    return root


@cache
def _drawn() -> Path:
    from yolodata.bench import drawing

    folder = _root() / "0"
    drawing.write(folder, DIFFERENT, seed=0, threads=len(usable_cores()))
    return folder


@cache
def _made(pictures: Pictures) -> Path:
    from yolodata.bench import drawing

    source = _drawn()
    folder = Path(tempfile.mkdtemp(dir=_root()))
    store = folder / "files"
    store.mkdir()
    images, labels = drawing.make_folders(folder)
    files = sorted((source / "images" / "train").glob("*.jpg"))
    files = files[:LARGE] if pictures.width else files
    rng = random.Random(0)
    # Shares are kept exactly, not in the mean.
    ranks = [rng.sample(range(len(files)), len(files)) for _ in range(2)]
    progressive = [rank < pictures.progressive * len(files) for rank in ranks[0]]
    large = [bool(pictures.width) and rank < pictures.large * len(files) for rank in ranks[1]]

    def one(number: int) -> None:
        width = pictures.width if large[number] else 0
        _store(files[number], store / f"{number}.jpg", width, progressive[number])

    with ThreadPoolExecutor(len(usable_cores())) as pool:
        list(pool.map(one, range(len(files))))
    for number in range(NAMES):
        file = files[number % len(files)]
        os.link(store / f"{number % len(files)}.jpg", images / f"{number:06d}.jpg")
        os.link(_label(file), labels / f"{number:06d}.txt")
    shutil.rmtree(store)  # its names; the files stay
    names = [f"thing {number}" for number in range(80)]
    return drawing.write_yaml(folder, "images/train", names)


def _label(image: Path) -> Path:
    return image.parents[2] / "labels" / "train" / f"{image.stem}.txt"


def _store(source: Path, target: Path, width: int, progressive: bool) -> None:
    """Encodes a picture anew, all kinds alike: the kinds differ in nothing but their kind."""
    import cv2

    image = cv2.imread(str(source))
    if width:
        scale = width / max(image.shape[:2])
        mode = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
        image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=mode)
    options = [
        cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_PROGRESSIVE, int(progressive),
    ]  # fmt: skip
    if not cv2.imwrite(str(target), image, options):
        raise OSError(f"{target} cannot be written")
