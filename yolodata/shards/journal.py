"""What a packer has done so far: an append-only file of checksummed records.

A record is written after the bytes it describes, and holds everything about a sample but its
pixels, so that a packer that was killed continues, and the labels file is made, from the journal
alone. A record that was not written completely ends the journal.

    record  = length u32, xxh3_64 of payload u64, payload
    payload = kind byte, content

All numbers are little endian.
"""

from __future__ import annotations

import json
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from yolodata.errors import ShardError
from yolodata.files import write_all

Float32 = npt.NDArray[np.float32]

BEGIN, CLEARED, SAMPLE, LEFT_OUT, CLOSED, FINISHED = b"B", b"C", b"S", b"L", b"D", b"F"

_HEAD = struct.Struct("<IQ")
_SAMPLE = struct.Struct("<IQQQ6IIIB")
SAMPLE_FIELDS = np.dtype(
    [("shard", "<u4"), *((name, "<u8") for name in ("offset", "nbytes", "checksum"))]
    + [(name, "<u4") for name in ("height", "width", "orig_height", "orig_width")]
    + [(name, "<u4") for name in ("label_height", "label_width", "name_bytes", "objects")]
    + [("keypoints", "u1")]
)
_READ = 1 << 22
_MAX_RECORD = 1 << 30


class Annotation(NamedTuple):
    """The labels of one image with n objects, as upstream's label check gives them.

    Attributes:
        cls: float32 (n,), class numbers.
        box: float32 (n, 4), centre x, centre y, width, height as fractions of the picture.
        polygons: for each object float32 (points, 2), x, y as fractions; None if there are none.
        keypoints: float32 (n, K, 3), x, y as fractions, visibility; None without kpt_shape.
        label_height, label_width: pixels, the picture's size as the label check reports it.
    """

    cls: Float32
    box: Float32
    polygons: Sequence[Float32] | None
    keypoints: Float32 | None
    label_height: int
    label_width: int


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

    def pack(self) -> bytes:
        """The payload of a SAMPLE record."""
        labels = self.labels
        n = len(labels.cls)
        polygons = labels.polygons
        fixed = _SAMPLE.pack(
            self.shard,
            self.offset,
            self.nbytes,
            self.checksum,
            self.height,
            self.width,
            self.orig_height,
            self.orig_width,
            labels.label_height,
            labels.label_width,
            len(self.name),
            n,
            0 if labels.keypoints is None else labels.keypoints.shape[1],
        )
        counts = (
            bytes(4 * n)
            if polygons is None
            else np.array([len(p) for p in polygons], "<u4").tobytes()
        )
        parts = [
            SAMPLE,
            fixed,
            self.name,
            counts,
            _floats(labels.cls),
            _floats(labels.box),
        ]
        if polygons:
            parts.append(_floats(np.concatenate(polygons)))
        if labels.keypoints is not None:
            parts.append(_floats(labels.keypoints))
        return b"".join(parts)

    @property
    def counts(self) -> Counts:
        """What `Totals` counts of it."""
        polygons = self.labels.polygons
        points = sum(len(p) for p in polygons) if polygons else 0
        return Counts(len(self.labels.cls), points, len(self.name))


class Counts(NamedTuple):
    """How much of one sample goes into columns of more or fewer values than one."""

    objects: int
    points: int
    name_bytes: int


class Parts(NamedTuple):
    """Payloads of SAMPLE records, taken apart: each part belongs into a column as it is."""

    fixed: npt.NDArray[np.void]  # (rows,) with the fields of SAMPLE_FIELDS
    names: list[bytes]
    counts: list[bytes]  # u32, points of the polygon of each object
    cls: list[bytes]
    boxes: list[bytes]
    polygons: list[bytes]
    keypoints: list[bytes]


def take_apart(payloads: Sequence[bytes]) -> Parts:
    """The inverse of `Row.pack`, for many at once: no numbers are made of what only moves on."""
    begin = 1 + _SAMPLE.size
    fixed = np.frombuffer(b"".join([p[1:begin] for p in payloads]), SAMPLE_FIELDS)
    parts = Parts(fixed, [], [], [], [], [], [])
    sizes = fixed[["name_bytes", "objects", "keypoints"]].tolist()
    for payload, (name_bytes, n, keypoints) in zip(payloads, sizes, strict=True):
        counts = begin + name_bytes
        cls = counts + 4 * n
        box = cls + 4 * n
        polygons = box + 16 * n
        points = len(payload) - 12 * n * keypoints
        parts.names.append(payload[begin:counts])
        parts.counts.append(payload[counts:cls])
        parts.cls.append(payload[cls:box])
        parts.boxes.append(payload[box:polygons])
        parts.polygons.append(payload[polygons:points])
        parts.keypoints.append(payload[points:])
    return parts


def _floats(values: Float32) -> bytes:
    return np.ascontiguousarray(values, "<f4").tobytes()


def json_payload(kind: bytes, content: Any) -> bytes:
    """The payload of a record whose content is JSON."""
    return kind + json.dumps(content, sort_keys=True).encode()


def size(payload: bytes) -> int:
    """Bytes that the record of a payload takes in the journal."""
    return _HEAD.size + len(payload)


def encode(payload: bytes) -> bytes:
    """The record of a payload.

    Raises:
        ShardError: it is too long.
    """
    if len(payload) > _MAX_RECORD:
        raise ShardError(f"labels of one image take {len(payload)} bytes, at most {_MAX_RECORD}")
    return _HEAD.pack(len(payload), xxhash.xxh3_64_intdigest(payload)) + payload


class Journal:
    """An open journal; appending is safe from several threads."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._end = os.fstat(self._fd).st_size
        self._lock = threading.Lock()
        self._broken: OSError | None = None

    def append(self, *payloads: bytes, sync: bool = False) -> None:
        """Add records, in one write.

        Raises:
            OSError: they cannot be stored; the journal is as before and takes no more records.
        """
        data = b"".join(encode(payload) for payload in payloads)
        with self._lock:
            if self._broken is not None:  # in another thread, say; its cause is the news
                raise OSError(self._broken.errno, self._broken.strerror)
            try:
                write_all(self._fd, data, self._end)
                if sync:
                    os.fsync(self._fd)
            except OSError as error:
                self._broken = error
                os.ftruncate(self._fd, self._end)
                raise
            self._end += len(data)

    def records(self) -> Iterator[tuple[int, bytes]]:
        """Position and payload of every complete record."""
        at, end = 0, self._end
        buffer, start = b"", 0  # bytes of the file from `start`
        while at + _HEAD.size <= end:
            if at + _HEAD.size > start + len(buffer):
                buffer, start = os.pread(self._fd, _READ, at), at
                if len(buffer) < _HEAD.size:
                    return
            length, checksum = _HEAD.unpack_from(buffer, at - start)
            after = at + _HEAD.size + length
            if after > end or length == 0:
                return
            if after > start + len(buffer):
                buffer, start = os.pread(self._fd, max(_READ, after - at), at), at
                if after > start + len(buffer):
                    return
            payload = buffer[at - start + _HEAD.size : after - start]
            if xxhash.xxh3_64_intdigest(payload) != checksum:
                return
            yield at, payload
            at = after

    def truncate(self, at: int) -> None:
        """Forget all records from byte `at`."""
        os.ftruncate(self._fd, at)
        self._end = at

    def close(self) -> None:
        """Close the file; what was appended stays."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
