"""JPEG files with several scans: all kinds that encoders here write, and some that they do not."""

from __future__ import annotations

import io
from collections.abc import Iterator

import cv2
import numpy as np
from ingesting import picture
from PIL import Image

SAMPLING = {
    "444": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "422": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "420": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "440": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "411": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
}
EXIF_TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
SOF2, SOS, DHT = 0xC2, 0xDA, 0xC4


def progressive(
    height: int, width: int, sampling: str = "420", quality: int = 90, restart: int = 0
) -> bytes:
    """A progressive file, as OpenCV writes it."""
    options = [
        cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_QUALITY, quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SAMPLING[sampling],
        cv2.IMWRITE_JPEG_RST_INTERVAL, restart,
    ]  # fmt: skip
    noise = np.random.default_rng(height).integers(-20, 20, (height, width, 3))
    image = picture(width, max(height, 4), width)[:height]
    image = np.clip(image + noise, 0, 255).astype(np.uint8)
    return cv2.imencode(".jpg", image, options)[1].tobytes()


def with_pillow(mode: str = "RGB", size: tuple[int, int] = (57, 41), **options: object) -> bytes:
    """A progressive file, as Pillow writes it."""
    file = io.BytesIO()
    image = Image.fromarray(picture(5, size[1], size[0])).convert(mode)
    image.save(file, "JPEG", **{"progressive": True, "quality": 88, **options})
    return file.getvalue()


def segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(marker, body) of all segments; that of a scan has its coded data behind it."""
    at = 2
    while data[at + 1] != 0xD9:
        marker, end = data[at + 1], at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        while marker == SOS and not (data[end] == 0xFF and 0xC0 <= data[end + 1] <= 0xFE
                                     and not 0xD0 <= data[end + 1] <= 0xD7):  # fmt: skip
            end += 1
        yield marker, data[at + 4 : end]
        at = end


def joined(parts: Iterator[tuple[int, bytes]] | list[tuple[int, bytes]]) -> bytes:
    """The file of these segments."""
    data = b"\xff\xd8"
    for marker, body in parts:
        size = 4 + 2 * body[0] if marker == SOS else len(body)
        data += bytes([0xFF, marker]) + (size + 2).to_bytes(2, "big") + body
    return data + b"\xff\xd9"


def a_scan_each(height: int = 40, width: int = 56) -> bytes:
    """A sequential file of three components, each in a scan of its own."""
    parts: list[tuple[int, bytes]] = []
    scans: list[tuple[int, bytes]] = []
    for k in range(3):
        grey = Image.fromarray(picture(k, height, width)[..., k])
        file = io.BytesIO()
        grey.save(file, "JPEG", quality=85)
        for marker, body in segments(file.getvalue()):
            if marker == 0xC0:
                frame = body[:5] + b"\x03" + bytes(v for k in (1, 2, 3) for v in (k, 0x11, 0))
            elif marker == SOS:
                scans.append((SOS, bytes([1, k + 1]) + body[2:]))
            elif k == 0:
                parts.append((marker, body))
    return joined([*parts, (0xC0, frame), *scans])


def last_scans_removed(data: bytes, count: int) -> bytes:
    """A progressive file that lacks its last scans."""
    parts = list(segments(data))
    while count:
        count -= parts.pop()[0] == SOS
    return joined(parts)


def files() -> dict[str, bytes]:
    """Files that can be written anew, by what is special about them."""
    made = {
        f"{sampling} of {height} x {width}": progressive(height, width, sampling)
        for sampling in SAMPLING
        for height, width in ((48, 64), (41, 57), (1, 1), (9, 131))
    }
    made |= {f"quality {q}": progressive(40, 56, quality=q) for q in (1, 30, 100)}
    made |= {
        "restart markers": progressive(60, 90, restart=3),
        "grey": with_pillow("L"),
        "cmyk": with_pillow("CMYK"),
        "rgb": with_pillow(keep_rgb=True),
        "profile": with_pillow(icc_profile=bytes(range(256)) * 3),
        "comment": with_pillow(comment="hello"),
        "turned": with_pillow(exif=EXIF_TURNED),
        "a scan each": a_scan_each(),
    }
    return made
