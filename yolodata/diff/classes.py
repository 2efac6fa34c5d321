"""Classes of two datasets: which number of one is which of the other.

In labels a class is a number, and what it means is its name. So the same name under another number
is the same class. A number whose old name is gone, and whose new one is new, was renamed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class ClassChanges:
    """How the classes of two datasets differ.

    Attributes:
        names: of all classes of both; one that was renamed has its new name.
        a, b: int64 (classes of the dataset,), place of each number's class in `names`.
        added, removed: names that only one has.
        renamed: (number, name in a, name in b).
        renumbered: (name, number in a, number in b).
    """

    names: list[str]
    a: npt.NDArray[np.int64]
    b: npt.NDArray[np.int64]
    added: list[str]
    removed: list[str]
    renamed: list[tuple[int, str, str]]
    renumbered: list[tuple[str, int, int]]

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.renamed or self.renumbered)


def compare_classes(a: Mapping[int, str], b: Mapping[int, str]) -> ClassChanges:
    """Compares two numberings of classes, 0, 1, … each."""
    left, right = _numbers(a), _numbers(b)
    gone = {number for name, number in left.items() if name not in right}
    new = {number for name, number in right.items() if name not in left}
    renamed = gone & new
    names = dict(a)
    names |= {number: b[number] for number in renamed}
    places = {name: number for name, number in left.items() if name in right}
    of_b = []
    for name, number in right.items():
        if name not in places and number not in renamed:
            names[len(names)] = name[0]
            places[name] = len(names) - 1
        of_b.append(places.get(name, number))
    return ClassChanges(
        list(names.values()),
        np.arange(len(a)),
        np.array(of_b, np.int64),
        [b[number] for number in sorted(new - renamed)],
        [a[number] for number in sorted(gone - renamed)],
        [(number, a[number], b[number]) for number in sorted(renamed)],
        [
            (name[0], left[name], number)
            for name, number in right.items()
            if left.get(name, number) != number
        ],
    )


def _numbers(names: Mapping[int, str]) -> dict[tuple[str, int], int]:
    """Name -> number, in the order of numbers; a name that stands twice has two entries."""
    seen: dict[str, int] = {}
    numbers = {}
    for number in range(len(names)):
        name = names[number]
        numbers[name, seen.get(name, 0)] = number
        seen[name] = seen.get(name, 0) + 1
    return numbers
