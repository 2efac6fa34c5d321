"""What feeds a training step: one `Row` each."""

from __future__ import annotations

from collections.abc import Sequence

from yolodata.bench.rows import FEW_CORES, Row

FIXED = "fixed"


def train_rows(cores: Sequence[int], device: str) -> list[Row]:
    """Rows for each number of cores: a batch that never changes, our loader, Ultralytics'.

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

    def row(name: str, feed: str, label: str, short: str, codec: str) -> Row:
        peers = () if name == FIXED else (fixed,)
        return Row(f"{name}-{n}", feed, label, short, codec, n, n, peers, device=device)

    return [
        row(FIXED, FIXED, "a batch that never changes", "fixed", "memory"),
        row("yolodata-raw", "yolodata", "yolodata, raw shards", "raw", "raw"),
        row("yolodata-jpeg", "yolodata", "yolodata, JPEG shards", "JPEG", "jpeg"),
        row("ultralytics", "ultralytics", "Ultralytics, no cache", "no cache", "files"),
    ]


def source(row: Row) -> str:
    """What a row reads, by the names of `data.Prepared`: always the longer dataset."""
    return "raw-many" if row.codec == "raw" else row.codec
