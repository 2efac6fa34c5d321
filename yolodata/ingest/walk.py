"""What lies in a folder and below it, however deep; links are followed.

Note [links]. A picture that two links reach is found twice, as with Ultralytics. A folder is not
entered again below itself: where a link leads back to a folder on the way, Ultralytics finds every
picture forty times, because the system then stops following links. Folders of links to folders of
links give more ways than anybody can walk, so that they end in an error.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress

from yolodata.errors import DatasetError
from yolodata.ingest.limits import FOLDERS_AGAIN

_Id = tuple[int, int]  # of a folder: device and inode


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


def files_below(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Gives each folder below `folder`, itself first, with the names of its files, all sorted.

    Each folder is given once, hidden ones not at all.
    """
    seen: set[_Id] = set()
    todo = [folder]
    while todo:
        here = todo.pop()
        number = _number(here)
        if number is None or number in seen:
            continue
        seen.add(number)
        folders: list[str] = []
        names: list[str] = []
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    (folders if _is_folder(entry) else names).append(entry.name)
        except OSError:  # it may not be read
            continue
        yield here, sorted(names)
        below = [name for name in sorted(folders, reverse=True) if not name.startswith(".")]
        todo += [os.path.join(here, name) for name in below]


def files_of_split(folder: str) -> Iterator[str]:
    """Gives the files of a folder and all below as Ultralytics finds them: each with a dot in its
    name, none that is hidden; a folder twice where two links lead to it.

    Raises:
        DatasetError: links lead to the same folders again and again.
    """
    visited: set[_Id] = set()
    again = 0
    todo: list[tuple[str, frozenset[_Id]]] = [(folder, frozenset())]
    while todo:
        here, way = todo.pop()
        number = _number(here)
        if number is None or number in way:
            continue
        again += number in visited
        if again > FOLDERS_AGAIN:
            raise DatasetError(
                f"'{folder}': links lead to the same folders more than {FOLDERS_AGAIN} times, as "
                f"to '{here}'. Remove links, or list the images in a text file."
            )
        visited.add(number)
        below = way | {number}
        with suppress(OSError), os.scandir(here) as entries:  # one that may not be read is empty
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if "." in entry.name:
                    yield entry.path
                if _is_folder(entry):
                    todo.append((entry.path, below))


def _number(folder: str) -> _Id | None:
    try:
        found = os.stat(folder)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False
