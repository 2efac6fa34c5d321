"""The library that is loaded before the C library (shim.c): compiling, loading and arming it."""

from __future__ import annotations

import ctypes
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

READ, WRITE, SYNC, NAME = 1, 2, 4, 8
_SOURCE = Path(__file__).with_name("shim.c")
_LOADED = "YOLODATA_ATTACK_SHIM"


def load() -> None:
    """Begins this program anew with the library loaded; does nothing in a program that has it.

    Where it cannot be compiled, `problem` says why, and the program goes on.
    """
    if _LOADED in os.environ:
        return
    folder = Path(tempfile.mkdtemp(prefix="attack-shim-"))
    library = folder / "shim.so"
    command = ["cc", "-shared", "-fPIC", "-O1", "-fno-builtin", "-w", "-o", str(library)]
    try:
        done = subprocess.run([*command, str(_SOURCE), "-ldl"], capture_output=True, text=True)
        said = done.stderr if done.returncode else ""
    except OSError as error:
        said = str(error)
    environment = {**os.environ, _LOADED: str(library)}
    if said:
        environment[_LOADED] = f"shim.c cannot be compiled: {said.strip()[-300:]}"
    else:
        environment["LD_PRELOAD"] = f"{library} {os.environ.get('LD_PRELOAD', '')}".strip()
    os.execve(sys.executable, [sys.executable, *sys.argv], environment)


def problem() -> str:
    """Says why the library is not there; "" where it is."""
    found = os.environ.get(_LOADED, "attack.py has not loaded shim.c")
    return "" if found.endswith(".so") else found


@functools.cache
def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(os.environ[_LOADED])
    library.shim_fail.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_long, ctypes.c_int,
                                  ctypes.c_int)  # fmt: skip
    library.shim_shorten.argtypes = (ctypes.c_char_p, ctypes.c_int, ctypes.c_uint64)
    library.shim_log.argtypes = (ctypes.c_int, ctypes.c_char_p)
    library.shim_memory.argtypes = (ctypes.c_long, ctypes.c_size_t)
    library.shim_seen.restype = ctypes.c_long
    return library


def fail(below: Path, groups: int, after: int, error: int, always: bool) -> None:
    """Has calls on files below a folder fail from now on.

    Args:
        below: the folder.
        groups: which calls.
        after: it is the so-manieth that fails, counted from 1.
        error: with this errno.
        always: all later ones fail, too.
    """
    _library().shim_fail(os.fsencode(below), groups, after, error, always)


def shorten(below: Path, groups: int, seed: int) -> None:
    """Has reads and writes of files below a folder move fewer bytes than they were asked to."""
    _library().shim_shorten(os.fsencode(below), groups, seed)


def refuse_memory(after: int, least: int) -> None:
    """Has the so-manieth allocation, of those of at least so many bytes, fail."""
    _library().shim_memory(after, least)


def seen() -> int:
    """Counts the calls of the groups since `fail`."""
    return int(_library().shim_seen())


def off() -> None:
    """Ends all of it."""
    _library().shim_off()


@contextmanager
def logged(below: Path, log: Path) -> Iterator[None]:
    """While paths below a folder that are opened or changed are written to a file."""
    fd = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    _library().shim_log(fd, os.fsencode(below))
    try:
        yield
    finally:
        off()
        os.close(fd)


def read_log(log: Path) -> list[tuple[str, str]]:
    """Gives what `logged` wrote: ("r", path) opened to be read, "w" changed, "m" a new folder."""
    lines = os.fsdecode(log.read_bytes()).split("\0")
    return [(line[0], os.path.normpath(line[2:])) for line in lines if line]
