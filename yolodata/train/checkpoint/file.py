"""Checkpoint files: whole, or not there.

A file is named EPOCH-STEP-CHECKSUM.ckpt. The checksum is XXH3-64 of the content, so that a file
shows by itself whether it was cut, or damaged on the way to another machine. The content is what
`torch.load` reads with `weights_only=True`: tensors and plain values, no code.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import torch

from yolodata.errors import YolodataError
from yolodata.files import file_checksum, publish, sync_file, temporary_file

log = logging.getLogger("yolodata")

SUFFIX = ".ckpt"
VERSION = 2
_NAME = re.compile(r"(?P<progress>\d{5}-\d{8})-(?P<checksum>[0-9a-f]{16})\.ckpt")


def write(folder: Path, state: dict[str, Any]) -> Path:
    """Writes a state into a folder, durably.

    Args:
        folder: is made if it is not there.
        state: tensors and plain values; `epoch` and `step` name the file.

    Returns:
        The file.

    Raises:
        OSError: the disk is full, say.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with temporary_file(folder) as temporary:
        with temporary.open("wb") as file:
            torch.save(state, file)
        sync_file(temporary)
        name = f"{state['epoch']:05d}-{state['step']:08d}-{_checksum(temporary)}{SUFFIX}"
        publish(temporary, folder / name)
    return folder / name


def read(path: Path) -> dict[str, Any]:
    """Returns the state in a checkpoint file; tensors are in host memory.

    Raises:
        YolodataError: the file is damaged, or of another version.
    """
    wrong = damage(path)
    if wrong is not None:
        raise YolodataError(f"{path} cannot be resumed from: {wrong}; name another checkpoint")
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if state.get("version") != VERSION:
        raise YolodataError(
            f"the version of {path} must be {VERSION}, got {state.get('version')}; resume with the "
            "yolodata that wrote it"
        )
    return state


def damage(path: Path) -> str | None:
    """Says what is wrong with a checkpoint file; None if it is whole."""
    name = _NAME.fullmatch(path.name)
    if name is None:
        return f"its name must be EPOCH-STEP-CHECKSUM{SUFFIX}"
    try:
        found = _checksum(path)
    except OSError as error:
        return f"it cannot be read ({error})"
    return None if found == name["checksum"] else f"its checksum is {found}: it is cut or damaged"


def progress(name: str) -> str:
    """Returns how far a run was, by the name of a checkpoint; later ones compare greater."""
    return name[: len("00000-00000000")]


def checkpoints_in(folder: Path) -> list[Path]:
    """Lists the checkpoints of a folder, whole or not; the newest (by epoch and step) first."""
    found = [path for path in folder.glob(f"*{SUFFIX}") if _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: (progress(path.name), path.stat().st_mtime), reverse=True)


def newest_whole(folder: Path) -> Path | None:
    """Returns the newest checkpoint that is whole; damaged ones are named in the log."""
    for path in checkpoints_in(folder):
        wrong = damage(path)
        if wrong is None:
            return path
        log.warning("%s is not used, %s; looking for an older one", path, wrong)
    return None


def remove_newer(path: Path) -> None:
    """Removes the checkpoints after this one: they are damaged, or the run goes another way."""
    for other in checkpoints_in(path.parent):
        if progress(other.name) > progress(path.name):
            log.warning("%s is removed: the run goes on from an earlier one", other)
            other.unlink(missing_ok=True)


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return file_checksum(file)
