"""Sizes of ordinary JPEG files, without Pillow.

Opening a file with Pillow takes a thirtieth of the time of decoding it. Most files need nothing
that Pillow knows: they are a JFIF header, tables, one frame of 8 bits and 1 or 3 components, a
scan, and an end marker. For exactly these, `plain_size` gives the size that Pillow would report;
for everything else (EXIF, ICC, Adobe, comments, anything odd) it gives None, and Pillow decides.
"""

from __future__ import annotations

from yolodata._native import ordinary_jpeg_size


def plain_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) of an ordinary JPEG file, None where Pillow has to look.

    Never gives a size for a file that Pillow refuses, or another size than Pillow's. Every decoder
    treats such a file alike: it is grey or, as JFIF says, YCbCr, and is not turned.
    """
    return ordinary_jpeg_size(data)
