"""Which files are images, and what only Pillow can do with them. Pillow is imported when needed."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from PIL import Image

# What upstream takes for an image.
IMAGE_SUFFIXES = frozenset((
    "avif", "bmp", "dng", "heic", "heif", "jp2", "jpeg", "jpg", "mpo", "png", "tif", "tiff", "webp",
))  # fmt: skip

# Pillow knows fifty more, of which some run a program (EPS: Ghostscript). GIF is opened so that it
# is refused by its name: people have such files.
_OPENED = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "AVIF", "HEIF", "JPEG2000", "MPO", "GIF")

_heif_tried = False


def open_picture(file: bytes | memoryview | BinaryIO) -> Image.Image:
    """Opens a picture file with Pillow; HEIC and HEIF with `pi_heif`, where that is installed.

    Args:
        file: all of its bytes, or the open file.

    Raises:
        PIL.UnidentifiedImageError: the bytes are none of the formats that are known.
        Exception: whatever else Pillow raises for a damaged file.
    """
    from PIL import UnidentifiedImageError

    global _heif_tried
    try:
        return _open(file)
    except UnidentifiedImageError:
        if _heif_tried:
            raise
        _heif_tried = True
        try:
            from pi_heif import register_heif_opener
        except ImportError:
            raise UnidentifiedImageError("") from None
        register_heif_opener()
        return _open(file)


def _open(file: bytes | memoryview | BinaryIO) -> Image.Image:
    from PIL import Image

    Image.init()  # most formats are known to it only then
    stream = io.BytesIO(file) if isinstance(file, (bytes, memoryview)) else file
    return Image.open(stream, formats=[kind for kind in _OPENED if kind in Image.OPEN])


def restored_jpeg(data: bytes) -> bytes:
    """Gives the JPEG file that upstream would write over one without end marker.

    It is upright, of quality 100 and without subsampling.
    """
    from PIL import Image, ImageOps

    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
    buffer = io.BytesIO()
    upright.save(buffer, "JPEG", subsampling=0, quality=100)
    return buffer.getvalue()
