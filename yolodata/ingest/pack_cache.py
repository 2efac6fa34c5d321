"""Shards that trainers packed by themselves: where they are, how large, and how they are removed.

A trainer packs a dataset into a folder of its own: beside the dataset, into the setting `folder`,
or into the user's cache (ultralytics/auto_pack.py). Each such folder holds one lock file a split,
by which it is told from what `yolodata shard` wrote, and is named in a list in the user's cache. A
folder that the list has lost is found by a search of the folder that it lies in.

Files are removed by name, one by one. Whatever is not known to be ours stays, and so does the
folder that it lies in.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from yolodata.errors import ShardError
from yolodata.files import remove_quietly, stored_bytes
from yolodata.shards.data_yaml import DATA_YAML, is_of_shards
from yolodata.shards.format import DATASET_FILE, SPLITS, WORK_FOLDER, DatasetMeta
from yolodata.shards.left_out import LEFT_OUT
from yolodata.shards.reader import read_meta

LIST = "packed.txt"
CODEC_LOCK = ".codec.lock"
LOCKS = {split: f".{split}.lock" for split in SPLITS}
_OF_SPLIT = re.compile(
    r"shard-\d{5,}\.safetensors|labels(-[0-9a-f]{16})?\.safetensors|dataset\.json|\.[0-9a-f]+\.tmp"
)
_OF_WORK = re.compile(
    r"shard-\d{5,}\.safetensors|labels(-[0-9a-f]{16})?\.safetensors|dataset\.json"
    r"|(part-\d{5,}|settings)(\.new)?|lock|in-work"
)
AS_FILES = "as-files"
_COPY = re.compile(r"[0-9a-f]{16}-(raw|jpeg)|begun")


@dataclass(frozen=True)
class Packed:
    """One folder that a trainer packed a dataset into.

    Attributes:
        folder: it holds one dataset directory a split.
        splits: what dataset.json says of each; None where packing was not finished.
        nbytes: of all files in it.
    """

    folder: Path
    splits: dict[str, DatasetMeta | None]
    nbytes: int

    @property
    def source(self) -> str:
        """The dataset that was packed, or "" where nothing is finished."""
        paths = [str(meta.source.get("path", "")) for meta in self.splits.values() if meta]
        return paths[0] if paths else ""

    @property
    def leftovers(self) -> int:
        """Bytes that interrupted packs left."""
        return sum(
            stored_bytes(self.folder / split / (WORK_FOLDER if meta else ""))
            for split, meta in self.splits.items()
        )

    def now(self) -> int:
        """Bytes of all files in it that are still there."""
        return stored_bytes(self.folder)


def home() -> Path:
    """The folder of yolodata in the user's cache, or YOLODATA_CACHE; it need not exist.

    Raises:
        OSError: there is no home folder either.
    """
    named, cache = os.environ.get("YOLODATA_CACHE"), os.environ.get("XDG_CACHE_HOME")
    try:
        if named:
            return Path(named).expanduser()
        return (Path(cache) if cache else Path.home() / ".cache") / "yolodata"
    except RuntimeError as error:
        raise FileNotFoundError(errno.ENOENT, str(error)) from None


def remember(folder: Path) -> None:
    """Puts a folder on the list; where the list cannot be written, a search has to find it."""
    with contextlib.suppress(OSError):
        home().mkdir(parents=True, exist_ok=True)
        line = os.fsencode(os.path.abspath(folder))
        with _list() as file:
            if line not in file.read().split(b"\n"):
                file.write(line + b"\n")


def _forget(folders: Iterable[Path]) -> None:
    gone = {os.fsencode(folder) for folder in folders}
    with contextlib.suppress(OSError), _list() as file:
        kept = [line for line in file.read().split(b"\n") if line and line not in gone]
        file.seek(0)
        file.truncate()
        file.write(b"".join(line + b"\n" for line in kept))


@contextlib.contextmanager
def _list() -> Iterator[BinaryIO]:
    with open(home() / LIST, "a+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        yield file


def find(folders: Iterable[Path] = ()) -> list[Packed]:
    """Finds what trainers packed, sorted by folder.

    Args:
        folders: where to look, and below; by default what is on the list or in the user's cache.
    """
    given = [Path(os.path.abspath(folder)) for folder in folders]
    roots = list(given)
    if not given:
        with contextlib.suppress(OSError):
            roots = [home()]
    found: set[Path] = set()
    for root in roots:
        for path, inner, names in os.walk(root):
            if any(lock in names for lock in LOCKS.values()):
                found.add(Path(path))
                inner.clear()
    listed = []
    with contextlib.suppress(OSError), _list() as file:
        listed = [Path(os.fsdecode(line)) for line in file.read().split(b"\n") if line]
    _forget(path for path in listed if not _is_ours(path))
    found |= {
        path for path in listed if not given or any(root in (path, *path.parents) for root in given)
    }
    return [_look(path) for path in sorted(found) if _is_ours(path)]


def _is_ours(folder: Path) -> bool:
    return any((folder / lock).is_file() for lock in LOCKS.values())


def _look(folder: Path) -> Packed:
    splits: dict[str, DatasetMeta | None] = {}
    for split in SPLITS:
        path = folder / split
        if not path.is_dir() or path.is_symlink() or not (folder / LOCKS[split]).is_file():
            continue  # nothing that a trainer packed
        try:
            splits[split] = read_meta(path)
        except ShardError:
            splits[split] = None
    return Packed(folder, splits, stored_bytes(folder))


def remove(packed: Packed, *, unfinished: bool = False) -> list[Path]:
    """Removes what was packed, or the leftovers of unfinished packs alone.

    Args:
        packed: what `find` gave.
        unfinished: keep splits that are complete.

    Returns:
        files and folders in it that are not ours, which stay.

    Raises:
        ShardError: a trainer packs into it at this moment; nothing of that split was removed.
    """
    folder = packed.folder
    for split, meta in packed.splits.items():
        with _held(folder / LOCKS[split]):
            if meta is None or not unfinished:
                _remove_split(folder / split)
            else:
                _remove_files(folder / split / WORK_FOLDER, _OF_WORK)
    if unfinished and any(packed.splits.values()):
        return []
    note = folder / DATA_YAML
    if is_of_shards(note):
        with contextlib.suppress(OSError):
            note.unlink()
    _remove_copies(folder / AS_FILES)
    remove_quietly(folder / name for name in (LEFT_OUT, *LOCKS.values()))
    if not _removed(folder):
        return _foreign(folder)
    _forget([folder])
    if os.listdir(folder.parent) == [CODEC_LOCK]:
        remove_quietly([folder.parent / CODEC_LOCK])
    _removed(folder.parent)
    return []


@contextlib.contextmanager
def _held(lock: Path) -> Iterator[None]:
    """Holds the lock of a split, as a trainer does that packs it."""
    with lock.open("ab") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ShardError(
                f"{lock.parent}: a trainer is packing into it; wait for it, or end it"
            ) from None
        yield


def _remove_split(path: Path) -> None:
    remove_quietly([path / DATASET_FILE])  # first, so that a part is never taken for a dataset
    _remove_files(path / WORK_FOLDER, _OF_WORK)
    _remove_files(path, _OF_SPLIT)


def _remove_files(folder: Path, ours: re.Pattern[str]) -> None:
    """Removes files of ours and then the folder, if nothing else is in it. Follows no links."""
    if folder.is_symlink() or not folder.is_dir():
        return
    remove_quietly(file for file in list(folder.iterdir()) if ours.fullmatch(file.name))
    _removed(folder)


def _remove_copies(folder: Path) -> None:
    """Removes files that were made of the shards; see `ultralytics.as_files`."""
    for split in SPLITS:
        for made in list((folder / split).glob("*")):
            if made.is_dir() and not made.is_symlink() and _COPY.fullmatch(made.name):
                shutil.rmtree(made, ignore_errors=True)
        remove_quietly([folder / split / ".lock"])
        _removed(folder / split)
    _removed(folder)


def _removed(folder: Path) -> bool:
    with contextlib.suppress(OSError):  # something is in it
        folder.rmdir()
        return True
    return False


def _foreign(folder: Path) -> list[Path]:
    """What is left in a folder; of a folder with something in it, that."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or not path.is_dir() or not any(path.iterdir())
    ]
