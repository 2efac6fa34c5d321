"""An interpreter of NVIDIA machine code (SASS), for counting what a kernel executes without a GPU.

It runs what nvdisasm prints, for many thread blocks at once: a register is a NumPy array with an
element for each thread. Of the threads that are not waiting, those with the smallest program
counter go on, which brings diverged threads together again as early as a GPU's barriers do. A warp
executes an instruction once for all its threads that go on together.

It knows the instructions that the renderer's kernel is made of, on sm_80 to sm_120, and raises
`NotImplementedError` for others. Memory outside of what it was given raises `IndexError`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
from sass_numbers import bank_cycles

WARP = 32
_LOCAL = 4096  # bytes of stack a thread
_SHARED_FIRST = 0x400  # what a block may use begins here, where the system keeps something itself
_ALL = np.uint32(0xFFFFFFFF)

Lanes = Any  # indices of threads
Getter = Callable[[Lanes], Any]


class Instruction:
    """One line of nvdisasm: `@!P0 IMAD.WIDE R8, R2.reuse, 0x10, R4 ;`."""

    def __init__(self, text: str) -> None:
        guard, self.name, rest = re.fullmatch(r"(?:@(!?U?P\w+)\s+)?(\S+)\s*(.*)", text).groups()
        self.guard = guard
        self.op, *self.flags = self.name.split(".")
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


def sections(cubin: bytes) -> dict[str, bytes]:
    """The sections of an ELF file by their names."""
    (offset,) = struct.unpack_from("<Q", cubin, 40)
    size, count, names = struct.unpack_from("<3H", cubin, 58)
    headers = [
        struct.unpack_from("<IIQQQQ", cubin, offset + i * size) for i in range(count)
    ]  # name, type, flags, address, offset, size
    strings = cubin[headers[names][4] :]
    return {
        strings[h[0] : strings.index(b"\0", h[0])].decode(): cubin[h[4] : h[4] + h[5]]
        for h in headers
        if h[1] != 8  # of no bytes in the file
    }


class Machine:
    """Some blocks of a launch.

    Args:
        code, labels: see `parse`.
        constants: banks of constant memory by number.
        memory: uint8, global memory; its addresses are those that it has on this machine.
        shared: bytes of shared memory of a block.
        threads: of a block, a multiple of 32.
        places: (n, 3), the indices (x, y, z) of the blocks that run.
        steps, jumps: what instructions do, by their names (see `sass_steps.py`).
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
        steps: Mapping[str, Callable[..., None]],
        jumps: Mapping[str, Callable[..., None]],
        banks: bool = False,
    ) -> None:
        lanes = len(places) * threads
        self.lanes, self.threads = lanes, threads
        self.registers = np.zeros((256, lanes), np.uint32)
        self.uniform = np.zeros((256, lanes), np.uint32)
        self.predicates = {"P": np.zeros((8, lanes), bool), "UP": np.zeros((8, lanes), bool)}
        for bank in self.predicates.values():
            bank[7] = True
        self.constants = {i: np.frombuffer(data, np.uint8) for i, data in constants.items()}
        self.memory, self.base = memory, memory.ctypes.data
        self.shared_pitch = shared + _SHARED_FIRST
        self.shared = np.zeros(len(places) * self.shared_pitch, np.uint8)
        self.local = np.zeros(lanes * _LOCAL, np.uint8)
        self.special = {
            "SR_TID.X": np.tile(np.arange(threads, dtype=np.uint32), len(places)),
            "SR_CgaCtaId": np.zeros(lanes, np.uint32),
            "SRZ": np.zeros(lanes, np.uint32),
            **{
                f"SR_CTAID.{axis}": np.repeat(np.asarray(places)[:, i].astype(np.uint32), threads)
                for i, axis in enumerate("XYZ")
            },
        }
        self.labels = labels
        self.next = dict(zip(sorted(code), sorted(code)[1:], strict=False))
        self.counter = np.full(lanes, min(code), np.int64)
        self.waiting = np.zeros(lanes, bool)
        self.executed = dict.fromkeys(code, 0)  # by how many warps, by address
        self.banks, self.shared_cycles = banks, 0
        self.jumped = False
        self.code = code
        self.steps, self.jumps = steps, jumps
        self.compiled: dict[int, Callable[[Lanes], None]] = {}

    # Running.

    def run(self) -> int:
        """Runs the blocks to their end. Returns how many instructions their warps executed."""
        never = np.iinfo(np.int64).max
        while True:
            ready = np.where(self.waiting, never, self.counter)
            address = ready.min()
            if address == never:
                if self.waiting.any():
                    raise RuntimeError("threads wait at a barrier that others never reach")
                break
            lanes = np.flatnonzero(ready == address)
            ready[lanes] = never
            others = ready.min()
            warps = len(np.unique(lanes // WARP))
            address = int(address)
            self.jumped = False
            while not self.jumped and address < others:
                self.executed[address] += warps
                step = self.compiled.get(address)
                if step is None:
                    step = self.compiled[address] = self.compile(address)
                self.address = address
                step(lanes)
                if not self.jumped:
                    address = self.next[address]
            if not self.jumped:
                self.counter[lanes] = address
        return sum(self.executed.values())

    def compile(self, address: int) -> Callable[[Lanes], None]:
        """What an instruction does to some threads."""
        which = self.code[address]
        # Of the uniform data path: the same, for registers of a warp.
        op = which.op
        if op not in self.steps and op.startswith("U") and op[1:] in self.steps:
            op = op[1:]
        guard = self.predicate(which.guard or "PT")
        if op in self.jumps:
            return lambda lanes: self.jumps[op](self, which, lanes, guard(lanes))
        if op not in self.steps:
            raise NotImplementedError(f"SASS instruction at {address:#x}: {which.text}")
        step = partial(self.steps[op], self, which)
        if which.guard is None:
            return step

        def guarded(lanes: Lanes) -> None:
            chosen = lanes[guard(lanes)]
            if len(chosen):
                step(chosen)

        return guarded

    def jump(self, lanes: Lanes, taken: Any, target: Any) -> None:
        """Where `taken`, goes on at `target`; where not, behind this instruction."""
        self.jumped = True
        self.counter[lanes] = self.next.get(self.address, 0)
        self.counter[lanes[taken]] = target

    def wait(self, lanes: Lanes) -> None:
        """The barrier of all threads of a block; those that have ended are not waited for."""
        self.jumped = True
        self.counter[lanes] = self.next[self.address]
        self.waiting[lanes] = True
        ended = self.counter == np.iinfo(np.int64).max
        there = (self.waiting | ended).reshape(-1, self.threads).all(1)
        self.waiting[np.repeat(there, self.threads)] = False

    # Operands.

    def predicate(self, name: str) -> Getter:
        """A predicate's values: `P0`, `!UP1`, `PT`."""
        sign, bank, number = re.fullmatch(r"(!?)(UP|P)(\w)", name).groups()
        row = self.predicates[bank][7 if number == "T" else int(number)]
        return (lambda lanes: ~row[lanes]) if sign else (lambda lanes: row[lanes])

    def is_predicate(self, name: str) -> bool:
        """Whether an operand is a predicate."""
        return re.fullmatch(r"!?U?P[\dT]", name) is not None

    def words(self, name: str) -> Any:
        """The row of a register; None for RZ."""
        bank, number = re.match(r"(UR|R)(\d+|Z)", name).groups()
        if number == "Z":
            return None
        return (self.uniform if bank == "UR" else self.registers)[int(number)]

    def constant(self, name: str, nbytes: int) -> int:
        """A number in constant memory: `c[0x0][0x210]`."""
        bank, offset = re.fullmatch(r"c\[(\w+)\]\[(\w+)\]", name).groups()
        first = int(offset, 16)
        return int.from_bytes(self.constants[int(bank, 16)][first : first + nbytes], "little")

    def raw(self, name: str, wide: bool = False) -> Getter:
        """An operand's bits, without a complement: uint32, or uint64 if `wide`."""
        kind = np.uint64 if wide else np.uint32
        if wide and name[0] == "-" and not name[1].isdigit():
            get = self.raw(name[1:], wide)
            return lambda lanes: kind(0) - get(lanes)
        if name[0] == "c":
            value = kind(self.constant(name, 8 if wide else 4))
            return lambda lanes: np.full(len(lanes), value)
        if name[0] in "RU":
            low = self.words(name)
            if low is None:
                return lambda lanes: np.zeros(len(lanes), kind)
            if not wide:
                return lambda lanes: low[lanes]
            number = int(re.match(r"U?R(\d+)", name)[1])
            high = (self.uniform if name[0] == "U" else self.registers)[number + 1]
            return lambda lanes: low[lanes].astype(kind) | high[lanes].astype(kind) << kind(32)
        value = kind(int(name, 0) & (2**64 - 1 if wide else 2**32 - 1))
        return lambda lanes: np.full(len(lanes), value)

    def bits(self, name: str) -> Getter:
        """A 32-bit integer operand."""
        if name[0] == "~":
            get = self.raw(name[1:])
            return lambda lanes: ~get(lanes)
        if name[0] == "-" and not name[1].isdigit():
            get = self.raw(name[1:])
            return lambda lanes: np.uint32(0) - get(lanes)
        return self.raw(name)

    def terms(self, name: str) -> Getter:
        """The same as a term of a sum with carries: uint64, where -x is 2^32 - x."""
        if name[0] == "-" and not name[1].isdigit():
            get = self.raw(name[1:])
            return lambda lanes: np.uint64(2**32) - get(lanes)
        get = self.bits(name)
        return lambda lanes: get(lanes).astype(np.uint64)

    def integers(self, name: str, signed: bool) -> Getter:
        """A 32-bit integer operand: int64."""
        get = self.bits(name)
        if signed:
            return lambda lanes: get(lanes).view(np.int32).astype(np.int64)
        return lambda lanes: get(lanes).astype(np.int64)

    def floats(self, name: str) -> Getter:
        """A single-precision operand: `-|R3|`, `+INF`, `12582912`."""
        sign, bar, rest = re.fullmatch(r"(-?)(\|?)([^|]+?)\|?", name).groups()
        if rest[0] in "RUc":
            get = self.raw(rest)
        else:
            number = {"+INF": np.inf, "INF": np.inf, "+QNAN": np.nan, "QNAN": np.nan}
            value = np.float32(number[rest] if rest in number else float(rest)).view(np.uint32)

            def get(lanes: Lanes) -> Any:
                return np.full(len(lanes), value)

        keep = np.uint32(0x7FFFFFFF) if bar else _ALL
        flip = np.uint32(0x80000000) if sign else np.uint32(0)
        return lambda lanes: ((get(lanes) & keep) ^ flip).view(np.float32)

    def doubles(self, name: str) -> Getter:
        """A double-precision operand, of two registers."""
        sign, rest = ("-", name[1:]) if name[0] == "-" and name[1] in "Rc" else ("", name)
        if rest[0] in "RUc":
            get = self.raw(rest, wide=True)
            return lambda lanes: -get(lanes).view(np.float64) if sign else get(lanes).view(float)
        value = float(rest)
        return lambda lanes: np.full(len(lanes), value)

    def put(self, name: str, lanes: Lanes, value: Any) -> None:
        """uint32, int32, float32 or a 64-bit value to a register or a pair of registers."""
        row = self.words(name)
        if row is None:
            return
        if value.itemsize == 4:
            row[lanes] = value.view(np.uint32)
            return
        pair = np.ascontiguousarray(value).view(np.uint32).reshape(-1, 2)
        row[lanes] = pair[:, 0]
        number = int(re.match(r"U?R(\d+)", name)[1])
        (self.uniform if name[0] == "U" else self.registers)[number + 1][lanes] = pair[:, 1]

    def put_word(self, name: str, lanes: Lanes, value: Any) -> None:
        """The low 32 bits of a 64-bit value to a register."""
        self.put(name, lanes, value.astype(np.int64).astype(np.uint32))

    def put_predicate(self, name: str, lanes: Lanes, value: Any) -> None:
        """A predicate's new values."""
        bank, number = re.fullmatch(r"(UP|P)(\w)", name).groups()
        if number != "T":
            self.predicates[bank][int(number)][lanes] = value

    def address_of(self, text: str, lanes: Lanes) -> Any:
        """`desc[UR8][R2.64+0x8]`, `[R3+UR4+-0x18]`, `[0x28]`: int64."""
        total = np.zeros(len(lanes), np.int64)
        for part in re.search(r"\[([^\[\]]*)\]$", text)[1].replace("+-", "+ -").split("+"):
            part = part.strip()
            name, _, scale = part.partition(".X")
            if name.endswith(".64"):
                total += self.raw(name[:-3], wide=True)(lanes).view(np.int64)
            elif name[0] in "RU":
                name = name.removesuffix(".U32")
                total += self.raw(name)(lanes).view(np.int32).astype(np.int64) * int(scale or 1)
            else:
                total += int(name, 0)
        return total

    def cells(self, which: Instruction, text: str, lanes: Lanes) -> tuple[Any, Any]:
        """The memory that an instruction means, and where in it: an int64 for each thread."""
        at = self.address_of(text, lanes)
        if which.op in ("LDS", "STS"):
            if at.min(initial=0) < 0 or at.max(initial=0) >= self.shared_pitch:
                raise IndexError(f"outside of shared memory: {which.text}")
            if self.banks:
                size = 16 if "128" in which.flags else 8 if "64" in which.flags else 4
                self.shared_cycles += bank_cycles(at, lanes, size)
            return self.shared, lanes // self.threads * self.shared_pitch + at
        if which.op in ("LDL", "STL"):
            return self.local, lanes * _LOCAL + at
        at -= self.base
        if at.min(initial=0) < 0 or at.max(initial=0) >= self.memory.size:
            raise IndexError(f"outside of memory: {which.text}")
        return self.memory, at
