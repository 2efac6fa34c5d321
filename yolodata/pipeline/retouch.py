"""Albumentations' transforms, where upstream applies them: on pictures that are placed and mixed,
before colour jitter and flips.

They are Python, and the one step of a sample that is not native. A pool of threads takes those
samples through all three steps in which a transform fires; the first and the last, and OpenCV in
the middle, run without the GIL. All others are rendered like samples without transforms.
"""

from __future__ import annotations

import copy
import queue
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from yolodata.errors import ConfigError, YolodataError
from yolodata.pipeline.firing import Firing, leaves
from yolodata.telemetry import Telemetry

if TYPE_CHECKING:
    from yolodata._native import Recipe

Bytes = npt.NDArray[np.uint8]
T = TypeVar("T")

_SLOT = 0xFFFF  # of draws that are not the plan's, which count their slots from 0 (plan.cpp)


def composed(transforms: Any) -> Any:
    """One `albumentations.Compose` of what a user gave, which samples can be made anew with.

    Args:
        transforms: an `albumentations.Compose`, or a sequence of transforms.

    Raises:
        ConfigError: something in it is no transform or moves objects, or this version of
            Albumentations cannot be seeded.
    """
    import albumentations

    if isinstance(transforms, Sequence):
        transforms = albumentations.Compose(list(transforms))
    if not isinstance(transforms, albumentations.Compose):
        raise ConfigError(
            "transforms must be an albumentations.Compose or a list of transforms, got "
            f"{type(transforms).__name__}"
        )
    if not hasattr(transforms, "set_random_state"):
        raise ConfigError(
            f"Albumentations {albumentations.__version__} cannot be seeded for each sample; "
            "version 1.4.21 or newer is needed"
        )
    others = [
        type(leaf).__name__
        for leaf in leaves(transforms)
        if not isinstance(leaf, albumentations.ImageOnlyTransform)
    ]
    if others:
        raise ConfigError(
            "transforms must be of Albumentations' image-only kind, which leaves objects where "
            f"they are; {', '.join(others)} may move or remove them"
        )
    return transforms


def described(transforms: Any) -> Any:
    """What a composition is, as plain data: the same for the same transforms."""
    try:
        return transforms.to_dict()["transform"]
    except Exception:  # user functions cannot be written down
        return [type(leaf).__name__ for leaf in leaves(transforms)]


def seeds(seed: int, epoch: int, positions: npt.NDArray[np.int64]) -> list[int]:
    """What transforms draw from, for samples of an epoch: a function of nothing else."""
    from yolodata import _native

    key = (seed & 0xFFFFFFFF, seed >> 32)
    return [
        _native.philox((_SLOT, epoch, at & 0xFFFFFFFF, at >> 32), key)[0]
        for at in positions.tolist()
    ]


def draw_from(transforms: Any, seed: int) -> None:
    """Have transforms draw from a seed, one after the other.

    Albumentations' own `set_random_seed` gives each of them generators of the same seed: what is
    applied to one picture in a hundred would be applied to the same picture in a hundred.
    """
    transforms.set_random_state(np.random.default_rng(seed), random.Random(seed))


def changed(transforms: Any, picture: Bytes, seed: int) -> Bytes:
    """Apply transforms to a picture.

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
        raise YolodataError(f"a transform failed: {type(error).__name__}: {error}") from error
    kind = (getattr(result, "dtype", type(result).__name__), getattr(result, "shape", ()))
    if kind != (picture.dtype, picture.shape):
        raise YolodataError(
            f"transforms must return uint8 {picture.shape}, got {kind[0]} {tuple(kind[1])}; leave "
            "out what normalises, resizes or makes tensors"
        )
    return result


class Retouching:
    """A batch on its way; used like a native job."""

    def __init__(self, samples: list[Future[dict[str, float]]]) -> None:
        self._samples = samples

    def wait(self, timeout: float | None = None) -> bool:
        """Whether all is done; raises what went wrong."""
        if wait(self._samples, timeout).not_done:
            return False
        for sample in self._samples:
            sample.result()
        return True

    def done(self) -> bool:
        """Whether no thread touches the batch any more."""
        return all(sample.done() for sample in self._samples)

    def cancel(self) -> None:
        """Drop what has not begun."""
        for sample in self._samples:
            sample.cancel()

    def seconds(self) -> dict[str, float]:
        """Thread-seconds of "render" and "retouch"."""
        total = {"render": 0.0, "retouch": 0.0}
        for sample in self._samples:
            for stage, seconds in sample.result().items():
                total[stage] += seconds
        return total


class Retoucher:
    """The threads that transforms run on.

    Args:
        transforms: from `composed`; every thread gets a copy, because they carry their generators.
        threads: how many samples at once.
        telemetry: counts "retouched" samples.
        on_device: whether a device applies those transforms that it can.
    """

    def __init__(
        self, transforms: Any, threads: int, telemetry: Telemetry, on_device: bool = False
    ) -> None:
        self.firing = Firing(transforms, on_device)
        self._telemetry = telemetry
        self._copies: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(threads):
            self._copies.put(copy.deepcopy(transforms))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="yolodata-retouch")

    def submit(
        self,
        recipes: Sequence[Recipe],
        pictures: Mapping[int, Bytes],
        outs: Sequence[Bytes],
        seeds: Sequence[int],
    ) -> Retouching:
        """Start samples of a batch.

        Args:
            recipes: K samples.
            pictures: of all of them, by dataset index, uint8 (H, W, 3) RGB.
            outs: K times uint8 (3, H, W); filled when the result is done.
            seeds: K numbers of 32 bits.
        """

        def start(recipe: Recipe, out: Bytes, seed: int) -> Future[dict[str, float]]:
            return self.run(lambda transforms: retouched(recipe, pictures, out, transforms, seed))

        return Retouching([start(*sample) for sample in zip(recipes, outs, seeds, strict=True)])

    def run(self, sample: Callable[[Any], T]) -> Future[T]:
        """Have a thread call `sample` with transforms that are its own meanwhile."""
        return self._pool.submit(self._run, sample)

    def _run(self, sample: Callable[[Any], T]) -> T:
        transforms = self._copies.get()
        try:
            return sample(transforms)
        finally:
            self._copies.put(transforms)
            self._telemetry.count("retouched")

    def close(self) -> None:
        """Stop, after the samples that have begun."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def retouched(
    recipe: Recipe, pictures: Mapping[int, Bytes], out: Bytes, transforms: Any, seed: int
) -> dict[str, float]:
    """Render a sample with transforms in its middle.

    Args:
        recipe: what to render.
        pictures: as for `yolodata.render`.
        out: uint8 (3, H, W) to fill.
        transforms: from `composed`.
        seed: what they draw from.

    Returns:
        seconds of "render" and "retouch".

    Raises:
        YolodataError: see `changed`.
    """
    import cv2

    from yolodata import _native

    start = time.thread_time()
    placed, finished = _native.split_colour(recipe)
    _native.render(placed, dict(pictures), out=out)
    rendered = time.thread_time()
    # New memory: a transform may keep what it was given.
    picture = changed(transforms, cv2.merge((out[2], out[1], out[0])), seed)
    picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    back = time.thread_time()
    _native.render(finished, {0: picture}, out=out)
    total = time.thread_time() - start
    return {"retouch": back - rendered, "render": total - (back - rendered)}
