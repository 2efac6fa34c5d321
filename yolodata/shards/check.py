"""What must hold for the columns of a dataset before anything points into its files.

Everything is compared as NumPy vectors, in blocks of rows, so that 5 million images take a second
and a few megabytes. Sums that could exceed 64 bits are never formed: sizes are compared with what
is left instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from yolodata.errors import ShardError
from yolodata.images.limits import MAX_PIXELS
from yolodata.images.resize import resized_shapes
from yolodata.shards.format import (
    MAX_NAME,
    MAX_SAMPLE,
    MAX_SIDE,
    PAGE,
    SHARD_HEADER,
    DatasetMeta,
)
from yolodata.shards.layout import Column

Array = npt.NDArray[Any]
_ROWS = 1 << 17
_QUOTED = 200  # characters


class Checker:
    """Checks the columns of one labels file.

    Args:
        where: name of the labels file, for messages.
        columns: places of the columns in the file.
        arrays: the columns.
    """

    def __init__(
        self,
        where: str,
        meta: DatasetMeta,
        columns: Mapping[str, Column],
        arrays: Mapping[str, Array],
    ) -> None:
        self._where = where
        self._meta = meta
        self._columns = columns
        self._arrays = arrays

    def structure(self) -> None:
        """Checks everything that the address or the shape of something depends on.

        Raises:
            ShardError: the labels file, the column, the row and its byte.
        """
        arrays, meta = self._arrays, self._meta
        for name in ("orig_height", "orig_width", "label_height", "label_width"):
            self._rows(
                name,
                f"from 1 to {MAX_SIDE}",
                partial(_not_a_side, arrays[name]),
            )
        self._sizes()
        self._places()
        self._offsets("name_offset", arrays["name"].shape[0])
        self._offsets("object_offset", meta.objects)
        self._offsets("polygon_offset", arrays["polygon"].shape[0])
        self._names()
        self._rows("cls", f"a whole number below {len(meta.names)}", self._wrong_classes)
        self._rows("box", "finite", partial(_not_finite, arrays["box"]))

    def values(self) -> None:
        """Checks the points of polygons and keypoints, which may be much larger than all the rest.

        Raises:
            ShardError: the labels file, the column, the row and its byte.
        """
        for name in ("polygon", "keypoints"):
            values = self._arrays.get(name)
            if values is not None:
                self._rows(name, "finite", partial(_not_finite, values))

    def _wrong_classes(self, rows: slice) -> Array:
        cls = self._arrays["cls"][rows]
        good: Array = (cls >= 0) & (cls < len(self._meta.names)) & (np.floor(cls) == cls)
        return ~good

    def _offsets(self, name: str, total: int) -> None:
        """Ranges: from 0, never backwards, to the length of what they divide."""
        values = self._arrays[name]
        if int(values[0]) != 0:
            self._fail(name, 0, "0", values[0])
        last = len(values) - 1
        if int(values[last]) != total:
            self._fail(name, last, f"{total}, the number of entries it divides", values[last])
        for begin in range(0, last, _ROWS):
            block = values[begin : min(begin + _ROWS, last) + 1]
            if int(block.max()) > total:
                row = begin + int((block > np.uint64(total)).argmax())
                self._fail(name, row, f"at most {total}, the end of what it divides", values[row])
            wrong = block[1:] < block[:-1]
            if wrong.any():
                row = begin + 1 + int(wrong.argmax())
                self._fail(name, row, f"at least {values[row - 1]}, the entry before", values[row])

    def _names(self) -> None:
        ends = self._arrays["name_offset"]
        for begin in range(0, len(ends) - 1, _ROWS):
            block = ends[begin : begin + _ROWS + 1]
            wrong = block[1:] - block[:-1] - np.uint64(1) >= np.uint64(MAX_NAME)  # 0 wraps around
            if wrong.any():
                row = begin + 1 + int(wrong.argmax())
                allowed = f"1 to {MAX_NAME} more than the entry before, {ends[row - 1]}"
                self._fail("name_offset", row, allowed, ends[row])

    def _sizes(self) -> None:
        """height and width follow from the original size and imgsz, as upstream resizes."""
        arrays, imgsz = self._arrays, self._meta.imgsz

        def sizes(rows: slice) -> tuple[Array, Array]:
            return resized_shapes(arrays["orig_height"][rows], arrays["orig_width"][rows], imgsz)

        rule = f"what an original of orig_height x orig_width becomes at imgsz={imgsz}"
        self._rows("height", rule, lambda rows: arrays["height"][rows] != sizes(rows)[0])
        self._rows("width", rule, lambda rows: arrays["width"][rows] != sizes(rows)[1])
        for name in ("orig", "label"):
            height, width = arrays[f"{name}_height"], arrays[f"{name}_width"]
            self._rows(
                f"{name}_height",
                f"at most {MAX_PIXELS} with {name}_width, in pixels",
                lambda r, h=height, w=width: h[r].astype(np.uint64) * w[r] > MAX_PIXELS,
            )

    def _places(self) -> None:
        """Samples lie in the tensors of existing shards, aligned, in order, without overlap."""
        arrays, meta = self._arrays, self._meta
        shard, offset, nbytes = arrays["shard"], arrays["offset"], arrays["nbytes"]
        tensor = np.array([s.nbytes - SHARD_HEADER for s in meta.shards], dtype=np.uint64)
        self._rows(
            "shard", f"below {len(tensor)}, the number of shards", lambda r: shard[r] >= len(tensor)
        )
        self._rows(
            "offset", f"a multiple of {PAGE}", lambda r: (offset[r] & np.uint64(PAGE - 1)) != 0
        )
        self._rows(
            "nbytes",
            f"from 1 to {MAX_SAMPLE}",
            lambda r: nbytes[r] - np.uint64(1) >= np.uint64(MAX_SAMPLE),  # 0 wraps around
        )
        self._rows("offset", "inside its shard", lambda r: offset[r] > tensor[shard[r]])
        self._rows(
            "nbytes",
            "at most what its shard has left",
            lambda r: nbytes[r] > tensor[shard[r]] - offset[r],
        )
        if meta.codec == "raw":
            height, width = arrays["height"], arrays["width"]
            self._rows(
                "nbytes",
                "height * width * 3",
                lambda r: nbytes[r] != height[r].astype(np.uint64) * width[r] * np.uint64(3),
            )

        def overlaps(rows: slice) -> Array:  # row i against row i - 1
            before = slice(max(rows.start - 1, 0), rows.stop - 1)
            here = slice(before.start + 1, rows.stop)
            later = shard[here] > shard[before]
            apart = (
                (shard[here] == shard[before])
                & (offset[here] >= offset[before])
                & (offset[here] - offset[before] >= nbytes[before])
            )
            wrong = ~(later | apart)
            return np.concatenate([[False], wrong]) if rows.start == 0 else wrong

        self._rows("offset", "behind the sample before it", overlaps)

    def _rows(self, name: str, allowed: str, wrong: Callable[..., Array]) -> None:
        values = self._arrays[name]
        for begin in range(0, len(values), _ROWS):
            found = wrong(slice(begin, min(begin + _ROWS, len(values))))
            if found.any():
                row = begin + int(found.argmax())
                self._fail(name, row, allowed, values[row])

    def _fail(self, name: str, row: int, allowed: str, got: Any) -> None:
        column = self._columns[name]
        byte = column.begin + row * (column.end - column.begin) // max(column.shape[0], 1)
        values = " ".join(str(got).split())  # a row of keypoints takes many lines
        values = values if len(values) <= _QUOTED else values[:_QUOTED] + "…"
        raise ShardError(
            f"{self._where}: byte {byte}: column {name}, row {row} must be {allowed}, got "
            f"{values}; the file is damaged, pack again"
        )


def _not_a_side(values: Array, rows: slice) -> Array:
    wrong: Array = (values[rows] - np.uint32(1)) >= np.uint32(MAX_SIDE)  # 0 wraps around
    return wrong


def _not_finite(values: Array, rows: slice) -> Array:
    block = values[rows]
    if np.isfinite(block.min()) and np.isfinite(block.max()):  # NaN wins in both
        return np.zeros(1, bool)
    good = np.asarray(np.isfinite(block.reshape(len(block), -1)).all(axis=1))
    return ~good
