"""Checkpoint files: whole, or not there.

A file is named EPOCH-STEP-CHECKSUM.ckpt. The checksum is XXH3-64 of the content, so that a file
shows by itself whether it was cut, or damaged on the way to another machine. The content is what
`torch.load` reads with `weights_only=True`: tensors and plain values, no code. A right checksum
only says that a file is as somebody made it: it may have come from anywhere.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from yolodata.errors import ConfigError, YolodataError, is_out_of_memory
from yolodata.files import file_checksum, open_regular
from yolodata.folders import Folder
from yolodata.train.checkpoint.contents import RunState, wrong_part

log = logging.getLogger("yolodata")

SUFFIX = ".ckpt"
VERSION = 2
COMPRESSED = "its content is compressed, which torch never does"
_NAME = re.compile(r"(?P<progress>[0-9]{5}-[0-9]{8})-(?P<checksum>[0-9a-f]{16})\.ckpt")


def write(folder: Path, state: RunState) -> Path:
    """Writes a state into a folder, durably.

    Args:
        folder: in the folder of the run; is made if it is not there, and may not be a link.
        state: tensors and plain values; `epoch` and `step` name the file.

    Returns:
        The file.

    Raises:
        OSError: the disk is full, say.
    """
    with Folder.inside(folder, create=True) as place, place.temporary() as (temporary, file):
        # Buffered, which also goes on after a write that the system cut short.
        with open(file.fileno(), "wb", closefd=False) as buffered:
            torch.save(state, buffered)
        os.fsync(file.fileno())
        file.seek(0)
        name = f"{state['epoch']:05d}-{state['step']:08d}-{file_checksum(file)}{SUFFIX}"
        place.rename(temporary, name)
    return folder / name


def read(path: Path) -> RunState:
    """Returns the state in a checkpoint file; tensors are in host memory.

    Raises:
        YolodataError: the file is damaged, of another version, or no checkpoint of ours.
        ConfigError: this torch may run code that is hidden in a file.
    """
    check_torch()
    wrong, state = _examined(path)
    if wrong is not None:
        raise YolodataError(f"{path}: cannot be resumed from: {wrong}; name another checkpoint")
    if state.get("version") != VERSION:
        raise YolodataError(
            f"the version of {path} must be {VERSION}, got {state.get('version')!r:.80}; resume "
            "with the yolodata that wrote it"
        )
    return cast(RunState, state)


@contextlib.contextmanager
def fitting(path: Path) -> Iterator[None]:
    """Says of a state that does not fit, although its parts have the right types, what broke.

    Raises:
        YolodataError: it does not fit, or is made up.
    """
    try:
        yield
    except YolodataError:
        raise
    except (
        ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError,
    ) as error:  # fmt: skip
        if is_out_of_memory(error):
            raise
        said = f"{type(error).__name__}: {str(error)[:200]}"
        raise YolodataError(
            f"{path}: cannot be resumed from: its state does not fit this run ({said}); name "
            "another checkpoint, or another name= for a new run"
        ) from error


def _examined(path: Path) -> tuple[str | None, dict[str, Any]]:
    """What is wrong with a file, and its content."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            return examined(path.name, file)
    except OSError as error:
        return f"it cannot be read ({error})", {}


def examined(name: str, file: BinaryIO) -> tuple[str | None, dict[str, Any]]:
    """Returns what is wrong with an open file of this name (None: it is whole), and its state.

    A state of another version is whole.
    """
    wrong, state = _damage(name, file), dict[str, Any]()
    if wrong is None:
        wrong, state = _loaded(file)
    if wrong is None and state.get("version") == VERSION:
        part = wrong_part(state)
        if part is not None:
            wrong = f"its {part} is not that of a run"
        elif f"{state['epoch']:05d}-{state['step']:08d}" != progress(name):
            wrong = f"it is of epoch {state['epoch']}, step {state['step']}"
    return wrong, {} if wrong else state


def larger_in_memory(file: BinaryIO) -> bool:
    """Whether an archive holds more than its size: torch packs nothing, and would unpack all.

    Raises:
        zipfile.BadZipFile, ValueError, …: it is no archive.
    """
    file.seek(0)
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    return packed or sum(entry.file_size for entry in entries) > os.fstat(file.fileno()).st_size


def _loaded(file: BinaryIO) -> tuple[str | None, dict[str, Any]]:
    try:
        if larger_in_memory(file):
            return COMPRESSED, {}
        file.seek(0)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a made-up file makes of the reader
        if is_out_of_memory(error):
            raise
        first = (str(error).splitlines() or [""])[0]
        return f"torch cannot read it ({type(error).__name__}: {first:.200})", {}
    if not isinstance(state, dict):
        return f"it must hold a state, and holds a {type(state).__name__}", {}
    return None, state


def check_torch() -> None:
    """Checks that `weights_only=True` keeps code in a file from running.

    Raises:
        ConfigError: it does not in torch before 2.6.
    """
    major, minor = (int(part) for part in re.findall("[0-9]+", torch.__version__)[:2])
    if (major, minor) < (2, 6):
        raise ConfigError(
            "torch must be 2.6 or newer to open a checkpoint, because older ones may run code that "
            f"is hidden in a file (CVE-2025-32434), got {torch.__version__}; pip install --upgrade "
            "torch"
        )


def _damage(name: str, file: BinaryIO) -> str | None:
    expected = checksum_in(name)
    if expected is None:
        return f"its name must be EPOCH-STEP-CHECKSUM{SUFFIX}"
    file.seek(0)
    found = file_checksum(file)
    return None if found == expected else f"its checksum is {found}: it is cut or damaged"


def checksum_in(name: str) -> str | None:
    """Returns the checksum in the name of a checkpoint; None where it is none."""
    found = _NAME.fullmatch(name)
    return found["checksum"] if found else None


def progress(name: str) -> str:
    """Returns how far a run was, by the name of a checkpoint; later ones compare greater."""
    return name[: len("00000-00000000")]


def checkpoints_in(folder: Path) -> list[Path]:
    """Lists the checkpoints of a folder, whole or not; the newest (by epoch and step) first."""
    found = []
    for path in folder.glob(f"*{SUFFIX}"):
        if _NAME.fullmatch(path.name):
            with contextlib.suppress(OSError):  # removed meanwhile
                found.append((progress(path.name), path.lstat().st_mtime, path))
    return [path for _, _, path in sorted(found, reverse=True)]


def newest_whole(folder: Path) -> Path | None:
    """Returns the newest checkpoint that is whole; others are named in the log.

    Raises:
        ConfigError: as `check_torch`.
    """
    check_torch()
    for path in checkpoints_in(folder):
        wrong, _ = _examined(path)
        if wrong is None:
            return path
        log.warning("%s is not used, %s; looking for an older one", path, wrong)
    return None


def remove_newer(path: Path) -> None:
    """Removes the checkpoints after this one: they are damaged, or the run goes another way.

    Raises:
        OSError: one cannot be removed, or the folder is a link.
    """
    newer = [
        other for other in checkpoints_in(path.parent) if progress(other.name) > progress(path.name)
    ]
    for other in newer:
        log.warning("%s is removed: the run goes on from an earlier one", other)
    remove(newer)


def remove(files: list[Path]) -> None:
    """Removes checkpoints; those of a folder that is a link stay.

    Raises:
        OSError: one cannot be removed, or the folder is a link.
    """
    for path in files:
        with Folder.inside(path.parent) as place:
            place.remove(path.name)
