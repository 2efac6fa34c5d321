"""Label decisions: exactly those of Ultralytics 8.4 (`verify_image_label`), made on text rows.

The arithmetic is float32 NumPy in the same order as upstream's, because a box is a float32 that
later has to be equal to the last bit: text -> float32, minimum and maximum of a polygon, half sums,
differences. Comparisons are written so that a NaN fails them, as upstream's do.
"""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise
from threading import Lock

import numpy as np

from yolodata._native import ordinary_labels
from yolodata.ingest.limits import OBJECTS
from yolodata.ingest.sample import Float32, LabelRules, Labels, RawLabels, Refused

UPPER = 1.01  # coordinates up to one per cent outside the picture are tolerated
LOWER = -0.01

_LARGE = 1 << 20  # bytes of text
_one_large = Lock()

UNNAMED = "class without a name: "
"""How the reason begins where an image is refused that `single_cls` would accept."""


def read_rows(text: bytes) -> list[list[str]]:
    """Splits label text into rows of words; a byte-order mark and blank lines are ignored.

    Raises:
        UnicodeDecodeError: it is no text.
        Refused: there are more than `OBJECTS`.
    """
    lines = text.decode("utf-8-sig").strip().splitlines()
    _check_count(len(lines))
    return [words for words in (line.split() for line in lines) if words]


def boxes_of_polygons(points: Float32, starts: list[int]) -> Float32:
    """Gives the bounding boxes of polygons, float32 (n, 4) xywh.

    Args:
        points: float32 (p, 2). NaN spreads to the box of its polygon.
        starts: rows of `points` at which the n polygons begin.
    """
    low, high = np.minimum.reduceat(points, starts), np.maximum.reduceat(points, starts)
    with np.errstate(invalid="ignore"):  # infinity less infinity
        return np.concatenate(((low + high) / 2, high - low), 1)


def check_labels(raw: RawLabels, rules: LabelRules) -> Labels:
    """Decides on the labels of one image.

    Returns:
        the kept objects, in upstream's order.

    Raises:
        Refused: upstream leaves the image out. Rows have other lengths than 5 (box), more than 6
            (polygon: class and x y pairs) or with keypoints; boxes and polygons are in one file; a
            coordinate is above 1.01, a value below -0.01, a width or height negative, a number
            NaN or infinite; a class is not a whole number or not among the names.
    """
    if raw.text is None:
        return _background(rules, "missing", raw.notes)
    labels = labels_of_most(raw.text, rules, raw.notes)
    if labels is not None:
        _check_count(len(labels.cls))
        return labels
    with _one_large if len(raw.text) > _LARGE else nullcontext():  # its words take much memory
        return labels_of_any(raw.text, raw, rules)


def _check_count(rows: int) -> None:
    if rows > OBJECTS:
        raise Refused(f"{rows} label rows; at most {OBJECTS} are allowed")


def labels_of_most(text: bytes, rules: LabelRules, notes: tuple[str, ...]) -> Labels | None:
    """Does what `labels_of_any` does for most files, many times as fast; None for the others."""
    if rules.pose != bool(rules.keypoints):
        return None
    found = ordinary_labels(text, rules.classes, rules.keypoints, rules.dims)
    if found is None:
        return None
    cls, box, rest, ends = found
    return Labels(
        cls,
        box,
        [rest[a:b] for a, b in pairwise([0, *ends])] if ends else None,
        _with_visibility(rest) if rules.keypoints else None,
        "found",
        notes,
    )


def labels_of_any(text: bytes, raw: RawLabels, rules: LabelRules) -> Labels:
    """Does what `check_labels` does for a label file, with the reason for every refusal.

    Args:
        text: the content of the label file.
        raw: what was read of the image, `text` included.
        rules: of the dataset.

    Raises:
        Refused: the image is left out for its labels.
    """
    try:
        rows = read_rows(text)
        if not rows:
            return _background(rules, "empty", raw.notes)
        pose_columns = 5 + rules.keypoints * rules.dims
        keypoints = raw.keypoints
        if rules.keypoints and not rules.pose:
            if keypoints is None:
                keypoints = _keypoint_columns(rows, rules)
            rows = [row[:5] if len(row) == pose_columns else row for row in rows]
        polygons: list[Float32] | None = None
        if not rules.pose and any(len(row) > 6 for row in rows):
            if any(len(row) == 5 for row in rows):
                raise Refused(
                    "boxes (5 columns) and polygons in one label file; use one of the two"
                )
            polygons, table = _polygons(rows)
        else:
            columns = len(rows[0])
            if any(len(row) != columns for row in rows):
                raise Refused("label rows of different lengths")
            table = _numbers([word for row in rows for word in row]).reshape(-1, columns)
    except UnicodeDecodeError as error:
        raise Refused(
            f"label file is not UTF-8 text: {error.reason} at byte {error.start}"
        ) from error
    except ValueError as error:
        raise Refused(f"label rows are not a table of numbers: {str(error)[:200]}") from error

    _check_values(table, rules, pose_columns)
    keep = _unique_rows(table, polygons)
    notes = raw.notes
    if keep is not None:
        notes = (*notes, f"{len(table) - len(keep)} duplicate labels removed")
        table = table[keep]
        polygons = [polygons[k] for k in keep] if polygons is not None else None
        keypoints = keypoints[keep] if keypoints is not None else None
    if rules.pose:
        keypoints = _with_visibility(table[:, 5:].reshape(-1, rules.keypoints, rules.dims))
    cls = np.ascontiguousarray(table[:, 0])
    if rules.single_cls:  # upstream sets every class to 0; a class that has a name is kept
        cls[cls >= rules.classes] = 0
    return Labels(
        cls,
        np.ascontiguousarray(table[:, 1:5]),
        polygons,
        keypoints if rules.keypoints else None,
        "found",
        notes,
    )


