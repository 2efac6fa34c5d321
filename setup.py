"""Builds the native core `yolodata._native` from `csrc/` (see CONTRIBUTING.md).

Environment:
    YOLODATA_CUDA: auto (default: with CUDA if a compiler is found), on (it must be), off.
    YOLODATA_CUDA_ARCHS: GPU architectures, such as "80;90;120+PTX".
    YOLODATA_ASAN: 1 builds with the address and undefined-behaviour sanitizers.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"
DEFAULT_ARCHS = "80;90;90+PTX"

# The same source must give the same bits on CPU and GPU: no fused multiply-add on either side.
# errno and traps are never looked at, and without them more loops vectorise.
CXX_FLAGS = (
    "-std=c++20 -O3 -fPIC -fvisibility=hidden -ffp-contract=off -fno-math-errno -fno-trapping-math "
    "-Wall -Wextra -Werror -DNDEBUG"
).split()
NVCC_FLAGS = (
    "-std=c++20 -O3 --fmad=false -DNDEBUG --Werror all-warnings "
    "-Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra,-Werror"
).split()
NANOBIND_FLAGS = "-std=c++17 -O2 -fPIC -fvisibility=hidden -fno-strict-aliasing -w -DNDEBUG".split()


def fail(message: str) -> None:
    raise SystemExit(f"yolodata: {message}")


def cuda_setting() -> str:
    value = os.environ.get("YOLODATA_CUDA", "auto").lower()
    if value not in {"auto", "on", "off"}:
        fail(f"YOLODATA_CUDA must be auto, on or off, got {value!r}")
    return value


def gencode(archs: str) -> list[str]:
    flags = []
    for arch in filter(None, re.split(r"[;, ]+", archs)):
        match = re.fullmatch(r"(\d{2,3})a?(\+PTX)?", arch)
        if not match:
            fail(
                f"YOLODATA_CUDA_ARCHS must list architectures such as {DEFAULT_ARCHS!r}, "
                f"got {archs!r}"
            )
        number = arch.removesuffix("+PTX")
        code = "compute" if match[2] else "sm"
        flags += ["-gencode", f"arch=compute_{number},code={code}_{number}"]
    if not flags:
        fail(f"YOLODATA_CUDA_ARCHS is empty; name at least one, such as {DEFAULT_ARCHS!r}")
    return flags


def toolkit_root(nvcc: Path) -> Path:
    """Where nvcc's own files are, as it says itself (it may be a wrapper)."""
    dry = subprocess.run(
        [str(nvcc), "--dryrun", "-x", "cu", "-c", "/dev/null", "-o", "/dev/null"],
        capture_output=True,
        text=True,
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


class BuildNative(build_ext):
    """Compiles what is out of date, in parallel, and links it."""

    def build_extension(self, ext: Extension) -> None:
        import nanobind

        work = Path(self.build_temp).resolve() / ("asan" if self.sanitize else "native")
        work.mkdir(parents=True, exist_ok=True)
        nanobind_root = Path(nanobind.source_dir()).parent
        python = ["-isystem", sysconfig.get_path("include")]
        headers = ["-isystem", str(nanobind_root / "include"), *python, f"-I{CSRC}"]
        sanitize = (
            ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-O1", "-g"]
            if self.sanitize
            else []
        )
        cxx = os.environ.get("CXX", "c++").split()
        setting = cuda_setting()
        cuda = None if setting == "off" else Cuda.find()
        if setting == "on" and cuda is None:
            fail(
                "YOLODATA_CUDA=on, but no CUDA compiler was found; install a CUDA toolkit (and set "
                "CUDA_HOME), or the packages nvidia-cuda-nvcc, nvidia-cuda-runtime and "
                "nvidia-cuda-cccl, or build with YOLODATA_CUDA=off"
            )
        print(f"yolodata: CUDA compiler: {cuda.nvcc if cuda else 'none'}")
        leave_out = CSRC / "render" / ("no_cuda.cpp" if cuda else "cuda.cu")
        sources = sorted(path for path in CSRC.rglob("*.c[pu]*") if path != leave_out)
        newest = max(path.stat().st_mtime for path in [*CSRC.rglob("*.h"), Path(__file__)])
        jobs: list[tuple[Path, list[str], float]] = []
        objects = []
        for source in sources:
            target = work / (source.relative_to(CSRC).as_posix().replace("/", "-") + ".o")
            if source.suffix == ".cu":
                archs = gencode(os.environ.get("YOLODATA_CUDA_ARCHS", DEFAULT_ARCHS))
                command = [str(cuda.nvcc), *NVCC_FLAGS, *archs, *cuda.flags, f"-I{CSRC}"]
                target = target.with_suffix("." + "-".join(archs[1::2]).replace(",", "-") + ".o")
            else:
                command = [*cxx, *CXX_FLAGS, *sanitize, *headers]
            jobs.append(
                (target, [*command, "-c", str(source)], max(newest, source.stat().st_mtime))
            )
            objects.append(str(target))
        binding = nanobind_root / "src" / "nb_combined.cpp"
        robin_map = ["-isystem", str(nanobind_root / "ext/robin_map/include")]
        target = work / f"nanobind-{nanobind.__version__}.o"
        command = [*cxx, *NANOBIND_FLAGS, *headers, *robin_map, "-c", str(binding)]
        jobs.append((target, command, 0.0))
        objects.append(str(target))
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(self.compile, jobs))

        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        link = [*cxx, "-shared", *sanitize, *objects, "-o", str(output), "-pthread"]
        if cuda:
            link += [*(f"-L{path}" for path in cuda.libraries), "-lcudart_static", "-ldl", "-lrt"]
        self.run_command_line(link)

    @property
    def sanitize(self) -> bool:
        return os.environ.get("YOLODATA_ASAN", "0") == "1"

    def compile(self, job: tuple[Path, list[str], float]) -> None:
        target, command, changed = job
        if not target.exists() or target.stat().st_mtime < changed:
            self.run_command_line([*command, "-o", str(target)])

    @staticmethod
    def run_command_line(command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            fail(f"this command failed:\n{' '.join(command)}\n{done.stdout}{done.stderr}")


setup(ext_modules=[Extension("yolodata._native", [])], cmdclass={"build_ext": BuildNative})
