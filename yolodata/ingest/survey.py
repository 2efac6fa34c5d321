"""What lies in the folders of a dataset and is packed by none of its splits."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress

from yolodata.images.formats import IMAGE_SUFFIXES
from yolodata.ingest.sample import SPLIT_WORDS
from yolodata.ingest.walk import RealPaths, files_below

_OTHER_PICTURES = frozenset((
    "apng", "arw", "cr2", "cr3", "dcm", "dib", "exr", "gif", "hdr", "hif", "ico", "j2c", "j2k",
    "jfif", "jpe", "jpf", "jpx", "jxl", "nef", "orf", "pam", "pbm", "pcx", "pfm", "pgm", "pnm",
    "ppm", "psd", "qoi", "raf", "raw", "rw2", "sgi", "svg", "tga",
))  # fmt: skip
ORPHAN = "without an image"
"""How the reason ends for which a label file or an annotation is left out."""
_ANNOTATIONS = (".xml", ".json")  # of VOC and labelme; label files have the same names
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


def survey(
    images: Sequence[str],
    folders: Sequence[str],
    lists: Iterable[str],
    label_path: Callable[[str], str],
) -> dict[str, str]:
    """Finds images in no split, pictures of other formats, label files that label no image, and
    files that may be annotations of images without a label file.

    Args:
        images: those of all splits.
        folders: folders to search. The folders beside them that are called like another split are
            searched, too.
        lists: text files that list images; they are no label files.
        label_path: gives the label file of an image.

    Returns:
        path -> reason.
    """
    real = RealPaths()
    listed: dict[str, set[str]] = {}  # folder -> names
    for path in images:
        folder, _, name = path.rpartition(os.sep)
        listed.setdefault(folder, set()).add(name)
    packed: dict[str, set[str]] = {}  # the same, of real folders
    for folder, names_there in listed.items():
        packed.setdefault(real(folder), set()).update(names_there)
    searched = outermost([*folders, *_siblings(folders)])
    found: dict[str, str] = {}
    seen: set[str] = set()
    stems: dict[str, set[str]] = {}  # real folder of labels -> image names without suffix
    others: list[tuple[str, str]] = []  # label files that there may be, other files of their names
    hidden: list[str] = []
    for folder, names in _each_folder(listed, searched, hidden):
        if real(folder) in seen:
            continue
        seen.add(real(folder))
        there = packed.get(real(folder), set())
        labels = _labels_of(folder, label_path)
        known = stems.setdefault(real(labels), set())
        there.intersection_update(names)
        known.update(name.rpartition(".")[0] for name in there)
        for name in names if len(there) < len(names) else ():
            reason = why_no_image(name)
            if reason is None and name not in there and is_image(name):
                known.add(name.rpartition(".")[0])
                reason = "in no folder and no list of a split"
            if reason:
                found[os.path.join(folder, name)] = reason
        others += _others(real(labels), folder, names, known)
        texts = [name for name in names if name.lower().endswith(".txt")]
        if texts and real(labels) != real(folder):
            labelled = {name.rpartition(".")[0] for name in names if is_image(name)}
            for name in texts:
                if name[:-4] in labelled:
                    reason = f"label file beside its image; such are read from '{labels}' alone"
                    found[os.path.join(folder, name)] = reason
    _forget_targets(found, images)
    found |= in_hidden(hidden, set(images) if hidden else ())
    no_labels = {os.path.realpath(file) for file in lists}
    label_folders = outermost([_labels_of(folder, label_path) for folder in searched])
    for folder, names in _each_folder(stems, label_folders):
        known = stems.get(real(folder), set())
        others += _others(real(folder), folder, names, known)
        for name in names:
            if not name.lower().endswith(".txt"):
                continue
            path = os.path.join(folder, name)
            if name[:-4] in known:
                if not name.endswith(".txt"):
                    found[path] = "the suffix of a label file must be .txt in small letters"
                continue
            if not name.lower().startswith(_NO_LABELS) and os.path.realpath(path) not in no_labels:
                found[path] = f"label file {ORPHAN}"
    reason = "of an image without a label file; if it is an annotation, it has to be converted"
    return found | {path: reason for text, path in others if not os.path.isfile(text)}


def _others(
    labels: str, folder: str, names: Iterable[str], images: Collection[str]
) -> list[tuple[str, str]]:
    """Files in a folder that may be annotations of images, each behind what the image's label file
    would be.
    """
    return [
        (os.path.join(labels, f"{name.rpartition('.')[0]}.txt"), os.path.join(folder, name))
        for name in names
        if name.lower().endswith(_ANNOTATIONS) and name.rpartition(".")[0] in images
    ]


def in_hidden(folders: Sequence[str], images: Collection[str] = ()) -> dict[str, str]:
    """Finds pictures in hidden folders and below them that are none of some images.

    Returns:
        path -> reason.
    """
    found: dict[str, str] = {}
    todo = [*folders]
    while todo:
        for here, names in files_below(todo.pop(), todo):
            pictures = (name for name in names if is_image(name) or why_no_image(name))
            paths = (os.path.join(here, name) for name in pictures)
            reason = "in a hidden folder; such are not read"
            found |= {path: reason for path in paths if path not in images}
    return found


def unnamed(
    images: Iterable[str], folders: Iterable[str], trees: Sequence[str], reason: str
) -> dict[str, str]:
    """Finds pictures that are none of these images.

    Args:
        images: paths of them.
        folders: folders to search, without those below.
        trees: folders to search with all below.
        reason: why they are left out.

    Returns:
        path -> `reason`, or why such a picture is never read.
    """
    real = RealPaths()
    known = {os.path.join(real(folder), name) for folder, name in map(os.path.split, images)}
    found: dict[str, str] = {}
    hidden: list[str] = []
    for folder, names in _each_folder(folders, outermost(trees), hidden):
        for name in names:
            path, never = os.path.join(real(folder), name), why_no_image(name)
            if path not in known and (never or is_image(name)):
                found[path] = never or reason
    _forget_targets(found, known)
    return found | in_hidden(hidden, known)


def _forget_targets(found: dict[str, str], images: Iterable[str]) -> None:
    """Takes out pictures to which images are links: they are packed, under the names of those."""
    if not found:
        return
    known = set(images)
    for folder in {os.path.dirname(path) for path in known}:
        with suppress(OSError), os.scandir(folder) as entries:  # it knows links without a look
            for entry in entries:
                if entry.is_symlink() and entry.path in known:
                    found.pop(os.path.realpath(entry.path), None)


def _each_folder(
    folders: Iterable[str], trees: Iterable[str], hidden: list[str] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Folders, and all below others, with the names of their files; some more than once.

    Hidden folders are added to `hidden`.
    """
    for tree in trees:
        yield from files_below(tree, hidden)
    for folder in folders:
        if not any(_within(folder, tree) for tree in trees):
            yield folder, next(files_below(folder), ("", []))[1]


def outermost(folders: Sequence[str]) -> list[str]:
    """Gives the folders that are in no other one of them."""
    once = list(dict.fromkeys(folders))
    return [folder for folder in once if not any(_within(folder, other) for other in once)]


def _within(folder: str, other: str) -> bool:
    return folder.startswith(f"{other}{os.sep}")


def _siblings(folders: Sequence[str]) -> Iterator[str]:
    """Folders that exist and are called like those of a split, but for the word of the split."""
    for folder in folders:
        parts = folder.split(os.sep)
        for k in range(max(1, len(parts) - 2), len(parts)):  # images/train, train/images
            for word in SPLIT_WORDS if parts[k] in SPLIT_WORDS else ():
                other = os.sep.join((*parts[:k], word, *parts[k + 1 :]))
                if os.path.isdir(other):
                    yield other


def _labels_of(folder: str, label_path: Callable[[str], str]) -> str:
    return os.path.dirname(label_path(os.path.join(folder, "x.jpg")))


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
