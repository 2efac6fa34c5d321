"""What the instructions of NVIDIA machine code do to threads of a `Machine` (see `sass.py`)."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
from sass import WARP, Instruction, Lanes, Machine
from sass_numbers import added, aligned, bfloat16, float16, fused, logic

_TYPES = {"U8": np.uint8, "S8": np.int8, "U16": np.uint16, "S16": np.int16}


def _load(m: Machine, which: Instruction, lanes: Lanes) -> None:
    to, source = which.operands[:2]
    memory, at = m.cells(which, source, lanes)
    flags = set(which.flags)
    small = flags & set(_TYPES)
    if small:
        kind = _TYPES[small.pop()]
        values = memory.view(kind)[aligned(at, np.dtype(kind).itemsize)]
        m.put(to, lanes, values.astype(np.int64).astype(np.uint32))
        return
    count = 4 if "128" in flags else 2 if "64" in flags else 1
    first = aligned(at, 4 * count) * count
    number = re.fullmatch(r"R(\d+|Z)", to)[1]
    for k in range(count):
        if number != "Z":
            m.registers[int(number) + k][lanes] = memory.view(np.uint32)[first + k]


def _store(m: Machine, which: Instruction, lanes: Lanes) -> None:
    target, source = which.operands
    memory, at = m.cells(which, target, lanes)
    flags = set(which.flags)
    small = flags & set(_TYPES)
    if small:
        kind = _TYPES[small.pop()]
        memory.view(kind)[aligned(at, np.dtype(kind).itemsize)] = m.raw(source)(lanes).astype(kind)
        return
    count = 4 if "128" in flags else 2 if "64" in flags else 1
    first = aligned(at, 4 * count) * count
    number = re.fullmatch(r"R(\d+|Z)", source)[1]
    for k in range(count):
        memory.view(np.uint32)[first + k] = (
            0 if number == "Z" else m.registers[int(number) + k][lanes]
        )


def _integer_sum(m: Machine, which: Instruction, lanes: Lanes) -> None:
    """IADD3 and IADD3.X: with up to two carries out and in."""
    to, *rest = which.operands
    out = []
    while m.is_predicate(rest[0]):
        out.append(rest.pop(0))
    total = sum(m.terms(name)(lanes) for name in rest[:3])
    for name in rest[3:]:
        total = total + m.predicate(name)(lanes).astype(np.uint64)
    m.put_word(to, lanes, total)
    for least, name in enumerate(out, 1):
        m.put_predicate(name, lanes, total >> np.uint64(32) >= least)


def _add(m: Machine, which: Instruction, lanes: Lanes) -> None:
    to, a, b = which.operands
    m.put(to, lanes, m.bits(a)(lanes) + m.bits(b)(lanes))


def _multiply(m: Machine, which: Instruction, lanes: Lanes) -> None:
    to, *rest = which.operands
    carry = rest.pop(0) if m.is_predicate(rest[0]) else None
    a, b, c, *into = rest
    signed = "U32" not in which.flags
    if "WIDE" in which.flags or "HI" in which.flags:
        product = m.integers(a, signed)(lanes) * m.integers(b, signed)(lanes)
        total = product.view(np.uint64) + m.raw(c, wide=True)(lanes)
        if carry is not None:
            m.put_predicate(carry, lanes, total < product.view(np.uint64))
        if "HI" in which.flags:
            m.put_word(to, lanes, total >> np.uint64(32))
        else:
            m.put(to, lanes, total)
        return
    total = m.bits(a)(lanes) * m.bits(b)(lanes) + m.bits(c)(lanes)
    if into:
        total = total + m.predicate(into[0])(lanes).astype(np.uint32)
    m.put(to, lanes, total)


def _shift_and_add(m: Machine, which: Instruction, lanes: Lanes) -> None:
    """LEA in its forms."""
    to, *rest = which.operands
    carry = rest.pop(0) if m.is_predicate(rest[0]) else None
    into = m.predicate(rest.pop())(lanes) if "X" in which.flags else None
    high = "HI" in which.flags
    if "SX32" in which.flags:
        a, b, by = rest
        value = m.integers(a, True)(lanes)
    elif high:
        a, b, c, by = rest
        value = (m.terms(a)(lanes) & np.uint64(2**32 - 1)) | m.terms(c)(lanes) << np.uint64(32)
        value = value.view(np.int64)
    else:
        a, b, by = rest
        value = m.bits(a)(lanes).astype(np.int64)
    value = value << int(by, 0)
    part = (value.view(np.uint64) >> np.uint64(32) if high else value.view(np.uint64)) & np.uint64(
        2**32 - 1
    )
    total = part + m.terms(b)(lanes)
    if into is not None:
        total = total + into.astype(np.uint64)
    m.put_word(to, lanes, total)
    if carry is not None:
        m.put_predicate(carry, lanes, total >> np.uint64(32) > 0)


def _shift(m: Machine, which: Instruction, lanes: Lanes) -> None:
    to, a, by, c = which.operands
    value = m.bits(a)(lanes).astype(np.uint64) | m.bits(c)(lanes).astype(np.uint64) << np.uint64(32)
    kind = next(flag for flag in which.flags if flag in ("U32", "S32", "U64", "S64"))
    width = int(kind[1:])
    count = m.bits(by)(lanes).astype(np.uint64)
    count = count % np.uint64(width) if "W" in which.flags else np.minimum(count, np.uint64(width))
    whole = count >= np.uint64(64)
    count = np.minimum(count, np.uint64(63))
    if "L" in which.flags:
        value = np.where(whole, np.uint64(0), value << count)
    elif kind[0] == "S":
        value = (value.view(np.int64) >> count.view(np.int64)).view(np.uint64)
    else:
        value = np.where(whole, np.uint64(0), value >> count)
    m.put_word(to, lanes, value >> np.uint64(32) if "HI" in which.flags else value)


def _bitwise(m: Machine, which: Instruction, lanes: Lanes) -> None:
    operands = list(which.operands)
    flag = operands.pop(0) if m.is_predicate(operands[0]) else None
    to, a, b, c, table = operands[:5]
    values = [m.bits(name)(lanes) for name in (a, b, c)]
    value = logic(values, int(table, 0), np.zeros(len(lanes), np.uint32))
    m.put(to, lanes, value)
    if flag is not None:
        m.put_predicate(flag, lanes, value != 0)


def _predicate_logic(m: Machine, which: Instruction, lanes: Lanes) -> None:
    *out, a, b, c, first, second = which.operands
    values = [m.predicate(name)(lanes) for name in (a, b, c)]
    none = np.zeros(len(lanes), bool)
    for name, table in zip(out, (first, second), strict=True):
        m.put_predicate(name, lanes, logic(values, int(table, 0), none))


def _permute(m: Machine, which: Instruction, lanes: Lanes) -> None:
    to, a, chosen, b = which.operands
    value = m.bits(a)(lanes).astype(np.uint64) | m.bits(b)(lanes).astype(np.uint64) << np.uint64(32)
    selector = m.bits(chosen)(lanes).astype(np.uint64)
    result = np.zeros(len(lanes), np.uint64)
    for k in range(4):
        nibble = selector >> np.uint64(4 * k) & np.uint64(15)
        byte = value >> ((nibble & np.uint64(7)) * np.uint64(8)) & np.uint64(255)
        sign = np.where(byte >> np.uint64(7) != 0, np.uint64(255), np.uint64(0))
        result |= np.where(nibble >> np.uint64(3) != 0, sign, byte) << np.uint64(8 * k)
    m.put_word(to, lanes, result)


def _select(m: Machine, which: Instruction, lanes: Lanes) -> None:
    to, a, b, by = which.operands
    get = m.floats if which.op == "FSEL" else m.bits
    m.put(to, lanes, np.where(m.predicate(by)(lanes), get(a)(lanes), get(b)(lanes)))


def _move(m: Machine, which: Instruction, lanes: Lanes) -> None:
    to, value = which.operands[:2]
    if value.startswith("SR"):
        m.put(to, lanes, m.special[value][lanes])
        if which.op == "CS2R" and "32" not in which.flags:
            m.put(to, lanes, m.special[value][lanes].astype(np.uint64))
    elif "64" in which.flags:
        m.put(to, lanes, m.raw(value, wide=True)(lanes))
    else:
        m.put(to, lanes, m.bits(value)(lanes))


def _load_constant(m: Machine, which: Instruction, lanes: Lanes) -> None:
    to, value = which.operands
    bank, where = re.fullmatch(r"c\[(\w+)\](\[.*\])", value).groups()
    memory = m.constants[int(bank, 16)]
    at = m.address_of(where, lanes)
    small = set(which.flags) & set(_TYPES)
    kind = _TYPES[small.pop()] if small else np.uint64 if "64" in which.flags else np.uint32
    usable = memory[: len(memory) // 8 * 8].view(kind)
    value = usable[aligned(at, np.dtype(kind).itemsize)]
    m.put(to, lanes, value if value.itemsize >= 4 else value.astype(np.int64).astype(np.uint32))


def _half_constant(m: Machine, which: Instruction, lanes: Lanes) -> None:
    """HFMA2 R, -RZ, RZ, a, b: how compilers write a constant of two halves."""
    to, a, b, *halves = which.operands
    if (a, b) != ("-RZ", "RZ") or len(halves) != 2:
        raise NotImplementedError(which.text)
    number = {"+INF": np.inf, "-INF": -np.inf, "+QNAN": np.nan, "QNAN": np.nan, "-QNAN": np.nan}
    high, low = (
        int(np.float16(number[h] if h in number else float(h)).view(np.uint16)) for h in halves
    )
    m.put(to, lanes, np.full(len(lanes), high << 16 | low, np.uint32))


def _pack(m: Machine, which: Instruction, lanes: Lanes) -> None:
    """F2FP: two numbers as 16-bit floats, the first in the upper half."""
    if "PACK_AB" not in which.flags or set(which.flags) - {"PACK_AB", "F32", "F16", "BF16"}:
        raise NotImplementedError(which.text)
    to, *names = which.operands
    halve = bfloat16 if "BF16" in which.flags else float16
    high, low = (halve(m.floats(name)(lanes)).astype(np.uint32) for name in names)
    m.put(to, lanes, high << np.uint32(16) | low)


_COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    "LT": np.less, "LE": np.less_equal, "GT": np.greater, "GE": np.greater_equal,
    "EQ": np.equal, "NE": np.not_equal,
}  # fmt: skip
_COMBINE: dict[str, Callable[[Any, Any], Any]] = {
    "AND": np.logical_and, "OR": np.logical_or, "XOR": np.logical_xor
}  # fmt: skip


def _compare_integers(m: Machine, which: Instruction, lanes: Lanes) -> None:
    out, other, a, b, *into = which.operands
    signed = "U32" not in which.flags
    x, y = m.integers(a, signed)(lanes), m.integers(b, signed)(lanes)
    kind = which.flags[0]
    result = _COMPARISONS[kind](x, y)
    if "EX" in which.flags:  # of 64 bits, whose lower halves were compared before
        below = m.predicate(into[1])(lanes)
        if kind == "NE":
            result = result | below
        elif kind == "EQ":
            result = result & below
        else:
            result = np.where(x == y, below, _COMPARISONS[kind[0] + "T"](x, y))
    _put_comparison(m, which, lanes, result, out, other, into[0])


def _compare_floats(m: Machine, which: Instruction, lanes: Lanes) -> None:
    out, other, a, b, into = which.operands
    get = m.doubles if which.op == "DSETP" else m.floats
    x, y = get(a)(lanes), get(b)(lanes)
    kind = which.flags[0]
    unordered = np.isnan(x) | np.isnan(y)
    if kind in ("NUM", "NAN"):
        result = unordered if kind == "NAN" else ~unordered
    elif len(kind) == 3:
        result = _COMPARISONS[kind[:2]](x, y) | unordered
    else:
        result = _COMPARISONS[kind](x, y) & ~unordered
    _put_comparison(m, which, lanes, result, out, other, into)


def _put_comparison(
    m: Machine, which: Instruction, lanes: Lanes, result: Any, out: str, other: str, into: str
) -> None:
    combine = _COMBINE[next(flag for flag in which.flags if flag in _COMBINE)]
    before = m.predicate(into)(lanes)
    m.put_predicate(other, lanes, combine(~result, before))
    m.put_predicate(out, lanes, combine(result, before))


def _extreme(m: Machine, which: Instruction, lanes: Lanes) -> None:
    """IMNMX, VIMNMX, VIMNMX3, VIADDMNMX, FMNMX: the least where the last predicate says so."""
    to, *operands = which.operands
    while m.is_predicate(operands[0]):
        operands.pop(0)
    *names, least = operands
    least_of = m.predicate(least)(lanes)
    if which.op == "FMNMX":
        a, b = (m.floats(name)(lanes) for name in names)
        m.put(to, lanes, np.where(least_of, np.fmin(a, b), np.fmax(a, b)))
        return
    signed = "U32" not in which.flags
    if which.op == "VIADDMNMX":
        total = m.bits(names[0])(lanes) + m.bits(names[1])(lanes)
        values = [(total.view(np.int32) if signed else total).astype(np.int64)]
        names = names[2:]
    else:
        values = []
    values += [m.integers(name, signed)(lanes) for name in names]
    low, high = values[0], values[0]
    for value in values[1:]:
        low, high = np.minimum(low, value), np.maximum(high, value)
    m.put_word(to, lanes, np.where(least_of, low, high))


def _float_arithmetic(m: Machine, which: Instruction, lanes: Lanes) -> None:
    directions = set(which.flags) - {"FTZ"}
    if directions and (which.op != "FADD" or not directions <= {"RZ", "RM"}):
        raise NotImplementedError(which.text)
    to, *names = which.operands
    a, b, *c = (m.floats(name)(lanes) for name in names)
    if which.op == "FADD":
        m.put(to, lanes, added(a, b, "".join(directions)))
    elif which.op == "FMUL":
        m.put(to, lanes, a * b)
    else:
        m.put(to, lanes, fused(a, b, c[0]))


def _double_arithmetic(m: Machine, which: Instruction, lanes: Lanes) -> None:
    to, a, b = which.operands
    x, y = m.doubles(a)(lanes), m.doubles(b)(lanes)
    m.put(to, lanes, x + y if which.op == "DADD" else x * y)


def _to_float(m: Machine, which: Instruction, lanes: Lanes) -> None:
    to, name = which.operands
    kinds = set(which.flags)
    name, _, piece = name.partition(".B")
    bits = m.bits(name)(lanes) >> np.uint32(8 * int(piece or 0))
    small = kinds & set(_TYPES)
    value = (
        bits.astype(_TYPES[small.pop()])
        if small
        else bits
        if "U32" in kinds
        else bits.view(np.int32)
    )
    m.put(to, lanes, value.astype(np.float64 if "F64" in kinds else np.float32))


def _to_integer(m: Machine, which: Instruction, lanes: Lanes) -> None:
    to, name = which.operands
    double = "F64" in which.flags
    value = (m.doubles if double else m.floats)(name)(lanes).astype(np.float64)
    value = (
        np.trunc(value)
        if "TRUNC" in which.flags
        else np.floor(value)
        if "FLOOR" in which.flags
        else np.rint(value)
    )
    low, high = (0, 2**32 - 1) if "U32" in which.flags else (-(2**31), 2**31 - 1)
    m.put_word(to, lanes, np.nan_to_num(value).clip(low, high).astype(np.int64))


def _special_function(m: Machine, which: Instruction, lanes: Lanes) -> None:
    to, name = which.operands
    if which.flags[0] != "RCP":
        raise NotImplementedError(which.text)
    m.put(to, lanes, np.float32(1) / m.floats(name)(lanes))


def _check_division(m: Machine, which: Instruction, lanes: Lanes) -> None:
    """FCHK: whether a quotient needs the slow path, for numbers that are far too large or small."""
    out, a, b = which.operands
    far = np.zeros(len(lanes), bool)
    for name in (a, b):
        size = np.abs(m.floats(name)(lanes))
        far |= ~((size > 1e-30) & (size < 1e30))
    m.put_predicate(out, lanes, far)


def _branch(m: Machine, which: Instruction, lanes: Lanes, taken: Any) -> None:
    for name in which.operands[:-1]:
        taken = taken & m.predicate(name)(lanes)
    m.jump(lanes, taken, m.labels[re.search(r"`\((.*)\)", which.operands[-1])[1]])


def _branch_far(m: Machine, which: Instruction, lanes: Lanes, taken: Any) -> None:
    """BRX R2 -0x1010: to an address in a register, from the next instruction on."""
    name, offset = which.operands[0].split()[:2]
    target = m.raw(name)(lanes[taken]).view(np.int32).astype(np.int64) + int(offset, 0)
    m.jump(lanes, taken, target + m.next[m.address])


def _return(m: Machine, which: Instruction, lanes: Lanes, taken: Any) -> None:
    target = m.raw(which.operands[0].split()[0])(lanes[taken])
    m.jump(lanes, taken, target.astype(np.int64))


def _exit(m: Machine, which: Instruction, lanes: Lanes, taken: Any) -> None:
    m.jump(lanes, taken, np.iinfo(np.int64).max)


def _vote(m: Machine, which: Instruction, lanes: Lanes) -> None:
    """VOTEU.ANY: used before branches that a whole warp takes; here each thread has its own."""
    *out, name = which.operands
    value = m.predicate(name)(lanes)
    warps = lanes // WARP
    some = np.zeros(m.lanes // WARP, bool)
    np.logical_or.at(some, warps, value)
    every = np.ones(m.lanes // WARP, bool)
    np.logical_and.at(every, warps, value)
    result = (some if "ANY" in which.flags else every)[warps]
    for to in out:
        if m.is_predicate(to):
            m.put_predicate(to, lanes, result)
        elif m.words(to) is not None:
            raise NotImplementedError(which.text)


def _nothing(m: Machine, which: Instruction, lanes: Lanes) -> None:
    """What only says where diverged threads meet."""


# What instructions do to some threads; those that jump are told what threads take the jump.
JUMPS: dict[str, Callable[..., None]] = {
    "BRA": _branch, "CALL": _branch, "BRX": _branch_far, "RET": _return, "EXIT": _exit,
}  # fmt: skip
STEPS: dict[str, Callable[..., None]] = {
    **dict.fromkeys(("LDG", "LD", "LDS", "LDL"), _load),
    **dict.fromkeys(("STG", "ST", "STS", "STL"), _store),
    **dict.fromkeys(("LDC", "ULDC", "LDCU"), _load_constant),
    **dict.fromkeys(("MOV", "UMOV", "S2R", "S2UR", "CS2R", "R2UR"), _move),
    "HFMA2": _half_constant,
    "F2FP": _pack,
    "IADD3": _integer_sum,
    **dict.fromkeys(("VIADD", "IADD"), _add),
    "IMAD": _multiply,
    "LEA": _shift_and_add,
    "SHF": _shift,
    "LOP3": _bitwise,
    "PLOP3": _predicate_logic,
    "PRMT": _permute,
    **dict.fromkeys(("SEL", "FSEL"), _select),
    "ISETP": _compare_integers,
    **dict.fromkeys(("FSETP", "DSETP"), _compare_floats),
    **dict.fromkeys(("IMNMX", "VIMNMX", "VIMNMX3", "VIADDMNMX", "FMNMX"), _extreme),
    **dict.fromkeys(("FADD", "FMUL", "FFMA"), _float_arithmetic),
    **dict.fromkeys(("DADD", "DMUL"), _double_arithmetic),
    **dict.fromkeys(("I2F", "I2FP"), _to_float),
    "F2I": _to_integer,
    "MUFU": _special_function,
    "FCHK": _check_division,
    **dict.fromkeys(("VOTE", "VOTEU"), _vote),
    "BAR": lambda m, which, lanes: m.wait(lanes),
    **dict.fromkeys(("BSSY", "BSYNC", "BREAK", "BMOV", "WARPSYNC", "NOP", "YIELD"), _nothing),
}  # fmt: skip
