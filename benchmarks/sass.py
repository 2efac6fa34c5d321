"""An interpreter of NVIDIA machine code (SASS), for counting what a kernel executes without a GPU.

It runs what nvdisasm prints, for many thread blocks at once: a register is a NumPy array with an
element for each thread. Of the threads that are not waiting, those with the smallest program
counter go on, which brings diverged threads together again as early as a GPU's barriers do. A warp
executes an instruction once for all its threads that go on together.

It knows the instructions that the renderer executes on sm_80, sm_90 and sm_100, and raises
`NotImplementedError` for others. Memory outside of what it was given raises `IndexError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import takewhile
from typing import Any

import numpy as np
from sass_arithmetic import COMPARISONS, STEPS

WARP = 32
_SHARED_FIRST = 0x400  # what a block may use begins here, where the system keeps something itself
_NEVER = np.iinfo(np.int64).max  # the program counter of a thread that has ended
_NBYTES = {"U8": 1, "U16": 2, "64": 8, "128": 16}  # that are loaded or stored, if not 4
# What only says where diverged threads meet.
_NOTHING = ("BSSY", "BSYNC", "BREAK", "BMOV", "WARPSYNC", "NOP")
_PREDICATE = re.compile(r"(!?)(U?P)([\dT])")
_REGISTER = re.compile(r"(U?R)(\d+|Z)")

Lanes = Any  # indices of threads
Getter = Callable[[Lanes], Any]
Action = Callable[[Lanes], None]


class Instruction:
    """One line of nvdisasm: `@!P0 IMAD.WIDE R8, R2.reuse, 0x10, R4 ;`."""

    def __init__(self, text: str) -> None:
        self.guard, self.name, rest = re.fullmatch(
            r"(?:@(!?U?P\w+)\s+)?(\S+)\s*(.*)", text
        ).groups()
        self.op, *flags = self.name.split(".")
        self.flags = frozenset(flags)
        self.operands = [part.strip() for part in rest.replace(".reuse", "").split(",") if part]
        self.text = text


def parse(listing: str, kernel: str) -> tuple[dict[int, Instruction], dict[str, int]]:
    """The instructions of a kernel and the addresses of its labels."""
    code: dict[int, Instruction] = {}
    labels: dict[str, int] = {}
    waiting: list[str] = []
    inside = False
    for line in listing.splitlines():
        if line.startswith(".text."):
            inside = line.rstrip(":") == f".text.{kernel}"
        elif inside and (label := re.match(r"(\S+):$", line)):
            waiting.append(label[1])
        elif inside and (found := re.match(r"\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", line)):
            address = int(found[1], 16)
            code[address] = Instruction(re.sub(r'\s*\(\*".*"\*\)', "", found[2]))  # a remark
            labels.update(dict.fromkeys(waiting, address))
            waiting.clear()
    return code, labels


def bank_cycles(at: Any, lanes: Lanes, size: int) -> int:
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


class Machine:
    """Some blocks of a launch.

    Args:
        code, labels: see `parse`.
        constants: banks of constant memory by number, each of a multiple of 8 bytes.
        memory: uint8, global memory; its addresses are those that it has on this machine.
        shared: bytes of shared memory of a block.
        threads: of a block, a multiple of 32.
        places: (n, 3), the indices (x, y, z) of the blocks that run.
        banks: whether to count cycles of shared memory (`shared_cycles`), which takes longer.
    """

    def __init__(
        self,
        code: dict[int, Instruction],
        labels: dict[str, int],
        constants: dict[int, bytes],
        memory: Any,
        shared: int,
        threads: int,
        places: Any,
        banks: bool = False,
    ) -> None:
        lanes = len(places) * threads
        self.threads = threads
        self.registers = {bank: np.zeros((256, lanes), np.uint32) for bank in ("R", "UR")}
        self.predicates = {bank: np.zeros((8, lanes), bool) for bank in ("P", "UP")}
        for bank in self.predicates.values():
            bank[7] = True
        self.constants = {i: np.frombuffer(data, np.uint8) for i, data in constants.items()}
        self.memory, self.base = memory, memory.ctypes.data
        self.shared_pitch = shared + _SHARED_FIRST
        self.shared = np.zeros(len(places) * self.shared_pitch, np.uint8)
        nothing, block = np.zeros(lanes, np.uint32), np.asarray(places, np.uint32)
        self.special = {
            "SR_TID.X": np.tile(np.arange(threads, dtype=np.uint32), len(places)),
            **{f"SR_CTAID.{axis}": np.repeat(block[:, i], threads) for i, axis in enumerate("XYZ")},
            **dict.fromkeys(("SR_CgaCtaId", "SRZ"), nothing),
        }
        self.code, self.labels = code, labels
        self.next = dict(zip(sorted(code), [*sorted(code)[1:], _NEVER], strict=True))
        self.counter = np.full(lanes, min(code), np.int64)
        self.waiting = np.zeros(lanes, bool)
        self.executed = dict.fromkeys(code, 0)  # by how many warps, by address
        self.banks, self.shared_cycles = banks, 0
        self.jumped = False
        self.compiled: dict[int, Action] = {}

    # Running.

    def run(self) -> int:
        """Runs the blocks to their end. Returns how many instructions their warps executed."""
        while True:
            ready = np.where(self.waiting, _NEVER, self.counter)
            address = int(ready.min())
            if address == _NEVER:
                if self.waiting.any():
                    raise RuntimeError("threads wait at a barrier that others never reach")
                break
            lanes = np.flatnonzero(ready == address)
            ready[lanes] = _NEVER
            others = ready.min()
            warps = len(np.unique(lanes // WARP))
            self.jumped = False
            while not self.jumped and address < others:
                self.executed[address] += warps
                if address not in self.compiled:
                    self.compiled[address] = self.compile(address)
                self.compiled[address](lanes)
                if not self.jumped:
                    address = self.next[address]
            if not self.jumped:
                self.counter[lanes] = address
        return sum(self.executed.values())

    def compile(self, address: int) -> Action:
        """What an instruction does to some threads."""
        which = self.code[address]
        guard = self.predicate(which.guard or "PT")
        try:
            target = self.target(which, address)
            step = None if target else self.step(which, address)
        except NotImplementedError as error:
            raise NotImplementedError(
                f"unknown SASS instruction at {address:#x}: {which.text}{error}"
            ) from None
        if target is not None:
            following = self.next[address]

            def jump(lanes: Lanes) -> None:
                self.jumped = True
                self.counter[lanes] = following
                lanes = lanes[guard(lanes)]
                self.counter[lanes] = target(lanes)

            return jump
        if which.guard is None:
            return step

        def guarded(lanes: Lanes) -> None:
            lanes = lanes[guard(lanes)]
            if len(lanes):
                step(lanes)

        return guarded

    def target(self, which: Instruction, address: int) -> Getter | None:
        """Where threads go on after an instruction; None for what is no jump."""
        if which.op == "EXIT":
            return lambda lanes: _NEVER
        if which.op == "BRX":  # BRX R2 -0x1010: from the next instruction on
            name, offset = which.operands[0].split()[:2]
            words, first = self.bits(name), int(offset, 0) + self.next[address]
            return lambda lanes: words(lanes).view(np.int32).astype(np.int64) + first
        if which.op not in ("BRA", "CALL"):
            return None
        *conditions, label = which.operands
        there, following = self.labels[re.search(r"`\((.*)\)", label)[1]], self.next[address]
        if not conditions:
            return lambda lanes: there
        (condition,) = (self.predicate(name) for name in conditions)
        return lambda lanes: np.where(condition(lanes), there, following)

    def step(self, which: Instruction, address: int) -> Action:
        """What an instruction does that is no jump."""
        if which.op in _NOTHING:
            return lambda lanes: None
        if which.op == "BAR":
            return lambda lanes: self.wait(lanes, self.next[address])
        if which.op in ("LD", "LDG", "LDS", "ST", "STG", "STS"):
            return self.move(which)
        if which.name == "VOTEU.ANY":
            return self.vote(which)
        return self.computation(which)

    def wait(self, lanes: Lanes, following: int) -> None:
        """The barrier of all threads of a block; those that have ended are not waited for."""
        self.jumped = True
        self.counter[lanes] = following
        self.waiting[lanes] = True
        there = (self.waiting | (self.counter == _NEVER)).reshape(-1, self.threads).all(1)
        self.waiting[np.repeat(there, self.threads)] = False

    def computation(self, which: Instruction) -> Action:
        """What is in the tables of `sass_arithmetic`, with its operands and results."""
        # Of the uniform data path: the same, for registers of a warp.
        parts = [name.split(".") for name in (which.name, which.name.removeprefix("U"))]
        starts = (".".join(part[:n]) for part in parts for n in range(len(part), 0, -1))
        known = next((start for start in starts if start in STEPS or start in COMPARISONS), None)
        if known is None:
            raise NotImplementedError
        operands = which.operands
        if known in COMPARISONS:
            step, to, operands = COMPARISONS[known], operands[:2], operands[2:]
        else:  # predicates that are written stand before and behind the register
            step = STEPS[known]
            at = next(i for i, name in enumerate(operands) if not _PREDICATE.fullmatch(name))
            behind = list(takewhile(_PREDICATE.fullmatch, operands[at + 1 :]))
            to = [operands[at], *operands[:at], *behind]
            operands = operands[len(to) :]
        while to and to[-1] in ("PT", "UPT"):
            to.pop()
        flags = which.flags - set(known.split("."))
        if flags - step.flags:
            raise NotImplementedError(f" (flags: {', '.join(sorted(flags - step.flags))})")
        kinds = step.kinds + "p" * (len(operands) - len(step.kinds))
        if len(kinds) != len(operands):
            raise NotImplementedError(f" ({len(operands)} operands)")
        signed = "U32" not in which.flags
        values = [self.operand(*pair, signed) for pair in zip(kinds, operands, strict=True)]
        puts = [self.put(name) for name in to]

        def compute(lanes: Lanes) -> None:
            results = step.function(flags, *(value(lanes) for value in values))
            results = results if isinstance(results, (tuple, list)) else [results]
            if len(puts) > len(results):
                raise NotImplementedError(f"SASS instruction that writes {to}: {which.text}")
            for put, result in zip(puts, results, strict=False):
                put(lanes, result)

        return compute

    # Operands.

    def operand(self, kind: str, name: str, signed: bool) -> Getter:
        """The values of an operand of one of these kinds.

        u: uint32. i: int64, of 32 bits that are signed or not. w: uint64. t: uint64, a term of a
        sum with carries, where -x is 2^32 - x. f: float32. p: a predicate. n: an int. h: uint16, a
        constant in half precision. z: zero, with a sign or not.
        """
        if kind == "p":
            return self.predicate(name)
        if kind == "f":
            return self.floats(name)
        if kind == "n":
            number = int(name, 0)
            return lambda lanes: number
        if kind == "h":
            half = np.array([_number(name)], np.float16).view(np.uint16)
            return lambda lanes: half
        if kind == "z" and name.lstrip("-") != "RZ":
            raise NotImplementedError
        if kind == "t" and _negated(name):
            get = self.bits(name[1:])
            return lambda lanes: np.uint64(2**32) - get(lanes)
        get = self.bits(name, wide=kind == "w")
        if kind == "t":
            return lambda lanes: get(lanes).astype(np.uint64)
        if kind == "i" and signed:
            return lambda lanes: get(lanes).view(np.int32).astype(np.int64)
        return (lambda lanes: get(lanes).astype(np.int64)) if kind == "i" else get

    def predicate(self, name: str) -> Getter:
        """A predicate's values: `P0`, `!UP1`, `PT`."""
        sign, bank, number = _PREDICATE.fullmatch(name).groups()
        row = self.predicates[bank][7 if number == "T" else int(number)]
        return (lambda lanes: ~row[lanes]) if sign else (lambda lanes: row[lanes])

    def rows(self, name: str, count: int = 1) -> list[Any]:
        """A register and those after it; none for RZ."""
        found = _REGISTER.fullmatch(name)
        if found is None:
            raise NotImplementedError(f" (operand {name})")
        bank, number = found.groups()
        return [] if number == "Z" else list(self.registers[bank][int(number) :][:count])

    def bits(self, name: str, wide: bool = False) -> Getter:
        """An operand's bits: uint32, or uint64 if `wide`; of a constant, those of one thread."""
        kind = np.uint64 if wide else np.uint32
        if _negated(name):
            get = self.bits(name[1:], wide)
            return lambda lanes: kind(0) - get(lanes)
        if name[0] == "~":
            get = self.bits(name[1:], wide)
            return lambda lanes: ~get(lanes)
        if name in self.special:
            row = self.special[name]
            return lambda lanes: row[lanes].astype(kind)
        if name[0] == "c":  # c[0x0][0x210], c[0x2][R4]
            bank, where = re.fullmatch(r"c\[(\w+)\](\[.*\])", name).groups()
            cells, at = self.constants[int(bank, 16)].view(kind), self.address(where)
            return lambda lanes: cells[_aligned(at(lanes), kind().itemsize)]
        if name[0].isdigit() or name[0] == "-":
            value = np.array([int(name, 0) & np.iinfo(kind).max], kind)
            return lambda lanes: value
        rows = self.rows(name, 2 if wide else 1)
        if not rows:
            zero = np.zeros(1, kind)
            return lambda lanes: zero
        if not wide:
            return lambda lanes: rows[0][lanes]
        low, high = rows
        return lambda lanes: low[lanes].astype(kind) | high[lanes].astype(kind) << kind(32)

    def floats(self, name: str) -> Getter:
        """A single-precision operand: `-|R3|`, `+INF`, `12582912`."""
        sign, bar, rest = re.fullmatch(r"(-?)(\|?)([^|]+?)\|?", name).groups()
        bits = self.bits(rest) if rest[0] in "RUc" else None
        value = np.array([0 if bits else _number(rest)], np.float32)

        def get(lanes: Lanes) -> Any:
            number = bits(lanes).view(np.float32) if bits else value
            number = abs(number) if bar else number
            return -number if sign else number

        return get

    def put(self, name: str) -> Callable[[Lanes, Any], None]:
        """Writes 32 bits to a register, 64 to two, and truth to a predicate."""
        if found := _PREDICATE.fullmatch(name):
            _, bank, number = found.groups()
            row = self.predicates[bank][int(number)] if number != "T" else None

            def put_predicate(lanes: Lanes, value: Any) -> None:
                if row is not None:
                    row[lanes] = value

            return put_predicate
        rows = self.rows(name, 2)

        def put_words(lanes: Lanes, value: Any) -> None:
            words = np.ascontiguousarray(value).view(np.uint32).reshape(len(value), -1)
            for row, word in zip(rows, words.T, strict=False):
                row[lanes] = word

        return put_words

    # Memory.

    def address(self, text: str) -> Getter:
        """`desc[UR8][R2.64+0x8]`, `[R3.X4+UR4+-0x18]`, `[0x28]`: int64."""
        parts, offset = [], 0
        for part in re.search(r"\[([^\[\]]*)\]$", text)[1].replace("+-", "+ -").split("+"):
            name, _, scale = part.strip().partition(".X")
            if name[0] not in "RU":
                offset += int(name, 0)
            elif name.endswith(".64"):
                parts.append((self.bits(name[:-3], wide=True), np.int64, 1))
            else:
                parts.append((self.bits(name), np.int32, int(scale or 1)))

        def get(lanes: Lanes) -> Any:
            total = np.full(len(lanes), offset, np.int64)
            for bits, kind, scale in parts:
                total += bits(lanes).view(kind).astype(np.int64) * scale
            return total

        return get

    def move(self, which: Instruction) -> Action:
        """Between memory and one register or more."""
        loads, shared = which.op.startswith("L"), which.op in ("LDS", "STS")
        register, place = which.operands if loads else reversed(which.operands)
        flags = which.flags - {"E"}
        if flags - _NBYTES.keys():
            raise NotImplementedError(f" (flags: {', '.join(sorted(flags))})")
        address, size = self.address(place), _NBYTES[min(flags)] if flags else 4
        kind = np.dtype(f"u{min(size, 4)}")
        count = size // kind.itemsize
        rows = self.rows(register, count)
        if not rows and not loads:
            rows = [np.zeros_like(self.counter)] * count
        memory, first = (self.shared, 0) if shared else (self.memory, self.base)
        end = self.shared_pitch if shared else self.memory.size

        def step(lanes: Lanes) -> None:
            at = address(lanes) - first
            if at.min(initial=0) < 0 or at.max(initial=0) >= end:
                raise IndexError(f"outside of {'shared ' * shared}memory: {which.text}")
            if shared and self.banks:
                self.shared_cycles += bank_cycles(at, lanes, max(size, 4))
            if shared:
                at = lanes // self.threads * self.shared_pitch + at
            cells, at = memory.view(kind), _aligned(at, size) * count
            for k, row in enumerate(rows):
                if loads:
                    row[lanes] = cells[at + k]
                else:
                    cells[at + k] = row[lanes].astype(kind)

        return step

    def vote(self, which: Instruction) -> Action:
        """VOTEU.ANY: used before branches that a whole warp takes; here each thread has its own."""
        to, name = which.operands
        value, put = self.predicate(name), self.put(to)

        def step(lanes: Lanes) -> None:
            some = np.zeros(len(self.counter) // WARP, bool)
            some[lanes[value(lanes)] // WARP] = True
            put(lanes, some[lanes // WARP])

        return step


def _negated(name: str) -> bool:
    """Whether an operand has a minus that is not a number's own."""
    return name[0] == "-" and not name[1].isdigit()


def _number(text: str) -> float:
    return float(text.replace("QNAN", "nan"))  # and "+INF"


def _aligned(at: Any, size: int) -> Any:
    """Byte addresses in units of `size`, which they must be multiples of."""
    if (at % size).any():
        raise IndexError(f"an address is no multiple of {size}")
    return at // size
