"""`yolodata view`: a picture with boxes and class names, to look at before trusting the data."""

from __future__ import annotations

import argparse
import colorsys
import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from yolodata.errors import ConfigError
from yolodata.pipeline.selection import Selection, open_shards

if TYPE_CHECKING:
    from yolodata.pipeline.config import AugmentConfig

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
Picture = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]


class Shown(NamedTuple):
    """What one picture of the output shows."""

    title: str
    caption: str  # the title, short enough to stand on the picture
    picture: Picture  # (H, W, 3) RGB
    cls: Float32  # (n,)
    boxes: Float32  # (n, 4) centre x, centre y, width, height in 0-1
    polygons: list[Float32]  # each (k, 2) in 0-1
    keypoints: Float32 | None  # (n, K, 3) x, y in 0-1, visibility
    recipe: dict[str, Any] | None


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `view` to the command line."""
    parser = subparsers.add_parser(
        "view",
        help="write a picture with boxes and class names",
        description="Write a picture with boxes and class names: stored images, or what training "
        "sees at a position of an epoch.",
    )
    parser.add_argument("path", type=Path, help="shard folder")
    parser.add_argument("--split", default="train", help="split of the folder (default: train)")
    parser.add_argument("--index", type=int, default=0, help="first image to show (default: 0)")
    parser.add_argument("--count", type=int, default=1, help="how many to show, in a grid")
    parser.add_argument("--augment", action="store_true", help="show augmented training pictures")
    parser.add_argument("--seed", type=int, default=0, help="seed of the training run")
    parser.add_argument("--epoch", type=int, default=0, help="epoch of the training run")
    parser.add_argument("--position", type=int, default=0, help="first position of the epoch")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="augmentation setting, e.g. mosaic=0 or degrees=10; may be repeated",
    )
    parser.add_argument("--recipe", action="store_true", help="print the recipes as JSON")
    parser.add_argument("--out", type=Path, default=Path("view.png"), help="picture to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `yolodata view`."""
    import cv2

    shards = open_shards(args.path, args.split)
    task = "detect" if shards.keypoints is None else "pose"
    selection = Selection(shards, task=task)
    if args.out.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"--out must end in {', '.join(_SUFFIXES)}, got {args.out}")
    if args.count < 1:
        raise ConfigError(f"--count must be at least 1, got {args.count}")
    first = args.position if args.augment else args.index
    what = "--position" if args.augment else "--index"
    if not 0 <= first < selection.images:
        raise ConfigError(
            f"{what} must be 0 to {selection.images - 1} for the {selection.images} images of "
            f"{selection.shards.path}, got {first}"
        )
    numbers = range(first, min(first + args.count, selection.images))
    if args.augment:
        config = _augment(selection.imgsz, args.set)
        shown = [_augmented(selection, config, args.seed, args.epoch, n) for n in numbers]
    else:
        shown = [_stored(selection, n) for n in numbers]

    names = selection.shards.meta.names
    for item in shown:
        print(f"{item.title}: {_summary(item.cls, names)}")
        if args.recipe and item.recipe is not None:
            print(json.dumps(item.recipe, indent=1))
    sheet = _grid([_draw(item, names) for item in shown])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_bytes(cv2.imencode(args.out.suffix, sheet[..., ::-1])[1].tobytes())
    print(f"{args.out}: {sheet.shape[1]} x {sheet.shape[0]} pixels")
    return 0


def _augment(imgsz: int, settings: list[str]) -> AugmentConfig:
    from yolodata.pipeline.config import AugmentConfig

    known = {f.name for f in fields(AugmentConfig)} - {"imgsz"}
    values: dict[str, Any] = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in known:
            raise ConfigError(f"--set knows {', '.join(sorted(known))}; got {setting!r}")
        try:
            value = json.loads(text)
        except ValueError:
            raise ConfigError(f"--set {name} needs a number after =, got {text!r}") from None
        values[name] = tuple(value) if isinstance(value, list) else value
    return replace(AugmentConfig(imgsz=imgsz), **values)


def _stored(selection: Selection, image: int) -> Shown:
    shards, rows = selection.shards, selection.objects(image)
    picture = np.asarray(shards.image(image))
    polygons: list[Float32] = []
    offsets = shards.polygon_offset[rows.start : rows.stop + 1].astype(np.int64).tolist()
    for start, stop in pairwise(offsets):
        if stop > start:
            polygons.append(shards.polygon[start:stop])
    size = f"{picture.shape[1]} x {picture.shape[0]}"
    title, caption = (f"{image}: {name}, {size}" for name in _long_and_short(shards.name(image)))
    cls, boxes = selection.cls[rows], selection.box[rows]
    keypoints = None if selection.keypoints is None else selection.keypoints[rows]
    return Shown(f"index {title}", caption, picture, cls, boxes, polygons, keypoints, None)


