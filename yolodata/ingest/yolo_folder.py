"""YOLO folders without a YAML: exports of Label Studio, CVAT, Roboflow (Darknet) and labelImg.

A file of class names takes the YAML's place. Splits are what Darknet's `*.data` file says, else
lists that are called like a split, else folders that are, else all is "train", or what the folder
itself is called like.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from yolodata.errors import DatasetError
from yolodata.files import resolved
from yolodata.ingest.limits import checked_names, shortened
from yolodata.ingest.sample import SPLIT_WORDS, Source
from yolodata.ingest.split_names import split_of_folder
from yolodata.ingest.survey import is_image, outermost
from yolodata.ingest.text import read_list, read_text
from yolodata.ingest.walk import files_below, is_hidden
from yolodata.ingest.yolo import listed_source
from yolodata.shards.format import SPLITS

_NAME_FILES = (
    "classes.txt", "obj.names", "*.names", "*/classes.txt", "*/*/classes.txt", "data/*.names",
    "*/_darknet.labels",
)  # fmt: skip
_PARTS = ("labels", "images", "data")  # folders, besides those of splits, in which names may be
_CVAT = re.compile("^obj_(.+)_data$")  # what CVAT calls the folder of a split


def names_files(root: Path) -> list[Path]:
    """Gives the files of class names of a YOLO folder without a YAML."""
    found = (file for pattern in _NAME_FILES for file in sorted(root.glob(pattern)))
    ours = (file for file in found if file.is_file() and not is_hidden(file, root))
    return list(dict.fromkeys(file for file in ours if _in_parts(file.relative_to(root))))


def _in_parts(file: Path) -> bool:
    """Whether a file lies in a folder and its parts, and not in another dataset below it."""
    folders = file.parts[:-1]
    return all(name.lower() in _PARTS or split_of_folder(name) for name in folders)


def open_yolo_folder(root: Path, wanted: Sequence[str] | None = None) -> Source:
    """Lists the images of a YOLO folder without a YAML.

    Args:
        root: the folder.
        wanted: splits to read; all that are there by default.

    Raises:
        DatasetError: there are no names, no images, or not those that were asked for.
    """
    root = resolved(root)
    files = names_files(root)
    if not files:
        raise DatasetError(
            f"{root}: has neither a YAML nor a file of class names; write classes.txt, one a line"
        )
    names = dict(enumerate(checked_names(read_names(files), files[0])))
    notes = [f"no YAML; class names are those of '{files[0]}'"]
    entries = _data_file(root, notes) or _lists(root, files[0].parent) or _folders(root)
    if not entries:
        raise DatasetError(
            f"{root}: has class names ('{files[0].name}'), but no images, which Label Studio and "
            "CVAT export only when told to; put them into 'images', each named like its file in "
            "'labels', and run the command again"
        )
    missing = [split for split in wanted or () if split not in entries]
    if missing:
        raise DatasetError(
            f"{root}: no '{missing[0]}'; there are {list(entries)}; name one of them"
        )
    bases = (root, root.parent)
    return listed_source(
        str(root), names, entries, wanted, notes, bases=bases, searched=[str(root)]
    )


def read_names(files: Sequence[Path]) -> list[str]:
    """Reads class names, one a line, of files that have to agree.

    Raises:
        DatasetError: one cannot be read, is empty, has a blank line, or differs.
    """
    found: list[list[str]] = []
    for file in files:
        lines = [line.strip() for line in read_text(file, "list of class names").splitlines()]
        while lines and not lines[-1]:
            lines.pop()
        if not lines or not all(lines):
            what = f"line {lines.index('') + 1} is blank" if lines else "it is empty"
            raise DatasetError(f"{file}: must hold one class name a line, but {what}; correct it")
        if found and lines != found[0]:
            raise DatasetError(
                f"{file}: must hold the class names of '{files[0]}', {found[0][:9]}, got "
                f"{lines[:9]}; labels are numbers of one list: renumber them, and remove the other"
            )
        found.append(lines)
    return found[0]


def _data_file(root: Path, notes: list[str]) -> dict[str, list[str]]:
    """What Darknet's `obj.data` names: lines of `train = …` and `valid = …`."""
    for file in sorted((*root.glob("*.data"), *root.glob("data/*.data"))):
        if is_hidden(file, root):
            continue
        entries: dict[str, list[str]] = {}
        for line in read_text(file, "Darknet data file").splitlines():
            key, _, value = (part.strip() for part in line.partition("="))
            if key not in SPLIT_WORDS or not value:
                continue
            places = (root, root.parent, file.parent)
            tails = (value, value.partition("/")[2])
            paths = [place / tail for place in places for tail in tails if tail]
            there = [path for path in paths if os.path.exists(path)]
            if there:
                entries[SPLIT_WORDS[key]] = [str(resolved(there[0]))]
            else:
                notes.append(f"{shortened(value)}, which '{file}' names for {key}, does not exist")
        if entries:
            return {split: entries[split] for split in SPLITS if split in entries}
    return {}


def _lists(root: Path, beside: Path) -> dict[str, list[str]]:
    entries: dict[str, list[str]] = {}
    for folder in dict.fromkeys((root, root / "data", beside)):
        for file in sorted(folder.glob("*.txt")):
            split = SPLIT_WORDS.get(file.stem.lower())
            if split and any(map(is_image, read_list(file))):
                entries.setdefault(split, []).append(str(file))
    return {split: entries[split] for split in SPLITS if split in entries}


def _folders(root: Path) -> dict[str, list[str]]:
    entries: dict[str, list[str]] = {}
    for here, names in files_below(str(root)):
        if any(is_image(name) for name in names):
            folders = os.path.relpath(here, root).split(os.sep)
            said = (split_of_folder(_CVAT.sub(r"\1", folder)) for folder in folders)
            entries.setdefault(next(filter(None, said), ""), []).append(here)
    if entries.keys() - {""}:
        return {split: outermost(entries[split]) for split in SPLITS if split in entries}
    return {split_of_folder(root.name) or "train": [str(root)]} if entries else {}
