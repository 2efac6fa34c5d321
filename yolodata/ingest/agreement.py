"""What the splits of one output folder share: one numbering of classes, and no image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from yolodata.errors import ShardError
from yolodata.ingest.sample import Source
from yolodata.shards.class_names import check_same_classes
from yolodata.shards.format import DatasetMeta
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
    class, or list the classes in another order.

    Args:
        source: what is to be packed.
        out: the folder.
        reopen: opens the source with given names, in order; None where its numbers are fixed.
        replaced: splits of `out` that need not agree; by default those of the source.

    Raises:
        DatasetError: they cannot agree; says which names differ.
    """
    others = {
        str(out / split): meta.names
        for split, meta in _others(out, replaced or list(source.splits)).items()
    }
    if not others:
        return source
    names = list(next(iter(others.values())).values())
    if reopen and names != list(source.names.values()) and set(source.names.values()) <= set(names):
        source = reopen(names)
    check_same_classes({**others, f"{source.origin}, {', '.join(source.splits)}": source.names})
    return source


def shared_images(source: Source, out: Path) -> dict[str, dict[str, str]]:
    """Finds images that several splits use: split of the source -> path -> the other split.

    The other split is one of the source, before it in the order train, val, test, or one that
    `out` already holds.
    """
    owners: dict[str, str] = {}
    for split in _others(out, list(source.splits)):
        with suppress(ShardError), open_shards(out / split) as dataset:
            names = dataset.names(np.arange(len(dataset), dtype=np.int64))
            owners.update(dict.fromkeys(names, split))
    shared: dict[str, dict[str, str]] = {}
    for split, images in source.splits.items():
        shared[split] = {path: owners[path] for path in images.paths if path in owners}
        owners.update({path: split for path in images.paths if path not in owners})
    return shared


def _others(out: Path, replaced: Sequence[str]) -> dict[str, DatasetMeta]:
    """Finished splits of a folder but those; a damaged one is not compared."""
    found: dict[str, DatasetMeta] = {}
    for split, path in splits(out).items():
        if split not in replaced:
            with suppress(ShardError):
                found[split] = read_meta(path)
    return found
