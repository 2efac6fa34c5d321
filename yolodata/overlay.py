"""Labels drawn over pictures: boxes, outlines, masks, poses, and the names of classes.

A name is written where it hides neither another name nor a small object; where there is no such
place it is left out, because the legend below tells the colours of all classes.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Picture = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Colour = tuple[int, int, int]
Limbs = tuple[tuple[int, int], ...]

COCO_LIMBS: Limbs = (
    (15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8),
    (7, 9), (8, 10), (1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6),
)  # fmt: skip
"""Pairs of COCO's 17 keypoints, from 0: the skeleton of its person_keypoints files."""
COCO_FLIP = (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15)
"""What each of COCO's 17 keypoints becomes in a mirror."""

_SMALLEST = 480  # pixels of the longer side; smaller pictures are enlarged
_HIDDEN = 0.25  # share of an object's area that a name may hide
_TITLE = 22  # pixels of the bar above a picture
_DARK, _LIGHT = (32, 32, 32), (235, 235, 235)
_SHADES = ((0.85, 1.0), (0.95, 0.72), (0.8, 0.86), (0.6, 1.0), (1.0, 0.6))
# Left and right of a person differ, so that a wrong flip_idx is seen (Okabe and Ito's colours).
_LEFT, _RIGHT, _MIDDLE = (86, 180, 233), (230, 159, 0), (240, 228, 66)


class Labelled(NamedTuple):
    """A picture and its labels."""

    picture: Picture  # (H, W, 3) RGB
    cls: Float32  # (n,)
    boxes: Float32  # (n, 4) centre x, centre y, width, height in 0-1; oriented (n, 5), radians
    polygons: Sequence[Float32] = ()  # each (k, 2) in 0-1
    masks: Iterable[npt.NDArray[np.uint8]] | None = None  # n of (h, w), 0 and 1, whole picture
    keypoints: Float32 | None = None  # (n, K, 3) x, y in 0-1, visibility


@dataclass(frozen=True)
class Style:
    """How labels are drawn.

    Attributes:
        names: of the classes.
        limbs: pairs of keypoints that are joined; empty: keypoints are numbered instead.
        sides: whether limbs are COCO's, coloured by left and right.
        always_visible: keypoints have no visibility of their own (`kpt_shape: [K, 2]`).
    """

    names: Mapping[int, str]
    limbs: Limbs = ()
    sides: bool = False
    always_visible: bool = False

    def name(self, cls: int) -> str:
        """What is written at an object: its class, or its number where the font lacks letters."""
        name = self.names.get(cls, str(cls))
        return name if can_write(name) else f"class {cls}"


@lru_cache(maxsize=4096)
def colour_of(number: int) -> Colour:
    """A bright colour; those of neighbouring numbers lie far apart on the colour wheel.

    Hues come near again after 8, 13, 21 and 34 numbers; then the shade is another.
    """
    saturation, value = _SHADES[number % len(_SHADES)]
    r, g, b = colorsys.hsv_to_rgb(number * 0.618034 % 1.0, saturation, value)
    return round(255 * r), round(255 * g), round(255 * b)


@lru_cache(maxsize=1)
def _font() -> Any:
    """OpenCV's own: Latin, Greek, Cyrillic, Chinese, Japanese and Korean letters, and more.

    Files of fonts are not taken: OpenCV 5.0 ends the process at one that it cannot read.
    """
    import cv2

    return cv2.FontFace("sans")


def _text_width(text: str, size: int) -> int:
    import cv2

    if not text:
        return 0
    box = cv2.getTextSize((1 << 14, 1 << 14), text, (0, 0), _font(), size, 500)
    return int(box[0] + box[2])


def _write(canvas: Picture, text: str, at: tuple[int, int], colour: Colour, size: int) -> None:
    """Writes text of a size in pixels, whose base line begins at a place."""
    import cv2

    if text:
        cv2.putText(canvas, text, at, colour, _font(), size, 500)


@lru_cache(maxsize=4096)
def can_write(text: str) -> bool:
    """Whether there is a letter for every character (what has none becomes a "?")."""
    if len(text) != 1:
        return all(map(can_write, text))
    if " " <= text <= "~":
        return True
    drawn, unknown = np.zeros((2, 48, 64, 3), np.uint8)
    for canvas, letter in ((drawn, text), (unknown, "?")):
        _write(canvas, letter, (8, 36), (255, 255, 255), 24)
    return not np.array_equal(drawn, unknown)


