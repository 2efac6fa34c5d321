#!/usr/bin/env python3
"""Prepare a visit to a bare GPU machine without network: everything that it lacks, in one upload.

    python benchmarks/gpu/kit.py --data FOLDER     # in the repository's root; writes .gpu/

Such a machine has Python, torch with CUDA, torchvision, nvcc, nanobind, numpy, opencv-python-
headless, pytest, hypothesis and safetensors. It lacks Ultralytics, Albumentations, simplejpeg,
tenacity, DALI and pictures. Uploads are limited, so DALI (198 MB as a wheel) is cut down to what
one Python and one kind of GPU read, and the core is compiled here. That takes minutes on two
cores, most of it compression: run it before the machine is started. The last line it prints is the
call to make.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]
WHEELS = ["ultralytics==8.4.190", "ultralytics-thop", "ultralytics-platform", "simplejpeg",
          "tenacity==9.2.1",
          "albumentations==2.0.8", "albucore==0.0.24", "stringzilla", "simsimd", "pydantic==2.14.4",
          "pydantic-core==2.50.5", "annotated-types", "typing-inspection"]  # fmt: skip
# libcst is of nvidia.dali.experimental.dynamic, which nothing here imports.
_DALI = ["astunparse", "six", "gast<=0.7.0", "optree", "nvtx", "makefun"]
# libnvcomp and three of nvImageCodec's decoders are not needed for JPEG.
DALI = {
    "cuda13": ["nvidia-dali-cuda130==2.4.0", "nvidia-nvimgcodec-cu13<0.10.0,>=0.9.0",
               "nvidia-nvjpeg", *_DALI],
    "cuda12": ["nvidia-dali-cuda120==2.4.0", "nvidia-nvimgcodec-cu12<0.10.0,>=0.9.0",
               "nvidia-nvjpeg-cu12", *_DALI],
    "none": [],
}  # fmt: skip
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_24_x86_64",
             "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux_2_5_x86_64",
             "manylinux1_x86_64")  # fmt: skip
UNREAD = ("opencv_ext", "nvtiff_ext", "libtiff_ext", "nvjpeg2k_ext", "nvpnm_ext", "nvbmp_ext",
          "nvimgcodec/tools/", "nvimgcodec/include/", "thop/test", "ultralytics/assets/",
          "/tests/")  # fmt: skip
# Ultralytics reads results.csv with polars (54 MB), and takes its absence only where reading fails.
POLARS = 'def read_csv(*args, **kwargs):\n    raise RuntimeError("polars is not here")\n'
PICTURES = 12  # of each dataset in --data
INTERFACE = ("Engine", "LabelTable", "Recipe", "plan", "render", "render_emulated", "render_cuda",
             "RENDER_TASK_BYTES")  # fmt: skip
"""What benchmarks and the kernel's rows need of a second core."""


def fail(message: str) -> NoReturn:
    """End with a message."""
    sys.exit(f"kit.py: {message}")


def output(*command: str) -> str:
    """What a program prints that runs in the repository; its errors are shown."""
    return subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    ).stdout.strip()


# ---- packages


def download(names: list[str], python: str, to: Path) -> None:
    """Wheels for the machine's Python, whatever runs here."""
    platforms = [x for p in PLATFORMS for x in ("--platform", p)]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:",
         "--python-version", python, "--implementation", "cp", *platforms, "-d", str(to), *names],
        check=True,
    )  # fmt: skip


