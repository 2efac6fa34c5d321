"""Outlines of several parts to one closed line, as Ultralytics joins them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from yolodata.ingest.limits import OUTLINE_PAIRS

Points = NDArray[Any]

_AT_ONCE = 1 << 20  # pairs that are compared in one array
_BLOCK = 256  # points that lie together
_BLOCK_PAIRS = 1 << 24


def join_parts(parts: list[Points]) -> list[Points]:
    """Joins the parts of one object, (k, 2) arrays in pixels, into one closed line.

    Neighbours in the list are connected at their closest points: a walk forward through all parts,
    which leaves each at the point nearest to the next, and a walk back over what was skipped.

    Returns:
        the pieces of the line, in order, as upstream's `merge_multi_segment` gives them.

    Raises:
        ValueError: they have too many points for that.
    """
    leave: list[list[int]] = [[] for _ in parts]
    for k in range(1, len(parts)):
        here, there = closest(parts[k - 1], parts[k])
        leave[k - 1].append(here)
        leave[k].append(there)
    closed: list[Points] = []
    span: list[int] = []
    for part, ends in zip(parts, leave, strict=True):
        if len(ends) == 2 and ends[0] > ends[1]:  # walk a middle part the other way round
            part, ends = part[::-1], [len(part) - 1 - end for end in ends]
        part = np.roll(part, -ends[0], axis=0)
        closed.append(np.concatenate([part, part[:1]]))
        span.append(ends[-1] - ends[0])
    last = len(parts) - 1
    forward = [line if k in (0, last) else line[: span[k] + 1] for k, line in enumerate(closed)]
    backward = [closed[k][span[k] :] for k in range(last - 1, 0, -1)]
    return forward + backward


def closest(one: Points, other: Points) -> tuple[int, int]:
    """Finds the closest two points of two parts; of several pairs the first, row by row.

    Raises:
        ValueError: too many pairs would have to be compared.
    """
    if len(one) * len(other) <= _AT_ONCE:
        squared = ((one[:, None, :] - other[None, :, :]) ** 2).sum(-1)
        here, there = np.unravel_index(np.argmin(squared), squared.shape)
        return int(here), int(there)
    return _closest_of_many(one, other)


def _closest_of_many(one: Points, other: Points) -> tuple[int, int]:
    """Does the same block by block, nearest blocks first, while they may hold a closer pair.

    Rounding keeps order: no pair of two blocks is closer than their boxes are, also as computed.
    """
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise ValueError("an outline has points that are no numbers")
    ours, theirs = _blocks(one), _blocks(other)
    if len(ours) * len(theirs) > _BLOCK_PAIRS:
        raise _too_many(one, other)
    apart = _distances(_boxes(one, ours), _boxes(other, theirs))
    best, first, left = np.inf, -1, OUTLINE_PAIRS
    for pair in np.argsort(apart, axis=None, kind="stable").tolist():
        a, b = divmod(pair, len(theirs))
        if apart[a, b] > best:
            break
        here, there = ours[a], theirs[b]
        left -= len(here) * len(there)
        if left < 0:
            raise _too_many(one, other)
        squared = (one[here, 0][:, None] - other[there, 0]) ** 2
        squared += (one[here, 1][:, None] - other[there, 1]) ** 2
        least = squared.min()
        if least > best:
            continue
        rows, columns = np.nonzero(squared == least)
        where = int((here[rows] * len(other) + there[columns]).min())
        first = where if least < best or first < 0 else min(first, where)
        best = least
    return divmod(first, len(other))


def _blocks(points: Points) -> list[NDArray[np.int64]]:
    """Indices of points in groups that lie together: strips along x, cut along y."""
    order = np.argsort(points[:, 0], kind="stable")
    strips = np.array_split(order, max(1, round((len(points) / _BLOCK) ** 0.5)))
    blocks: list[NDArray[np.int64]] = []
    for strip in strips:
        strip = strip[np.argsort(points[strip, 1], kind="stable")]
        blocks += np.array_split(strip, -(-len(strip) // _BLOCK))
    return blocks


def _boxes(points: Points, blocks: list[NDArray[np.int64]]) -> tuple[Points, Points]:
    low = np.stack([points[block].min(0) for block in blocks])
    return low, np.stack([points[block].max(0) for block in blocks])


def _distances(ours: tuple[Points, Points], theirs: tuple[Points, Points]) -> Points:
    """Squared distances of boxes, each with each."""
    total: Points = np.zeros((len(ours[0]), len(theirs[0])))
    for axis in (0, 1):
        low, high = (bound[:, axis][:, None] for bound in ours)
        gap = np.maximum(theirs[0][:, axis] - high, low - theirs[1][:, axis])
        total += np.maximum(gap, 0) ** 2
    return total


def _too_many(one: Points, other: Points) -> ValueError:
    return ValueError(
        f"joining parts of {len(one)} and {len(other)} points takes more than {OUTLINE_PAIRS} "
        "comparisons; simplify the outline"
    )
