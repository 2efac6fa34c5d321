"""Rows of columns as 64-bit keys, and the pairing of equal keys.

Millions of images are told apart by arrays of keys: objects of Python would take ten times the
memory. Keys depend on a number that is drawn for the process. So a dataset cannot be made whose
different rows get equal keys; by chance that happens once in 2^64 comparisons.
"""

from __future__ import annotations

import math
import secrets
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

Keys = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]

_SEED = secrets.randbits(63)
_ODD = [np.uint64(secrets.randbits(64) | 1) for _ in range(3)]


def key_of(text: bytes) -> int:
    """Gives the key of some bytes."""
    return xxhash.xxh3_64_intdigest(text, _SEED)


def mixed(*columns: npt.NDArray[Any]) -> Keys:
    """Gives one key for each row of columns of whole numbers, (n,) each; their order counts."""
    keys = np.full(len(columns[0]), _SEED, np.uint64)
    for column in columns:
        keys = (keys * _ODD[0]) ^ (column.astype(np.uint64) * _ODD[1])
        keys ^= keys >> np.uint64(32)
        keys *= _ODD[2]
        keys ^= keys >> np.uint64(29)
    return keys


def words(values: npt.NDArray[np.float32]) -> list[npt.NDArray[np.uint32]]:
    """Gives the bits of float32 (n, …) as columns (n,); -0 has those of 0."""
    flat = values.reshape(len(values), math.prod(values.shape[1:])) + np.float32(0)
    return list(flat.view(np.uint32).T)


def ranges(begin: npt.NDArray[Any], counts: npt.NDArray[Any]) -> Indices:
    """Gives begin[0], begin[0] + 1, … (counts[0] of them), then those of begin[1], and so on."""
    counts = counts.astype(np.int64)
    ends = np.cumsum(counts)
    shift = begin.astype(np.int64) - (ends - counts)
    return np.repeat(shift, counts) + np.arange(ends[-1] if len(ends) else 0)


def sums(keys: Keys, counts: npt.NDArray[Any]) -> Keys:
    """Adds the first counts[0] keys up, then the next counts[1], …: uint64, modulo 2^64."""
    ends = np.concatenate([[0], np.cumsum(counts.astype(np.int64))])
    total: Keys = np.concatenate([np.zeros(1, np.uint64), np.cumsum(keys, dtype=np.uint64)])
    found: Keys = total[ends[1:]] - total[ends[:-1]]
    return found


def paired(a: Keys, b: Keys) -> tuple[Indices, Indices]:
    """Pairs equal keys, each at most once: of a key that `a` has twice and `b` once, one is left.

    Returns:
        indices into `a` and into `b`, of the same length, rising in `b`. Of equal keys the first
        are paired, in order.
    """
    order_a, order_b = np.argsort(a, kind="stable"), np.argsort(b, kind="stable")
    sorted_a, sorted_b = a[order_a], b[order_b]
    place = np.arange(len(b))
    first = np.ones(len(b), bool)  # of equal ones
    first[1:] = sorted_b[1:] != sorted_b[:-1]
    rank = place - np.maximum.accumulate(np.where(first, place, 0))
    at = np.searchsorted(sorted_a, sorted_b) + rank
    found = at < len(a)
    found[found] = sorted_a[at[found]] == sorted_b[found]
    ia, ib = order_a[at[found]], order_b[found]
    order = np.argsort(ib)
    return ia[order], ib[order]


def without(count: int, taken: Indices) -> Indices:
    """Gives the numbers below `count` that are not in `taken`."""
    left = np.ones(count, bool)
    left[taken] = False
    return np.flatnonzero(left)
