"""The interpreter of machine code that counts a kernel's instructions, on code written by hand."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def load(name: str) -> ModuleType:
    """A module of benchmarks/, whose scripts find one another by their folder."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))


sass, arithmetic = load("sass"), load("sass_arithmetic")

# Every thread writes thread * (thread / 32 + 1) to memory, by additions: so many turns of a loop.
LOOP = """
.text.loop:
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/                   SHF.R.U32.HI R2, RZ, 0x5, R0 ;
        /*0020*/                   IADD3 R2, R2, 0x1, RZ ;
        /*0030*/                   MOV R3, RZ ;
        /*0040*/                   BSSY B0, `(.L_out) ;
.L_turn:
        /*0050*/                   IMAD.IADD R3, R3, 0x1, R0 ;
        /*0060*/                   IADD3 R2, R2, -0x1, RZ ;
        /*0070*/                   ISETP.NE.AND P0, PT, R2, RZ, PT ;
        /*0080*/               @P0 BRA `(.L_turn) ;
        /*0090*/                   BSYNC B0 ;
.L_out:
        /*00a0*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*00b0*/                   MOV R4, c[0x0][0x160] ;
        /*00c0*/                   MOV R5, c[0x0][0x164] ;
        /*00d0*/                   IMAD.WIDE R4, R0, 0x4, R4 ;
        /*00e0*/                   STG.E desc[UR4][R4.64], R3   (*"some nvdisasm remark here"*);
        /*00f0*/                   EXIT ;
.text.other:
        /*0000*/                   EXIT ;
"""


def machine(text: str, kernel: str, memory: Any) -> Any:
    """One block of 64 threads."""
    bank = bytearray(0x200)
    bank[0x160:0x168] = memory.ctypes.data.to_bytes(8, "little")
    code, labels = sass.parse(text, kernel)
    return sass.Machine(code, labels, {0: bytes(bank)}, memory, 0, 64, [(0, 0, 0)])


def test_a_warp_counts_once_for_all_its_threads() -> None:
    memory = np.zeros(256, np.uint8)
    run = machine(LOOP, "loop", memory)
    # Two warps; 12 instructions outside of the loop, 4 inside, once and twice.
    assert run.run() == 2 * 12 + 4 + 2 * 4
    threads = np.arange(64)
    assert np.array_equal(memory.view(np.uint32), threads * (threads // 32 + 1))


def test_threads_that_part_count_apart_until_they_meet() -> None:
    text = LOOP.replace("SHF.R.U32.HI R2, RZ, 0x5, R0", "LOP3.LUT R2, R0, 0x3, RZ, 0xc0, !PT")
    memory = np.zeros(256, np.uint8)
    assert machine(text, "loop", memory).run() == 2 * 12 + 2 * 4 * 4  # the slowest of four
    threads = np.arange(64)
    assert np.array_equal(memory.view(np.uint32), threads * (threads % 4 + 1))


def test_what_it_does_not_know_is_no_guess() -> None:
    text = LOOP.replace("MOV R3, RZ", "FROB R3, RZ")
    with pytest.raises(NotImplementedError, match="FROB"):
        machine(text, "loop", np.zeros(256, np.uint8)).run()
    for known, strange in (
        ("IADD3 R2, R2, 0x1, RZ", "IADD3.SAT R2, R2, 0x1, RZ"),  # a flag
        ("IADD3 R2, R2, 0x1, RZ", "IADD3 R2, R2.H0, 0x1, RZ"),  # a part of a register
        ("IADD3 R2, R2, 0x1, RZ", "IADD3 R2, R2, 0x1"),  # an operand too few
        ("MOV R3, RZ", "MOV R3, P1, RZ"),  # a predicate that it writes
        ("STG.E desc", "STG.E.S8 desc"),  # a size
    ):
        with pytest.raises(NotImplementedError, match=re.escape(strange)):
            machine(LOOP.replace(known, strange), "loop", np.zeros(256, np.uint8)).run()
    with pytest.raises(IndexError, match="outside of memory"):
        machine(LOOP, "loop", np.zeros(252, np.uint8)).run()


def test_sums_are_rounded_once() -> None:
    rng = np.random.default_rng(0)
    a, b, c = (rng.uniform(-2, 2, 100_000).astype(np.float32) for _ in range(3))
    wide = [x.astype(np.longdouble) for x in (a, b, c)]
    assert np.array_equal(
        arithmetic.fused(a, b, c), (wide[0] * wide[1] + wide[2]).astype(np.float32)
    )
    whole = np.float32(12582912)
    tiny = np.concatenate([a, np.float32([-1e-20, 1e-20, -0.0, 3])])
    assert np.array_equal(arithmetic.added({"RM"}, tiny, whole) - whole, np.floor(tiny))
    assert np.array_equal(arithmetic.added({"RZ"}, abs(tiny), whole) - whole, np.floor(abs(tiny)))


# Every thread writes its two numbers, packed into 16 bits each, the second in the upper half.
PACK = """
.text.pack:
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/                   MOV R4, c[0x0][0x160] ;
        /*0020*/                   MOV R5, c[0x0][0x164] ;
        /*0030*/                   IMAD.WIDE R4, R0, 0x8, R4 ;
        /*0040*/                   LDG.E.64 R6, desc[UR4][R4.64] ;
        /*0050*/                   F2FP.F16.F32.PACK_AB R6, R7, R6 ;
        /*0060*/                   STG.E desc[UR4][R4.64], R6 ;
        /*0070*/                   EXIT ;
"""


@pytest.mark.parametrize(("name", "dtype"), [("F16", "float16"), ("BF16", "bfloat16")])
def test_numbers_are_packed_as_torch_rounds_them(name: str, dtype: str) -> None:
    given = np.random.default_rng(0).uniform(0, 1, 128).astype(np.float32)
    given[:4] = [0, 1, 1 + 2**-11, 1 + 2**-8]  # ties of half precision and of bfloat16
    memory = given.view(np.uint8).copy()
    machine(PACK.replace("F2FP.F16", f"F2FP.{name}"), "pack", memory).run()
    want = torch.from_numpy(given).to(getattr(torch, dtype)).view(torch.int16).numpy()
    assert np.array_equal(memory.view(np.int16).reshape(-1, 4)[:, :2], want.reshape(-1, 2))
    with pytest.raises(NotImplementedError, match="RZ"):
        machine(PACK.replace("PACK_AB", "PACK_AB.RZ"), "pack", memory).run()


def test_a_bank_gives_one_word_a_cycle() -> None:
    lanes = np.arange(64)  # two warps
    assert sass.bank_cycles(lanes * 4, lanes, 4) == 2
    assert sass.bank_cycles(lanes * 0, lanes, 4) == 2  # one word for all
    assert sass.bank_cycles(lanes * 3, lanes, 1) == 2
    assert sass.bank_cycles(lanes * 8, lanes, 4) == 4
    assert sass.bank_cycles(lanes * 128, lanes, 4) == 64
    assert sass.bank_cycles(lanes * 16, lanes, 16) == 8  # four cycles a warp, none lost
    assert sass.bank_cycles(lanes[:40] * 4, lanes[:40], 4) == 2
