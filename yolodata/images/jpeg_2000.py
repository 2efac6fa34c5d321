"""What the codestream of a JPEG 2000 file states: its size, and the memory that decoding takes.

Besides samples, OpenJPEG keeps something for each tile, precinct and code block, and for each layer
of a precinct. A file of 100 bytes may state millions of them, and takes gigabytes before a sample
is decoded. So all parameters are read, also those of single tiles and components, and the worst of
each is taken.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_SOC, _SIZ, _COD, _COC, _SOT, _SOD = 0xFF4F, 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93
_TRANSFORMS = (0xFF74, 0xFF75, 0xFF77)  # MCT, MCC, MCO: each tile has a copy
_OTHERS = frozenset((
    0xFF50, 0xFF55, 0xFF57, 0xFF58, 0xFF59, 0xFF5C, 0xFF5D, 0xFF5E, 0xFF5F, 0xFF60, 0xFF61, 0xFF63,
    0xFF64, 0xFF78, *_TRANSFORMS,
))  # fmt: skip
_SEGMENTS = 1 << 18  # of a file, that are looked at
_PACKETS = 1 << 24  # more than bytes, one of which each takes; they take 80 ns also where none is
_MOST_COMPONENTS = 4  # that OpenCV decodes
# Bytes of memory. Of tiles and precincts measured: 5,600 and 1,120, 540 with a code block.
_PER_TILE, _PER_COMPONENT = 8192, 1280
_PER_PRECINCT, _PER_BLOCK = 400, 800


class Codestream(NamedTuple):
    """What a codestream states.

    Attributes:
        height: in pixels.
        width: in pixels.
        nbytes: memory that decoding takes.
    """

    height: int
    width: int
    nbytes: int


class _Coding:
    """The worst of all parameters of a file; sizes are exponents of 2."""

    def __init__(self) -> None:
        self.layers, self.levels = 1, 0
        self.block = self.precinct = (15, 15)

    def add(self, parameters: memoryview, precincts: bool) -> None:
        """Takes what a COD or COC segment has in the end: levels, sizes and all else."""
        levels = parameters[0]
        self.levels = max(self.levels, levels)
        self.block = _least(self.block, [parameters[1] + 2, parameters[2] + 2])
        for sides in parameters[5 : 6 + levels] if precincts else b"":
            self.precinct = _least(self.precinct, [sides & 15, sides >> 4])


def read_codestream(view: memoryview) -> Codestream | None:
    """Reads all headers of a codestream; None where they are not as the format has them.

    Raises:
        struct.error, IndexError: it is cut off in them.
    """
    if struct.unpack_from(">HH", view) != (_SOC, _SIZ):
        return None
    right, below, left, above, *tile = struct.unpack_from(">8I", view, 8)
    (components,) = struct.unpack_from(">H", view, 40)
    width, height = right - left, below - above
    tile_width, tile_height, tiles_left, tiles_above = tile
    sampling = [(view[43 + 3 * k], view[44 + 3 * k]) for k in range(components)]
    if min(width, height) < 0 or not 0 < components <= _MOST_COMPONENTS or 0 in tile[:2]:
        return None
    if any(0 in steps for steps in sampling):
        return None
    coding, copied = _Coding(), 0
    for marker, body in _segments(view):
        if marker == 0:
            return None
        if marker == _COD:
            (coded, _, layers) = struct.unpack_from(">BBH", body)
            coding.layers = max(coding.layers, layers)
            coding.add(body[5:], bool(coded & 1))
        elif marker == _COC:
            coding.add(body[2:], bool(body[1] & 1))
        elif marker in _TRANSFORMS:
            copied += len(body)
    tiles = -(-(right - tiles_left) // tile_width) * -(-(below - tiles_above) // tile_height)
    nbytes = sum(4 * -(-width // dx) * -(-height // dy) for dx, dy in sampling)
    nbytes += tiles * (_PER_TILE + components * _PER_COMPONENT + 4 * copied)
    kept, packets = _of_tile(min(width, tile_width), min(height, tile_height), sampling, coding)
    if tiles * packets > len(view) + _PACKETS:
        return None
    nbytes += kept
    return Codestream(height, width, nbytes)


def _segments(view: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Marker and content of the segments after SIZ, of all headers; 0: what must not be there."""
    nothing = view[:0]
    at, tile_end = 2, 0  # where the part of a tile ends, in whose header this is
    for count in range(_SEGMENTS):
        marker, length = struct.unpack_from(">HH", view, at)
        if marker == _SOD:
            if tile_end <= at or tile_end + 4 > len(view):
                return
            at = tile_end
            marker, length = struct.unpack_from(">HH", view, at)
            if marker != _SOT:  # the end
                return
        if marker == _SOT:
            (size,) = struct.unpack_from(">I", view, at + 6)
            tile_end = at + size if size else len(view)
        elif (marker not in (_COD, _COC) and marker not in _OTHERS) if count else marker != _SIZ:
            break
        if count:
            yield marker, view[at + 4 : at + 2 + length]
        at += 2 + length
    yield 0, nothing


def _of_tile(
    width: int, height: int, sampling: Sequence[tuple[int, int]], coding: _Coding
) -> tuple[int, int]:
    """Memory for what is kept of the largest tile, without its samples; and its packets."""
    precincts = blocks = most = 0
    for dx, dy in sampling:
        sides = -(-width // dx), -(-height // dy)
        for level in range(coding.levels + 1):
            last = level == coding.levels  # one band; the others have three, of half the size
            bands = 1 if last else 3
            inner = [max(0, exponent - (not last)) for exponent in coding.precinct]
            count = _count(sides, [level + exponent for exponent in coding.precinct])
            block = _least(coding.block, inner)
            precincts += bands * count
            blocks += bands * _count(sides, [level + (not last) + exponent for exponent in block])
            most = max(most, count)
    packets = (coding.layers + 1) * len(sampling) * (coding.levels + 1) * most
    return precincts * _PER_PRECINCT + blocks * _PER_BLOCK + 2 * packets, packets


def _count(sides: tuple[int, int], exponents: Sequence[int]) -> int:
    """Fields of a grid that a rectangle may touch."""
    across, down = (((side - 1) >> power) + 2 for side, power in zip(sides, exponents, strict=True))
    return across * down


def _least(a: Sequence[int], b: Sequence[int]) -> tuple[int, int]:
    return min(a[0], b[0]), min(a[1], b[1])
