"""The headers of JPEG files: which files need no special care, and how large their pictures are.

Opening a file with Pillow takes a thirtieth of the time of decoding it, and most files need nothing
that Pillow knows. One native walk through the segments before the first scan answers two questions:

- *Ordinary*: does every decoder treat the file alike? It holds no EXIF data, which could turn the
  picture.
- *Plain*: would Pillow accept it, with the size that its frame says? It is a JFIF header, tables,
  one frame of 8 bits and 1 or 3 components, a scan, and an end marker; nothing else. Files with
  ICC profiles, Adobe markers or comments are ordinary and not plain.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from yolodata._native import jpeg_header

Bytes = npt.NDArray[np.uint8]


def plain_jpeg(data: Bytes | bytes) -> tuple[int, int] | None:
    """Gives (height, width) of a plain JPEG file in pixels, else None: Pillow has to look.

    Never gives a size for a file that Pillow refuses, or another size than Pillow's. Every decoder
    treats such a file alike: it is grey or, as JFIF says, YCbCr, and is not turned.
    """
    header = jpeg_header(data)
    return (header[0], header[1]) if header is not None and header[2] else None


def ordinary_jpeg(data: Bytes | bytes) -> tuple[int, int] | None:
    """Gives (height, width) of an ordinary JPEG file in pixels, else None.

    Such a file has brightness and colour difference or brightness alone, and no EXIF data. Damage
    behind the header goes unnoticed.
    """
    import simplejpeg

    if jpeg_header(data) is None:
        return None
    try:
        height, width, colorspace, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    return (height, width) if colorspace in ("YCbCr", "Gray") else None
