"""JPEG files with several scans become baseline ones with the same pixels, in every decoder, or
stay as they are."""

from __future__ import annotations

import io
from collections.abc import Callable

import cv2
import numpy as np
import pytest
from guarded import guarded_bytes
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jpeg_files import (
    DHT,
    SOF2,
    SOS,
    a_scan_each,
    files,
    joined,
    last_scans_removed,
    progressive,
    segments,
)
from PIL import Image

from yolodata._native import baseline_jpeg, jpeg_header

FILES = files()
DRI = 0xDD


def opencv(data: bytes, flags: int = cv2.IMREAD_COLOR) -> np.ndarray | None:
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def made(data: bytes) -> bytes:
    found, why = baseline_jpeg(guarded_bytes(data))
    assert found is not None, why
    return found.tobytes()


def reason(data: bytes) -> str:
    found, why = baseline_jpeg(guarded_bytes(data))
    assert found is None
    return why


@pytest.mark.parametrize("name", FILES)
def test_every_decoder_gives_the_same_pixels(name: str) -> None:
    before = FILES[name]
    after = made(before)
    assert jpeg_header(before)[2] > jpeg_header(after)[2] == 1
    # At an eighth of the size, a pixel is the first coefficient of a block, nearly as it is.
    for flags in (cv2.IMREAD_COLOR, cv2.IMREAD_UNCHANGED, cv2.IMREAD_REDUCED_COLOR_8):
        np.testing.assert_array_equal(opencv(after, flags), opencv(before, flags))
    pillow = [np.asarray(Image.open(io.BytesIO(data))) for data in (before, after)]
    np.testing.assert_array_equal(*pillow)
    assert baseline_jpeg(after)[0] is None


def test_dali_gives_the_same_pixels() -> None:
    pytest.importorskip("nvidia.dali")
    from nvidia.dali import fn, pipeline_def

    pairs = [(data, made(data)) for name, data in FILES.items() if name != "cmyk"]
    encoded = [np.frombuffer(data, np.uint8) for pair in pairs for data in pair]

    @pipeline_def(batch_size=len(encoded), num_threads=1, device_id=None)
    def graph() -> object:
        source = fn.external_source(lambda: encoded, batch=True)
        return fn.decoders.image(source, device="cpu")

    built = graph()
    built.build()
    (pictures,) = built.run()
    for k in range(0, len(encoded), 2):
        np.testing.assert_array_equal(np.array(pictures[k]), np.array(pictures[k + 1]))


@pytest.mark.parametrize("name", FILES)
def test_all_but_the_entropy_code_stays(name: str) -> None:
    """Adobe's marker, JFIF, EXIF data, profiles and quantisation tables, in their order."""

    def kept(data: bytes) -> list[tuple[int, bytes]]:
        found = []
        for marker, body in segments(data):
            if marker == SOS:
                break
            if marker not in (DHT, DRI):
                found.append((0xC0 if marker == SOF2 else marker, body))
        return found

    assert kept(made(FILES[name])) == kept(FILES[name])


def changed(data: bytes, marker: int, at: int, value: int) -> bytes:
    """A file with another byte in the segment of a marker."""
    place = data.index(bytes([0xFF, marker])) + 4 + at
    return data[:place] + bytes([value]) + data[place + 1 :]


def as_marker(data: bytes, marker: int) -> bytes:
    return data.replace(b"\xff\xc2", bytes([0xFF, marker]), 1)


