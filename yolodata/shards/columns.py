"""The labels file, made from a journal's rows without holding them in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from yolodata.files import write_all
from yolodata.shards.format import LabelsEntry
from yolodata.shards.journal import Counts, take_apart
from yolodata.shards.layout import LabelsLayout
from yolodata.shards.mapping import hash_file

_FLUSH_ROWS = 4096
_OF_IMAGES = (
    *("offset", "nbytes", "checksum", "shard", "height", "width", "orig_height", "orig_width"),
    *("label_height", "label_width"),
)


@dataclass
class Totals:
    """Numbers that the layout of a labels file follows from."""

    images: int = 0
    objects: int = 0
    points: int = 0
    name_bytes: int = 0

    def add(self, counts: Counts) -> None:
        """Count one more row."""
        self.images += 1
        self.objects += counts.objects
        self.points += counts.points
        self.name_bytes += counts.name_bytes


class _Columns:
    """Writes every column at its own place in the file."""

    def __init__(self, fd: int, layout: LabelsLayout) -> None:
        self._fd = fd
        self._at = {name: column.begin for name, column in layout.columns.items()}

    def add(self, name: str, data: bytes) -> None:
        write_all(self._fd, data, self._at[name])
        self._at[name] += len(data)


def write_labels(path: Path, rows: Iterable[bytes], totals: Totals, keypoints: int | None) -> int:
    """Write and sync a labels file.

    Args:
        rows: all rows, packed, in order; they add up to `totals`.
        keypoints: K of kpt_shape, or None.

    Returns:
        Size of the file in bytes.

    Raises:
        OSError: the file cannot be written.
    """
    layout = LabelsLayout.of(
        totals.images, totals.objects, totals.points, totals.name_bytes, keypoints
    )
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        write_all(fd, layout.header, 0)
        columns = _Columns(fd, layout)
        sums = Totals()
        for name in ("name_offset", "object_offset", "polygon_offset"):
            columns.add(name, bytes(8))
        block: list[bytes] = []
        for row in rows:
            block.append(row)
            if len(block) == _FLUSH_ROWS:
                _write_block(columns, block, sums)
                block.clear()
        if block:
            _write_block(columns, block, sums)
        os.fsync(fd)
    finally:
        os.close(fd)
    assert sums == totals, "the rows are those that were counted"
    return layout.nbytes


def _write_block(columns: _Columns, rows: list[bytes], sums: Totals) -> None:
    parts = take_apart(rows)
    fixed = parts.fixed
    for name in _OF_IMAGES:
        columns.add(name, fixed[name].tobytes())
    counts = np.frombuffer(b"".join(parts.counts), "<u4")
    for name, ends in (
        ("name_offset", sums.name_bytes + np.cumsum(fixed["name_bytes"], dtype="<u8")),
        ("object_offset", sums.objects + np.cumsum(fixed["objects"], dtype="<u8")),
        ("polygon_offset", sums.points + np.cumsum(counts, dtype="<u8")),
    ):
        columns.add(name, ends.astype("<u8").tobytes())
    columns.add("name", b"".join(parts.names))
    columns.add("cls", b"".join(parts.cls))
    columns.add("box", b"".join(parts.boxes))
    columns.add("polygon", b"".join(parts.polygons))
    if fixed["keypoints"].any():
        columns.add("keypoints", b"".join(parts.keypoints))
    sums.images += len(rows)
    sums.objects += int(fixed["objects"].sum())
    sums.points += int(counts.sum())
    sums.name_bytes += int(fixed["name_bytes"].sum())


def labels_entry(path: Path, nbytes: int, name: str) -> LabelsEntry:
    """Size and checksum of a finished labels file, to be called `name`."""
    return LabelsEntry(name, nbytes, hash_file(path, nbytes))
