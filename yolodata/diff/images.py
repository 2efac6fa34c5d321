"""Which image of one dataset is which of another: by the stored bytes, then by the name.

Bytes come first: a file that was renamed is the same image, with its labels. Names alone are
believed where bytes differ (the image was changed) or cannot be compared (raw pixels and JPEG).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from yolodata.diff.dataset import PackedDataset, is_of_split
from yolodata.diff.keys import Indices, Keys, key_of, mixed, paired, without
from yolodata.shards.format import SPLITS

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pairs:
    """Images that both datasets have; all arrays (n,), in the order of `b`.

    Attributes:
        a, b: their numbers in both.
        moved: whether an image is in another split.
        renamed: whether its name differs by more than the folder of its split.
        changed: whether its pixels differ: other bytes under one name, or another size.
        uncompared: whether its bytes cannot be compared, because they are packed otherwise.
        only_a, only_b: numbers of the images without a partner.
    """

    a: Indices
    b: Indices
    moved: Flags
    renamed: Flags
    changed: Flags
    uncompared: Flags
    only_a: Indices
    only_b: Indices


def match(a: PackedDataset, b: PackedDataset) -> Pairs:
    """Pairs the images of two datasets, each at most once."""
    ia, ib = _matched(a, b)
    moved = a.split[ia] != b.split[ib]
    renamed = a.name[ia] != b.name[ib]
    for i in np.flatnonzero(renamed):
        renamed[i] = _place(a, int(ia[i])) != _place(b, int(ib[i]))
    packed_alike = a.stored[ia] == b.stored[ib]
    resized = a.size[ia] != b.size[ib]
    changed = np.where(packed_alike, a.pixels[ia] != b.pixels[ib], resized)
    left = without(len(a), ia), without(len(b), ib)
    return Pairs(ia, ib, moved, renamed, changed, ~packed_alike & ~resized, *left)


def _matched(a: PackedDataset, b: PackedDataset) -> tuple[Indices, Indices]:
    evidence: list[Callable[[PackedDataset, Indices], Keys]] = [
        lambda of, i: mixed(of.pixels[i], of.name[i], of.split[i]),
        lambda of, i: mixed(of.pixels[i], of.name[i]),
        lambda of, i: mixed(of.pixels[i], of.split[i]),
        lambda of, i: of.pixels[i],
        lambda of, i: mixed(of.name[i], of.split[i]),
        lambda of, i: of.name[i],
    ]
    if not np.isin(a.stored, b.stored).any():
        # Only here: where bytes can be compared, and differ, train/1.jpg and val/1.jpg are two.
        evidence.append(lambda of, i: mixed(_places(of, i), of.size[i]))
    left_a, left_b = np.arange(len(a)), np.arange(len(b))
    found = []
    for keys in evidence:
        if not len(left_a) or not len(left_b):
            break
        i, k = paired(keys(a, left_a), keys(b, left_b))
        found.append((left_a[i], left_b[k]))
        left_a, left_b = left_a[without(len(left_a), i)], left_b[without(len(left_b), k)]
    ia, ib = (np.concatenate([np.empty(0, np.int64), *some]) for some in zip(*found, strict=True))
    order = np.argsort(ib)
    return ia[order], ib[order]


def _place(of: PackedDataset, image: int) -> bytes:
    folders, _, file = of.stored_name(image).removeprefix(of.root).rpartition(b"/")
    return _without_splits(folders) + b"/" + file


def _places(of: PackedDataset, images: Indices) -> Keys:
    return np.array([key_of(_place(of, i)) for i in images.tolist()], np.uint64)


@lru_cache(1 << 12)
def _without_splits(folders: bytes) -> bytes:
    """The folders of a path, those that are called like a split all alike."""
    parts = folders.split(b"/")
    return b"/".join(b"*" if is_of_split(part) else part for part in parts)


def reordered(pairs: Pairs, a: PackedDataset, b: PackedDataset) -> list[str]:
    """Names the splits in which the images that stayed stand in another order."""
    found = []
    for number, split in enumerate(SPLITS):
        both = (a.split[pairs.a] == number) & (b.split[pairs.b] == number)
        if (np.diff(pairs.a[both]) < 0).any():
            found.append(split)
    return found