def _augmented(
    selection: Selection, config: AugmentConfig, seed: int, epoch: int, position: int
) -> Shown:
    from yolodata import _native

    native = selection.plan_config(config)
    index = selection.index()
    recipe = _native.plan(index, native, seed, epoch, position)
    values: dict[str, Any] = recipe.to_dict()
    images = {tile["image"] for layer in values["layers"] for tile in layer["tiles"]}
    pixels = {i: np.ascontiguousarray(selection.shards.image(i)) for i in images}
    picture = _native.render(recipe, pixels).transpose(1, 2, 0)
    found = _native.labels(recipe, index)
    cls, boxes = found["cls"], found["bboxes"]
    title = f"seed {seed}, epoch {epoch}, position {position}, images {sorted(images)}"
    caption = f"epoch {epoch}, position {position}"
    keypoints = found.get("keypoints")
    return Shown(title, caption, picture, cls[:, 0], boxes, [], keypoints, values)


def _long_and_short(name: str) -> tuple[str, str]:
    return name, Path(name).name


def _summary(cls: Float32, names: Mapping[int, str]) -> str:
    counts = Counter(int(c) for c in cls.tolist())
    if not counts:
        return "no objects"
    parts = [f"{number} {names.get(c, c)}" for c, number in counts.most_common()]
    return f"{len(cls)} objects: {', '.join(parts)}"


def _colour(cls: int) -> tuple[int, int, int]:
    """A bright colour; neighbouring class numbers lie far apart on the colour wheel."""
    r, g, b = colorsys.hsv_to_rgb(cls * 0.618034 % 1.0, 0.85, 1.0)
    return round(255 * r), round(255 * g), round(255 * b)


def _draw(item: Shown, names: Mapping[int, str]) -> Picture:
    """The picture, at least 480 pixels wide or high, with boxes, polygons, names and a title."""
    import cv2

    zoom = max(1.0, 480 / max(item.picture.shape[:2]))
    canvas: Picture = cv2.resize(np.ascontiguousarray(item.picture), None, fx=zoom, fy=zoom)
    height, width = canvas.shape[:2]
    for polygon in item.polygons:
        points = np.round(polygon * (width, height)).astype(np.int32)
        cv2.polylines(canvas, [points], True, (255, 255, 255), 1, cv2.LINE_AA)
    corners = np.concatenate(
        (item.boxes[:, :2] - item.boxes[:, 2:] / 2, item.boxes[:, :2] + item.boxes[:, 2:] / 2), 1
    )
    pixels = np.round(corners * np.array([width, height] * 2)).astype(int)
    order = np.argsort(-item.boxes[:, 2] * item.boxes[:, 3])  # small boxes on top
    for i in order.tolist():
        colour = _colour(int(item.cls[i]))
        x1, y1, x2, y2 = pixels[i].tolist()
        cv2.rectangle(canvas, (x1, y1), (x2, y2), colour, 2)
    for points in () if item.keypoints is None else item.keypoints:
        for k, (x, y, visible) in enumerate(points.tolist()):
            if visible:  # hollow: known, but hidden by something
                where = round(x * width), round(y * height)
                cv2.circle(canvas, where, 4, (0, 0, 0), -1 if visible > 1 else 2, cv2.LINE_AA)
                cv2.circle(canvas, where, 3, _colour(k), -1 if visible > 1 else 1, cv2.LINE_AA)
    for i in order.tolist():
        c = int(item.cls[i])
        x1, y1 = pixels[i, :2].tolist()
        _text(canvas, names.get(c, str(c)), x1, y1, _colour(c))
    title: Picture = np.full((22, width, 3), 32, np.uint8)
    _text(title, item.caption, 2, 20, (32, 32, 32))
    return np.concatenate((title, canvas))


def _text(canvas: Picture, text: str, x: int, y: int, colour: tuple[int, int, int]) -> None:
    """Text on a coloured plate whose lower left corner is at (x, y), moved inside the canvas."""
    import cv2

    font, scale = cv2.FONT_HERSHEY_SIMPLEX, 0.45
    (width, height), below = cv2.getTextSize(text, font, scale, 1)
    x = max(0, min(x, canvas.shape[1] - width - 4))
    y = max(height + below + 2, y)
    cv2.rectangle(canvas, (x, y - height - below - 2), (x + width + 4, y), colour, -1)
    ink = (0, 0, 0) if sum(c * w for c, w in zip(colour, (2, 5, 1), strict=True)) > 1020 else None
    where = (x + 2, y - below)
    cv2.putText(canvas, text, where, font, scale, ink or (255, 255, 255), 1, cv2.LINE_AA)


def _grid(pictures: list[Picture]) -> Picture:
    """Pictures of any size, side by side in about as many rows as columns."""
    columns = math.ceil(math.sqrt(len(pictures)))
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    heights = [max(p.shape[0] for p in row) for row in rows]
    width = max(p.shape[1] for p in pictures)
    sheet = np.full((sum(heights), columns * width, 3), 32, np.uint8)
    y = 0
    for row, height in zip(rows, heights, strict=True):
        for i, picture in enumerate(row):
            x = i * width
            sheet[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
        y += height
    return sheet
