"""What `gpu.sh` needs and does not find, by name, before any time is spent.

python benchmarks/gpu_needs.py

Status 1 if nothing can be built or tested without it; what only some rows or stages need is named,
and the rest goes on.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from importlib import metadata, util

NEEDED = {  # module: package
    "torch": "torch", "ultralytics": "ultralytics", "numpy": "numpy", "cv2": "opencv-python",
    "PIL": "pillow", "simplejpeg": "simplejpeg", "safetensors": "safetensors", "xxhash": "xxhash",
    "yaml": "pyyaml", "tqdm": "tqdm", "fsspec": "fsspec", "psutil": "psutil",
    "pytest": "pytest", "hypothesis": "hypothesis", "nanobind": "nanobind>=2.4",
}  # fmt: skip
USEFUL = {
    "nvidia.dali": ("nvidia-dali-cuda120 or -cuda130", "rows and tests with JPEG on the GPU"),
    "pynvml": ("nvidia-ml-py", "the GPU's busy share"),
}
TOOLS = {
    "nvcc": "the build, unless nvidia-cuda-nvcc, -runtime and -cccl are installed",
    "compute-sanitizer": "the stages memcheck and racecheck",
}
SETUPTOOLS = 77  # its first version that reads pyproject.toml's licence


def has(module: str) -> bool:
    """Whether it could be imported."""
    try:
        return util.find_spec(module) is not None
    except ImportError:  # its parent is missing
        return False


def missing(
    has: Callable[[str], bool], which: Callable[[str], str | None], setuptools: str
) -> tuple[list[str], list[str]]:
    """Packages that have to be installed first; and lines about what goes without.

    Args:
        has: whether a module is there.
        which: where a program is, or None.
        setuptools: its version, "" for none.
    """
    needed = [package for module, package in NEEDED.items() if not has(module)]
    if int(setuptools.partition(".")[0] or 0) < SETUPTOOLS:
        needed.append(f"setuptools>={SETUPTOOLS}")
    useful = [
        f"{package} is not installed: {loss} will be missing"
        for module, (package, loss) in USEFUL.items()
        if not has(module)
    ]
    useful += [
        f"{tool} is not in PATH: needed for {use}" for tool, use in TOOLS.items() if not which(tool)
    ]
    return needed, useful


def main() -> int:
    """Print what is missing."""
    try:
        setuptools = metadata.version("setuptools")
    except metadata.PackageNotFoundError:
        setuptools = ""
    path = os.environ.get("PATH", "") + ":/usr/local/cuda/bin"
    needed, useful = missing(has, lambda tool: shutil.which(tool, path=path), setuptools)
    for line in useful:
        print(f"gpu.sh: {line}", file=sys.stderr)
    if needed:
        print(f"gpu.sh: install {' '.join(needed)} for {sys.executable} first", file=sys.stderr)
    return 1 if needed else 0


if __name__ == "__main__":
    sys.exit(main())
