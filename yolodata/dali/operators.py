"""Compiling the operator against the installed DALI, once, and loading it.

DALI has no binary interface that lasts: a plugin works with the very version that it was built for.
It is therefore compiled when it is first asked for, which takes about 20 seconds on two cores, and
kept in a cache folder under a name made of everything it depends on.

Note [code of ours]. What is loaded runs with all rights of the user. So the folder must be the
user's own and open to nobody else, and the file in it too, and neither may be a link. The file is
loaded through the descriptor of the folder that was checked.

`YOLODATA_CUDA` (auto, on, off) and `YOLODATA_CUDA_ARCHS` mean what they mean to the package's own
build.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import logging
import os
import re
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from yolodata.dali.compilers import CXX_FLAGS, CXX_LIBRARIES, NVCC_FLAGS, Cuda, find_cxx, gencode
from yolodata.errors import ConfigError
from yolodata.files import write_all
from yolodata.folders import Folder
from yolodata.machine import usable_cores
from yolodata.pipeline.gpu.jpeg_decoder import importing_dali

log = logging.getLogger("yolodata")

_OPERATOR = "dali/render.cc"
_ROOMS = ("core", "plan", "render", "dali")  # of csrc/: what the plugin is made from
_APART = {"crt/host_defines.h": "nvidia-cuda-crt", "nv/target": "nvidia-cuda-cccl"}
"""Headers that CUDA 13 has in packages of their own, which torch does not want. The run time's and
DALI's include them."""
_loaded: Path | None = None


def load(cache: str | Path | None = None) -> Path:
    """Make `fn.yolodata.render` known to DALI; compiles it if this DALI has not seen it yet.

    Args:
        cache: folder of compiled plugins, which nobody else may write to; None is `dali` in
            $YOLODATA_CACHE, or else in ~/.cache/yolodata.

    Returns:
        the plugin's file.

    Raises:
        ConfigError: DALI, a C++ compiler or CUDA's run time is missing, the folder cannot be
            written or is not the user's alone, or compiling fails.
    """
    global _loaded
    if _loaded is None:
        with importing_dali():
            from nvidia.dali import plugin_manager
        with _private(_cache_folder(cache)) as folder:
            plugin = _compiled(folder)
            plugin_manager.load_library(f"/proc/self/fd/{folder.fd}/{plugin}")
            _loaded = folder.path / plugin
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
        if (folder / _OPERATOR).is_file():
            return folder
    raise ConfigError(
        f"the C++ sources of the DALI operator are neither in '{package}' nor beside it; install "
        "yolodata again"
    )


@contextmanager
def _private(path: Path) -> Iterator[Folder]:
    """The folder of plugins, made if it is not there, checked to be the user's alone."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            path.mkdir(mode=0o700)
        folder = Folder.inside(path)
        folder.check_ours()
        if os.fstat(folder.fd).st_mode & stat.S_IWGRP:
            raise PermissionError(errno.EPERM, "its group may write there", str(path))
    except OSError as error:
        raise _unusable(path, error) from error
    with folder:
        yield folder


def _unusable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"{path}: cannot hold the DALI operator ({error}), which is code, so that its folder has "
        "to be your own and closed to others (0700); name a folder that can be written to in "
        "YOLODATA_CACHE"
    )


def _is_ours(folder: Folder, plugin: str) -> bool:
    """Whether a plugin is there that nobody else could have put there, or changed."""
    try:
        fd = folder.open(plugin, os.O_RDONLY)
    except OSError:  # none, or a link: what is compiled replaces it
        return False
    found = os.fstat(fd)
    os.close(fd)
    owners = {0, os.geteuid(), os.fstat(folder.fd).st_uid}
    return found.st_uid in owners and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def _compiled(folder: Folder) -> str:
    """The plugin's name for this DALI, compiler and source; made if it is not there."""
    import nvidia.dali

    compiler, cuda, archs = _compiler(), _cuda(), _archs()
    source = _source_folder()
    depends = hashlib.sha256()
    versions = [_output([*compiler, "-v"]), _output([str(cuda.nvcc), "-V"]) if cuda else "no CUDA"]
    for part in (*versions, str(CXX_FLAGS), str(NVCC_FLAGS), str(archs)):
        depends.update(part.encode())
    for file in sorted(file for room in _ROOMS for file in (source / room).glob("*.[ch]*")):
        depends.update(file.name.encode() + file.read_bytes())
    # Builds of DALI for different CUDA versions bear the same number.
    dali = f"{nvidia.dali.__version__}-cuda{nvidia.dali.__cuda_version__}"
    plugin = f"render-dali{dali}-{depends.hexdigest()[:16]}.so"
    if _is_ours(folder, plugin):
        return plugin
    try:
        with _alone(folder), tempfile.TemporaryDirectory(prefix="yolodata-dali-") as work:
            if not _is_ours(folder, plugin):  # or another process made it meanwhile
                log.warning(
                    "compiling yolodata's DALI operator for DALI %s; this happens once", dali
                )
                made = _build(compiler, cuda, archs, source, Path(work)).read_bytes()
                folder.remove_temporary()
                with folder.writing(plugin, mode=0o700) as written:
                    write_all(written.fileno(), made)
    except OSError as error:
        raise _unusable(folder.path, error) from error
    return plugin


