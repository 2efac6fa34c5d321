"""New labels for a packed dataset, without reading a picture."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from yolodata.errors import DatasetError, ShardError
from yolodata.files import stored_bytes
from yolodata.folders import Folder
from yolodata.ingest.agreement import numbered_alike, shared_images
from yolodata.ingest.convert import PackSettings, prepare, read_labels
from yolodata.ingest.packing import PackReport, describe, in_no_split, left_out_before, unlabelled
from yolodata.ingest.sample import Refused, Source, SplitReport
from yolodata.ingest.source import open_source
from yolodata.shards.class_names import check_same_classes
from yolodata.shards.data_yaml import write_data_yaml
from yolodata.shards.format import DatasetMeta
from yolodata.shards.left_out import write_left_out
from yolodata.shards.lock import storage_error
from yolodata.shards.notes import LABELS, OTHER_SPLITS, Entries, write_notes
from yolodata.shards.reader import ShardDataset
from yolodata.shards.reader import open as open_shards
from yolodata.shards.reader import splits as packed_splits
from yolodata.shards.relabel import Replace, relabelling
from yolodata.shards.sample import Annotation


def relabel(
    out: str | Path,
    source: str | Path | Mapping[str, Any],
    *,
    splits: Sequence[str] | None = None,
    format: str = "auto",
    images: str | Path | None = None,
    names: Sequence[str] | None = None,
) -> PackReport:
    """Reads the labels of a packed dataset again and replaces them; pixels stay as they are.

    The images of the source must be those that were packed: same paths, sizes and times. An image
    whose labels are now refused is taken out of the dataset. One that was left out before cannot
    come back, because its pixels are not there. Task and single_cls stay what they were.

    Args:
        out: the folder that `pack` wrote.
        source, format, images, names: see `open_source`.
        splits: some of those in `out`; all by default.

    Returns:
        what each split holds now.

    Raises:
        DatasetError: the images differ, or the source cannot be used.
        ShardError: `out` is not a finished dataset, or cannot be written. Where labels cannot be
            used, those of all splits stay as they were.
    """
    root = Path(os.path.abspath(out))
    there = packed_splits(root)
    absent = [split for split in splits or () if split not in there]
    if absent or not there:
        raise ShardError(
            f"{root}: holds no finished split {absent[0] if absent else 'at all'}; there are "
            f"{list(there)}; pack it first with `yolodata shard`"
        )
    report = PackReport(root, left_out=left_out_before(root))
    planned: list[_NewLabels] = []  # all are read before any is written: they agree, or none is
    for split in splits or there:
        with open_shards(there[split]) as dataset:
            about = dataset.meta.source
            settings = PackSettings(
                dataset.meta.codec,
                dataset.meta.imgsz,
                about.get("reencode"),
                about.get("task", "detect"),
                about.get("single_cls", False),
                about.get("keep_files", False),
            )

            def opened(
                names: Sequence[str] | None, split: str = split, task: str = settings.task
            ) -> Source:
                return open_source(
                    source, splits=[split], format=format, images=images, names=names, task=task
                )

            found = opened(names)
            reopen = opened if found.kind != "yolo" and names is None else None
            found = numbered_alike(found, root, reopen, splits or list(there))
            planned.append(_read(found, split, dataset, settings))
    check_same_classes({f"{new.source.origin}, {new.split}": new.source.names for new in planned})
    with ExitStack() as held:  # all splits, before one of them is changed
        replacing = [held.enter_context(_relabelling(there[new.split])) for new in planned]
        for new, replace in zip(planned, replacing, strict=True):
            report.splits[new.split] = _write(new, there[new.split], replace)
    for new in planned:
        notes = (*new.source.notes, *unlabelled(new.report, new.source.splits[new.split]))
        report.notes += tuple(note for note in notes if note not in report.notes)
        report.left_out = in_no_split(new.source, report.left_out)
    noted: dict[str, dict[str, Entries]] = {
        new.split: {
            OTHER_SPLITS: shared_images(new.source, root)[new.split],
            LABELS: new.report.noted.of(LABELS),
        }
        for new in planned
    }
    try:
        write_left_out(root, report.left_out)
        write_notes(root, noted)
    except OSError as error:
        raise storage_error(root, error) from error
    write_data_yaml(root)  # names may have changed
    return report


class _NewLabels(NamedTuple):
    """What a split will hold.

    Attributes:
        split: which.
        source: where its labels were read.
        meta: what describes it.
        annotations: one for each image of it, in order; None for one that is taken out.
        report: what is known of it before it is written.
    """

    split: str
    source: Source
    meta: DatasetMeta
    annotations: list[Annotation | None]
    report: SplitReport


def _read(source: Source, split: str, dataset: ShardDataset, settings: PackSettings) -> _NewLabels:
    began = time.perf_counter()
    report = SplitReport(split)
    meta = describe(source, split, settings)
    _check_same_images(source, split, dataset, meta.source["fingerprint"])
    report.left_out = list(source.splits[split].unlisted.items())
    found = list(_annotations(source, split, dataset, settings, report.left_out, report))
    if not any(found):
        raise DatasetError(
            f"{dataset.path}: no image would be left, the last because of: "
            f"{report.left_out[-1][1]}; the labels stay as they were; correct the new ones"
        )
    report.backgrounds = sum(1 for a in found if a is not None and not len(a.cls))
    report.seconds = time.perf_counter() - began
    return _NewLabels(split, source, meta, found, report)


@contextmanager
def _relabelling(path: Path) -> Iterator[Replace]:
    try:
        with Folder.at(path.parent) as out:
            out.check_ours()
            folder = out.folder(path.name)
    except OSError as error:
        raise storage_error(path, error) from error
    with relabelling(folder) as replace:
        yield replace


def _write(new: _NewLabels, path: Path, replace: Replace) -> SplitReport:
    began = time.perf_counter()
    changed = replace(
        new.annotations,
        names=new.meta.names,
        kpt_shape=new.meta.kpt_shape,
        flip_idx=new.meta.flip_idx,
        source=new.meta.source,
        left_out=tuple(new.report.left_out),
    )
    new.report.images, new.report.objects = changed.images, changed.objects
    new.report.nbytes = stored_bytes(path)
    new.report.seconds += time.perf_counter() - began
    return new.report


def _check_same_images(
    source: Source, split: str, dataset: ShardDataset, fingerprint: dict[str, str]
) -> None:
    known = dataset.meta.source.get("fingerprint")
    if isinstance(known, dict) and known.get("images") == fingerprint["images"]:
        return
    packed = {dataset.name(i) for i in range(len(dataset))}
    packed |= {name for name, _ in dataset.meta.left_out}
    now = set(source.splits[split].paths) | set(source.splits[split].unlisted)
    added, removed = sorted(now - packed), sorted(packed - now)
    if added or removed:
        parts = [f"{len(added)} new, as '{added[0]}'"] if added else []
        parts += [f"{len(removed)} gone, as '{removed[0]}'"] if removed else []
        what = f"its images are not those of '{source.origin}': {', '.join(parts)}"
    else:
        what = f"image files of '{source.origin}' were changed since they were packed"
    raise DatasetError(
        f"{dataset.path}: {what}; labels alone can be replaced only for the same images; pack "
        "again with `yolodata shard --overwrite`"
    )


def _annotations(
    source: Source,
    split: str,
    dataset: ShardDataset,
    settings: PackSettings,
    left_out: list[tuple[str, str]],
    report: SplitReport,
) -> Iterator[Annotation | None]:
    """Gives an annotation for each image of the dataset in order, or None to take it out."""
    images = source.splits[split]
    rules = source.rules(settings.task, settings.single_cls)
    row = 0
    for index, path in enumerate(images.paths):
        if row == len(dataset) or dataset.name(row) != path:
            (outcome,) = prepare(images, [index], rules, settings)
            if outcome.sample is not None:
                raise DatasetError(
                    f"{path}: was left out of '{dataset.path}', but would be accepted now; its "
                    "pixels are not stored; pack again with `yolodata shard --overwrite`"
                )
            left_out.append((path, outcome.reason))
            continue
        height, width = int(dataset.label_height[row]), int(dataset.label_width[row])
        row += 1
        try:
            labels = read_labels(images, index, rules, (height, width))
        except Refused as refusal:
            left_out.append((path, str(refusal)))
            yield None
            continue
        report.noted.add(LABELS, [(path, note) for note in labels.notes])
        yield Annotation(labels.cls, labels.box, labels.polygons, labels.keypoints, height, width)
