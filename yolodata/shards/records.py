"""What an unfinished pack has done so far: small files in `.packing`, each complete or absent.

    settings             what is packed, and how
    part-00000, …        what was stored since the part before, without the pixels

A file holds xxh3_64 of all that follows (16 hexadecimal digits), a newline, a JSON object, a
newline and, in a part, the columns of its rows. It is written under another name, synced and
renamed. One that is no such file counts as absent, whatever it is.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import xxhash

from yolodata.folders import Folder
from yolodata.shards.columns import Columns, Totals, columns_from_bytes, columns_to_bytes
from yolodata.shards.format import CODECS, is_count

SETTINGS = "settings"
_PART = "part-{:05d}"
_LIMIT = 1 << 30  # bytes of a file: rows of a few seconds, or a text an image that is left out
_DIGITS = 16
_NO_RECORD = (
    errno.ENOENT, errno.ELOOP, errno.EINVAL, errno.EISDIR, errno.ENXIO, errno.EFBIG,
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """What was stored since the part before.

    Attributes:
        shard: number of the shard that the part's samples are in.
        end: bytes that its tensor has after them.
        closed: whether the shard is complete.
        left_out: (name, reason) of images that were left out.
        columns: of the samples.
        file: inode and time of change, in nanoseconds, of a shard that is complete; nobody has
            written to a file that still has both.
        notes: (kind, name, note) of images that were stored.
    """

    shard: int
    end: int
    closed: bool
    left_out: tuple[tuple[str, str], ...]
    columns: Columns
    file: tuple[int, int] | None = None
    notes: tuple[tuple[str, str, str], ...] = ()


def part_name(number: int) -> str:
    """File name of part `number`."""
    return _PART.format(number)


def save_settings(work: Folder, settings: dict[str, Any]) -> None:
    """Stores the settings, durably."""
    _save(work, SETTINGS, settings)


def load_settings(work: Folder) -> dict[str, Any] | None:
    """Reads the settings; None where there are none, or they are damaged."""
    found = _load(work, SETTINGS)
    if found is None:
        return None
    settings, _ = found
    meta = settings.get("meta")
    if not isinstance(meta, dict) or meta.get("codec") not in CODECS:
        return None
    return settings if is_count(settings.get("shard_size"), 1, 1 << 63) else None


def save_part(work: Folder, number: int, part: Part, keypoints: int | None) -> None:
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
        "file": part.file,
        "notes": part.notes,
    }
    _save(work, part_name(number), content, columns_to_bytes(part.columns, keypoints))


def load_parts(work: Folder, keypoints: int | None) -> Iterator[Part]:
    """Reads the parts in order, up to the first that is absent or damaged."""
    number = 0
    while (part := _load_part(work, part_name(number), keypoints)) is not None:
        yield part
        number += 1


def _load_part(work: Folder, name: str, keypoints: int | None) -> Part | None:
    found = _load(work, name)
    if found is None:
        return None
    content, data = found
    try:
        totals = Totals(**content["totals"])
        counts = (content["shard"], content["end"], *vars(totals).values())
        if not all(is_count(value, 0, 1 << 63) for value in counts):
            return None
        layout = totals.layout(keypoints)
        if layout.nbytes - len(layout.header) != len(data):
            return None
        file = content.get("file")
        return Part(
            content["shard"],
            content["end"],
            bool(content["closed"]),
            tuple((str(name), str(reason)) for name, reason in content["left_out"]),
            columns_from_bytes(np.frombuffer(data, np.uint8), layout),
            None if file is None else (file[0], file[1]),
            tuple((str(kind), str(name), str(note)) for kind, name, note in content["notes"]),
        )
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def _save(work: Folder, name: str, content: dict[str, Any], data: bytes = b"") -> None:
    record = json.dumps(content, sort_keys=True).encode() + b"\n" + data
    work.replace(name, xxhash.xxh3_64_hexdigest(record).encode() + b"\n" + record)


def _load(work: Folder, name: str) -> tuple[dict[str, Any], memoryview] | None:
    try:
        whole = work.read(name, _LIMIT)
    except OSError as error:
        if error.errno in _NO_RECORD:
            return None
        raise
    record = memoryview(whole)[_DIGITS + 1 :]
    if whole[:_DIGITS] != xxhash.xxh3_64_hexdigest(record).encode():
        return None
    end = whole.find(b"\n", _DIGITS + 1)
    try:
        content = json.loads(whole[_DIGITS + 1 : end])
    except (ValueError, RecursionError):
        return None
    return (content, memoryview(whole)[end + 1 :]) if isinstance(content, dict) else None