GOOD = progressive(40, 56)
KEPT = {
    "lacks some of its coefficients": last_scans_removed(GOOD, 1),
    "arithmetic": as_marker(GOOD, 0xCA),
    "lossless or hierarchical": as_marker(GOOD, 0xC6),
    "8 bits a sample": changed(GOOD, SOF2, 0, 12),
    "does not state its size": changed(GOOD, SOF2, 2, 0),
    "do not fit into one scan": changed(GOOD, SOF2, 10, 0x44),
    "quantisation table has 16 bits": changed(GOOD, 0xDB, 0, 0x10),
    "behind its end marker": GOOD + b"\n",
    "ends within a scan": GOOD[: len(GOOD) * 9 // 10],
}


@pytest.mark.parametrize("why", KEPT)
def test_what_is_not_sure_stays(why: str) -> None:
    """Decoders smooth blocks that lack coefficients, and make what they can of damage."""
    assert why in reason(KEPT[why])


Parts = list[tuple[int, bytes]]
PARTS: Parts = list(segments(GOOD))
FIRST, SECOND = [k for k, (marker, _) in enumerate(PARTS) if marker == SOS][:2]
SEQUENTIAL: Parts = list(segments(a_scan_each()))
RESTARTED = progressive(60, 90, restart=3)


def other(
    marker: int, change: Callable[[bytes], bytes], parts: Parts = PARTS, number: int = 0
) -> bytes:
    """A file in which one segment of a marker, counted by `number`, has another body."""
    k = [k for k, (found, _) in enumerate(parts) if found == marker][number]
    return joined([*parts[:k], (marker, change(parts[k][1])), *parts[k + 1 :]])


def put(at: int, *values: int) -> Callable[[bytes], bytes]:
    return lambda body: body[:at] + bytes(values) + body[at + len(values) :]


def symbols(value: int) -> Callable[[bytes], bytes]:
    """A table in which every code means the same."""
    return lambda body: body[:17] + bytes([value]) * (len(body) - 17)


def without(marker: int) -> bytes:
    return joined([part for part in PARTS if part[0] != marker])


def with_first_scan(body: bytes) -> bytes:
    return joined([*PARTS[:FIRST], (SOS, body), *PARTS[FIRST + 1 :]])


BROKEN = [
    ("several frames", joined([*PARTS[:FIRST], (SOF2, PARTS[3][1]), *PARTS[FIRST:]])),
    ("segment between two scans", joined([*PARTS[:SECOND], (0xFE, b"hello"), *PARTS[SECOND:]])),
    ("no end marker", GOOD[:-2] + b"\xff\xdd\0\4\0\0"),
    ("gap between two segments", joined(PARTS[:1])[:-2] + b"\0" + joined(PARTS[1:])[2:]),
    ("a segment is cut off", GOOD[:-2] + b"\xff\xc4\0"),
    ("a segment is cut off", GOOD[:-2] + b"\xff\xc4\1\0"),
    ("a segment is cut off", GOOD[:-2] + b"\xff\xc4\0\1" + bytes(9)),
    ("restart interval", joined([(DRI, b"\0\3\0"), *PARTS])),
    ("quantisation table is cut off", other(0xDB, lambda body: body + b"\0")),
    ("Huffman table cannot be read", other(DHT, put(0, 4))),
    ("Huffman table cannot be read", other(DHT, lambda body: body[:10])),
    ("Huffman table cannot be read", other(DHT, lambda body: body[:-1])),
    ("Huffman table cannot be read", other(DHT, lambda _: b"\0" + b"\xff" * 16 + bytes(4080))),
    ("symbol that is too large", other(DHT, lambda body: body[:-1] + b"\x10")),
    ("symbol that is too large", other(DHT, lambda body: body[:-1] + b"\x1a", SEQUENTIAL)),
    ("too many codes", other(DHT, lambda _: b"\0\2" + bytes(15) + b"\1\2")),
    ("frame cannot be read", other(SOF2, lambda body: body + b"\0")),
    ("odd number of components", other(SOF2, lambda body: body[:5] + b"\2" + body[6:12])),
    ("frame cannot be read", other(SOF2, put(7, 0x01))),
    ("frame cannot be read", other(SOF2, put(7, 0x15))),
    ("frame cannot be read", other(SOF2, put(8, 4))),
    ("one name", other(SOF2, put(9, 1))),
    ("lacks a quantisation table", without(0xDB)),
    ("too large", other(SOF2, put(1, 0xFF, 0, 0xFF, 0))),
    ("scan cannot be read", GOOD[:-2] + b"\xff\xda\0\x10\5" + bytes(13) + b"\xff\xd9"),
    ("scan cannot be read", GOOD[:-2] + b"\xff\xda\0\x09\1\1" + bytes(5) + b"\xff\xd9"),
    ("scan cannot be read", other(SOS, put(1, 9))),
    ("scan cannot be read", other(SOS, put(3, 1))),
    ("scan cannot be read", other(SOS, put(2, 0x40))),
    ("scan cannot be read", other(SOS, put(3, 1), SEQUENTIAL)),
    ("unusual range", other(SOS, put(4, 64), number=1)),
    ("unusual range", other(SOS, put(8, 5))),
    ("unusual order", joined([*PARTS[:FIRST], *PARTS[FIRST + 1 :]])),
    ("unusual order", joined([*PARTS[:SECOND], PARTS[FIRST], *PARTS[SECOND:]])),
    ("lacks a Huffman table", without(DHT)),
    ("restart marker is missing", RESTARTED.replace(b"\xff\xd1", b"\xff\xd5", 1)),
    ("lies between a scan and", with_first_scan(PARTS[FIRST][1] + bytes(20))),
    ("scan is cut off", with_first_scan(PARTS[FIRST][1][:-8])),
    ("in no table", other(DHT, lambda _: bytes(16) + b"\1\0")),
    ("value is too large", other(DHT, symbols(15))),
    ("value is too large", other(DHT, symbols(0x0F), number=2)),
    ("too many coefficients", other(DHT, symbols(0xF1), number=2)),
    ("beyond the end of its scan", other(DHT, symbols(0x10), number=2)),
    ("larger than a bit", other(DHT, symbols(0x02), number=6)),
    ("too many coefficients", other(DHT, symbols(0xF1), number=6)),
    ("too many coefficients", other(DHT, symbols(0xF1), SEQUENTIAL, 1)),
    ("code cannot be read", other(DHT, symbols(0x30), SEQUENTIAL, 1)),
    ("value is too large", other(DHT, symbols(0x0F), SEQUENTIAL, 1)),
]


@pytest.mark.parametrize(("why", "data"), BROKEN, ids=range(len(BROKEN)))
def test_what_is_broken_is_told_by_its_reason(why: str, data: bytes) -> None:
    """Each of these would be read, or written to, where it must not be."""
    assert why in reason(data)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(cv2.imencode(".jpg", opencv(GOOD))[1].tobytes(), id="baseline"),
        pytest.param(cv2.imencode(".png", opencv(GOOD))[1].tobytes(), id="png"),
        b"",
        b"\xff\xd8",
        b"\xff\xd8\xff\xd9",
    ],
)
def test_other_files_are_none_of_its_business(data: bytes) -> None:
    assert baseline_jpeg(guarded_bytes(data)) == (None, "")


