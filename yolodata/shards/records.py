"""What an unfinished pack has done so far: small files in `.packing`, each complete or absent.

    settings             what is packed, and how
    part-00000, …        what was stored since the part before, without the pixels

A file holds xxh3_64 of all that follows (16 hexadecimal digits), a newline, a JSON object, a
newline and, in a part, the columns of its rows. It is written under another name, synced and
renamed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from yolodata.files import publish, write_durably
from yolodata.shards.columns import Columns, Totals, columns_from_bytes, columns_to_bytes

_SETTINGS = "settings"
_PART = "part-{:05d}"


@dataclass(frozen=True)
class Part:
    """What was stored since the part before.

    Attributes:
        shard: number of the shard that the part's samples are in.
        end: bytes that its tensor has after them.
        closed: whether the shard is complete.
        left_out: (name, reason) of images that were left out.
        columns: of the samples.
    """

    shard: int
    end: int
    closed: bool
    left_out: tuple[tuple[str, str], ...]
    columns: Columns


def settings_file(work: Path) -> Path:
    """Where the settings of an unfinished pack are."""
    return work / _SETTINGS


def part_file(work: Path, number: int) -> Path:
    """Where part `number` is."""
    return work / _PART.format(number)


def save_settings(work: Path, settings: dict[str, Any]) -> None:
    """Stores the settings, durably."""
    _save(settings_file(work), settings)


def load_settings(work: Path) -> dict[str, Any] | None:
    """Reads the settings; None where there are none, or they are damaged."""
    found = _load(settings_file(work))
    return None if found is None else found[0]


def save_part(work: Path, number: int, part: Part, keypoints: int | None) -> None:
    """Stores a part, durably.

    Args:
        work: the folder.
        number: of the part, from 0 on without a gap.
        part: what it holds.
        keypoints: K of kpt_shape, or None.

    Raises:
        OSError: it cannot be stored.
    """
    content = {
        "shard": part.shard,
        "end": part.end,
        "closed": part.closed,
        "left_out": part.left_out,
        "totals": vars(Totals.of(part.columns)),
    }
    _save(part_file(work, number), content, columns_to_bytes(part.columns, keypoints))


def load_parts(work: Path, keypoints: int | None) -> Iterator[Part]:
    """Reads the parts in order, up to the first that is absent or damaged."""
    number = 0
    while (found := _load(part_file(work, number))) is not None:
        content, data = found
        layout = Totals(**content["totals"]).layout(keypoints)
        yield Part(
            content["shard"],
            content["end"],
            content["closed"],
            tuple((name, reason) for name, reason in content["left_out"]),
            columns_from_bytes(np.frombuffer(data, np.uint8), layout),
        )
        number += 1


def _save(file: Path, content: dict[str, Any], data: bytes = b"") -> None:
    record = json.dumps(content, sort_keys=True).encode() + b"\n" + data
    temporary = file.with_suffix(".new")
    write_durably(temporary, xxhash.xxh3_64_hexdigest(record).encode() + b"\n" + record)
    publish(temporary, file)


def _load(file: Path) -> tuple[dict[str, Any], bytes] | None:
    try:
        whole = file.read_bytes()
    except FileNotFoundError:
        return None
    stated, _, record = whole.partition(b"\n")
    if stated != xxhash.xxh3_64_hexdigest(record).encode():
        return None
    text, _, data = record.partition(b"\n")
    return json.loads(text), data
