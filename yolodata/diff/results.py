"""The results of a run: results.csv, which Ultralytics writes, a row an epoch."""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from pathlib import Path

from yolodata.errors import ConfigError
from yolodata.files import read_lines

FILE = "results.csv"
_LARGEST = 64 << 20  # bytes; an epoch has about 300
_FITNESS = "metrics/mAP50-95("
_SPENT = "time"  # seconds since the start: of no two runs the same

Row = dict[str, float]


@dataclass(frozen=True)
class Results:
    """Numbers of two epochs, by the name of their column.

    Attributes:
        best: the epoch of best.pt: that with the highest mAP50-95, of boxes and of masks or
            keypoints together; of equal ones the last. None where nothing was validated.
        last: the last epoch.
    """

    best: Row | None
    last: Row


def read_results(run: Path) -> Results | None:
    """Reads results.csv of a run folder; None where there is none, or it has no row yet.

    Raises:
        ConfigError: it cannot be read, or is no such table.
    """
    path = run / FILE
    best, last = None, None
    try:
        lines = (line.decode() for line in read_lines(path, _LARGEST))
        for last in map(_numbers, csv.DictReader(lines, strict=True)):
            validated = any(name.startswith(_FITNESS) for name in last)
            if validated and (best is None or _fitness(last) >= _fitness(best)):
                best = last
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeError, csv.Error) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise ConfigError(
            f"{path}: cannot be read as the results of a run: {why}; restore or remove it"
        ) from None
    return None if last is None else Results(best, last)


def _numbers(row: dict[str, str]) -> Row:
    found: Row = {}
    for name, value in row.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise csv.Error("its rows have more or fewer values than its first line has names")
        if name.strip() != _SPENT:
            try:
                number = float(value)
            except ValueError:
                raise csv.Error(f"{value[:100]!r} is no number") from None
            # One nan for all: rows with it are then equal, though nan itself is not.
            found[name.strip()] = math.nan if math.isnan(number) else number
    return found


def _fitness(row: Row) -> float:
    # nan is no score; Ultralytics counts it as 0.
    return sum(v for name, v in row.items() if name.startswith(_FITNESS) and not math.isnan(v))
