"""What the parent and the child of a training benchmark tell each other."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from yolodata.bench.child import Sample
from yolodata.bench.rows import Row


@dataclass(frozen=True)
class TrainTask:
    """What a child needs to know.

    Attributes:
        rows: what feeds the step, in turns.
        sources: what each row reads, by its id.
        data: what the trainer takes for its dataset.
        folder: for what the trainer writes.
        model: name or file of a model.
        device: "cpu" or "cuda".
        batch, imgsz, seed, amp: as in Ultralytics' arguments.
        cache, hw_decoder_load: of yolodata's loader.
        cores: numbers of the cores that may be used; empty: not pinned.
    """

    rows: tuple[Row, ...]
    sources: dict[str, Path]
    data: Path
    folder: Path
    model: str
    device: str
    batch: int
    imgsz: int
    seed: int
    amp: bool
    cache: str
    hw_decoder_load: float | str
    cores: tuple[int, ...]


@dataclass(frozen=True)
class TrainReady:
    """What a child knows before the first slice.

    Attributes:
        pinned: whether it stays on its cores.
        parameters: of the model.
        optimizer: that Ultralytics chose.
        amp: whether it trains in mixed precision.
        device_memory_gib: that torch has taken; 0 on the CPU.
        busy: why there is no GPU busy share; "" if there is.
        feeds: by row id, what a batch is and how it is made; of those that have started.
    """

    pinned: bool
    parameters: int
    optimizer: str
    amp: bool
    device_memory_gib: float
    busy: str
    feeds: dict[str, str]


@dataclass(frozen=True)
class Started:
    """What became of a feed that starts later.

    Attributes:
        about: what a batch is and how it is made.
        error: why there is no such feed; "" if there is.
    """

    about: str = ""
    error: str = ""


@dataclass(frozen=True)
class Slice(Sample):
    """Some steps on one feed.

    Attributes:
        steps: that were taken.
        waited: seconds in which the loop waited for a batch to be handed over.
        busy: share of the time in which the GPU computed; None where nobody can tell.
    """

    steps: int = 0
    waited: float = 0.0
    busy: float | None = None

    @property
    def steps_s(self) -> float:
        """Steps a second."""
        return self.steps / self.seconds