def unpack(wheels: Path, site: Path, python: str) -> None:
    """Wheels as a folder of packages, without what nobody reads there."""
    tag = "cpython-" + python.replace(".", "")
    for wheel in sorted(wheels.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                other = name.endswith(".so") and "cpython-" in name and f"{tag}-" not in name
                unread = any(part in name for part in UNREAD)
                if not other and not unread and not name.endswith("/"):
                    archive.extract(name, site)
    (site / "polars.py").write_text(POLARS)


# A library's other architectures and its symbol tables are overwritten with zeros: offsets stay,
# and zeros need no room.


def sections(data: bytes | bytearray) -> Iterator[tuple[str, int, int, int]]:
    """Name, kind, offset and length of each section of a 64-bit ELF file."""
    (at,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names = struct.unpack_from("<HHH", data, 0x3A)
    (strings,) = struct.unpack_from("<Q", data, at + names * size + 0x18)
    for i in range(count):
        name, kind = struct.unpack_from("<II", data, at + i * size)
        offset, length = struct.unpack_from("<QQ", data, at + i * size + 0x18)
        end = data.index(b"\0", strings + name)
        yield data[strings + name : end].decode(), kind, offset, length


def fat_entries(data: bytearray, offset: int, length: int) -> Iterator[tuple[int, int, int, int]]:
    """Kind (1: PTX, 2: machine code), architecture, and where the payload lies."""
    at, end = offset, offset + length
    while at + 16 <= end:
        if struct.unpack_from("<I", data, at)[0] != 0xBA55ED50:
            at += 8
            continue
        header, fat = struct.unpack_from("<HQ", data, at + 6)
        entry, stop = at + header, at + header + fat
        while entry + 64 <= stop:
            kind, _, header, size = struct.unpack_from("<HHIQ", data, entry)
            yield kind, struct.unpack_from("<I", data, entry + 28)[0], entry + header, size
            entry += header + size
        at = stop


def slim(path: Path, arch: int) -> None:
    """Leave one architecture of a library, and no symbol tables."""
    data = bytearray(path.read_bytes())
    if data[:4] != b"\x7fELF":
        return
    for name, kind, offset, length in list(sections(data)):
        tables = (".symtab", ".strtab", ".gnu.build.attributes")
        if kind != 8 and (name in tables or name.startswith(".debug")):
            data[offset : offset + length] = bytes(length)
        if name in (".nv_fatbin", "__nv_relfatbin"):
            found = list(fat_entries(data, offset, length))
            if not any(kind == 2 and one == arch for kind, one, *_ in found):
                continue  # rather all of it than nothing
            for kind, one, at, size in found:
                if (kind, one) != (2, arch):
                    data[at : at + size] = bytes(size)
    path.write_bytes(data)


# ---- the core


def interpreter(version: str) -> str | None:
    """A Python of the machine's version, with headers."""
    installed = sorted(Path.home().glob(f".pyenv/versions/{version}*/bin/python{version}"))
    ask = "import sysconfig, os; print(os.path.exists(sysconfig.get_path('include') + '/Python.h'))"
    for python in filter(None, [*map(str, installed), shutil.which(f"python{version}")]):
        done = subprocess.run([python, "-c", ask], capture_output=True, text=True)
        if done.stdout.strip() == "True":
            return python
    return None


def environment(python: str, work: Path) -> str:
    """A Python in which the core can be compiled."""
    subprocess.run([python, "-m", "venv", str(work / "venv")], check=True)
    python = str(work / "venv/bin/python")
    need = ["setuptools>=77", "nanobind>=2.4"]
    if shutil.which("nvcc") is None:
        need += [f"nvidia-cuda-{part}==13.0.*" for part in ("nvcc", "runtime", "cccl")]
    subprocess.run([python, "-m", "pip", "install", "-q", *need], check=True)
    return python


def build(python: str, arch: int, source: Path, to: Path) -> None:
    """The core of a checkout."""
    with tempfile.TemporaryDirectory() as built:
        variables = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        variables |= {"YOLODATA_CUDA": "on", "YOLODATA_CUDA_ARCHS": str(arch)}
        subprocess.run(
            [python, "setup.py", "-q", "build_ext", "--build-lib", f"{built}/lib",
             "--build-temp", f"{built}/temp"],
            check=True, cwd=source, env=variables,
        )  # fmt: skip
        shutil.copyfile(next(Path(built).rglob("_native*.so")), to)


SHOW = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location('yolodata._native', sys.argv[1])
native = importlib.util.module_from_spec(spec); spec.loader.exec_module(native)
for name in sys.argv[2:]:
    found = getattr(native, name)
    print(name, found if isinstance(found, int) else found.__doc__)
    for part in sorted(vars(found)) if isinstance(found, type) else ():
        print(name, part, getattr(found, part).__doc__)
"""


def interface(python: str, core: Path) -> set[str]:
    """What a core offers of `INTERFACE`, as lines of text."""
    try:
        said = output(python, "-c", SHOW, str(core), *INTERFACE)
    except subprocess.CalledProcessError:
        fail(f"{core} does not load")
    return set(re.sub(r" at 0x\w+", "", said).splitlines())


def build_cores(args: argparse.Namespace, out: Path, work: Path) -> None:
    """Ours, and the one that is compared with it."""
    python = interpreter(args.python)
    if python is None:
        if args.also:
            fail(f"--also needs Python {args.python} with headers here, and there is none")
        print(f"no Python {args.python} with headers here: the core is built there, in a minute")
        return
    python = environment(python, work)
    build(python, args.arch, ROOT, out / "native.so")
    if not args.also:
        return
    other = work / "also"
    other.mkdir()
    archive = work / "also.tar"
    output("git", "archive", "-o", str(archive), args.also)
    shutil.unpack_archive(archive, other)
    build(python, args.arch, other, out / "also.so")
    different = interface(python, out / "native.so") ^ interface(python, out / "also.so")
    if different:
        fail(
            f"the core of {args.also} has another interface, so that this checkout's benchmark "
            f"cannot measure it: {min(different)[:200]}; name a commit with the same one"
        )
    (out / "also").write_text(commit(args.also))


# ---- the upload


def commit(name: str) -> str:
    """Its hash."""
    try:
        return output("git", "rev-parse", "--short=12", f"{name}^{{commit}}")
    except subprocess.CalledProcessError:
        fail(f"--also {name!r} is no commit")


def copy_pictures(data: Path, to: Path) -> None:
    """Some pictures of each dataset of a folder."""
    for description in sorted(data.glob("*/data.yaml")):
        source = description.parent
        files = sorted((source / "images").rglob("*.jpg"))[:PICTURES]
        labels = [
            source / "labels" / f.relative_to(source / "images").with_suffix(".txt") for f in files
        ]
        for file in [description, *files, *filter(Path.is_file, labels)]:
            target = to / source.name / file.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def travelling() -> int:
    """Bytes of tracked and untracked files that git does not ignore."""
    names = output("git", "ls-files", "-co", "--exclude-standard", "-z").split("\0")
    files = [ROOT / name for name in names if name]
    return sum(file.stat().st_size for file in files if file.is_file())


def sources() -> str:
    """A hash of what the core is compiled from, as the script there will find it."""
    return output("bash", str(ROOT / "benchmarks/gpu/visit.sh"), "--sources")


def ignore(name: str) -> None:
    """Have git not see a folder of the root, without touching a tracked file."""
    exclude = ROOT / output("git", "rev-parse", "--git-path", "info/exclude")
    exclude.parent.mkdir(parents=True, exist_ok=True)
    lines = exclude.read_text().splitlines() if exclude.exists() else []
    if f"/{name}/" not in lines:
        exclude.write_text("\n".join([*lines, f"/{name}/", ""]))


def compress(folder: Path, preset: str, to: Path) -> None:
    """Packages and pictures as one file."""
    archive = folder.parent / "kit.tar"
    with tarfile.open(archive, "w") as tar:
        for part in sorted(folder.iterdir()):
            tar.add(part, part.name)
    how = f"--lzma2=preset={preset},dict=64MiB"
    subprocess.run(["xz", "-T2", "--x86", how, str(archive)], check=True)
    shutil.move(f"{archive}.xz", to)


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--data", type=Path, help="folder of datasets (coco-mini/data.yaml, ...)")
    made.add_argument("--limit-mib", type=float, default=64.0, help="of the upload (default: 64)")
    made.add_argument("--python", default="3.12", help="the machine's (default: 3.12)")
    made.add_argument("--arch", type=int, default=90, help="of its GPU (default: 90, sm_90)")
    made.add_argument("--dali", choices=sorted(DALI), default="cuda13", help="which build of it")
    made.add_argument("--also", metavar="COMMIT", help="measure its kernel beside this one")
    made.add_argument("--preset", default="6", help="of xz; 9e gains little, in twice the time")
    made.add_argument("--out", type=Path, default=ROOT / ".gpu", help=argparse.SUPPRESS)
    return made


def main(argv: list[str] | None = None) -> None:
    """Make the kit."""
    args = parser().parse_args(argv)
    if not (ROOT / ".git").exists() or not (ROOT / "csrc").is_dir():
        fail(f"{ROOT} is no checkout of the repository")
    if args.data is not None and not list(args.data.glob("*/data.yaml")):
        fail(f"--data {args.data} has no folder with a data.yaml")
    if args.also:
        commit(args.also)
    out: Path = args.out
    ignore(".gpu")
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="yolodata-kit-") as temporary:
        work = Path(temporary)
        (work / "wheels").mkdir()
        (work / "kit/data").mkdir(parents=True)
        print("packages ...", flush=True)
        download(WHEELS + DALI[args.dali], args.python, work / "wheels")
        unpack(work / "wheels", work / "kit/site", args.python)
        for library in (work / "kit/site").rglob("*.so*"):
            if library.is_file() and not library.is_symlink():
                slim(library, args.arch)
        if args.data is not None:
            copy_pictures(args.data, work / "kit/data")
        print("the core ...", flush=True)
        build_cores(args, work / "kit", work)
        print("compressing, minutes ...", flush=True)
        compress(work / "kit", args.preset, out / "kit.tar.xz")
    (out / "commit").write_text(commit("HEAD"))
    (out / "arch").write_text(str(args.arch))
    (out / "sources").write_text(sources())
    carried = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    total = (carried + travelling()) / 2**20
    print(f".gpu: {carried / 2**20:.1f} MiB; with the working tree {total:.1f} of {args.limit_mib}")
    if total > args.limit_mib - 1:
        fail(
            "too much for one upload; leave --data out, or give --preset 9e, --dali none, or a "
            "larger --limit-mib"
        )
    print("\nOn the machine, with .gpu and the working tree there: bash benchmarks/gpu/visit.sh")


if __name__ == "__main__":
    main()
