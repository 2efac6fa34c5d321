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
    """One line of the table."""

    id: str  # what `--only` and the JSON file (`name`) call it
    kind: str  # who opens it, see `registry`
    label: str  # what the table calls it
    short: str  # what it is called as a peer
    # Where its pixels come from: "files" (JPEG files), "ram" (decoded, in memory), "jpeg" or "raw"
    # (shards), "memory" (pictures that need nothing but copying).
    codec: str
    # Native threads of yolodata, worker processes of Ultralytics (0: the consumer itself), copying
    # threads.
    threads: int
    cores: int  # that the whole row may use, consumer included
    peers: tuple[str, ...] = ()  # ids of rows to compare with, the one that matters most first
    device: str = "cpu"  # or "cuda", for rows that deliver on a GPU
    # Where decoded pictures live for a row on a GPU, or from where a ceiling copies: "device",
    # "host", "map" (shards, page-locked where they are mapped) or "none".
    cache: str = "none"
    output: str = "uint8"  # of pictures made on a GPU: or a kind of float in 0-1
    ceiling: str = ""  # id of the row whose speed bounds this one
    # With what Ultralytics applies where it is installed; no other row is, its own included.
    albumentations: bool = False
    labels: str = "boxes"  # of drawn pictures: or "polygons"
    differs: str = ""  # from the recipe of the other rows, and how; what it leaves out
    recipes: str = "default"  # what the kernel renders, by the names of `kernel.RECIPES`
    channels_last: bool = False  # memory order of the pictures made on a GPU
    trains: bool = False  # whether a training step is taken on each batch

    @property
    def source(self) -> str:
        """What it reads, by the names of `data.Prepared`.

        Batches on a GPU are larger, and Ultralytics starts no more workers than an epoch has
        batches: its decoded pictures, and therefore ours too, come from the longer dataset there.
        """
        if self.kind == "fixed":
            return "raw-many"
        longer = self.trains or (self.device != "cpu" and self.kind in ("yolodata", "ultralytics"))
        name = f"{self.codec}-many" if longer and self.codec in ("raw", "ram") else self.codec
        return name if self.labels == "boxes" else f"{name}-{self.labels}"

    @property
    def group(self) -> tuple[str, int, str]:
        """Device, cores and labels; rows of one group are measured in the same rounds."""
        any_cores = self.device != "cpu" and not self.trains
        return (self.device, 0 if any_cores else self.cores, self.labels)

    @property
    def starts_slowly(self) -> bool:
        """Whether it may cache pictures, write files or start workers before its first batch."""
        return self.kind == "ultralytics" or self.kind.startswith("peer-")

    @property
    def process(self) -> str:
        """Rows of one process share it: a GPU has to hold one model only."""
        return f"train-{self.cores}" if self.trains else self.id


@dataclass(frozen=True)
class Task:
    """What a child process needs to know besides a row."""

    data: Path | None  # dataset YAML (Ultralytics) or dataset directory (yolodata)
    imgsz: int  # side of the pictures
    batch: int  # pictures a batch
    seed: int
    cores: tuple[int, ...] = ()  # numbers of those that may be used; none: not pinned
    device: str = "cpu"  # where batches are delivered, in torch's words
    task: str = "detect"  # whose labels are made, by Ultralytics' name
    # What differs from Ultralytics' default augmentation, by its names.
    augment: Mapping[str, Any] = field(default_factory=dict)
    hw_decoder_load: float | str = "auto"  # of yolodata's loader and of DALI by itself
    overrides: Mapping[str, Any] = field(default_factory=dict)  # Ultralytics' arguments in training
    cache: str = "auto"  # of yolodata's trainer


Jobs = Sequence[tuple[Row, Task]]


def nothing() -> None:
    """What most subjects do to finish or to close."""


@dataclass
class Subject:
    """A loader of which batches can be taken one after another for ever."""

    # Endless: at least `img` (B, 3, H, W); with objects, `batch_idx` (N,). Where there are
    # `repeats` and `seconds`, it was made so often, and timed by a clock of its own.
    batches: Iterator[Batch]
    prefetched: int = 0  # batches that may be ready before they are asked for
    warm_up: int = 0  # pictures after which its speed no longer changes
    finish: Callable[[], None] = nothing  # waits until what was handed out is really there
    read: Callable[[], Reading] = Reading  # stage times and counts so far
    facts: Callable[[], dict[str, float]] = dict  # constants worth printing
    about: Callable[[], str] = str  # how batches are made; asked for once there were some
    prepare: Callable[[Batch], Batch] = dict  # what the trainer does before the model takes it
    workers: Callable[[], Sequence[Any]] = tuple  # processes, stopped while it is not their turn
    dataset: Any = None  # of the loader, for the trainer
    close: Callable[[], None] = nothing  # stops threads and worker processes


@dataclass(frozen=True)
class Sample:
    """One slice of a row."""

    pictures: int  # handed to the consumer
    seconds: float  # wall time from the first to the last of them
    stages_ms: dict[str, float] = field(default_factory=dict)  # all threads together, a picture
    counts: dict[str, float] = field(default_factory=dict)  # a picture, such as decodes
    steps: int = 0  # batches that were taken
    waited: float = 0.0  # seconds in which the consumer waited for a batch to be handed over
    busy: float | None = None  # share of the time in which the GPU computed; None: nobody can tell
    # Cores that others kept busy meanwhile: other processes, and the host that this machine shares.
    others: float | None = None
    steal: float | None = None

    @property
    def img_s(self) -> float:
        """Pictures a second."""
        return self.pictures / self.seconds


def whole_batches(loader: Any) -> Iterator[Batch]:
    """Batches of one epoch after another, of the loader's size: another one is another step."""
    while True:
        for batch in loader:
            if len(batch["img"]) == loader.batch_size:
                yield batch
