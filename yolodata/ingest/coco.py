"""COCO JSON (`instances_*.json`, `person_keypoints_*.json`, LVIS) to images and label rows.

The decisions are those of Ultralytics' `convert_coco(cls91to80=False)`: crowd annotations and boxes
without area are dropped, polygons of several parts are joined into one, run-length masks become
their outer contours, an annotation without a usable outline gets its box as a polygon, rows are
rounded to six digits, repeated rows are written once, a file that is listed under several ids has
the objects of all. Three differences, because they lose nothing: category ids become 0, 1, … in
their order, over all splits (upstream subtracts one, which is the same for ids 1, 2, …), images
without annotations stay, as background, and what cannot be used takes its image out, not the
whole file.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from yolodata.errors import DatasetError
from yolodata.ingest.coco_categories import Categories, Id, as_id, number_classes, read_categories
from yolodata.ingest.coco_files import (
    CocoContent,
    CocoFile,
    choose_files,
    other_kinds,
    read_category_list,
)
from yolodata.ingest.coco_images import ImageFinder
from yolodata.ingest.limits import SIDE, checked_names, shortened
from yolodata.ingest.outlines import join_parts
from yolodata.ingest.rle import contours
from yolodata.ingest.sample import Float32, RawLabels, Refused, Source, Split
from yolodata.shards.format import SPLITS

Annotation = Mapping[str, Any]


class CocoSplit(Split):
    """The images of one JSON file, in the order of their paths."""

    def __init__(
        self,
        file: Path,
        images: Mapping[str, _Image],
        unlisted: dict[str, str],
        rules: _RowRules,
    ) -> None:
        self.paths = sorted(images)
        self.unlisted = unlisted
        self._images = [images[path] for path in self.paths]
        self._file = file
        self._rules = rules

    def raw_labels(self, index: int) -> RawLabels:
        """Gives the rows of image `index` as the converter would write them.

        Raises:
            Refused: a record or an annotation of it cannot be used.
        """
        return self._images[index].rows(self._rules)

    def label_files(self) -> Sequence[str]:
        """Gives the JSON file."""
        return [str(self._file)]


class _RowRules(NamedTuple):
    """What rows of one file are made of.

    classes: class number of each category id; None for one that was left out by `names`.
    outlines: polygons instead of boxes.
    pose: boxes with keypoints instead of either.
    keypoints: how many.
    """

    classes: Mapping[Id, int | None]
    outlines: bool
    pose: bool
    keypoints: int


class _Image:
    """One image file, with what the records of all its ids say."""

    __slots__ = ("records", "unusable")

    def __init__(self) -> None:
        self.records: dict[Id, _Record] = {}
        self.unusable = ""

    def rows(self, rules: _RowRules) -> RawLabels:
        if self.unusable:
            raise Refused(self.unusable)
        try:
            parts = [record.rows(rules) for record in self.records.values()]
        except (TypeError, ValueError, OverflowError) as error:
            raise Refused(f"its annotations cannot be used: {_said(error)}") from error
        sizes = dict.fromkeys((record.height, record.width) for record in self.records.values())
        found = [part for part in parts if part.text is not None]
        texts = [part.text for part in found if part.text]
        beside = [part.keypoints for part in found if part.keypoints is not None]
        return RawLabels(
            b"\n".join(texts) if found else None,
            np.concatenate(beside) if beside else None,
            tuple(note for part in parts for note in part.notes),
            tuple(sizes),
        )


class _Record:
    """One image of the JSON file with its annotations."""

    __slots__ = ("annotations", "height", "width")

    def __init__(self, width: int, height: int) -> None:
        self.width = width
        self.height = height
        self.annotations: list[Annotation] = []

    def rows(self, rules: _RowRules) -> RawLabels:
        if not self.annotations:
            return RawLabels(None)
        crowd = flat = boxed = unseen = odd = other = twice = 0
        rows: dict[tuple[float, ...], Float32] = {}  # upstream writes equal rows once
        for note in self.annotations:
            if note.get("iscrowd", False):
                crowd += 1
                continue
            box = self._box(note)
            if box[2] <= 0 or box[3] <= 0:
                flat += 1
                continue
            cls = rules.classes[as_id(note["category_id"])]
            if cls is None:
                other += 1
                continue
            points = self._points(note, rules.keypoints)
            if points.size:
                odd += len(note.get("keypoints") or []) not in (0, points.size)
            if rules.pose:
                if not (points[:, 2] != 0).any():
                    unseen += 1
                    continue
                row = (cls, *box, *points.reshape(-1).tolist())
            elif rules.outlines:
                outline = self._outline(note)
                if outline is None:
                    boxed += 1
                    x, y, w, h = box
                    outline = [
                        x - w / 2,
                        y - h / 2,
                        x + w / 2,
                        y - h / 2,
                        x + w / 2,
                        y + h / 2,
                        x - w / 2,
                        y + h / 2,
                    ]
                row = (cls, *outline)
            else:
                row = (cls, *box)
            twice += row in rows
            rows.setdefault(row, points.astype(np.float32))
        notes = [
            f"{count} {what}"
            for count, what in (
                (crowd, "crowd annotations dropped"),
                (flat, "boxes without area dropped"),
                (boxed, "annotations without a usable outline, their box used as polygon"),
                (odd, f"annotations without {rules.keypoints} keypoints: those they have dropped"),
                (unseen, "annotations without a labelled keypoint dropped"),
                (other, "objects of other classes dropped"),
                (twice, "repeated annotations dropped"),
            )
            if count
        ]
        text = "\n".join(" ".join(f"{value:g}" for value in row) for row in rows)
        beside = (
            np.stack(list(rows.values())) if rules.keypoints and not rules.pose and rows else None
        )
        return RawLabels(text.encode(), beside, tuple(notes))

    def _box(self, note: Annotation) -> list[float]:
        x, y, w, h = (float(value) for value in note["bbox"])
        return [
            (x + w / 2) / self.width,
            (y + h / 2) / self.height,
            w / self.width,
            h / self.height,
        ]

    def _points(self, note: Annotation, keypoints: int) -> NDArray[np.float64]:
        points = np.zeros((keypoints, 3))
        values = note.get("keypoints") or []
        if not keypoints:
            return points
        if not isinstance(values, list) or not all(isinstance(v, (int, float)) for v in values):
            raise Refused(f"{_named(note)}: keypoints are no list of numbers: {shortened(values)}")
        if len(values) == 3 * keypoints:
            points[:] = np.array(values).reshape(-1, 3) / np.array([self.width, self.height, 1])
        return points

    def _outline(self, note: Annotation) -> list[float] | None:
        shape = note.get("segmentation")
        if isinstance(shape, dict) and shape.get("size") == [self.height, self.width]:
            try:
                found = contours(shape["counts"], self.height, self.width)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise Refused(f"{_named(note)}: not a run-length mask: {_said(error)}") from error
            shape = [contour.ravel().tolist() for contour in found]
        if not isinstance(shape, list):
            return None
        parts = [np.array(part, np.float64).reshape(-1, 2) for part in shape if _usable(part)]
        if not parts:
            return None
        try:
            whole = np.concatenate(join_parts(parts)) if len(parts) > 1 else parts[0]
        except ValueError as error:
            raise Refused(f"{_named(note)}: {error}") from error
        return [float(v) for v in (whole / np.array([self.width, self.height])).reshape(-1)]


def _said(error: Exception) -> str:
    """What an error says, which may repeat all of a text that it was raised for."""
    return f"{type(error).__name__} {error}"[:200]


def _named(note: Annotation) -> str:
    return f"annotation {shortened(note.get('id'))}"


def _usable(part: object) -> bool:
    return (
        isinstance(part, list)
        and len(part) >= 6
        and len(part) % 2 == 0
        and all(isinstance(value, (int, float)) for value in part)
    )


def open_coco(
    source: str | Path,
    wanted: Sequence[str] | None = None,
    *,
    images: str | Path | None = None,
    names: Sequence[str] | None = None,
    task: str = "detect",
) -> Source:
    """Reads COCO annotations.

    Args:
        source: one JSON file, or a folder: every `*.json` in it or in its `annotations/`, and
            Roboflow's `SPLIT/_annotations.coco.json`. Names of files tell their split by one of
            the words train, val and test (`split_of`). A file is the split that is asked for, or
            "train" where nothing in its name is like a split.
        wanted: splits to read; all that are there by default. Of the others only the categories
            are read.
        images: folder of the images; by default looked for beside the annotations.
        names: class names in order; objects of other categories are dropped. By default all
            categories of all splits, in the order of their ids.
        task: "pose" reads `person_keypoints_*.json`, every other task `instances_*.json`, where
            both are there.

    Raises:
        DatasetError: names the file that cannot be used, and what to do.
    """
    with _without_collector():
        return _open(Path(source), wanted, Path(images) if images else None, names, task)


@contextmanager
def _without_collector() -> Iterator[None]:
    """No search for cycles: a file makes millions of objects, without any, and each is walked."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _open(
    origin: Path,
    wanted: Sequence[str] | None,
    given: Path | None,
    names: Sequence[str] | None,
    task: str,
) -> Source:

    def has_images(file: CocoFile, split: str) -> bool:
        return ImageFinder(file.path, split, given).find(file.content.images) is not None

    chosen = choose_files(origin, wanted, task, has_images)
    read = [str(file.path) for file in chosen.files.values()]
    categories = _categories({**chosen.siblings, **chosen.files}, read)
    numbers = number_classes(categories, read, names)
    keypoints = max(found.keypoints for found in categories.values())
    if not numbers.names:
        raise DatasetError(
            f"{origin}: categories must name at least one class, got none; export it again"
        )
    if task == "pose" and not keypoints:
        raise DatasetError(
            f"{origin}: task 'pose', but no category lists keypoints; use person_keypoints_*.json"
        )
    splits: dict[str, CocoSplit] = {}
    left_out = dict(chosen.left_out)
    some = any(file.content.images for file in chosen.files.values())
    for split, file in chosen.files.items():
        content = file.content
        if some and not wanted and not content.images:  # as of a split that nothing was put into
            left_out[str(file.path)] = (
                f"no images in it, and {len(content.annotations)} annotations"
            )
            continue
        finder = ImageFinder(file.path, split, given)
        found = finder.find(content.images)
        if found is None:
            raise finder.error(content.images)
        outlines = any(
            isinstance(note, dict) and note.get("segmentation") for note in content.annotations
        )
        rules = _RowRules(numbers.of_file[str(file.path)], outlines, task == "pose", keypoints)
        paths, unlisted = found
        known = _images(content, file.path, paths, unlisted)
        strays = _annotate(content, known, rules.classes)
        if strays:
            left_out[f"{len(strays)} annotations of {file.path}"] = (
                f"no image has their image_id: {', '.join(strays[:5])}"
                + (", …" if len(strays) > 5 else "")
            )
        splits[split] = CocoSplit(file.path, known, unlisted, rules)
    folders = {os.path.dirname(path) for split in splits.values() for path in split.paths}
    return Source(
        str(origin),
        "coco",
        dict(enumerate(checked_names(numbers.names, origin))),
        splits,
        (keypoints, 3) if keypoints else None,
        None,
        tuple(sorted(folders)),
        left_out,
        other_kinds([file.path for file in chosen.files.values()]),
    )


