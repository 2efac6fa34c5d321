"""The loaders that are measured, each behind the same few methods. Runs in a child process."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yolodata.bench.rows import Row
from yolodata.errors import ConfigError
from yolodata.telemetry import Reading


@dataclass(frozen=True)
class Task:
    """What a child needs to know besides its row.

    Attributes:
        data: dataset YAML (Ultralytics) or dataset directory (yolodata).
        imgsz: side of the pictures.
        batch: pictures per batch.
        seed: of whatever is random.
        cores: numbers of the cores that may be used; empty: not pinned.
        device: where batches are delivered, in torch's words.
        task: whose labels are made, by Ultralytics' name.
        hw_decoder_load: of yolodata's loader and of DALI by itself.
        augment: what differs from Ultralytics' default augmentation, by its names.
    """

    data: Path | None
    imgsz: int
    batch: int
    seed: int
    cores: tuple[int, ...] = ()
    device: str = "cpu"
    task: str = "detect"
    augment: Mapping[str, Any] = field(default_factory=dict)
    hw_decoder_load: float | str = "auto"


class Subject(ABC):
    """A loader of which batches can be taken one after another for ever.

    Attributes:
        ahead: batches that may be ready before they are asked for.
        warm_up: pictures after which its speed no longer changes.
    """

    ahead: int = 0
    warm_up: int = 0

    @abstractmethod
    def batches(self) -> Iterator[dict[str, Any]]:
        """Endless batches: at least `img` (B, 3, H, W); with objects, `batch_idx` (N,).

        A batch that has `seconds` was timed by a clock of its own, which counts instead of the
        consumer's.
        """

    def finish(self) -> None:  # noqa: B027 - most have nothing to do
        """Wait until everything that was handed out is really there."""

    def read(self) -> Reading:
        """Stage times and counts so far."""
        return Reading()

    def facts(self) -> dict[str, float]:
        """Constants worth printing."""
        return {}

    def close(self) -> None:  # noqa: B027 - most have nothing to do
        """Stop threads and worker processes."""


def _ultralytics(row: Row, task: Task) -> Subject:
    from yolodata.bench.loader_ultralytics import UltralyticsLoader

    return UltralyticsLoader(row, task)


def _yolodata(row: Row, task: Task) -> Subject:
    from yolodata.bench.loader_yolodata import YolodataLoader

    return YolodataLoader(row, task)


def _copy(row: Row, task: Task) -> Subject:
    from yolodata.bench.copy_bound import Copying

    return Copying(row, task)


def _gpu_copy(row: Row, task: Task) -> Subject:
    from yolodata.bench.gpu import Transfer

    return Transfer(row, task)


def _gpu_kernel(row: Row, task: Task) -> Subject:
    from yolodata.bench.kernel import Kernel

    return Kernel(row, task)


def _gpu_decode(row: Row, task: Task) -> Subject:
    from yolodata.bench.gpu import Decoding

    return Decoding(row, task)


MAKERS: dict[str, Callable[[Row, Task], Subject]] = {
    "ultralytics": _ultralytics,
    "yolodata": _yolodata,
    "copy": _copy,
    "gpu-copy": _gpu_copy,
    "gpu-kernel": _gpu_kernel,
    "gpu-decode": _gpu_decode,
}


def make(row: Row, task: Task) -> Subject:
    """Build what a row measures.

    Raises:
        ConfigError: nobody knows its kind.
    """
    if row.kind not in MAKERS:
        raise ConfigError(f"row {row.id!r} is of kind {row.kind!r}; kinds are {', '.join(MAKERS)}")
    return MAKERS[row.kind](row, task)
