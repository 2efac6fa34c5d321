"""Pascal VOC folders: which image has which XML file, and which split both belong to.

Note [whose annotation]. An XML file labels one image. An image has the one of its own name: in the
same place below the folder of annotations (or in its own folder, where there is none), else in the
folder of its split there, else directly in it, else the only one of this name if the image lies in
no folder of a split. The earlier rule wins. Where several images come to the same file by the same
rule, the name that is written in it decides, and if it does not, all of them are left out: labels
on the wrong picture are worse than none.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from yolodata.errors import DatasetError
from yolodata.files import resolved
from yolodata.ingest.limits import CLASSES, checked_names
from yolodata.ingest.sample import RawLabels, Refused, Source, Split
from yolodata.ingest.split_names import split_of_folder
from yolodata.ingest.survey import (
    ORPHAN,
    in_hidden,
    is_image,
    repetitions,
    some,
    why_no_image,
)
from yolodata.ingest.unknown import first_class
from yolodata.ingest.voc_lists import Membership, read_lists, split_folder, unread_lists
from yolodata.ingest.voc_xml import annotated_name, class_names, label_rows, read_annotation
from yolodata.ingest.walk import files_below
from yolodata.ingest.yolo import label_path
from yolodata.shards.format import SPLITS

_ANNOTATIONS = "Annotations"
_IMAGES = ("JPEGImages", "images")
_NAMED = 3  # files that a message names
_CVAT = "annotations.xml"  # in CVAT's own format, all in one file


class VocSplit(Split):
    """The images of one split, in the order of their paths, and their XML files."""

    def __init__(
        self,
        files: Mapping[str, Path | str | None],
        unlisted: dict[str, str],
        classes: Mapping[str, int],
    ) -> None:
        self.paths = sorted(files)
        self.unlisted = unlisted
        self._files = [files[path] for path in self.paths]
        self._classes = classes

    def raw_labels(self, index: int) -> RawLabels:
        """Gives the rows of image `index`.

        Raises:
            OSError: the XML cannot be read.
            Refused: it cannot be used, or may be that of another image.
        """
        file = self._files[index]
        if isinstance(file, str):
            raise Refused(file)
        if file is None:
            if any(first_class(labels) is not None for labels in _labels_of(self.paths[index])):
                raise Refused(
                    "no XML, but objects in a label file of YOLO, which is not read where others "
                    "have XML; write XML for it, or read label files: --format yolo"
                )
            return RawLabels(None, None, ("no annotation file, so taken as background",))
        return label_rows(read_annotation(file), file, self._classes)

    def label_files(self) -> Sequence[str]:
        """Gives the XML files; that of an image without one is called like it and absent."""
        return [
            str(file) if isinstance(file, Path) else f"{path.rpartition('.')[0]}.xml"
            for path, file in zip(self.paths, self._files, strict=True)
        ]


@dataclass(frozen=True)
class _Files:
    """What lies in the folders of a dataset.

    Attributes:
        folder: that of the images.
        images: relative to it, sorted.
        others: other pictures there, as paths -> why they are not read.
        annotations: XML files by their path relative to the folder of annotations, without suffix.
    """

    folder: Path
    images: list[str]
    others: dict[str, str]
    annotations: dict[str, Path]


def open_voc(
    source: str | Path,
    wanted: Sequence[str] | None = None,
    *,
    images: str | Path | None = None,
    names: Sequence[str] | None = None,
) -> Source:
    """Reads a Pascal VOC folder.

    Args:
        source: the folder that holds `Annotations` (or `annotations`), or XML files.
        wanted: splits to read. They come from lists of image names (`train.txt`, `val.txt`,
            `test.txt`, `trainval.txt` in `ImageSets/Main`, `ImageSets`, `splits`, `source` or the
            folder of the annotations), else from folders that are called like a split, else
            everything is "train", or what `source` is called like.
        images: folder of the images, by default `JPEGImages` or `images`, or where the XML files
            are.
        names: class names in order; objects of other classes are dropped. By default all names
            that occur in any annotation of the dataset, sorted.

    Raises:
        DatasetError: a folder or a list is missing or cannot be used, or there are no classes.
    """
    root = Path(source)
    files = _find(root, Path(images) if images else None)
    whose = _annotations_of(files)
    members = read_lists(root, files.images)
    if members is None:
        members = _members_by_folder(files, whose, split_of_folder(resolved(root).name) or "train")
        members.notes += unread_lists(root, files.images)
    missing = [split for split in wanted or () if split not in members.images]
    if missing:
        there = "lists of images" if members.files else "folders"
        raise DatasetError(
            f"{root}: no images for '{missing[0]}'; there are {there} for {list(members.images)}"
        )
    numbers = {name: k for k, name in enumerate(_classes(root, files, names))}
    splits = {
        split: VocSplit(
            {str(files.folder / path): whose[path] for path in paths},
            members.absent.get(split, {}),
            numbers,
        )
        for split, paths in members.images.items()
        if paths
    }
    empty = [split for split in members.images if split not in splits]
    for split in empty:
        if not splits or split in (wanted or ()):
            absent = members.absent[split]
            raise DatasetError(
                f"{root}: none of the {len(absent)} images of '{split}' is in '{files.folder}', as "
                f"'{next(iter(absent))}'; give their folder with --images"
            )
    asked = {split: splits[split] for split in wanted or splits}
    notes = [*members.notes]
    notes += [f"none of the images that are listed for {split} is there" for split in empty]
    return Source(
        str(root),
        "voc",
        {k: name for name, k in numbers.items()},
        asked,
        folders=(str(files.folder),),
        left_out=_left_out(files, members, whose, empty),
        notes=(*notes, *repetitions({split: images.paths for split, images in asked.items()})),
    )


def _find(root: Path, images: Path | None) -> _Files:
    if not root.is_dir():
        raise DatasetError(f"{root}: is no folder; give that of a dataset of Pascal VOC")
    notes = named_folder(root, _ANNOTATIONS)
    folder = images or (named_folder(root, *_IMAGES) if notes else root)
    if notes is None:
        _refuse_several(root)
    if folder is None:
        raise DatasetError(
            f"{root}: no images of Pascal VOC, which lie in a folder {' or '.join(_IMAGES)}; "
            "give their folder with --images"
        )
    folder = resolved(folder)
    places = [notes] if notes else [folder, root]  # two where the images lie elsewhere
    found_in = (_annotations_in(resolved(place)) for place in places)
    annotations = next(filter(None, found_in), {})
    if not annotations:
        raise DatasetError(
            f"{root}: no annotations of Pascal VOC; put XML files into it, into a folder "
            f"{_ANNOTATIONS}, or beside the images"
        )
    found, others = _pictures(folder)
    if not found:
        raise DatasetError(f"{root}: no images in '{folder}'; give their folder with --images")
    for other in (named_folder(root, name) for name in _IMAGES if images is None):
        if other and not resolved(other).is_relative_to(folder):
            reason = f"in a folder beside '{folder}'; see --images"
            others |= {str(other / path): reason for path in _pictures(other)[0]}
    return _Files(folder, sorted(found), others, annotations)


def _annotations_in(folder: Path) -> dict[str, Path]:
    """XML files by their path relative to a folder, without suffix."""
    return {
        os.path.relpath(path, folder)[:-4]: Path(path)
        for here, names in files_below(str(folder))
        # a folder may be called so
        for path in (here, *(os.path.join(here, name) for name in names))
        if path.lower().endswith(".xml") and not os.path.basename(path).startswith(".")
    }


def _pictures(folder: Path) -> tuple[list[str], dict[str, str]]:
    """Relative paths of the images in a folder; paths of other pictures -> why they are not."""
    found: list[str] = []
    others: dict[str, str] = {}
    hidden: list[str] = []
    for here, names in files_below(str(folder), hidden):
        for name in names:
            path = os.path.join(here, name)
            if reason := why_no_image(name):
                others[path] = reason
            elif is_image(name):
                found.append(os.path.relpath(path, folder))
    return found, others | in_hidden(hidden)


def named_folder(root: Path, *names: str) -> Path | None:
    """Gives the folder in `root` that has the first of some names that one has, in any case."""
    with os.scandir(root) as entries:
        there = {entry.name.lower(): entry.path for entry in entries if os.path.isdir(entry.path)}
    found = (there[name.lower()] for name in names if name.lower() in there)
    return next(map(Path, found), None)


def _refuse_several(root: Path) -> None:
    """Refuses a folder of datasets, as VOCdevkit is one; folders of splits are none.

    Raises:
        DatasetError: names them.
    """
    several = [
        path
        for path in sorted(root.iterdir())
        if path.is_dir() and split_of_folder(path.name) is None and named_folder(path, _ANNOTATIONS)
    ]
    if several:
        raise DatasetError(
            f"{root}: holds Pascal VOC datasets: {some([str(path) for path in several])}; give "
            f"the path of one: yolodata shard {shlex.quote(str(several[0]))} OUT"
        )


def has_annotations(root: Path) -> list[Path]:
    """Gives a first XML annotation of a Pascal VOC folder, or none.

    They lie below `Annotations`, or beside images in the folder or in folders of splits.
    """
    splits = [path for path in sorted(root.iterdir()) if split_of_folder(path.name)]
    for place in (root, *(path for path in splits if path.is_dir())):
        notes = named_folder(place, _ANNOTATIONS)
        images = named_folder(place, *_IMAGES)
        looks = [folder.glob("*.[xX][mM][lL]") for folder in (place, images) if folder]
        looks += [notes.rglob("*.[xX][mM][lL]")] if notes else []
        for file in chain.from_iterable(looks[::-1]):
            if file.name != _CVAT:
                return [file]
    return []


def _classes(root: Path, files: _Files, given: Sequence[str] | None) -> list[str]:
    if given and len(set(given)) != len(given):
        raise DatasetError(f"names must name each class once, got {list(given)}")
    names: set[str] = set()
    broken: list[str] = []
    for file in files.annotations.values():
        try:
            names |= class_names(read_annotation(file))
        except (Refused, OSError) as error:  # reported when the image is packed
            broken.append(str(error))
        if len(names) > CLASSES or not names.isdisjoint(given or ()):
            break
    if given and names and names.isdisjoint(given):
        raise DatasetError(
            f"{root}: no object has one of the names {list(given)}; there are {sorted(names)[:10]}"
        )
    if given:
        return checked_names(given, root)
    if not names:
        why = f"; {len(broken)} cannot be read, as: {broken[0]}" if broken else ""
        raise DatasetError(
            f"{root}: no class names, because no annotation holds an object{why}; give --names"
        )
    return checked_names(sorted(names), root)


def _annotations_of(files: _Files) -> dict[str, Path | str | None]:
    """The XML file of each image, None without one, or why it is not known which it is."""
    by_stem: dict[str, _Namesakes] = {}
    for key in files.annotations:
        by_stem.setdefault(os.path.basename(key), _Namesakes()).add(key)
    whose: dict[str, Path | str | None] = {}
    claims: dict[str, list[tuple[int, str]]] = {}  # key of an annotation -> rule and image
    for path in files.images:
        stem = os.path.basename(path).rpartition(".")[0]
        rule, keys = _first_rule(path, by_stem[stem]) if stem in by_stem else (0, [])
        if len(keys) == 1:
            claims.setdefault(keys[0], []).append((rule, path))
        several = some([str(files.annotations[key]) for key in keys[: _NAMED + 1]])
        whose[path] = f"several annotations may be its own: {several}" if keys else None
    for key, images in claims.items():
        file = files.annotations[key]
        first = min(rule for rule, _ in images)
        best = [path for rule, path in images if rule == first]
        if len(best) > 1:
            named = _named_in(file)
            best = [path for path in best if os.path.basename(path) == named]
        for _, path in images:
            others = islice((other for _, other in images if other != path), _NAMED + 1)
            whose[path] = (
                file
                if best == [path]
                else f"annotation {file.name} may be that of "
                f"{some([str(files.folder / other) for other in others])}; put annotations into "
                "folders like those of the images, or give images different names"
            )
    return whose


class _Namesakes:
    """Annotations of one name, by what the rules ask for; there may be as many as images."""

    def __init__(self) -> None:
        self.keys: list[str] = []
        self.by_folder: dict[str, list[str]] = {}  # in lower case
        self.by_split: dict[str | None, list[str]] = {}

    def add(self, key: str) -> None:
        """Takes in an annotation."""
        self.keys.append(key)
        self.by_folder.setdefault(os.path.dirname(key).lower(), []).append(key)
        self.by_split.setdefault(split_folder(key), []).append(key)


def _first_rule(path: str, candidates: _Namesakes) -> tuple[int, list[str]]:
    """The annotations of this name that the first rule finds which finds any, and its number."""
    stem, split = path.rpartition(".")[0], split_folder(path)
    folder, name = os.path.split(stem)
    head, last = os.path.split(folder)
    same = [key for key in candidates.by_folder.get(folder.lower(), []) if key == stem]
    if last.lower() in map(str.lower, _IMAGES):
        same += candidates.by_folder.get(os.path.join(head, _ANNOTATIONS).lower(), [])
    rules = (
        same,
        candidates.by_split.get(split, []) if split else [],
        [key for key in candidates.by_folder.get("", []) if key == name],
        candidates.keys if split is None else [],
    )
    return next(((rule, keys) for rule, keys in enumerate(rules) if keys), (0, []))


def _named_in(file: Path) -> str:
    try:
        return annotated_name(read_annotation(file))
    except (Refused, OSError):
        return ""


def _labels_of(path: str) -> tuple[str, str]:
    """Where Ultralytics and Darknet look for the label file of an image."""
    images = path.replace(f"{os.sep}{_IMAGES[0]}{os.sep}", f"{os.sep}images{os.sep}")
    return f"{path.rpartition('.')[0]}.txt", label_path(images)


def _members_by_folder(
    files: _Files, whose: Mapping[str, Path | str | None], default: str
) -> Membership:
    keys = {file: key for key, file in files.annotations.items()}
    by_split: dict[str, list[str]] = {}
    for path in files.images:
        file = whose[path]
        key = keys[file] if isinstance(file, Path) else ""
        by_split.setdefault(split_folder(path) or split_folder(key) or default, []).append(path)
    return Membership({split: by_split[split] for split in SPLITS if split in by_split})


def _left_out(
    files: _Files,
    members: Membership,
    whose: Mapping[str, Path | str | None],
    empty: Sequence[str],
) -> dict[str, str]:
    """Files that belong to no split, and what is listed for splits of which nothing is there."""
    listed = {path for paths in members.images.values() for path in paths}
    stems = {os.path.basename(path).rpartition(".")[0] for path in files.images}
    used = {file for file in whose.values() if isinstance(file, Path)}
    found = {
        str(files.folder / path): "in none of the lists of images"
        for path in files.images
        if path not in listed
    }
    found |= files.others
    for key, file in files.annotations.items():
        if os.path.basename(key) not in stems:
            found[str(file)] = f"annotation {ORPHAN}"
        elif file not in used:
            found[str(file)] = "annotation of no image in particular"
    for split in empty:
        found |= members.absent[split]
    return found
