"""The quick look at a JPEG file agrees with Pillow on whole and on damaged files."""

from __future__ import annotations

import io
import warnings

import pytest
from bad_images import images
from guarded import guarded_bytes
from hypothesis import given, settings
from hypothesis import strategies as st
from ingesting import jpeg, picture
from PIL import Image

from yolodata.images.jpeg import ordinary_jpeg, plain_jpeg

COLOUR, GREY = picture(1, 40, 56), picture(2, 24, 33)[..., 0]


def plain_size(data: bytes) -> tuple[int, int] | None:
    """(width, height), in Pillow's order."""
    shape = plain_jpeg(guarded_bytes(data))
    return shape and (shape[1], shape[0])


def pillow_size(data: bytes) -> tuple[int, int] | None:
    """Size of a JPEG that upstream's check accepts and does not turn; None if it refuses."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            image = Image.open(io.BytesIO(data))
            image.verify()
            assert image.format == "JPEG"
            assert image.mode in ("L", "RGB")
            assert image.getexif().get(274) is None
    except Exception:
        return None
    return image.size


def saved(**options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(COLOUR).save(buffer, "JPEG", **options)
    return buffer.getvalue()


WHOLE = {
    "opencv": jpeg(COLOUR),
    "opencv grey": jpeg(GREY),
    "pillow": saved(),
    "progressive": saved(progressive=True),
    "optimised": saved(optimize=True),
    "restarts": saved(restart_marker_rows=1),
}
OTHER = {
    "comment": saved(comment="hello"),
    "profile": saved(icc_profile=b"x" * 40),
    "turned": saved(exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"),
    "no end": jpeg(COLOUR)[:-2],
    "tail": jpeg(COLOUR) + b"\n",
}


@pytest.mark.parametrize("name", WHOLE)
def test_ordinary_files_need_no_pillow(name: str) -> None:
    assert plain_size(WHOLE[name]) == pillow_size(WHOLE[name]) is not None


@pytest.mark.parametrize("name", OTHER)
def test_anything_else_is_left_to_pillow(name: str) -> None:
    assert plain_size(OTHER[name]) is None
    assert ordinary_jpeg(OTHER[name]) == (None if name == "turned" else COLOUR.shape[:2])


def test_headers_that_are_too_long_or_cut_off_are_not_ordinary() -> None:
    long = saved(icc_profile=b"x" * 300_000)
    assert ordinary_jpeg(long) is None
    whole = WHOLE["pillow"]
    scan = whole.index(b"\xff\xda")
    assert ordinary_jpeg(whole) == COLOUR.shape[:2]
    assert not any(ordinary_jpeg(guarded_bytes(whole[:at])) for at in range(1, scan + 10))


def test_bad_images() -> None:
    for _, data in images():
        size = plain_size(data)
        assert size is None or size == pillow_size(data)


header = st.integers(0, 640)


@settings(max_examples=1500, deadline=None)
@given(
    name=st.sampled_from(sorted(WHOLE)),
    changes=st.lists(st.tuples(header, st.integers(0, 255)), min_size=1, max_size=4),
    cut=st.tuples(header, st.integers(0, 4)),
    grow=st.tuples(header, st.binary(max_size=3)),
)
def test_damaged_files(
    name: str,
    changes: list[tuple[int, int]],
    cut: tuple[int, int],
    grow: tuple[int, bytes],
) -> None:
    """Wherever the quick look gives a size, Pillow accepts the file with the same size."""
    data = bytearray(WHOLE[name])
    for at, value in changes:
        data[at % len(data)] = value
    del data[cut[0] : cut[0] + cut[1]]
    data[grow[0] : grow[0]] = grow[1]
    size = plain_size(bytes(data))
    assert size is None or size == pillow_size(bytes(data))


@settings(max_examples=300, deadline=None)
@given(
    name=st.sampled_from(sorted(WHOLE)),
    marker=st.integers(0, 255),
    body=st.binary(max_size=200),
    length=st.integers(-3, 3),
    place=st.integers(0, 6),
)
def test_files_with_another_segment(
    name: str, marker: int, body: bytes, length: int, place: int
) -> None:
    data = WHOLE[name]
    at = 2
    for _ in range(place):
        if data[at + 1] == 0xDA:
            break
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    size = max(0, len(body) + 2 + length)
    segment = bytes([0xFF, marker]) + size.to_bytes(2, "big") + body
    changed = data[:at] + segment + data[at:]
    found = plain_size(changed)
    assert found is None or found == pillow_size(changed)
