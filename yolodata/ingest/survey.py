"""What lies in the folders of a dataset and is packed by none of its splits."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache

from yolodata.images.formats import IMAGE_SUFFIXES
from yolodata.ingest.sample import SPLIT_WORDS

_OTHER_PICTURES = frozenset((
    "arw", "cr2", "cr3", "exr", "gif", "hdr", "ico", "j2k", "jfif", "jpe", "jpx", "jxl", "nef",
    "pbm", "pgm", "pnm", "ppm", "psd", "raw", "svg", "tga",
))  # fmt: skip
_NO_LABELS = ("classes.", "obj.", "predefined_classes.", "readme.", "license", "requirements.")


def suffix(path: str) -> str:
    """Gives what stands behind the last dot, in lower case; all of the path without one."""
    return path.rpartition(".")[-1].lower()


def is_image(path: str) -> bool:
    """Whether the name of a file is that of an image that is read."""
    return suffix(path) in IMAGE_SUFFIXES


def why_no_image(name: str) -> str | None:
    """Says why a picture in a folder of images is none to upstream; None if it is no picture."""
    if suffix(name) in _OTHER_PICTURES:
        return f"pictures with the suffix .{suffix(name)} are not read"
    if name.startswith(".") and is_image(name):
        return "hidden files are not read"
    return None


def files_below(folder: str) -> Iterator[tuple[str, list[str]]]:
    """Gives each folder below `folder`, itself first, with the names of its files, all sorted.

    Links are followed, each folder is given once, hidden ones not at all.
    """
    seen: set[str] = set()
    for here, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(here)
        if real in seen:
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield here, sorted(names)


def survey(
    images: Sequence[str],
    folders: Sequence[str],
    lists: Iterable[str],
    label_path: Callable[[str], str],
) -> dict[str, str]:
    """Finds images in no split, pictures of other formats and label files without an image.

    Args:
        images: those of all splits.
        folders: folders to search. The folders beside them that are called like another split are
            searched, too.
        lists: text files that list images; they are no label files.
        label_path: gives the label file of an image.

    Returns:
        path -> reason.
    """
    real = cache(os.path.realpath)
    listed = {(real(os.path.dirname(path)), os.path.basename(path)) for path in images}
    found: dict[str, str] = {}
    seen: set[str] = set()
    stems: dict[str, set[str]] = {}  # real folder of labels -> image names without suffix
    for folder, names in _image_folders(images, folders):
        if real(folder) in seen:
            continue
        seen.add(real(folder))
        known = stems.setdefault(real(_labels_of(folder, label_path)), set())
        for name in names:
            path = os.path.join(folder, name)
            if reason := why_no_image(name):
                found[path] = reason
            elif is_image(name):
                known.add(name.rpartition(".")[0])
                if (real(folder), name) not in listed:
                    found[path] = "in no folder and no list of a split"
    no_labels = {os.path.realpath(file) for file in lists}
    for folder, names in _label_folders(stems, folders, label_path):
        for name in names:
            path = os.path.join(folder, name)
            if (
                suffix(name) == "txt"
                and name.rpartition(".")[0] not in stems.get(real(folder), ())
                and not name.lower().startswith(_NO_LABELS)
                and os.path.realpath(path) not in no_labels
            ):
                found[path] = "label file without an image"
    return found


def _image_folders(
    images: Sequence[str], folders: Sequence[str]
) -> Iterator[tuple[str, list[str]]]:
    """Folders in which images may lie, with the names of their files; some more than once."""
    for folder in dict.fromkeys(os.path.dirname(path) for path in images):
        yield folder, _names(folder)
    for folder in (*folders, *_siblings(folders)):
        yield from files_below(folder)


def _siblings(folders: Sequence[str]) -> Iterator[str]:
    """Folders that exist and are called like those of a split, but for the word of the split."""
    for folder in folders:
        parts = folder.split(os.sep)
        for k in range(max(1, len(parts) - 2), len(parts)):  # images/train, train/images
            for word in SPLIT_WORDS if parts[k] in SPLIT_WORDS else ():
                other = os.sep.join((*parts[:k], word, *parts[k + 1 :]))
                if os.path.isdir(other):
                    yield other


def _label_folders(
    stems: Iterable[str], folders: Iterable[str], label_path: Callable[[str], str]
) -> Iterator[tuple[str, list[str]]]:
    seen = set()
    for folder in folders:
        for here, names in files_below(_labels_of(folder, label_path)):
            seen.add(os.path.realpath(here))
            yield here, names
    for here in stems:
        if here not in seen:
            yield here, _names(here)


def _labels_of(folder: str, label_path: Callable[[str], str]) -> str:
    return os.path.dirname(label_path(os.path.join(folder, "x.jpg")))


def _names(folder: str) -> list[str]:
    return next(iter(files_below(folder)), ("", []))[1]


def repetitions(images: Mapping[str, Sequence[str]]) -> list[str]:
    """Says which images a split has more than once."""
    notes = []
    for split, paths in images.items():
        twice = [path for path, count in Counter(paths).items() if count > 1]
        if twice:
            notes.append(
                f"{len(twice)} images are listed more than once in {split}, and packed as often: "
                f"{some(twice)}"
            )
    return notes


def some(paths: Sequence[str], count: int = 3) -> str:
    """Names the first of some files."""
    return ", ".join(paths[:count]) + (", …" if len(paths) > count else "")
