"""In what two packed datasets differ, found without decoding a picture.

All is read off dataset.json and the labels file, which holds a checksum of every image. Time grows
with the number of images and objects (and the sorting of keys), memory with the number of images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolodata.diff.classes import ClassChanges, compare_classes
from yolodata.diff.dataset import PackedDataset, folders_of, lay_over
from yolodata.diff.images import Flags, Pairs, match, reordered
from yolodata.diff.keys import Indices
from yolodata.diff.labels import Changes, Compared, Labels, compare
from yolodata.shards.format import SPLITS, DatasetMeta

SETTINGS = (
    "codec",
    "imgsz",
    "reencode",
    "keep_files",
    "task",
    "single_cls",
    "kpt_shape",
    "flip_idx",
)


@dataclass(frozen=True)
class DatasetDiff:
    """In what two packed datasets differ.

    Attributes:
        a, b: the datasets, open.
        settings: (split, setting, value in a, value in b) of what was packed otherwise.
        classes: how their classes differ.
        pairs: images that both have, and which are in one only.
        relabelled: bool (n,) of the pairs: objects were added, removed or changed, or the size
            that the label check reports is another.
        objects_reordered: bool (n,): the same objects stand in another order.
        tally: how many objects changed: (place in `KINDS`, class in a, class in b) -> count;
            classes are places in `classes.names`, -1 where an object is not there.
        order: splits in which images that stayed stand in another order.
        twice_a, twice_b: images whose bytes an earlier split of the same dataset has, too.
    """

    a: PackedDataset
    b: PackedDataset
    settings: list[tuple[str, str, Any, Any]]
    classes: ClassChanges
    pairs: Pairs
    relabelled: Flags
    objects_reordered: Flags
    tally: Counter[tuple[int, int, int]]
    order: list[str]
    twice_a: Indices
    twice_b: Indices

    @property
    def lists(self) -> dict[str, Indices]:
        """Images by what happened to them; one may stand in several lists.

        "removed" has numbers of images of a, "added" of b, all others of pairs.
        """
        pairs = self.pairs
        return {
            "added": pairs.only_b,
            "removed": pairs.only_a,
            "moved": np.flatnonzero(pairs.moved),
            "renamed": np.flatnonzero(pairs.renamed),
            "changed": np.flatnonzero(pairs.changed),
            "relabelled": np.flatnonzero(self.relabelled),
            "objects_reordered": np.flatnonzero(self.objects_reordered),
        }

    @property
    def same(self) -> bool:
        """Whether training would see the same: images, labels, classes, order and settings."""
        return not (
            self.settings
            or self.classes
            or self.order
            or list(self.a.splits) != list(self.b.splits)
            or any(len(found) for found in self.lists.values())
        )

    def labels_of(self, pair: int) -> tuple[Compared, Labels, Labels]:
        """Compares the labels of one pair again: which objects differ, and in what splits."""
        one, two = self.a.locate(int(self.pairs.a[pair])), self.b.locate(int(self.pairs.b[pair]))
        left = Labels(self.a.splits[one[0]], self.classes.a)
        right = Labels(self.b.splits[two[0]], self.classes.b)
        ((_, found),) = compare(left, np.array([one[1]]), right, np.array([two[1]]))
        return found, left, right

    def close(self) -> None:
        """Lets go of all files."""
        self.a.close()
        self.b.close()


def diff_datasets(a: Path, b: Path, split: str | None = None) -> DatasetDiff:
    """Compares two packed datasets.

    Args:
        a, b: folders that `yolodata shard` wrote, or the folder of one split.
        split: only this one.

    Raises:
        ShardError: one is no finished dataset, has no such split, or is damaged.
        DatasetError: the splits of one number their classes differently.
    """
    one, two = folders_of(a, b, split)
    return diff_splits(PackedDataset(a, one), PackedDataset(b, two))


def diff_splits(one: PackedDataset, two: PackedDataset) -> DatasetDiff:
    """Compares two packed datasets that are open."""
    lay_over(one, two)
    classes = compare_classes(one.meta.names, two.meta.names)
    pairs = match(one, two)
    relabelled, objects_reordered = (np.zeros(len(pairs.a), bool) for _ in range(2))
    tally: Counter[tuple[int, int, int]] = Counter()
    for some, split_a, split_b in _by_splits(one, two, pairs):
        left = Labels(one.splits[split_a], classes.a)
        right = Labels(two.splits[split_b], classes.b)
        ia, ib = pairs.a[some] - one.start[split_a], pairs.b[some] - two.start[split_b]
        if _same_labels_file(left, right):
            other = ia != ib  # a row of one file is equal to itself
            some, ia, ib = some[other], ia[other], ib[other]
        for part, found in compare(left, ia, right, ib):
            relabelled[some[part]] = found.resized
            relabelled[some[part][found.changes.pair]] = True
            objects_reordered[some[part]] = found.reordered
            tally += tallied(found.changes, len(classes.names))
    return DatasetDiff(
        one, two, _settings(one, two), classes, pairs, relabelled, objects_reordered, tally,
        reordered(pairs, one, two), one.twice(), two.twice(),
    )  # fmt: skip


def _by_splits(
    a: PackedDataset, b: PackedDataset, pairs: Pairs
) -> Iterator[tuple[Indices, str, str]]:
    """Yields places of pairs, by the splits that their two images are in."""
    of_a, of_b = a.split[pairs.a], b.split[pairs.b]
    for split_a in a.splits:
        for split_b in b.splits:
            both = (of_a == SPLITS.index(split_a)) & (of_b == SPLITS.index(split_b))
            yield np.flatnonzero(both), split_a, split_b


def _same_labels_file(a: Labels, b: Labels) -> bool:
    one, two = a.dataset.meta, b.dataset.meta
    same = (one.labels.nbytes, one.labels.checksum) == (two.labels.nbytes, two.labels.checksum)
    return same and one.kpt_shape == two.kpt_shape and np.array_equal(a.classes, b.classes)


def tallied(changes: Changes, classes: int) -> Counter[tuple[int, int, int]]:
    """Counts changes by kind and classes; of `classes` classes."""
    base = classes + 1
    codes = (changes.kind * base + changes.class_a + 1) * base + changes.class_b + 1
    found, counts = np.unique(codes, return_counts=True)
    return Counter(
        {
            (code // base // base, code // base % base - 1, code % base - 1): count
            for code, count in zip(found.tolist(), counts.tolist(), strict=True)
        }
    )


def _settings(a: PackedDataset, b: PackedDataset) -> list[tuple[str, str, Any, Any]]:
    found = []
    for split in a.splits:
        if split in b.splits:
            one, two = a.splits[split].meta, b.splits[split].meta
            for name in SETTINGS:
                values = _setting(one, name), _setting(two, name)
                of_jpeg = name == "keep_files" and one.codec != two.codec  # one has none of it
                if values[0] != values[1] and not of_jpeg:
                    found.append((split, name, *values))
    return found


def _setting(meta: DatasetMeta, name: str) -> Any:
    return getattr(meta, name) if hasattr(meta, name) else meta.source.get(name)
