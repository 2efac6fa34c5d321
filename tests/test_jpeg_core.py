"""The core's JPEG decoder has the bits of libjpeg-turbo, and leaves to it what is not plain."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import simplejpeg
from guarded import guarded, guarded_bytes
from jpeg_files import joined, segments
from PIL import Image

from yolodata._native import decode_jpeg

CPUINFO = Path("/proc/cpuinfo")
FLAGS = CPUINFO.read_text().split() if CPUINFO.is_file() else []
pytestmark = pytest.mark.skipif(
    "avx2" not in FLAGS or "bmi2" not in FLAGS, reason="the decoder is written for AVX2 and BMI2"
)
FACTORS = {"4:4:4": 0x111111, "4:2:2": 0x211111, "4:2:0": 0x221111}
KINDS = [*FACTORS, "grey"]


def drawn(kind: str, height: int, width: int, quality: int = 90, **options: int) -> bytes:
    """A JPEG file."""
    rng = np.random.default_rng(height + width)
    coarse = rng.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    picture ^= rng.integers(0, 32, picture.shape, dtype=np.uint8)
    if kind == "grey":
        picture = picture[..., 0]
    wanted = {"QUALITY": quality, "SAMPLING_FACTOR": FACTORS.get(kind, 0x111111), **options}
    flags = [v for k, n in wanted.items() for v in (getattr(cv2, f"IMWRITE_JPEG_{k}"), n)]
    return cv2.imencode(".jpg", picture, flags)[1].tobytes()


def decoded(data: bytes, height: int, width: int) -> np.ndarray | None:
    """What the core makes of a file, if anything."""
    picture = guarded(height * width * 3).reshape(height, width, 3)
    picture[:] = 77
    return picture if decode_jpeg(guarded_bytes(data), picture) else None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quality", [1, 60, 100])
def test_plain_files_have_libjpegs_bits(kind: str, quality: int) -> None:
    for height, width in [
        (1, 8),
        (8, 9),
        (15, 16),
        (16, 17),
        (17, 31),
        (33, 49),
        (96, 64),
        (7, 640),
    ]:
        for optimized in (0, 1):
            data = drawn(kind, height, width, quality, OPTIMIZE=optimized)
            got = decoded(data, height, width)
            assert got is not None
            np.testing.assert_array_equal(got, simplejpeg.decode_jpeg(data, "RGB"))


def with_coefficients(kind: str, seed: int) -> tuple[bytes, int, int]:
    """A file of coefficients that no encoder makes: runs and sizes of all kinds, coarse steps.

    Those of the first row are small, as the core refuses pictures with others.
    """
    height, width = 24, 40
    data = drawn(kind, height, width, quality=1)
    codes: dict[int, dict[int, str]] = {}
    at = 2
    while data[at + 1] != 0xDA:
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] == 0xC4:
            where, end = at + 4, at + 2 + length
            while where < end:
                counts, symbols = data[where + 1 : where + 17], data[where + 17 :]
                code, number, table = 0, 0, codes.setdefault(data[where], {})
                for bits, count in enumerate(counts, 1):
                    for _ in range(count):
                        table[symbols[number]] = f"{code:0{bits}b}"
                        code, number = code + 1, number + 1
                    code <<= 1
                where += 17 + number
        at += 2 + length
    head = data[: at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")]

    rng = np.random.default_rng(seed)
    across, down = {"4:2:2": (2, 1), "4:2:0": (2, 2)}.get(kind, (1, 1))
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    blocks = [0] * (across * down) + ([] if kind == "grey" else [1, 1])
    text = []
    for table in blocks * units:
        size = int(rng.integers(0, 3))
        text.append(codes[table][size] + "".join(map(str, rng.integers(0, 2, size))))
        k = 1
        while k < 64:
            symbol = int(rng.choice([s for s in codes[16 | table] if s]))
            if rng.integers(0, 12) == 0 or k + (symbol >> 4) > 63:
                text.append(codes[16 | table][0])
                break
            size = symbol & 15
            if k + (symbol >> 4) in (1, 5, 6, 14, 15, 27, 28) and size > 5:
                continue
            text.append(codes[16 | table][symbol] + "".join(map(str, rng.integers(0, 2, size))))
            k += (symbol >> 4) + 1
    bits = "".join(text)
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    return head + scan + b"\xff\xd9", height, width


@pytest.mark.parametrize("kind", KINDS)
def test_sums_overflow_as_libjpegs_do(kind: str) -> None:
    taken = 0
    for seed in range(30):
        data, height, width = with_coefficients(kind, seed)
        got = decoded(data, height, width)
        if got is None:
            continue
        taken += 1
        np.testing.assert_array_equal(got, simplejpeg.decode_jpeg(data, "RGB"))
    assert taken > 20


def test_what_is_not_plain_is_left_to_libjpeg() -> None:
    data = drawn("4:2:0", 40, 56)
    assert decoded(data, 40, 56) is not None
    assert decoded(data, 56, 40) is None  # another size
    scan = data.index(b"\xff\xda") + 14
    others = {
        "progressive": drawn("4:2:0", 40, 56, PROGRESSIVE=1),
        "restart markers": drawn("4:2:0", 40, 56, RST_INTERVAL=1),
        "end missing": data[:-2],
        "cut off": data[: scan + 40] + b"\xff\xd9",
        "bytes too many": data[:-2] + b"\0\xff\xd9",
        "a table of steps missing": data.replace(b"\xff\xdb", b"\xff\xfe"),
        "tables of codes missing": data.replace(b"\xff\xc4", b"\xff\xfe"),
        "12 bits": data.replace(b"\xff\xc0\0\x11\x08", b"\xff\xc0\0\x11\x0c"),
        "components with other numbers": data.replace(b"\x01\x22\0\x02\x11", b"\x05\x22\0\x02\x11"),
    }
    for kind, picture in {"CMYK": Image.new("CMYK", (56, 40)), "RGB": None}.items():
        file = io.BytesIO()
        if picture is None:
            Image.new("RGB", (56, 40), (9, 80, 200)).save(file, "JPEG", keep_rgb=True)
        else:
            picture.save(file, "JPEG")
        others[kind] = file.getvalue()
    for name, other in others.items():
        assert other != data
        assert decoded(other, 40, 56) is None, name


SOF, SOS, DHT, DQT = 0xC0, 0xDA, 0xC4, 0xDB


def broken_files() -> dict[str, bytes]:
    """Files with one segment that would have the core read, or write, where it must not."""
    whole = drawn("4:2:0", 40, 56)
    parts = list(segments(whole))

    def other(marker: int, change: Callable[[bytes], bytes], number: int = 0) -> bytes:
        k = [k for k, (found, _) in enumerate(parts) if found == marker][number]
        return joined([*parts[:k], (marker, change(parts[k][1])), *parts[k + 1 :]])

    def put(at: int, *values: int) -> Callable[[bytes], bytes]:
        return lambda body: body[:at] + bytes(values) + body[at + len(values) :]

    def with_table(body: bytes) -> bytes:
        """A grey picture, which would be read to its end, with a table that nothing uses."""
        grey = list(segments(drawn("grey", 40, 56)))
        return joined([*grey[:-1], (DHT, body), grey[-1]])

    assert joined(parts) == whole
    assert decoded(with_table(b"\1\1" + bytes(15) + b"\1"), 40, 56) is not None
    frame = next(body for marker, body in parts if marker == SOF)
    scan = next(body for marker, body in parts if marker == SOS)
    before = parts[:-1]
    renamed = frame.replace(b"\x01\x22", b"\x05\x22"), scan[:1] + b"\x05" + scan[2:]
    return {
        "steps that are cut off": other(DQT, lambda body: body[:-1]),
        "steps of another number": other(DQT, put(0, 4)),
        "steps of 16 bits": other(DQT, put(0, 0x10)),
        "a step of nothing": other(DQT, put(9, 0)),
        "steps that are not there": other(SOF, put(8, 3)),
        "steps of a number that is none": other(SOF, put(8, 4)),
        "codes that are cut off": other(DHT, lambda body: body[:10]),
        "symbols that are cut off": other(DHT, lambda body: body[:-1]),
        "codes of another number": other(DHT, put(0, 2)),
        "symbols without end": other(DHT, lambda _: b"\0" + b"\xff" * 16 + bytes(4080)),
        "a code of ones": with_table(b"\1\2" + bytes(15) + b"\1\2"),
        "more codes than there are": with_table(b"\1\3" + bytes(15) + b"\1\2\3"),
        "a value of 12 bits": with_table(b"\1\1" + bytes(15) + b"\x0c"),
        "a coefficient of 11 bits": with_table(b"\x11\1" + bytes(15) + b"\x0b"),
        "a run of nothing": with_table(b"\x11\1" + bytes(15) + b"\x20"),
        "four components": other(SOF, lambda body: body[:5] + b"\4" + body[6:] + b"\4\x11\0"),
        "a long frame": other(SOF, lambda body: body + b"\0"),
        "a frame that is cut off": other(SOF, lambda body: body[:5]),
        "components with other numbers": joined(
            [(m, renamed[0] if m == SOF else body) for m, body in before] + [(SOS, renamed[1])]
        ),
        "other factors": other(SOF, put(7, 0x41)),
        "two frames": joined([*before, (SOF, frame), parts[-1]]),
        "no frame": joined([part for part in parts if part[0] != SOF]),
        "a scan of other components": other(SOS, put(1, 3)),
        "a scan with other tables": other(SOS, put(2, 0x22)),
        "a scan of some coefficients": other(SOS, put(8, 62)),
        "a segment longer than the file": whole[:2] + b"\xff\xfe\xff\xff" + whole[2:],
        "a segment shorter than its length": whole[:2] + b"\xff\xfe\0\1" + whole[2:],
        "a gap": whole[:2] + b"\0" + whole[2:],
        "no beginning": b"\0" + whole[1:],
    }


def test_broken_files_are_left_to_libjpeg() -> None:
    for name, data in broken_files().items():
        assert decoded(data, 40, 56) is None, name


def test_damage_gives_libjpegs_pixels_or_none() -> None:
    """Of what decodes without a fault, libjpeg makes the same; strictly, it takes no other."""
    rng = np.random.default_rng(0)
    taken = 0
    for _ in range(600):
        kind = KINDS[rng.integers(len(KINDS))]
        data = bytearray(drawn(kind, 17, 23, quality=30))
        for _ in range(rng.integers(1, 3)):
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        got = decoded(bytes(data), 17, 23)
        if got is not None:
            taken += 1
            want = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
            np.testing.assert_array_equal(got, want)
    assert taken > 20