@contextmanager
def _alone(folder: Folder) -> Iterator[None]:
    """One process at a time: the ranks of a training run would all compile the same."""
    lock = folder.open(".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        with suppress(OSError):  # file systems without locks: each compiles, the last one stays
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _build(
    compiler: list[str], cuda: Cuda | None, archs: list[str], source: Path, work: Path
) -> Path:
    from nvidia.dali import sysconfig

    cuda_headers, cuda_libraries = _cuda_runtime(cuda)
    headers = ["-isystem", str(cuda_headers), f"-I{source}"]
    # Its headers are not ours to warn about.
    dali = [flag.replace("-I", "-isystem", 1) if flag.startswith("-I") else flag
            for flag in sysconfig.get_compile_flags()]  # fmt: skip
    jobs = []
    kernel = source / "render" / ("cuda.cu" if cuda else "no_cuda.cpp")
    renderer = {file for room in ("core", "render") for file in (source / room).glob("*.cpp")}
    renderer.discard(source / "render" / "no_cuda.cpp")
    # The slowest one first.
    for file in (source / _OPERATOR, kernel, *sorted(renderer)):
        if file.suffix == ".cu" and cuda:
            command = [*cuda.command(compiler), *archs, f"-I{source}"]
        else:
            command = [*compiler, *CXX_FLAGS, *headers, *(dali if file.suffix == ".cc" else ())]
        jobs.append([*command, "-c", str(file), "-o", str(work / f"{file.name}.o")])
    with ThreadPoolExecutor(len(usable_cores())) as pool:
        list(pool.map(_run, jobs))
    made = work / "plugin.so"
    link = [*compiler, "-shared", "-Wl,--no-undefined", *(job[-1] for job in jobs), "-o", str(made)]
    libraries = ["-ldali_core", *cuda_libraries, "-pthread", *CXX_LIBRARIES]
    _run([*link, *sysconfig.get_link_flags(), *libraries])
    return made


def _compiler() -> list[str]:
    try:
        return find_cxx()
    except ValueError as error:
        raise ConfigError(f"the DALI operator is compiled on this machine, but {error}") from None


def _cuda() -> Cuda | None:
    setting = os.environ.get("YOLODATA_CUDA", "auto").lower()
    if setting not in {"auto", "on", "off"}:
        raise ConfigError(f"YOLODATA_CUDA must be auto, on or off, got {setting!r}")
    cuda = None if setting == "off" else Cuda.find()
    if setting == "on" and cuda is None:
        raise ConfigError(
            "YOLODATA_CUDA=on, but no CUDA compiler was found; install a CUDA toolkit (and set "
            "CUDA_HOME), or nvidia-cuda-nvcc, nvidia-cuda-runtime and nvidia-cuda-cccl"
        )
    return cuda


def _archs() -> list[str]:
    try:
        return gencode(os.environ.get("YOLODATA_CUDA_ARCHS"))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _cuda_runtime(cuda: Cuda | None) -> tuple[Path, list[str]]:
    """CUDA's headers and what is linked: DALI's own headers use both, even to render on a CPU."""
    static = ["-lcudart_static", "-ldl", "-lrt"]
    if cuda:
        return Path(cuda.flags[0][2:]), [*(f"-L{path}" for path in cuda.libraries), *static]
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH") or "/usr/local/cuda"
    roots = [Path(home)]
    spec = find_spec("nvidia")
    for base in spec.submodule_search_locations or [] if spec else []:
        roots += sorted(Path(base).glob("cu*"), reverse=True)
    lacking = []
    for root in roots:
        api = root / "include" / "cuda_runtime_api.h"
        if not api.is_file():
            continue
        if not all((api.parent / name).is_file() for name in _APART):
            lacking.append(api)
            continue
        for folder in (root / "lib64", root / "lib", root / "targets/x86_64-linux/lib"):
            if (folder / "libcudart_static.a").is_file():
                return root / "include", [f"-L{folder}", *static]
            for library in sorted(folder.glob("libcudart.so.*")):
                return root / "include", [str(library), f"-Wl,-rpath,{folder}"]
    if lacking:
        text = lacking[0].read_text(encoding="utf-8", errors="replace")
        found = re.search(r"CUDART_VERSION\s+(\d+)", text)
        number = int(found[1]) if found else 13000
        version = f"{number // 1000}.{number % 1000 // 10}"
        wanted = {name: f"'{package}=={version}.*'" for name, package in _APART.items()
                  if not (lacking[0].parent / name).is_file()}  # fmt: skip
        command = f"run `pip install {' '.join(wanted.values())}`, or " if number >= 13000 else ""
        raise ConfigError(
            f"the DALI operator needs CUDA's headers, of which {lacking[0].parent} lacks "
            f"{' and '.join(wanted)}; {command}install a CUDA toolkit and set CUDA_HOME"
        )
    raise ConfigError(
        "the DALI operator needs CUDA's run time (cuda_runtime_api.h and libcudart), which is not "
        "found; install nvidia-cuda-runtime, or a CUDA toolkit and set CUDA_HOME"
    )


def _output(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    return done.stdout + done.stderr


def _run(command: list[Any]) -> None:
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace")
    if done.returncode:
        raise ConfigError(
            "the DALI operator cannot be compiled; it needs g++ 12 or newer (name one in CXX), and "
            "a CUDA compiler of version 12 or newer unless YOLODATA_CUDA=off; this failed: "
            f"{' '.join(command)}\n{(done.stdout + done.stderr)[-4000:]}"
        )
