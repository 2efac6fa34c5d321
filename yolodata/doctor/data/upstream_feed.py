"""Ultralytics' own training loader, over images that lie here or there, or are decoded already."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from ultralytics.data.build import build_dataloader, build_yolo_dataset

from yolodata.doctor.data.pace import Batch
from yolodata.doctor.machine.shared_memory import Queue, require
from yolodata.doctor.setup import Setup
from yolodata.doctor.step import quiet
from yolodata.machine import ranks_here
from yolodata.ultralytics.command_line import refusals_as_errors

_PREFETCH = 2  # batches a worker; upstream's 4 would only take longer to drop


@dataclass
class UpstreamFeed:
    """See `Feed`."""

    batches: Iterator[Batch]
    prefetched: int
    producers: int
    loader: Any

    def close(self) -> None:
        """Ends the workers."""
        self.loader.close()


class UpstreamData:
    """A dataset of Ultralytics', built over a few copied images.

    Building one reads every image and writes a cache beside the labels. So it is built over copies,
    and is then told of other files. Labels are those of the copies, in turn.

    Args:
        setup: arguments of the loader.
        data: what `check_det_dataset` returned.
        task: of the model.
        images: folder with the copies, whose labels lie beside it.
        count: images that it is told of.
    """

    def __init__(
        self, setup: Setup, data: Mapping[str, Any], task: str, images: Path, count: int
    ) -> None:
        arguments = copy(setup.train)
        arguments.task, arguments.cache, arguments.fraction = task, False, 1.0
        with quiet(), refusals_as_errors():
            self._built: Any = build_yolo_dataset(
                arguments, str(images), setup.batch, dict(data), mode="train", stride=32
            )
        self._arguments, self._setup, self._count = arguments, setup, count

    def over(self, files: Sequence[str | Path]) -> Any:
        """Returns the dataset over other files, repeated until they are as many as the images."""
        return self._told(files, self._count)

    def decoded(self) -> Any:
        """Returns the dataset over the copies, which are decoded already (`cache=ram`)."""
        built = self._built
        pictures = [built.load_image(i) for i in range(len(built.im_files))]
        dataset = self._told(built.im_files, self._count)
        for name, values in zip(
            ("ims", "im_hw0", "im_hw"), zip(*pictures, strict=True), strict=True
        ):
            setattr(dataset, name, _repeated(values, self._count))
        self._forget_pictures(built)
        dataset.cache = "ram"
        self._transform(dataset)
        return dataset

    def _told(self, files: Sequence[str | Path], count: int) -> Any:
        dataset = copy(self._built)
        names = _repeated([str(file) for file in files], count)
        dataset.im_files = names
        # No image has a decoded copy beside it: that would be another loader.
        nowhere = Path("/nonexistent.npy")
        dataset.npy_files = [nowhere] * count
        dataset.labels = _repeated(self._built.labels, count)
        dataset.ni, dataset.indices = count, range(count)
        self._forget_pictures(dataset)
        dataset.max_buffer_length = min(count, self._setup.batch * 8, 1000)
        self._transform(dataset)
        return dataset

    def _transform(self, dataset: Any) -> None:
        with quiet():
            dataset.transforms = dataset.build_transforms(hyp=copy(self._arguments))

    @staticmethod
    def _forget_pictures(dataset: Any) -> None:
        count = len(dataset.im_files)
        dataset.ims, dataset.im_hw0, dataset.im_hw = ([None] * count for _ in range(3))
        dataset.buffer = []


@contextmanager
def opened(
    dataset: Any, setup: Setup, workers: int, device: torch.device
) -> Iterator[UpstreamFeed]:
    """Opens Ultralytics' loader over a dataset, and closes it.

    Args:
        dataset: of `UpstreamData`.
        setup: gives the batch size, and the seed of the order.
        workers: processes, as upstream is told; it takes no more than the machine has cores.
        device: of the consumer.

    Raises:
        OSError: shared memory does not hold the batches of the workers.
    """
    torch.manual_seed(setup.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loader = build_dataloader(
            dataset, setup.batch, workers, shuffle=True, rank=-1, device=device
        )
    count = int(loader.num_workers)
    if count:
        pictures = setup.batch * 3 * setup.imgsz**2
        require(Queue(count, pictures, ranks_here(), device.type == "cuda", _PREFETCH))
        loader.prefetch_factor = _PREFETCH

    def endless() -> Iterator[Batch]:
        with warnings.catch_warnings():  # torch warns of more workers than cores
            warnings.simplefilter("ignore")
            batches = iter(loader)
            yield next(batches)
        yield from batches
        while True:
            yield from loader

    feed = UpstreamFeed(endless(), count * _PREFETCH if count else 0, count, loader)
    # A training pays once for what a worker does for the first time, a measurement of a few batches
    # each time. The first collection copies the memory of all objects that came with the fork.
    gc.collect()
    gc.freeze()
    _build_colour_tables()
    try:
        yield feed
    finally:
        feed.close()
        gc.unfreeze()


def _build_colour_tables() -> None:
    """Has OpenCV build its tables of L*a*b*, as the first image with CLAHE does in each process.

    That takes 90 ms, as long as ten images. Processes that are forked later have them.
    """
    cv2.cvtColor(np.zeros((1, 1, 3), np.uint8), cv2.COLOR_RGB2LAB)


def _repeated(values: Sequence[Any], count: int) -> list[Any]:
    turns = -(-count // len(values))
    return (list(values) * turns)[:count]
