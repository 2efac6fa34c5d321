"""The headers of JPEG files: which files need no special care, and how large their pictures are.

Opening a file with Pillow takes a thirtieth of the time of decoding it, and most files need nothing
that Pillow knows. One native walk through the segments answers two questions:

- *Ordinary*: does every decoder treat the file alike? It holds no EXIF data, which could turn the
  picture, and its header has neither gaps nor more than 256 KiB.
- *Plain*: would Pillow accept it, with the size that its frame says? It is a JFIF header, tables,
  one frame of 8 bits and 1 or 3 components, a scan, and an end marker; nothing else. Files with
  ICC profiles, Adobe markers or comments are ordinary and not plain.

A file with more scans than are decoded (`limits`) is neither.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from yolodata._native import jpeg_header
from yolodata.images.limits import too_many_scans

Bytes = npt.NDArray[np.uint8]


def plain_jpeg(data: Bytes | bytes) -> tuple[int, int] | None:
    """Gives (height, width) of a plain JPEG file in pixels, else None: Pillow has to look.

    Never gives a size for a file that Pillow refuses, or another size than Pillow's. Every decoder
    treats such a file alike: it is grey or, as JFIF says, YCbCr, and is not turned.
    """
    header = jpeg_header(data)
    if header is None:
        return None
    height, width, scans, _, plain = header
    return (height, width) if plain and not too_many_scans(height, width, scans) else None


def ordinary_jpeg(data: Bytes | bytes) -> tuple[int, int] | None:
    """Gives (height, width) of an ordinary JPEG file in pixels, else None.

    Such a file has brightness and colour difference or brightness alone, and no EXIF data. Damage
    behind the header goes unnoticed.
    """
    import simplejpeg

    header = jpeg_header(data)
    if header is None or not header[3] or too_many_scans(*header[:3]):
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (height, width) if colorspace in ("YCbCr", "Gray") else None
