"""The size that a header states is at least what the decoder makes of the file."""

from __future__ import annotations

import io
import math
import struct
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from test_images_decode import KINDS, encoded

from yolodata._native import jpeg_header
from yolodata.images.headers import read_header

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 255, (47, 61, 3), np.uint8))


def saved(kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    PICTURE.save(file, kind, **options)
    return file.getvalue()


MORE = [PICTURE.rotate(90)]
FILES = {kind: encoded(kind)[1] for kind in KINDS} | {
    "progressive": saved("JPEG", progressive=True),
    "j2k": saved("JPEG2000", no_jp2=True),
    "lossless webp": saved("WEBP", lossless=True),
    "tiles jp2": saved("JPEG2000", tile_size=(16, 16), num_resolutions=3, quality_layers=[9, 3]),
    "blocks jp2": saved("JPEG2000", codeblock_size=(16, 16), precinct_size=(64, 64)),
    "other jp2": saved("JPEG2000", irreversible=True, progression="RPCL", comment=b"xx"),
    "animated png": saved("PNG", save_all=True, append_images=MORE),
    "animated avif": saved("AVIF", save_all=True, append_images=MORE),
    "big tif": saved("TIFF", big_tiff=True),
    "lzw tif": saved("TIFF", compression="tiff_lzw"),
    "jpeg tif": saved("TIFF", compression="jpeg"),
    "mpo": saved("MPO", save_all=True, append_images=MORE),
    "os/2 bmp": b"BM" + struct.pack("<IIIIHHHH", 26 + 47 * 184, 0, 26, 12, 61, 47, 1, 24)
    + bytes(47 * 184),
}  # fmt: skip


def decoded(data: bytes) -> tuple[int, int] | None:
    try:
        picture = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        return None
    return None if picture is None else (picture.shape[0], picture.shape[1])


@pytest.mark.parametrize("kind", FILES)
def test_whole_files(kind: str) -> None:
    header = read_header(FILES[kind])
    assert header is not None
    assert header[:2] == (47, 61)
    assert sorted(decoded(FILES[kind]) or ()) == [47, 61]


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xd8\xff", b"P6\n64 48\n255\n" + bytes(9999), b"II*\0"]
)
def test_other_files_state_nothing(data: bytes) -> None:
    assert read_header(data) is None


@pytest.mark.parametrize("kind", FILES)
def test_no_byte_of_a_header_makes_reading_fail(kind: str) -> None:
    """Each of them, as what lengths, counts and offsets turn on; and the file cut off there."""
    data = bytearray(FILES[kind])
    for at in range(min(len(data), 400)):
        read_header(bytes(data[:at]))
        whole = data[at]
        for value in (0, 1, 2, 4, 7, 8, 127, 255):
            data[at] = value
            read_header(data)
        data[at] = whole


@settings(max_examples=600, deadline=None)
@given(
    kind=st.sampled_from(sorted(FILES)),
    changes=st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255)), max_size=3),
    near=st.sampled_from([40, 160, 1 << 16]),
    repeat=st.tuples(st.integers(0, 200), st.integers(0, 200), st.integers(0, 40)),
    keep=st.integers(1, 1 << 14),
)
def test_damaged_files(
    kind: str, changes: list[tuple[int, int]], near: int, repeat: tuple[int, int, int], keep: int
) -> None:
    """Whatever a file states, no decoder makes more of it; what states nothing is not decoded."""
    data = bytearray(FILES[kind])
    for at, value in changes:
        data[at % min(len(data), near)] = value
    to, begin, count = repeat
    data[to:to] = data[begin : begin + count]
    header = read_header(bytes(data[:keep]))
    if header is None or header.height * header.width > 1 << 20 or header.nbytes > 1 << 24:
        return
    assert math.prod(decoded(bytes(data[:keep])) or (0,)) <= header.height * header.width


