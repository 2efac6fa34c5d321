"""COCO's categories to class numbers, the same for all files of a dataset.

A category has an id and a name in each file. Where files agree on them, classes are the ids, in
order, of all files together: one of them may lack a category, or list them in another order. Where
they do not, names decide, if one file has all of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolodata.errors import DatasetError
from yolodata.ingest.limits import KEYPOINTS, checked_names, shortened
from yolodata.shards.class_names import names_option

Id = int | float | str


@dataclass(frozen=True)
class Categories:
    """What one file lists.

    Attributes:
        names: by category id, in the order of the file.
        keypoints: how many the category with most of them has.
    """

    names: dict[Id, str]
    keypoints: int


@dataclass(frozen=True)
class ClassNumbers:
    """Classes over all files.

    Attributes:
        names: of class 0, 1, ….
        of_file: file -> category id -> class number; None for a category that is left out.
    """

    names: list[str]
    of_file: dict[str, dict[Id, int | None]]


def as_id(value: Any) -> Id:
    """Gives an id as it is compared: "7", 7 and 7.0 are the same.

    Integers above 64 bits become texts: Python finds equal hashes for as many of those as a file
    likes, and a table of them would be as slow as a list.

    Raises:
        TypeError: it is neither a number nor a text.
    """
    if isinstance(value, str):
        whole = value.isdecimal() and len(value) < 20 and str(int(value)) == value
        return int(value) if whole else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        raise TypeError(f"an id must be a number or a text, got {shortened(value)}")
    return str(value) if isinstance(value, int) and value.bit_length() > 64 else value


def read_categories(listed: Sequence[Any], file: Path) -> Categories:
    """Reads the list "categories" of one file.

    Raises:
        DatasetError: one has no id or name, two have the same id, or there is too much of
            something.
    """
    names: dict[Id, str] = {}
    keypoints = 0
    for category in listed:
        try:
            number, name = as_id(category["id"]), category["name"]
            points = category.get("keypoints") or []
            if not isinstance(name, (str, int, float)) or not isinstance(points, list):
                raise TypeError
        except (KeyError, TypeError, AttributeError):
            raise DatasetError(
                f"{file}: a category must have id and name, and keypoints, if any, as a list of "
                f"their names, got {shortened(category)}; correct it"
            ) from None
        if len(points) > KEYPOINTS:
            raise DatasetError(
                f"{file}: a category must have at most {KEYPOINTS} keypoints, got {len(points)}"
            )
        if number in names:
            raise DatasetError(
                f"{file}: two categories have the id {shortened(number)}: "
                f"{shortened(names[number])} and {shortened(name)}; give "
                "each an id of its own"
            )
        names[number] = str(name).strip()  # as VOC's, and as --names has them
        keypoints = max(keypoints, len(points))
    checked = checked_names(list(names.values()), file)
    return Categories(dict(zip(names, checked, strict=True)), keypoints)


def number_classes(
    listed: Mapping[str, Categories],
    read: Sequence[str],
    names: Sequence[str] | None = None,
) -> ClassNumbers:
    """Numbers the classes of all files.

    Args:
        listed: categories by file, in the order of the splits.
        read: files whose annotations are read. The others count where they agree with these.
        names: class names in order, instead of all.

    Raises:
        DatasetError: the files contradict each other, or `names` names a class twice.
    """
    every = {file: found.names for file, found in listed.items()}
    files = {file: every[file] for file in every if file in read}
    if names is None:
        try:
            return _numbered(every)
        except DatasetError:
            return _numbered(files)
    if len(set(names)) != len(names):
        raise DatasetError(f"names must name each class once, got {list(names)}")
    known = {name for listed in files.values() for name in listed.values()}
    if not known & set(names):
        raise DatasetError(
            f"names must be some of the categories' ({', '.join(map(repr, sorted(known)[:10]))}), "
            f"got {list(names)}"
        )
    return _by_name(files, list(names))


def _numbered(files: Mapping[str, Mapping[Id, str]]) -> ClassNumbers:
    contradiction = _contradiction(files)
    if contradiction is None:
        listed = {number: name for found in files.values() for number, name in found.items()}
        order = sorted(listed, key=_rank)
        numbers = {number: k for k, number in enumerate(order)}
        return ClassNumbers(
            [listed[number] for number in order],
            {file: {number: numbers[number] for number in found} for file, found in files.items()},
        )
    largest = max(files.values(), key=len)
    names = [largest[number] for number in sorted(largest, key=_rank)]
    unique = all(len(set(found.values())) == len(found) for found in files.values())
    if not unique or any(set(found.values()) - set(names) for found in files.values()):
        union = (name for found in files.values() for name in found.values())
        raise DatasetError(
            f"{', '.join(files)}: do not agree on their categories: {contradiction}; if equal "
            f"names mean equal classes, number them by name: {names_option(union)}"
        )
    return _by_name(files, names)


def _by_name(files: Mapping[str, Mapping[Id, str]], names: list[str]) -> ClassNumbers:
    numbers = {name: k for k, name in enumerate(names)}
    return ClassNumbers(
        names,
        {
            file: {number: numbers.get(name) for number, name in found.items()}
            for file, found in files.items()
        },
    )


def _contradiction(files: Mapping[str, Mapping[Id, str]]) -> str | None:
    """The first id with two names, or name with two ids, among files."""
    by_id: dict[Id, tuple[str, str]] = {}
    by_name: dict[str, tuple[set[Id], str]] = {}
    for file, found in files.items():
        for number, name in found.items():
            known, where = by_id.setdefault(number, (name, file))
            if known != name:
                return f"id {number} is '{known}' in {where} and '{name}' in {file}"
        named: dict[str, set[Id]] = {}
        for number, name in found.items():
            named.setdefault(name, set()).add(number)
        for name, ids in named.items():
            before, where = by_name.setdefault(name, (ids, file))
            if not (ids <= before or before <= ids):
                return f"'{name}' has the id {before} in {where} and {ids} in {file}"
    return None


def _rank(number: Id) -> tuple[bool, Any]:
    return isinstance(number, str), number  # numbers first
