"""New labels for a finished dataset, without touching its pixels.

Two files cannot be replaced in one step, so new labels get a name of their own, made from their
content; the renaming of dataset.json, which names them, is the one step that counts. The old labels
file is removed after that. Who has it open keeps it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from yolodata.errors import ShardError
from yolodata.folders import Folder
from yolodata.shards.columns import (
    Columns,
    Row,
    Totals,
    columns_of,
    labels_entry,
    write_labels,
)
from yolodata.shards.format import DATASET_FILE, OF_LABELS, DatasetMeta
from yolodata.shards.lock import Lock, storage_error
from yolodata.shards.reader import ShardDataset
from yolodata.shards.recovery import end_work
from yolodata.shards.sample import Annotation, check_labels

_TOGETHER = 4096  # rows

Replace = Callable[..., DatasetMeta]
"""`replace_labels`, of a dataset that no other process can write."""


def replace_labels(
    path: str | os.PathLike[str] | Folder,
    annotations: Iterable[Annotation | None],
    **changes: Any,
) -> DatasetMeta:
    """Gives a dataset new labels.

    Args:
        path: a dataset directory. Links are followed to it, never in it.
        annotations: one for each image, in the dataset's order; None removes the image from the
            dataset (its bytes stay in the shard, unused).
        changes: new values of `names`, `kpt_shape`, `flip_idx`, `source` and `left_out`; what is
            not given stays. An image that is removed should be added to `left_out`.

    Returns:
        The new metadata; the old state stays until everything is on disk.

    Raises:
        ShardError: the dataset is damaged or in use, the annotations do not fit it, or the file
            system refuses them. The dataset is then unchanged.
    """
    with relabelling(path) as replace:
        return replace(annotations, **changes)


@contextmanager
def relabelling(path: str | os.PathLike[str] | Folder) -> Iterator[Replace]:
    """Keeps other writers out of a dataset, to give it new labels.

    Args:
        path: see `replace_labels`.

    Raises:
        ShardError: the dataset is damaged or in use, or the file system refuses.
    """
    where = path.path if isinstance(path, Folder) else Path(os.path.abspath(path))
    if not (where / DATASET_FILE).exists():
        raise ShardError(f"{where}: has no {DATASET_FILE}; give a finished dataset directory")
    with _explained(where):
        lock = Lock(path if isinstance(path, Folder) else Folder.at(path))

    def locked(annotations: Iterable[Annotation | None], **changes: Any) -> DatasetMeta:
        unknown = set(changes) - {"names", "kpt_shape", "flip_idx", "source", "left_out"}
        if unknown:
            raise TypeError(f"replace_labels() cannot change {sorted(unknown)}")
        with _explained(where), ShardDataset(where) as dataset:
            meta = dataset.meta.with_results(**changes).check()
            return _replace(lock, dataset, annotations, meta)

    try:
        yield locked
    finally:
        with _explained(where):
            end_work(lock)


@contextmanager
def _explained(where: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(where, error) from error


def _replace(
    lock: Lock,
    dataset: ShardDataset,
    annotations: Iterable[Annotation | None],
    meta: DatasetMeta,
) -> DatasetMeta:
    folder, work = lock.folder, lock.work
    blocks = list(_blocks(_new_rows(dataset, annotations, meta), meta.keypoints))
    totals = sum(map(Totals.of, blocks), Totals())
    if not totals.images:
        raise ShardError(f"{folder.path}: no image would be left; the labels stay as they were")
    old = dataset.meta.labels
    with work.temporary() as (temporary, file):
        nbytes = write_labels(file, blocks, totals, meta.keypoints)
        entry = labels_entry(file, nbytes, old.file)
        if entry != old:
            entry = replace(entry, file=f"labels-{entry.checksum}.safetensors")
            work.rename(temporary, entry.file, folder)
    meta = meta.with_results(images=totals.images, objects=totals.objects, labels=entry)
    folder.replace(DATASET_FILE, meta.to_json(), by=work)
    folder.remove_all(OF_LABELS, {entry.file})
    return meta


def _blocks(rows: Iterator[Row], keypoints: int | None) -> Iterator[Columns]:
    """Makes columns of some rows at a time: as objects, all rows would take much more memory."""
    while block := list(islice(rows, _TOGETHER)):
        yield columns_of(block, keypoints)


def _new_rows(
    dataset: ShardDataset, annotations: Iterable[Annotation | None], meta: DatasetMeta
) -> Iterator[Row]:
    count = 0
    for i, labels in enumerate(annotations):
        count += 1
        if count > len(dataset):
            break
        if labels is None:
            continue
        name = dataset.name(i)
        check_labels(labels, meta, name)
        yield Row(
            int(dataset.shard[i]),
            int(dataset.offset[i]),
            int(dataset.nbytes[i]),
            int(dataset.checksum[i]),
            int(dataset.height[i]),
            int(dataset.width[i]),
            int(dataset.orig_height[i]),
            int(dataset.orig_width[i]),
            name.encode("utf-8", "surrogateescape"),
            labels,
        )
    if count != len(dataset):
        raise ShardError(
            f"{dataset.path}: must be given {len(dataset)} annotations, one for each image, got "
            f"{'more' if count > len(dataset) else count}"
        )
