"""The columns of a labels file: made of rows, and written without holding all of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from yolodata.files import file_checksum, write_all
from yolodata.shards.format import LabelsEntry
from yolodata.shards.layout import LabelsLayout
from yolodata.shards.sample import Annotation

Columns = dict[str, npt.NDArray[Any]]  # by name, of the images of some consecutive rows

_OF_ROWS = {
    **dict.fromkeys(("offset", "nbytes", "checksum"), "<u8"),
    **dict.fromkeys(("shard", "height", "width", "orig_height", "orig_width"), "<u4"),
}
_OF_LABELS = ("label_height", "label_width")
_OFFSETS = {"name_offset": "name_bytes", "object_offset": "objects", "polygon_offset": "points"}


class Row(NamedTuple):
    """One sample without its bytes: a row of the labels file."""

    shard: int
    offset: int
    nbytes: int
    checksum: int
    height: int
    width: int
    orig_height: int
    orig_width: int
    name: bytes
    labels: Annotation


@dataclass(frozen=True)
class Totals:
    """The numbers that the layout of a labels file follows from."""

    images: int = 0
    objects: int = 0
    points: int = 0
    name_bytes: int = 0

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.images + other.images,
            self.objects + other.objects,
            self.points + other.points,
            self.name_bytes + other.name_bytes,
        )

    @staticmethod
    def of(columns: Columns) -> Totals:
        """Counts what some columns hold."""
        sizes = (len(columns[name]) for name in ("offset", "cls", "polygon", "name"))
        return Totals(*sizes)

    def layout(self, keypoints: int | None) -> LabelsLayout:
        """Lays out a labels file; `keypoints` is K of kpt_shape, or None."""
        return LabelsLayout.of(self.images, self.objects, self.points, self.name_bytes, keypoints)


def columns_of(rows: Sequence[Row], keypoints: int | None) -> Columns:
    """Makes the columns of some rows; offsets begin with 0.

    Args:
        rows: consecutive ones, of any number.
        keypoints: K of kpt_shape, or None.
    """
    labels = [row.labels for row in rows]
    polygons = [one.polygons or ((),) * len(one.cls) for one in labels]
    points = [len(polygon) for some in polygons for polygon in some]
    columns: Columns = {
        name: np.array([getattr(row, name) for row in rows], dtype)
        for name, dtype in _OF_ROWS.items()
    }
    for name in _OF_LABELS:
        columns[name] = np.array([getattr(one, name) for one in labels], "<u4")
    columns["name_offset"] = _ends([len(row.name) for row in rows])
    columns["object_offset"] = _ends([len(one.cls) for one in labels])
    columns["polygon_offset"] = _ends(points)
    columns["cls"] = _joined([one.cls for one in labels], ())
    columns["box"] = _joined([one.box for one in labels], (4,))
    columns["polygon"] = _joined([p for some in polygons for p in some if len(p)], (2,))
    if keypoints is not None:
        found = [one.keypoints for one in labels if one.keypoints is not None]
        columns["keypoints"] = _joined(found, (keypoints, 3))
    columns["name"] = np.frombuffer(b"".join([row.name for row in rows]), np.uint8)
    return columns


def _ends(counts: list[int]) -> npt.NDArray[np.uint64]:
    ends = np.zeros(len(counts) + 1, "<u8")
    np.cumsum(counts, out=ends[1:], dtype="<u8")
    return ends


def _joined(arrays: list[Any], shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    return np.concatenate([np.empty((0, *shape), "<f4"), *arrays], dtype="<f4")


def columns_to_bytes(columns: Columns, keypoints: int | None) -> bytes:
    """Gives the columns as they stand in a labels file of their own, behind its header."""
    layout = Totals.of(columns).layout(keypoints)
    return b"".join(columns[name].tobytes() for name in layout.columns)


def columns_from_bytes(data: npt.NDArray[np.uint8], layout: LabelsLayout) -> Columns:
    """Undoes `columns_to_bytes`: gives views of `data`, uint8 (n,)."""
    start = len(layout.header)
    return {name: column.view(data, start) for name, column in layout.columns.items()}


def write_labels(
    file: BinaryIO, blocks: Iterable[Columns], totals: Totals, keypoints: int | None
) -> int:
    """Writes and syncs a labels file.

    Args:
        file: an empty one, open for writing.
        blocks: columns of consecutive rows, in order; they add up to `totals`.
        totals: what all blocks hold.
        keypoints: K of kpt_shape, or None.

    Returns:
        Size of the file in bytes.

    Raises:
        OSError: the file cannot be written.
    """
    layout = totals.layout(keypoints)
    places = {name: column.begin for name, column in layout.columns.items()}
    fd = file.fileno()

    def add(name: str, values: npt.NDArray[Any]) -> None:
        data = values.tobytes()
        write_all(fd, data, places[name])
        places[name] += len(data)

    write_all(fd, layout.header, 0)
    for name in _OFFSETS:
        add(name, np.zeros(1, "<u8"))
    before = Totals()
    for block in blocks:
        for name in layout.columns:
            values = block[name]
            if name in _OFFSETS:
                values = values[1:] + np.uint64(getattr(before, _OFFSETS[name]))
            add(name, values)
        before += Totals.of(block)
    os.fsync(fd)
    assert before == totals, "the blocks are those that were counted"
    return layout.nbytes


def labels_entry(file: BinaryIO, nbytes: int, name: str) -> LabelsEntry:
    """Gives size and checksum of a finished labels file, open for reading, to be called `name`."""
    file.seek(0)
    return LabelsEntry(name, nbytes, file_checksum(file))
