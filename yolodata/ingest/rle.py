"""COCO's run-length masks, both spellings: a list of run lengths and the packed ASCII string."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from threading import Lock
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from yolodata.ingest.limits import MASK_PIXELS, MASK_RUNS

_LARGE = 1 << 24  # pixels
_one_large = Lock()
_GROUPS = 13  # of 5 bits in a number: 65 bits


def contours(counts: str | bytes | list[int], height: int, width: int) -> Sequence[NDArray[Any]]:
    """Gives the outer contours of a mask, int32 (points, 1, 2) each, in pixels.

    Args:
        counts, height, width: see `decode_rle`.

    Raises:
        ValueError: the runs do not cover the mask exactly, or it is larger than a mask may be.
    """
    with _one_large if height * width > _LARGE else nullcontext():  # several take too much memory
        mask = decode_rle(counts, height, width)
        found: Sequence[NDArray[Any]]
        found = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    return found


def decode_rle(counts: str | bytes | list[int], height: int, width: int) -> NDArray[np.uint8]:
    """Makes a mask of 0 and 1, uint8 (height, width).

    Args:
        counts: lengths of alternating runs of 0 and 1, starting with 0, in column order.
        height: in pixels.
        width: in pixels.

    Raises:
        ValueError: the runs do not cover the mask exactly, or it is larger than a mask may be.
    """
    if height * width > MASK_PIXELS:
        raise ValueError(
            f"{height} x {width} pixels; a mask of run lengths has at most {MASK_PIXELS}"
        )
    given = counts if isinstance(counts, list) else unpack_counts(counts)
    if len(given) > MASK_RUNS:
        raise ValueError(f"{len(given)} run lengths; at most {MASK_RUNS} are allowed")
    try:
        runs = np.asarray(given, np.int64)
    except OverflowError:
        raise ValueError("a run length has more than 63 bits") from None
    if runs.ndim != 1 or (runs < 0).any() or (runs > height * width).any():
        raise ValueError(f"a run length is negative or no number, or above {height} x {width}")
    if runs.sum() != height * width:
        raise ValueError(f"run lengths cover {runs.sum()} of {height} x {width} pixels")
    values = np.arange(len(runs), dtype=np.uint8) & 1
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def unpack_counts(text: str | bytes) -> list[int]:
    """Reads the run lengths of the packed string.

    Every number is written in groups of 5 bits, lowest first, one character from '0' each: bit 5
    says that more follow, bit 4 of the last one is the sign. From the fourth number on, the
    difference to the number two before is written.

    Raises:
        ValueError: it ends in the middle of a number, or a number has more than 64 bits.
    """
    data = text.encode("ascii") if isinstance(text, str) else text
    runs: list[int] = []
    at = 0
    while at < len(data):
        value = shift = 0
        while True:
            if at >= len(data):
                raise ValueError("packed run lengths end in the middle of a number")
            if shift == 5 * _GROUPS:
                raise ValueError("a packed run length has more than 64 bits")
            group = data[at] - 48
            at += 1
            value |= (group & 31) << shift
            shift += 5
            if not group & 32:
                break
        if group & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs
