"""`yolodata view`: a picture with its labels drawn, to look at before trusting the data."""

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

from yolodata.arguments import NamesAndValues
from yolodata.checks import whole
from yolodata.errors import ConfigError
from yolodata.pipeline.letterbox import oriented_boxes
from yolodata.pipeline.options import TASKS, LabelOptions
from yolodata.pipeline.schedule import MAX_EPOCH, MAX_SEED
from yolodata.pipeline.subset import Subset, open_shards

if TYPE_CHECKING:
    from yolodata.pipeline.config import AugmentConfig
    from yolodata.shards import ShardDataset

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
Picture = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]


class Shown(NamedTuple):
    """What one picture of the output shows."""

    title: str
    caption: str  # the title, short enough to stand on the picture
    picture: Picture  # (H, W, 3) RGB
    cls: Float32  # (n,)
    boxes: Float32  # (n, 4) centre x, centre y, width, height in 0-1; oriented (n, 5)
    polygons: list[Float32]  # each (k, 2) in 0-1
    keypoints: Float32 | None  # (n, K, 3) x, y in 0-1, visibility
    masks: npt.NDArray[np.uint8] | None  # (n, h, w) of 0 and 1, for the whole picture
    recipe: dict[str, Any] | None


def add_parser(subparsers: Any) -> None:
    """Add `view` to the command line."""
    parser = subparsers.add_parser(
        "view",
        help="write a picture with its labels drawn",
        description="Write a picture with its boxes, masks or keypoints and class names: stored "
        "images, or what training sees at a position of an epoch.",
        examples=(
            "yolodata view coco.shards",
            "yolodata view coco.shards split=val index=100 count=9 task=segment out=look.png",
            "yolodata view coco.shards augment=True seed=7 epoch=3 position=100 recipe=True",
            "yolodata view coco.shards --augment --set mosaic=0 --set degrees=10",
            "yolodata view coco.shards augment=True mosaic=0 degrees=10",
        ),
    )
    parser.add_argument("path", type=Path, help="shard folder")
    parser.add_argument("--split", help="split of the folder (default: train)")
    parser.add_argument("--index", type=int, help="first image to show (default: 0)")
    parser.add_argument("--count", type=int, default=1, help="how many to show, in a grid")
    parser.add_argument("--augment", action="store_true", help="show augmented training pictures")
    parser.add_argument("--seed", type=int, help="seed of the training run (default: 0)")
    parser.add_argument("--epoch", type=int, help="epoch of the training run (default: 0)")
    parser.add_argument("--position", type=int, help="first position of the epoch (default: 0)")
    parser.add_argument(
        "--set",
        action=NamesAndValues,
        names=_augmentations(),
        help="augmentation setting, e.g. mosaic=0 or degrees=10; may be repeated, and given alone",
    )
    parser.add_argument(
        "--task",
        choices=TASKS,
        help="whose labels to draw (default: the most that the dataset can serve, without obb)",
    )
    parser.add_argument("--recipe", action="store_true", help="print the recipes as JSON")
    parser.add_argument("--out", type=Path, default=Path("view.png"), help="picture to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Carry out `yolodata view`."""
    import cv2

    _refuse_unused(args)
    shards = open_shards(args.path, args.split)
    pasting = any(setting.startswith("copy_paste") for setting in args.set)
    subset = Subset(shards, LabelOptions(args.task or _task_of(shards)), outlines=pasting)
    if args.out.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"--out must end in {', '.join(_SUFFIXES)}, got {args.out}")
    whole("--count", args.count, 1)
    seed = whole("--seed", args.seed or 0, 0, MAX_SEED)
    epoch = whole("--epoch", args.epoch or 0, 0, MAX_EPOCH)
    name, first = ("--position", args.position) if args.augment else ("--index", args.index)
    where = f" for the {subset.images} images of {subset.shards.path}"
    first = whole(name, first or 0, 0, subset.images - 1, where)
    numbers = range(first, min(first + args.count, subset.images))
    if args.augment:
        config = _augment(subset.imgsz, args.set)
        shown = [_augmented(subset, config, seed, epoch, n) for n in numbers]
    else:
        shown = [_stored(subset, n) for n in numbers]

    names = subset.shards.meta.names
    for item in shown:
        print(f"{item.title}: {_summary(item.cls, names)}")
        if args.recipe and item.recipe is not None:
            print(json.dumps(item.recipe, indent=1))
    sheet = _grid([_draw(item, names) for item in shown])
    try:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_bytes(cv2.imencode(args.out.suffix, sheet[..., ::-1])[1].tobytes())
    except OSError as error:
        raise ConfigError(
            f"--out {args.out} cannot be written: {error.strerror or error}; give a file in a "
            "folder that exists or can be made"
        ) from None
    print(f"{args.out}: {sheet.shape[1]} x {sheet.shape[0]} pixels")
    return 0


def _refuse_unused(args: argparse.Namespace) -> None:
    """An option that would change nothing is a mistake."""
    if args.augment and args.index is not None:
        raise ConfigError("--index is of stored images; with --augment, give --position")
    numbers = {name: getattr(args, name) for name in ("seed", "epoch", "position")}
    given = [f"--{name}" for name, value in numbers.items() if value is not None]
    given += ["--set"] * bool(args.set) + ["--recipe"] * args.recipe
    if given and not args.augment:
        raise ConfigError(f"{', '.join(given)} is for augmented pictures; give --augment too")