def _categories(files: Mapping[str, CocoFile], read: Sequence[str]) -> dict[str, Categories]:
    """Categories by file, in the order of splits; a file that is not read may be wrong."""
    found: dict[str, Categories] = {}
    for split in sorted(files, key=SPLITS.index):
        file = files[split]
        if str(file.path) in read:
            found[str(file.path)] = read_categories(file.content.categories, file.path)
        else:
            with suppress(DatasetError):
                found[str(file.path)] = read_categories(read_category_list(file.path), file.path)
    return found


def _images(
    content: CocoContent, file: Path, paths: Sequence[str | None], unlisted: dict[str, str]
) -> dict[str, _Image]:
    """Images by path; those that cannot be told are added to `unlisted`."""
    images: dict[str, _Image] = {}
    owner: dict[Id, str] = {}
    for k, (record, path) in enumerate(zip(content.images, paths, strict=True)):
        if path is None:
            unlisted[f"image {k} of {file}"] = (
                f"it needs a file_name of a file, or a coco_url: {shortened(record)}"
            )
            continue
        if path in unlisted:
            continue
        image = images.setdefault(path, _Image())
        try:
            number = as_id(record["id"])
            width, height = int(record["width"]), int(record["height"])
            if width <= 0 or height <= 0:
                raise ValueError("a side has no pixels")
            if max(width, height) > SIDE:
                raise ValueError(f"a side has more than {SIDE} pixels")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            image.unusable = (
                f"its record in {file.name} needs id, width and height: {shortened(record)} "
                f"({_said(error)})"
            )
            continue
        same = image.records.setdefault(number, _Record(width, height))
        first = owner.setdefault(number, path)
        if first != path or (same.width, same.height) != (width, height):
            for one in (image, images[first]):
                one.unusable = (
                    f"the id {shortened(number)} stands for several images of {file.name}: {first} "
                    f"and {path}, so that it is unclear whose objects they are"
                )
    return images


