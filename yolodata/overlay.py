"""Labels drawn over pictures: boxes, outlines, masks, poses, and the names of classes.

A name is written where it hides neither another name nor a small object; where there is no such
place it is left out, because the legend below tells the colours of all classes.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
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
    masks: npt.NDArray[np.uint8] | None = None  # (n, h, w) of 0 and 1, for the whole picture
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
    """Tints what masks cover, and draws their outlines."""
    import cv2

    height, width = canvas.shape[:2]
    for mask, cls in zip(() if item.masks is None else item.masks, classes, strict=False):
        scaled = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST)
        inside = scaled > 0
        tint = 0.4 * np.array(colour_of(cls), np.float32)
        canvas[inside] = (0.6 * canvas[inside] + tint).astype(np.uint8)
        outlines, _ = cv2.findContours(scaled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
        cv2.drawContours(canvas, outlines, -1, (255, 255, 255), 1, cv2.LINE_AA)


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
    boxes = np.concatenate((corners.min(1), corners.max(1)), 1) if len(corners) else corners
    plates: list[tuple[int, int, int, int]] = []
    for i in order:
        text = style.name(classes[i])
        width = _text_width(text, size) + 6
        for x, y in _places(corners[i], width, size + 5):
            plate = (x, y, x + width, y + size + 5)
            if _is_free(canvas, plate, plates, boxes):
                colour = colour_of(classes[i])
                cv2.rectangle(canvas, plate[:2], (plate[2] - 1, plate[3] - 1), colour, -1)
                ink = (0, 0, 0) if _is_bright(colour) else (255, 255, 255)
                _write(canvas, text, (x + 3, plate[3] - 5), ink, size)
                plates.append(plate)
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


def _is_free(
    canvas: Picture,
    plate: tuple[int, int, int, int],
    plates: list[tuple[int, int, int, int]],
    boxes: npt.NDArray[np.float64],
) -> bool:
    """Whether a plate is inside the canvas and hides no other plate and no small object."""
    x1, y1, x2, y2 = plate
    if x1 < 0 or y1 < 0 or x2 > canvas.shape[1] or y2 > canvas.shape[0]:
        return False
    if any(x1 < b[2] and b[0] < x2 and y1 < b[3] and b[1] < y2 for b in plates):
        return False
    wide = np.minimum(boxes[:, 2], x2) - np.maximum(boxes[:, 0], x1)
    high = np.minimum(boxes[:, 3], y2) - np.maximum(boxes[:, 1], y1)
    hidden = np.maximum(wide, 0) * np.maximum(high, 0)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return not bool((hidden > 0.25 * area).any())


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
