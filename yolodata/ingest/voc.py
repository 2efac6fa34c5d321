"""Pascal VOC (`Annotations/*.xml` with `JPEGImages/`) to images and label rows.

Boxes follow the conversion that Ultralytics ships in VOC.yaml: the centre is the half sum of the
corners minus one pixel, width and height are plain differences, objects marked `difficult` and
objects of other classes are dropped. Unlike there, a box without area is left out with a note
instead of being kept with size 0, and a missing `difficult` means 0.
"""

from __future__ import annotations

import os
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping, Sequence
from pathlib import Path

from yolodata.errors import DatasetError
from yolodata.images.formats import IMAGE_SUFFIXES
from yolodata.ingest.sample import SPLITS, RawLabels, Refused, Source, Split

ANNOTATION_FOLDERS = ("Annotations", "annotations")
_IMAGE_FOLDERS = ("JPEGImages", "images")
_LIST_FOLDERS = ("ImageSets/Main", "ImageSets", "splits")


class VocSplit(Split):
    """The images of one split, in the order of their paths, and their XML files."""

    def __init__(
        self, pairs: Mapping[str, Path], unlisted: dict[str, str], classes: Mapping[str, int]
    ) -> None:
        self.paths = sorted(pairs)
        self.unlisted = unlisted
        self._files = [pairs[path] for path in self.paths]
        self._classes = classes

    def raw_labels(self, index: int) -> RawLabels:
        """Gives the rows of image `index`.

        Raises:
            Refused: the XML cannot be used.
        """
        file = self._files[index]
        if not file.is_file():
            return RawLabels(None)
        return _rows(file, self._classes)

    def label_files(self) -> Sequence[str]:
        """Gives the XML files."""
        return [str(file) for file in self._files]


def _rows(file: Path, classes: Mapping[str, int]) -> RawLabels:
    try:
        root = ElementTree.fromstring(file.read_bytes())
        width, height = (float(_text(root, f"size/{side}")) for side in ("width", "height"))
        if width <= 0 or height <= 0:
            raise ValueError(f"the picture is given as {width:g} x {height:g} pixels")
        rows: list[str] = []
        notes: list[str] = []
        difficult = other = 0
        for item in root.iter("object"):
            name = _text(item, "name")
            if name not in classes:
                other += 1
            elif int(item.findtext("difficult") or 0) == 1:
                difficult += 1
            else:
                low_x, high_x, low_y, high_y = (
                    float(_text(item, f"bndbox/{key}")) for key in ("xmin", "xmax", "ymin", "ymax")
                )
                if not (high_x > low_x and high_y > low_y):
                    corners = f"{low_x:g} {low_y:g} {high_x:g} {high_y:g}"
                    notes.append(f"box without area left out: {name} at {corners}")
                    continue
                box = (
                    ((low_x + high_x) / 2.0 - 1) * (1.0 / width),
                    ((low_y + high_y) / 2.0 - 1) * (1.0 / height),
                    (high_x - low_x) * (1.0 / width),
                    (high_y - low_y) * (1.0 / height),
                )
                rows.append(" ".join(str(value) for value in (classes[name], *box)))
    except (ElementTree.ParseError, ValueError) as error:
        raise Refused(f"annotation {file.name} cannot be used: {error}") from error
    if difficult:
        notes.append(f"{difficult} difficult objects dropped")
    if other:
        notes.append(f"{other} objects of other classes dropped")
    return RawLabels("\n".join(rows).encode(), None, tuple(notes))


def _text(root: ElementTree.Element, path: str) -> str:
    text = root.findtext(path)
    if text is None:
        raise ValueError(f"<{path}> is missing")
    return text.strip()


