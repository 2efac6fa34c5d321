"""One Pascal VOC annotation: an XML file to label rows.

Boxes follow the conversion that Ultralytics ships in VOC.yaml: the centre is the half sum of the
corners minus one pixel, width and height are plain differences, objects marked `difficult` and
objects of other classes are dropped. Unlike there, a box without area is left out with a note
instead of being kept with size 0, and a missing `difficult` means 0.
"""

from __future__ import annotations

import errno
import math
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from pathlib import Path

from yolodata.files import read_regular
from yolodata.ingest.limits import LABEL_BYTES, NAME_LENGTH
from yolodata.ingest.sample import RawLabels, Refused
from yolodata.ingest.text import decode_xml


def read_annotation(file: Path) -> ElementTree.Element:
    """Parses an XML file, in whatever encoding that can be told.

    Raises:
        OSError: it cannot be read.
        Refused: it is no file, too large, not well-formed, of an unknown encoding, or declares
            entities: expanding those can take any amount of memory, or read other files.
    """
    try:
        data = read_regular(file, LABEL_BYTES)
    except OSError as error:
        if error.errno in (errno.EISDIR, errno.EINVAL, errno.EFBIG):
            raise Refused(f"annotation {file.name} cannot be used: it {error.strerror}") from None
        raise
    try:
        if not data.strip():
            raise ValueError("the file is empty")
        text = decode_xml(data)
        if "<!ENTITY" in text:
            raise ValueError("it declares entities, which are not read")
        root = ElementTree.fromstring(text.strip())
    except (ElementTree.ParseError, ValueError) as error:
        raise Refused(f"annotation {file.name} cannot be used: {error}") from error
    if "xmlns" in text:
        for element in root.iter():  # a tag in a namespace is {http://…}size
            element.tag = element.tag.rpartition("}")[2]
    return root


def annotated_name(root: ElementTree.Element) -> str:
    """Gives the file name, without folders, of the image that an annotation is of, or ""."""
    return (root.findtext("filename") or "").strip().replace("\\", "/").rpartition("/")[2]


def class_names(root: ElementTree.Element) -> set[str]:
    """Gives the names of all its objects; one that is too long is refused with its image."""
    names = {(item.findtext("name") or "").strip() for item in root.iter("object")} - {""}
    return {name for name in names if len(name) <= NAME_LENGTH}


def label_rows(root: ElementTree.Element, file: Path, classes: Mapping[str, int]) -> RawLabels:
    """Converts the objects of an annotation.

    Args:
        root: as `read_annotation` gives it.
        file: for messages.
        classes: numbers by name.

    Raises:
        Refused: an object or the size of the picture cannot be used.
    """
    notes: list[str] = []
    try:
        size = _number(root, "size/width"), _number(root, "size/height")
        if not all(0 < side < math.inf for side in size):
            raise ValueError(f"the picture is given as {size[0]:g} x {size[1]:g} pixels")
        rows = list(_rows(root, size, classes, notes))
    except ValueError as error:
        raise Refused(f"annotation {file.name} cannot be used: {error}") from error
    stated = round(size[1]), round(size[0])
    return RawLabels("\n".join(rows).encode(), None, tuple(notes), (stated,))


def _rows(
    root: ElementTree.Element,
    size: tuple[float, float],
    classes: Mapping[str, int],
    notes: list[str],
) -> Iterator[str]:
    difficult = other = nameless = 0
    for item in root.iter("object"):
        name = _text(item, "name")
        if len(name) > NAME_LENGTH:
            raise ValueError(
                f"<name> has {len(name)} characters, at most {NAME_LENGTH} are allowed"
            )
        if not name:
            nameless += 1
        elif name not in classes:
            other += 1
        elif _is_difficult(item):
            difficult += 1
        else:
            low_x, high_x, low_y, high_y = (
                _number(item, f"bndbox/{key}") for key in ("xmin", "xmax", "ymin", "ymax")
            )
            if not (high_x > low_x and high_y > low_y):
                corners = f"{low_x:g} {low_y:g} {high_x:g} {high_y:g}"
                turned = high_x < low_x or high_y < low_y
                what = "box whose min is above its max" if turned else "box without area"
                notes.append(f"{what} left out: {name} at {corners}")
                continue
            box = (
                ((low_x + high_x) / 2.0 - 1) * (1.0 / size[0]),
                ((low_y + high_y) / 2.0 - 1) * (1.0 / size[1]),
                (high_x - low_x) * (1.0 / size[0]),
                (high_y - low_y) * (1.0 / size[1]),
            )
            yield " ".join(str(value) for value in (classes[name], *box))
    if difficult:
        notes.append(f"{difficult} difficult objects dropped")
    if other:
        notes.append(f"{other} objects of other classes dropped")
    if nameless:
        notes.append(f"{nameless} objects without a name dropped")


def _is_difficult(item: ElementTree.Element) -> bool:
    text = (item.findtext("difficult") or "0").strip() or "0"
    try:
        return int(text) == 1
    except ValueError:
        raise ValueError(f"<difficult> must be 0 or 1, got {text[:20]!r}") from None


def _number(root: ElementTree.Element, path: str) -> float:
    text = _text(root, path)
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"<{path}> must be a number, got {text[:20]!r}") from None


def _text(root: ElementTree.Element, path: str) -> str:
    text = root.findtext(path)
    if text is None:
        raise ValueError(f"<{path}> is missing")
    return text.strip()
