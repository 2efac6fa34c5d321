"""What was measured: by a run, by `yolodata bench train`, by `yolodata doctor`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from yolodata.checks import number
from yolodata.cost.interruptions import Pauses
from yolodata.errors import ConfigError
from yolodata.files import read_regular
from yolodata.plain_yaml import read_plain_yaml
from yolodata.redaction import stored
from yolodata.telemetry.journal import read_journal
from yolodata.telemetry.step_row import read_steps
from yolodata.telemetry.steps import FILE
from yolodata.terminal import cut

_LIMIT = 16 << 20  # bytes of a JSON, of which a parser makes 60 times as many: ours have 10,000

_EPOCHS = 1_000_000  # of a run
_ROWS = 1_000  # of a benchmark
_LENGTH = 200  # characters of a setting, or of a name

CPU = "cpu"
"""The name of what trains without a GPU, in prices too."""


@dataclass(frozen=True)
class Measurement:
    """How fast a type of GPU trained something.

    Attributes:
        gpu: its name, as torch says it, or `CPU`.
        gpus: that trained together; processes without a GPU.
        gpus_a_machine: of them in one machine.
        images_s: pictures a second of all of them.
        source: file or folder, and what of it.
        what: model, size and batch, as far as the source says.
        covers: what of an epoch `images_s` covers.
        images: of an epoch; None where the source does not say.
        epochs: of a run; None where the source does not say.
        pauses: of checkpoints and restarts; None where they were not measured.
        lacking: why `pauses` is None, or what stands for what was not measured; "" else.
        claim: who claims it, where nobody measured it; "" else.
    """

    gpu: str
    gpus: int
    gpus_a_machine: int
    images_s: float
    source: str
    what: str
    covers: str
    images: float | None = None
    epochs: int | None = None
    pauses: Pauses | None = None
    lacking: str = ""
    claim: str = ""

    def __post_init__(self) -> None:
        found = {"gpus": self.gpus, "gpus a machine": self.gpus_a_machine, "img/s": self.images_s}
        found |= {"images": self.images or 1, "epochs": self.epochs or 1}
        for name, value in found.items():
            number(f"{self.source}: {name}", value, 1e-9, 1e15)
        for name, value in ({} if self.pauses is None else vars(self.pauses)).items():
            number(f"{self.source}: {name}", value, 0, 1e9)


def measurements(path: Path) -> list[Measurement]:
    """Reads what a file or a folder holds.

    Raises:
        ConfigError: it cannot be read, or holds no measured training.
    """
    try:
        return [of_run(path)] if path.is_dir() else _of_file(path)
    except ConfigError:
        raise
    except (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        raise ConfigError(
            f"{path}: is not what yolodata writes ({type(error).__name__}: {error!s:.80}); give "
            "the folder of a run, or the JSON of `yolodata bench train` or `yolodata doctor`"
        ) from None


def _of_file(path: Path) -> list[Measurement]:
    try:
        values = json.loads(read_regular(path, _LIMIT))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(
            f"{path}: cannot be read: {error}; give the folder of a run, or the JSON of `yolodata "
            "bench train` or `yolodata doctor`"
        ) from None
    if isinstance(values, dict) and values.get("benchmark") == "train":
        return list(_of_bench(path, values))
    if isinstance(values, dict) and "findings" in values and "sections" in values:
        return [_of_doctor(path, values)]
    kind = str(values.get("benchmark", "something else") if isinstance(values, dict) else "a list")
    raise ConfigError(
        f"{path}: holds no training steps but {kind:.80}; give the folder of a run, or the JSON of "
        "`yolodata bench train` or `yolodata doctor`"
    )


def of_run(folder: Path) -> Measurement:
    """Reads a run: whole epochs of its records, with validation, saving and all else.

    Raises:
        ConfigError: it has no records, or no epoch of it is whole.
    """
    arguments = _arguments(folder)
    try:
        events = read_journal(folder)
    except OSError as error:
        raise ConfigError(
            f"{folder}: its journal.jsonl cannot be read: {error.strerror or error}; remove it, "
            "and train on"
        ) from None
    starts = [event for event in events if event["event"] == "start"]
    if not starts:
        raise ConfigError(
            f"{folder}: has no journal.jsonl with a start, so that nobody knows on what it "
            "trained; train with `yolodata train` (and without yolodata.telemetry=False)"
        )
    start = starts[-1]
    ranks = int(start["ranks"])
    images, seconds = _epochs(folder, ranks)
    pauses, lacking = _pauses(events)
    epochs = arguments.get("epochs")
    return Measurement(
        gpu=_short(start["gpu"] or CPU), gpus=ranks, gpus_a_machine=int(start["ranks_a_machine"]),
        images_s=images / seconds, source=str(folder), what=_what(arguments),
        covers="whole epochs, with validation", images=images,
        epochs=epochs if isinstance(epochs, int) else None, pauses=pauses, lacking=lacking,
    )  # fmt: skip


def _arguments(folder: Path) -> dict[str, Any]:
    try:
        return read_plain_yaml(folder / "args.yaml")
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{folder}: is no folder of a run: args.yaml: {error}; give the folder that training "
            "named when it began"
        ) from None


def _epochs(folder: Path, ranks: int) -> tuple[float, float]:
    """Pictures and seconds of an epoch, of all ranks: medians over those that are whole.

    An epoch lasts from the end of the last step before it to the end of its own last step, so that
    the validation of the one before is in it. The first has none before it, and the last of a run
    that goes on is not over. An interruption makes one epoch long, and the median does not see it.
    """
    lengths: dict[int, int] = {}
    totals: dict[int, int] = {}
    ends: dict[int, float] = {}
    try:
        for row in read_steps(folder / FILE):
            lengths[row.epoch] = lengths.get(row.epoch, 0) + 1
            totals[row.epoch] = totals.get(row.epoch, 0) + row.images
            ends[row.epoch] = row.time
            if len(ends) > _EPOCHS:
                raise ConfigError(
                    f"{folder}: {FILE} must have at most {_EPOCHS:,} epochs, got more; give "
                    "another run"
                )
    except OSError as error:
        raise ConfigError(
            f"{folder}: has no records of steps: {FILE}: {error}; train with `yolodata train` "
            "(and without yolodata.telemetry=False)"
        ) from None
    whole = max(lengths.values(), default=0)
    found = [
        (ranks * totals[epoch], ends[epoch] - ends[before])
        for before, epoch in pairwise(sorted(ends))
        if lengths[epoch] == whole and epoch == before + 1
    ]
    if not found:
        raise ConfigError(
            f"{folder}: has no whole epoch after the first, which reads the data for the first "
            "time; train for two epochs at least"
        )
    images, seconds = (median(each) for each in zip(*found, strict=True))
    return images, max(seconds, 1e-9)


def _pauses(events: list[dict[str, Any]]) -> tuple[Pauses | None, str]:
    """What checkpoints and restarts took, and what is to be said of it."""
    written = [event for event in events if event["event"] == "checkpoint"]
    waits = [event["step_waits_s"] for event in written if event["step_waits_s"] is not None]
    if not waits:
        return None, "the run wrote no checkpoint"
    starts = [event for event in events if event["event"] == "start"]
    resumed = [event["after_s"] for event in starts if event["resumed"]]
    restart = median(resumed or [event["after_s"] for event in starts])
    said = "" if resumed else "it was never resumed; its first start stands for a restart"
    return Pauses(median(waits), median(event["write_s"] for event in written), restart), said


def _of_bench(path: Path, values: Mapping[str, Any]) -> Iterator[Measurement]:
    settings, gpu = values.get("settings") or {}, (values.get("machine") or {}).get("gpu")
    on_gpu = str(settings.get("device", "")).startswith("cuda")
    if on_gpu and not gpu:
        raise ConfigError(
            f"{path}: does not say on which GPU it was measured; run `yolodata bench train` again"
        )
    name = _short(gpu["name"]) if on_gpu and gpu else CPU
    what = _what(settings)
    rows = values.get("rows", ())
    if len(rows) > _ROWS:
        raise ConfigError(f"{path}: must have at most {_ROWS:,} rows, got {len(rows):,}")
    for row in rows:
        speed = (row.get("img_s") or {}).get("median")
        if row.get("kind") == "fixed" or not speed:
            continue  # a batch that never changes trains nothing; or the row failed
        yield Measurement(
            name, 1, 1, float(speed), f"{path.name}: {_short(row['name'])}", what,
            "training steps alone", lacking="a benchmark writes no checkpoints; give a run, too",
        )  # fmt: skip


def _of_doctor(path: Path, values: Mapping[str, Any]) -> Measurement:
    examined = values.get("examined") or {}
    if values.get("fake"):
        raise ConfigError(
            f"{path}: is fake, because probes of the hardware were replaced; run `yolodata doctor` "
            "without probes"
        )
    if examined.get("step_ms") is not None:
        raise ConfigError(
            f"{path}: was made with --step, which waits instead of training; run `yolodata doctor` "
            "without it"
        )
    measured = ((values.get("sections") or {}).get("data") or {}).get("measured") or {}
    speed = (measured.get("throughput_images_s") or {}).get("as_is")
    if not speed:
        raise ConfigError(f"{path}: has no speed of training; run the doctor with its data section")
    arguments, ranks = examined.get("arguments") or {}, int(examined.get("ranks", 1))
    alone = "" if ranks == 1 else f", by one process of {_short(ranks)}"
    gpu = (values.get("machine") or {}).get("gpu")
    name = _short(gpu["name"]) if gpu and arguments.get("device") != "cpu" else CPU
    loader = _short(examined.get("loader"))
    return Measurement(
        name, 1, 1, float(speed), path.name, _what(arguments),
        f"training steps alone, with the loader of {loader}{alone}",
        lacking="the doctor writes no checkpoints; give a run, too",
    )  # fmt: skip


def _what(settings: Mapping[str, Any]) -> str:
    """Says what was trained."""
    named = [name for name in ("model", "imgsz", "batch") if name in settings]
    return ", ".join(f"{name} {_short(stored(settings[name]))}" for name in named)


def _short(value: Any) -> str:
    """Gives what a file states, on one line: it may be anything."""
    return cut(str(value), lines=1, signs=_LENGTH)
