"""Formats of annotations that are not read: told by a file, with what to do instead."""

from __future__ import annotations

import os
import re
from fnmatch import fnmatch
from pathlib import Path
from typing import NamedTuple

from yolodata.files import open_regular

_BEGIN = 1 << 16
_REST = 1 << 26  # labelme writes whole pictures between its words


class _Format(NamedTuple):
    """A format.

    Attributes:
        name: what it is called.
        files: pattern of its files' names, in small letters.
        words: expressions of which the first is found where a file begins, and the others further.
        advice: what to do.
    """

    name: str
    files: str
    words: tuple[bytes, ...]
    advice: str


_CONVERT = "convert it to YOLO, COCO or Pascal VOC first"
_ROW = rb"\A\s*(?:-?[\d.]+ *, *){7}"
_FORMATS = (
    _Format(
        "labelme",
        "*.json",
        (rb'"shapes"', rb'"imagePath"'),
        "convert them first, with labelme's labelme2coco or labelme2voc",
    ),
    _Format("VIA", "*.json", (rb'"region_attributes"',), "export the annotations again, as COCO"),
    *(
        _Format(
            "Supervisely",
            "*.json",
            words,
            "export the project again, as COCO, YOLO or Pascal VOC",
        )
        for words in ((rb'"classTitle"',), (rb'"classes"', rb'"shape": *"'))
    ),
    *(
        _Format(
            "Label Studio",
            "*.json",
            words,
            "export the project again, as 'YOLO with Images' or 'COCO'",
        )
        for words in ((rb'"original_width"',), (rb'"annotations"', rb'"result"'))
    ),
    _Format(
        "Datumaro",
        "*.json",
        (rb'"categories"', rb'"items"'),
        "convert it first: datum convert -if datumaro -i DIR -f coco -o OUT",
    ),
    _Format(
        "CreateML", "*.json", (rb'"coordinates"', rb'"label"'), "export it again, as COCO or YOLO"
    ),
    _Format("BDD100K", "*.json", (rb'"box2d"',), _CONVERT),
    _Format(
        "detections with scores",
        "*.json",
        (rb'"image_id"', rb'"score"'),
        "give the annotations instead",
    ),
    _Format(
        "NDJSON, with images to download",
        "*.ndjson",
        (),
        "let Ultralytics convert it (ultralytics.data.converter.convert_ndjson_to_yolo), and give "
        "the YAML that it writes",
    ),
    _Format("a table", "*.csv", (), _CONVERT),
    _Format("CrowdHuman", "*.odgt", (), _CONVERT),
    _Format("TFRecord", "*.tfrecord*", (), _CONVERT),
    _Format("Parquet", "*.parquet", (), _CONVERT),
    _Format("MATLAB", "*.mat", (), _CONVERT),
    _Format("WIDER FACE", "*_bbx_gt.txt", (), _CONVERT),
    _Format(
        "DOTA",
        "*.txt",
        (rb"\A(?:imagesource:|gsd:|(?:-?[\d.]+ +){8}[^\s\d]\S* +\d)",),
        "convert it first, with ultralytics.data.converter.convert_dota_to_yolo_obb",
    ),
    _Format(
        "lists of images with boxes", "_annotations.txt", (), "export it again, as YOLO or COCO"
    ),
    _Format("KITTI", "*.txt", (rb"\A[A-Za-z_]+(?: -?[\d.]+){14}\s",), _CONVERT),
    _Format(
        "rows of a class name and four numbers, as OIDv4's",
        "*.txt",
        (rb"\A[^\W\d_][^\n]*?(?: -?[\d.]+){4}[ \t\r]*(?:\n|\Z)",),
        _CONVERT,
    ),
    _Format("rows with commas, as of VisDrone or MOT", "*.txt", (_ROW,), _CONVERT),
)


def told(file: Path | str) -> str | None:
    """Says of what format a file is that is not read, and what to do; None if it is none of them.

    The sentence begins behind the name of the file.
    """
    name = os.path.basename(file).lower()
    for kind in _FORMATS:
        if fnmatch(name, kind.files) and _has(file, kind.words):
            return f"is in a format that is not read: {kind.name}; {kind.advice}"
    return None


def _has(file: Path | str, words: tuple[bytes, ...]) -> bool:
    return all(re.search(word, head(file, _REST if k else _BEGIN)) for k, word in enumerate(words))


def head(file: Path | str, count: int) -> bytes:
    """Gives the first bytes of a file; none where it is no file, or cannot be read."""
    try:
        fd = open_regular(file)
    except (OSError, ValueError):  # ValueError: no file can have this name
        return b""
    try:
        return os.read(fd, count)
    finally:
        os.close(fd)
