"""The headers of shards and labels files: safetensors, with every byte prescribed.

A header follows from a few numbers, so a reader makes the header it expects and compares. See
docs/shard-format.md.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from yolodata.errors import ShardError
from yolodata.shards.format import FORMAT_VERSION, SHARD_HEADER, DatasetMeta, is_count
from yolodata.shards.json_text import parse_json, quoted

_DTYPES = {"U8": "u1", "U32": "<u4", "F32": "<f4", "U64": "<u8"}
_ITEMSIZE = {"U8": 1, "U32": 4, "F32": 4, "U64": 8}
# safetensors leaves no hole between tensors, so the widest come first: each column is then aligned
# to its own item size. n images, m objects, p polygon points, b bytes of names.
_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("offset", "U64", "n"),
    ("nbytes", "U64", "n"),
    ("checksum", "U64", "n"),
    ("name_offset", "U64", "n+1"),
    ("object_offset", "U64", "n+1"),
    ("polygon_offset", "U64", "m+1"),
    ("shard", "U32", "n"),
    ("height", "U32", "n"),
    ("width", "U32", "n"),
    ("orig_height", "U32", "n"),
    ("orig_width", "U32", "n"),
    ("label_height", "U32", "n"),
    ("label_width", "U32", "n"),
    ("cls", "F32", "m"),
    ("box", "F32", "m,4"),
    ("polygon", "F32", "p,2"),
    ("keypoints", "F32", "m,k,3"),
    ("name", "U8", "b"),
)


def shard_header(nbytes: int) -> bytes:
    """Gives the first `SHARD_HEADER` bytes of a shard whose tensor has `nbytes` bytes."""
    header = {
        "__metadata__": {"format": f"yolodata shard {FORMAT_VERSION}"},
        "data": {"dtype": "U8", "shape": [nbytes], "data_offsets": [0, nbytes]},
    }
    return _safetensors_header(header, SHARD_HEADER)


def _safetensors_header(header: dict[str, Any], total: int = 0) -> bytes:
    text = json.dumps(header, separators=(",", ":")).encode()
    total = total or -(-(8 + len(text)) // 64) * 64  # so that every column is aligned in memory
    return (total - 8).to_bytes(8, "little") + text.ljust(total - 8)


@dataclass(frozen=True)
class Column:
    """Place of one column in the labels file. `begin` and `end` are byte positions in the file."""

    name: str
    dtype: str  # U8, U32, U64 or F32, little endian
    shape: tuple[int, ...]
    begin: int
    end: int

    def view(self, data: npt.NDArray[np.uint8], start: int = 0) -> npt.NDArray[Any]:
        """Shows the column in the file's bytes from byte `start` on, uint8 (n,)."""
        raw = data[self.begin - start : self.end - start]
        return raw.view(_DTYPES[self.dtype]).reshape(self.shape)


@dataclass(frozen=True)
class LabelsLayout:
    """Header and columns of a labels file, which follow from five numbers."""

    header: bytes
    columns: Mapping[str, Column]
    nbytes: int

    @staticmethod
    def of(
        images: int, objects: int, points: int, name_bytes: int, keypoints: int | None
    ) -> LabelsLayout:
        """Lays the columns out; `keypoints` is K of kpt_shape, or None."""
        counts = {
            "n": images, "n+1": images + 1, "m": objects, "m+1": objects + 1,
            "p": points, "b": name_bytes, "k": keypoints or 0, "2": 2, "3": 3, "4": 4,
        }  # fmt: skip
        placed: list[tuple[str, str, tuple[int, ...], int, int]] = []
        header: dict[str, Any] = {"__metadata__": {"format": f"yolodata labels {FORMAT_VERSION}"}}
        at = 0
        for name, dtype, axes in _COLUMNS:
            if name == "keypoints" and keypoints is None:
                continue
            shape = tuple(counts[axis] for axis in axes.split(","))
            end = at + _ITEMSIZE[dtype]
            for extent in shape:
                end = at + (end - at) * extent
            placed.append((name, dtype, shape, at, end))
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
            at = end
        head = _safetensors_header(header)
        start = len(head)
        columns = {c[0]: Column(c[0], c[1], c[2], start + c[3], start + c[4]) for c in placed}
        return LabelsLayout(head, columns, start + at)


def parse_labels_header(head: bytes, nbytes: int, meta: DatasetMeta, where: str) -> LabelsLayout:
    """Checks the header of a labels file against the numbers it must follow from.

    Args:
        head: the file's first bytes, at least 8 and at least as many as its header has.
        nbytes: size of the file.

    Raises:
        ShardError: the first byte or column that is wrong.
    """
    length = header_length(head, nbytes, where)
    try:
        header = parse_json(head[8:length], f"{where}: bytes 8 to {length}")
        points = header["polygon"]["shape"][0]
        name_bytes = header["name"]["shape"][0]
    except (KeyError, TypeError, IndexError) as error:
        raise ShardError(
            f"{where}: bytes 8 to {length} are not the safetensors header of a labels file "
            f"({type(error).__name__}: {error}); pack again"
        ) from None
    if not (is_count(points, 0, nbytes) and is_count(name_bytes, 0, nbytes)):
        raise ShardError(
            f"{where}: the header claims {quoted(points)} polygon points and {quoted(name_bytes)} "
            f"bytes of names in a file of {nbytes} bytes; pack again"
        )
    layout = LabelsLayout.of(meta.images, meta.objects, points, name_bytes, meta.keypoints)
    if head[:length] != layout.header:
        for name, column in layout.columns.items():
            begin = len(layout.header)
            want = {
                "dtype": column.dtype,
                "shape": list(column.shape),
                "data_offsets": [column.begin - begin, column.end - begin],
            }
            if header.get(name) != want:
                raise ShardError(
                    f"{where}: column {name} must be {want} for {meta.images} images and "
                    f"{meta.objects} objects, got {quoted(header.get(name))}; pack again"
                )
        pairs = zip(head[:length], layout.header, strict=False)
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), len(layout.header))
        raise ShardError(f"{where}: the header differs from the format at byte {at}; pack again")
    if nbytes != layout.nbytes:
        raise ShardError(
            f"{where}: has {nbytes} bytes, its header describes {layout.nbytes}; the file is cut "
            "off or damaged, pack again"
        )
    return layout


def header_length(head: bytes, nbytes: int, where: str) -> int:
    """Size of a safetensors header, its 8-byte length included.

    Raises:
        ShardError: it does not fit into the file.
    """
    length = 8 + int.from_bytes(head[:8], "little")
    if len(head) < 8 or length > min(nbytes, 1 << 20):
        raise ShardError(
            f"{where}: byte 0: the header claims {length - 8} bytes in a file of {nbytes} bytes; "
            "the file is damaged, pack again"
        )
    return length
