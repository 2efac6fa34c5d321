"""Lists of images in a Pascal VOC folder: which image belongs to which split."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from yolodata.errors import DatasetError
from yolodata.ingest.limits import PATH_LENGTH, shortened
from yolodata.ingest.sample import SPLIT_WORDS
from yolodata.ingest.split_names import split_of_folder, splits_said
from yolodata.ingest.survey import is_image, some, suffix
from yolodata.ingest.text import read_list
from yolodata.shards.format import SPLITS

_LIST_FOLDERS = ("ImageSets/Main", "ImageSets", "splits", ".", "Annotations", "annotations")
_BOTH = {"trainval": "trainval", "train_val": "trainval"}
_YEARS = re.compile(r"(?:voc)?_?((?:19|20)\d\d)_?([a-z_]+)|([a-z_]+?)_?((?:19|20)\d\d)")


@dataclass
class Membership:
    """What lists say.

    Attributes:
        images: split -> relative paths of its images, in the order of the lists, each once.
        absent: split -> names for which there is no image, or more than one -> reason.
        notes: how splits were made of lists, and what lists repeat.
        files: the lists that were read.
    """

    images: dict[str, list[str]] = field(default_factory=dict)
    absent: dict[str, dict[str, str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)


def read_lists(root: Path, images: Sequence[str]) -> Membership | None:
    """Reads the lists that are called like a split: `train.txt`, `val.txt`, `trainval.txt`, ….

    Lists of single classes (`dog_train.txt`) are none of them. Where there is no list of such a
    name, those with years count (`test2007.txt`), all together. Without a list for train or for
    val, `trainval` gives what the other one has not.

    Args:
        root: the dataset.
        images: paths relative to the folder of images.

    Returns:
        None where there are no such lists.

    Raises:
        DatasetError: a list is no text, all are empty, or two lists for one split differ.
    """
    files, yearly = _list_files(root)
    if not files and not yearly:
        return None
    every = (file for lists in (files, yearly) for many in lists.values() for file in many)
    found = Membership(files=list(every))
    by_stem: dict[str, list[str]] = {}
    for path in images:
        by_stem.setdefault(Path(path).stem, []).append(path)
    for name in (*SPLITS, "trainval"):
        lines = _agreed(files.get(name, []), name, found)
        years = [] if name in files else yearly.get(name, [])
        for file in years:
            lines = list(dict.fromkeys([*lines, *_agreed([file], name, found)]))
        if len(years) > 1:
            found.notes.append(f"{name} is what {some([str(f) for f in years])} have together")
        if not lines:
            continue
        chosen: dict[str, None] = {}
        for line in lines:
            paths = _matching(line, by_stem, name)
            if len(paths) == 1:
                chosen[paths[0]] = None
            else:
                reason = f"may be {' or '.join(paths)}; rename one" if paths else "no such image"
                line = line if len(line) <= PATH_LENGTH else shortened(line)
                found.absent.setdefault(name, {})[line] = f"listed for '{name}', but {reason}"
        found.images[name] = list(chosen)
    if not found.images:
        raise DatasetError(
            f"{root}: the lists of images are empty: {', '.join(map(str, found.files))}; write one "
            "name in each line, or remove the lists: then folders give the splits"
        )
    _use_both(found)
    return found


def unread_lists(root: Path, images: Sequence[str]) -> list[str]:
    """Says, in a sentence, which files may be lists of splits, and are not read; nothing if none.

    Args:
        root: the dataset, of which no list was read.
        images: paths of its images; text files of their names are label files.
    """
    below = root / "ImageSets"
    deep = sorted(folder.name for folder in below.glob("*") if folder.is_dir())
    places = dict.fromkeys((*_LIST_FOLDERS, *(f"{below.name}/{name}" for name in deep)))
    stems = {Path(path).stem for path in images}
    found = [
        str(file)
        for place in places
        for file in sorted((root / place).glob("*.[tT][xX][tT]"))
        if splits_said(file.stem) and file.stem not in stems and not file.name.startswith(".")
    ]
    if not found:
        return []
    return [
        f"{len(found)} lists, as {some(found)}, are not read; lists of splits are called "
        "train.txt, val.txt, test.txt or trainval.txt, and lie in "
        f"{', '.join(_LIST_FOLDERS[:3])} or the dataset itself"
    ]


def _list_files(root: Path) -> tuple[dict[str, list[Path]], dict[str, list[Path]]]:
    """Lists by what they are called, and those whose names have a year, too."""
    words = SPLIT_WORDS | _BOTH
    files: dict[str, list[Path]] = {}
    yearly: dict[str, list[Path]] = {}
    for place in _LIST_FOLDERS:
        names = os.listdir(root / place) if (root / place).is_dir() else ()
        for name in sorted(name for name in names if name.lower().endswith(".txt")):
            stem = name[:-4].lower()
            year = _YEARS.fullmatch(stem)
            word = words.get((year[2] or year[3]) if year else stem)
            if word:
                lists = yearly if year else files
                lists.setdefault(word, []).append(root / place / name)
    return files, yearly


def _agreed(files: Sequence[Path], split: str, found: Membership) -> list[str]:
    """The lines of a split's lists, which must be the same; each once."""
    lines = [[line.strip() for line in read_list(file) if line.strip()] for file in files]
    for file, named in zip(files, lines, strict=True):
        if not named:
            found.notes.append(f"the list '{file}' is empty")
        elif len(set(named)) < len(named):
            found.notes.append(f"{len(named) - len(set(named))} lines of '{file}' are repeated")
    filled = [(file, named) for file, named in zip(files, lines, strict=True) if named]
    for file, named in filled[1:]:
        if set(named) != set(filled[0][1]):
            raise DatasetError(
                f"{file}: differs from '{filled[0][0]}', and both are lists for '{split}'; remove "
                "or rename one of them"
            )
    return list(dict.fromkeys(filled[0][1])) if filled else []


