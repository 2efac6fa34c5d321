"""COCO's run-length masks, both spellings: a list of run lengths and the packed ASCII string."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def decode_rle(counts: str | bytes | list[int], height: int, width: int) -> NDArray[np.uint8]:
    """Makes a mask of 0 and 1, uint8 (height, width).

    Args:
        counts: lengths of alternating runs of 0 and 1, starting with 0, in column order.
        height: in pixels.
        width: in pixels.

    Raises:
        ValueError: the runs do not cover the mask exactly.
    """
    runs = np.asarray(counts if isinstance(counts, list) else unpack_counts(counts), np.int64)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"run lengths cover {runs.sum()} of {height} x {width} pixels")
    values = np.arange(len(runs), dtype=np.uint8) & 1
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def unpack_counts(text: str | bytes) -> list[int]:
    """Reads the run lengths of the packed string.

    Every number is written in groups of 5 bits, lowest first, one character from '0' each: bit 5
    says that more follow, bit 4 of the last one is the sign. From the fourth number on, the
    difference to the number two before is written.
    """
    data = text.encode("ascii") if isinstance(text, str) else text
    runs: list[int] = []
    at = 0
    while at < len(data):
        value = shift = 0
        while True:
            if at >= len(data):
                raise ValueError("packed run lengths end in the middle of a number")
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
