"""How a packer begins: with an empty directory, or where an interrupted one stopped.

Parts say what was stored (records.py). A part was written after the bytes of its samples had been
synced, so those should be there. Of a shard that has its final name, the size is compared. A shard
that is still in `.packing` is compared with the checksums of its samples, because somebody's disk
may have lied. Whatever the parts do not vouch for is removed and packed again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import xxhash

from yolodata.errors import ShardError
from yolodata.files import publish, sync_folder
from yolodata.shards import records
from yolodata.shards.chunks import PageFile
from yolodata.shards.columns import Totals
from yolodata.shards.format import (
    DATASET_FILE,
    SHARD_HEADER,
    WORK_FOLDER,
    DatasetMeta,
    ShardEntry,
    aligned,
    shard_name,
)
from yolodata.shards.records import Part

_REPLACE = "have it replaced (overwrite=True, on the command line --overwrite)"
_OURS = re.compile(r"(shard-\d{5,}|labels(-[0-9a-f]{16})?)\.safetensors|dataset\.json")


@dataclass
class Recovered:
    """Where a packer stands.

    Attributes:
        parts: how many there are.
        totals: what they hold.
        left_out: (name, reason) of images that were left out.
        closed: complete shards, in order.
        end: bytes that the tensor of the next shard has already.
    """

    parts: int = 0
    totals: Totals = field(default_factory=Totals)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    closed: list[ShardEntry] = field(default_factory=list)
    end: int = 0

    def add(self, part: Part) -> None:
        """Takes over what a part says."""
        self.parts += 1
        self.totals += Totals.of(part.columns)
        self.left_out += part.left_out
        self.end = part.end
        if part.closed:
            self.closed.append(ShardEntry(shard_name(part.shard), SHARD_HEADER + part.end))
            self.end = 0


def begin(path: Path, meta: DatasetMeta, shard_size: int, overwrite: bool) -> Recovered:
    """Continues an unfinished pack, or begins a new one. The caller holds the directory's lock.

    Raises:
        ShardError: the directory holds what may not be replaced.
        OSError: the directory cannot be written.
    """
    work = path / WORK_FOLDER
    settings = {"meta": meta.to_dict(), "shard_size": shard_size}
    finished = (path / DATASET_FILE).exists()
    if finished and not overwrite:
        raise ShardError(
            f"{path}: already holds a dataset; remove it, choose another folder, or {_REPLACE}"
        )
    found = records.load_settings(work)
    if finished or found != settings:
        if found is not None and not overwrite:
            raise ShardError(
                f"{path}: an unfinished pack of another source, or with other settings, is there "
                f"(other: {_difference(found, settings)}); continue that one, remove the folder, "
                f"or {_REPLACE}"
            )
        if not overwrite and not records.settings_file(work).exists():
            _refuse_older_files(path)
        _remove(work.glob("part-*"))
        sync_folder(work)  # before settings that they do not belong to
        records.save_settings(work, settings)
        sync_folder(path)
        sync_folder(path.parent)
    return _recover(path, meta.keypoints)


def _difference(found: dict[str, Any], settings: dict[str, Any]) -> str:
    names = [key for key, value in settings["meta"].items() if found["meta"].get(key) != value]
    if found["shard_size"] != settings["shard_size"]:
        names.append("shard_size")
    return ", ".join(names) or "format"


def _refuse_older_files(path: Path) -> None:
    older = sorted(file.name for file in path.iterdir() if _OURS.fullmatch(file.name))
    if older:
        raise ShardError(
            f"{path}: holds {older[0]}, part of another dataset; remove it, choose another "
            f"folder, or {_REPLACE}"
        )


def _recover(path: Path, keypoints: int | None) -> Recovered:
    """Keeps the parts whose bytes are there, and of all files those that they speak of."""
    work, state = path / WORK_FOLDER, Recovered()
    for shard, group in groupby(records.load_parts(work, keypoints), lambda part: part.shard):
        parts = list(group)
        kept = parts[: _whole_parts(path, shard_name(shard), parts)]
        for part in kept:
            state.add(part)
        if len(kept) < len(parts):
            break
    current = shard_name(len(state.closed)) if state.end else ""
    # dataset.json goes first, so that an older dataset is never half valid.
    (path / DATASET_FILE).unlink(missing_ok=True)
    sync_folder(path)
    keep = {entry.file for entry in state.closed}
    _remove(f for f in path.iterdir() if _OURS.fullmatch(f.name) and f.name not in keep)
    keep |= {"lock", current, records.settings_file(work).name}
    keep |= {records.part_file(work, number).name for number in range(state.parts)}
    _remove(file for file in work.iterdir() if file.name not in keep)
    for entry in state.closed:
        if (work / entry.file).exists():
            with PageFile(work / entry.file) as file:
                file.write_header(entry.nbytes - SHARD_HEADER)
                file.sync()
            publish(work / entry.file, path / entry.file)
    if current:
        os.truncate(work / current, SHARD_HEADER + state.end)
    return state


def _remove(files: Iterable[Path]) -> None:
    for file in list(files):
        file.unlink()


def _whole_parts(path: Path, name: str, parts: list[Part]) -> int:
    """Counts the parts of one shard, from the first on, whose bytes are there."""
    last = parts[-1]
    final = path / name
    if last.closed and final.exists() and final.stat().st_size == SHARD_HEADER + last.end:
        return len(parts)
    try:
        fd = os.open(path / WORK_FOLDER / name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # a shard without samples has no file yet
        return 0 if last.end else len(parts)
    try:
        return next((k for k, part in enumerate(parts) if not _is_whole(fd, part)), len(parts))
    finally:
        os.close(fd)


def _is_whole(fd: int, part: Part) -> bool:
    rows = (part.columns[name].tolist() for name in ("offset", "nbytes", "checksum"))
    return all(_is_there(fd, *row) for row in zip(*rows, strict=True))


def _is_there(fd: int, offset: int, nbytes: int, checksum: int) -> bool:
    """Whether a sample, and the zeros behind it, are in an unfinished shard."""
    data = os.pread(fd, aligned(nbytes), SHARD_HEADER + offset)
    return (
        len(data) == aligned(nbytes)
        and xxhash.xxh3_64_intdigest(data[:nbytes]) == checksum
        and data.endswith(bytes(len(data) - nbytes))
    )
