"""Encoded picture files to pixels, as Ultralytics' image reader and resize do it.

OpenCV and Pillow are imported when the first picture is decoded.
"""

from __future__ import annotations

import math
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from yolodata import _native
from yolodata.errors import DatasetError, is_out_of_memory, lacking
from yolodata.images.headers import Header, is_iso_media, is_narrow_grey, read_header
from yolodata.images.jpeg import ordinary_jpeg
from yolodata.images.limits import memory_for, most_pixels, why_not_decoded
from yolodata.images.resize import resize, resized_shape

if TYPE_CHECKING:
    from PIL import Image

Bytes = npt.NDArray[np.uint8]

_TIFF = (".tif", ".tiff")
_ORIENTATION = 274  # the EXIF tag
_SWAPPED = frozenset((5, 6, 7, 8))  # orientations that exchange width and height
_TURNED_BY_ALL = frozenset(("JPEG", "MPO", "PNG", "AVIF"))  # formats every decoder turns upright
_PILLOW = (".avif", ".heic", ".heif")  # OpenCV's wheels may lack these


def decode_image(data: Bytes, imgsz: int | None, name: str, most: int | None = None) -> Bytes:
    """Decodes the bytes of a picture file, if its header states no more than is decoded.

    Args:
        data: uint8 (n,), the whole file.
        imgsz: resize so that the longer side has this many pixels; None keeps the size.
        name: the file's path; its suffix decides about TIFF, AVIF and HEIC.
        most: pixels it may state; None is `most_pixels()`, which is never exceeded.

    Returns:
        uint8 (height, width, 3), BGR, C-contiguous, upright as its EXIF orientation says wherever
        upstream turns it. Colour TIFFs give their first page without alpha; 16-bit pictures their
        high bytes.

    Raises:
        DatasetError: the bytes are not a picture that upstream could train on, or a larger one than
            is decoded (see `limits`).
        MemoryError: there is not enough for this picture, which may be a good one.
    """
    import cv2

    suffix = PurePath(name).suffix.lower()
    try:
        image = _decode(data, suffix, name, most)
        if image is not None and imgsz is not None:
            size = resized_shape(image.shape[0], image.shape[1], imgsz)
            image = resize(image, size)
    except (cv2.error, SystemError) as error:
        if is_out_of_memory(error):
            raise MemoryError(f"{name}: {' '.join(str(error).split())}") from None
        raise DatasetError(
            f"{name}: cannot be decoded: {' '.join(str(error).split())}; save it anew"
        ) from None
    if image is None:
        todo = "convert a TIFF file of 32 bits a sample to 8 or 16"
        todo = todo if suffix in _TIFF else "convert it, as to PNG"
        raise DatasetError(
            f"{name}: has {data.size} bytes that are not a picture which is decoded, as by "
            f"Ultralytics; {todo}"
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
    most: int | None = None,
) -> Bytes | None:
    """Decodes an ordinary JPEG file at its own size, to RGB and, where it fits, to its place.

    The bits are those of `decode_image`, which uses libjpeg-turbo's exact transform and upsampling:
    the core has those of plain files, and libjpeg-turbo itself decodes the others.

    Args:
        data: uint8 (n,), the whole file.
        target: C-contiguous uint8 (height, width, 3), written to if the picture has this shape.
        spare: uint8 (m,), written to if it has not, and there is room.
        shape: what `ordinary_jpeg` gives, if that is known.
        most: as for `decode_image`.

    Returns:
        uint8 (height, width, 3) RGB, C-contiguous: `target` itself, or in the memory of `spare` or
        its own; None for anything out of the ordinary (another format, EXIF, CMYK, damage, too
        large), which `decode_image` has to look at.

    Raises:
        MemoryError: there is not enough for this picture.
    """
    import simplejpeg

    if shape is None:
        shape = ordinary_jpeg(data)
        if shape is None:
            return None
    pixels = math.prod(shape)
    if pixels > min(most_pixels(), most or pixels):
        return None
    try:
        place = target
        if target is None or target.shape[:2] != shape:
            need = pixels * 3
            fits = spare is not None and need <= spare.size
            place = spare[:need].reshape(*shape, 3) if spare is not None and fits else None
        with memory_for(pixels):
            if place is None:
                place = np.empty((*shape, 3), np.uint8)
            if _native.decode_jpeg(data, place):
                return place
            picture: Bytes = simplejpeg.decode_jpeg(data, "RGB", buffer=place)
    except (ValueError, MemoryError) as error:
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from None
        return None
    return place if place.shape == picture.shape else picture


