"""Kinds of augmentation that Ultralytics draws, in chains."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

GEOMETRY: dict[str, dict[str, Any]] = {
    "default": {},
    "no mosaic": {"mosaic": 0.0},
    "mosaic of nine": {"grid": 9},
    "rotation, shear": {"degrees": 20.0, "shear": 8.0},
    "perspective": {"perspective": 0.0005, "degrees": 5.0},
    "zoom pair, large shift": {"scale": (0.3, 2.0), "translate": 0.4},
    "flips, bgr": {"flipud": 0.5, "bgr": 0.5, "mosaic": 0.5},
}
# CutMix looks for a free place, which the default mosaic seldom leaves.
ROOM: dict[str, Any] = {"mosaic": 0.3, "translate": 0.6, "scale": (0.3, 1.5)}
COLOUR: dict[str, dict[str, Any]] = {
    "hsv": {},
    "hsv, mixup": {"mixup": 1.0},
    "hsv, cutmix": {"cutmix": 1.0, **ROOM},
    "hsv, mixup and cutmix": {"mixup": 1.0, "cutmix": 1.0, **ROOM},
    "everything": {
        "mixup": 0.5, "cutmix": 0.8, "degrees": 10.0, "shear": 3.0, "perspective": 0.0002,
        "flipud": 0.5, "bgr": 0.3, "hsv_h": 0.1, **ROOM,
    },
}  # fmt: skip
MIRRORED: dict[str, Any] = {"copy_paste": 0.6}
OTHERS: dict[str, Any] = {"copy_paste": 0.8, "copy_paste_mode": "mixup"}
PASTE: dict[str, dict[str, Any]] = {
    "mirrored": MIRRORED,
    "mirrored, no mosaic": {**MIRRORED, "mosaic": 0.0},
    "mirrored, rotation": {**MIRRORED, "degrees": 20.0, "shear": 8.0},
    "from another": OTHERS,
    "from another, perspective": {**OTHERS, "perspective": 0.0005, "mosaic": 0.5},
    "mirrored, everything": {**COLOUR["everything"], **MIRRORED},
    "from another, everything": {**COLOUR["everything"], **OTHERS},
}
MASKS: dict[str, dict[str, Any]] = {
    "one mask an object": {**MIRRORED, "overlap_mask": False, "mask_ratio": 2},
    "full size": {**MIRRORED, "mask_ratio": 1},
}
"""Kinds of augmentation, as changes of upstream's default arguments."""

CHAINS: dict[str, tuple[dict[str, Any], dict[str, dict[str, Any]]]] = {
    "geometry": ({"hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0}, GEOMETRY),
    "colour": ({}, COLOUR),
    "copy-paste": ({"hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0}, PASTE),
    "masks": ({}, MASKS),
}
VALIDATION: dict[str, dict[str, Any]] = {
    "default": {},
    "one mask an object": {"overlap_mask": False, "mask_ratio": 2},
    "full size": {"mask_ratio": 1},
    "a third": {"mask_ratio": 3},
}
"""Settings of validation batches; all but the first are about masks."""


def chains(task: str, polygons: bool) -> dict[str, Any]:
    """Returns the chains that mean something for a task: base settings, and settings by kind."""
    without = () if task == "segment" else ("masks",) if polygons else ("masks", "copy-paste")
    found = {name: chain for name, chain in CHAINS.items() if name not in without}
    if find_spec("albumentations") is not None:
        kind = {"augmentations": transforms(), **COLOUR["everything"]}
        found["albumentations"] = ({}, {"transforms, everything": kind})
    return found


def transforms() -> list[Any]:
    """Returns Albumentations' transforms of many kinds, each likely to be applied."""
    import albumentations as A

    return [
        A.OneOf([A.Blur(p=1.0), A.MedianBlur(p=1.0)], p=0.5),
        A.CLAHE(p=0.5),
        A.ToGray(p=0.2),
        A.RandomBrightnessContrast(p=0.5),
        A.ImageCompression(quality_range=(40, 90), p=0.5),
        A.GaussNoise(p=0.5),
    ]
