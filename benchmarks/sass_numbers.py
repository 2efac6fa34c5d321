"""Arithmetic of NVIDIA GPUs that NumPy does not have."""

from __future__ import annotations

from typing import Any

import numpy as np


def fused(a: Any, b: Any, c: Any) -> Any:
    """float32(a * b + c), rounded once."""
    a, b, c = a.astype(np.float64), b.astype(np.float64), c.astype(np.float64)
    product = a * b  # exact
    total = product + c
    part = total - product
    lost = (product - (total - part)) + (c - part)
    # Rounded to odd, so that rounding once more to 24 bits rounds the exact sum.
    even = (total.view(np.uint64) & np.uint64(1)) == 0
    beyond = np.nextafter(total, np.where(lost > 0, np.inf, -np.inf))
    return np.where((lost != 0) & even, beyond, total).astype(np.float32)


def added(a: Any, b: Any, direction: str) -> Any:
    """float32(a + b), rounded to nearest, to zero (`RZ`) or down (`RM`)."""
    if not direction:
        return a + b
    a, b = a.astype(np.float64), b.astype(np.float64)
    total = a + b
    part = total - a
    lost = (a - (total - part)) + (b - part)
    rounded = total.astype(np.float32)
    beyond = (rounded.astype(np.float64) - total) - lost  # what was rounded up
    wrong = beyond * np.sign(total) > 0 if direction == "RZ" else beyond > 0
    towards = np.float32(0 if direction == "RZ" else -np.inf)
    return np.where(wrong, np.nextafter(rounded, towards), rounded)


def logic(values: list[Any], table: int, zero: Any) -> Any:
    """A function of three bits, by its table of eight: bit 4a + 2b + c is its value."""
    result = zero
    for i in range(8):
        if table >> i & 1:
            term = ~zero
            for k, value in enumerate(values):
                term = term & (value if i >> (2 - k) & 1 else ~value)
            result = result | term
    return result


def aligned(at: Any, size: int) -> Any:
    """Byte addresses in units of `size`, which they must be multiples of."""
    if (at % size).any():
        raise IndexError(f"an address is no multiple of {size}")
    return at // size


def bank_cycles(at: Any, lanes: Any, size: int) -> int:
    """Cycles that shared memory takes for `size` bytes at `at` for each of some threads.

    Each of 32 banks, of every 32nd word of four bytes, gives one word a cycle, to all who want it.
    Of 8 bytes half a warp is served at a time, of 16 a quarter.
    """
    words = max(size // 4, 1)
    word = (at[:, None] // 4 + np.arange(words)).reshape(-1)
    served = np.repeat(lanes // (32 // words), words)  # at once
    wanted = np.unique(served.astype(np.int64) << 32 | word)
    banks, times = np.unique((wanted >> 32) * 32 + wanted % 32, return_counts=True)
    first = np.flatnonzero(np.diff(banks // 32, prepend=-1))
    return int(np.maximum.reduceat(times, first).sum())


def float16(values: Any) -> Any:
    """The bits of float32 numbers in half precision, rounded to nearest: uint16."""
    return values.astype(np.float16).view(np.uint16)


def bfloat16(values: Any) -> Any:
    """The bits of float32 numbers as bfloat16, rounded to nearest, ties to even: uint16."""
    bits = values.view(np.uint32)
    return (
        (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
    ).astype(np.uint16)
