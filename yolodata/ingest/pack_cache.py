"""Shards that trainers packed by themselves: where they are, how large, and how they are removed.

A trainer packs a dataset into a folder of its own: beside the dataset, into the setting `folder`,
or into the user's cache (ultralytics/auto_pack.py). Each such folder holds one lock file a split,
by which it is told from what `yolodata shard` wrote, and is named in a list in the user's cache. A
folder that the list has lost is found by a search of the folder that it lies in.

Files are removed by name, one by one, through folders that are held open (`folders.Folder`), so
that no link in them is followed. Whatever is not known to be ours stays, and so does the folder
that it lies in.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from yolodata.errors import ShardError
from yolodata.files import stored_bytes
from yolodata.folders import Folder
from yolodata.shards.data_yaml import DATA_YAML, is_of_shards
from yolodata.shards.format import DATASET_FILE, SPLITS, WORK_FOLDER, DatasetMeta
from yolodata.shards.left_out import LEFT_OUT
from yolodata.shards.lock import file_lock, storage_error
from yolodata.shards.notes import NOTES
from yolodata.shards.reader import read_meta
from yolodata.shards.recovery import OF_DATASET, OF_WORK

log = logging.getLogger("yolodata")

LIST = "packed.txt"
_PLANTED = (errno.ELOOP, errno.EMLINK, errno.EPERM, errno.EINVAL)  # of `Folder`: not a file of ours
CODEC_LOCK = ".codec.lock"
LOCKS = {split: f".{split}.lock" for split in SPLITS}
AS_FILES = "as-files"
COPY_LOCK = ".lock"
COPY = re.compile(r"[0-9a-f]{16}-(raw|jpeg)|begun")
"""Names of folders in `as-files/SPLIT`."""
COPY_DEPTH = 3
"""Folders in one another in a copy: itself, `images` or `labels`, and one an image."""
_LIST_LIMIT = 1 << 24  # bytes


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


def open_common(folder: Path, *, create: bool = False) -> Folder:
    """Opens the folder that what trainers pack of a dataset lies in.

    Args:
        folder: its path. The last name is ours, and is not followed if it is a link; what is before
            it was named by a user.
        create: make it; then nobody else may be able to change what is in it.

    Raises:
        OSError: there is none, there is something else, or others can change what is in it.
    """
    common = Folder.inside(folder, create=create)
    if create:
        common.check_ours()
    return common


def open_kept(folder: Path, *, create: bool = False) -> Folder:
    """Opens a folder that a trainer packs into, in the same way."""
    with open_common(folder.parent, create=create) as common:
        kept = common.folder(folder.name, create=create)
    if create:
        kept.check_ours()
    return kept


def remember(folder: Path) -> None:
    """Puts a folder on the list; where the list cannot be written, a search has to find it."""
    try:
        with Folder.at(home(), create=True) as place, _list(place) as file:
            line = os.fsencode(os.path.realpath(folder))
            if line not in _lines(file):
                file.write(line + b"\n")
    except OSError as error:
        if error.errno in _PLANTED:
            log.warning(
                "the list of packed folders is not written: '%s' %s. `yolodata cache ls %s` finds "
                "this one", error.filename, error.strerror, folder.parent,
            )  # fmt: skip


def _forget(folders: Iterable[Path]) -> None:
    gone = {os.fsencode(folder) for folder in folders}
    if not gone:
        return
    with contextlib.suppress(OSError), Folder.at(home()) as place, _list(place) as file:
        kept = [line for line in _lines(file) if line not in gone]
        file.seek(0)
        file.truncate()
        file.write(b"".join(line + b"\n" for line in kept))


@contextlib.contextmanager
def _list(place: Folder) -> Iterator[BinaryIO]:
    place.check_ours()
    with os.fdopen(place.open(LIST, os.O_RDWR | os.O_CREAT | os.O_APPEND), "r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file


def _lines(file: BinaryIO) -> list[bytes]:
    file.seek(0)
    return [line for line in file.read(_LIST_LIMIT).split(b"\n") if line]


def find(folders: Iterable[Path] = ()) -> list[Packed]:
    """Finds what trainers packed, sorted by folder.

    Args:
        folders: where to look, and below; by default what is on the list or in the user's cache.
    """
    given = [Path(os.path.realpath(folder)) for folder in folders]
    roots = list(given)
    if not given:
        with contextlib.suppress(OSError):
            roots = [Path(os.path.realpath(home()))]
    found: set[Path] = set()
    for root in roots:
        for path, inner, names in os.walk(root):
            if any(lock in names for lock in LOCKS.values()):
                found.add(Path(path))
                inner.clear()
    listed = []
    with contextlib.suppress(OSError), Folder.at(home()) as place, _list(place) as file:
        listed = [Path(os.fsdecode(line)) for line in _lines(file)]
    _forget(path for path in listed if not _is_ours(path))
    found |= {
        path for path in listed if not given or any(root in (path, *path.parents) for root in given)
    }
    return [_look(path) for path in sorted(found) if _is_ours(path)]


def _is_ours(path: Path) -> bool:
    try:
        with open_kept(path) as folder:
            return any(_is_file(folder, lock) for lock in LOCKS.values())
    except OSError:
        return False


def _is_file(folder: Folder, name: str) -> bool:
    found = folder.stat(name)
    return found is not None and stat.S_ISREG(found.st_mode)


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
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(open_kept(packed.folder))
        except OSError as error:
            raise storage_error(packed.folder, error) from error
        for split, meta in packed.splits.items():
            with _held(folder, LOCKS[split]), _opened(folder, split) as path:
                if path is not None:
                    if meta is None or not unfinished:
                        with contextlib.suppress(OSError):  # a part is never taken for a dataset
                            path.remove(DATASET_FILE)
                        _clear(path, WORK_FOLDER, OF_WORK)
                        _clear(folder, split, OF_DATASET)
                    else:
                        _clear(path, WORK_FOLDER, OF_WORK)
        if unfinished and any(packed.splits.values()):
            return []
        ours = [LEFT_OUT, NOTES, *LOCKS.values()]
        if is_of_shards(packed.folder / DATA_YAML):
            ours.append(DATA_YAML)
        _remove_copies(folder)
        _remove_quietly(folder, ours)
        folder.remove_temporary()
    with Folder.at(packed.folder.parent) as common:
        if not _removed(common, packed.folder.name):
            return _foreign(packed.folder)
        _forget([packed.folder])
        if common.names() == [CODEC_LOCK]:
            _remove_quietly(common, [CODEC_LOCK])
    with contextlib.suppress(OSError):
        packed.folder.parent.rmdir()
    return []


@contextlib.contextmanager
def _held(folder: Folder, lock: str) -> Iterator[None]:
    """Holds the lock of a split, as a trainer does that packs it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(file_lock(folder, lock, wait=False))
        except BlockingIOError:
            raise ShardError(
                f"{folder.path}: a trainer is packing into it; wait for it, or end it"
            ) from None
        except OSError as error:
            raise storage_error(folder.path, error) from error
        yield


