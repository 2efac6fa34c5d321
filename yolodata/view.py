"""`yolodata view`: a picture with its labels drawn, to look at before trusting the data."""

from __future__ import annotations

import argparse
import json
import os
import reprlib
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from yolodata.arguments import NamesAndValues
from yolodata.checks import whole
from yolodata.errors import ConfigError, DatasetError, lacking
from yolodata.outputs import write_output
from yolodata.overlay import (
    COCO_FLIP,
    COCO_LIMBS,
    Labelled,
    Limbs,
    Picture,
    Style,
    can_write,
    draw,
    grid,
    legend,
)
from yolodata.pipeline.letterbox import oriented_boxes
from yolodata.pipeline.options import TASKS, LabelOptions
from yolodata.pipeline.schedule import MAX_EPOCH, MAX_SEED
from yolodata.pipeline.subset import Subset, open_shards
from yolodata.terminal import printable

if TYPE_CHECKING:
    from yolodata.pipeline.config import AugmentConfig
    from yolodata.shards import ShardDataset

_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_MOST = 400  # pictures of a sheet
Float32 = npt.NDArray[np.float32]


class Shown(NamedTuple):
    """What one picture of the output shows."""

    title: str
    caption: str  # the title, short enough to stand on the picture
    labelled: Labelled
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
    parser.add_argument(
        "--skeleton",
        type=Path,
        metavar="DATA.yaml",
        help="dataset YAML with `skeleton: [[0, 1], ...]`, the keypoints that limbs join (default: "
        "the YAML that was packed, if it is there and has one, else COCO's for its 17 keypoints)",
    )
    parser.add_argument("--recipe", action="store_true", help="print the recipes as JSON")
    parser.add_argument("--out", type=Path, default=Path("view.png"), help="picture to write")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Runs `yolodata view`.

    Raises:
        ConfigError: an option is out of range, or has no effect beside the others.
        ShardError: the dataset cannot be read.
    """
    _refuse_unused(args)
    shards = open_shards(args.path, args.split)
    pasting = any(setting.startswith("copy_paste") for setting in args.set)
    subset = Subset(shards, LabelOptions(args.task or _task_of(shards)), outlines=pasting)
    if args.out.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"--out must end in {', '.join(_SUFFIXES)}, got {args.out}")
    whole("--count", args.count, 1, _MOST)
    seed = whole("--seed", args.seed or 0, 0, MAX_SEED)
    epoch = whole("--epoch", args.epoch or 0, 0, MAX_EPOCH)
    style = _style(subset, args.skeleton)
    name, first = ("--position", args.position) if args.augment else ("--index", args.index)
    where = f" for the {subset.images} images of {subset.shards.path}"
    first = whole(name, first or 0, 0, subset.images - 1, where)
    numbers = range(first, min(first + args.count, subset.images))
    if len(numbers) < args.count:
        _note(f"{len(numbers)} of --count {args.count} from {first} on{where}")
    if args.augment:
        from yolodata.pipeline.config import AugmentConfig

        config = AugmentConfig.from_ultralytics({**args.set, "imgsz": subset.imgsz})
        shown = [_augmented(subset, config, seed, epoch, n) for n in numbers]
    else:
        shown = [_stored(subset, n) for n in numbers]

    counts: Counter[int] = Counter()
    for item in shown:
        found = Counter(item.labelled.cls.astype(int).tolist())
        counts += found
        print(printable(f"{item.title}: {_summary(found, style.names)}"))
        if args.recipe and item.recipe is not None:
            print(json.dumps(item.recipe, indent=1))
    _note_letters(counts, style)
    sheet = grid([draw(item.labelled, style, item.caption) for item in shown])
    sheet = np.concatenate((sheet, legend(dict(counts.most_common()), style, sheet.shape[1])))
    _write(args.out, sheet)
    print(f"{args.out}: {sheet.shape[1]} x {sheet.shape[0]} pixels")
    return 0


def _note(text: str) -> None:
    print(printable(f"note: {text}"), file=sys.stderr)


def _note_letters(counts: Mapping[int, int], style: Style) -> None:
    """Says which names are not written, for want of letters."""
    names = {c: style.names.get(c, str(c)) for c in counts}
    lacking = [f"{name} (class {c})" for c, name in names.items() if not can_write(name)]
    if lacking:
        _note(
            f"the built-in font lacks letters of {', '.join(lacking[:10])}; their numbers are "
            "written instead"
        )


def _write(file: Path, sheet: Picture) -> None:
    """Write a picture.

    Raises:
        ConfigError: its folder cannot be written to, or its format has no room for it.
    """
    import cv2

    size = f"{sheet.shape[1]} x {sheet.shape[0]} pixels"
    try:
        done, data = cv2.imencode(file.suffix.lower(), sheet[..., ::-1])
    except cv2.error as error:
        if lacking(error):
            raise
        done = False
    if not done:
        raise ConfigError(
            f"{file.suffix} has no room for {size}; give a smaller --count, or --out with .png"
        )
    write_output(file, data.tobytes(), "--out")


def _style(subset: Subset, skeleton: Path | None) -> Style:
    """How to draw the labels of a dataset.

    Raises:
        ConfigError: a skeleton was given, and cannot be used.
    """
    meta = subset.shards.meta
    if subset.keypoints is None or meta.kpt_shape is None:
        if skeleton is not None:
            raise ConfigError("--skeleton is for poses, whose keypoints are drawn; leave it out")
        return Style(meta.names)
    count, dims = meta.kpt_shape
    if skeleton is not None:
        limbs = _skeleton(skeleton, count)
        if limbs is None:
            raise ConfigError(
                f"{skeleton}: has no 'skeleton: [[0, 1], ...]', for which it was given; add it, or "
                "leave --skeleton out"
            )
    else:
        limbs = _skeleton_packed(Path(str(meta.source.get("path", ""))), count)
    # Other keypoints than COCO's may be 17, too; then their mirror is another.
    coco = limbs is None and count == len(COCO_FLIP) and meta.flip_idx in (None, (), COCO_FLIP)
    return Style(meta.names, COCO_LIMBS if coco else limbs or (), coco, dims == 2)


def _skeleton_packed(file: Path, count: int) -> Limbs | None:
    """The skeleton of the YAML that was packed, where it is one, is still there, and has one."""
    if file.suffix not in (".yaml", ".yml") or not os.path.isfile(file):
        return None
    try:
        return _skeleton(file, count)
    except ConfigError as error:  # nobody asked for it
        _note(str(error))
        return None


def _skeleton(file: Path, count: int) -> Limbs | None:
    """Pairs of keypoint numbers from 0 under `skeleton` of a dataset's YAML; None: it has none.

    Numbers from 1, as in COCO's files, are recognised by the last one.

    Raises:
        ConfigError: the file cannot be read, or they are no pairs of the `count` keypoints.
    """
    from yolodata.ingest.dataset_yaml import read_yaml

    try:
        found = read_yaml(file).get("skeleton")
    except DatasetError as error:
        raise ConfigError(f"no skeleton can be read: {error}") from None
    if found is None:
        return None
    pairs = (
        [pair if isinstance(pair, list) else [] for pair in found]
        if isinstance(found, list)
        else [[]]
    )
    of_two = all(len(pair) == 2 for pair in pairs)
    numbers = [number for pair in pairs for number in pair] if of_two else []
    whole_pairs = of_two and all(type(number) is int for number in numbers)
    first = 1 if whole_pairs and count in numbers and 0 not in numbers else 0
    if not whole_pairs or not all(0 <= n - first < count for n in numbers):
        raise ConfigError(
            f"{file}: 'skeleton' must be pairs of the keypoints 0 to {count - 1}, such as "
            f"[[0, 1], [1, 2]], got {reprlib.repr(found)}; correct the YAML"
        )
    return tuple((a - first, b - first) for a, b in pairs)


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


def _stored(subset: Subset, image: int) -> Shown:
    shards, rows = subset.shards, subset.objects(image)
    picture = np.asarray(shards.image(image))
    polygons: list[Float32] = []
    offsets = shards.polygon_offset[rows.start : rows.stop + 1].astype(np.int64).tolist()
    for start, stop in pairwise(offsets):
        if stop > start:
            polygons.append(_drawable(shards, shards.polygon[start:stop]))
    shape = picture.shape[:2]
    masks = _masks(polygons, shape) if subset.mask_ratio else None
    size = f"{picture.shape[1]} x {picture.shape[0]}"
    title, caption = (f"{image}: {name}, {size}" for name in _long_and_short(shards.name(image)))
    cls, boxes = subset.cls[rows], subset.box[rows]
    if subset.oriented:
        boxes = oriented_boxes([p * np.array(shape[::-1], np.float32) for p in polygons], shape)
    keypoints = None if subset.keypoints is None else _drawable(shards, subset.keypoints[rows])
    labelled = Labelled(picture, cls, _drawable(shards, boxes), polygons, masks, keypoints)
    return Shown(f"index {title}", caption, labelled, None)


def _drawable(shards: ShardDataset, values: Float32) -> Float32:
    """Fractions of the picture, cut down to what OpenCV's whole pixels can hold."""
    shards.check_finite(values)
    return np.clip(values, -16, 16)


def _masks(polygons: list[Float32], shape: tuple[int, ...]) -> Iterator[npt.NDArray[np.uint8]]:
    """Each (H, W) of 0 and 1, as it is drawn for validation; all at once could take gigabytes."""
    import cv2

    for polygon in polygons:
        mask = np.zeros(shape, np.uint8)
        corners = polygon * np.array(shape[::-1], np.float32)
        cv2.fillPoly(mask, [corners.astype(np.int32)], 1)
        yield mask


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
    more = found.get("masks"), found.get("keypoints")
    return Shown(title, caption, Labelled(picture, cls[:, 0], boxes, (), *more), values)


def _long_and_short(name: str) -> tuple[str, str]:
    return name, Path(name).name


def _summary(counts: Counter[int], names: Mapping[int, str]) -> str:
    if not counts:
        return "no objects"
    parts = [f"{number} {names.get(c, c)}" for c, number in counts.most_common()]
    return f"{counts.total()} objects: {', '.join(parts)}"
