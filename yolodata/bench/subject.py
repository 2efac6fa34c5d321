"""What is measured: a `Row` says what it is, a `Task` on what, a `Subject` makes batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from yolodata.telemetry import Reading

Batch = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        id: what `--only` and the JSON file (`name`) call it.
        kind: which entry of `yolodata.bench.registry` opens it.
        label, short: what the table calls it, and what it is called as a peer.
        codec: where its pixels come from: "files" (JPEG files), "ram" (decoded, in memory), "jpeg"
            or "raw" (shards), "memory" (pictures that need nothing but copying).
        threads: native threads of yolodata, worker processes of Ultralytics (0: the consumer
            itself), copying threads.
        cores: how many cores the whole row may use, consumer included.
        peers: ids of the rows it is compared with, the one that matters most first.
        device: "cpu", or "cuda" for rows that deliver on a GPU.
        cache: where decoded pictures live for a row on a GPU, or from where a ceiling copies:
            "device", "host", "map" (shards that are page-locked where they are mapped) or "none".
        output: of the pictures made on a GPU: "uint8", or a kind of float in 0-1.
        ceiling: id of the row whose speed bounds this one; "" is none.
        albumentations: with what Ultralytics applies where that is installed. All other rows,
            Ultralytics' own too, are without.
        recipes: what the kernel renders, by the names of `kernel.RECIPES`.
        channels_last: memory order of the pictures made on a GPU.
        trains: whether a training step is taken on each batch.
    """

    id: str
    kind: str
    label: str
    short: str
    codec: str
    threads: int
    cores: int
    peers: tuple[str, ...] = ()
    device: str = "cpu"
    cache: str = "none"
    output: str = "uint8"
    ceiling: str = ""
    albumentations: bool = False
    recipes: str = "default"
    channels_last: bool = False
    trains: bool = False

    @property
    def source(self) -> str:
        """What it reads, by the names of `data.Prepared`.

        Batches on a GPU are larger, and Ultralytics starts no more workers than an epoch has
        batches: its decoded pictures, and therefore ours too, come from the longer dataset there.
        """
        if self.kind == "fixed":
            return "raw-many"
        longer = self.trains or (self.device != "cpu" and self.kind in ("yolodata", "ultralytics"))
        return f"{self.codec}-many" if longer and self.codec in ("raw", "ram") else self.codec

    @property
    def group(self) -> tuple[str, int]:
        """Device and cores; rows of one group are measured in the same rounds."""
        any_cores = self.device != "cpu" and not self.trains
        return (self.device, 0 if any_cores else self.cores)

    @property
    def process(self) -> str:
        """Rows of one process share it: a GPU has to hold one model only."""
        return f"train-{self.cores}" if self.trains else self.id


@dataclass(frozen=True)
class Task:
    """What a child process needs to know besides a row.

    Attributes:
        data: dataset YAML (Ultralytics) or dataset directory (yolodata).
        imgsz: side of the pictures.
        batch: pictures per batch.
        seed: of whatever is random.
        cores: numbers of the cores that may be used; empty: not pinned.
        device: where batches are delivered, in torch's words.
        task: whose labels are made, by Ultralytics' name.
        augment: what differs from Ultralytics' default augmentation, by its names.
        hw_decoder_load: of yolodata's loader and of DALI by itself.
        overrides: Ultralytics' arguments, of rows that train.
        cache: of yolodata's trainer.
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
    overrides: Mapping[str, Any] = field(default_factory=dict)
    cache: str = "auto"


def nothing() -> None:
    """What most subjects do to finish or to close."""


@dataclass
class Subject:
    """A loader of which batches can be taken one after another for ever.

    Attributes:
        batches: endless: at least `img` (B, 3, H, W); with objects, `batch_idx` (N,). Where there
            are `repeats` and `seconds`, it was made so often, and timed by a clock of its own.
        prefetched: batches that may be ready before they are asked for.
        warm_up: pictures after which its speed no longer changes.
        finish: waits until everything that was handed out is really there.
        read: stage times and counts so far.
        facts: constants worth printing.
        about: how batches are made, in words; asked for once there were some.
        prepare: what the trainer does with a batch before the model takes it.
        workers: processes that are stopped while it is not their turn.
        dataset: of the loader, for the trainer.
        close: stops threads and worker processes.
    """

    batches: Iterator[Batch]
    prefetched: int = 0
    warm_up: int = 0
    finish: Callable[[], None] = nothing
    read: Callable[[], Reading] = Reading
    facts: Callable[[], dict[str, float]] = dict
    about: Callable[[], str] = str
    prepare: Callable[[Batch], Batch] = dict
    workers: Callable[[], Sequence[Any]] = tuple
    dataset: Any = None
    close: Callable[[], None] = nothing


@dataclass(frozen=True)
class Sample:
    """One slice of a row.

    Attributes:
        pictures: handed to the consumer.
        seconds: wall time from the first to the last of them.
        stages_ms: milliseconds of all threads together a picture, by stage.
        counts: per picture, such as decodes.
        steps: batches that were taken.
        waited: seconds in which the consumer waited for a batch to be handed over.
        busy: share of the time in which the GPU computed; None where nobody can tell.
    """

    pictures: int
    seconds: float
    stages_ms: dict[str, float] = field(default_factory=dict)
    counts: dict[str, float] = field(default_factory=dict)
    steps: int = 0
    waited: float = 0.0
    busy: float | None = None

    @property
    def img_s(self) -> float:
        """Pictures a second."""
        return self.pictures / self.seconds

    @property
    def steps_s(self) -> float:
        """Steps a second."""
        return self.steps / self.seconds


@dataclass(frozen=True)
class Ready:
    """What a child knows of a row before the first slice.

    Attributes:
        shape: of a picture, (3, H, W).
        dtype: of a picture.
        brightness: of the first pictures, 0-255: mean, and standard error of the mean.
        objects: of the first pictures: mean number, and standard error of the mean; None where
            they cannot be counted.
        pinned: whether it stays on its cores.
        facts: constants worth printing.
        about: how batches are made, in words.
        process: of a training process: pinned; parameters of the model; optimizer that Ultralytics
            chose; amp; device_memory_gib that torch has taken, 0 on the CPU; busy, why there is no
            GPU busy share.
    """

    shape: tuple[int, ...]
    dtype: str
    brightness: tuple[float, float]
    objects: tuple[float, float] | None
    pinned: bool
    facts: dict[str, float]
    about: str = ""
    process: dict[str, Any] = field(default_factory=dict)


def whole_batches(loader: Any) -> Iterator[Batch]:
    """Batches of one epoch after another, of the loader's size: another one is another step."""
    while True:
        for batch in loader:
            if len(batch["img"]) == loader.batch_size:
                yield batch
