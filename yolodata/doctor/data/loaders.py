"""The loaders of the experiments: Ultralytics' own over image files, ours over shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from yolodata.doctor.data import sample, shard_feed, upstream_feed
from yolodata.doctor.data.experiments import Change
from yolodata.doctor.data.pace import Feed
from yolodata.doctor.setup import Setup
from yolodata.doctor.step import Step, WaitingStep
from yolodata.errors import DatasetError
from yolodata.ingest.yolo import open_yolo
from yolodata.machine import ranks_here
from yolodata.shards import open as open_shards
from yolodata.ultralytics.dataset import loader_threads

_COLD = 2000  # images that are dropped from memory
_SIDE_OF_PROGRESSIVE = 0.3  # share of images from which it is worth a try
_SHARE_OF_LARGE = 0.3


class FileLoader:
    """Image files with Ultralytics' loader, or with ours over shards of a sample.

    Args:
        setup: what is examined.
        data: what `check_det_dataset` returned.
        task: of the model.
        step: tells where it trains.
        folder: for copies.
        seconds: that copying may take.

    Raises:
        DatasetError: the dataset has no image that can be read.
    """

    def __init__(
        self,
        setup: Setup,
        data: Mapping[str, Any],
        task: str,
        step: Step,
        folder: Path,
        seconds: float,
    ) -> None:
        self._setup, self._data, self._task, self._folder = setup, data, task, folder
        self._device = step.device
        paths = open_yolo(data, ["train"]).splits["train"].paths
        self.images = len(paths)
        self._told = sample.told(paths, setup.seed)
        self._copies = sample.copy(paths, folder / "copies", setup.seed, seconds)
        if not self._copies.files:
            raise DatasetError(
                f"{setup.data}: not one image of 'train' can be read; restore them, or give "
                "another dataset"
            )
        self.nbytes = float(np.mean(self._copies.nbytes))
        self.read_ms = self._copies.read_ms
        self.looks: sample.Looks | None = sample.look(self._copies.files, setup.imgsz)
        self._ours = setup.examined_loader == "yolodata"
        self._shards: dict[str, Path] = {}  # of the sample, by codec
        self._threads = threads_of(setup, step)
        # As upstream does, which leaves the processor to a model that trains on it.
        waits = isinstance(step, WaitingStep) or step.device.type == "cuda"
        self.workers = self._threads if self._ours else int(setup.train.workers) if waits else 0

    @cached_property
    def _upstream(self) -> upstream_feed.UpstreamData:
        return upstream_feed.UpstreamData(
            self._setup, self._data, self._task, self._folder / "copies" / "images",
            len(self._told),
        )  # fmt: skip

    def changes(self) -> list[str]:
        """See `ExaminedLoader`."""
        if self._ours:
            return ["raw"] if self._setup.ours.codec == "jpeg" else []
        found = []
        if self.looks and self.looks.progressive > _SIDE_OF_PROGRESSIVE:
            found.append("baseline")
        if self.looks and self.looks.large > _SHARE_OF_LARGE:
            found.append("small")
        return [*found, "yolodata", "decoded"]

    @contextmanager
    def opened(self, change: Change) -> Iterator[Feed]:
        """See `ExaminedLoader`."""
        with ExitStack() as stack:
            if self._ours or change.name == "yolodata":
                threads = change.workers if self._ours and change.workers else self._threads
                feed: Feed = stack.enter_context(
                    shard_feed.opened(
                        self._packed(change), self._setup, self._task, threads, self._device
                    )
                )
            else:
                workers = self.workers if change.workers is None else change.workers
                feed = stack.enter_context(
                    upstream_feed.opened(self._dataset(change), self._setup, workers, self._device)
                )
            yield feed

    def _dataset(self, change: Change) -> Any:
        copies = self._copies.files
        if change.name == "decoded":
            return self._upstream.decoded()
        if change.name == "baseline":
            return self._upstream.over(sample.as_baseline(copies, self._folder / "baseline"))
        if change.name == "small":
            small = sample.as_small(copies, self._folder / "small", self._setup.imgsz)
            return self._upstream.over(small)
        if not change.cold:
            return self._upstream.over(copies)
        return self._upstream.over(self._forgotten())

    def _forgotten(self) -> list[str]:
        """Originals that are not in memory."""
        rng = np.random.default_rng(self._setup.seed + 1)
        chosen = rng.permutation(len(self._told))[:_COLD]
        files = sample.readable([self._told[i] for i in chosen])
        sample.forget(files)
        return files or [str(file) for file in self._copies.files]

    def _packed(self, change: Change) -> Path:
        """Shards of the sample: raw ones, unless our loader as it is was asked for JPEG files."""
        jpeg = self._ours and change.name != "raw" and self._setup.ours.codec == "jpeg"
        codec = "jpeg" if jpeg else "raw"
        if codec not in self._shards:
            self._shards[codec] = shard_feed.pack_sample(
                self._folder / "copies", self._data, self._folder / codec, self._setup,
                self._task, codec,
            )  # fmt: skip
        return self._shards[codec]


class ShardLoader:
    """Shards with our loader.

    Args: see `FileLoader`.
    """

    looks: sample.Looks | None = None
    read_ms = 0.0

    def __init__(
        self, setup: Setup, data: Mapping[str, Any], task: str, step: Step, folder: Path
    ) -> None:
        self._setup, self._data, self._task, self._folder = setup, data, task, folder
        self._device = step.device
        self._shards = open_shards(setup.data, split="train")
        self.images = len(self._shards)
        self.nbytes = float(np.mean(self._shards.nbytes))
        self.workers = threads_of(setup, step)

    def changes(self) -> list[str]:
        """See `ExaminedLoader`."""
        return ["raw"] if self._shards.meta.codec == "jpeg" else []

    @contextmanager
    def opened(self, change: Change) -> Iterator[Feed]:
        """See `ExaminedLoader`."""
        shards = self._raw if change.name == "raw" else self._shards
        if change.cold:
            sample.forget(sorted(self._shards.path.glob("*.safetensors")))
        threads = change.workers or self.workers
        # The stream repeats itself: what the first one reads, the next one finds in memory.
        with shard_feed.opened(shards, self._setup, self._task, threads, self._device) as feed:
            yield feed

    @cached_property
    def _raw(self) -> Path:
        shard_feed.save_images(self._shards, self._folder / "copies", 48, self._setup.seed)
        return shard_feed.pack_sample(
            self._folder / "copies", self._data, self._folder / "raw", self._setup, "detect", "raw"
        )


def threads_of(setup: Setup, step: Step) -> int:
    """Native threads of our loader as our trainer would choose them; a wait stands for a GPU."""
    kind = "cuda" if isinstance(step, WaitingStep) else step.device.type
    return loader_threads(setup.ours, kind, int(setup.train.workers), ranks_here())
