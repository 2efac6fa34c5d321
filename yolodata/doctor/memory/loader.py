"""What the loader takes of the host's memory: looked at while it makes batches."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from yolodata.doctor.data.experiments import Change, ExaminedLoader
from yolodata.doctor.data.loaders import FileLoader, ShardLoader
from yolodata.doctor.data.pace import Feed
from yolodata.doctor.memory.process import anonymous_bytes
from yolodata.doctor.setup import Setup
from yolodata.doctor.step import ModelStep
from yolodata.machine import give_back_memory


@dataclass(frozen=True)
class LoaderMemory:
    """Memory of a loader that no file backs.

    Attributes:
        seen: bytes that this process keeps between batches, and that the loader's own have.
        to_come: bytes of pictures that the loader will keep, and had not made yet; calculated.
        processes: of the loader.
    """

    seen: int
    to_come: int
    processes: int

    @property
    def bytes(self) -> int:
        """All of it."""
        return self.seen + self.to_come


def loader_memory(
    setup: Setup, data: Mapping[str, Any], step: ModelStep, seconds: float
) -> LoaderMemory:
    """Opens the loader over a copied sample, and looks at what it takes.

    Args:
        setup: what is examined.
        data: what `check_det_dataset` returned.
        step: tells the task and the device.
        seconds: about how long it may take.

    Raises:
        DatasetError: no image can be read.
        OSError: this system does not say what a process takes.
    """
    task = str(step.trainer.args.task)
    with tempfile.TemporaryDirectory(prefix="yolodata-doctor-") as folder:
        loader: ExaminedLoader
        if setup.of_shards:
            loader = ShardLoader(setup, data, task, step, Path(folder))
        else:
            loader = FileLoader(setup, data, task, step, Path(folder), seconds / 4)
        end = time.monotonic() + seconds * 3 / 4
        give_back_memory()
        before = anonymous_bytes()
        with loader.opened(Change()) as feed:
            made = 0
            while made < 2 or time.monotonic() < end:
                next(feed.batches)
                made += 1
                if made >= feed.prefetched + 8:  # as many as Ultralytics keeps pictures of
                    break
            children = psutil.Process().children(recursive=True)
            give_back_memory()  # what was for a batch alone is free again in a step
            seen = anonymous_bytes() - before + sum(map(_own_bytes, children))
            missing = _missing_pictures(feed, made * setup.batch)
            to_come = missing * 3 * setup.imgsz**2
        return LoaderMemory(max(seen, 0), to_come, len(children))


def _own_bytes(process: psutil.Process) -> int:
    """Bytes that would be free if the process ended; those that it shares are its parent's."""
    try:
        return int(process.memory_full_info().uss)
    except psutil.Error:  # it has ended
        return 0


def _missing_pictures(feed: Feed, made: int) -> int:
    """Pictures that Ultralytics' datasets will keep for mosaics, and have not read yet."""
    dataset = getattr(feed.loader, "dataset", None)  # type: ignore[attr-defined]
    kept = int(getattr(dataset, "max_buffer_length", 0))
    copies = max(feed.producers, 1)
    return max(kept * copies - made, 0)
