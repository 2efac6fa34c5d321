"""The size that a picture file states, found before any decoder is called.

A file of a few kilobytes may state a size that takes gigabytes to decode, so what decides is asked
of the header alone. Every format is read as its decoder reads it. Where a field may stand twice,
the larger one counts, and a file whose header is not where the format puts it states nothing, so
that nobody decodes it. Nothing here takes longer than to read the file once.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from yolodata._native import jpeg_header
from yolodata.images.jpeg_2000 import read_codestream

_ENTRIES = 4096  # of a TIFF directory, or boxes of a file, that are looked at
_CHUNK = _BOX = struct.Struct(">I4s")
_CHUNKS = 1 << 20  # of a PNG file: as they are written, for 8 GiB
_INTEGERS = {
    1: "B", 3: "H", 4: "I", 6: "B", 8: "H", 9: "I", 13: "I", 16: "Q", 17: "Q", 18: "Q"
}  # of the fields of a TIFF directory, by their type  # fmt: skip
_OF_SIZE = _WIDTH, _LENGTH, _BITS, _SAMPLES, _TILE_WIDTH, _TILE_LENGTH = (
    256, 257, 258, 277, 322, 323
)  # fmt: skip
_NESTED = {
    b"meta": 4, b"iprp": 0, b"ipco": 0, b"moov": 0, b"trak": 0, b"jp2h": 0
}  # box -> bytes of its own  # fmt: skip


class Header(NamedTuple):
    """What a picture file states.

    Attributes:
        height: in pixels, before its EXIF orientation is applied.
        width: in pixels.
        scans: how often a decoder goes over the picture; more than 1 in some JPEG files.
        nbytes: memory that its decoder takes for samples, where they may be more or larger than
            four of 16 bits a pixel.
    """

    height: int
    width: int
    scans: int = 1
    nbytes: int = 0


def read_header(data: npt.NDArray[np.uint8] | bytes) -> Header | None:
    """Reads the header of a picture file; of several pictures in a file, the first one's.

    Args:
        data: uint8 (n,) or bytes, the whole file.

    Returns:
        None for what is no picture of a format that is known: AVIF, BMP, GIF, HEIF, JPEG,
        JPEG 2000, PNG, TIFF, WebP.
    """
    view = np.frombuffer(data, np.uint8).data
    start = bytes(view[:16])
    for signature, read in _FORMATS:
        if start.startswith(signature):
            try:
                return read(view)
            except (struct.error, IndexError, OverflowError):  # it is cut off
                return None
    return _iso_media(view) if is_iso_media(data) else None


def is_iso_media(data: npt.NDArray[np.uint8] | bytes) -> bool:
    """Whether a file is AVIF, HEIF or the like, by its first bytes."""
    return bytes(data[4:8]) == b"ftyp"


def is_narrow_grey(data: npt.NDArray[np.uint8] | bytes) -> bool:
    """Whether an AVIF file is grey, and not said to use all values from 0 to 255."""
    view = np.frombuffer(data, np.uint8).data
    grey, full = [], False
    for kind, begin, end in _all_boxes(view):
        box = bytes(view[begin : min(end, begin + 11)])
        if kind == b"av1C" and len(box) >= 3:
            grey.append(bool(box[2] & 0x10))
        elif kind == b"colr" and box.startswith(b"nclx") and len(box) == 11:
            full = bool(box[10] & 0x80)
    return bool(grey) and all(grey) and not full  # of a colour picture, only the alpha is grey


def _jpeg(view: memoryview) -> Header | None:
    found = jpeg_header(np.frombuffer(view, np.uint8))
    return None if found is None else Header(*found[:3])


def _png(view: memoryview) -> Header | None:
    kind, width, height = struct.unpack_from(">4sII", view, 12)
    if kind != b"IHDR":
        return None
    # OpenCV takes as much memory as a chunk states, also where the file has long ended. Of a file
    # that is cut off, the last chunk may be missing: no more than all samples take uncompressed.
    longest = len(view) + 16 * width * height + (1 << 20)
    at, last = 8, len(view) - 8
    for _ in range(_CHUNKS):
        if at > last or kind == b"IEND":
            return Header(height, width)
        length, kind = _CHUNK.unpack_from(view, at)
        if at + length > longest:
            return None
        at += 12 + length
    return None


def _gif(view: memoryview) -> Header:
    width, height = struct.unpack_from("<HH", view, 6)
    return Header(height, width)


def _bmp(view: memoryview) -> Header:
    (size,) = struct.unpack_from("<I", view, 14)
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", view, 18)
    return Header(abs(height), abs(width))  # rows from above have a negative height


def _webp(view: memoryview) -> Header | None:
    kind = bytes(view[12:16])
    if bytes(view[8:12]) != b"WEBP":
        return None
    if kind == b"VP8X":
        sides = bytes(view[24:30])
        width, height = (int.from_bytes(sides[k : k + 3], "little") + 1 for k in (0, 3))
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", view, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", view, 26))
    else:
        return None
    return Header(height, width)


def _tiff(view: memoryview) -> Header | None:
    order = "<" if view[0] == ord("I") else ">"
    big = struct.unpack_from(order + "H", view, 2)[0] == 43  # BigTIFF
    offset, number = ("Q", "Q") if big else ("I", "H")
    (at,) = struct.unpack_from(order + offset, view, 8 if big else 4)
    (count,) = struct.unpack_from(order + number, view, at)
    if count > _ENTRIES:
        return None
    fields = {_BITS: 1, _SAMPLES: 1}
    entry, room = struct.Struct(order + "HH" + offset), struct.calcsize(order + offset)
    first = at + struct.calcsize(order + number)
    for at in range(first, first + count * (entry.size + room), entry.size + room):
        tag, kind, values = entry.unpack_from(view, at)
        if tag not in _OF_SIZE or kind not in _INTEGERS:
            continue
        letter, place = order + _INTEGERS[kind], at + entry.size
        if values * struct.calcsize(letter) > room:
            (place,) = struct.unpack_from(order + offset, view, place)
        (value,) = struct.unpack_from(letter, view, place)
        fields[tag] = max(value, fields.get(tag, 0))
    if _WIDTH not in fields or _LENGTH not in fields:
        return None
    height, width = fields[_LENGTH], fields[_WIDTH]
    pixels = max(height * width, fields.get(_TILE_LENGTH, 0) * fields.get(_TILE_WIDTH, 0))
    return Header(height, width, nbytes=pixels * fields[_SAMPLES] * -(-fields[_BITS] // 8))


def _jpeg_2000(view: memoryview) -> Header | None:
    channels = 0  # of a palette: its decoder makes as many pictures of one
    for kind, begin, end in _all_boxes(view):
        if kind == b"pclr":
            channels = max(channels, view[begin + 2])
        elif kind == b"jp2c":
            found = _codestream(view[begin:end])
            if found is None:
                return None
            return found._replace(nbytes=found.nbytes + 4 * channels * found.height * found.width)
    return None


def _codestream(view: memoryview) -> Header | None:
    found = read_codestream(view)
    return None if found is None else Header(found.height, found.width, nbytes=found.nbytes)


def _iso_media(view: memoryview) -> Header | None:
    """AVIF and HEIF: the largest picture or track, of which the others are tiles or thumbnails."""
    found = Header(0, 0)
    for kind, begin, end in _all_boxes(view):
        try:
            if kind == b"ispe":
                width, height = struct.unpack_from(">II", view[begin:end], 4)
            elif kind == b"tkhd":
                sides = struct.unpack_from(">II", view[begin:end], 88 if view[begin] == 1 else 76)
                width, height = (side >> 16 for side in sides)
            else:
                continue
        except (struct.error, IndexError):
            return None
        if height * width > found.height * found.width:
            found = Header(height, width)
    return found if found.height else None


def _all_boxes(view: memoryview) -> Iterator[tuple[bytes, int, int]]:
    """Boxes of a file and of those that hold others, as `_boxes`; so many of all at most."""
    waiting = [_boxes(view, 0, len(view))]
    for _ in range(_ENTRIES):
        while waiting:
            box = next(waiting[-1], None)
            if box is not None:
                break
            waiting.pop()
        else:
            return
        yield box
        kind, begin, end = box
        if kind in _NESTED:
            waiting.append(_boxes(view, begin + _NESTED[kind], end))


def _boxes(view: memoryview, at: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, first byte and end of what is in each box."""
    for _ in range(_ENTRIES):
        if end - at < 8:
            return
        begin = at + 8
        size, kind = _BOX.unpack_from(view, at)
        if size == 1 and end - at >= 16:
            begin += 8
            (size,) = struct.unpack_from(">Q", view, at + 8)
        size = size or end - at  # the last one
        if size < begin - at:
            return
        yield kind, begin, min(at + size, end)
        at += size


_FORMATS: tuple[tuple[bytes, Callable[[memoryview], Header | None]], ...] = (
    (b"\xff\xd8\xff", _jpeg),
    (b"\x89PNG\r\n\x1a\n", _png),
    (b"GIF87a", _gif),
    (b"GIF89a", _gif),
    (b"BM", _bmp),
    (b"RIFF", _webp),
    (b"II*\0", _tiff),
    (b"MM\0*", _tiff),
    (b"II+\0", _tiff),
    (b"MM\0+", _tiff),
    (b"\0\0\0\x0cjP  \r\n\x87\n", _jpeg_2000),
    (b"\xff\x4f\xff\x51", _codestream),
)
