"""What is missing at installation is said in one sentence, with what to install.

setup.py runs with a PATH in which fakes stand: compilers that tell a version and make empty files.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Without the CUDA compiler of the wheels, and with the headers of a Python that has some.
RUN = """
import runpy, sys, sysconfig
sys.modules["nvidia"] = None
folder, *sys.argv[1:] = sys.argv[1:]
if folder:
    sysconfig.get_path = lambda name, *_: folder
sys.argv[0] = "setup.py"
runpy.run_path("setup.py", run_name="__main__")
"""
MAKES = 'while [ $# -gt 0 ]; do [ "$1" = -o ] && echo x > "$2"; shift; done\n'
GCC = (
    "#!/bin/sh\ncase $1 in --version) echo 'c++ (Ubuntu 12.3.0-1ubuntu1~22.04) {0}'; exit;; esac\n"
)
CLANG = "#!/bin/sh\ncase $1 in --version) echo 'Debian clang version {0} (1)'; exit;; esac\n"
NVCC = """#!/bin/sh
case $1 in
--dryrun) echo '#$ TOP={top}' >&2; exit;;
--version) echo 'Cuda compilation tools, release {version}, V{version}.1'; exit;;
esac
"""
TOO_NEW = (
    "echo 'host_config.h:143:2: error: #error -- unsupported GNU version! gcc versions later than "
    "12 are not supported!' >&2; exit 1\n"
)


class Machine:
    """A folder that is the whole PATH, and a toolkit's root."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.top, self.out = folder / "bin", folder / "cuda", folder / "out"
        self.python = folder / "include"
        for made in (self.bin, self.top / "lib64", self.python):
            made.mkdir(parents=True)
        (self.python / "Python.h").touch()

    def has(self, name: str, script: str) -> None:
        file = self.bin / name
        file.write_text(script)
        file.chmod(0o755)

    def has_nvcc(self, version: str, then: str) -> None:
        self.has("nvcc", NVCC.format(top=self.top, version=version) + then)
        (self.top / "lib64" / "libcudart_static.a").touch()

    def install(self, **environment: str) -> subprocess.CompletedProcess[str]:
        folders = ["-b", str(self.out), "-t", str(self.out / "objects")]
        return subprocess.run(
            [sys.executable, "-c", RUN, str(self.python), "build_ext", *folders],
            cwd=ROOT, capture_output=True, text=True, env={"PATH": str(self.bin), **environment},
        )  # fmt: skip

    def refused(self, **environment: str) -> str:
        """The one sentence."""
        done = self.install(**environment)
        assert done.returncode == 1
        assert not list(self.out.rglob("*.so"))
        said = done.stderr.strip()
        assert said.startswith("yolodata: ")
        assert "\n" not in said
        return said

    def built(self, **environment: str) -> str:
        done = self.install(**environment)
        assert done.returncode == 0, done.stderr
        assert len(list(self.out.rglob("_native*.so"))) == 1
        assert done.stderr == ""
        return done.stdout


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def good(machine: Machine) -> Machine:
    machine.has("c++", GCC.format("12.3.0") + MAKES)
    return machine


def test_no_compiler(machine: Machine) -> None:
    said = machine.refused()
    assert "no C++ compiler was found; install one with `sudo apt install g++-12`" in said
    said = machine.refused(CXX="icpc -O3")
    assert "icpc -O3 is not there; install one with `sudo apt install g++-12`" in said


@pytest.mark.parametrize(
    ("script", "why"),
    [
        (GCC.format("9.4.0"), "c++ is g++ 9.4.0, and 12 or newer is needed"),
        (GCC.format("11.4.0"), "c++ is g++ 11.4.0, and 12 or newer is needed"),
        (CLANG.format("16.0.6"), "c++ is clang version 16.0.6, and g++ 12 or newer is needed"),
        ("#!/bin/sh\necho cannot load libmpc.so >&2; exit 127\n", "cannot load libmpc.so"),
        ("#!/nothing/here\n", "c++ cannot be run"),
    ],
)
def test_a_compiler_that_cannot_be_used(machine: Machine, script: str, why: str) -> None:
    machine.has("c++", script)
    said = machine.refused()
    assert why in said
    assert "`sudo apt install g++-12`" in said
    machine.has("g++-13", GCC.format("13.2.0") + MAKES)  # installed beside it
    machine.built(YOLODATA_CUDA="off")


def test_gcc_links_the_library_of_cpp(machine: Machine) -> None:
    """It compiles C++; without the library, importing the core would fail."""
    machine.has("gcc", GCC.format("12.3.0") + f'echo "$@" >> {machine.out}/calls\n' + MAKES)
    machine.built(CXX="gcc", YOLODATA_CUDA="off")
    [link] = [line for line in (machine.out / "calls").read_text().split("\n") if "-shared" in line]
    assert link.endswith(" -lstdc++ -lm")


def test_headers_of_python(good: Machine) -> None:
    (good.python / "Python.h").unlink()
    said = good.refused()
    assert f"Python's headers are missing ({good.python}/Python.h)" in said
    assert "`sudo apt install python3-dev`" in said


@pytest.mark.parametrize(
    ("variable", "value", "why"),
    [
        ("YOLODATA_CUDA", "yes", "YOLODATA_CUDA must be auto, on or off, got 'yes'"),
        ("YOLODATA_CUDA_ARCHS", "new", "YOLODATA_CUDA_ARCHS must list architectures"),
    ],
)
def test_settings(good: Machine, variable: str, value: str, why: str) -> None:
    assert why in good.refused(**{variable: value})


def test_no_cuda_compiler(good: Machine) -> None:
    assert "YOLODATA_CUDA=on, but no CUDA compiler was found" in good.refused(YOLODATA_CUDA="on")
    assert "built for CPUs only: no CUDA compiler was found" in good.built()
    assert "CUDA" not in good.built(YOLODATA_CUDA="off")


@pytest.mark.parametrize(
    ("version", "then", "why"),
    [
        ("11.5", MAKES, "it is version 11.5; 12.0 or newer is needed"),
        ("12.1", TOO_NEW, "unsupported GNU version! gcc versions later than 12 are not supported"),
        ("13.0", "exit 3\n", "it ended with status 3"),
        ("13.0", "", "it ended with status 0"),
    ],
)
def test_a_cuda_compiler_that_cannot_be_used(
    good: Machine, version: str, then: str, why: str
) -> None:
    good.has_nvcc(version, then)
    said = good.refused(YOLODATA_CUDA="on")
    assert "YOLODATA_CUDA=on, but no CUDA compiler can be used: " in said
    assert why in said
    assert "YOLODATA_CUDA=off" in said
    told = good.built()
    assert "built for CPUs only: no CUDA compiler can be used: " in told
    assert why in told
    assert "nvcc" not in good.built(YOLODATA_CUDA="off")


def test_a_toolkit_without_a_run_time(good: Machine) -> None:
    good.has_nvcc("13.0", MAKES)
    (good.top / "lib64" / "libcudart_static.a").unlink()
    assert f"there is no libcudart_static.a in '{good.top}'" in good.refused(YOLODATA_CUDA="on")


def test_a_cuda_compiler_that_works(good: Machine) -> None:
    good.has_nvcc("12.0", MAKES)
    for setting in ("auto", "on"):
        assert f"CUDA compiler: {good.bin / 'nvcc'}" in good.built(YOLODATA_CUDA=setting)
