"""What is measured: one `Row` each, in groups that may use the same cores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from yolodata.errors import ConfigError


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        id: what `--only` and the JSON file call it.
        kind: which maker of `yolodata.bench.subjects` builds it.
        label: what the table calls it.
        short: what it is called as a peer.
        codec: where its pixels come from: "files" (JPEG files), "ram" (decoded, in memory), "jpeg"
            or "raw" (shards), "memory" (pictures that need nothing but copying).
        threads: native threads of yolodata, worker processes of Ultralytics (0: the consumer
            itself), copying threads.
        cores: how many cores the whole row may use, consumer included.
        peers: ids of the rows it is compared with, the one that matters most first.
    """

    id: str
    kind: str
    label: str
    short: str
    codec: str
    threads: int
    cores: int
    peers: tuple[str, ...] = ()


def loader_rows(cores: int) -> list[Row]:
    """The rows of the loader benchmark: on one core, and on `cores` when there are more."""
    return [row for n in sorted({1, cores}) for row in _group(n)]


def _group(n: int) -> list[Row]:
    workers = 0 if n == 1 else n
    none, ram = f"ultralytics-none-{n}", f"ultralytics-ram-{n}"
    return [
        Row(none, "ultralytics", "Ultralytics, no cache", "no cache", "files", workers, n),
        Row(ram, "ultralytics", "Ultralytics, cache=ram", "cache=ram", "ram", workers, n),
        Row(
            f"yolodata-jpeg-{n}",
            "yolodata",
            "yolodata, JPEG shards",
            "JPEG",
            "jpeg",
            n,
            n,
            (none, ram),
        ),
        Row(
            f"yolodata-raw-{n}", "yolodata", "yolodata, raw shards", "raw", "raw", n, n, (ram, none)
        ),
        Row(f"copy-{n}", "copy", "copying only (ceiling)", "copying", "memory", n, n),
    ]


def choose(rows: Sequence[Row], patterns: Sequence[str]) -> list[Row]:
    """The rows whose id fits one of `patterns` (`*` and `?` stand for anything); none: all.

    Raises:
        ConfigError: a pattern fits nothing.
    """
    for pattern in patterns:
        if not any(fnmatchcase(row.id, pattern) for row in rows):
            raise ConfigError(
                f"--only {pattern!r} fits no row; rows are {', '.join(row.id for row in rows)}"
            )
    if not patterns:
        return list(rows)
    return [row for row in rows if any(fnmatchcase(row.id, p) for p in patterns)]
