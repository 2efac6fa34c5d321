"""Do splits agree on their classes? In shards a class is a number; its name is in dataset.json."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping

from yolodata.errors import DatasetError
from yolodata.shards.json_text import quoted

_SHOWN = 5  # classes that a message names
_LONGEST = 2000  # characters of names that it writes as an option to copy


def check_same_classes(named: Mapping[str, Mapping[int, str]]) -> None:
    """Checks that one class number has one name everywhere.

    Args:
        named: what is compared, by how a message calls it: class number to name.

    Raises:
        DatasetError: names the first two that differ, and the classes in which they do.
    """
    (first, names), *others = named.items()
    for where, found in others:
        if found != names:
            raise DatasetError(
                f"{where}: must have the classes of '{first}', because a class is a number in "
                f"shards, got others: {difference(found, names)}; pack all splits with one call of "
                "`yolodata shard`, or, if they are COCO or VOC, each with the same "
                f"{names_option((*names.values(), *found.values()))} (and --overwrite, where it is "
                "packed already)"
            )


def difference(found: Mapping[int, str], known: Mapping[int, str]) -> str:
    """Says in which classes one list of names differs from another."""
    parts = []
    for what, some, rest in (("has", found, known), ("lacks", known, found)):
        others = set(rest.values())
        only = [quoted(name) for name in some.values() if name not in others]
        if only:
            parts.append(f"it {what} {_listed(only)}")
    moved = [
        f"{k} is {quoted(found[k])}, not {quoted(known[k])}"
        for k in sorted(set(found) & set(known))
        if found[k] != known[k]
    ]
    if moved:
        parts.append(f"class {_listed(moved)}")
    return "; ".join(parts)


def names_option(names: Iterable[str]) -> str:
    """Writes names, each once, as an option to copy, if that is possible and not too long."""
    union = dict.fromkeys(names)
    text = ",".join(union)
    if len(text) > _LONGEST or any("," in name for name in union):
        return "--names FILE.txt, which has them one a line"
    return f"--names {shlex.quote(text)}"


def _listed(texts: list[str]) -> str:
    more = f" and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more
