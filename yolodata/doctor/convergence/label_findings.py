"""What labels mean for training: images that vanish, boxes that vanish, classes without objects."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence

import numpy as np

from yolodata.doctor.convergence.copies import short
from yolodata.doctor.convergence.labels import Dataset, SplitLabels
from yolodata.doctor.finding import Finding, Knob

SMALL = 3.0
"""Pixels: a box with a shorter side hardly meets the centre of one cell of the finest grid."""
MANY_SMALL = 0.05
"""Share of the boxes that may be that small."""
MANY_EMPTY = 0.5
"""Share of the train images that may be without objects."""
ONE_CLASS = 0.97
"""Share of the objects that the most frequent of several classes may have."""
UNKNOWN = 0.01
"""Share of the validation objects that may be of classes which train does not have."""

_VALUE = re.compile(r"(?:coordinate|label value) (\S+?):? ")
"""How `yolodata.ingest.labels` begins a refusal for a number."""


def judge_labels(dataset: Dataset, imgsz: int, by_class: bool = True) -> Iterator[Finding]:
    """Gives what is wrong with labels.

    Args:
        dataset: what was read.
        imgsz: side of the pictures in pixels.
        by_class: all classes of the labels are trained, as such.
    """
    yield from _left_out(list(dataset.splits.values()))
    train = dataset.splits["train"]
    if train.images:
        yield from _empty(train)
        yield from _small(train, imgsz)
    if by_class and train.images:
        yield from _classes(train, dataset.splits.get("val"), dataset.names)


def _left_out(splits: Sequence[SplitLabels]) -> Iterator[Finding]:
    for cause, title, meaning, knob in _REFUSED:
        found = [entry for one in splits for entry in one.refused if _kind(entry[1]) == cause]
        if not found:
            continue
        train = next(one for one in splits if one.split == "train")
        gone = sum(_kind(reason) == cause for _, reason in train.refused)
        examples = "; ".join(f"{short(path)}: {reason}" for path, reason in found[:3])
        more = "; …" if len(found) > 3 else ""
        read = sum(one.read for one in splits)
        yield Finding(
            cause,
            "breaks" if gone and not train.images else "risk",
            f"{len(found):,} of {read:,} images vanish from training: {title}.",
            f"{gone:,} of them are of train. {examples}{more}. {meaning}",
            Knob(knob, {}),
            measured=True,
        )


_REFUSED = (
    (
        "nan",
        "labels hold NaN or infinity",
        "Ultralytics drops the whole image.",
        "Write these labels again.",
    ),
    (
        "boxes_outside",
        "boxes lie outside of the picture",
        "Ultralytics drops an image with one coordinate above 1.01 or below -0.01, with all of its "
        "boxes.",
        "Clip the boxes to the picture, as fractions of its width and height.",
    ),
    (
        "left_out",
        "they cannot be used",
        "Ultralytics drops them, too.",
        "Mend or remove these files.",
    ),
)  # fmt: skip
"""Cause, what it is, what it means, what to do."""


def _kind(reason: str) -> str:
    """The cause of a refusal."""
    value = _VALUE.match(reason)
    if value is None:
        return "left_out"
    return "boxes_outside" if math.isfinite(float(value[1])) else "nan"


def _empty(train: SplitLabels) -> Iterator[Finding]:
    empty = int((train.objects == 0).sum())
    share = empty / train.images
    if share <= MANY_EMPTY:
        return
    examples = ", ".join(short(train.name(int(i))) for i in np.flatnonzero(train.objects == 0)[:3])
    files = "" if train.missing is None else f", {train.missing:,} of them without a label file"
    yield Finding(
        "unlabelled",
        "breaks" if empty == train.images else "risk",
        f"{share:.0%} of the train images have no object.",
        f"{empty:,} of {train.images:,} images that were read{files}: {examples}. Such an image is "
        "background; up to a tenth of a dataset helps against false alarms.",
        Knob(
            "Put the label files where Ultralytics looks for them (images/ becomes labels/, .txt), "
            "or remove images nobody labelled.",
            {},
        ),
        measured=True,
    )


def _small(train: SplitLabels, imgsz: int) -> Iterator[Finding]:
    sides = train.sides(imgsz)
    share = float((sides < SMALL).mean()) if len(sides) else 0.0
    if share <= MANY_SMALL:
        return
    allowed = float(np.quantile(sides, MANY_SMALL))
    largest = float(train.size.max())
    needed = math.ceil(imgsz * SMALL / allowed / 32) * 32 if allowed > 0 else math.inf
    if needed <= largest:
        at = float((train.sides(int(needed)) < SMALL).mean())
        knob = Knob(
            f"Train on larger pictures: at imgsz={needed}, {at:.1%} of the boxes are that small.",
            {"imgsz": int(needed)},
        )
    else:
        knob = Knob(
            f"Cut the images into tiles and train on these; they have at most {largest:.0f} "
            "pixels a side, so that a larger imgsz shows nothing more.",
            {},
        )
    first = np.flatnonzero(sides < SMALL)[:3]
    examples = ", ".join(dict.fromkeys(short(train.of_object(int(k))) for k in first))
    yield Finding(
        "tiny_boxes",
        "risk",
        f"{share:.0%} of the train boxes are below {SMALL:g} pixels at imgsz={imgsz}.",
        f"{int((sides < SMALL).sum()):,} of {len(sides):,} boxes have a side below {SMALL:g} "
        f"pixels after resizing, half of them below {np.median(sides[sides < SMALL]):.1f}: "
        f"{examples}. The finest grid of a model has cells of 8 pixels.",
        knob,
        measured=True,
    )


def _classes(
    train: SplitLabels, val: SplitLabels | None, names: dict[int, str]
) -> Iterator[Finding]:
    counts = train.counts(len(names))
    total = int(counts.sum())
    if not total:
        return
    if val is not None and train.complete and len(val.cls):
        of_val = val.counts(len(names))
        unknown = np.flatnonzero((counts == 0) & (of_val > 0))
        share = int(of_val[unknown].sum()) / len(val.cls)
        if share > UNKNOWN:
            some = ", ".join(f"{names[int(c)]} ({of_val[c]:,} in val)" for c in unknown[:3])
            yield Finding(
                "class_imbalance",
                "risk",
                f"{len(unknown)} of {len(names)} classes are in val, and train has no object of "
                "them.",
                f"{some}{', …' if len(unknown) > 3 else ''}: {share:.1%} of the validation objects "
                "are of classes that training never shows; their AP stays 0.",
                Knob("Split the dataset anew, so that each class is in train.", {}),
                measured=True,
            )
    most = int(counts.argmax())
    share = int(counts[most]) / total
    present = int((counts > 0).sum())
    if present > 1 and share > ONE_CLASS:
        rare = sorted(np.flatnonzero(counts > 0), key=lambda c: counts[c])[:3]
        some = ", ".join(f"{names[int(c)]} {counts[c]:,}" for c in rare)
        yield Finding(
            "class_imbalance",
            "risk",
            f"{share:.1%} of the train objects are of one class, {names[most]}.",
            f"{counts[most]:,} of {total:,} objects are {names[most]}; the rarest of {present} "
            f"classes: {some}.",
            Knob(
                "Weigh rare classes more (cls_pw, the power of their inverse frequency), or add "
                "images of them.",
                {"cls_pw": 0.5},
            ),
            measured=True,
        )
