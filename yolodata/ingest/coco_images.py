"""Where the images of a COCO file lie.

The format says file names, not folders. Folders named after the file or its split come first, a
folder that may hold the images of all splits last: where both have a file of that name, the one
of the split is meant.
"""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from yolodata.errors import DatasetError
from yolodata.files import resolved
from yolodata.ingest.split_names import split_of, splits_said
from yolodata.ingest.survey import is_image
from yolodata.ingest.walk import folders_in

_PREFIXES = ("instances_", "person_keypoints_", "lvis_v1_", "lvis_")
_LOOKED_AT = 50  # folders, and images, where none is where it should be
_YEAR = re.compile(r"(?<!\d)\d{4}(?!\d)")


@dataclass(frozen=True)
class _Place:
    """Folders that are searched for the images of a file, all at once.

    Attributes:
        folders: of them.
        named: whether they are named after the file or its split.
    """

    folders: tuple[Path, ...]
    named: bool


class ImageFinder:
    """Finds the images of one JSON file."""

    def __init__(self, file: Path, split: str, given: Path | None) -> None:
        self._file = file
        self._split = split
        self._given = given
        self._listed: dict[str, frozenset[str]] = {}
        self._alike: dict[str, dict[str, str]] = {}  # plain name -> name, of each folder

    def find(self, images: Sequence[Any]) -> tuple[list[str | None], dict[str, str]] | None:
        """Gives the path of each image; None if not a single one is there.

        Args:
            images: records of the JSON file. Those without a name, or no records, are passed over.

        Returns:
            a path for each record, absolute and perhaps of no file, or None for no name; and what
            cannot be told: path -> reason.
        """
        names = [_spellings(image) for image in images]
        found = self._find(names)
        if found is None:  # LVIS v0.5 has names of 2014 for files of 2017
            addresses = [_spelled(_address(image)) for image in images]
            if [s[2:] for s in addresses] != [s[2:] for s in names] and any(addresses):
                found = self._find(addresses)
        if found is None:  # Objects365 has images/v1/patch8/x.jpg for train/patch8/x.jpg
            found = self._find_shorter(names)
        return found

    def _find_shorter(
        self, names: Sequence[tuple[str, ...]]
    ) -> tuple[list[str | None], dict[str, str]] | None:
        """Finds the images without as few of their first folders as it takes."""
        for cut in range(1, max((s[1].count("/") for s in names if s), default=0)):
            shorter = [_spelled(_without(s[1], cut)) if s else () for s in names]
            if len(set(shorter)) == len(set(names)):  # no two become one
                found = self._find(shorter, sure=True)
                if found is not None:
                    return found
        return None

    def _find(
        self, names: Sequence[tuple[str, ...]], sure: bool = False
    ) -> tuple[list[str | None], dict[str, str]] | None:
        """Finds the images in the first place that has any; if `sure`, in one that is meant."""
        last = Counter(name.rsplit("/", 1)[-1] for name in {s[1] for s in names if s})
        distinct = all(count == 1 for count in last.values())
        tried: list[str | None] = []
        for depth in range(3):
            spelled = [s[depth] if s else None for s in names]
            if spelled == tried:
                continue
            tried = spelled
            if depth == 2 and not distinct:
                break  # names without their folders say several images
            for place in self._places():
                meant = place.named or self._given is not None
                if not meant and (sure or self._elsewhere(names, depth == 2)):
                    continue  # images of the same names there may be another split's
                if any(self._in(place, name) for name in spelled if name):
                    alone = (distinct and (meant or not self._elsewhere([s], True)) for s in names)
                    ends = [3 if last_part or depth == 2 else 2 for last_part in alone]
                    return self._paths(
                        place, [s[depth:end] for s, end in zip(names, ends, strict=True)]
                    )
        return None

    def error(self, images: Sequence[Any]) -> DatasetError:
        """Says that no image is there, and where it was sought."""
        names = [spelled[0] for spelled in map(_spellings, images) if spelled]
        if not images:
            return DatasetError(f"{self._file}: there are no images in it; give another file")
        if not names:
            return DatasetError(
                f"{self._file}: no image has a file_name or a coco_url; add file_name to each"
            )
        root = self._given or self._root
        folders = [folder for place in self._places() for folder in place.folders]
        below = [os.path.relpath(folder, root) for folder in folders if folder != root]
        own = None if self._given else self._own_folder()
        only = f"; images that lie elsewhere may be another split's, because there is '{own}'"
        alike = (folder / self._nearly(str(folder / names[0])) for folder in folders)
        near = next(
            (
                f"; '{path}' is there, but names have to be equal"
                for path in alike
                if is_image(path.name) and path.name != os.path.basename(names[0])
            ),
            "",
        )
        there = "" if own else self._beyond(images)
        return DatasetError(
            f"{self._file}: none of its {len(names)} images, as '{names[0]}', is there; they were "
            f"sought in '{root}' and below it in {', '.join(below)}{only if own else ''}{near}; "
            f"give their folder with {there or '--images DIR'}, or pack only splits whose images "
            "are there, with --split"
        )

    def _beyond(self, images: Sequence[Any]) -> str:
        """The option for a folder near with such images, or ""."""
        root = self._root
        named = (folder for place in self._places() if place.named for folder in place.folders)
        near = [folders_in(folder)[:_LOOKED_AT] for folder in (root, root.parent, *named)]
        places = (root.parent, *(place for folders in near for place in folders if place != root))
        some = images[:: len(images) // _LOOKED_AT + 1]
        for place in places if self._given is None else ():
            if ImageFinder(self._file, self._split, place).find(some) is not None:
                return f"--images {shlex.quote(str(place))}, if those there are meant"
        return ""

    def _own_folder(self) -> Path | None:
        """A folder named after the file or its split, if it is empty or holds images."""
        for place in self._places():
            for folder in place.folders if place.named else ():
                if folder.is_dir():
                    names = self._names(str(folder))
                    if not names or any(is_image(name) for name in names):
                        return folder
        return None

    @property
    def _root(self) -> Path:
        folder = self._file.absolute().parent
        return folder.parent if folder.name.lower() == "annotations" else folder

    def _places(self) -> list[_Place]:
        root = self._root
        bases = [self._given] if self._given else [root / "images", root, root / "data"]
        stem = self._file.stem
        for prefix in _PREFIXES:
            stem = stem.removeprefix(prefix)
        named = [base / name for name in dict.fromkeys((stem, self._split)) for base in bases]
        exact = [place for folder in named for place in _with_images(folder)]
        splits = {self._split} | splits_said(self._file.stem)
        worded = [
            place
            for base in bases
            for folder in folders_in(base)
            if folder not in exact
            and split_of(folder.name) in splits
            and not _of_another_year(folder.name, self._file.stem)
            for place in _with_images(folder)
        ]
        places = [_Place((folder,), True) for folder in exact]
        if worded:
            places.append(_Place(tuple(worded), True))
        return [*places, _Place(tuple(bases), False)]

    def _elsewhere(self, names: Sequence[Sequence[str]], alone: bool) -> bool:
        """Whether images are to lie in a folder of their split, and not in one for all.

        Args:
            names: of the images.
            alone: whether they have lost their folders: then those have said the split, or not.
        """
        folders = next((spelled[1] for spelled in names if spelled), "").split("/")[:-1]
        if alone:
            return any(split_of(folder) for folder in folders)
        return not folders and self._own_folder() is not None

    def _in(self, place: _Place, name: str) -> list[str]:
        found = [os.path.normpath(os.path.join(folder, name)) for folder in place.folders]
        return [path for path in found if self._exists(path)]

    def _has_folder(self, place: _Place, name: str) -> bool:
        """Whether the folder that a name begins with is there, and not empty."""
        return any(self._names(os.path.join(f, os.path.dirname(name))) for f in place.folders)

    def _exists(self, path: str) -> bool:
        """Whether there is such a file; each folder is listed once."""
        folder, name = os.path.split(path)
        return name in self._names(folder)

    def _nearly(self, path: str) -> str:
        """A file there whose name differs in what systems and tools change; "" without one."""
        folder, name = os.path.split(path)
        if folder not in self._alike:
            self._alike[folder] = {_plain(n): n for n in self._names(folder) if is_image(n)}
        return self._alike[folder].get(_plain(name), "")

    def _names(self, folder: str) -> frozenset[str]:
        if folder not in self._listed:
            try:
                self._listed[folder] = frozenset(os.listdir(folder))
            except (OSError, ValueError):
                self._listed[folder] = frozenset()
        return self._listed[folder]

    def _paths(
        self, place: _Place, names: Sequence[Sequence[str]]
    ) -> tuple[list[str | None], dict[str, str]]:
        """A path for each image in one place, and what cannot be told.

        Args:
            place: where some of them are.
            names: the spellings of each that count there. A later one counts where nothing is
                there by the ones before it, and their folder is not there either.
        """
        place = _Place(tuple(resolved(folder) for folder in place.folders), place.named)
        home = next(  # where those lie that are absent
            (
                f
                for f in place.folders
                if any(self._exists(os.path.join(f, n[0])) for n in names if n)
            ),
            place.folders[0],
        )
        paths: list[str | None] = []
        unclear: dict[str, str] = {}
        for spellings in names:
            if not spellings:
                paths.append(None)
                continue
            found: list[str] = []
            for name in spellings:
                found = self._in(place, name)
                if found or ("\\" not in name and self._has_folder(place, name)):
                    break
            path = found[0] if found else os.path.normpath(home / spellings[0])
            if not found and self._nearly(path):
                unclear[path] = (
                    "no such file, but one whose name differs in suffix, capitals, blanks or the "
                    "way to write a character"
                )
            if len(found) > 1 and len({os.path.realpath(other) for other in found}) > 1:
                unclear[path] = (
                    f"may also be {' or '.join(found[1:])}; name the folder --images DIR"
                )
            paths.append(path)
        return paths, unclear


def _plain(name: str) -> str:
    """A name without suffix, capitals, blanks around it, and ways to write a character."""
    stem = os.path.splitext(unquote(name).strip())[0]
    return unicodedata.normalize("NFC", stem).casefold()


def _of_another_year(folder: str, file: str) -> bool:
    """Whether names hold years, as COCO's do, and not the same."""
    years = [set(_YEAR.findall(name)) for name in (folder, file)]
    return all(years) and years[0].isdisjoint(years[1])


def _with_images(folder: Path) -> list[Path]:
    """A folder, and those in it that say no more: val/images, and train2017/train2017 of Kaggle."""
    below = (folder / name for name in ("images", folder.name))
    return [folder, *(place for place in dict.fromkeys(below) if place.is_dir())]


def _spellings(image: Any) -> tuple[str, ...]:
    """What an image may be called, from what the file says to its last part alone.

    Label tools on Windows write their separators; LVIS gives an address instead of a name.
    """
    name = image.get("file_name") if isinstance(image, dict) else None
    return _spelled(name if isinstance(name, str) and name else _address(image))


def _address(image: Any) -> str:
    """The last folder and the name of an image's address; nothing without one."""
    url = image.get("coco_url") if isinstance(image, dict) else None
    if not isinstance(url, str):
        return ""
    try:
        path = unquote(urlsplit(url).path)
    except ValueError:
        return ""
    return "/".join(PurePosixPath(path).parts[-2:]).lstrip("/")


def _without(name: str, count: int) -> str:
    """A name without its first folders; the last part stays."""
    parts = name.split("/")
    return "/".join(parts[min(count, len(parts) - 1) :])


def _spelled(name: str) -> tuple[str, ...]:
    """A name, with the separators of Unix, and without folders; nothing for none."""
    try:
        usable = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:  # half a character, as no file is called
        usable = False
    slashes = name.replace("\\", "/")
    last = slashes.rsplit("/", 1)[-1]
    return (name, slashes, last) if usable and last not in ("", ".", "..") else ()
