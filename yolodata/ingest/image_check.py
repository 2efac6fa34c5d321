"""Image decisions: which files Ultralytics accepts, and the bytes and pixels that it would read.

A source file is only ever read. Upstream rewrites a JPEG without its end marker in place; the same
restoration is made here in memory, and what is stored is the restored picture.
"""

from __future__ import annotations

import errno
import re
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import UnidentifiedImageError

from yolodata.errors import DatasetError, ResourceError, lacking
from yolodata.files import read_regular
from yolodata.images.decode import decode_image, decode_jpeg, jpeg_decodes, upright_shape
from yolodata.images.formats import IMAGE_SUFFIXES, open_picture, restored_jpeg
from yolodata.images.headers import read_header
from yolodata.images.jpeg import ordinary_jpeg, plain_jpeg
from yolodata.images.limits import memory_for, most_bytes, why_not_decoded
from yolodata.ingest.sample import Refused

Picture = NDArray[np.uint8]

SMALLEST = 10  # pixels, of either side
# What the system says of one file. Anything else (EIO, ESTALE, …) may be true of all of them.
_OF_THE_FILE = (
    errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP,
    errno.ENAMETOOLONG, errno.EINVAL, errno.ENXIO, errno.EFBIG,
)  # fmt: skip
_FORMATS = IMAGE_SUFFIXES | {"jpeg2000"}
_SUPPORTED = ", ".join(sorted(IMAGE_SUFFIXES))
_JPEG = (".jpg", ".jpeg")
_ADDRESS = re.compile(r" ?<_io\.BytesIO object at 0x[0-9a-f]+>")


class CheckedImage(NamedTuple):
    """An accepted image file.

    Attributes:
        data: the bytes to decode: those of the file, or a restored JPEG.
        label_shape: (height, width) in pixels that upstream's check reports, EXIF orientation
            applied.
        jpeg: a grey or three-colour JPEG that is also named as one.
        plain: such a file that every decoder treats alike (`plain_jpeg`): `label_shape` is what
            it decodes to.
        note: what was restored, or "".
    """

    data: bytes
    label_shape: tuple[int, int]
    jpeg: bool
    plain: bool = False
    note: str = ""


def read_file(path: str) -> bytes:
    """Reads all bytes of a picture file, of which there may be `most_bytes()`.

    Raises:
        Refused: it is not there, is no file, is larger, or may not be read.
        ResourceError: the machine cannot read it at the moment.
    """
    try:
        return read_regular(path, most_bytes())
    except (OSError, ValueError) as error:  # ValueError: no file can have this name
        raise unreadable(error, path, "cannot be read") from error


def unreadable(error: OSError | ValueError, path: str, what: str) -> Exception:
    """Gives what to raise for a file that cannot be read: it, or the machine, is at fault.

    Args:
        error: what reading it raised.
        path: of the image that is left out for it.
        what: how the reason begins.
    """
    why = getattr(error, "strerror", None) or error
    if lacking(error):
        return ResourceError(f"{path}: {what}: {lacking(error)}")
    if isinstance(error, OSError) and error.errno not in _OF_THE_FILE:
        return ResourceError(
            f"{path}: {what}: {why}; the disk or the network may have a fault, so that no image is "
            "left out for it; run the same command again, which continues here, or, if it is this "
            "file alone, take it out of the dataset"
        )
    return Refused(f"{what}: {why}")


def check_image(data: bytes, path: str) -> CheckedImage:
    """Decides on one image file as upstream does, from its bytes.

    Raises:
        Refused: no image, damaged, of an unsupported format, with a side under 10 pixels, or larger
            than is decoded (see `yolodata.images.limits`).
    """
    if not data:
        raise Refused("the file is empty")
    size = plain_jpeg(data) if path.lower().endswith(_JPEG) else None
    if size is not None and min(size) >= SMALLEST:
        return CheckedImage(data, size, True, True)
    header = read_header(data)  # before anything is decoded
    if header is not None and (reason := why_not_decoded(header)):
        raise Refused(reason)
    try:
        image = open_picture(data)
        image.verify()
        height, width = upright_shape(image, data, path)
        kind = image.format or ""
        if min(width, height) < SMALLEST:
            raise Refused(f"{width} x {height} pixels; at least {SMALLEST} x {SMALLEST} are needed")
        if kind.lower() not in _FORMATS:
            raise Refused(f"format {kind} is not supported; use one of {_SUPPORTED}")
        jpeg = kind == "JPEG" and image.mode in ("L", "RGB") and path.lower().endswith(_JPEG)
        if kind == "JPEG" and not data.endswith(b"\xff\xd9"):
            note = "JPEG without end marker restored"
            with memory_for(height * width):
                restored = restored_jpeg(data)
            return CheckedImage(restored, (height, width), jpeg, note=note)
        return CheckedImage(data, (height, width), jpeg)
    except Refused:
        raise
    except Exception as error:  # PIL raises nearly anything on damaged files
        if lacking(error):
            raise
        raise Refused(_reason(error, path)) from error


def decode(data: bytes | Picture, path: str, imgsz: int | None = None) -> Picture:
    """Decodes as upstream's `imread`: uint8 (h, w, 3) BGR, at its own size without `imgsz`.

    Raises:
        Refused: it cannot be decoded.
    """
    try:
        return decode_image(np.frombuffer(data, np.uint8), imgsz, path)
    except Exception as error:  # cv2.error and the reader's own error alike
        if not isinstance(error, DatasetError) and lacking(error):
            raise
        raise Refused(_reason(error, path)) from error


def decode_rgb(checked: CheckedImage, path: str, target: Picture | None = None) -> Picture:
    """Decodes an accepted image at its own size: uint8 (h, w, 3) RGB.

    Args:
        checked: the image.
        path: of its file.
        target: C-contiguous uint8 (h, w, 3), which may be used if the image has this shape.

    Raises:
        Refused: it cannot be decoded.
    """
    if checked.jpeg:
        shape = checked.label_shape if checked.plain else None
        picture = decode_jpeg(checked.data, target, shape=shape)
        if picture is not None:
            return picture
    turned: Picture = cv2.cvtColor(decode(checked.data, path), cv2.COLOR_BGR2RGB)
    return turned


def decoded_shape(checked: CheckedImage, path: str) -> tuple[int, int]:
    """Gives (height, width) of an accepted image in pixels, after decoding all of it.

    Raises:
        Refused: it cannot be decoded.
    """
    if checked.jpeg:  # brightness alone takes the same entropy decoder through every scan
        shape = checked.label_shape if checked.plain else ordinary_jpeg(checked.data)
        if shape is not None and jpeg_decodes(checked.data, shape):
            return shape
        # OpenCV crashes where it is refused memory, so that it has only what is left.
        with memory_for(checked.label_shape[0] * checked.label_shape[1]):
            grey = cv2.imdecode(np.frombuffer(checked.data, np.uint8), cv2.IMREAD_GRAYSCALE)
        if grey is not None:
            return grey.shape[0], grey.shape[1]
    height, width = decode(checked.data, path).shape[:2]
    return height, width


def _reason(error: Exception, path: str) -> str:
    # Where ultralytics is imported it has replaced Image.open, which then asks for a HEIC plugin.
    if isinstance(error, (UnidentifiedImageError, ModuleNotFoundError)):
        heif = path.lower().endswith((".heic", ".heif"))
        return f"no image, or of a format that is not supported; use one of {_SUPPORTED}" + (
            "; HEIC needs `pip install pi-heif`" if heif else ""
        )
    text = _ADDRESS.sub("", str(error)).removeprefix(f"{path}: ").strip() or type(error).__name__
    return " ".join(text.split())
