"""What lies in a folder and below it, however deep; links are followed.

Note [links]. A picture that two links reach is found twice, as with Ultralytics. A folder is not
entered again below itself: where a link leads back to a folder on the way, Ultralytics finds every
picture forty times, because the system then stops following links. Folders of links to folders of
links give more ways than anybody can walk, so that they end in an error.

Note [what is not there]. A folder that is gone, or a link to nothing, has no images. One that may
not be read is said. All other failures, of memory, descriptors or a disk, are errors: the images
that they hide would be missing from the dataset.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

from yolodata.errors import DatasetError
from yolodata.ingest.limits import FOLDERS_AGAIN

_Id = tuple[int, int]  # of a folder: device and inode
_REFUSED = (errno.EACCES, errno.EPERM)
_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, *_REFUSED)


class RealPaths:
    """`os.path.realpath` of many folders, asking the system once for each, however deep it is."""

    def __init__(self) -> None:
        self._known = {os.sep: os.sep}

    def __call__(self, path: str) -> str:
        """Gives the path without links."""
        plain = os.path.isabs(path) and os.path.normpath(path) == path
        if not plain or path.startswith(2 * os.sep):
            return os.path.realpath(path)
        names: list[str] = []
        here = path
        while here not in self._known:
            here, name = os.path.split(here)
            names.append(name)
        real = self._known[here]
        for name in reversed(names):
            here, real = os.path.join(here, name), os.path.join(real, name)
            if os.path.islink(real):
                real = os.path.realpath(real)
            self._known[here] = real
        return real


def is_hidden(path: Path, folder: Path) -> bool:
    """Whether a path is hidden, or below a hidden folder; macOS leaves ._data.yaml in archives."""
    return any(part.startswith(".") for part in path.relative_to(folder).parts)


def folders_in(folder: Path) -> list[Path]:
    """Gives the folders directly in one, sorted; none where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir())
    except OSError:
        return []
    return [folder / name for name in names]


def files_below(folder: str, hidden: list[str] | None = None) -> Iterator[tuple[str, list[str]]]:
    """Gives each folder below `folder`, itself first, with the names of its files, all sorted.

    A folder is given as often as links lead to it; hidden ones and those that may not be read not
    at all.

    Args:
        folder: where to begin.
        hidden: hidden folders are added to it.

    Raises:
        DatasetError: links lead to the same folders again and again.
        OSError: the machine cannot read one.
    """
    walk = _Walk(folder)
    while walk.todo:
        entered = walk.enter()
        if entered is None:
            continue
        here, below = entered
        folders: list[str] = []
        names: list[str] = []
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    (folders if _is_folder(entry) else names).append(entry.name)
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            continue
        yield here, sorted(names)
        for name in sorted(folders, reverse=True):
            if not name.startswith("."):
                walk.todo.append((os.path.join(here, name), below))
            elif hidden is not None:
                hidden.append(os.path.join(here, name))


def files_of_split(folder: str, unread: dict[str, str]) -> Iterator[str]:
    """Gives the files of a folder and all below as Ultralytics finds them: each with a dot in its
    name, none that is hidden; a folder twice where two links lead to it.

    Args:
        folder: where to begin.
        unread: folders that may not be read are added, with the reason.

    Raises:
        DatasetError: links lead to the same folders again and again.
        OSError: the machine cannot read one.
    """
    walk = _Walk(folder)
    while walk.todo:
        entered = walk.enter()
        if entered is None:
            continue
        here, below = entered
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if "." in entry.name:
                        yield entry.path
                    if _is_folder(entry):
                        walk.todo.append((entry.path, below))
        except OSError as error:
            if error.errno not in _ABSENT:
                raise
            if error.errno in _REFUSED:
                unread[here] = f"the folder cannot be read: {error.strerror}"


class _Walk:
    """Folders to enter, each with those on the way to it; see Note [links]."""

    def __init__(self, folder: str) -> None:
        self.todo: list[tuple[str, frozenset[_Id]]] = [(folder, frozenset())]
        self._folder = folder
        self._visited: set[_Id] = set()
        self._again = 0

    def enter(self) -> tuple[str, frozenset[_Id]] | None:
        """The next folder, and the way to what is in it; None where it is absent or on its way.

        Raises:
            DatasetError: links lead to the same folders again and again.
        """
        here, way = self.todo.pop()
        number = _number(here)
        if number is None or number in way:
            return None
        self._again += number in self._visited
        if self._again > FOLDERS_AGAIN:
            raise DatasetError(
                f"{self._folder}: links lead to the same folders more than {FOLDERS_AGAIN} times, "
                f"as to '{here}'; remove links, or list the images in a text file"
            )
        self._visited.add(number)
        return here, way | {number}


def _number(folder: str) -> _Id | None:
    try:
        found = os.stat(folder)
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return None
    return found.st_dev, found.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno not in _ABSENT:
            raise
        return False