def _annotate(
    content: CocoContent, images: Mapping[str, _Image], classes: Mapping[Id, int | None]
) -> list[str]:
    """Gives annotations to their images; returns the ids of images that are not listed."""
    by_id = {
        number: (image, record)
        for image in images.values()
        for number, record in image.records.items()
    }
    strays: list[Any] = []
    for note in content.annotations:
        try:
            image, record = by_id[as_id(note["image_id"])]
        except (KeyError, TypeError, ValueError):
            strays.append(note.get("image_id") if isinstance(note, dict) else note)
            continue
        record.annotations.append(note)
        if note.get("iscrowd"):
            continue
        try:
            if as_id(note["category_id"]) not in classes:
                raise ValueError(f"no category has the id {shortened(note['category_id'])}")
            box = [float(value) for value in note["bbox"]]
            if len(box) != 4:
                raise ValueError("bbox must be [x, y, width, height]")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            image.unusable = (
                f"{_named(note)} cannot be used: {_said(error)}; give it a known category_id and "
                "a bbox of four numbers"
            )
    listed = _ids(content.images) if strays else set()  # also those of images that are left out
    return [shortened(number) for number in strays if listed.isdisjoint(_ids([{"id": number}]))]


def _ids(images: Sequence[Any]) -> set[Id]:
    """The ids of records that have one."""
    found: set[Id] = set()
    for record in images:
        with suppress(KeyError, TypeError, ValueError):
            found.add(as_id(record["id"]))
    return found
