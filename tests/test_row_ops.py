"""The loops over rows, of every instruction set that this machine has: tests/native/row_ops.cpp."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from yolodata import _native
from yolodata.dali.compilers import CXX_FLAGS, find_cxx

ROOT = Path(__file__).resolve().parents[1]
RENDER = ROOT / "csrc" / "render"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("native") / "row_ops"
    sources = [
        ROOT / "tests" / "native" / "row_ops.cpp",
        RENDER / "instruction_set.cpp",
        *RENDER.glob("row_ops*.cpp"),
        *RENDER.glob("*jitter*.cpp"),
    ]
    command = [*find_cxx(), *CXX_FLAGS, f"-I{ROOT / 'csrc'}", *map(str, sources), "-o", str(made)]
    subprocess.run(command, check=True)
    return made


def run(program: Path, instruction_set: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "YOLODATA_SIMD": instruction_set}
    return subprocess.run([program], env=env, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("instruction_set", ["portable", "avx2", "avx512", "neon"])
def test_every_loop_gives_the_bytes_of_shade(program: Path, instruction_set: str) -> None:
    done = run(program, instruction_set)
    if "must be one that this processor runs" in done.stderr:
        pytest.skip(f"this processor has no {instruction_set}")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{instruction_set}: every loop gives shade.h's bytes\n"


def test_the_fastest_is_chosen() -> None:
    best = {"x86_64": ("avx512", "avx2", "portable"), "aarch64": ("neon",)}[os.uname().machine]
    assert "YOLODATA_SIMD" in os.environ or _native.instruction_set() in best


@pytest.mark.parametrize("name", ["sse", "", "AVX2"])
def test_another_instruction_set_is_refused(name: str) -> None:
    """Before anything is read."""
    code = (
        "import yolodata\n"
        "from yolodata.pipeline.loader import check_device\n"
        "try: check_device(yolodata.DeviceOptions())\n"
        "except yolodata.ConfigError as error: print(error)\n"
    )
    env = {**os.environ, "YOLODATA_SIMD": name}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout.startswith("YOLODATA_SIMD must be one that this processor runs (")
    assert f"portable), got '{name}'; unset it" in done.stdout


def test_arm64_is_compiled_with_the_flags_of_everything_else() -> None:
    script = (ROOT / "tests" / "native" / "arm64.sh").read_text()
    assert f'flags="{" ".join(CXX_FLAGS)}"\n' in script
