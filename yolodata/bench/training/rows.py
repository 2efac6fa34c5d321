"""What feeds a training step: one `Row` each."""

from __future__ import annotations

from collections.abc import Sequence

from yolodata.bench.rows import FEW_CORES, Row
from yolodata.bench.training.feeds import FIXED

_DEFAULT_WORKERS = 8  # of Ultralytics, however many cores there are


def train_rows(cores: Sequence[int], device: str) -> list[Row]:
    """Rows for each number of cores: a batch that never changes, our loader, Ultralytics'.

    Ultralytics has as many workers as there are cores, and where its default is less, that too.

    Args:
        cores: how many the training process and its workers may use.
        device: "cpu" or "cuda".
    """
    return [row for n in dict.fromkeys(cores) for row in _rows(n, device)]


def default_cores(usable: int, device: str) -> list[int]:
    """All cores; and as few as a GPU should need, where there are more."""
    if device == "cpu" or usable <= FEW_CORES:
        return [usable]
    return [usable, FEW_CORES]


def _rows(n: int, device: str) -> list[Row]:
    fixed = f"{FIXED}-{n}"

    def row(name: str, feed: str, label: str, short: str, codec: str, threads: int = n) -> Row:
        peers = () if name == FIXED else (fixed,)
        return Row(f"{name}-{n}", feed, label, short, codec, threads, n, peers, device=device)

    found = [
        row(FIXED, FIXED, "a batch that never changes", "fixed", "memory"),
        row("yolodata-raw", "yolodata", "yolodata, raw shards", "raw", "raw"),
        row("yolodata-jpeg", "yolodata", "yolodata, JPEG shards", "JPEG", "jpeg"),
        row("ultralytics", "ultralytics", "Ultralytics, no cache", "no cache", "files"),
    ]
    if n > _DEFAULT_WORKERS:
        found.append(
            row("ultralytics-default", "ultralytics",
                f"Ultralytics, no cache, {_DEFAULT_WORKERS} workers (its default)", "default",
                "files", _DEFAULT_WORKERS)
        )  # fmt: skip
    return found


def source(row: Row) -> str:
    """What a row reads, by the names of `data.Prepared`: always the longer dataset."""
    return "raw-many" if row.codec == "raw" else row.codec