@settings(max_examples=600, deadline=None)
@given(
    name=st.sampled_from(sorted(FILES)),
    flips=st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(1, 255)), max_size=3),
    cut=st.one_of(st.just(0), st.integers(0, 400)),
)
@example(name="a scan each", flips=[(120, 16)], cut=0)  # a DC symbol that no value has
def test_a_damaged_file_stays_or_keeps_its_pixels(
    name: str, flips: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(FILES[name])
    for at, value in flips:
        data[at % len(data)] ^= value
    data = bytes(data[: len(data) - cut])
    found, _ = baseline_jpeg(guarded_bytes(data))
    if found is None:
        return
    before, after = opencv(data), opencv(found.tobytes())
    assert (before is None) == (after is None)
    if before is not None:
        np.testing.assert_array_equal(after, before)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    sampling=st.sampled_from(["444", "422", "420", "440", "411"]),
    quality=st.integers(1, 100),
    restart=st.integers(0, 7),
)
def test_any_picture(height: int, width: int, sampling: str, quality: int, restart: int) -> None:
    data = progressive(height, width, sampling, quality, restart)
    np.testing.assert_array_equal(opencv(made(data)), opencv(data))


def test_the_tests_see_a_wrong_coefficient() -> None:
    """Negative control: one bit of the last scan's code, and the pixels are others."""
    wrong = 0
    for at in range(20, 120, 7):
        data = bytearray(GOOD)
        data[-at] ^= 1
        found, _ = baseline_jpeg(bytes(data))
        wrong += found is not None and not np.array_equal(opencv(found.tobytes()), opencv(GOOD))
    assert wrong > 0
