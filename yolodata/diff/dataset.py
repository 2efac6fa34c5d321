"""A packed dataset as one table of its images, over all splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yolodata.diff.keys import Indices, Keys, key_of, mixed
from yolodata.errors import ShardError
from yolodata.ingest.split_names import split_of_folder
from yolodata.shards.class_names import check_same_classes
from yolodata.shards.format import SPLITS, DatasetMeta
from yolodata.shards.reader import ShardDataset, read_meta, splits

_TOGETHER = 1 << 16  # names
_SAMPLED = 1024  # names that tell where a dataset lies
_ALIKE = 4  # of them that may end alike
_VOTES = 1 << 16  # places that are told apart


class PackedDataset:
    """The splits of a packed dataset, opened; image 0 is the first one of the first split.

    Attributes:
        path: the folder of the splits, or what a user calls the dataset.
        splits: by name, in the order of `SPLITS`.
        start: the number of the first image of each split.
        split: uint8 (N,), place of each image's split in `SPLITS`.
        root: what all names that are compared begin with, and is left out; "" or ends with "/".
        name: uint64 (N,), keys of the names below `root`.
        stored: uint64 (N,), keys of how an image's pixels are stored: equal for equal packing.
        pixels: uint64 (N,), keys of the stored bytes, of how they are stored, and of the
            original's size. Black pictures of two sizes have the same pixels at `imgsz`.
    """

    def __init__(self, path: Path, found: dict[str, Path]) -> None:
        self.path = path
        check_same_classes({str(folder): read_meta(folder).names for folder in found.values()})
        self.splits = {split: ShardDataset(folder) for split, folder in found.items()}
        counts = [len(dataset) for dataset in self.splits.values()]
        starts = np.cumsum([0, *counts]).tolist()
        self.start = dict(zip(self.splits, starts, strict=False))
        self._ends = np.array(starts[1:])
        self.split = np.repeat([SPLITS.index(split) for split in self.splits], counts).astype("u1")
        size = self._column("orig_height") << 32 | self._column("orig_width")
        stored = [key_of(repr(storing(d.meta)).encode()) for d in self.splits.values()]
        self.size = size.astype(np.uint64)
        self.stored: Keys = np.repeat(np.array(stored, np.uint64), counts)
        nbytes, checksum = self._column("nbytes"), self._column("checksum", np.uint64)
        self.pixels = mixed(self.stored, nbytes, checksum, self.size)
        self.compare_below(b"")

    def _column(self, name: str, dtype: Any = np.int64) -> npt.NDArray[Any]:
        columns = [getattr(dataset, name) for dataset in self.splits.values()]
        return np.concatenate([np.empty(0, dtype), *columns]).astype(dtype, copy=False)

    def __len__(self) -> int:
        return len(self.split)

    @property
    def meta(self) -> DatasetMeta:
        """Facts of the first split; all have the same classes."""
        return next(iter(self.splits.values())).meta

    def compare_below(self, root: bytes) -> None:
        """Sets `root`, and `name` with it."""
        self.root, skip = root, len(root)
        name = np.empty(len(self), np.uint64)
        for at, names in self._names():
            keys = [key_of(n[skip:] if n.startswith(root) else n) for n in names]
            name[at : at + len(keys)] = keys
        self.name = name

    def _names(self) -> Iterator[tuple[int, Iterator[bytes]]]:
        for split, dataset in self.splits.items():
            for begin in range(0, len(dataset), _TOGETHER):
                end = min(begin + _TOGETHER, len(dataset))
                yield self.start[split] + begin, dataset.stored_names(begin, end)

    def locate(self, image: int) -> tuple[str, int]:
        """Gives the split of an image, and its number there."""
        split = SPLITS[self.split[image]]
        return split, image - self.start[split]

    def stored_name(self, image: int) -> bytes:
        """Gives the name of an image as it is stored."""
        split, i = self.locate(image)
        return next(self.splits[split].stored_names(i, i + 1))

    def short_name(self, image: int) -> str:
        """Gives the name of an image below `root`."""
        return self.stored_name(image).removeprefix(self.root).decode("utf-8", "surrogateescape")

    def objects(self, image: int) -> int:
        """Gives how many objects an image has."""
        split, i = self.locate(image)
        offset = self.splits[split].object_offset
        return int(offset[i + 1]) - int(offset[i])

    def twice(self) -> Indices:
        """Finds images whose bytes an earlier split has, too: seen in training, then evaluated."""
        found = []
        for split, start in self.start.items():
            mine = self.pixels[start : start + len(self.splits[split])]
            found.append(np.flatnonzero(np.isin(mine, self.pixels[:start])) + start)
        return np.concatenate([np.empty(0, np.int64), *found])

    def close(self) -> None:
        """Lets go of all files."""
        for dataset in self.splits.values():
            dataset.close()


def storing(meta: DatasetMeta) -> tuple[Any, ...]:
    """Says how pixels are stored; equal bytes mean equal pixels only where this is equal."""
    reencode = meta.source.get("reencode")
    if meta.codec == "raw":
        return (meta.codec, meta.imgsz)
    return (
        meta.codec,
        None if reencode is None else (reencode, meta.imgsz),
        meta.source.get("keep_files"),
    )


def folders_of(a: Path, b: Path, split: str | None = None) -> list[dict[str, Path]]:
    """Finds the splits of two datasets; of a split's folder and a folder of splits the same split.

    Args:
        split: only this one.

    Raises:
        ShardError: there is no such dataset.
    """
    folders, alone = [], []
    for path in (a, b):
        found = splits(path)
        alone.append(not found)
        # The reader says what is missing where a split is unfinished or damaged, or none is there.
        for name in SPLITS:
            if split in (None, name) and name not in found and (path / name).is_dir():
                read_meta(path / name)
        folders.append(found or {read_meta(path).split: path})
    if split is None and alone[0] != alone[1]:
        split = next(iter(folders[0] if alone[0] else folders[1]))
    if split is not None:
        for path, found in zip((a, b), folders, strict=True):
            if split not in found:
                raise ShardError(f"{path}: has no split {split!r}; it has {', '.join(found)}")
        folders = [{split: found[split]} for found in folders]
    return folders


def lay_over(a: PackedDataset, b: PackedDataset) -> None:
    """Finds out where two datasets lay when they were packed, and compares names below that.

    Names are paths of the source. They agree as they are, or the source was moved: then most images
    of the same file name differ in the same beginning of their paths.
    """
    if 2 * int(np.isin(a.name, b.name).sum()) >= min(len(a), len(b)):
        return
    sample: dict[bytes, list[bytes]] = {}
    for image in np.linspace(0, len(a) - 1, min(_SAMPLED, len(a))).astype(int).tolist():
        name = a.stored_name(image)
        for tail in _tails(name):
            sample.setdefault(tail, []).append(name)
    # A file name that many folders have says nothing: `0001/image.jpg`, `0002/image.jpg`, ….
    sample = {tail: names for tail, names in sample.items() if len(names) <= _ALIKE}
    votes: Counter[tuple[bytes, bytes]] = Counter()
    for name in (name for _, names in b._names() for name in names):
        others = next((sample[tail] for tail in _tails(name) if tail in sample), [])
        votes.update(_beginnings(other, name) for other in others)
        if len(votes) > _VOTES:
            break
    for roots, count in votes.most_common(1):
        if any(roots) and (count > 1 or len(votes) == 1):
            a.compare_below(roots[0])
            b.compare_below(roots[1])


def _tails(name: bytes) -> tuple[bytes, bytes]:
    """Gives the ends of a path by which it is looked for: with its folder, and the name alone."""
    folders, _, file = name.rpartition(b"/")
    return folders.rpartition(b"/")[2] + b"/" + file, file


@lru_cache(1 << 12)
def is_of_split(folder: bytes) -> bool:
    """Says whether a folder is called like a split."""
    return split_of_folder(folder.decode("utf-8", "replace")) is not None


def _beginnings(a: bytes, b: bytes) -> tuple[bytes, bytes]:
    """What two paths begin with before the folders and the name that end both.

    Folders of splits count as the same: `train/1.jpg` is to stay another name than `val/1.jpg`.
    """
    one, two = a.split(b"/"), b.split(b"/")
    while one and two and (one[-1] == two[-1] or (is_of_split(one[-1]) and is_of_split(two[-1]))):
        one.pop()
        two.pop()
    return tuple(b"/".join([*parts, b""]) if parts else b"" for parts in (one, two))  # type: ignore[return-value]
