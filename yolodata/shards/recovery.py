"""How a packer begins: with an empty directory, or where an interrupted one stopped.

Parts say what was stored (records.py). A part was written after the bytes of its samples had been
synced, so those should be there. Whatever the parts do not vouch for is removed and packed again.

Note [what is believed of a shard]. A shard that is still in `.packing` is compared with the
checksums of its samples, because somebody's disk may have lied. A complete shard was synced before
its part was written, which says which file it is (its inode) and when it was written to last. Where
both are still true, nobody has written to it since. Any other one (restored, copied, changed) is
compared, too. To compare all of them could take longer than to pack again: a core compares 4.8 GB/s
that are in memory (AMD EPYC, median of seven), but many cores pack faster than a disk reads.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import xxhash

from yolodata.errors import ShardError
from yolodata.files import sync_folder
from yolodata.folders import TEMPORARY, Folder
from yolodata.shards import records
from yolodata.shards.chunks import PageFile
from yolodata.shards.columns import Totals
from yolodata.shards.format import (
    DATASET_FILE,
    OF_LABELS,
    PAGE,
    SHARD_HEADER,
    DatasetMeta,
    ShardEntry,
    aligned,
    shard_name,
)
from yolodata.shards.layout import shard_header
from yolodata.shards.lock import LOCK, Lock
from yolodata.shards.notes import Notes
from yolodata.shards.records import Part

_REPLACE = "have it replaced (overwrite=True, on the command line --overwrite)"
_DATASET = rf"shard-\d{{5,}}\.safetensors|{OF_LABELS.pattern}|{re.escape(DATASET_FILE)}"
OF_DATASET = re.compile(f"{_DATASET}|{TEMPORARY.pattern}")
"""Names of what is written into a dataset's folder; nothing else in it is ever removed."""
OF_WORK = re.compile(
    rf"{_DATASET}|{TEMPORARY.pattern}|(part-\d{{5,}}|settings)(\.new)?|in-work|{LOCK}"
)
"""The same for the folder `.packing` in it."""
_PARTS = re.compile(r"part-\d{5,}")
_OLDER = re.compile(_DATASET)
_BLOCK = 4 << 20  # bytes compared at a time


@dataclass
class Recovered:
    """Where a packer stands.

    Attributes:
        parts: how many there are.
        totals: what they hold.
        left_out: (name, reason) of images that were left out.
        closed: complete shards, in order.
        end: bytes that the tensor of the next shard has already.
        notes: on images that were stored.
    """

    parts: int = 0
    totals: Totals = field(default_factory=Totals)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    closed: list[ShardEntry] = field(default_factory=list)
    end: int = 0
    notes: Notes = field(default_factory=Notes)

    def add(self, part: Part) -> None:
        """Takes over what a part says."""
        self.parts += 1
        self.totals += Totals.of(part.columns)
        self.left_out += part.left_out
        self.end = part.end
        for kind, name, note in part.notes:
            self.notes.add(kind, [(name, note)])
        if part.closed:
            self.closed.append(ShardEntry(shard_name(part.shard), SHARD_HEADER + part.end))
            self.end = 0


def begin(lock: Lock, meta: DatasetMeta, shard_size: int, overwrite: bool) -> Recovered:
    """Continues an unfinished pack, or begins a new one.

    Args:
        lock: of the directory, which is held.
        meta, shard_size: what is packed, and how.
        overwrite: replace a finished dataset, or an unfinished one with other settings.

    Raises:
        ShardError: the directory holds what may not be replaced.
        OSError: the directory cannot be written.
    """
    folder, work = lock.folder, lock.work
    settings = {"meta": meta.to_dict(), "shard_size": shard_size}
    finished = folder.stat(DATASET_FILE) is not None
    if finished and not overwrite:
        raise ShardError(
            f"{folder.path}: already holds a dataset; remove it, choose another folder, or "
            f"{_REPLACE}"
        )
    found = records.load_settings(work)
    if finished or found != settings:
        if found is not None and not overwrite:
            raise ShardError(
                f"{folder.path}: an unfinished pack of another source, or with other settings, is "
                f"there (other: {_difference(found, settings)}); continue that one, remove the "
                f"folder, or {_REPLACE}"
            )
        if not overwrite and work.stat(records.SETTINGS) is None:
            _refuse_older_files(folder)
        work.remove_all(_PARTS)
        work.sync()  # before settings that they do not belong to
        records.save_settings(work, settings)
        folder.sync()
        sync_folder(folder.path.parent)
    return _recover(lock, meta.keypoints)


def end_work(lock: Lock) -> None:
    """Removes what is of no use beside a finished dataset, and frees the lock.

    Raises:
        OSError: something cannot be removed; the dataset is whole all the same.
    """
    try:
        lock.work.remove_all(OF_WORK, {LOCK})
    finally:
        lock.remove()


