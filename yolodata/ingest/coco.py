"""COCO JSON (`instances_*.json`, `person_keypoints_*.json`) to images and label rows.

The decisions are those of Ultralytics' `convert_coco(cls91to80=False)`: crowd annotations and boxes
without area are dropped, polygons of several parts are joined into one, run-length masks become
their outer contours, an annotation without a usable outline gets its box as a polygon, rows are
rounded to six digits, repeated rows are written once. Two differences, both because they lose
nothing: category ids become 0, 1, … in the order in which the file lists the categories (upstream
subtracts one, which is the same for ids 1, 2, …), and images without annotations stay, as
background.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from yolodata.errors import DatasetError
from yolodata.ingest.rle import decode_rle
from yolodata.ingest.sample import SPLITS, Float32, RawLabels, Refused, Source, Split

Annotation = Mapping[str, Any]


class CocoSplit(Split):
    """The images of one JSON file, in the order of their paths."""

    def __init__(
        self, file: Path, images: dict[str, _Record], outlines: bool, pose: bool, keypoints: int
    ) -> None:
        self.paths = sorted(images)
        self.unlisted: dict[str, str] = {}
        self._records = [images[path] for path in self.paths]
        self._file = file
        self._outlines = outlines
        self._pose = pose
        self._keypoints = keypoints

    def raw_labels(self, index: int) -> RawLabels:
        """Gives the rows of image `index` as the converter would write them."""
        return self._records[index].rows(self._outlines, self._pose, self._keypoints)

    def label_files(self) -> Sequence[str]:
        """Gives the JSON file."""
        return [str(self._file)]


class _Record:
    """One image of the JSON file with its annotations."""

    __slots__ = ("annotations", "classes", "height", "width")

    def __init__(self, width: int, height: int, classes: Mapping[int, int]) -> None:
        self.width = width
        self.height = height
        self.classes = classes
        self.annotations: list[Annotation] = []

    def rows(self, outlines: bool, pose: bool, keypoints: int) -> RawLabels:
        if not self.annotations:
            return RawLabels(None)
        crowd = flat = boxed = unseen = 0
        rows: dict[tuple[float, ...], Float32] = {}  # upstream writes equal rows once
        for note in self.annotations:
            if note.get("iscrowd", False):
                crowd += 1
                continue
            box = self._box(note)
            if box[2] <= 0 or box[3] <= 0:
                flat += 1
                continue
            points = self._points(note, keypoints)
            cls = self.classes[note["category_id"]]
            if pose:
                if not (points[:, 2] != 0).any():
                    unseen += 1
                    continue
                row = (cls, *box, *points.reshape(-1).tolist())
            elif outlines:
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
            rows.setdefault(row, points.astype(np.float32))
        notes = [
            f"{count} {what}"
            for count, what in (
                (crowd, "crowd annotations dropped"),
                (flat, "boxes without area dropped"),
                (boxed, "annotations without a usable outline, their box used as polygon"),
                (unseen, "annotations without a labelled keypoint dropped"),
            )
            if count
        ]
        text = "\n".join(" ".join(f"{value:g}" for value in row) for row in rows)
        beside = np.stack(list(rows.values())) if keypoints and not pose and rows else None
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
            given = f"{values!r:.60}"
            raise Refused(f"annotation {note.get('id')}: keypoints are no list of numbers: {given}")
        if len(values) == 3 * keypoints:
            points[:] = np.array(values).reshape(-1, 3) / np.array([self.width, self.height, 1])
        return points

    def _outline(self, note: Annotation) -> list[float] | None:
        shape = note.get("segmentation")
        if isinstance(shape, dict) and shape.get("size") == [self.height, self.width]:
            try:
                mask = decode_rle(shape["counts"], self.height, self.width)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                raise Refused(
                    f"annotation {note.get('id')}: not a run-length mask: {error}"
                ) from error
            found = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
            shape = [contour.ravel().tolist() for contour in found]
        if not isinstance(shape, list):
            return None
        parts = [np.array(part).reshape(-1, 2) for part in shape if _usable(part)]
        if not parts:
            return None
        whole = np.concatenate(join_parts(parts)) if len(parts) > 1 else parts[0]
        return [float(v) for v in (whole / np.array([self.width, self.height])).reshape(-1)]


def _usable(part: object) -> bool:
    return (
        isinstance(part, list)
        and len(part) >= 6
        and len(part) % 2 == 0
        and all(isinstance(value, (int, float)) for value in part)
    )


def join_parts(parts: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """Joins the parts of one object, (k, 2) arrays in pixels, into one closed line.

    Neighbours in the list are connected at their closest points: a walk forward through all parts,
    which leaves each at the point nearest to the next, and a walk back over what was skipped.

    Returns:
        the pieces of the line, in order, as upstream's `merge_multi_segment` gives them.
    """
    leave: list[list[int]] = [[] for _ in parts]
    for k in range(1, len(parts)):
        squared = ((parts[k - 1][:, None, :] - parts[k][None, :, :]) ** 2).sum(-1)
        here, there = np.unravel_index(np.argmin(squared), squared.shape)
        leave[k - 1].append(int(here))
        leave[k].append(int(there))
    closed: list[NDArray[Any]] = []
    span: list[int] = []
    for part, ends in zip(parts, leave, strict=True):
        if len(ends) == 2 and ends[0] > ends[1]:  # walk a middle part the other way round
            part, ends = part[::-1], [len(part) - 1 - end for end in ends]
        part = np.roll(part, -ends[0], axis=0)
        closed.append(np.concatenate([part, part[:1]]))
        span.append(ends[-1] - ends[0])
    last = len(parts) - 1
    forward = [line if k in (0, last) else line[: span[k] + 1] for k, line in enumerate(closed)]
    backward = [closed[k][span[k] :] for k in range(last - 1, 0, -1)]
    return forward + backward


def open_coco(
    source: str | Path,
    wanted: Sequence[str] | None = None,
    *,
    images: str | Path | None = None,
    task: str = "detect",
) -> Source:
    """Reads COCO annotations.

    Args:
        source: one JSON file, whose split is told by "train", "val" or "test" in its path ("train"
            without), or a folder: every `*.json` in it or in its `annotations/`, and Roboflow's
            `SPLIT/_annotations.coco.json`.
        wanted: splits to read; all that are there by default.
        images: folder of the images; by default looked for beside the annotations.
        task: "pose" reads `person_keypoints_*.json`, every other task `instances_*.json`, where
            both are there.

    Raises:
        DatasetError: names the file and the annotation that cannot be used.
    """
    origin = Path(source)
    files = _split_files(origin, task)
    if wanted:
        absent = [split for split in wanted if split not in files]
        if absent:
            raise DatasetError(
                f"{origin}: no '{absent[0]}'; there are annotations for {list(files)}."
            )
        files = {split: files[split] for split in wanted}
    names: dict[int, str] | None = None
    keypoints = 0
    splits: dict[str, CocoSplit] = {}
    folders: list[str] = []
    for split, file in files.items():
        data = _load(file)
        listed, most = _categories(data, file)
        if names is not None and listed != names:
            raise DatasetError(
                f"{file}: its categories differ from those of the other splits of {origin}."
            )
        names = listed
        keypoints = max(keypoints, most)
        folder = _image_folder(file, split, data["images"], Path(images) if images else None)
        folders.append(str(folder))
        records = _records(data, file, folder)
        outlines = any(note.get("segmentation") for note in data["annotations"])
        splits[split] = CocoSplit(file, records, outlines, task == "pose", keypoints)
    if not names:
        raise DatasetError(f"{origin}: no categories.")
    if task == "pose" and not keypoints:
        raise DatasetError(
            f"{origin}: task 'pose', but no category lists keypoints. Use person_keypoints_*.json."
        )
    shape = (keypoints, 3) if keypoints else None
    return Source(str(origin), "coco", names, splits, shape, None, tuple(sorted(set(folders))))


def _split_files(origin: Path, task: str) -> dict[str, Path]:
    if origin.is_file():
        return {_split_of(origin.stem) or _split_of(str(origin.parent)) or "train": origin}
    found = sorted(origin.glob("*.json")) + sorted(origin.glob("annotations/*.json"))
    found += sorted(origin.glob("*/_annotations.coco.json"))
    by_split: dict[str, list[Path]] = {}
    for file in found:
        split = _split_of(file.parent.name if file.name == "_annotations.coco.json" else file.stem)
        if split:
            by_split.setdefault(split, []).append(file)
    if not by_split:
        raise DatasetError(
            f"No COCO annotations in '{origin}': expected annotations/instances_train*.json or "
            "train/_annotations.coco.json. Give the path of one JSON file."
        )
    prefix = "person_keypoints_" if task == "pose" else "instances_"
    chosen: dict[str, Path] = {}
    for split in (s for s in SPLITS if s in by_split):
        files = by_split[split]
        if len(files) > 1:
            files = [file for file in files if file.name.startswith(prefix)] or files
        if len(files) > 1:
            raise DatasetError(
                f"{len(files)} annotation files for '{split}' in '{origin}': "
                f"{', '.join(f.name for f in files)}. "
                "Give the path of one of them."
            )
        chosen[split] = files[0]
    return chosen


def _split_of(text: str) -> str | None:
    last = {split: text.lower().rfind(split) for split in SPLITS}
    best = max(last, key=lambda split: last[split])
    return best if last[best] >= 0 else None


def _load(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise DatasetError(f"'{file}' is not readable JSON: {error}.") from None
    for key in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(key), list):
            raise DatasetError(
                f"'{file}' is not COCO: it has to hold the lists images, annotations and "
                f"categories; '{key}' is not."
            )
    found: dict[str, Any] = data
    return found


def _categories(data: dict[str, Any], file: Path) -> tuple[dict[int, str], int]:
    """Class names by class number, and how many keypoints the category with most of them has."""
    names: dict[int, str] = {}
    keypoints = 0
    for category in data["categories"]:
        points = category.get("keypoints") or [] if isinstance(category, dict) else None
        if not (
            isinstance(points, list)
            and isinstance(category.get("id"), (int, float, str))
            and category.get("name") is not None
        ):
            raise DatasetError(
                f"{file}: a category needs id and name, and keypoints, if any, as a list of their "
                f"names: {category!r}."
            )
        names[len(names)] = str(category["name"])
        keypoints = max(keypoints, len(points))
    return names, keypoints


def _image_folder(
    file: Path, split: str, images: list[Mapping[str, Any]], given: Path | None
) -> Path:
    root = file.parent.parent if file.parent.name == "annotations" else file.parent
    tail = file.stem.removeprefix("instances_").removeprefix("person_keypoints_")
    bases = [given] if given else [root / "images", root]
    tried: list[Path] = []
    for base in bases:
        for folder in (base / tail, base / split, base):
            if folder not in tried:
                tried.append(folder)
    for record in images:
        if not isinstance(record, dict):
            raise DatasetError(f"{file}: an image is an object with id and file_name: {record!r}.")
    some = [str(record.get("file_name")) for record in images[:20]]
    for folder in tried:
        if any((folder / name).is_file() for name in some):
            return folder.resolve()
    raise DatasetError(
        f"{file}: its images, as {some[:1]}, are in none of {', '.join(map(str, tried))}. "
        "Give their folder with --images."
    )


def _records(data: dict[str, Any], file: Path, folder: Path) -> dict[str, _Record]:
    classes: dict[int, int] = {}
    for category in data["categories"]:
        if category["id"] in classes:
            raise DatasetError(f"{file}: two categories have the id {category['id']}.")
        classes[category["id"]] = len(classes)
    records: dict[str, _Record] = {}
    by_id: dict[int, _Record] = {}
    for image in data["images"]:
        try:
            record = _Record(int(image["width"]), int(image["height"]), classes)
            path, number = str(folder / image["file_name"]), image["id"]
            hash(number)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise DatasetError(
                f"{file}: an image needs id, file_name, width and height: {image!r} "
                f"({type(error).__name__} {error})."
            ) from None
        if record.width <= 0 or record.height <= 0 or number in by_id or path in records:
            raise DatasetError(f"{file}: image {number} ({path}) is listed twice, or has no size.")
        records[path] = by_id[number] = record
    for note in data["annotations"]:
        try:
            by_id[note["image_id"]].annotations.append(note)
            if not note.get("iscrowd"):
                classes[note["category_id"]]
                box = [float(value) for value in note["bbox"]]
                if len(box) != 4:
                    raise ValueError("bbox must be [x, y, width, height]")
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            what = note.get("id") if isinstance(note, dict) else repr(note)
            raise DatasetError(
                f"{file}: annotation {what} cannot be used: {type(error).__name__} "
                f"{error}. It needs a "
                "known image_id, a known category_id and a bbox of four numbers."
            ) from None
    return records
