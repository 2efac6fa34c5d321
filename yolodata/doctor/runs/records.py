"""The records of a run, as they are on disk at this moment."""

from __future__ import annotations

import csv
import math
import re
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from yolodata.errors import ConfigError
from yolodata.files import read_lines
from yolodata.plain_yaml import read_plain_yaml
from yolodata.telemetry.step_range import profile_range
from yolodata.telemetry.step_row import COLUMNS, StepRow, read_steps, whole_lines
from yolodata.telemetry.steps import FILE
from yolodata.train.checkpoint.file import SUFFIX
from yolodata.train.checkpoint.run_folder import FOLDER
from yolodata.ultralytics.settings import SETTINGS_FILE

_LIMIT = 1 << 28  # bytes of results.csv: it has a line an epoch

Floats = npt.NDArray[np.float64]

WARM_UP = 3
"""First steps of a process: they compile, choose kernels and fill the loader."""

MOST = 5_000_000
"""Steps of a rank that are read: 2 GB. 300 epochs of COCO with batches of 16 have 2.2 million."""

ENOUGH = 20
"""Steps below which nothing is said of a part of a run."""


class Steps:
    """Steps of one rank as columns, float64 (N,); NaN is what is not known.

    Args:
        columns: all of `COLUMNS`, by name.
    """

    def __init__(self, columns: Mapping[str, Floats]) -> None:
        self._columns = columns

    @classmethod
    def of(cls, rows: Iterable[StepRow]) -> Steps:
        """Returns the steps of rows, sorted by their numbers; of rows of one step, the last.

        A run that is resumed drops rows while they are read, and takes its steps again.

        Raises:
            ValueError: there are more than `MOST`.
        """
        columns = {name: array("d") for name in COLUMNS}
        for count, row in enumerate(rows):
            if count == MOST:
                raise ValueError(f"must have at most {MOST:,} steps, got more; give another run")
            for name, values in columns.items():
                value = getattr(row, name)
                values.append(math.nan if value is None else value)
        found = {name: np.frombuffer(values) for name, values in columns.items()}
        _, backwards = np.unique(found["step"][::-1], return_index=True)
        return cls(found).where(len(found["step"]) - 1 - backwards)

    def __len__(self) -> int:
        return len(self._columns["step"])

    def __getitem__(self, column: str) -> Floats:
        return self._columns[column]

    def where(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Steps:
        """Returns those steps for which it is true, or which it numbers."""
        return Steps({name: values[chosen] for name, values in self._columns.items()})

    def known(self, column: str) -> bool:
        """Returns whether anything is known of a column."""
        return bool(np.isfinite(self[column]).any())

    def mean(self, column: str) -> float | None:
        """Returns the mean of what is known, or None."""
        return float(np.nanmean(self[column])) if self.known(column) else None

    def each(self, column: str) -> Floats:
        """Returns the column with 0 for what is not known."""
        return np.nan_to_num(self[column])

    @cached_property
    def waits(self) -> Floats:
        """Milliseconds of each step in which it waited for data, on the host and on the device."""
        return np.minimum(self.each("wait_ms") + self.each("device_wait_ms"), self["step_ms"])

    @cached_property
    def gaps(self) -> Floats:
        """Seconds before each step, since the one before, that no row accounts for.

        Where validation and saving are not known (another version's rows), the first step of an
        epoch has none.
        """
        start = self["time"] - 1e-3 * self["step_ms"]
        between = 1e-3 * (self["validate_ms"] + self["save_ms"])
        same = np.diff(self["epoch"], prepend=self["epoch"][:1]) == 0
        between = np.where(np.isfinite(between), between, np.where(same, 0.0, np.inf))
        found = np.zeros(len(self))
        found[1:] = (start - between)[1:] - self["time"][:-1]
        return np.maximum(found, 0.0)

    @cached_property
    def first(self) -> npt.NDArray[np.bool_]:
        """Whether a step is one of the first of its process, or the first of an epoch."""
        begins = self.gaps > 10
        begins[:1] = True
        found: npt.NDArray[np.bool_] = np.diff(self["epoch"], prepend=self["epoch"][:1]) != 0
        for start in np.flatnonzero(begins):
            found[start : start + WARM_UP] = True
        return found


@dataclass
class Run:
    """What is known of a run.

    Attributes:
        folder: of the run.
        steps: by rank; none is empty, and rank 0 may lack.
        arguments: of Ultralytics, from args.yaml.
        settings: of yolodata, from yolodata.yaml; None where there are none.
        epochs_done: rows of results.csv.
        checkpoints: when each was written, in seconds since 1970, sorted.
        missing: what is not there or cannot be read, each with its reason.
    """

    folder: Path
    steps: dict[int, Steps]
    arguments: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] | None = None
    epochs_done: int = 0
    checkpoints: list[float] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def leading(self) -> Steps:
        """The steps of rank 0, or of the first rank that there is."""
        return self.steps[min(self.steps)]

    def steady(self, rank: int | None = None) -> Steps:
        """Steps of a rank as they are once the run is under way.

        Those after the first epoch, if there are enough; without the first ones of a process, of
        an epoch, those that wrote a checkpoint, and those that were profiled.
        """
        steps = self.leading if rank is None else self.steps[rank]
        usual = ~steps.first & ~(steps.each("save_ms") > 0) & ~self._profiled(steps)
        later = usual & (steps["epoch"] > steps["epoch"][0])
        for mask in (later, usual):
            if mask.sum() >= ENOUGH:
                return steps.where(mask)
        return steps.where(usual) if usual.any() else steps

    def _profiled(self, steps: Steps) -> npt.NDArray[np.bool_]:
        """Which steps a profiler disturbed: those of its trace, and the one that wrote it."""
        try:
            found = profile_range((self.settings or {}).get("profile"))
        except ConfigError:  # of another version
            found = None
        if found is None:
            return np.zeros(len(steps), bool)
        return (steps["step"] >= found.first - 1) & (steps["step"] <= found.last + 1)