def _difference(found: dict[str, Any], settings: dict[str, Any]) -> str:
    names = [key for key, value in settings["meta"].items() if found["meta"].get(key) != value]
    if found["shard_size"] != settings["shard_size"]:
        names.append("shard_size")
    return ", ".join(names) or "format"


def _refuse_older_files(folder: Folder) -> None:
    older = [name for name in folder.names() if _OLDER.fullmatch(name)]
    if older:
        raise ShardError(
            f"{folder.path}: holds {older[0]}, part of another dataset; remove it, choose another "
            f"folder, or {_REPLACE}"
        )


def _recover(lock: Lock, keypoints: int | None) -> Recovered:
    """Keeps the parts whose bytes are there, and of all files those that they speak of."""
    folder, work, state = lock.folder, lock.work, Recovered()
    for shard, group in groupby(records.load_parts(work, keypoints), lambda part: part.shard):
        parts = _joined(group)
        if shard != len(state.closed) or not parts:
            break
        kept = parts[: _whole_parts(lock, shard_name(shard), parts)]
        for part in kept:
            state.add(part)
        if len(kept) < len(parts):
            break
    current = shard_name(len(state.closed)) if state.end else ""
    # dataset.json goes first, so that an older dataset is never half valid.
    folder.remove(DATASET_FILE)
    folder.sync()
    keep = {entry.file for entry in state.closed}
    folder.remove_all(OF_DATASET, keep)
    keep |= {LOCK, current, records.SETTINGS}
    keep |= {records.part_name(number) for number in range(state.parts)}
    work.remove_all(OF_WORK, keep)
    for entry in state.closed:
        if work.stat(entry.file) is not None:
            with PageFile(work, entry.file) as file:
                file.write_header(entry.nbytes - SHARD_HEADER)
                file.sync()
            work.rename(entry.file, entry.file, folder)
    if current:
        with PageFile(work, current) as file:
            file.truncate(state.end)
    return state


def _joined(parts: Iterable[Part]) -> list[Part]:
    """The parts of one shard, from the first on, whose samples lie one behind the other."""
    joined: list[Part] = []
    end = 0
    for part in parts:
        if (joined and joined[-1].closed) or not _begins_at(part, end):
            break
        joined.append(part)
        end = part.end
    return joined


def _begins_at(part: Part, begin: int) -> bool:
    nbytes, offset, shard = (part.columns[name] for name in ("nbytes", "offset", "shard"))
    if not len(nbytes):
        return part.end == begin
    if int(nbytes.max()) > part.end:
        return False
    ends = begin + np.cumsum((nbytes + np.uint64(PAGE - 1)) // PAGE * PAGE)
    begins = np.concatenate([[begin], ends[:-1]])
    return int(ends[-1]) == part.end and bool(
        (offset == begins).all() and (shard == part.shard).all()
    )


def _whole_parts(lock: Lock, name: str, parts: list[Part]) -> int:
    """Counts the parts of one shard, from the first on, whose bytes are there."""
    last = parts[-1]
    if last.closed and _is_closed(lock.folder, name, parts):
        return len(parts)
    found = lock.work.stat(name)
    if found is None:  # a shard without samples has no file yet
        return 0 if last.end else len(parts)
    if not stat.S_ISREG(found.st_mode):
        return 0
    fd = lock.work.open(name, os.O_RDONLY)
    try:
        return next((k for k, part in enumerate(parts) if not _is_whole(fd, part)), len(parts))
    finally:
        os.close(fd)


def _is_closed(folder: Folder, name: str, parts: list[Part]) -> bool:
    """Whether a complete shard is there, under its final name, with all its bytes."""
    end, known = parts[-1].end, parts[-1].file
    found = folder.stat(name)
    if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != SHARD_HEADER + end:
        return False
    if known == (found.st_ino, found.st_mtime_ns):
        return True
    fd = folder.open(name, os.O_RDONLY)
    try:
        header = os.pread(fd, SHARD_HEADER, 0)
        return header == shard_header(end) and all(_is_whole(fd, part) for part in parts)
    finally:
        os.close(fd)


def _is_whole(fd: int, part: Part) -> bool:
    rows = (part.columns[name].tolist() for name in ("offset", "nbytes", "checksum"))
    return all(_is_there(fd, *row) for row in zip(*rows, strict=True))


def _is_there(fd: int, offset: int, nbytes: int, checksum: int) -> bool:
    """Whether a sample, and the zeros behind it, are in an unfinished shard."""
    digest, at, end = xxhash.xxh3_64(), 0, aligned(nbytes)
    while at < end:
        data = os.pread(fd, min(end - at, _BLOCK), SHARD_HEADER + offset + at)
        sample = max(0, min(len(data), nbytes - at))
        if not data or data.count(0, sample) != len(data) - sample:
            return False
        digest.update(memoryview(data)[:sample])
        at += len(data)
    return digest.intdigest() == checksum
