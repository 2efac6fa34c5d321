"""What instructions of NVIDIA machine code compute, as functions of NumPy arrays.

Each line of `STEPS` and `COMPARISONS` is an instruction: what its operands are, by a letter each
(see `Machine.operand`), its function, and the flags that the function honours. A function takes the
set of flags and the operands' values, of each thread; predicates that follow the operands named
come last. It returns what goes into the register, and the predicates beside it if there are some.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Flags = frozenset[str]
_MASK = np.uint64(2**32 - 1)
_WORD = np.uint64(32)


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


def added(flags: Flags, a: Any, b: Any) -> Any:
    """float32(a + b), rounded to nearest, to zero (`RZ`) or down (`RM`)."""
    if not flags:
        return a + b
    a, b = a.astype(np.float64), b.astype(np.float64)
    total = a + b
    part = total - a
    lost = (a - (total - part)) + (b - part)
    rounded = total.astype(np.float32)
    beyond = (rounded.astype(np.float64) - total) - lost  # what was rounded up
    wrong = beyond * np.sign(total) > 0 if "RZ" in flags else beyond > 0
    towards = np.float32(0 if "RZ" in flags else -np.inf)
    return np.where(wrong, np.nextafter(rounded, towards), rounded)


def float16(values: Any) -> Any:
    """The bits of float32 numbers in half precision, rounded to nearest: uint16."""
    return values.astype(np.float16).view(np.uint16)


def bfloat16(values: Any) -> Any:
    """The bits of float32 numbers as bfloat16, rounded to nearest, ties to even: uint16."""
    bits = values.view(np.uint32)
    odd = bits >> np.uint32(16) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) >> np.uint32(16)).astype(np.uint16)


def _low(value: Any) -> Any:
    """The low 32 bits of 64."""
    return value.astype(np.uint32)


def _pair(high: Any, low: Any) -> Any:
    """64 bits of two times 32, or 32 of two times 16."""
    bits = 8 * low.itemsize
    kind = np.dtype(f"u{2 * low.itemsize}").type
    return high.astype(kind) << kind(bits) | low.astype(kind)


def _sum(flags: Flags, a: Any, b: Any, c: Any, *carries: Any) -> tuple[Any, Any, Any]:
    total = sum(carries, a + b + c)
    return _low(total), total >> _WORD >= 1, total >> _WORD >= 2


def _multiply(flags: Flags, a: Any, b: Any, c: Any, *carries: Any) -> Any:
    return sum(carries, a * b + c)


def _multiply_wide(flags: Flags, a: Any, b: Any, c: Any) -> tuple[Any, Any]:
    product = (a * b).view(np.uint64)
    total = product + c
    return total, total < product


def _multiply_high(flags: Flags, a: Any, b: Any, c: Any) -> Any:
    total, _ = _multiply_wide(flags, a, b, c)
    return _low(total >> _WORD)


def _shift_and_add(flags: Flags, a: Any, b: Any, by: int) -> tuple[Any, Any]:
    total = (a << np.uint64(by) & _MASK) + b
    return _low(total), total > _MASK


def _shift_and_add_high(flags: Flags, a: Any, b: Any, c: Any, by: int, *carries: Any) -> Any:
    """Of the upper half of 64 bits: `c` before `a`."""
    return _low(sum(carries, (_pair(c, a) << np.uint64(by) >> _WORD) + b))


def _shift_and_add_signed(flags: Flags, a: Any, b: Any, by: int, carry: Any) -> Any:
    sign = (a.view(np.int32) >> 31).view(np.uint32)
    return _shift_and_add_high(flags, a, b, sign, by, carry)


def _shift(flags: Flags, low: Any, by: Any, high: Any) -> Any:
    value, width = _pair(high, low), 64 if "U64" in flags else 32
    count = (by % width if "W" in flags else np.minimum(by, width)).astype(np.uint64)
    if "L" in flags:
        value = value << count
    elif "S32" in flags:
        value = value.view(np.int64) >> count.view(np.int64)
    else:
        value = value >> count
    return _low(value >> 32 if "HI" in flags else value)


def _logic(flags: Flags, a: Any, b: Any, c: Any, table: int) -> Any:
    """A function of three bits, by its table of eight: bit 4a + 2b + c is its value."""
    result = a & ~a
    for i in range(8):
        if table >> i & 1:
            term = (a if i & 4 else ~a) & (b if i & 2 else ~b) & (c if i & 1 else ~c)
            result = result | term
    return result


def _bitwise(flags: Flags, a: Any, b: Any, c: Any, table: int, _: Any) -> tuple[Any, Any]:
    result = _logic(flags, a, b, c, table)
    return result, result != 0


def _permute(flags: Flags, a: Any, chosen: Any, b: Any) -> Any:
    """Four bytes of eight; the highest bit of a choice asks for the byte's sign instead."""
    value, result = _pair(b, a), np.uint32(0)
    for k in range(4):
        choice = chosen >> np.uint32(4 * k) & np.uint32(15)
        byte = value >> (choice & np.uint32(7)).astype(np.uint64) * np.uint64(8) & np.uint64(255)
        byte = np.where(choice >= 8, byte // np.uint64(128) * np.uint64(255), byte)
        result = result | _low(byte) << np.uint32(8 * k)
    return result


def _extreme(flags: Flags, *values: Any) -> Any:
    """The least number where the last value, a predicate, says so; the greatest where not."""
    *numbers, least = values
    numbers = np.broadcast_arrays(*numbers)
    return _low(np.where(least, np.minimum.reduce(numbers), np.maximum.reduce(numbers)))


def _extreme_of_sum(flags: Flags, a: Any, b: Any, c: Any, least: Any) -> Any:
    total = a + b
    return _extreme(flags, (total if "U32" in flags else total.view(np.int32)), c, least)


def _to_integer(flags: Flags, value: Any) -> Any:
    whole = np.nan_to_num(np.trunc(value.astype(np.float64)))
    return whole.clip(-(2**31), 2**31 - 1).astype(np.int32)


_RELATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "LT": np.less, "LE": np.less_equal, "GT": np.greater, "GE": np.greater_equal,
    "EQ": np.equal, "NE": np.not_equal,
}  # fmt: skip
_UNORDERED = frozenset(f"{name}U" for name in _RELATIONS)  # true of what is no number


