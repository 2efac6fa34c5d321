"""In what the labels of images differ that two datasets share.

Objects are compared as a whole: class, box, outline and keypoints, to the last bit. What is left on
both sides of an image is paired again: the same shape of another class, then the same class of
another shape.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from yolodata.diff.images import Flags
from yolodata.diff.keys import Indices, Keys, mixed, paired, ranges, sums, without, words
from yolodata.shards.reader import ShardDataset

ADDED, REMOVED, OTHER_CLASS, OTHER_SHAPE = range(4)
KINDS = ("added", "removed", "of another class", "of another shape")
_TOGETHER = 1 << 20  # objects and points that are compared at a time

Classes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Labels:
    """One split of a dataset, and the class that each of its numbers means in both datasets."""

    dataset: ShardDataset
    classes: Classes


@dataclass(frozen=True)
class Changes:
    """What became of objects; all arrays (n,).

    Attributes:
        pair: which of the pairs of images that are compared.
        kind: place in `KINDS`.
        a, b: number of the object in either split, -1 where it is not there.
        class_a, class_b: what `Labels.classes` says of them, -1 as above.
    """

    pair: Indices
    kind: Indices
    a: Indices
    b: Indices
    class_a: Classes
    class_b: Classes


@dataclass(frozen=True)
class Compared:
    """What the labels of n pairs of images differ in.

    Attributes:
        resized: bool (n,): the label check reports another size for the same original.
        reordered: bool (n,): the same objects stand in another order.
        changes: of all other objects.
    """

    resized: Flags
    reordered: Flags
    changes: Changes


class _Objects:
    """The objects of some images, one after the other: arrays (m,), but `counts`, one an image."""

    def __init__(self, labels: Labels, images: Indices, keypoints: bool) -> None:
        of = labels.dataset
        begin = of.object_offset[images].astype(np.int64)
        self.counts = of.object_offset[images + 1].astype(np.int64) - begin
        self.number = ranges(begin, self.counts)
        self.image = np.repeat(np.arange(len(images)), self.counts)
        self.cls = labels.classes[of.cls[self.number].astype(np.int64)]
        first = of.polygon_offset[self.number].astype(np.int64)
        points = of.polygon_offset[self.number + 1].astype(np.int64) - first
        shape = [*words(of.box[self.number]), points]
        if points.any():
            place = ranges(np.zeros(len(points)), points)
            corners = words(of.polygon[ranges(first, points)])
            shape.append(sums(mixed(place, *corners), points))
        else:
            shape.append(np.zeros(len(points), np.int64))
        if keypoints and of.keypoints is not None:
            shape += words(of.keypoints[self.number])
        self.shape = mixed(*shape)
        self.whole = mixed(self.shape, self.cls)

    def keys(self, left: Indices, of: Keys | Classes) -> Keys:
        return mixed(self.image[left], of[left])


def compare(
    a: Labels, images_a: Indices, b: Labels, images_b: Indices
) -> Iterator[tuple[slice, Compared]]:
    """Compares the labels of images (n,) of a split with those of as many of another.

    Yields:
        some of the pairs, in order, and what their labels differ in: not all at once, because the
        changes of millions of images would take gigabytes.
    """
    for some in _chunks(_cost(a.dataset, images_a) + _cost(b.dataset, images_b)):
        yield some, _compare(a, images_a[some], b, images_b[some])


def _resized(a: ShardDataset, images_a: Indices, b: ShardDataset, images_b: Indices) -> Flags:
    same = {
        name: getattr(a, name)[images_a] == getattr(b, name)[images_b]
        for name in ("orig_height", "orig_width", "label_height", "label_width")
    }
    # Another original has another size for its labels; that is no news of them.
    found: Flags = same["orig_height"] & same["orig_width"]
    found &= ~(same["label_height"] & same["label_width"])
    return found


def _cost(of: ShardDataset, images: Indices) -> Indices:
    """How many objects, points and keypoints images have, and one for each image."""
    begin, end = (of.object_offset[images + i].astype(np.int64) for i in (0, 1))
    points = of.polygon_offset[end].astype(np.int64) - of.polygon_offset[begin].astype(np.int64)
    return 1 + (end - begin) * (1 + (of.meta.keypoints or 0)) + points


def _chunks(cost: Indices) -> Iterator[slice]:
    """Consecutive images that cost about `_TOGETHER` together; at least one."""
    cuts = np.flatnonzero(np.diff(np.cumsum(cost) // _TOGETHER)) + 1
    edges = [0, *cuts.tolist(), len(cost)] if len(cost) else []
    yield from (slice(i, k) for i, k in pairwise(edges))


def _compare(a: Labels, images_a: Indices, b: Labels, images_b: Indices) -> Compared:
    keypoints = a.dataset.meta.keypoints == b.dataset.meta.keypoints
    one, two = _Objects(a, images_a, keypoints), _Objects(b, images_b, keypoints)
    differs = one.counts != two.counts
    both_a, both_b = ~differs[one.image], ~differs[two.image]
    unequal = one.whole[both_a] != two.whole[both_b]
    differs[one.image[both_a][unequal]] = True
    # Only objects of images that differ are sorted and paired.
    left_a, left_b = np.flatnonzero(differs[one.image]), np.flatnonzero(differs[two.image])
    rows: list[npt.NDArray[np.int64]] = []
    for key, kind in (("whole", None), ("shape", OTHER_CLASS), ("cls", OTHER_SHAPE)):
        i, k = paired(one.keys(left_a, getattr(one, key)), two.keys(left_b, getattr(two, key)))
        if kind is not None:
            p, q = left_a[i], left_b[k]
            rows.append(
                _rows(one.image[p], kind, one.number[p], two.number[q], one.cls[p], two.cls[q])
            )
        left_a, left_b = left_a[without(len(left_a), i)], left_b[without(len(left_b), k)]
    none_a, none_b = np.full(len(left_a), -1), np.full(len(left_b), -1)
    rows.append(
        _rows(one.image[left_a], REMOVED, one.number[left_a], none_a, one.cls[left_a], none_a)
    )
    rows.append(
        _rows(two.image[left_b], ADDED, none_b, two.number[left_b], none_b, two.cls[left_b])
    )
    changes = np.concatenate(rows, axis=1)
    changes = changes[:, np.lexsort((changes[3], changes[2], changes[1], changes[0]))]
    differs[changes[0]] = False  # the others have the same objects in another order
    resized = _resized(a.dataset, images_a, b.dataset, images_b)
    return Compared(resized, differs, Changes(*changes))


def _rows(pair: Indices, kind: int, *columns: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.stack([pair, np.full(len(pair), kind), *columns])
