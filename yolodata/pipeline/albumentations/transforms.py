"""What Albumentations' transforms must be, what they draw from, and how one picture gets them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from yolodata.checks import shown
from yolodata.errors import ConfigError, YolodataError

Bytes = npt.NDArray[np.uint8]
_SLOT = 0xFFFF  # of draws that are not the plan's, which count their slots from 0 (plan.cpp)


def composed(transforms: Any) -> Any:
    """Returns one `albumentations.Compose`, with which samples can be made anew.

    Args:
        transforms: an `albumentations.Compose`, or a sequence of transforms.

    Raises:
        ConfigError: something in it is no transform or moves objects, or this version of
            Albumentations cannot be seeded.
    """
    import albumentations

    if isinstance(transforms, Sequence):
        for each in transforms:
            if not isinstance(each, (albumentations.BasicTransform, albumentations.BaseCompose)):
                raise ConfigError(
                    f"each of transforms must be a transform of Albumentations, got {shown(each)}"
                )
        transforms = albumentations.Compose(list(transforms))
    if not isinstance(transforms, albumentations.Compose):
        raise ConfigError(
            "transforms must be an albumentations.Compose or a list of transforms, got "
            f"{type(transforms).__name__}"
        )
    if not hasattr(transforms, "set_random_state"):
        raise ConfigError(
            f"Albumentations {albumentations.__version__} cannot be seeded for each sample; "
            "install version 1.4.21 or newer"
        )
    others = [
        type(leaf).__name__
        for leaf in leaves(transforms)
        if not isinstance(leaf, albumentations.ImageOnlyTransform)
    ]
    if others:
        raise ConfigError(
            "transforms must be of Albumentations' image-only kind, which leaves objects where "
            f"they are, got {', '.join(others)}; leave these out, which may move or remove objects"
        )
    return transforms


def described(transforms: Any) -> Any:
    """Returns what a composition is, as plain data: the same for the same transforms."""
    try:
        return transforms.to_dict()["transform"]
    except Exception:  # user functions cannot be written down
        return [type(leaf).__name__ for leaf in leaves(transforms)]


def seeds(seed: int, epoch: int, positions: npt.NDArray[np.int64]) -> list[int]:
    """Returns what transforms draw from, for samples of an epoch: a function of nothing else."""
    from yolodata import _native

    key = (seed & 0xFFFFFFFF, seed >> 32)
    return [
        _native.philox((_SLOT, epoch, at & 0xFFFFFFFF, at >> 32), key)[0]
        for at in positions.tolist()
    ]


def draw_from(transforms: Any, seed: int) -> None:
    """Has transforms draw from a seed, one after the other.

    Albumentations' own `set_random_seed` gives each of them generators of the same seed: what is
    applied to one picture in a hundred would be applied to the same picture in a hundred.
    """
    transforms.set_random_state(np.random.default_rng(seed), random.Random(seed))


def apply(transforms: Any, picture: Bytes, seed: int) -> Bytes:
    """Applies transforms to a picture.

    Args:
        transforms: from `composed`.
        picture: uint8 (H, W, 3) BGR, as upstream gives it to them; theirs from now on.
        seed: what they draw from.

    Returns:
        such a picture.

    Raises:
        YolodataError: a transform failed, or did not return such a picture.
    """
    draw_from(transforms, seed)
    try:
        result: Bytes = transforms(image=picture)["image"]
    except Exception as error:
        raise YolodataError(
            f"a transform failed: {type(error).__name__}: {error}; mend it, or leave it out"
        ) from error
    kind = (getattr(result, "dtype", type(result).__name__), getattr(result, "shape", ()))
    if kind != (picture.dtype, picture.shape):
        raise YolodataError(
            f"transforms must return uint8 {picture.shape}, got {kind[0]} {tuple(kind[1])}; leave "
            "out what normalises, resizes or makes tensors"
        )
    return result


def leaves(transform: Any) -> list[Any]:
    """Returns the transforms of a composition, without compositions."""
    import albumentations

    if isinstance(transform, albumentations.BaseCompose):
        return [leaf for inner in transform.transforms for leaf in leaves(inner)]
    return [transform]
