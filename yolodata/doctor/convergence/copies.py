"""Images that are there twice: equal bytes within train, and in both train and val."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath

import numpy as np
import xxhash

from yolodata.doctor.convergence.labels import Dataset
from yolodata.doctor.finding import Finding, Knob
from yolodata.errors import ResourceError
from yolodata.files import open_regular
from yolodata.ingest.image_check import read_file
from yolodata.ingest.sample import Refused

FEW = 0.01
"""Share of the train images that may be copies: some datasets have an image twice."""
MANY = 0.05
"""Share of the validation images from which their metrics are worthless."""
_TAIL = 4096  # bytes at the end of a file, where compressed pictures of one size differ

Place = tuple[str, int]
"""Split, and number of an image in it."""


@dataclass(frozen=True)
class Copies:
    """Images with equal bytes.

    Attributes:
        overlap: (validation image, train image), by path.
        repeated: (train image, an earlier one), by path.
        images: number of images by split.
        compared: how many of all were compared with all.
        where: what was compared, in words.
    """

    overlap: list[tuple[str, str]]
    repeated: list[tuple[str, str]]
    images: dict[str, int]
    compared: int
    where: str

    @property
    def complete(self) -> bool:
        """Whether every image was compared with all."""
        return self.compared == sum(self.images.values())


def find_copies(dataset: Dataset, seconds: float) -> Copies:
    """Finds equal images; of files, the sizes are compared first, and contents where they agree.

    Args:
        dataset: what was read of it.
        seconds: after which reading ends; what is left over is not compared.
    """
    if dataset.shards:
        groups = _equal_samples(dataset)
        images = {split: len(shards) for split, shards in dataset.shards.items()}
        opened = dataset.shards
        return _sorted_out(
            groups, lambda place: opened[place[0]].name(place[1]), images, sum(images.values()),
            "checksums of the stored images",
        )  # fmt: skip
    images = {split: len(paths) for split, paths in dataset.paths.items()}
    groups, compared = _equal_files(dataset, time.monotonic() + seconds)
    paths = dataset.paths
    return _sorted_out(
        groups, lambda place: paths[place[0]][place[1]], images, compared, "contents of the files"
    )


def _sorted_out(
    groups: Iterable[list[Place]],
    name: Callable[[Place], str],
    images: dict[str, int],
    compared: int,
    where: str,
) -> Copies:
    overlap, repeated = [], []
    for group in groups:
        train = [place for place in group if place[0] == "train"]
        if train:
            first = name(train[0])
            overlap += [(name(place), first) for place in group if place[0] != "train"]
            repeated += [(name(place), first) for place in train[1:]]
    return Copies(sorted(overlap), sorted(repeated), images, compared, where)


def _equal_samples(dataset: Dataset) -> list[list[Place]]:
    names = list(dataset.shards)
    starts = np.cumsum([0, *(len(shards) for shards in dataset.shards.values())])
    checksums = np.concatenate([shards.checksum for shards in dataset.shards.values()])
    _, inverse, counts = np.unique(checksums, return_inverse=True, return_counts=True)
    groups: defaultdict[Hashable, list[Place]] = defaultdict(list)
    for k in np.flatnonzero(counts[inverse] > 1).tolist():
        part = int(np.searchsorted(starts, k, "right")) - 1
        place = names[part], k - int(starts[part])
        shards = dataset.shards[place[0]]
        shape = int(shards.height[place[1]]), int(shards.width[place[1]])
        groups[int(checksums[k]), int(shards.nbytes[place[1]]), shape].append(place)
    return [group for group in groups.values() if len(group) > 1]


def _equal_files(dataset: Dataset, ends: float) -> tuple[list[list[Place]], int]:
    """Groups of equal files, and how many files are known to be in the right one."""
    paths = dataset.paths
    places = [  # val first: an image in both splits does more harm than one twice in train
        (split, i) for split in sorted(paths, reverse=True) for i in range(len(paths[split]))
    ]

    def size(place: Place) -> Hashable:
        return os.stat(paths[place[0]][place[1]]).st_size

    def tail(place: Place) -> Hashable:
        path = paths[place[0]][place[1]]
        with os.fdopen(open_regular(path), "rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            return file.read()

    def content(place: Place) -> Hashable:
        path = paths[place[0]][place[1]]
        known = dataset.digests.get(path)
        return xxhash.xxh3_64_intdigest(read_file(path)) if known is None else known

    groups, compared = [places], len(places)
    for key in (size, tail, content):
        finer: list[list[Place]] = []
        for group in groups:
            parts, unread = _split(group, key, ends)
            compared -= unread
            finer += parts
        groups = finer
    return groups, compared


def _split(
    group: list[Place], key: Callable[[Place], Hashable], ends: float
) -> tuple[list[list[Place]], int]:
    """Parts of a group with equal keys and more than one image; how many images were not read."""
    parts: defaultdict[Hashable, list[Place]] = defaultdict(list)
    for k, place in enumerate(group):
        if k and time.monotonic() > ends:
            return [part for part in parts.values() if len(part) > 1], len(group) - k
        try:
            parts[key(place)].append(place)
        except (OSError, Refused, ResourceError):
            continue  # what cannot be read is said where labels are read
    return [part for part in parts.values() if len(part) > 1], 0


def judge_copies(copies: Copies) -> Iterator[Finding]:
    """Says what equal images mean for training."""
    scope = f"{copies.where} compared of all {sum(copies.images.values()):,} images"
    if not copies.complete:
        scope = f"{copies.where} compared of {copies.compared:,} images"
    val, train = copies.images.get("val", 0), copies.images["train"]
    if copies.overlap:
        count, share = len(copies.overlap), len(copies.overlap) / val
        yield Finding(
            "overlap",
            "breaks" if share >= MANY else "risk",
            f"{count:,} of {val:,} validation images ({share:.1%}) are in train, too.",
            f"{scope}: {_pairs(copies.overlap)}. Metrics on these images measure memory, and "
            "choose the wrong best.pt.",
            Knob("Take these images out of one of the two splits.", {}),
            measured=True,
        )
    share = len(copies.repeated) / train
    if share >= FEW:
        yield Finding(
            "duplicates",
            "risk",
            f"{len(copies.repeated):,} of {train:,} train images ({share:.1%}) repeat another one.",
            f"{scope}: {_pairs(copies.repeated)}. Each epoch shows these images more often.",
            Knob("Remove the copies, unless they are there to weigh more.", {}),
            measured=True,
        )


def _pairs(pairs: list[tuple[str, str]]) -> str:
    some = [f"{short(a)} = {short(b)}" for a, b in pairs[:3]]
    return ", ".join(some) + (", …" if len(pairs) > 3 else "")


def short(path: str) -> str:
    """The last two parts of a path."""
    return "/".join(PurePath(path).parts[-2:])
