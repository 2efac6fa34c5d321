"""The distribution of what is drawn: our planner's recipes against those that Ultralytics draws.

Fed with upstream's numbers, our recipes give upstream's pictures (training.py). Here our planner
draws by itself. Thousands of recipes of both sides are taken apart into numbers with a meaning
(zoom, rotation, mosaic centre, partners, …), and each number is compared as a distribution.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt

from yolodata import _native
from yolodata.images.resize import resized_shapes
from yolodata.parity import upstream
from yolodata.parity.label_table import label_table
from yolodata.parity.quantities import Float64, Quantities, Recipe
from yolodata.parity.two_sample import (
    LEAST,
    compare_categories,
    compare_dependence,
    compare_numbers,
    scipy_stats,
)
from yolodata.parity.without_pixels import blank
from yolodata.pipeline.config import AugmentConfig

LEVEL = 1e-3
"""Chance of a false alarm in a whole comparison (Bonferroni over all its tests)."""
OURS = 4
"""Recipes of ours to one of upstream's, which takes far longer to draw."""
_OUTLINE_POINTS = 100  # of an outline, where upstream has 1000: a tenth of the time, the same draws


@dataclass(frozen=True)
class Kind:
    """Settings to draw with.

    Attributes:
        settings: changes of upstream's default arguments; `grid` is the images of a mosaic.
        objects: objects of an image that are kept, for settings that look at objects.
        share: of the recipes that are asked for: fewer of what takes long, more of what is rare.
    """

    settings: Mapping[str, Any]
    objects: int = 0
    share: float = 1.0


KINDS = {
    "mosaic of four, mixup": Kind(
        {
            "mosaic": 0.9, "mixup": 0.9, "degrees": 20.0, "translate": 0.3, "scale": 0.4,
            "shear": 8.0, "perspective": 0.0005, "hsv_h": 0.1, "hsv_s": 0.5, "hsv_v": 0.3,
            "flipud": 0.1, "fliplr": 0.1, "bgr": 0.1,
        }
    ),
    "mosaic of nine": Kind({"grid": 9, "scale": (0.3, 1.8)}, share=0.25),
    # An area and an object in it are not always found; rare attempts tell most of how often one
    # is made, and many of where.
    "cutmix, seldom": Kind(
        {"cutmix": 0.02, "mosaic": 0.0, "translate": 0.4, "scale": (0.3, 1.0)},
        objects=1,
        share=2.5,
    ),
    "cutmix, always": Kind(
        {"cutmix": 1.0, "mosaic": 0.3, "translate": 0.4, "scale": (0.3, 1.0)},
        objects=1,
        share=0.5,
    ),
    # A share at which many numbers of objects are rounded another way than at one a little above.
    "copy-paste, mirrored": Kind({"copy_paste": 0.45}, objects=2, share=0.25),
    "copy-paste, from another": Kind(
        {"copy_paste": 0.2, "copy_paste_mode": "mixup", "degrees": 10.0, "mosaic": 0.9},
        objects=2,
        share=0.7,
    ),
}  # fmt: skip
RANGES = ("degrees", "translate", "scale", "shear", "perspective", "hsv_h", "hsv_s", "hsv_v")
PROBABILITIES = ("mosaic", "mixup", "cutmix", "copy_paste", "flipud", "fliplr", "bgr")
SHOWN_BY = {
    "degrees": ("rotation",), "translate": ("shift x", "shift y"), "shear": ("shear x", "shear y"),
    "scale": ("zoom", "zoom of the matrix"), "perspective": ("perspective x", "perspective y"),
    "hsv_h": ("hue",), "hsv_s": ("saturation",), "hsv_v": ("value",),
    "mosaic": ("mosaic",), "mixup": ("mixup",), "cutmix": ("cutmix",), "flipud": ("flipud",),
    "fliplr": ("fliplr",), "bgr": ("bgr",), "copy_paste": ("pasted objects",),
}  # fmt: skip
"""Quantities that differ when a setting is another one, in a kind that has it."""


def a_little_off(settings: Mapping[str, Any], by: float = 0.05) -> dict[str, Any]:
    """Returns settings that must be noticed: wider ranges, higher probabilities.

    A range is wider by a share of it, a probability higher by as many points.

    Probabilities of 0 and 1 stay. With a negative `by`, ranges are narrower and probabilities
    lower.
    """
    changed = dict(settings)
    for name in _can_be_off(settings):
        value = settings[name]
        if name in PROBABILITIES:
            changed[name] = max(0.0, value + by)
        elif isinstance(value, tuple):
            more = by / 2 * (value[1] - value[0])
            changed[name] = (value[0] - more, value[1] + more)
        else:
            changed[name] = (1 + by) * value
    return changed


def _can_be_off(settings: Mapping[str, Any]) -> set[str]:
    """Ranges, and probabilities that are neither 0 nor 1."""
    return {
        name
        for name in settings
        if name in RANGES or (name in PROBABILITIES and 0 < settings[name] < 1)
    }


