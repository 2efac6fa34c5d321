"""Samples that Albumentations changes on the CPU: a pool of threads takes them through.

Upstream applies the transforms to pictures that are placed and mixed, before colour jitter and
flips. They are Python, and the one step of a sample that is not native. A thread renders the first
half of the sample, applies them, and renders the second half; all but Python runs without the GIL.
Samples on which no transform fires are rendered like samples without transforms.
"""

from __future__ import annotations

import copy
import queue
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import numpy.typing as npt

from yolodata.pipeline.albumentations.decisions import Decisions
from yolodata.pipeline.albumentations.transforms import apply
from yolodata.telemetry import Telemetry

if TYPE_CHECKING:
    from yolodata._native import Recipe

Bytes = npt.NDArray[np.uint8]
T = TypeVar("T")


class TransformJob:
    """A batch on its way; used like a native job."""

    def __init__(self, samples: list[Future[dict[str, float]]]) -> None:
        self._samples = samples

    def wait(self, timeout: float | None = None) -> bool:
        """Returns whether all is done; raises what went wrong."""
        if wait(self._samples, timeout).not_done:
            return False
        for sample in self._samples:
            sample.result()
        return True

    def done(self) -> bool:
        """Returns whether no thread touches the batch any more."""
        return all(sample.done() for sample in self._samples)

    def cancel(self) -> None:
        """Drops what has not begun."""
        for sample in self._samples:
            sample.cancel()

    def seconds(self) -> dict[str, float]:
        """Returns thread-seconds of "render" and "transform"."""
        total = {"render": 0.0, "transform": 0.0}
        for sample in self._samples:
            for stage, seconds in sample.result().items():
                total[stage] += seconds
        return total


class TransformPool:
    """The threads that transforms run on.

    Args:
        transforms: from `composed`; every thread gets a copy, because they carry their generators.
        threads: how many samples at once.
        telemetry: counts "transformed" samples.
        on_device: whether a device applies those transforms that it can.
        begin: what each thread does first.
    """

    def __init__(
        self,
        transforms: Any,
        threads: int,
        telemetry: Telemetry,
        on_device: bool = False,
        begin: Callable[[], None] | None = None,
    ) -> None:
        self.decisions = Decisions(transforms, on_device)
        self._telemetry = telemetry
        self._copies: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(threads):
            self._copies.put(copy.deepcopy(transforms))
        self._pool = ThreadPoolExecutor(threads, "yolodata-transform", begin)

    def submit(
        self,
        recipes: Sequence[Recipe],
        pictures: Mapping[int, Bytes],
        outs: Sequence[Bytes],
        seeds: Sequence[int],
    ) -> TransformJob:
        """Starts samples of a batch.

        Args:
            recipes: K samples.
            pictures: of all of them, by dataset index, uint8 (H, W, 3) RGB.
            outs: K times uint8 (3, H, W); filled when the result is done.
            seeds: K numbers of 32 bits.
        """

        def start(recipe: Recipe, out: Bytes, seed: int) -> Future[dict[str, float]]:
            return self.run(
                lambda transforms: render_with_transforms(recipe, pictures, out, transforms, seed)
            )

        return TransformJob([start(*sample) for sample in zip(recipes, outs, seeds, strict=True)])

    def run(self, sample: Callable[[Any], T]) -> Future[T]:
        """Has a thread call `sample` with transforms that are its own meanwhile."""
        return self._pool.submit(self._run, sample)

    def _run(self, sample: Callable[[Any], T]) -> T:
        transforms = self._copies.get()
        try:
            return sample(transforms)
        finally:
            self._copies.put(transforms)
            self._telemetry.count("transformed")

    def close(self) -> None:
        """Stops, after the samples that have begun."""
        self._pool.shutdown(wait=True, cancel_futures=True)


def render_with_transforms(
    recipe: Recipe, pictures: Mapping[int, Bytes], out: Bytes, transforms: Any, seed: int
) -> dict[str, float]:
    """Renders a sample with transforms in its middle.

    Args:
        recipe: what to render.
        pictures: as for `yolodata.render`.
        out: uint8 (3, H, W) to fill.
        transforms: from `composed`.
        seed: what they draw from.

    Returns:
        seconds of "render" and "transform".

    Raises:
        YolodataError: see `yolodata.pipeline.albumentations.transforms.apply`.
    """
    import cv2

    from yolodata import _native

    start = time.thread_time()
    placed, finished = _native.split_colour(recipe)
    _native.render(placed, dict(pictures), out=out)
    rendered = time.thread_time()
    # New memory: a transform may keep what it was given.
    picture = apply(transforms, cv2.merge((out[2], out[1], out[0])), seed)
    picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
    back = time.thread_time()
    _native.render(finished, {0: picture}, out=out)
    total = time.thread_time() - start
    return {"transform": back - rendered, "render": total - (back - rendered)}
