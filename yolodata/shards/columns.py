"""The labels file, made from a journal's rows without holding them in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from yolodata.shards.files import write_all
from yolodata.shards.format import LabelsEntry
from yolodata.shards.journal import Row
from yolodata.shards.layout import LabelsLayout
from yolodata.shards.mapping import hash_file

_FLUSH_ROWS = 4096


@dataclass
class Totals:
    """Numbers that the layout of a labels file follows from."""

    images: int = 0
    objects: int = 0
    points: int = 0
    name_bytes: int = 0

    def add(self, row: Row) -> None:
        """Count one more row."""
        self.images += 1
        self.objects += len(row.labels.cls)
        self.points += sum(len(p) for p in row.labels.polygons or ())
        self.name_bytes += len(row.name)


class _Columns:
    """Writes every column at its own place in the file, a block of rows at a time."""

    def __init__(self, fd: int, layout: LabelsLayout) -> None:
        self._fd = fd
        self._at = {name: column.begin for name, column in layout.columns.items()}
        self._parts: dict[str, list[bytes]] = {name: [] for name in layout.columns}

    def add(self, name: str, dtype: str, values: Any) -> None:
        self._parts[name].append(np.ascontiguousarray(values, dtype).tobytes())

    def flush(self) -> None:
        for name, parts in self._parts.items():
            data = b"".join(parts)
            write_all(self._fd, data, self._at[name])
            self._at[name] += len(data)
            parts.clear()


def write_labels(path: Path, rows: Iterable[Row], totals: Totals, keypoints: int | None) -> int:
    """Write and sync a labels file.

    Args:
        rows: all rows, in order; they add up to `totals`.
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
        columns.add("name_offset", "<u8", [0])
        columns.add("object_offset", "<u8", [0])
        columns.add("polygon_offset", "<u8", [0])
        block: list[Row] = []
        for row in rows:
            block.append(row)
            if len(block) == _FLUSH_ROWS:
                _write_block(columns, block, sums, keypoints)
                block.clear()
        _write_block(columns, block, sums, keypoints)
        os.fsync(fd)
    finally:
        os.close(fd)
    assert sums == totals, "the rows are those that were counted"
    return layout.nbytes


def _write_block(columns: _Columns, rows: list[Row], sums: Totals, keypoints: int | None) -> None:
    for name in ("offset", "nbytes", "checksum"):
        columns.add(name, "<u8", [getattr(row, name) for row in rows])
    for name in ("shard", "height", "width", "orig_height", "orig_width"):
        columns.add(name, "<u4", [getattr(row, name) for row in rows])
    for name in ("label_height", "label_width"):
        columns.add(name, "<u4", [getattr(row.labels, name) for row in rows])
    name_ends, object_ends, polygon_ends = [], [], []
    for row in rows:
        labels = row.labels
        sums.images += 1
        sums.name_bytes += len(row.name)
        sums.objects += len(labels.cls)
        for polygon in labels.polygons or ():
            sums.points += len(polygon)
            polygon_ends.append(sums.points)
            columns.add("polygon", "<f4", polygon)
        if labels.polygons is None:
            polygon_ends += [sums.points] * len(labels.cls)
        name_ends.append(sums.name_bytes)
        object_ends.append(sums.objects)
        columns.add("cls", "<f4", labels.cls)
        columns.add("box", "<f4", labels.box)
        if keypoints is not None and len(labels.cls):
            columns.add("keypoints", "<f4", labels.keypoints)
    columns.add("name_offset", "<u8", name_ends)
    columns.add("object_offset", "<u8", object_ends)
    columns.add("polygon_offset", "<u8", polygon_ends)
    columns.add("name", "u1", np.frombuffer(b"".join(row.name for row in rows), np.uint8))
    columns.flush()


def labels_entry(path: Path, nbytes: int, name: str) -> LabelsEntry:
    """Size and checksum of a finished labels file, to be called `name`."""
    return LabelsEntry(name, nbytes, hash_file(path, nbytes))
