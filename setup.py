"""Builds the native core `yolodata._native` from `csrc/` (see CONTRIBUTING.md).

Environment:
    CXX: the C++ compiler; without it the first of c++, g++, g++-12, … that is new enough.
    YOLODATA_CUDA: auto (default: with CUDA if a compiler works), on (it must), off.
    YOLODATA_CUDA_ARCHS: GPU architectures, such as "80;90;120+PTX".
    YOLODATA_ASAN: 1 builds with the address and undefined-behaviour sanitizers.
    YOLODATA_WERROR: 1 turns warnings into errors, as CI does; other compilers have other warnings.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
CSRC = ROOT / "csrc"

# The package cannot be imported before it is built; this file of it stands alone.
_spec = spec_from_file_location("compilers", ROOT / "yolodata" / "dali" / "compilers.py")
compilers = module_from_spec(_spec)
_spec.loader.exec_module(compilers)
CXX_FLAGS = [*compilers.CXX_FLAGS, "-Wall", "-Wextra"]
NVCC_WARNINGS = ["-Xcompiler", "-Wall,-Wextra"]
if os.environ.get("YOLODATA_WERROR", "0") == "1":
    CXX_FLAGS.append("-Werror")
    NVCC_WARNINGS += ["--Werror", "all-warnings", "-Xcompiler", "-Werror"]
NANOBIND_FLAGS = "-std=c++17 -O2 -fPIC -fvisibility=hidden -fno-strict-aliasing -w -DNDEBUG".split()


def fail(message: str) -> NoReturn:
    raise SystemExit(f"yolodata: {message}")


def cuda_setting() -> str:
    value = os.environ.get("YOLODATA_CUDA", "auto").lower()
    if value not in {"auto", "on", "off"}:
        fail(f"YOLODATA_CUDA must be auto, on or off, got {value!r}")
    return value


def cuda_archs() -> list[str]:
    try:
        return compilers.gencode(os.environ.get("YOLODATA_CUDA_ARCHS"))
    except ValueError as error:
        fail(str(error))


def cxx_compiler() -> list[str]:
    try:
        return compilers.find_cxx()
    except ValueError as error:
        fail(str(error))


def python_headers() -> str:
    folder = sysconfig.get_path("include")
    if not (Path(folder) / "Python.h").is_file():
        version = sysconfig.get_python_version()
        fail(
            f"Python's headers are missing ({folder}/Python.h); install them with "
            f"`sudo apt install python3-dev` (python{version}-dev if {version} is not the system's)"
        )
    return folder


def the_nanobind() -> ModuleType:
    try:
        import nanobind
    except ModuleNotFoundError:
        fail("nanobind is missing, which builds the bindings; `python -m pip install nanobind`")
    return nanobind


def cuda_compiler(setting: str, cxx: list[str], archs: list[str]) -> Any:
    """What compiles for a GPU, or None; says what it is, and why there is none."""
    if setting == "off":
        return None
    cuda, problems = compilers.Cuda.find_working(cxx, archs)
    if cuda is not None:
        print(f"yolodata: CUDA compiler: {cuda.nvcc}")
        return cuda
    why = (
        "no CUDA compiler can be used: " + "; ".join(problems)
        if problems
        else ("no CUDA compiler was found")
    )
    if setting == "on":
        fail(
            f"YOLODATA_CUDA=on, but {why}; install a CUDA toolkit of version 12 or newer (and set "
            "CUDA_HOME), or the packages nvidia-cuda-nvcc, nvidia-cuda-runtime and "
            "nvidia-cuda-cccl, or name another C++ compiler in CXX, or build with YOLODATA_CUDA=off"
        )
    print(f"yolodata: built for CPUs only: {why}; YOLODATA_CUDA=on makes that an error")
    return None


class BuildNative(build_ext):
    """Compiles what is out of date, in parallel, and links it."""

    def build_extension(self, ext: Extension) -> None:
        setting, archs = cuda_setting(), cuda_archs()
        cxx = cxx_compiler()
        headers = python_headers()
        nanobind = the_nanobind()
        cuda = cuda_compiler(setting, cxx, archs)

        work = Path(self.build_temp).resolve() / ("asan" if self.sanitize else "native")
        work.mkdir(parents=True, exist_ok=True)
        nanobind_root = Path(nanobind.source_dir()).parent
        includes = ["-isystem", str(nanobind_root / "include"), "-isystem", headers, f"-I{CSRC}"]
        sanitize = []
        if self.sanitize:
            sanitize = ["-fsanitize=address,undefined", "-D_GLIBCXX_ASSERTIONS"]
            sanitize += ["-fno-omit-frame-pointer", "-O1", "-g"]
        leave_out = "no_cuda.cpp" if cuda else "cuda.cu"
        sources = sorted(path for path in CSRC.rglob("*.c[pu]*") if path.name != leave_out)
        newest = max(path.stat().st_mtime for path in [*CSRC.rglob("*.h"), Path(__file__)])
        jobs: list[tuple[Path, list[str], float]] = []
        objects = []
        for source in sources:
            target = work / (source.relative_to(CSRC).as_posix().replace("/", "-") + ".o")
            if source.suffix == ".cu":
                command = [*cuda.command(cxx), *NVCC_WARNINGS, *archs, f"-I{CSRC}"]
                target = target.with_suffix("." + "-".join(archs[1::2]).replace(",", "-") + ".o")
            else:
                command = [*cxx, *CXX_FLAGS, *sanitize, *includes]
            jobs.append(
                (target, [*command, "-c", str(source)], max(newest, source.stat().st_mtime))
            )
            objects.append(str(target))
        binding = nanobind_root / "src" / "nb_combined.cpp"
        robin_map = ["-isystem", str(nanobind_root / "ext/robin_map/include")]
        target = work / f"nanobind-{nanobind.__version__}.o"
        command = [*cxx, *NANOBIND_FLAGS, *includes, *robin_map, "-c", str(binding)]
        jobs.append((target, command, 0.0))
        objects.append(str(target))
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(self.compile, jobs))

        output = Path(self.get_ext_fullpath(ext.name))
        output.parent.mkdir(parents=True, exist_ok=True)
        link = [*cxx, "-shared", *sanitize, *objects, "-o", str(output), "-pthread"]
        link += compilers.CXX_LIBRARIES
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


class BuildPython(build_py):
    """Packs the C++ sources too: yolodata.dali compiles some of them on the user's machine."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            shutil.copytree(CSRC, Path(self.build_lib) / "yolodata" / "csrc", dirs_exist_ok=True)


setup(
    ext_modules=[Extension("yolodata._native", [])],
    cmdclass={"build_ext": BuildNative, "build_py": BuildPython},
)
