"""How a packer begins: with an empty directory, or where a killed one stopped.

A journal record proves that its sample's bytes were handed to the operating system, which keeps
them through a kill. After a power cut a record may have survived its bytes, or the other way
round. Shards that were closed were synced before, so their size is proof enough; the bytes of all
others are compared with their checksums, and the journal is cut at the first sample that fails.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import xxhash

from yolodata.errors import ShardError
from yolodata.files import publish, sync_folder, write_all, write_durably
from yolodata.shards import journal as records
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
from yolodata.shards.journal import SAMPLE_FIELDS, Counts, Journal, take_apart

_JOURNAL = "journal"
_REPLACE = "have it replaced (overwrite=True, on the command line --overwrite)"
_OURS = re.compile(r"(shard-\d{5,}|labels(-[0-9a-f]{16})?)\.safetensors|dataset\.json")


@dataclass
class Recovered:
    """Where a packer stands.

    closed: finished shards. shard, end: the shard to append to, and the bytes its tensor has.
    to_close: (shard, end) of complete shards that have no final name yet.
    """

    journal: Journal
    totals: Totals = field(default_factory=Totals)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    closed: dict[int, ShardEntry] = field(default_factory=dict)
    to_close: list[tuple[int, int]] = field(default_factory=list)
    shard: int = 0
    end: int = 0


@dataclass
class _Open:
    """Samples of a shard without a CLOSED record: (journal position, offset, nbytes, checksum)."""

    samples: list[tuple[int, int, int, int]] = field(default_factory=list)

    @property
    def end(self) -> int:
        _, offset, nbytes, _ = self.samples[-1]
        return offset + aligned(nbytes)


def begin(path: Path, meta: DatasetMeta, shard_size: int, overwrite: bool) -> Recovered:
    """Continue an unfinished pack, or begin a new one. The caller holds the directory's lock.

    Raises:
        ShardError: the directory holds what may not be replaced.
        OSError: the directory cannot be written.
    """
    file = path / WORK_FOLDER / _JOURNAL
    settings = {"meta": meta.to_dict(), "shard_size": shard_size}
    payload = records.json_payload(records.BEGIN, settings)
    finished = (path / DATASET_FILE).exists()
    if finished and not overwrite:
        raise ShardError(
            f"{path}: already holds a dataset; remove it, choose another folder, or {_REPLACE}"
        )
    if file.exists():
        journal = Journal(file)
        first = next((payload for _, payload in journal.records()), b"")
        if first == payload and not (finished and _is_result(journal, path)):
            return _continue(path, journal)
        journal.close()
        if first[:1] == records.BEGIN and not overwrite:
            raise ShardError(
                f"{path}: an unfinished pack of another source, or with other settings, is there "
                f"(other: {_difference(first, settings)}); continue that one, remove the folder, "
                f"or {_REPLACE}"
            )
    elif not overwrite:
        older = sorted(p.name for p in path.iterdir() if _OURS.fullmatch(p.name))
        if older:
            raise ShardError(
                f"{path}: holds {older[0]}, part of another dataset; remove it, choose another "
                f"folder, or {_REPLACE}"
            )
    temporary = file.with_name("journal.new")
    write_durably(temporary, records.encode(payload))
    publish(temporary, file)
    sync_folder(path)
    sync_folder(path.parent)
    return _continue(path, Journal(file))


def _is_result(journal: Journal, path: Path) -> bool:
    """Whether the directory's dataset.json is what this journal's pack ended with."""
    last = b""
    for _, payload in journal.records():
        last = payload
    text = (path / DATASET_FILE).read_bytes()
    return last == records.json_payload(records.FINISHED, xxhash.xxh3_64_hexdigest(text))


def _difference(first: bytes, settings: dict[str, Any]) -> str:
    old = json.loads(first[1:])
    names = [key for key, value in settings["meta"].items() if old["meta"].get(key) != value]
    if old["shard_size"] != settings["shard_size"]:
        names.append("shard_size")
    return ", ".join(names) or "format"


def _continue(path: Path, journal: Journal) -> Recovered:
    try:
        return _recover(path, journal)
    except BaseException:
        journal.close()
        raise


def _recover(path: Path, journal: Journal) -> Recovered:
    if not any(payload[:1] == records.CLEARED for _, payload in journal.records()):
        journal.truncate(next(at + records.size(payload) for at, payload in journal.records()))
        _clear(path)
        journal.append(records.CLEARED, sync=True)
    while True:
        scan = _scan(path, journal)
        cut = scan.cut if scan.cut is not None else _first_lost(path, scan.unclosed)
        if cut is None:
            break
        journal.truncate(cut)
    journal.truncate(scan.end)  # a record that was not written completely
    _settle(path, scan)
    return scan.state


def _clear(path: Path) -> None:
    """Remove the dataset that was here; dataset.json first, so that it is never half valid."""
    (path / DATASET_FILE).unlink(missing_ok=True)
    sync_folder(path)
    for entry in path.iterdir():
        if _OURS.fullmatch(entry.name):
            entry.unlink()
    sync_folder(path)


@dataclass
class _Scan:
    """What a journal says.

    unclosed: shards that were not closed. end: where the complete records end. cut: where to cut
    the journal because a closed shard is gone, or None.
    """

    state: Recovered
    unclosed: dict[int, _Open] = field(default_factory=dict)
    end: int = 0
    cut: int | None = None


def _scan(path: Path, journal: Journal) -> _Scan:
    state = Recovered(journal)
    scan = _Scan(state)
    first: dict[int, int] = {}  # position of each shard's first sample
    for at, payload in journal.records():
        scan.end = at + records.size(payload)
        kind = payload[:1]
        if kind == records.SAMPLE:
            parts = take_apart([payload])
            row = {name: int(parts.fixed[name][0]) for name in SAMPLE_FIELDS.fields or ()}
            points = len(parts.polygons[0]) // 8
            state.totals.add(Counts(row["objects"], points, row["name_bytes"]))
            state.shard = row["shard"]
            first.setdefault(state.shard, at)
            sample = (at, row["offset"], row["nbytes"], row["checksum"])
            scan.unclosed.setdefault(state.shard, _Open()).samples.append(sample)
        elif kind == records.LEFT_OUT:
            name, reason = json.loads(payload[1:])
            state.left_out.append((name, reason))
        elif kind == records.CLOSED:
            shard, nbytes = json.loads(payload[1:])
            file = path / shard_name(shard)
            if not file.exists() or file.stat().st_size != nbytes:
                scan.cut = first[shard]
                return scan
            state.closed[shard] = ShardEntry(file.name, nbytes)
            del scan.unclosed[shard]
    if state.shard in state.closed:
        state.shard += 1
    return scan


def _first_lost(path: Path, unclosed: dict[int, _Open]) -> int | None:
    """Journal position of the first sample whose bytes are not there."""
    for shard in sorted(unclosed):
        file = path / WORK_FOLDER / shard_name(shard)
        if not file.exists():
            file = path / shard_name(shard)  # killed between the renaming and the record
        try:
            fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return unclosed[shard].samples[0][0]
        try:
            for at, offset, nbytes, checksum in unclosed[shard].samples:
                data = os.pread(fd, nbytes, SHARD_HEADER + offset)
                if len(data) != nbytes or xxhash.xxh3_64_intdigest(data) != checksum:
                    return at
        finally:
            os.close(fd)
    return None


def _settle(path: Path, scan: _Scan) -> None:
    """Give every file the size that the journal says, and remove all others."""
    work, state = path / WORK_FOLDER, scan.state
    for shard, content in sorted(scan.unclosed.items()):
        file = work / shard_name(shard)
        if not file.exists():
            os.replace(path / file.name, file)  # will be closed, and recorded, again
        _repair(file, content)
        if shard == state.shard:
            state.end = content.end
        else:
            state.to_close.append((shard, content.end))
    keep = {entry.file for entry in state.closed.values()}
    for entry in path.iterdir():
        if _OURS.fullmatch(entry.name) and entry.name not in keep:
            entry.unlink()
    keep = {"lock", _JOURNAL} | {shard_name(shard) for shard in scan.unclosed}
    for entry in work.iterdir():
        if entry.name not in keep:
            entry.unlink()


def _repair(file: Path, content: _Open) -> None:
    """Zero what no checksum covers, and cut off what no record describes."""
    fd = os.open(file, os.O_RDWR | os.O_CLOEXEC)
    try:
        for _, offset, nbytes, _ in content.samples:
            write_all(fd, bytes(aligned(nbytes) - nbytes), SHARD_HEADER + offset + nbytes)
        os.ftruncate(fd, SHARD_HEADER + content.end)
    finally:
        os.close(fd)
