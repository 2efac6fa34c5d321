"""Compilers, and the flags that keep the pixels the same everywhere.

Also read by setup.py, before the package can be imported: it needs nothing but Python.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

DEFAULT_ARCHS = "80;90;90+PTX"

# The same source must give the same bits on CPU and GPU: no fused multiply-add on either side.
# errno and traps are never looked at, and without them more loops vectorise.
CXX_FLAGS = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]
CXX_FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-DNDEBUG"]
CXX_LIBRARIES = ["-lstdc++", "-lm"]  # CXX=gcc compiles C++, too, and links neither
NVCC_FLAGS = ["-std=c++20", "-O3", "--fmad=false", "-DNDEBUG"]
NVCC_FLAGS += ["-Xcompiler", "-fPIC,-fvisibility=hidden"]


_OLDEST_GCC = 12
"""g++ 11 does not choose functions by the processor's level (`YD_TARGETS`), and clang passes over
`#pragma GCC target`, with which the AVX2 loops are written."""

_CXX = ("c++", "g++", "g++-12", "g++-13", "g++-14", "g++-15")
_OLDEST_NVCC = 12  # the first that knows C++20
_KERNEL = "#include <cstdint>\n__global__ void probe(std::uint32_t* x) { *x = 0; }\n"


def find_cxx() -> list[str]:
    """The command of the C++ compiler: what CXX names, or else the first that is new enough.

    Raises:
        ValueError: there is none; says what to install.
    """
    named = os.environ.get("CXX", "").split()
    tried = []
    for command in [named] if named else [[name] for name in _CXX if shutil.which(name)]:
        problem = _cxx_problem(command)
        if not problem:
            return command
        tried.append(f"{' '.join(command)} {problem}")
    raise ValueError(
        f"{'no C++ compiler can be used: ' * bool(tried)}"
        f"{'; '.join(tried) or 'no C++ compiler was found'}; install one with "
        "`sudo apt install g++-12` (or newer), or name one in CXX"
    )


def _cxx_problem(command: list[str]) -> str:
    """Why a C++ compiler cannot be used; "" if it can."""
    if shutil.which(command[0]) is None:
        return "is not there"
    try:
        done = _run([*command, "--version"])
    except OSError as error:
        return f"cannot be run ({error.strerror})"
    if done.returncode:
        return f"does not even tell its version: {_reason(done)}"
    clang = re.search(r"clang version \S+", done.stdout)
    if clang:
        return f"is {clang[0]}, and g++ {_OLDEST_GCC} or newer is needed"
    found = re.search(r"\) (\d+)(?:\.\d+)+", done.stdout)
    if found and int(found[1]) < _OLDEST_GCC:
        return f"is g++ {found[0].split()[-1]}, and {_OLDEST_GCC} or newer is needed"
    return ""


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    said = {**os.environ, "LC_ALL": "C"}
    return subprocess.run(
        command, capture_output=True, text=True, encoding="utf-8", errors="replace", env=said
    )


def _reason(done: subprocess.CompletedProcess[str]) -> str:
    """The line of a compiler's output that says why it failed."""
    lines = [line.strip() for line in f"{done.stdout}\n{done.stderr}".split("\n") if line.strip()]
    about = [line for line in lines if re.search(r"\b(error|fatal)\b", line)]
    return next(iter(about or lines[-1:]), f"it ended with status {done.returncode}")


def gencode(archs: str | None = None) -> list[str]:
    """nvcc's flags for architectures such as "80;90;120+PTX"; None takes the usual ones.

    Raises:
        ValueError: they are none.
    """
    archs = DEFAULT_ARCHS if archs is None else archs
    flags = []
    for arch in filter(None, re.split(r"[;, ]+", archs)):
        match = re.fullmatch(r"(\d{2,3})a?(\+PTX)?", arch)
        if not match:
            raise ValueError(
                f"YOLODATA_CUDA_ARCHS must list architectures such as {DEFAULT_ARCHS!r}, "
                f"got {archs!r}"
            )
        number = arch.removesuffix("+PTX")
        code = "compute" if match[2] else "sm"
        flags += ["-gencode", f"arch=compute_{number},code={code}_{number}"]
    if not flags:
        raise ValueError(
            f"YOLODATA_CUDA_ARCHS is empty; name at least one, such as {DEFAULT_ARCHS!r}"
        )
    return flags


