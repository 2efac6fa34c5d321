"""JPEG files with several scans, as progressive ones have them, become baseline files.

A decoder goes over the whole picture once a scan, which takes two to four times as long. The native
core writes the same coefficients anew, in one scan (`csrc/ingest/jpeg_transcode`). It leaves out
whatever it is not sure of. What it makes is stored only if it decodes to the same pixels.

Files that have one scan keep their bytes: the Huffman tables that suit them best won nothing (they
take 0.99 to 1.00 times as long to decode, three datasets of photographs).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from yolodata._native import baseline_jpeg
from yolodata.images.decode import decode_jpeg
from yolodata.images.limits import memory_for
from yolodata.ingest.image_check import CheckedImage, decode, decode_rgb
from yolodata.ingest.sample import Refused

DONE = "JPEG with several scans (progressive) stored as baseline, with the same pixels"


class Baseline(NamedTuple):
    """What is stored of a file with several scans.

    Attributes:
        data: a baseline file, or the file as it is.
        shape: (height, width) of the decoded picture.
        note: what was done, or why nothing was.
    """

    data: Any
    shape: tuple[int, int]
    note: str


def as_baseline(
    checked: CheckedImage, path: str, picture: NDArray[np.uint8] | None = None
) -> Baseline | None:
    """Makes a baseline file of an accepted file with several scans.

    Args:
        checked: the image.
        path: of its file.
        picture: uint8 (h, w, 3) BGR, the decoded picture, if it is there.

    Returns:
        None for any other file.

    Raises:
        Refused: the file cannot be decoded.
    """
    with memory_for(checked.label_shape[0] * checked.label_shape[1]):
        data, why = baseline_jpeg(checked.data)
    if data is None and not why:
        return None
    pixels = decode_rgb(checked, path) if picture is None else picture[..., ::-1]
    shape = pixels.shape[0], pixels.shape[1]
    if data is not None:
        if _decodes_to(data, path, pixels):
            return Baseline(data, shape, DONE)
        why = "its pixels would be others"
    return Baseline(checked.data, shape, f"JPEG with several scans kept as it is: {why}")


def _decodes_to(data: NDArray[np.uint8], path: str, pixels: NDArray[np.uint8]) -> bool:
    found = decode_jpeg(data)
    if found is None:
        try:
            found = decode(data, path)[..., ::-1]
        except Refused:
            return False
    return np.array_equal(found, pixels)
