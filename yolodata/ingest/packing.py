"""Packing: images and labels of a source into shard datasets, on all cores, resumable.

Worker threads read, check, decode and resize; all of that releases the GIL but for Pillow's header
parsing and the label text. One thread appends to the shards, in the source's order, so that the
bytes on disk do not depend on the number of workers.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from yolodata.errors import ConfigError, DatasetError, ShardError
from yolodata.ingest.identity import fingerprint
from yolodata.ingest.images import check_image, decode, read_file
from yolodata.ingest.labels import check_labels
from yolodata.ingest.sample import (
    TASKS,
    LabelRules,
    Labels,
    Refused,
    Source,
    Split,
    SplitReport,
)
from yolodata.ingest.source import open_source
from yolodata.shards.decode import resized_shape
from yolodata.shards.format import CODECS, DatasetMeta
from yolodata.shards.reader import open as open_shards
from yolodata.shards.reader import read_meta
from yolodata.shards.sample import StoredSample
from yolodata.shards.writer import DEFAULT_SHARD_SIZE, ShardWriter

WINDOW = 4  # images in flight per worker: bounds the memory, hides uneven decode times


@dataclass(frozen=True)
class PackSettings:
    """What decides about the bytes that are stored.

    codec: "raw" or "jpeg". imgsz: longer side in pixels. reencode: JPEG quality 1-100 for pictures
    larger than imgsz, None to keep the original file bytes; for codec "jpeg" only. task: whose
    label decisions ("pose" requires keypoints in every row; all others decide alike). single_cls:
    classes are not compared with the number of names.
    """

    codec: str = "raw"
    imgsz: int = 640
    reencode: int | None = None
    task: str = "detect"
    single_cls: bool = False

    def __post_init__(self) -> None:
        if self.codec not in CODECS:
            raise ConfigError(f"codec has to be one of {', '.join(CODECS)}, not '{self.codec}'.")
        if not isinstance(self.imgsz, int) or not 10 <= self.imgsz <= 16384:
            raise ConfigError(
                f"imgsz has to be a whole number of pixels from 10 to 16384, not {self.imgsz!r}."
            )
        if self.reencode is not None and self.codec != "jpeg":
            raise ConfigError(
                f"reencode is for codec 'jpeg' only; codec '{self.codec}' stores pixels."
            )
        if self.reencode is not None and not 1 <= self.reencode <= 100:
            raise ConfigError(f"reencode is a JPEG quality from 1 to 100, not {self.reencode}.")
        if self.task not in TASKS:
            raise ConfigError(f"task has to be one of {', '.join(TASKS)}, not '{self.task}'.")


@dataclass
class PackReport:
    """What `pack` did: one SplitReport per split, in order."""

    out: Path
    splits: dict[str, SplitReport] = field(default_factory=dict)


@dataclass(frozen=True)
class _Outcome:
    """One image after a worker: either a sample or the reason why there is none."""

    sample: StoredSample | None
    reason: str
    labels: Labels | None
    notes: tuple[str, ...]


def prepare(split: Split, index: int, rules: LabelRules, settings: PackSettings) -> _Outcome:
    """Read, check and convert one image; what a worker does. Never raises for a bad image."""
    path = split.paths[index]
    try:
        data = read_file(path)
        checked = check_image(data, path)
        try:
            labels = check_labels(split.raw_labels(index), rules)
        except OSError as error:
            raise Refused(f"label file cannot be read: {error.strerror or error}") from error
        height, width, stored = _store(checked.data, checked.plain, path, settings)
        shape = resized_shape(height, width, settings.imgsz)
        sample = StoredSample(
            data=stored,
            height=shape[0],
            width=shape[1],
            orig_height=height,
            orig_width=width,
            label_height=checked.label_shape[0],
            label_width=checked.label_shape[1],
            name=path,
            cls=labels.cls,
            box=labels.box,
            polygons=labels.polygons,
            keypoints=labels.keypoints,
        )
        return _Outcome(
            sample, "", labels, ((checked.note,) if checked.note else ()) + labels.notes
        )
    except Refused as refusal:
        return _Outcome(None, str(refusal), None, ())


def _store(data: bytes, plain: bool, path: str, settings: PackSettings) -> tuple[int, int, Any]:
    """Height and width of the decoded picture, and the bytes that are stored for it."""
    if settings.codec == "jpeg" and settings.reencode is None:
        if plain:  # the luma plane alone shows that every scan decodes, at two thirds of the time
            grey = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_GRAYSCALE)
            if grey is None:
                raise Refused("OpenCV cannot decode it")
            return grey.shape[0], grey.shape[1], data
        height, width = decode(data, path).shape[:2]
        return height, width, data
    picture = decode(data, path)
    height, width = picture.shape[:2]
    shape = resized_shape(height, width, settings.imgsz)
    if settings.codec == "jpeg" and max(height, width) <= settings.imgsz:
        return height, width, data
    if shape != (height, width):
        picture = cv2.resize(picture, shape[::-1], interpolation=cv2.INTER_LINEAR)
    if settings.codec == "jpeg":
        assert settings.reencode is not None
        return (
            height,
            width,
            cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, settings.reencode])[1],
        )
    return height, width, cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)


def pack(
    source: str | Path | Mapping[str, Any],
    out: str | Path,
    *,
    codec: str = "raw",
    imgsz: int = 640,
    shard_size: int = DEFAULT_SHARD_SIZE,
    workers: int | None = None,
    splits: Sequence[str] | None = None,
    progress: bool = True,
    reencode: int | None = None,
    task: str = "detect",
    single_cls: bool = False,
    overwrite: bool = False,
    format: str = "auto",
    images: str | Path | None = None,
    names: Sequence[str] | None = None,
) -> PackReport:
    """Pack a dataset: one dataset directory `out`/SPLIT for each split.

    An interrupted pack is continued; an equal, finished one is left alone. Nothing is ever written
    to the source.

    source, splits, format, images, names: see `open_source`.
    codec, imgsz, reencode, task, single_cls: see `PackSettings`.
    shard_size: bytes of pixels per shard file. workers: decoding threads, by default one per usable
        core.
    progress: show a bar with rate and remaining time.
    overwrite: replace what `out` holds of another source or other settings.

    Raises DatasetError where the source cannot be used, ConfigError for settings that contradict
    each other, ShardError where `out` holds something else or cannot be written.
    """
    settings = PackSettings(codec, imgsz, reencode, task, single_cls)
    found = open_source(source, splits=splits, format=format, images=images, names=names, task=task)
    target = Path(os.path.abspath(out))
    _refuse_inside(target, found)
    report = PackReport(target)
    for name in found.splits:
        report.splits[name] = _pack_split(
            found, name, target / name, settings, shard_size, workers, progress, overwrite
        )
    return report


def describe(source: Source, split: str, settings: PackSettings) -> DatasetMeta:
    """What dataset.json will say about one split of a source, before anything is packed."""
    about = {
        "kind": source.kind,
        "path": os.path.abspath(source.origin),
        "fingerprint": fingerprint(source, split),
        "task": settings.task,
        "single_cls": settings.single_cls,
        "reencode": settings.reencode,
    }
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
    resolved = out.resolve()
    for folder in source.folders:
        if resolved == Path(folder) or Path(folder) in resolved.parents:
            raise ConfigError(
                f"The output '{out}' lies in the image folder '{folder}' of the source, which "
                "every later scan would "
                "search. Choose a folder beside it."
            )


def _same(found: DatasetMeta, wanted: DatasetMeta) -> bool:
    """Whether a finished dataset is what packing would make."""
    return not _differences(found, wanted)


def _pack_split(
    source: Source,
    split: str,
    path: Path,
    settings: PackSettings,
    shard_size: int,
    workers: int | None,
    progress: bool,
    overwrite: bool,
) -> SplitReport:
    began = time.perf_counter()
    images = source.splits[split]
    meta = describe(source, split, settings)
    report = SplitReport(split)
    try:
        finished = read_meta(path)
    except ShardError:
        finished = None  # absent, unfinished or damaged: the writer decides
    if finished is not None and _same(finished, meta):
        report.reused = True
    elif finished is not None and not overwrite:
        raise ShardError(_refusal(path, finished, meta))
    else:
        finished = _write_split(
            source, images, path, meta, settings, shard_size, workers, progress, overwrite, report
        )
    report.images, report.objects = finished.images, finished.objects
    report.left_out = list(finished.left_out)
    report.nbytes = finished.summary["shard_bytes"] + finished.summary["labels_bytes"]
    with open_shards(path) as shards:
        report.backgrounds = int((np.diff(shards.object_offset) == 0).sum())
    report.seconds = time.perf_counter() - began
    return report


def _differences(found: DatasetMeta, wanted: DatasetMeta) -> list[str]:
    """The settings and facts in which two datasets differ; where the source lies is none."""
    known, asked = found.to_dict(), wanted.check().to_dict()
    keys = ("codec", "imgsz", "names", "kpt_shape", "flip_idx")
    differs = [key for key in keys if known[key] != asked[key]]
    before, after = known["source"], asked["source"]
    keys = tuple(sorted((set(before) | set(after)) - {"path"}))
    return differs + [f"source {key}" for key in keys if before.get(key) != after.get(key)]


def _refusal(path: Path, found: DatasetMeta, wanted: DatasetMeta) -> str:
    """Say what an existing dataset has that was not asked for, and what to do."""
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
        f"'{path}' already holds a dataset, and {what}; {hint}choose another folder, or replace it "
        "with --overwrite."
    )


def _write_split(
    source: Source,
    images: Split,
    path: Path,
    meta: DatasetMeta,
    settings: PackSettings,
    shard_size: int,
    workers: int | None,
    progress: bool,
    overwrite: bool,
    report: SplitReport,
) -> DatasetMeta:
    from tqdm import tqdm

    if report.split == "train" and not any(os.path.isfile(file) for file in images.label_files()):
        raise DatasetError(
            f"{source.origin}: no label file for any of the {len(images.paths)} training images; "
            "the first would be "
            f"'{images.label_files()[0]}'. Labels lie beside the last folder 'images', in 'labels'."
        )
    rules = source.rules(settings.task, settings.single_cls)
    unlisted = list(images.unlisted.items())
    with ShardWriter(path, meta, shard_size, overwrite=overwrite) as writer:
        done = report.resumed = writer.resume().done
        for name, reason in unlisted[done:]:
            writer.leave_out(name, reason)
        start = max(0, done - len(unlisted))
        outcomes = _in_order(images, range(start, len(images.paths)), rules, settings, workers)
        bar = tqdm(
            outcomes,
            total=len(images.paths),
            initial=start,
            desc=report.split,
            unit="img",
            disable=not progress,
            dynamic_ncols=True,
        )
        refused = len(writer.resume().left_out)
        for index, outcome in enumerate(bar, start):
            if outcome.sample is None:
                refused += 1
                bar.set_postfix_str(f"{refused} left out", refresh=False)
                writer.leave_out(images.paths[index], outcome.reason)
                continue
            report.notes += [(outcome.sample.name, note) for note in outcome.notes]
            writer.append(outcome.sample)
        try:
            return writer.finish()
        except ShardError as error:
            if refused < len(images.paths):
                raise
            raise DatasetError(
                f"{source.origin}: none of the {refused} images of '{report.split}' can be used. "
                f"The first: {writer.path} {error}"
            ) from error


def _in_order(
    split: Split, indices: range, rules: LabelRules, settings: PackSettings, workers: int | None
) -> Iterator[_Outcome]:
    """Outcomes in the order of `indices`, computed ahead by threads, a window of them at most."""
    count = workers or len(os.sched_getaffinity(0))
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)  # one picture per core is faster than one picture on all cores
    pool = ThreadPoolExecutor(count, thread_name_prefix="yolodata-pack")
    flying: deque[Future[_Outcome]] = deque()
    try:
        for index in indices:
            flying.append(pool.submit(prepare, split, index, rules, settings))
            if len(flying) >= count * WINDOW:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
    finally:
        for future in flying:
            future.cancel()
        pool.shutdown()
        cv2.setNumThreads(before)
