"""Packing: images and labels of a source into shard datasets, on all cores, resumable.

Workers read, check, decode and resize (workers.py). The calling thread appends to the shards, in
the source's order, so that the bytes on disk do not depend on the number of workers.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from yolodata.checks import whole
from yolodata.errors import (
    ConfigError,
    DatasetError,
    ResourceError,
    ShardError,
    YolodataError,
    lacking,
)
from yolodata.files import resolved, stored_bytes
from yolodata.folders import Folder
from yolodata.ingest.agreement import numbered_alike, shared_images
from yolodata.ingest.convert import PackSettings
from yolodata.ingest.crashes import InWork, crashing, noted
from yolodata.ingest.estimate import announcement, choose_codec, estimate, room
from yolodata.ingest.fingerprint import fingerprint
from yolodata.ingest.limits import WORKERS, shortened
from yolodata.ingest.sample import Refused, Source, Split, SplitReport
from yolodata.ingest.source import open_source
from yolodata.ingest.survey import ORPHAN, some, unnamed
from yolodata.ingest.workers import in_order
from yolodata.ingest.yolo import label_path
from yolodata.machine import give_back_memory, usable_cores
from yolodata.shards.data_yaml import write_data_yaml
from yolodata.shards.format import SPLITS, WORK_FOLDER, DatasetMeta
from yolodata.shards.left_out import read_left_out, write_left_out
from yolodata.shards.lock import storage_error
from yolodata.shards.notes import LABELS, OTHER_SPLITS, PICTURES, write_notes
from yolodata.shards.reader import open as open_shards
from yolodata.shards.reader import read_meta
from yolodata.shards.reader import splits as packed_splits
from yolodata.shards.records import load_settings
from yolodata.shards.sample import LeftOut, StoredSample
from yolodata.shards.verify import verify
from yolodata.shards.writer import DEFAULT_SHARD_SIZE, ShardWriter, check_shard_size, sweep

DEFAULTS = PackSettings()

_STRAYS = re.compile(r"^\d+ annotations of ")


@dataclass
class PackReport:
    """What `pack` did.

    Attributes:
        out: the folder that was written to.
        splits: one report a split, in order.
        left_out: files of the source that belong to no split: path -> reason.
        notes: what else there is to know about the source, a sentence each.
    """

    out: Path
    splits: dict[str, SplitReport] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Run:
    """What all splits of one call share."""

    source: Source
    out: Path
    settings: PackSettings
    shard_size: int
    workers: int | None
    progress: bool
    overwrite: bool


def pack(
    source: str | Path | Mapping[str, Any],
    out: str | Path,
    settings: PackSettings = DEFAULTS,
    *,
    splits: Sequence[str] | None = None,
    format: str = "auto",
    images: str | Path | None = None,
    names: Sequence[str] | None = None,
    shard_size: int = DEFAULT_SHARD_SIZE,
    workers: int | None = None,
    overwrite: bool = False,
    progress: bool = True,
) -> PackReport:
    """Packs a dataset: one dataset directory `out`/SPLIT for each split.

    An interrupted pack is continued; an equal, finished one is left alone. Nothing is ever written
    to the source.

    Args:
        source, splits, format, images, names: see `open_source`.
        out: folder to write to; made if needed.
        settings: what is stored of an image.
        shard_size: bytes of samples in a shard file at most; a larger sample has one of its own.
        workers: threads that decode; by default one for each core this process may use.
        overwrite: replace what `out` holds of another source or other settings, or is damaged;
            what is there already is compared with all checksums then.
        progress: say on stderr how much will be packed, what it takes, and how much is free; show
            a bar with rate and remaining time.

    Returns:
        what was packed and what was left out, for each split.

    Raises:
        DatasetError: the source cannot be used.
        ConfigError: an argument is out of range or contradicts another one, or `out` lies in a
            folder of the source's images.
        ShardError: `out` holds something else, cannot be written, or has no room.
        ResourceError: the machine lacks memory, threads or open files, or cannot read the source.
            What was packed is kept, and the same call continues.
    """
    if workers is not None:
        whole("workers", workers, 1, WORKERS)
    check_shard_size(shard_size)

    def opened(names: Sequence[str] | None) -> Source:
        return open_source(
            source, splits=splits, format=format, images=images, names=names, task=settings.task
        )

    found = opened(names)
    progress = progress and sys.stderr is not None  # as in a process without a terminal
    target = Path(os.path.abspath(out))
    _refuse_inside(target, found)
    reopen = opened if found.kind != "yolo" and names is None else None
    found = numbered_alike(found, target, reopen)
    others = [split for split in packed_splits(target) if split not in found.splits]
    before = left_out_before(target) if others else {}
    report = PackReport(target, left_out=in_no_split(found, before), notes=found.notes)
    if found.kind == "coco" and splits is None:  # else other splits may name them
        named = {
            path for split in found.splits.values() for path in (*split.paths, *split.unlisted)
        }
        named.update(*(_names(target / split) for split in others))
        places = [place for place in (found.origin, images) if place and os.path.isdir(place)]
        trees = [str(resolved(place)) for place in places]
        reason = "in no annotation file that was read"
        labelled = f"{reason}; it has a label file, as --format yolo reads them"
        report.left_out |= {
            path: labelled if why == reason and os.path.isfile(label_path(path)) else why
            for path, why in unnamed(named, found.folders, trees, reason).items()
        }
    shared = shared_images(found, target)  # before anything is packed
    try:
        if settings.codec == "auto":
            settings = _chosen(found, target, replace(settings, codec="jpeg"), progress)
        run = _Run(found, target, settings, shard_size, workers, progress, overwrite)
        _pack(run, report)
        for name, notes in shared.items():
            report.splits[name].noted.add(OTHER_SPLITS, notes)
        if names is not None:
            report.notes += _without_objects(report)
        for name, split in found.splits.items():
            report.notes += unlabelled(report.splits[name], split)
        _write_beside(report)
    except Exception as error:
        if isinstance(error, YolodataError) or not lacking(error):
            raise
        raise ResourceError(
            f"{target}: {lacking(error)}; no image was left out for it, and the same command "
            f"continues ({error})"
        ) from error
    finally:
        give_back_memory()  # a trainer that packs goes on in this process
    return report


def unlabelled(report: SplitReport, images: Split) -> tuple[str, ...]:
    """Says that a whole split has no object; nothing if it has."""
    if report.objects:
        return ()
    return (
        f"no image of '{report.split}' has an object; its labels were sought in "
        f"'{images.label_files()[0]}', …",
    )


def _without_objects(report: PackReport) -> tuple[str, ...]:
    """Says which classes that a user named have no objects: a name may be misspelt."""
    absent: dict[str, None] = {}
    used: set[str] = set()
    for split in report.splits:
        with open_shards(report.out / split) as shards:
            names = shards.meta.names
            used |= {names[int(number)] for number in np.unique(shards.cls)}
            absent |= dict.fromkeys(names.values())
    said = [shortened(name) for name in absent if name not in used]
    return (f"no object is of the class {some(said)}",) if said else ()


def left_out_before(out: Path) -> dict[str, str]:
    """What left_out.json of a folder says; nothing without one."""
    with contextlib.suppress(ShardError):  # a damaged one is replaced
        return read_left_out(out)
    return {}


def _names(path: Path) -> set[str]:
    """The images of a finished split, also those that were left out; none of a damaged one."""
    with contextlib.suppress(ShardError), open_shards(path) as dataset:
        stored = dataset.names(np.arange(len(dataset), dtype=np.int64))
        return {*stored, *(name for name, _ in dataset.meta.left_out)}
    return set()


def in_no_split(found: Source, before: Mapping[str, str]) -> dict[str, str]:
    """What belongs to no split of a source.

    Args:
        found: the source. Of COCO, those files were read that splits were asked for.
        before: what was said when other splits of it were read. That stays, if it is still there.
    """
    if found.kind != "coco" or not before:
        return dict(found.left_out)
    known = set[str]()
    for split in found.splits.values():
        known.update(split.label_files(), split.paths, split.unlisted)
    kept = {
        what: why
        for what, why in before.items()
        if (path := _STRAYS.sub("", what)) not in known and os.path.exists(path)
    }
    return kept | dict(found.left_out)


def _write_beside(report: PackReport) -> None:
    """Writes what lies beside the splits."""
    try:
        write_left_out(report.out, report.left_out)
        noted = report.splits.items()
        write_notes(report.out, {k: {OTHER_SPLITS: v.noted.of(OTHER_SPLITS)} for k, v in noted})
        write_data_yaml(report.out)
    except OSError as error:
        if isinstance(error, ShardError) or lacking(error):
            raise
        if not all(split.reused for split in report.splits.values()):  # else a folder to read only
            raise storage_error(report.out, error) from error


def describe(source: Source, split: str, settings: PackSettings) -> DatasetMeta:
    """Says what dataset.json will hold about one split of a source, before anything is packed."""
    about = {
        "kind": source.kind,
        "path": os.path.abspath(source.origin),
        "fingerprint": fingerprint(source, split),
        "task": settings.task,
        "single_cls": settings.single_cls,
        "reencode": settings.reencode,
    }
    if settings.codec == "jpeg":
        about["keep_files"] = settings.keep_files
    return DatasetMeta(
        settings.codec,
        settings.imgsz,
        source.names,
        split,
        source.kpt_shape,
        source.flip_idx,
        about,
    )


def _refuse_inside(out: Path, source: Source) -> None:
    for place in (out, *(out / split for split in source.splits)):
        real = resolved(place)
        for folder in source.folders:
            if real == Path(folder) or Path(folder) in real.parents:
                raise ConfigError(
                    f"{place}: must not lie in the image folder '{folder}' of the source, which "
                    "every later scan would search; choose a folder beside it"
                )


def _chosen(source: Source, out: Path, settings: PackSettings, progress: bool) -> PackSettings:
    """What `codec="auto"` means here. `settings` are those for jpeg."""
    there = next(filter(None, (codec_of(out / split) for split in SPLITS)), None)
    if there is not None:
        codec, why = there, "as packed before"
    else:
        found = estimate(source.splits.values(), settings)
        codec, why = choose_codec(found, room(out, source.splits))
    if progress:
        print(f"codec=auto is {codec}: {why}", file=sys.stderr)
    if codec == "jpeg":
        return settings
    return replace(settings, codec=codec, reencode=None, keep_files=False)


def codec_of(path: Path) -> str | None:
    """Gives the codec of a dataset directory, also of an unfinished one; None without any."""
    with contextlib.suppress(ShardError):
        return read_meta(path).codec
    with contextlib.suppress(OSError), Folder.at(path) as folder:
        found = load_settings(folder.folder(WORK_FOLDER))
        return None if found is None else str(found["meta"]["codec"])
    return None


def _pack(run: _Run, report: PackReport) -> None:
    """Packs all splits, after looking at what is there and whether the rest fits."""
    metas = {split: describe(run.source, split, run.settings) for split in run.source.splits}
    finished: dict[str, DatasetMeta] = {}
    for split, meta in metas.items():
        try:
            found = read_meta(run.out / split)
        except ShardError:
            continue  # absent, unfinished or damaged: the writer decides
        if not _differences(found, meta):
            if not (run.overwrite and _is_damaged(run, split)):
                finished[split] = found
        elif not run.overwrite:
            raise ShardError(_refusal(run.out / split, found, meta))
    todo = {name: split for name, split in run.source.splits.items() if name not in finished}
    if todo:
        amounts = estimate(todo.values(), run.settings)
        text = announcement(todo, run.out, run.settings, amounts, room(run.out, todo))
        if run.progress:
            print(text, file=sys.stderr)
    for split, meta in metas.items():
        report.splits[split] = _pack_split(run, split, meta, finished.get(split))


def _is_damaged(run: _Run, split: str) -> bool:
    found = verify(run.out / split, full=True, workers=run.workers)
    if found.problems and run.progress:
        print(f"{found.problems[0]}: {split} is packed anew", file=sys.stderr)
    return not found.ok


def _pack_split(
    run: _Run, split: str, meta: DatasetMeta, finished: DatasetMeta | None
) -> SplitReport:
    began = time.perf_counter()
    path = run.out / split
    report = SplitReport(split)
    if finished is not None:
        report.reused = True
        with contextlib.suppress(OSError), Folder.at(run.out) as out, out.folder(split) as folder:
            sweep(folder)
    else:
        finished = _write_split(run, split, meta, report)
    report.images, report.objects = finished.images, finished.objects
    report.left_out = list(finished.left_out)
    report.nbytes = stored_bytes(path)
    with open_shards(path) as shards:
        report.backgrounds = int((np.diff(shards.object_offset) == 0).sum())
    report.seconds = time.perf_counter() - began
    return report


def _differences(found: DatasetMeta, wanted: DatasetMeta) -> list[str]:
    """Lists the settings and facts in which two datasets differ; where the source lies is none."""
    known, asked = found.to_dict(), wanted.check().to_dict()
    keys = ("codec", "imgsz", "names", "kpt_shape", "flip_idx")
    differs = [key for key in keys if known[key] != asked[key]]
    before, after = known["source"], asked["source"]
    keys = tuple(sorted((set(before) | set(after)) - {"path"}))
    return differs + [f"source {key}" for key in keys if before.get(key) != after.get(key)]


def _refusal(path: Path, found: DatasetMeta, wanted: DatasetMeta) -> str:
    """Says what an existing dataset has that was not asked for, and what to do."""
    differs = _differences(found, wanted)
    prints = [meta.source.get("fingerprint") for meta in (found, wanted)]
    images = [part.get("images") if isinstance(part, dict) else None for part in prints]
    hint, what = "", f"it differs in {', '.join(differs)}"
    if images[0] == images[1] and set(differs) <= {"names", "source fingerprint"}:
        what = "only its labels changed"
        hint = "run `yolodata labels` to take over the new labels, "
    elif differs == ["source fingerprint"]:
        what = "image files of the source changed since"
    return (
        f"{path}: already holds a dataset, and {what}; {hint}choose another folder, or replace it "
        "with --overwrite"
    )


def _why_unlabelled(images: Split, source: Source) -> str:
    """Says of the first image of a split why it has no label file."""
    try:
        images.raw_labels(0)
    except Refused as refused:
        return f"of the first, '{images.paths[0]}': {refused}"
    where = "put labels into 'labels' beside the last folder 'images'"
    if source.kind == "voc":
        where = "put XML files, named like their images, into 'Annotations' or beside the images"
    orphans = [path for path, reason in source.left_out.items() if reason.endswith(ORPHAN)]
    if orphans:
        where += f"; label files that have no image: {some(orphans)}"
    return f"the first would be '{images.label_files()[0]}'; {where}"


def _folder(out: Path, split: str) -> Folder:
    """The folder of a split, made if needed, if nobody else can change what is in it."""
    try:
        with Folder.at(out, create=True) as folder:
            folder.check_ours()
            return folder.folder(split, create=True)
    except OSError as error:
        raise storage_error(out, error) from error


def _write_split(run: _Run, split: str, meta: DatasetMeta, report: SplitReport) -> DatasetMeta:
    from tqdm import tqdm

    images = run.source.splits[split]
    total = len(images.paths)
    if split == "train" and not any(os.path.isfile(file) for file in images.label_files()):
        raise DatasetError(
            f"{run.source.origin}: no label file for any of {total} training images; "
            f"{_why_unlabelled(images, run.source)}"
        )
    rules = run.source.rules(run.settings.task, run.settings.single_cls)
    unlisted = list(images.unlisted.items())
    folders = [folder for folder in run.source.folders if os.path.isdir(folder)]
    folder = _folder(run.out, split)
    suspects: list[int] = []
    with contextlib.suppress(OSError), folder.folder(WORK_FOLDER) as work:
        suspects = noted(work)  # before the writer clears up
    with ShardWriter(folder, meta, run.shard_size, overwrite=run.overwrite) as writer:
        done = report.resumed = writer.resume().done
        report.noted = writer.resume().notes
        writer.store([LeftOut(*entry) for entry in unlisted[done:]])
        start = max(0, done - len(unlisted))
        reasons = [reason for _, reason in (*writer.resume().left_out, *unlisted[done:])]
        todo = range(start, total)
        refused = _crashing(run, images, [image for image in suspects if image in todo])
        with (
            _in_work(folder, run.workers, refused) as in_work,
            tqdm(
                desc=split,
                total=total,
                initial=start,
                unit="img",
                disable=not run.progress,
                dynamic_ncols=True,
            ) as bar,
        ):
            for results in in_order(
                images, rules, run.settings, todo, run.workers, refused, in_work
            ):
                files = images.paths[start : start + len(results.outcomes)]
                items: list[StoredSample | LeftOut] = []
                for file, outcome in zip(files, results.outcomes, strict=True):
                    if outcome.sample is None:
                        if not os.path.exists(file):
                            _refuse_vanished(folders)
                        items.append(LeftOut(file, outcome.reason))
                        reasons.append(outcome.reason)
                        bar.set_postfix_str(f"{len(reasons)} left out", refresh=False)
                    else:
                        items.append(outcome.sample)
                        for kind, note in outcome.sample.notes:
                            report.noted.add(kind, [(file, note)])
                writer.store(items, results.chunk)
                start += len(files)
                bar.update(len(files))
        named = [*images.unlisted, *images.paths]
        if len(reasons) == len(named):
            raise DatasetError(
                f"{run.source.origin}: none of the {len(named)} images of '{split}' can be used; "
                f"the last is '{named[-1]}': {reasons[-1]}"
            )
        try:  # before nobody can tell any more
            of_images = {kind: report.noted.of(kind) for kind in (PICTURES, LABELS)}
            write_notes(run.out, {split: of_images})
        except OSError as error:
            raise storage_error(run.out, error) from error
        return writer.finish()


def _refuse_vanished(folders: Sequence[str]) -> None:
    """Where a whole folder of images is gone, none of them is at fault."""
    for folder in folders:
        if not os.path.isdir(folder):
            raise ResourceError(
                f"{folder}: is gone since this began; see whether its disk is still mounted; no "
                "image was left out for it, and the same command continues"
            )


def _crashing(run: _Run, images: Split, suspects: list[int]) -> dict[int, str]:
    """Which of the images that an earlier packer was at when it died are the reason, in words."""
    if not suspects:
        return {}
    paths = {image: images.paths[image] for image in suspects}
    if run.progress:
        print(
            f"an earlier run ended suddenly while {len(paths)} images were in work (the first is "
            f"{paths[suspects[0]]}); trying each in a process of its own",
            file=sys.stderr,
        )
    return crashing(paths, run.settings)


@contextlib.contextmanager
def _in_work(folder: Folder, workers: int | None, refused: Mapping[int, str]) -> Iterator[InWork]:
    try:
        with folder.folder(WORK_FOLDER) as work:
            notes = InWork(work, workers or len(usable_cores()), refused)
    except OSError as error:
        raise storage_error(folder.path, error) from error
    with contextlib.closing(notes):
        yield notes