def _matching(line: str, by_stem: Mapping[str, list[str]], split: str) -> list[str]:
    """Images that a line may mean: a name or a path, with or without suffix, and what follows.

    The suffix may be that of the annotation.
    """
    for word in (line, line.split()[0]):
        path = word.replace("\\", "/")
        name = path.rpartition(".")[0] if is_image(path) or suffix(path) == "xml" else path
        paths = by_stem.get(name.rpartition("/")[2], [])
        narrower = (
            [other for other in paths if f"/{path}".endswith(f"/{other}")],
            [other for other in paths if f"/{other}".endswith(f"/{path}")],
            [other for other in paths if f"/{other}".rpartition(".")[0].endswith(f"/{name}")],
            [other for other in paths if split_folder(other) == split],
        )
        for fewer in narrower if len(paths) > 1 else ():
            paths = fewer or paths
        if paths:
            return paths
    return []


def split_folder(path: str) -> str | None:
    """Gives the split after which a folder of a relative path is named, if one is."""
    said = (split_of_folder(folder) for folder in path.split(os.sep)[:-1])
    return next((split for split in said if split), None)


def _use_both(found: Membership) -> None:
    """Takes the images of `trainval` into train or val, where one of them has no list."""
    both = found.images.pop("trainval", None)
    absent = found.absent.pop("trainval", {})
    if both is None:
        return
    missing = next((split for split in ("train", "val") if split not in found.images), None)
    if missing is None:
        return
    other = "val" if missing == "train" else "train"
    known = {*found.images.get(other, ()), *found.absent.get(other, ())}
    rest = [path for path in both if path not in known]
    reasons = {line: reason for line, reason in absent.items() if line not in known}
    if not rest and not reasons:
        return
    less = f" without {other}" if other in found.images else ""
    found.notes.append(f"{missing} is what the list trainval has{less}")
    found.images[missing], found.absent[missing] = rest, reasons
    found.images = {split: found.images[split] for split in SPLITS if split in found.images}