def _both(flags: Flags, result: Any, before: Any) -> tuple[Any, Any]:
    """A comparison, and its opposite, each combined with a predicate."""
    combine = np.logical_or if "OR" in flags else np.logical_and
    return combine(result, before), combine(~result, before)


def _compare(flags: Flags, a: Any, b: Any, before: Any, *lower: Any) -> tuple[Any, Any]:
    """Of the upper halves of 64 bits (`EX`), `lower` is what the lower halves gave."""
    (name,) = flags & _RELATIONS.keys()
    result = _RELATIONS[name](a, b)
    return _both(flags, np.where(a == b, lower[0], result) if "EX" in flags else result, before)


def _compare_floats(flags: Flags, a: Any, b: Any, before: Any) -> tuple[Any, Any]:
    (name,) = flags & (_RELATIONS.keys() | _UNORDERED)
    unordered = np.isnan(a) | np.isnan(b)
    result = _RELATIONS[name[:2]](a, b)
    return _both(flags, result | unordered if name[2:] else result & ~unordered, before)


@dataclass(frozen=True)
class Step:
    """How an instruction computes.

    Attributes:
        kinds: of its operands, a letter each.
        function: of flags and operands.
        flags: that may follow its name; with another one it is another instruction.
    """

    kinds: str
    function: Callable[..., Any]
    flags: Flags


def _step(kinds: str, function: Callable[..., Any], flags: str = "") -> Step:
    return Step(kinds, function, frozenset(flags.split()))


def _same(flags: Flags, value: Any) -> Any:
    return value


# By the longest part of its name that is here. What writes a register, and predicates beside it:
STEPS: dict[str, Step] = {
    **dict.fromkeys(("MOV", "S2R", "S2UR", "R2UR", "LDC", "LDCU"), _step("u", _same)),
    **dict.fromkeys(("CS2R", "LDC.64", "LDCU.64"), _step("w", _same)),
    "HFMA2": _step("zzhh", lambda flags, zero, _, high, low: zero | _pair(high, low), "MMA"),
    "F2FP": _step("ff", lambda flags, a, b: _pair(float16(a), float16(b)), "F16 F32 PACK_AB"),
    "F2FP.BF16": _step("ff", lambda flags, a, b: _pair(bfloat16(a), bfloat16(b)), "F32 PACK_AB"),
    "IADD3": _step("ttt", _sum, "X"),
    "VIADD": _step("uu", lambda flags, a, b: a + b),
    "IMAD": _step("uuu", _multiply, "MOV IADD SHL U32 X"),
    "IMAD.WIDE": _step("iiw", _multiply_wide, "U32"),
    "IMAD.HI": _step("iiw", _multiply_high, "U32"),
    "LEA": _step("ttn", _shift_and_add),
    "LEA.HI": _step("utun", _shift_and_add_high, "X"),
    "LEA.HI.X.SX32": _step("utn", _shift_and_add_signed),
    "SHF": _step("uuu", _shift, "L R U32 S32 U64 W HI"),
    "LOP3.LUT": _step("uuunp", _bitwise),
    "PRMT": _step("uuu", _permute),
    "SEL": _step("uup", lambda flags, a, b, first: np.where(first, a, b)),
    "FSEL": _step("ffp", lambda flags, a, b, first: np.where(first, a, b)),
    "IMNMX": _step("iip", _extreme, "U32"),
    "VIMNMX": _step("iip", _extreme, "U32"),
    "VIMNMX3": _step("iiip", _extreme, "U32"),
    "VIADDMNMX": _step("uuip", _extreme_of_sum, "U32"),
    "FADD": _step("ff", added, "RZ RM"),
    "FMUL": _step("ff", lambda flags, a, b: a * b),
    "FFMA": _step("fff", lambda flags, a, b, c: fused(a, b, c)),
    "I2F": _step("i", lambda flags, a: a.astype(np.float32)),
    "I2F.U16": _step("u", lambda flags, a: a.astype(np.uint16).astype(np.float32)),
    "I2FP.F32": _step("i", lambda flags, a: a.astype(np.float32), "S32 U32"),
    "F2I.TRUNC": _step("f", _to_integer, "NTZ"),
    "MUFU.RCP": _step("f", lambda flags, a: np.float32(1) / a),
}  # fmt: skip
_RELATED = " AND OR " + " ".join(_RELATIONS)
# What writes predicates alone:
COMPARISONS: dict[str, Step] = {
    "ISETP": _step("iip", _compare, f"U32 EX {_RELATED}"),
    "FSETP": _step("ffp", _compare_floats, f"{_RELATED} {' '.join(_UNORDERED)}"),
    "PLOP3.LUT": _step(
        "pppnn", lambda flags, a, b, c, *tables: [_logic(flags, a, b, c, t) for t in tables]
    ),
}