def _shortened(text: str, width: int, size: int) -> str:
    """The end of a text, if all of it is wider than `width` pixels."""
    if _text_width(text, size) <= width:
        return text
    while len(text) > 1 and _text_width("…" + text, size) > width:
        text = text[max(1, len(text) // 16) :]
    return "…" + text


def draw(item: Labelled, style: Style, title: str | None = None) -> Picture:
    """Returns the picture (h, w, 3), at least 480 pixels wide or high, with its labels.

    Args:
        item: the picture.
        style: how to draw.
        title: written on a bar of 22 pixels above it; None: there is no bar.
    """
    import cv2

    zoom = max(1.0, _SMALLEST / max(item.picture.shape[:2]))
    canvas: Picture = cv2.resize(np.ascontiguousarray(item.picture), None, fx=zoom, fy=zoom)
    height, width = canvas.shape[:2]
    classes = item.cls.astype(int).tolist()
    _draw_masks(canvas, item, classes)
    for polygon in item.polygons if item.masks is None else ():
        points = np.round(polygon * (width, height)).astype(np.int32)
        cv2.polylines(canvas, [points], True, (255, 255, 255), 1, cv2.LINE_AA)
    corners = _corners(item.boxes, width, height)
    order = np.argsort(-item.boxes[:, 2] * item.boxes[:, 3]).tolist()  # small ones on top
    for i in order:
        outline = [np.round(corners[i]).astype(np.int32)]
        upright = item.boxes.shape[1] == 4
        cv2.polylines(canvas, outline, True, colour_of(classes[i]), 2,
                      cv2.LINE_8 if upright else cv2.LINE_AA)  # fmt: skip
    for i in order if item.keypoints is not None else ():
        assert item.keypoints is not None
        extent = float(np.ptp(corners[i], axis=0).max())
        _draw_pose(canvas, item.keypoints[i], style, extent)
    _write_names(canvas, classes, corners, order, style)
    if title is None:
        return canvas
    bar: Picture = np.full((_TITLE, width, 3), _DARK, np.uint8)
    text = _shortened(title, width - 10, 13)
    _write(bar, text, (5, 16), _LIGHT, 13)
    return np.concatenate((bar, canvas))


def _draw_masks(canvas: Picture, item: Labelled, classes: list[int]) -> None:
    """Tints what masks cover, and draws their outlines; each within its own frame."""
    import cv2

    height, width = canvas.shape[:2]
    rows: npt.NDArray[np.intp] = np.zeros(0, np.intp)  # of a mask that the canvas shows
    columns = rows
    for mask, cls in zip(() if item.masks is None else item.masks, classes, strict=False):
        if not len(rows):
            rows, columns = _nearest(mask.shape[0], height), _nearest(mask.shape[1], width)
        covers_row: npt.NDArray[np.bool_] = np.any(mask, 1)
        covers_column: npt.NDArray[np.bool_] = np.any(mask, 0)
        inside = covers_row[rows].nonzero()[0], covers_column[columns].nonzero()[0]
        if not len(inside[0]) or not len(inside[1]):
            continue
        y, x = (slice(int(shown[0]), int(shown[-1]) + 1) for shown in inside)
        scaled = np.ascontiguousarray(mask[rows[y]][:, columns[x]])
        covered, frame = scaled > 0, canvas[y, x]
        tint = 0.4 * np.array(colour_of(cls), np.float32)
        frame[covered] = (0.6 * frame[covered] + tint).astype(np.uint8)
        outlines, _ = cv2.findContours(
            scaled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE, offset=(x.start, y.start)
        )
        cv2.drawContours(canvas, outlines, -1, (255, 255, 255), 1, cv2.LINE_AA)


def _nearest(count: int, shown: int) -> npt.NDArray[np.intp]:
    """Which of `count` pixels each of `shown` ones is, as OpenCV resizes."""
    import cv2

    numbers = np.arange(count, dtype=np.float32)[None]
    found = cv2.resize(numbers, (shown, 1), interpolation=cv2.INTER_NEAREST)
    return np.asarray(found[0], np.intp)


def _corners(boxes: Float32, width: int, height: int) -> npt.NDArray[np.float64]:
    """Corners (n, 4, 2) in pixels of boxes (n, 4), or of oriented ones (n, 5), in 0-1."""
    scale = np.array([width, height], np.float64)
    centre, half = boxes[:, :2] * scale, boxes[:, 2:4] * scale / 2
    angle = boxes[:, 4].astype(np.float64) if boxes.shape[1] == 5 else np.zeros(len(boxes))
    along = np.stack([np.cos(angle), np.sin(angle)], 1) * half[:, :1]
    across = np.stack([-np.sin(angle), np.cos(angle)], 1) * half[:, 1:]
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return np.stack([centre + a * along + b * across for a, b in signs], 1)


def _draw_pose(canvas: Picture, points: Float32, style: Style, extent: float) -> None:
    """Draws limbs and keypoints (K, 3): filled if seen, hollow if hidden, nothing if unknown.

    A limb is drawn between two keypoints that are known.
    """
    import cv2

    height, width = canvas.shape[:2]
    known = [visible > 0 for visible in points[:, 2].tolist()]
    places = [(round(x * width), round(y * height)) for x, y in points[:, :2].tolist()]
    radius = min(4, max(2, round(extent / 60)))
    for number, (a, b) in enumerate(style.limbs):
        if known[a] and known[b]:
            colour = _side(a, b) if style.sides else colour_of(number)
            for wide, ink in ((radius, (0, 0, 0)), (max(1, radius - 2), colour)):
                cv2.line(canvas, places[a], places[b], ink, wide, cv2.LINE_AA)
    for k, at in enumerate(places):
        if not known[k]:
            continue
        seen = style.always_visible or points[k, 2] > 1
        colour = _side(k, k) if style.sides else colour_of(k)
        cv2.circle(canvas, at, radius, (0, 0, 0), -1 if seen else 2, cv2.LINE_AA)
        cv2.circle(canvas, at, radius - 1, colour, -1 if seen else 1, cv2.LINE_AA)
        if not style.limbs:
            where = at[0] + radius + 1, at[1] - 1
            for dx, dy in ((-1, 0), (1, 0), (0, -1), (0, 1)):  # readable on any picture
                _write(canvas, str(k), (where[0] + dx, where[1] + dy), (0, 0, 0), 10)
            _write(canvas, str(k), where, (255, 255, 255), 10)


def _side(a: int, b: int) -> Colour:
    """The colour of a limb of COCO's skeleton, or of a keypoint: its left ones have odd numbers."""
    if 0 in (a, b) or a % 2 != b % 2:
        return _MIDDLE
    return _LEFT if a % 2 else _RIGHT


def _write_names(
    canvas: Picture,
    classes: list[int],
    corners: npt.NDArray[np.float64],
    order: list[int],
    style: Style,
) -> None:
    """Names on plates of the class's colour, large objects first."""
    import cv2

    size = 12
    widths = {cls: _text_width(style.name(cls), size) + 6 for cls in set(classes)}
    free = _Free(canvas, corners, max(widths.values(), default=0) * (size + 5))
    for i in order:
        text, width = style.name(classes[i]), widths[classes[i]]
        for x, y in _places(corners[i], width, size + 5):
            plate = (x, y, x + width, y + size + 5)
            if free.take(plate):
                colour = colour_of(classes[i])
                cv2.rectangle(canvas, plate[:2], (plate[2] - 1, plate[3] - 1), colour, -1)
                ink = (0, 0, 0) if _is_bright(colour) else (255, 255, 255)
                _write(canvas, text, (x + 3, plate[3] - 5), ink, size)
                break


def _places(corners: npt.NDArray[np.float64], width: int, height: int) -> Iterator[tuple[int, int]]:
    """Upper left corners at which a plate may stand: at corners, outside and inside."""
    points = np.round(corners).astype(int)
    (x1, y1), (x2, y2) = points.min(0).tolist(), points.max(0).tolist()
    if len(np.unique(points[:, 0])) > 2:  # at an angle: above a corner, or below the lowest
        by_height = sorted(points.tolist(), key=lambda point: point[1])
        yield from ((max(0, x - width // 2), y - height) for x, y in by_height)
        yield max(0, by_height[-1][0] - width // 2), by_height[-1][1] + 1
        return
    left, right = max(0, x1 - 1), x2 + 2 - width
    yield from ((left, y1 - height), (right, y1 - height), (left, y2 + 1), (right, y2 + 1))
    if width < (x2 - x1) and height < (y2 - y1) / 2:
        yield from ((x1 + 1, y1 + 1), (right - 2, y1 + 1))
        yield x1 + 1, max(0, y1 + 1)  # the box begins outside of the picture


class _Free:
    """Where plates may stand: inside the canvas, where they hide no plate and no small object.

    Objects are looked up by squares of the canvas, small ones first, because those are hidden
    first. So the time for a plate does not grow with the number of objects elsewhere, nor, where
    many lie together, with theirs.

    Args:
        canvas: that plates stand on.
        corners: (n, 4, 2) in pixels, of the objects.
        largest: pixels of the largest plate.
    """

    _SQUARE = 32  # pixels of a side
    _TOGETHER = 64  # objects that are compared at once

    def __init__(self, canvas: Picture, corners: npt.NDArray[np.float64], largest: int) -> None:
        self._taken: npt.NDArray[np.bool_] = np.zeros(canvas.shape[:2], np.bool_)
        self._height, self._width = canvas.shape[:2]
        low, high = corners.min(1), corners.max(1)
        self._boxes, self._area = np.concatenate((low, high), 1), (high - low).prod(1)
        hidden = (self._area > 0) & (_HIDDEN * self._area < largest)  # by any plate
        found: dict[tuple[int, int], list[int]] = {}
        for box in np.argsort(self._area, kind="stable").tolist():
            for square in self._squares(self._boxes[box].tolist()) if hidden[box] else ():
                found.setdefault(square, []).append(box)
        self._at = {square: np.array(boxes) for square, boxes in found.items()}

    def _squares(self, box: Sequence[float]) -> Iterator[tuple[int, int]]:
        """Those of the canvas that a box covers."""
        ends = (self._width, self._height) * 2
        x1, y1, x2, y2 = (
            int(min(max(side, 0), end)) // self._SQUARE for side, end in zip(box, ends, strict=True)
        )
        yield from product(range(x1, x2 + 1), range(y1, y2 + 1))

    def take(self, plate: tuple[int, int, int, int]) -> bool:
        """Whether a plate may stand there; then nothing else may."""
        x1, y1, x2, y2 = plate
        if x1 < 0 or y1 < 0 or x2 > self._width or y2 > self._height:
            return False
        area = self._taken[y1:y2, x1:x2]
        if area.any() or any(self._hides(plate, self._at.get(s)) for s in self._squares(plate)):
            return False
        area[:] = True
        return True

    def _hides(
        self, plate: tuple[int, int, int, int], objects: npt.NDArray[np.intp] | None
    ) -> bool:
        x1, y1, x2, y2 = plate
        for begin in range(0, 0 if objects is None else len(objects), self._TOGETHER):
            assert objects is not None
            some = objects[begin : begin + self._TOGETHER]
            boxes = self._boxes[some]
            wide = np.minimum(boxes[:, 2], x2) - np.maximum(boxes[:, 0], x1)
            high = np.minimum(boxes[:, 3], y2) - np.maximum(boxes[:, 1], y1)
            hidden = np.maximum(wide, 0) * np.maximum(high, 0)
            if (hidden > _HIDDEN * self._area[some]).any():
                return True
        return False


def _is_bright(colour: Colour) -> bool:
    return sum(c * w for c, w in zip(colour, (2, 5, 1), strict=True)) > 1020


def legend(classes: Mapping[int, int], style: Style, width: int) -> Picture:
    """Returns rows (h, width, 3) with the colour, name and count of each class.

    Args:
        classes: class number to count of objects.
        style: how to draw.
        width: in pixels.
    """
    rows: list[Picture] = []
    x, line = width, 22
    for cls, count in classes.items():
        text = _shortened(f"{style.name(cls)}  {count}", width - 40, 13)
        wide = _text_width(text, 13) + 36
        if x + wide > width:
            rows.append(np.full((line, width, 3), _DARK, np.uint8))
            x = 6
        rows[-1][6:17, x : x + 11] = colour_of(cls)
        _write(rows[-1], text, (x + 17, 16), _LIGHT, 13)
        x += wide
    return np.concatenate(rows) if rows else np.zeros((0, width, 3), np.uint8)


def grid(pictures: Sequence[Picture]) -> Picture:
    """Pictures of any size, side by side in about as many rows as columns."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    heights = [max(p.shape[0] for p in row) for row in rows]
    width = max(p.shape[1] for p in pictures)
    sheet: Picture = np.full((sum(heights), columns * width, 3), _DARK, np.uint8)
    y = 0
    for row, height in zip(rows, heights, strict=True):
        for i, picture in enumerate(row):
            x = i * width
            sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
        y += height
    return sheet