@contextlib.contextmanager
def _opened(folder: Folder, name: str) -> Iterator[Folder | None]:
    """A folder in another one; None where there is none, or a link."""
    try:
        inner = folder.folder(name)
    except OSError:
        yield None
        return
    with inner:
        yield inner


def _clear(folder: Folder, name: str, ours: re.Pattern[str]) -> None:
    """Removes files of ours in a folder, and then it, if nothing else is in it."""
    with _opened(folder, name) as inner:
        if inner is None:
            return
        _remove_quietly(inner, filter(ours.fullmatch, inner.names()))
    _removed(folder, name)


def _remove_copies(folder: Folder) -> None:
    """Removes files that were made of the shards; see `ultralytics.as_files`."""
    with _opened(folder, AS_FILES) as copies:
        if copies is None:
            return
        for split in SPLITS:
            with _opened(copies, split) as made:
                if made is None:
                    continue
                for name in filter(COPY.fullmatch, made.names()):
                    with contextlib.suppress(OSError):
                        made.remove_tree(name, COPY_DEPTH)
                _remove_quietly(made, [COPY_LOCK])
            _removed(copies, split)
    _removed(folder, AS_FILES)


def _remove_quietly(folder: Folder, names: Iterable[str]) -> None:
    """Removes files that nobody needs; what cannot be removed stays."""
    for name in names:
        with contextlib.suppress(OSError):
            folder.remove(name)


def _removed(folder: Folder, name: str) -> bool:
    """Removes a folder in another one, if nothing is in it; whether it did."""
    with contextlib.suppress(OSError):
        folder.remove_folder(name)
        return True
    return False


def _foreign(folder: Path) -> list[Path]:
    """What is left in a folder; of a folder with something in it, that."""
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or not path.is_dir() or not any(path.iterdir())
    ]
