"""Compiling the operator against the installed DALI, once, and loading it.

DALI has no binary interface that lasts: a plugin works with the very version that it was built for.
It is therefore compiled when it is first asked for, which takes about half a minute, and kept in a
cache folder under a name made of everything it depends on.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from yolodata.dali.compilers import CXX_FLAGS, NVCC_FLAGS, Cuda, gencode
from yolodata.errors import ConfigError

log = logging.getLogger("yolodata")

_SOURCES = (
    "dali/render.cc", "render/cpu.cpp", "render/rows.cpp", "render/rows_avx2.cpp",
    "render/check.cpp", "render/blocks.cpp",
)  # fmt: skip
_loaded: Path | None = None


def load(cache: str | Path | None = None) -> Path:
    """Make `fn.yolodata.render` known to DALI; compiles it if this DALI has not seen it yet.

    Args:
        cache: folder of compiled plugins; None is $YOLODATA_CACHE, or else ~/.cache/yolodata.

    Returns:
        the plugin's file.

    Raises:
        ConfigError: DALI, a C++ compiler or CUDA's headers are missing, or compiling fails.
    """
    global _loaded
    if _loaded is None:
        try:
            from nvidia.dali import plugin_manager
        except ImportError as error:
            raise ConfigError(
                f"DALI cannot be imported ({error}); install nvidia-dali-cuda120, or another build "
                "of it"
            ) from None
        plugin = _compiled(_cache_folder(cache))
        plugin_manager.load_library(str(plugin))
        _loaded = plugin
    return _loaded


def _cache_folder(cache: str | Path | None) -> Path:
    if cache is not None:
        return Path(cache).expanduser()
    named = os.environ.get("YOLODATA_CACHE")
    if named:
        return Path(named).expanduser() / "dali"
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return home / "yolodata" / "dali"


def _source_folder() -> Path:
    """C++ sources: in the package when it was installed, beside it in a clone."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "csrc", package.parent / "csrc"):
        if (folder / _SOURCES[0]).is_file():
            return folder
    raise ConfigError(
        f"the C++ sources of the DALI operator are neither in '{package}' nor beside it; install "
        "yolodata again"
    )


def _compiled(folder: Path) -> Path:
    """The plugin's file for this DALI, compiler and source; made if it is not there."""
    import nvidia.dali

    compiler = _compiler()
    cuda = Cuda.find()
    source = _source_folder()
    depends = hashlib.sha256()
    version = subprocess.run([*compiler, "-v"], capture_output=True, text=True).stderr
    for part in (version, str(cuda.nvcc if cuda else None), str(CXX_FLAGS), str(NVCC_FLAGS)):
        depends.update(part.encode())
    for file in sorted(source.rglob("*.*")):
        depends.update(file.name.encode() + file.read_bytes())
    name = f"render-dali{nvidia.dali.__version__}-{depends.hexdigest()[:16]}.so"
    plugin = folder / name
    if plugin.is_file():
        return plugin
    log.warning("compiling yolodata's DALI operator for DALI %s; this happens once",
                nvidia.dali.__version__)  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    # Two processes may do this at once; each renames what is complete.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".building-") as work:
        made = _build(compiler, cuda, source, Path(work))
        os.replace(made, plugin)
    return plugin


def _build(compiler: list[str], cuda: Cuda | None, source: Path, work: Path) -> Path:
    from nvidia.dali import sysconfig

    headers = ["-isystem", str(_cuda_headers(cuda)), f"-I{source}"]
    # Its headers are not ours to warn about.
    dali = [flag.replace("-I", "-isystem", 1) if flag.startswith("-I") else flag
            for flag in sysconfig.get_compile_flags()]  # fmt: skip
    jobs = []
    for file in (*_SOURCES, "render/cuda.cu" if cuda else "render/no_cuda.cpp"):
        target = work / (file.replace("/", "-") + ".o")
        if file.endswith(".cu") and cuda:
            command = [str(cuda.nvcc), *NVCC_FLAGS, *gencode(), *cuda.flags, f"-I{source}"]
        else:
            command = [*compiler, *CXX_FLAGS, *headers, *(dali if file.endswith(".cc") else ())]
        jobs.append([*command, "-c", str(source / file), "-o", str(target)])
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        list(pool.map(_run, jobs))
    made = work / "plugin.so"
    link = [*compiler, "-shared", "-Wl,--no-undefined", *(job[-1] for job in jobs), "-o", str(made)]
    link += [*sysconfig.get_link_flags(), "-ldali_core"]
    if cuda:
        link += [*(f"-L{path}" for path in cuda.libraries), "-lcudart_static", "-ldl", "-lrt"]
    _run([*link, "-pthread"])
    return made


def _compiler() -> list[str]:
    named = os.environ.get("CXX", "").split()
    compiler = named or [next(filter(shutil.which, ("c++", "g++")), "g++")]
    if shutil.which(compiler[0]) is None:
        raise ConfigError(
            f"the DALI operator is compiled on this machine, and there is no C++ compiler "
            f"{compiler[0]!r}; install g++ 12 or newer, or name another one in CXX"
        )
    return compiler


def _cuda_headers(cuda: Cuda | None) -> Path:
    """Where cuda_runtime_api.h is: DALI's headers include it."""
    from importlib.util import find_spec

    folders = [Path(flag[2:]) for flag in cuda.flags] if cuda else []
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    folders.append(Path(home) / "include")
    spec = find_spec("nvidia")
    for base in spec.submodule_search_locations or [] if spec else []:
        folders += sorted(Path(base).glob("cu*/include"), reverse=True)
    for folder in folders:
        if (folder / "cuda_runtime_api.h").is_file():
            return folder
    raise ConfigError(
        "the DALI operator needs CUDA's headers (cuda_runtime_api.h), which are not found; install "
        "nvidia-cuda-runtime, or a CUDA toolkit and set CUDA_HOME"
    )


def _run(command: list[Any]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise ConfigError(
            f"the DALI operator cannot be compiled: {' '.join(command)}\n{done.stderr[-4000:]}"
        )
