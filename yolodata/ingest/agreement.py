"""What the splits of one output folder share: one numbering of classes, and no image."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from stat import S_ISLNK

import numpy as np

from yolodata.errors import ShardError
from yolodata.ingest.sample import Refused, Source, Split
from yolodata.ingest.walk import RealPaths
from yolodata.shards.class_names import check_same_classes, difference
from yolodata.shards.format import SPLITS, DatasetMeta
from yolodata.shards.reader import open as open_shards
from yolodata.shards.reader import read_meta, splits


def numbered_alike(
    source: Source,
    out: Path,
    reopen: Callable[[Sequence[str]], Source] | None,
    replaced: Sequence[str] | None = None,
) -> Source:
    """Gives a source the class numbers of what `out` already holds.

    Splits that are packed one after the other agree in this way, though one of them may lack a
    class, or list the classes in another order. A YAML says the classes of all its splits: one that
    was packed of it and differs is out of date, and the notes of the source say so.

    Args:
        source: what is to be packed.
        out: the folder.
        reopen: opens the source with given names, in order; None where its numbers are fixed.
        replaced: splits of `out` that need not agree; by default those of the source.

    Raises:
        DatasetError: they cannot agree; says which names differ.
    """
    others = _others(out, replaced or list(source.splits))
    here = os.path.abspath(source.origin)
    named = {str(out / split): meta.names for split, meta in others.items()}
    before = {
        str(out / split)
        for split, meta in others.items()
        if source.kind == "yolo" and meta.source.get("path") == here
    }
    fixed = {where: names for where, names in named.items() if where not in before}
    if fixed:
        names = list(next(iter(fixed.values())).values())
        known = list(source.names.values())
        unique = len(set(names)) == len(names)
        if reopen and unique and names != known and set(known) <= set(names):
            source = reopen(names)
        check_same_classes({**fixed, f"{source.origin}, {', '.join(source.splits)}": source.names})
    notes = tuple(
        f"'{where}' holds the classes that this source had before: "
        f"{difference(named[where], source.names)}; pack it again before training"
        for where in before
        if named[where] != source.names
    )
    return replace(source, notes=source.notes + notes) if notes else source


def shared_images(source: Source, out: Path) -> dict[str, list[tuple[str, str]]]:
    """Finds images that several splits use, under whatever names links give them.

    Returns:
        split of the source -> (path, note) of each image that is also in a split of the source
        before it, in the order train, val, test, or in one that `out` already holds.
    """
    identity = _Identity()
    owner: dict[str, tuple[str, str, int | None]] = {}  # path, split, which of the source's images
    for split in _others(out, list(source.splits)):
        with suppress(ShardError), open_shards(out / split) as dataset:
            names = dataset.names(np.arange(len(dataset), dtype=np.int64))
            owner.update((identity(name), (name, split, None)) for name in names)
    shared: dict[str, list[tuple[str, str]]] = {split: [] for split in source.splits}
    for split in sorted(source.splits, key=SPLITS.index):
        images = source.splits[split]
        for index, path in enumerate(images.paths):
            named, other, twin = owner.setdefault(identity(path), (path, split, index))
            if other != split:
                note = "also" if named == path else "the same file as"
                note += f" an image of '{other}'"
                if twin is not None and _differ((images, index), (source.splits[other], twin)):
                    note += f", with other labels: do those of '{split}' belong to another image?"
                shared[split].append((path, note))
    return shared


class _Identity:
    """Gives each file one text, also where links lead to it; that is its path, for most."""

    def __init__(self) -> None:
        self._real = RealPaths()
        self._folders: dict[str, str] = {}

    def __call__(self, path: str) -> str:
        folder, name = os.path.split(path)
        if folder not in self._folders:
            self._folders[folder] = self._real(folder)
        real = os.path.join(self._folders[folder], name)
        try:
            found = os.lstat(real)
            if S_ISLNK(found.st_mode):
                real = os.path.realpath(real)
                found = os.lstat(real)
        except (OSError, ValueError):  # absent, or no file can have this name
            return real
        return real if found.st_nlink == 1 else f"{found.st_dev} {found.st_ino}"


def _differ(*images: tuple[Split, int]) -> bool:
    """Whether two images of a source have other labels; not where one cannot be read."""
    try:
        one, other = (split.raw_labels(index).text for split, index in images)
    except (Refused, OSError):
        return False
    return one != other


def _others(out: Path, replaced: Sequence[str]) -> dict[str, DatasetMeta]:
    """Finished splits of a folder but those; a damaged one is not compared."""
    found: dict[str, DatasetMeta] = {}
    for split, path in splits(out).items():
        if split not in replaced:
            with suppress(ShardError):
                found[split] = read_meta(path)
    return found