def test_scans_are_counted_as_decoders_meet_them() -> None:
    """One, where the first has all components; else all of them, behind whatever lies between."""
    scan = b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 0, 63, 0) + b"\x12\xff\x00\xff\xd0\x34"
    three = b"\xff\xda" + struct.pack(">HB9B", 12, 3, 1, 0, 2, 0, 3, 0, 0, 63, 0) + b"\x12"
    comment = b"\xff\xfe" + struct.pack(">H", 2 + len(scan)) + scan

    def frame(marker: int) -> bytes:
        body = struct.pack(">BHHB", 8, 47, 61, 3) + bytes((1, 17, 0, 2, 17, 0, 3, 17, 0))
        return b"\xff\xd8\xff" + bytes((marker,)) + struct.pack(">H", 2 + len(body)) + body

    def scans(data: bytes) -> int:
        header = read_header(data)
        assert header is not None
        assert header[:2] == (47, 61)
        return header.scans

    assert scans(frame(0xC0) + three + scan + b"\xff\xd9") == 1
    assert scans(frame(0xC0) + scan * 3 + b"\xff\xd9") == 3
    for marker in (0xC2, 0xCA):
        assert scans(frame(marker) + three + scan * 3 + b"\xff\xd9") == 4
        assert scans(frame(marker) + scan + comment + b"xx" + scan + b"\xff\x02" + scan) == 3
        assert scans(frame(marker) + scan + b"\xff\xff" + scan + b"\xff\xd9" + scan) == 2
    assert scans(FILES["progressive"]) == FILES["progressive"].count(b"\xff\xda") == 10


def tiff(*fields: tuple[int, int, int]) -> bytes:
    """A TIFF file of a directory alone: tag, kind (3: 16 bits, 4: 32 bits) and value of each."""
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in fields)
    return b"II*\0" + struct.pack("<IH", 8, len(fields)) + entries


def test_the_larger_of_what_a_tiff_file_states_counts() -> None:
    sides = ((256, 4, 61), (257, 4, 47))
    samples = ((277, 3, 3), (258, 3, 16))
    assert read_header(tiff(*sides)) == (47, 61, 1, 47 * 61)
    assert read_header(tiff(*sides, *samples)) == (47, 61, 1, 6 * 47 * 61)
    assert read_header(tiff((256, 4, 9000), *sides, (257, 4, 1))) == (47, 9000, 1, 47 * 9000)
    assert read_header(tiff(*sides, (322, 4, 500), (323, 4, 400))) == (47, 61, 1, 200_000)
    assert read_header(tiff(*sides[:1])) is None
    assert read_header(tiff(*sides, *[(9999, 4, 0)] * 4095)) is None  # one entry too many


def test_boxes_without_end_state_nothing() -> None:
    def box(kind: bytes, content: bytes = b"", size: int | None = None) -> bytes:
        return struct.pack(">I4s", 8 + len(content) if size is None else size, kind) + content

    begin = box(b"ftyp", b"avif")
    end = box(
        b"meta", bytes(4) + box(b"iprp", box(b"ipco", box(b"ispe", struct.pack(">III", 0, 61, 47))))
    )
    assert read_header(begin + end) == (47, 61, 1, 0)
    assert read_header(begin + 4000 * box(b"free") + end) == (47, 61, 1, 0)
    assert read_header(begin + 4096 * box(b"free") + end) is None
    many = box(b"moov", 100 * box(b"free"))
    assert read_header(begin + 40 * many + end) == (47, 61, 1, 0)
    assert read_header(begin + 41 * many + end) is None
    # One that ends before it begins, and another one in it, behind which all is well.
    assert read_header(begin + box(b"\0\0\0\x0c", b"freefree", size=4) + end) is None


def test_a_jpeg_header_is_read_where_its_segments_are() -> None:
    def segment(marker: int, body: bytes) -> bytes:
        return bytes((0xFF, marker)) + struct.pack(">H", 2 + len(body)) + body

    def header(frame: bytes, steps: bytes = bytes(65)) -> tuple[int, int, int, bool, bool] | None:
        scan = segment(0xDA, bytes((1, 1, 0, 0, 63, 0))) + b"\x12\xff\xd9"
        parts = segment(0xDB, steps) + segment(0xC0, frame) + scan
        return jpeg_header(b"\xff\xd8" + parts)

    frame = struct.pack(">BHHB", 8, 47, 61, 1) + bytes((1, 0x11, 0))
    assert header(frame) == (47, 61, 1, True, True)
    assert header(frame[:5]) is None
    for other in (frame[:6], frame + b"\0", b"\x0c" + frame[1:], frame[:5] + b"\2" + frame[6:]):
        assert header(other) == (47, 61, 1, True, False)
    for steps in (bytes(64), bytes(66), b"\x10" + bytes(64)):
        assert header(frame, steps) == (47, 61, 1, True, False)
