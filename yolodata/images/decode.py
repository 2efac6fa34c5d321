"""Encoded picture files to pixels, as Ultralytics' image reader and resize do it.

OpenCV and Pillow are imported when the first picture is decoded.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import math
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt

from yolodata.errors import DatasetError

Bytes = npt.NDArray[np.uint8]

_TIFF = (".tif", ".tiff")
_PILLOW = (".avif", ".heic", ".heif")  # OpenCV's wheels may lack these


def resized_shape(height: int, width: int, imgsz: int) -> tuple[int, int]:
    """Size, in pixels, of a picture of height x width whose longer side is resized to imgsz."""
    ratio = imgsz / max(height, width)
    if ratio == 1:
        return height, width
    return min(math.ceil(height * ratio), imgsz), min(math.ceil(width * ratio), imgsz)


def decode_image(data: Bytes, imgsz: int | None, name: str) -> Bytes:
    """Decode the bytes of a picture file.

    Args:
        data: uint8 (n,), the whole file.
        imgsz: resize so that the longer side has this many pixels; None keeps the size.
        name: the file's path; its suffix decides about TIFF, AVIF and HEIC.

    Returns:
        uint8 (height, width, 3), BGR, C-contiguous, upright as its EXIF orientation says wherever
        upstream turns it. Colour TIFFs give their first page without alpha; 16-bit pictures their
        high bytes.

    Raises:
        DatasetError: the bytes are not a picture that upstream could train on.
    """
    import cv2

    suffix = PurePath(name).suffix.lower()
    try:
        image = _decode(data, suffix) if data.size else None
        if image is not None and imgsz is not None:
            size = resized_shape(image.shape[0], image.shape[1], imgsz)
            if size != image.shape[:2]:
                image = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    except (cv2.error, MemoryError) as error:
        raise DatasetError(f"{name}: cannot be decoded: {' '.join(str(error).split())}") from None
    if image is None:
        raise DatasetError(
            f"{name}: {data.size} bytes that are not a picture which OpenCV or Pillow can decode"
        )
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise DatasetError(
            f"{name}: must decode to 8-bit or 16-bit colour, got {image.dtype} {image.shape}; "
            "convert the file"
        )
    return np.ascontiguousarray(image)


def decode_jpeg(
    data: Bytes | bytes,
    target: Bytes | None = None,
    spare: Bytes | None = None,
    shape: tuple[int, int] | None = None,
) -> Bytes | None:
    """An ordinary JPEG file at its own size, straight to RGB and, where it fits, to its place.

    The bits are those of `decode_image`: both use libjpeg-turbo's exact transform and upsampling.

    Args:
        data: uint8 (n,), the whole file.
        target: C-contiguous uint8 (height, width, 3), written to if the picture has this shape.
        spare: uint8 (m,), written to if it has not, and there is room.
        shape: what `ordinary_jpeg` gives, if that is known.

    Returns:
        uint8 (height, width, 3) RGB, C-contiguous: `target` itself, or in the memory of `spare` or
        its own; None for anything out of the ordinary (another format, EXIF, CMYK, damage), which
        `decode_image` has to look at.
    """
    import simplejpeg

    if shape is None:
        shape = ordinary_jpeg(data)
        if shape is None:
            return None
    try:
        place = target
        if target is None or target.shape[:2] != shape:
            need = math.prod(shape) * 3
            fits = spare is not None and need <= spare.size
            place = spare[:need].reshape(*shape, 3) if spare is not None and fits else None
        picture: Bytes = simplejpeg.decode_jpeg(data, "RGB", buffer=place)
    except (ValueError, MemoryError):
        return None
    return place if place is not None and place.shape == picture.shape else picture


def ordinary_jpeg(data: Bytes | bytes) -> tuple[int, int] | None:
    """(height, width) of a JPEG file that every decoder treats alike, else None.

    Such a file has brightness and colour difference or brightness alone, and no EXIF data, which
    could turn the picture. Damage behind the header goes unnoticed.
    """
    import simplejpeg

    if not _may_be_ordinary(data):
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (height, width) if colorspace in ("YCbCr", "Gray") else None


def _may_be_ordinary(data: Bytes | bytes) -> bool:
    """Whether the segments before the first scan are well formed and hold no EXIF data."""
    for within in (1 << 12, 1 << 18):  # most headers are short
        found = _reaches_scan(bytes(data[:within]))
        if found is not None or within >= len(data):
            return bool(found)
    return False


def _reaches_scan(head: bytes) -> bool | None:
    """Walk the segments; None where the bytes end before the first scan."""
    if head[:2] != b"\xff\xd8":
        return False
    at = 2
    while at + 10 <= len(head):
        marker = head[at + 1]
        if head[at] != 0xFF:
            return False
        if marker == 0xDA:  # start of scan
            return True
        if not 0xC0 <= marker < 0xFF or 0xD0 <= marker <= 0xD9:  # those have no length
            return False
        if marker == 0xE1 and head[at + 4 : at + 10] == b"Exif\0\0":
            return False
        at += 2 + int.from_bytes(head[at + 2 : at + 4], "big")
    return None


def _decode(data: Bytes, suffix: str) -> npt.NDArray[Any] | None:
    import cv2

    image: npt.NDArray[Any] | None = None
    if suffix in _TIFF:
        # Unlike imdecode, this keeps the values of colour pages as they are; grey pages take the
        # ordinary way below.
        good, pages = cv2.imdecodemulti(data, cv2.IMREAD_UNCHANGED)
        if good and pages[0].ndim == 3:
            image = pages[0][..., :3]
    elif suffix in _PILLOW:
        image = _decode_pillow(data)
    if image is None:
        image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if image is not None and image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    return image


def _decode_pillow(data: Bytes) -> Bytes | None:
    from PIL import Image, ImageOps

    _register_heif()
    try:
        with Image.open(io.BytesIO(data.data)) as file:
            upright = ImageOps.exif_transpose(file)
            return np.asarray(upright.convert("RGB"))[..., ::-1]
    except Exception:  # whatever a plugin raises: OpenCV may know the file
        return None


_heif_registered = False


def _register_heif() -> None:
    global _heif_registered
    if not _heif_registered:
        with contextlib.suppress(ImportError):
            importlib.import_module("pi_heif").register_heif_opener()
        _heif_registered = True