def kinds(polygons: bool) -> dict[str, Kind]:
    """Returns the kinds that a dataset with or without polygons can be compared by."""
    return {name: kind for name, kind in KINDS.items() if polygons or "copy-paste" not in name}


def draws(
    source: upstream.Upstream,
    n: int,
    seed: int = 0,
    broken: bool = False,
) -> dict[str, Any]:
    """Compares `n` recipes of upstream with `OURS` times as many of ours, of every kind.

    Args:
        source: the training dataset.
        n: recipes that upstream draws, of each kind.
        seed: of both sides.
        broken: ours are drawn from settings that are a little off.

    Returns:
        "level"; "comparisons", their number; and "kinds": of each, what `compare_kind` returns.
        A comparison misses the limit where "p" times "comparisons" is below the level.
    """
    scipy_stats()
    return report(
        {
            name: compare_kind(source, kind, n, seed, broken)
            for name, kind in kinds(source.polygons).items()
        }
    )


def report(found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what `draws` does, from what `compare_kind` returned by kind."""
    comparisons = sum(len(kind["quantities"]) + 1 for kind in found.values())
    return {"level": LEVEL, "comparisons": comparisons, "kinds": dict(found)}


def missed(report: Mapping[str, Any]) -> list[str]:
    """Returns the comparisons that miss the limit, a sentence each."""
    limit = report["level"] / report["comparisons"]
    sentences = []
    for kind, found in report["kinds"].items():
        for side, repeats in found["repeats"].items():
            if repeats:
                sentences.append(
                    f"draws, {kind}: {repeats} images of {side} begin two samples of an epoch"
                )
        for name, row in found["quantities"].items():
            if row["p"] < limit:
                sentences.append(
                    f"draws, {kind}: {name} differs in {row['by']}: mean {row['yolodata']:.5g} "
                    f"(n = {row['n'][1]}), upstream {row['upstream']:.5g} (n = {row['n'][0]}), "
                    f"p = {row['p']:.1e} (at least {limit:.1e})"
                )
        pairs = found["dependence"]
        if pairs["p"] < limit:
            sentences.append(
                f"draws, {kind}: {pairs['of'][0]} and {pairs['of'][1]} depend on each other "
                f"otherwise: rank correlation {pairs['yolodata']:.3f}, upstream "
                f"{pairs['upstream']:.3f}, p = {pairs['p']:.1e} (at least {limit:.1e})"
            )
    return sentences


def unnoticed(report: Mapping[str, Any], source: upstream.Upstream) -> list[str]:
    """Returns the quantities that hold their limit in every kind that has their setting.

    There must be none where ours are drawn from settings that are a little off.
    """
    limit = report["level"] / report["comparisons"]
    found = []
    for setting in SHOWN_BY.keys() - _never(source):
        having = [
            kind["quantities"]
            for name, kind in report["kinds"].items()
            if setting in _can_be_off(KINDS[name].settings)
        ]
        found += [
            f"draws: {setting} (by {quantity})"
            for quantity in SHOWN_BY[setting]
            if having
            and not any(quantity in rows and rows[quantity]["p"] < limit for rows in having)
        ]
    return sorted(found)


def compare_kind(
    source: upstream.Upstream, kind: Kind, n: int, seed: int = 0, broken: bool = False
) -> dict[str, Any]:
    """Compares the draws of one kind.

    Returns:
        "recipes": how many of both sides; "quantities": by name, "n" of both sides, means
        "upstream" and "yolodata", "p", and "by", what differs most; "dependence": the pair of
        quantities whose rank correlations differ most; "repeats": by side, images that begin more
        than one sample of an epoch.
    """
    theirs = upstreams_recipes(source, kind, n, seed)
    settings = a_little_off(kind.settings) if broken else kind.settings
    return compare_recipes(
        theirs, our_recipes(source, kind, OURS * n, seed, settings), len(source.dataset)
    )


def upstreams_recipes(source: upstream.Upstream, kind: Kind, n: int, seed: int = 0) -> list[Recipe]:
    """Returns recipes that upstream draws over shuffled epochs, without making a picture.

    Their number is the kind's share of `n`.
    """
    order = shuffled(len(source.dataset), round(kind.share * n), seed)
    with _without_pixels(source, kind):
        upstream.seed(seed)
        return [source.sample(i)[1] for i in order]


def shuffled(images: int, count: int, seed: int) -> list[int]:
    """Returns the images of `count` samples in a row, over shuffled epochs."""
    random = np.random.default_rng(seed)
    epochs = [random.permutation(images) for _ in range(-(-count // images))]
    return [int(i) for i in np.concatenate(epochs)[:count]]


def our_recipes(
    source: upstream.Upstream,
    kind: Kind,
    n: int,
    seed: int = 0,
    settings: Mapping[str, Any] | None = None,
) -> list[Recipe]:
    """Returns recipes that our planner draws, position by position.

    Their number is the kind's share of `n`. `settings` are taken instead of the kind's.
    """
    settings = dict(kind.settings if settings is None else settings)
    settings["mosaic_grid"] = settings.pop("grid", 4)
    settings |= dict.fromkeys(_never(source), 0.0)  # as upstream
    config = AugmentConfig(imgsz=source.imgsz, **settings).to_native()
    table = label_table(
        [_with_objects(label, kind.objects) for label in source.dataset.labels],
        source.task,
        sizes=_sizes(source),
        flip_idx=source.dataset.data.get("flip_idx"),
        outlines=bool(settings.get("copy_paste")),
        outline_points=_OUTLINE_POINTS,
    )
    images = len(table)
    return [
        _native.plan(table, config, seed, at // images, at % images).to_dict()
        for at in range(round(kind.share * n))
    ]


def _never(source: upstream.Upstream) -> set[str]:
    """Settings without an effect: of keypoints, nobody may know what is left and what is right."""
    one_way = source.task == "pose" and not source.dataset.data.get("flip_idx")
    return {"fliplr", "flipud"} if one_way else set()


@contextmanager
def _without_pixels(source: upstream.Upstream, kind: Kind) -> Iterator[None]:
    """Upstream's dataset has blank images of the right sizes, and few objects, inside."""
    dataset, sizes = source.dataset, _sizes(source)

    def load_image(i: int, *args: Any, **kwargs: Any) -> Any:
        height, width = sizes[i].tolist()
        return blank(height, width), tuple(dataset.labels[i]["shape"]), (height, width)

    labels = [_with_objects(label, kind.objects) for label in dataset.labels]
    with patch.multiple(dataset, labels=labels, load_image=load_image):
        source.use(pixels=False, **kind.settings)
        with patch.object(dataset, "use_obb", True):  # gives an outline _OUTLINE_POINTS points
            yield


def _with_objects(label: dict[str, Any], count: int) -> dict[str, Any]:
    """The first objects of an image alone."""
    few = dict(label)
    for name in ("cls", "bboxes", "segments", "keypoints"):
        if few.get(name) is not None:
            few[name] = few[name][:count]
    return few


def _sizes(source: upstream.Upstream) -> npt.NDArray[np.uint32]:
    """Height and width (N, 2) of the images as they are loaded."""
    shapes = np.array([label["shape"] for label in source.dataset.labels], np.uint32)
    sides = resized_shapes(shapes[:, 0], shapes[:, 1], source.imgsz)
    return np.column_stack(sides).astype(np.uint32)


def base_image(recipe: Recipe) -> int:
    """Returns the image that a sample begins with: the first tile of its first layer."""
    return int(recipe["layers"][0]["tiles"][0]["image"])


def repeats(images: Sequence[int], size: int) -> int:
    """Counts the images that begin a second sample of an epoch of `size` samples."""
    epochs = [images[first : first + size] for first in range(0, len(images), size)]
    return sum(len(epoch) - len(set(epoch)) for epoch in epochs)


def compare_recipes(
    theirs: Sequence[Recipe], ours: Sequence[Recipe], images: int
) -> dict[str, Any]:
    """Compares recipes of both sides for a dataset of so many images; see `compare_kind`."""
    sides = {"upstream": theirs, "yolodata": ours}
    return {
        "recipes": [len(theirs), len(ours)],
        **compare_quantities(*(Quantities.of(recipes, images) for recipes in sides.values())),
        "repeats": {
            side: repeats([base_image(recipe) for recipe in recipes], images)
            for side, recipes in sides.items()
        },
    }


def compare_quantities(theirs: Quantities, ours: Quantities) -> dict[str, Any]:
    """Compares every quantity that varies, and the rank correlations of all pairs of them."""
    rows: dict[str, Any] = {}
    varying: tuple[dict[str, Float64], dict[str, Float64]] = ({}, {})
    for kind in ("numbers", "categories"):
        for name in {**getattr(theirs, kind), **getattr(ours, kind)}:
            none = np.zeros(0)
            a, b = getattr(theirs, kind).get(name, none), getattr(ours, kind).get(name, none)
            x, y = a[np.isfinite(a)], b[np.isfinite(b)]
            if min(len(x), len(y)) < LEAST or min(x.min(), y.min()) == max(x.max(), y.max()):
                continue
            p, by = (
                compare_numbers(x, y) if kind == "numbers" else (compare_categories(x, y), "share")
            )
            rows[name] = {
                "n": [len(x), len(y)], "upstream": float(x.mean()), "yolodata": float(y.mean()),
                "p": p, "by": by,
            }  # fmt: skip
            if min(np.ptp(x), np.ptp(y)) > 0:
                varying[0][name], varying[1][name] = a, b
    p, pairs, of, (upstreams, yolodatas) = compare_dependence(*varying)
    return {
        "quantities": rows,
        "dependence": {
            "pairs": pairs, "of": list(of), "upstream": upstreams, "yolodata": yolodatas, "p": p,
        },
    }  # fmt: skip