def toolkit_root(nvcc: Path) -> Path:
    """Where nvcc's own files are, as it says itself (it may be a wrapper)."""
    dry = subprocess.run(
        [str(nvcc), "--dryrun", "-x", "cu", "-c", "/dev/null", "-o", "/dev/null"],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
    )
    match = re.search(r"^#\$ TOP=(.+)$", dry.stderr, re.MULTILINE)
    return Path(match[1]).resolve() if match else nvcc.parent.parent


class Cuda:
    """A CUDA compiler, and what is linked with what it made."""

    def __init__(self, nvcc: Path, flags: list[str], libraries: list[Path]) -> None:
        self.nvcc, self.flags, self.libraries = nvcc, flags, libraries

    @classmethod
    def find(cls) -> Cuda | None:
        """A toolkit of the system, else the compiler from the wheels."""
        return next(cls.candidates([]), None)

    @classmethod
    def find_working(cls, cxx: list[str], archs: list[str]) -> tuple[Cuda | None, list[str]]:
        """The first that works with a C++ compiler, and what is wrong with those before it."""
        problems: list[str] = []
        for cuda in cls.candidates(problems):
            problem = cuda.problem(cxx, archs)
            if not problem:
                return cuda, problems
            problems.append(f"{cuda.nvcc}: {problem}")
        return None, problems

    def problem(self, cxx: list[str], archs: list[str]) -> str:
        """Why it cannot compile for these architectures with a C++ compiler; "" if it can."""
        release = re.search(r"release (\d+)\.(\d+)", _run([str(self.nvcc), "--version"]).stdout)
        if release and int(release[1]) < _OLDEST_NVCC:
            return f"it is version {release[1]}.{release[2]}; {_OLDEST_NVCC}.0 or newer is needed"
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "probe.cu"
            source.write_text(_KERNEL, encoding="utf-8")
            target = source.with_suffix(".o")
            command = [*self.command(cxx), *archs, "-c", str(source), "-o", str(target)]
            try:
                done = _run(command)
            except OSError as error:
                return f"it cannot be run ({error.strerror})"
            return _reason(done) if done.returncode or not target.exists() else ""

    def command(self, cxx: list[str]) -> list[str]:
        """The beginning of a command; a C++ compiler makes what is no kernel."""
        host = next(word for word in reversed(cxx) if not word.startswith("-"))  # "ccache g++ -m64"
        return [str(self.nvcc), *NVCC_FLAGS, "-ccbin", host, *self.flags]

    @classmethod
    def candidates(cls, problems: list[str]) -> Iterator[Cuda]:
        """Yields what there is; adds what is wrong with toolkits that are not whole."""
        home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
        found = shutil.which("nvcc", path=f"{home}/bin") if home else shutil.which("nvcc")
        candidates = [Path(found).resolve()] if found else []
        spec = find_spec("nvidia")
        for base in spec.submodule_search_locations or [] if spec else []:
            candidates += sorted(Path(base).glob("cu*/bin/nvcc"), reverse=True)
        for nvcc in candidates:
            if os.access(nvcc, os.W_OK):
                nvcc.chmod(nvcc.stat().st_mode | 0o111)
            root = toolkit_root(nvcc)
            libraries = [
                path
                for path in (root / "lib64", root / "lib", root / "targets/x86_64-linux/lib")
                if (path / "libcudart_static.a").exists()
            ]
            if libraries:
                yield cls(nvcc, [f"-I{root / 'include'}"], libraries)
            else:
                problems.append(f"{nvcc}: there is no libcudart_static.a in '{root}'")
