"""Labels of the splits of a run, decided on as upstream decides, and digests of their images."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from yolodata.errors import DatasetError
from yolodata.images.resize import resized_shapes
from yolodata.ingest.convert import read_labels
from yolodata.ingest.image_check import check_image, read_file
from yolodata.ingest.sample import LabelRules, Refused, Split
from yolodata.ingest.source import open_source
from yolodata.shards.reader import ShardDataset
from yolodata.shards.reader import open as open_shards

_READERS = 8  # threads; they mostly wait for the disk
_TOGETHER = 64  # images between two looks at the clock


@dataclass(frozen=True)
class SplitLabels:
    """Labels of a split: N images that were read and accepted, M objects.

    Attributes:
        split: "train" or "val".
        total: images of the split, read or not.
        read: images that were read, accepted or not.
        name: path of image 0 … N-1.
        objects: int64 (N,), objects of each image.
        cls: float32 (M,), class numbers.
        box: float32 (M, 4), centre x, centre y, width, height as fractions of the image.
        size: float64 (N, 2), height and width of the original in pixels.
        missing: images without a label file; None where that is not known.
        refused: (path, reason) of images that upstream leaves out.
    """

    split: str
    total: int
    read: int
    name: Callable[[int], str]
    objects: npt.NDArray[np.int64]
    cls: npt.NDArray[np.float32]
    box: npt.NDArray[np.float32]
    size: npt.NDArray[np.float64]
    missing: int | None = None
    refused: Sequence[tuple[str, str]] = ()

    @property
    def complete(self) -> bool:
        """Whether every image was read."""
        return self.read == self.total

    @property
    def images(self) -> int:
        """Images that take part, of those that were read."""
        return len(self.objects)

    def sides(self, imgsz: int) -> npt.NDArray[np.float64]:
        """The shorter side of each box, float64 (M,) pixels, after resizing to `imgsz`."""
        height, width = resized_shapes(self.size[:, 0], self.size[:, 1], imgsz)
        h, w = np.repeat(height, self.objects), np.repeat(width, self.objects)
        shorter: npt.NDArray[np.float64] = np.minimum(self.box[:, 2] * w, self.box[:, 3] * h)
        return shorter

    def counts(self, classes: int) -> npt.NDArray[np.int64]:
        """Objects of each class, int64 (classes,)."""
        return np.bincount(self.cls.astype(np.int64), minlength=classes)

    def of_object(self, number: int) -> str:
        """The path of the image on which an object is."""
        return self.name(int(np.searchsorted(np.cumsum(self.objects), number, "right")))


@dataclass(frozen=True)
class Dataset:
    """The splits of a run.

    Attributes:
        names: class number to name.
        splits: labels by split; one that cannot be read is not here.
        paths: of the images by split, of files; empty for shards.
        shards: opened, by split; empty for files.
        digests: path -> xxh3_64 of the bytes of images that were read.
        not_done: what was not read, each with its reason.
    """

    names: dict[int, str]
    splits: dict[str, SplitLabels]
    paths: dict[str, Sequence[str]] = field(default_factory=dict)
    shards: dict[str, ShardDataset] = field(default_factory=dict)
    digests: dict[str, int] = field(default_factory=dict)
    not_done: list[str] = field(default_factory=list)


def read_shards(data: str, val: str = "val") -> Dataset:
    """Reads the label columns of shards; `val` is what the validation split is called.

    Raises:
        ShardError: the train split is missing or damaged.
    """
    shards = {"train": open_shards(data, split="train")}
    not_done = []
    try:
        shards["val"] = open_shards(data, split=val)
    except OSError as error:  # ShardError is one
        not_done.append(f"validation images: {error}")
    splits = {split: _of_shards(split, opened) for split, opened in shards.items()}
    names = dict(shards["train"].meta.names)
    return Dataset(names, splits, shards=shards, not_done=not_done)


def _of_shards(split: str, shards: ShardDataset) -> SplitLabels:
    left_out = shards.meta.left_out
    return SplitLabels(
        split,
        len(shards) + len(left_out),
        len(shards) + len(left_out),
        shards.name,
        np.diff(shards.object_offset).astype(np.int64),
        np.asarray(shards.cls),
        np.asarray(shards.box),
        np.stack([shards.orig_height, shards.orig_width], 1).astype(np.float64),
        refused=left_out,
    )


def read_files(
    data: str, task: str, single_cls: bool, seed: int, seconds: float, val: str = "val"
) -> Dataset:
    """Reads images and labels of a dataset YAML, in random order, until the seconds are over.

    Args:
        data: the YAML.
        task: as whose labels they are checked.
        single_cls: see `LabelRules`.
        seed: of the order.
        seconds: for all; a third of it is for the validation images.
        val: what the validation split is called.

    Raises:
        DatasetError: the dataset cannot be used.
    """
    asked = "pose" if task == "pose" else "detect"
    not_done = []
    try:
        source = open_source(data, splits=["train", val], format="yolo", task=asked)
    except DatasetError as error:
        source = open_source(data, splits=["train"], format="yolo", task=asked)
        not_done.append(f"validation images: {error}")
    names = {"train": "train", val: "val"}
    opened = {names[split]: one for split, one in source.splits.items()}
    paths: dict[str, Sequence[str]] = {split: one.paths for split, one in opened.items()}
    found = Dataset(source.names, {}, paths, not_done=not_done)
    rules = source.rules(task, single_cls)
    for split, one in opened.items():
        share = seconds / 3 if split == "val" else seconds * 2 / 3
        labels = _of_files(split, one, rules, seed, share, found.digests)
        found.splits[split] = labels
        if not labels.complete:
            not_done.append(
                f"labels of {labels.total - labels.read:,} of {labels.total:,} {split} images: "
                "there was no time; give more seconds"
            )
    return found


def _of_files(
    split: str,
    source: Split,
    rules: LabelRules,
    seed: int,
    seconds: float,
    digests: dict[str, int],
) -> SplitLabels:
    total = len(source.paths)
    order = np.random.default_rng(seed).permutation(total).tolist()
    accepted: list[tuple[int, Any, tuple[int, int]]] = []
    refused: list[tuple[str, str]] = []
    ends, read = time.monotonic() + seconds, 0

    def look(index: int) -> tuple[int | None, Any, tuple[int, int]]:
        """Gives the digest, and labels with the image's size, or why it is left out."""
        path, digest = source.paths[index], None
        try:
            data = read_file(path)
            digest = xxhash.xxh3_64_intdigest(data)
            shape = check_image(data, path).label_shape
            return digest, read_labels(source, index, rules, shape), shape
        except Refused as refusal:
            return digest, str(refusal), (0, 0)

    with ThreadPoolExecutor(_READERS) as pool:
        while read < total and (read == 0 or time.monotonic() < ends):
            part = order[read : read + _TOGETHER]
            for index, (digest, labels, shape) in zip(part, pool.map(look, part), strict=True):
                if digest is not None:
                    digests[source.paths[index]] = digest
                if isinstance(labels, str):
                    refused.append((source.paths[index], labels))
                else:
                    accepted.append((index, labels, shape))
            read += len(part)
    accepted.sort(key=lambda one: one[0])
    numbers = [index for index, _, _ in accepted]
    every = [labels for _, labels, _ in accepted]
    return SplitLabels(
        split,
        total,
        read,
        lambda k: source.paths[numbers[k]],
        np.array([len(labels.cls) for labels in every], np.int64),
        np.concatenate([np.zeros(0, np.float32), *(labels.cls for labels in every)]),
        np.concatenate([np.zeros((0, 4), np.float32), *(labels.box for labels in every)]),
        np.array([shape for _, _, shape in accepted], np.float64).reshape(-1, 2),
        sum(labels.state == "missing" for labels in every),
        sorted(refused),
    )