def jpeg_decodes(data: Bytes | bytes, shape: tuple[int, int]) -> bool:
    """Whether all scans of an ordinary JPEG file decode without a fault: as brightness alone.

    Args:
        data: uint8 (n,), the whole file.
        shape: what `ordinary_jpeg` gives.

    Raises:
        MemoryError: there is not enough for this picture.
    """
    import simplejpeg

    try:
        with memory_for(math.prod(shape)):
            return bool(simplejpeg.decode_jpeg(data, "GRAY").shape[:2] == shape)
    except (ValueError, MemoryError) as error:
        if is_out_of_memory(error):
            raise MemoryError(str(error)) from None
        return False


def upright_shape(image: Image.Image, data: bytes, name: str) -> tuple[int, int]:
    """Gives the size of a picture that Pillow has opened, EXIF orientation applied.

    Args:
        image: the opened picture.
        data: the bytes of its file.
        name: the file's path; its suffix decides about TIFF, AVIF and HEIC.

    Returns:
        (height, width) in pixels. Where decoders disagree about the orientation: of the decoded
        picture.
    """
    width, height = image.size
    try:
        tags = image.tag_v2 if image.format == "TIFF" else image.getexif()
        if tags.get(_ORIENTATION) not in _SWAPPED:
            return height, width
        if image.format in _TURNED_BY_ALL:
            return width, height
        decoded = decode_image(np.frombuffer(data, np.uint8), None, name)
        return decoded.shape[0], decoded.shape[1]
    except Exception as error:  # upstream ignores unreadable EXIF data too
        if lacking(error):
            raise
        return height, width


def _decode(data: Bytes, suffix: str, name: str, most: int | None) -> npt.NDArray[Any] | None:
    import cv2

    image: npt.NDArray[Any] | None = None
    if is_iso_media(data):
        # Never OpenCV: it may decode larger pictures than the file states, without a limit. Both
        # give the same bits but for grey pictures of a narrow range, whose range OpenCV ignores,
        # and it turns none upright.
        if header := read_header(data):
            _check(header, name)  # `most` is compared with what is left when the file is opened
        if suffix not in _PILLOW and is_narrow_grey(data):
            raise DatasetError(
                f"{name}: is a grey AVIF file, whose values need not be all from 0 to 255, under "
                "another name; rename it to .avif"
            )
        return _decode_pillow(data, name, most, turn=suffix in _PILLOW)
    if suffix in _PILLOW:
        image = _decode_pillow(data, name, most)
    if image is None:
        header = read_header(data)
        if header is None:
            return None
        _check(header, name, most)
        with memory_for(header.height * header.width, header.nbytes):
            if suffix in _TIFF:
                # Unlike imdecode, this keeps the values of colour pages as they are; grey pages
                # take the ordinary way below. Of all pages, only the first one is decoded.
                good, pages = cv2.imdecodemulti(data, cv2.IMREAD_UNCHANGED, None, (0, 1))
                if good and pages[0].ndim == 3:
                    image = pages[0][..., :3]
            if image is None:
                image = cv2.imdecode(data, cv2.IMREAD_COLOR)
    if image is not None and image.dtype == np.uint16:
        image = (image >> 8).astype(np.uint8)
    return image


def _check(header: Header, name: str, most: int | None = None) -> None:
    reason = why_not_decoded(header, most)
    if reason:
        raise DatasetError(f"{name}: {reason}")


def _decode_pillow(data: Bytes, name: str, most: int | None, turn: bool = True) -> Bytes | None:
    from PIL import ImageOps

    from yolodata.images.formats import open_picture

    try:
        file = open_picture(data.data)
    except Exception as error:  # whatever a plugin raises: OpenCV may know the file
        if lacking(error):
            raise
        return None
    with file:
        if not turn and file.format != "AVIF":
            return None  # nor does OpenCV read any other
        # Of HEIF, Pillow's plugin tells the size after what the file says to cut off. Only a JPEG
        # file that is named like this can have scans.
        header = Header(file.height, file.width)
        if file.format in ("JPEG", "MPO"):
            header = read_header(data) or header
        _check(header, name, most)
        try:
            with memory_for(header.height * header.width):
                upright = ImageOps.exif_transpose(file) if turn else file
                return np.asarray(upright.convert("RGB"))[..., ::-1]
        except Exception as error:
            if lacking(error):
                raise
            return None
