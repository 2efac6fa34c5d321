"""The loops over rows, of every instruction set that this machine has: tests/native/row_ops.cpp."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from yolodata.dali.compilers import CXX_FLAGS, find_cxx

ROOT = Path(__file__).resolve().parents[1]
RENDER = ROOT / "csrc" / "render"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("native") / "row_ops"
    sources = [
        ROOT / "tests" / "native" / "row_ops.cpp",
        ROOT / "csrc" / "core" / "instruction_set.cpp",
        RENDER / "colour_jitter.cpp",
        *RENDER.glob("jitter_*.cpp"),
        *RENDER.glob("row_ops*.cpp"),
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


@pytest.mark.skipif(platform.machine() != "x86_64", reason="there is but one to choose")
def test_the_fastest_is_chosen() -> None:
    flags = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    has_avx2 = {"avx2", "fma"} <= flags
    has_avx512 = has_avx2 and {"avx512bw", "avx512vl", "avx512vbmi"} <= flags
    best = "avx512" if has_avx512 else "avx2" if has_avx2 else "portable"
    env = {name: value for name, value in os.environ.items() if name != "YOLODATA_SIMD"}
    code = "from yolodata import _native; print(_native.instruction_set())"
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.stdout == f"{best}\n"


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
