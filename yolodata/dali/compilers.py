"""Compilers, and the flags that keep the pixels the same everywhere.

Also read by setup.py, before the package can be imported: it needs nothing but Python.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

DEFAULT_ARCHS = "80;90;90+PTX"

# The same source must give the same bits on CPU and GPU: no fused multiply-add on either side.
# errno and traps are never looked at, and without them more loops vectorise.
CXX_FLAGS = ["-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off"]
CXX_FLAGS += ["-fno-math-errno", "-fno-trapping-math", "-DNDEBUG"]
NVCC_FLAGS = ["-std=c++20", "-O3", "--fmad=false", "-DNDEBUG"]
NVCC_FLAGS += ["-Xcompiler", "-fPIC,-fvisibility=hidden"]


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
                return cls(nvcc, [f"-I{root / 'include'}"], libraries)
        return None
