"""Random damage to bytes, and hostile values."""

from __future__ import annotations

from random import Random

WORDS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFDC, 0xFFFF, 1 << 20, (1 << 31) - 1, 1 << 31,
         (1 << 32) - 1, 1 << 40, (1 << 63) - 1, (1 << 64) - 1)  # fmt: skip


def damaged(random: Random, data: bytes) -> tuple[bytes, str]:
    """Changes some bytes at one place; returns the new bytes, which differ, and what was done."""
    if not data:
        return random.randbytes(random.randint(1, 40)), "garbage in an empty file"
    while True:
        new, what = _damaged(random, bytearray(data))
        if new != data:
            return new, what


def _damaged(random: Random, data: bytearray) -> tuple[bytes, str]:
    size = len(data)
    # Headers first: most of a file's bytes are pixels.
    at = random.randrange(random.choice((size, min(size, 2500), min(size, 64))) or 1)
    kind = random.choice(("flip", "flip", "flip", "cut", "cut", "garbage", "word", "insert",
                          "remove", "zeros", "swap", "repeat", "append"))  # fmt: skip
    length = min(random.choice((1, 2, 4, 16, 300, 4096)), max(size - at, 1))
    if kind == "flip":
        for _ in range(random.choice((1, 1, 1, 8))):
            place = min(at + random.randrange(length), size - 1)
            data[place] ^= 1 << random.randrange(8)
    elif kind == "cut":
        del data[at:]
    elif kind == "garbage":
        data[at : at + length] = random.randbytes(length)
    elif kind == "word":
        width = random.choice((2, 4, 8))
        order = random.choice(("little", "big"))
        word = (random.choice(WORDS) & ((1 << 8 * width) - 1)).to_bytes(width, order)
        data[at : at + width] = word[: max(size - at, 0)]
    elif kind == "insert":
        data[at:at] = random.randbytes(length)
    elif kind == "remove":
        del data[at : at + length]
    elif kind == "zeros":
        data[at : at + length] = bytes(length)
    elif kind == "swap":
        other = random.randrange(size)
        length = min(length, size - other, size - at)
        data[at : at + length], data[other : other + length] = (
            data[other : other + length], data[at : at + length]
        )  # fmt: skip
    elif kind == "repeat":
        part = bytes(data[at : at + length])
        data[at:at] = part * random.choice((1, 1, 2, 50))
    else:
        data += random.choice((b"\0", b"\n", b" ", random.randbytes(length)))
    return bytes(data), f"{kind} at byte {at}"