def _task_of(shards: ShardDataset) -> str:
    """The task that needs the most of the labels that a dataset has.

    Outlines of which half have four corners or fewer are boxes, oriented or not.
    """
    if shards.keypoints is not None:
        return "pose"
    points = np.diff(shards.polygon_offset.astype(np.int64))
    return "segment" if len(points) and points.min() > 0 and np.median(points) > 4 else "detect"


def _augmentations() -> set[str]:
    from yolodata.pipeline.config import AugmentConfig

    return {f.name for f in fields(AugmentConfig)} - {"imgsz"}


def _augment(imgsz: int, settings: list[str]) -> AugmentConfig:
    from yolodata.pipeline.config import AugmentConfig

    known = _augmentations()
    values: dict[str, Any] = {}
    for setting in settings:
        name, _, text = setting.partition("=")
        if name not in known:
            raise ConfigError(f"--set knows {', '.join(sorted(known))}; got {setting!r}")
        try:
            value = text if text in ("flip", "mixup") else json.loads(text)
        except ValueError:
            raise ConfigError(f"--set {name} needs a number after =, got {text!r}") from None
        values[name] = tuple(value) if isinstance(value, list) else value
    return replace(AugmentConfig(imgsz=imgsz), **values)


def _stored(subset: Subset, image: int) -> Shown:
    shards, rows = subset.shards, subset.objects(image)
    picture = np.asarray(shards.image(image))
    polygons: list[Float32] = []
    offsets = shards.polygon_offset[rows.start : rows.stop + 1].astype(np.int64).tolist()
    for start, stop in pairwise(offsets):
        if stop > start:
            polygons.append(shards.polygon[start:stop])
    shape = picture.shape[:2]
    masks = _masks(polygons, shape) if subset.mask_ratio else None
    size = f"{picture.shape[1]} x {picture.shape[0]}"
    title, caption = (f"{image}: {name}, {size}" for name in _long_and_short(shards.name(image)))
    cls, boxes = subset.cls[rows], subset.box[rows]
    if subset.oriented:
        boxes = oriented_boxes([p * np.array(shape[::-1], np.float32) for p in polygons], shape)
    keypoints = None if subset.keypoints is None else subset.keypoints[rows]
    return Shown(f"index {title}", caption, picture, cls, boxes, polygons, keypoints, masks, None)


def _masks(polygons: list[Float32], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """(n, H, W) of 0 and 1, as they are drawn for validation."""
    import cv2

    masks = np.zeros((len(polygons), *shape), np.uint8)
    for mask, polygon in zip(masks, polygons, strict=True):
        corners = polygon * np.array(shape[::-1], np.float32)
        cv2.fillPoly(mask, [corners.astype(np.int32)], 1)
    return masks


def _augmented(
    subset: Subset, config: AugmentConfig, seed: int, epoch: int, position: int
) -> Shown:
    from yolodata import _native

    native = subset.plan_config(config)
    index = subset.index()
    recipe = _native.plan(index, native, seed, epoch, position)
    values: dict[str, Any] = recipe.to_dict()
    images = {tile["image"] for layer in values["layers"] for tile in layer["tiles"]}
    pixels = {i: np.ascontiguousarray(subset.shards.image(i)) for i in images}
    picture = _native.render(recipe, pixels).transpose(1, 2, 0)
    found = _native.labels(recipe, index, subset.mask_ratio, False)
    cls, boxes = found["cls"], found["bboxes"]
    title = f"seed {seed}, epoch {epoch}, position {position}, images {sorted(images)}"
    caption = f"epoch {epoch}, position {position}"
    keypoints = found.get("keypoints")
    masks = found.get("masks")
    return Shown(title, caption, picture, cls[:, 0], boxes, [], keypoints, masks, values)


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
    for mask, c in zip(() if item.masks is None else item.masks, item.cls.tolist(), strict=False):
        inside = cv2.resize(mask, (width, height), interpolation=cv2.INTER_NEAREST) > 0
        tint = np.array(_colour(int(c)), np.float32)
        canvas[inside] = (0.55 * canvas[inside] + 0.45 * tint).astype(np.uint8)
    for polygon in item.polygons:
        points = np.round(polygon * (width, height)).astype(np.int32)
        cv2.polylines(canvas, [points], True, (255, 255, 255), 1, cv2.LINE_AA)
    outlines = _box_outlines(item.boxes, width, height)
    corners = np.concatenate((outlines.min(1), outlines.max(1)), 1)
    pixels = np.round(corners).astype(int)
    order = np.argsort(-item.boxes[:, 2] * item.boxes[:, 3])  # small boxes on top
    for i in order.tolist():
        colour = _colour(int(item.cls[i]))
        if item.boxes.shape[1] == 5:
            cv2.polylines(canvas, [np.round(outlines[i]).astype(np.int32)], True, colour, 2)
            continue
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


def _box_outlines(boxes: Float32, width: int, height: int) -> npt.NDArray[np.float64]:
    """Corners (n, 4, 2) in pixels of boxes (n, 4), or of oriented ones (n, 5), in 0-1."""
    scale = np.array([width, height], np.float64)
    centre, half = boxes[:, :2] * scale, boxes[:, 2:4] * scale / 2
    angle = boxes[:, 4].astype(np.float64) if boxes.shape[1] == 5 else np.zeros(len(boxes))
    along = np.stack([np.cos(angle), np.sin(angle)], 1) * half[:, :1]
    across = np.stack([-np.sin(angle), np.cos(angle)], 1) * half[:, 1:]
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return np.stack([centre + a * along + b * across for a, b in signs], 1)


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