def read_run(folder: Path) -> Run:
    """Reads what there is.

    Raises:
        ConfigError: it is no folder of a run, or a file of it cannot be read.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: is no folder; give the folder of a run, as runs/detect/train")
    files = {0: folder / FILE}
    for path in folder.glob("steps.rank*.csv"):
        number = re.fullmatch(r"steps\.rank(\d+)\.csv", path.name)
        if number:
            files[int(number[1])] = path
    files = {rank: path for rank, path in sorted(files.items()) if path.is_file()}
    is_run = (folder / "args.yaml").is_file() or (folder / "results.csv").is_file()
    if not files and not is_run:
        raise ConfigError(
            f"{folder}: is not the folder of a run: there is no {FILE}, args.yaml or results.csv "
            "in it; give the folder that training named when it began, as runs/detect/train"
        )
    run = Run(folder, {})
    if not files:
        run.missing.append(
            f"steps: there is no {FILE}; yolodata's trainers write it (unless "
            "yolodata.telemetry=False), any trainer of Ultralytics after "
            "yolodata.ultralytics.telemetry.attach(trainer)"
        )
    for rank, path in files.items():
        steps = _steps(path)
        if steps:
            run.steps[rank] = steps
        else:
            run.missing.append(f"steps of rank {rank}: {path.name} has no step yet")
    run.arguments = _yaml(folder / "args.yaml", run.missing) or {}
    run.settings = _yaml(folder / SETTINGS_FILE, run.missing)
    run.epochs_done = _lines(folder / "results.csv", run.missing)
    written = [
        path.stat().st_mtime for path in (folder / FOLDER).glob(f"*{SUFFIX}") if path.is_file()
    ]
    run.checkpoints = sorted(written)
    for column, what in _TOLD_OF.items():
        if run.steps and not run.leading.known(column):
            run.missing.append(what)
    return run


_TOLD_OF = {
    "storage_ms": "what waits are due to: the loader does not tell how long it reads from storage",
    "gpu_busy": "GPU busy share: not recorded (no GPU, or nvidia-ml-py is not installed)",
    "validate_ms": "validation and saving: not recorded by that version",
}


def _steps(path: Path) -> Steps:
    try:
        head = next(whole_lines(path), "")
        names = head.strip().split(",")
        if head.endswith("\n") and not {"step", "time", "step_ms", "wait_ms"} <= {*names}:
            raise ConfigError(
                f"{path}: its first line must name the columns step, time, step_ms and wait_ms, "
                f"got {head.strip()[:80]!r}; remove it, or restore what yolodata recorded"
            )
        # 1e-3 is as precise as they are written.
        rows = (row for row in read_steps(path) if row.step_ms >= 1e-3)
        try:
            return Steps.of(rows)
        except ValueError as error:
            raise ConfigError(f"{path}: {error}") from None
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read: {error.strerror or error}; restore or remove it"
        ) from None
    except csv.Error as error:
        raise ConfigError(
            f"{path}: is not what yolodata records: {error}; restore or remove it"
        ) from None


def _yaml(path: Path, missing: list[str]) -> dict[str, Any] | None:
    try:
        return read_plain_yaml(path)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        missing.append(f"{path.name}: {str(why).splitlines()[0]}")
        return None


def _lines(path: Path, missing: list[str]) -> int:
    try:
        lines = (line.decode("utf-8", errors="replace") for line in read_lines(path, _LIMIT))
        return max(0, sum(1 for row in csv.reader(lines) if row) - 1)
    except FileNotFoundError:
        return 0
    except (OSError, csv.Error) as error:
        missing.append(f"{path.name}: {error}")
        return 0