def _polygons(rows: list[list[str]]) -> tuple[list[Float32], Float32]:
    """Polygons, and the table of class and box, of rows of a class and x y pairs."""
    ends = [0]
    for row in rows:
        if len(row) < 3 or len(row) % 2 == 0:
            raise Refused(f"a polygon row needs a class and x y pairs, but has {len(row)} columns")
        ends.append(ends[-1] + len(row) // 2)
    points = _numbers([word for row in rows for word in row[1:]]).reshape(-1, 2)
    cls = _numbers([row[0] for row in rows])
    table = np.concatenate((cls[:, None], boxes_of_polygons(points, ends[:-1])), 1)
    return [points[a:b] for a, b in pairwise(ends)], table


def _numbers(words: list[str]) -> Float32:
    """What `np.array(words, np.float32)` gives, ten times as fast: doubles, rounded once more."""
    with np.errstate(over="ignore"):
        return np.fromiter(map(float, words), np.float64, len(words)).astype(np.float32)


def _background(rules: LabelRules, state: str, notes: tuple[str, ...]) -> Labels:
    keypoints = np.zeros((0, rules.keypoints, 3), np.float32) if rules.keypoints else None
    empty = np.zeros((0, 5), np.float32)
    return Labels(empty[:, 0], empty[:, 1:], None, keypoints, state, notes)


def _keypoint_columns(rows: list[list[str]], rules: LabelRules) -> Float32:
    """Keypoints (n, K, 3) of rows that a box task cuts off; zeros where a row has none."""
    found = np.zeros((len(rows), rules.keypoints, 3), np.float32)
    columns = rules.keypoints * rules.dims
    for k, row in enumerate(rows):
        if len(row) != 5 + columns:
            continue
        try:
            points = _numbers(row[5:])
        except ValueError:  # a box task never reads these words, so they cannot refuse the image
            continue
        if np.isfinite(points).all():
            found[k] = _with_visibility(points.reshape(1, rules.keypoints, rules.dims))[0]
    return found


def _with_visibility(keypoints: Float32) -> Float32:
    """Adds the third column to 2-dimensional keypoints: 0 where x or y is negative, else 1."""
    if keypoints.shape[-1] == 3:
        return np.ascontiguousarray(keypoints)
    seen = np.where((keypoints[..., 0] < 0) | (keypoints[..., 1] < 0), 0.0, 1.0)
    return np.concatenate((keypoints, seen.astype(np.float32)[..., None]), -1)


def _check_values(table: Float32, rules: LabelRules, pose_columns: int) -> None:
    columns = table.shape[1]
    if rules.pose:
        if columns != pose_columns:
            raise Refused(
                f"{columns} columns in a label row, but kpt_shape [{rules.keypoints}, "
                f"{rules.dims}] "
                f"needs {pose_columns}"
            )
        points = table[:, 5:].reshape(-1, rules.dims)[:, :2]
    else:
        if columns != 5:
            raise Refused(
                f"{columns} columns in a label row; allowed are 5 (class x y w h) or a class and 3 "
                "or "
                "more x y pairs"
            )
        points = table[:, 1:]
    if np.isnan(table).any():
        raise Refused("label value nan: it is not a number")
    highest = points.max()
    if not highest <= UPPER:
        raise Refused(
            f"coordinate {highest:.9g} is above {UPPER}; coordinates are fractions of the picture"
        )
    lowest = table.min()
    if not lowest >= 0 and not (lowest >= LOWER and table[:, 3:5].min() >= 0):
        raise Refused(f"label value {lowest:.9g}: a class, coordinate or size is negative")
    cls = table[:, 0]
    with np.errstate(invalid="ignore"):  # inf % 1
        whole = cls % 1 == 0
    if not whole.all():
        raise Refused(f"class {cls[~whole][0]:g} is not a whole number")
    top = 0 if rules.single_cls else cls.max()
    if not top < rules.classes:
        raise Refused(
            f"{UNNAMED}{top:g}, but the dataset names {rules.classes} classes (0 to "
            f"{rules.classes - 1})"
        )


def _unique_rows(table: Float32, polygons: list[Float32] | None) -> np.ndarray | None:
    """Indices of the rows to keep, in upstream's order; None where nothing is repeated."""
    if len({row.tobytes() for row in table + np.float32(0)}) == len(table):  # + 0: -0.0 equals 0.0
        return None
    _, first = np.unique(table, axis=0, return_index=True)
    if polygons:  # different polygons may share class and box
        rows = [c.tobytes() + p.tobytes() for c, p in zip(table[:, 0], polygons, strict=True)]
        _, first = np.unique(np.array(rows, object), return_index=True)
    return first if len(first) < len(table) else None
