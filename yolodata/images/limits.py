"""How large a picture may be that is decoded, whoever made its file.

Note [which limits]. A decoder's memory and time follow from what the header states, not from the
size of the file, so the header is asked first.

- Pixels: twice `PIL.Image.MAX_IMAGE_PIXELS`, 178,956,970. Ultralytics leaves out larger images,
  too, because Pillow refuses them. Whoever raises Pillow's limit raises this one, up to OpenCV's
  own of 2^30. Reading shards, also what was packed: see `most` of `decode_image`.
- Scans: a progressive JPEG file may go over its picture again and again, for a few bytes each time.
  libjpeg-turbo advises its users to set a limit; libtiff's is 100. libjpeg writes 10. The pixels of
  all scans are limited, too: 2^31, so that the largest picture may have 12 scans. A scan without
  content took 3 to 5 ns a pixel, which makes 6 to 10 s.
- Memory: decoding takes up to 20 bytes a pixel (3 for ordinary JPEG files, 6 for PNG and WebP, 9
  for progressive JPEG, 17 for TIFF of 16 bits, 19 for AVIF: pictures of 40 million pixels). Large
  ones are decoded one after the other where the machine has no room for several.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

from yolodata._native import MOST_SCANS
from yolodata.images.headers import Header
from yolodata.machine import available_memory

MOST_SCANNED = 1 << 31  # pixels, over all scans
MAX_PIXELS = 1 << 30  # OpenCV's own limit
_BYTES = 20  # of memory a pixel
_LARGE = 1 << 25  # pixels: smaller ones do not wait for each other


def most_pixels() -> int:
    """Gives how many pixels a picture may have."""
    from PIL import Image

    limit = Image.MAX_IMAGE_PIXELS
    return MAX_PIXELS if limit is None else min(2 * int(limit), MAX_PIXELS)


def most_bytes() -> int:
    """Gives how many bytes a picture file may have: 8 for each pixel, as four of 16 bits take."""
    return 8 * most_pixels()


def too_many_scans(height: int, width: int, scans: int) -> bool:
    """Whether a JPEG file goes over its picture more often than is decoded."""
    return scans > MOST_SCANS or (scans > 1 and height * width * scans > MOST_SCANNED)


def why_not_decoded(header: Header, most: int | None = None) -> str:
    """Says why a picture that states this is not decoded, and what to do; "" if it is.

    Args:
        header: what its file states.
        most: pixels it may have, if that is known better than by `most_pixels`.
    """
    height, width, scans, nbytes = header
    pixels, limit = height * width, most_pixels()
    if (
        pixels <= (limit if most is None else min(most, limit))
        and nbytes <= _BYTES * limit
        and not too_many_scans(height, width, scans)
    ):
        return ""
    size = f"{width} x {height} pixels"
    if most is not None and pixels > most:
        return f"its file states {size}, where {most:,} pixels were packed; pack the dataset again"
    if pixels > limit:
        return (
            f"{size}; at most {limit:,} pixels are decoded: cut it into tiles, or raise "
            "PIL.Image.MAX_IMAGE_PIXELS, of which this is twice"
        )
    if nbytes > _BYTES * limit:
        return (
            f"{size} take {nbytes:,} bytes of memory; at most {_BYTES * limit:,} are used: save it "
            "as PNG, or with fewer or smaller samples a pixel"
        )
    return (
        f"{scans} scans of {size}; at most {MOST_SCANS} scans, and {MOST_SCANNED:,} pixels in "
        "all scans, are decoded: save it with fewer (`jpegtran` makes one of them)"
    )


class _Room:
    """The memory for large pictures that are decoded at the same time."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._taken = 0  # pixels

    @contextlib.contextmanager
    def of(self, pixels: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: self._fits(pixels))
            self._taken += pixels
        try:
            yield
        finally:
            with self._changed:
                self._taken -= pixels
                self._changed.notify_all()

    def _fits(self, pixels: int) -> bool:
        """One always does: it may fail, but waiting would not help."""
        return not self._taken or _BYTES * (self._taken + pixels) <= available_memory() // 2


_room = _Room()


def _forget_others() -> None:
    global _room
    _room = _Room()


os.register_at_fork(after_in_child=_forget_others)  # threads that were decoding are not there


def memory_for(pixels: int, nbytes: int = 0) -> contextlib.AbstractContextManager[None]:
    """Waits, before a large picture is decoded, until the machine has memory for it.

    Args:
        pixels: of it.
        nbytes: that its decoder takes at least, if that is known (see `Header`).
    """
    pixels = max(pixels, nbytes // _BYTES)
    return _room.of(pixels) if pixels > _LARGE else contextlib.nullcontext()
