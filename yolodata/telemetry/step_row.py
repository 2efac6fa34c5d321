"""One row of steps.csv: what is known of a training step."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from yolodata.files import read_lines

_LIMIT = 2 << 30  # bytes of steps.csv: about 10 million steps


@dataclass(slots=True)
class StepRow:
    """A training step; docs/telemetry.md says what each column means.

    None is what cannot be known here. Columns that end in `_ms` are milliseconds, those that end in
    `_mib` are MiB; shares are 0-1.
    """

    step: int
    epoch: int
    time: float
    images: int
    step_ms: float
    wait_ms: float
    images_s: float
    hit_share: float | None = None
    gpu_busy: float | None = None
    rss_mib: float | None = None
    private_mib: float | None = None
    device_mib: float | None = None
    read_mib: float | None = None
    device_wait_ms: float | None = None
    storage_ms: float | None = None
    decode_ms: float | None = None
    plan_ms: float | None = None
    render_ms: float | None = None
    copy_ms: float | None = None
    launch_ms: float | None = None
    all_reduce_ms: float | None = None
    straggler_ms: float | None = None
    callbacks_ms: float | None = None
    validate_ms: float | None = None
    save_ms: float | None = None

    def line(self) -> str:
        """Returns the row as a line of CSV, with its end."""
        values = ((getattr(self, name), form) for name, form in _FORMS)
        return ",".join("" if v is None else form.format(v) for v, form in values) + "\n"


COLUMNS = tuple(field.name for field in fields(StepRow))
_WHOLE = ("step", "epoch", "images")
_NEEDED = ("step", "epoch", "time", "images", "step_ms", "wait_ms", "images_s")
_DIGITS = {"images_s": 1, "hit_share": 4, "gpu_busy": 2}
_FORMS = [
    (name, "{}" if name in _WHOLE else f"{{:.{_DIGITS.get(name, 0 if '_mib' in name else 3)}f}}")
    for name in COLUMNS
]


def read_steps(path: Path) -> Iterator[StepRow]:
    """Reads steps.csv as far as it is written; a row that is cut off, or damaged, is left out.

    Columns of another version are left out, and those that it lacks are None.

    Raises:
        OSError: the file cannot be read, or has more than 2 GiB.
    """
    for values in csv.DictReader(whole_lines(path), quoting=csv.QUOTE_NONE):
        row = _row(values)
        if row is not None:
            yield row


def whole_lines(path: Path) -> Iterator[str]:
    """Reads the lines of steps.csv that are whole.

    Raises:
        OSError: as `read_steps`.
    """
    for line in read_lines(path, _LIMIT, longest=1 << 16):
        row = line.rstrip(b"\r\n")
        # The last one may be half a row; a machine that lost its power leaves zeros.
        if line.endswith(b"\n") and b"\0" not in row and b"\r" not in row:
            yield row.decode("utf-8", errors="replace") + "\n"


def _row(values: dict[str, str]) -> StepRow | None:
    try:
        found = {name: _number(name, values.get(name)) for name in COLUMNS}
        if any(found[name] is None for name in _NEEDED):
            return None
        return StepRow(**found)  # type: ignore[arg-type]
    except ValueError:
        return None


def _number(name: str, text: str | None) -> float | None:
    if not text:
        return None
    value = int(text) if name in _WHOLE else float(text)
    if not abs(value) < 1 << 63:
        raise ValueError(f"{name} is {text}")
    return value