def open_voc(
    source: str | Path,
    wanted: Sequence[str] | None = None,
    *,
    images: str | Path | None = None,
    names: Sequence[str] | None = None,
) -> Source:
    """Reads a Pascal VOC folder.

    Args:
        source: the folder that holds `Annotations` (or `annotations`).
        wanted: splits to read. They come from lists of image names, `ImageSets/Main/SPLIT.txt` or
            `splits/SPLIT.txt`, else from the folders `images/SPLIT`, else everything is "train".
        images: folder of the images, by default `JPEGImages` or `images`.
        names: class names in order; objects of other classes are dropped. By default all names
            that occur in any annotation of the dataset, sorted.

    Raises:
        DatasetError: a folder or a list is missing, or names an image twice.
    """
    root = Path(source)
    notes = _first_folder(root, ANNOTATION_FOLDERS, "annotations")
    folder = Path(images) if images else _first_folder(root, _IMAGE_FOLDERS, "images")
    if not folder.is_dir():
        raise DatasetError(f"The image folder '{folder}' does not exist.")
    folder = folder.resolve()
    found: dict[str, list[str]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix[1:].lower() in IMAGE_SUFFIXES:
            found.setdefault(path.stem, []).append(str(path))
    if not found:
        raise DatasetError(f"{root}: no images in '{folder}'.")
    by_split = _members(root, folder, found)
    absent = [split for split in wanted or () if split not in by_split]
    if absent:
        raise DatasetError(
            f"{root}: no list of images for '{absent[0]}'; there are lists for {list(by_split)}."
        )
    classes = list(names) if names else _names_in(notes)
    if not classes:
        raise DatasetError(f"{root}: no class names: no annotation in '{notes}' holds an object.")
    if len(set(classes)) != len(classes):
        raise DatasetError(f"A class is named twice: {classes}.")
    numbers = {name: k for k, name in enumerate(classes)}
    splits: dict[str, VocSplit] = {}
    for split in wanted or by_split:
        members = by_split[split]
        unlisted = {
            name: f"listed for '{split}', but no such image"
            for name, path in members
            if path is None
        }
        pairs = {path: notes / f"{name}.xml" for name, path in members if path is not None}
        if not pairs:
            raise DatasetError(
                f"{root}: none of the {len(members)} images of '{split}' is in '{folder}'."
            )
        splits[split] = VocSplit(pairs, unlisted, numbers)
    return Source(str(root), "voc", dict(enumerate(classes)), splits, None, None, (str(folder),))


def _first_folder(root: Path, candidates: Sequence[str], what: str) -> Path:
    for name in candidates:
        if (root / name).is_dir():
            return root / name
    raise DatasetError(
        f"Pascal VOC: no {what} in '{root}'; expected a folder {' or '.join(candidates)}."
    )


def _members(
    root: Path, folder: Path, found: Mapping[str, list[str]]
) -> dict[str, list[tuple[str, str | None]]]:
    """Name and path, None where there is no such image, of the images of each split."""
    lists: dict[str, list[tuple[str, str | None]]] = {}
    for place in _LIST_FOLDERS:
        for split in SPLITS:
            file = root / place / f"{split}.txt"
            if split in lists or not file.is_file():
                continue
            words = [
                line.split()[0]
                for line in file.read_text(encoding="utf-8-sig").splitlines()
                if line.strip()
            ]
            names = [Path(word).stem if _is_image(word) else word for word in words]
            for name in names:
                paths = found.get(name, [])
                within = [path for path in paths if _split_folder(path, folder) == split] or paths
                if len(within) > 1:
                    raise DatasetError(
                        f"{file}: '{name}' may be {' or '.join(within)}. Rename one of them."
                    )
                lists.setdefault(split, []).append((name, within[0] if within else None))
    if not lists:
        for name, paths in found.items():
            for path in paths:
                lists.setdefault(_split_folder(path, folder), []).append((name, path))
    return {split: lists[split] for split in SPLITS if split in lists}


def _split_folder(path: str, folder: Path) -> str:
    head = os.path.relpath(path, folder).split(os.sep)[0]
    return head if head in SPLITS else "train"


def _is_image(word: str) -> bool:
    return word.rpartition(".")[-1].lower() in IMAGE_SUFFIXES


def _names_in(folder: Path) -> list[str]:
    names: set[str] = set()
    for file in folder.glob("*.xml"):
        try:
            root = ElementTree.fromstring(file.read_bytes())
        except ElementTree.ParseError:
            continue  # reported when the image is packed
        names.update((item.findtext("name") or "").strip() for item in root.iter("object"))
    return sorted(names - {""})
