"""How much of anything a source may hold. docs/datasets.md lists these limits.

Without them a file of a few kilobytes could ask for any amount of memory or time. They are far
above what datasets have. What exceeds one is refused, or left out with its reason.
"""

from __future__ import annotations

import reprlib
from collections.abc import Sequence
from typing import Any

from yolodata.errors import DatasetError
from yolodata.terminal import encodable

LABEL_BYTES = 16 << 20
"""Of a label file, or of an XML annotation: those of one image."""
OBJECTS = 1_000_000
"""Rows of a label file."""
YAML_BYTES = 16 << 20
YAML_VALUES = 250_000
"""Keys, values and list entries of a YAML, those that merges (`<<`) repeat included."""
YAML_DEPTH = 100
JSON_BYTES = 16 << 30
"""Of a COCO JSON; twice its size has to fit into memory, too."""
TEXT_BYTES = 16 << 20
"""Of a file of class names, or of Darknet's data file."""
LIST_BYTES = 2 << 30
LIST_LINES = 20_000_000
"""Of a list of images."""
CLASSES = 100_000
NAME_LENGTH = 1_000
"""Characters of a class name."""
PATH_LENGTH = 4_096
"""Characters of a file name that a document states, folders included."""
KEYPOINTS = 1_000
WORKERS = 1_024
"""Threads that pack."""
SIDE = (1 << 31) - 1
"""Pixels of an image as a document states them."""
MASK_PIXELS = 178_956_970
"""Of a run-length mask; Pillow refuses images of more."""
MASK_RUNS = 1_000_000
OUTLINE_PAIRS = 1 << 30
"""Pairs of points that are compared at most to join two parts of an outline."""
FOLDERS_AGAIN = 10_000
"""Folders below the images of a split that links reach a second time."""


class _Short(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        try:
            return super().repr_int(x, level)
        except ValueError:  # more digits than Python writes
            return f"an integer of {x.bit_length()} bits"


_short = _Short()
_short.maxstring = 80
_short.maxlevel = 3


def shortened(value: Any) -> str:
    """Gives what a document holds in a form for messages, however large or nested it is."""
    return _short.repr(value)


def checked_names(names: Sequence[str], origin: object) -> list[str]:
    """Checks class names, and spells out what no text file can hold.

    Args:
        names: in the order of the classes. Half a character (a lone surrogate) becomes its escape,
            `\\ud800`.
        origin: where they stand, for messages.

    Raises:
        DatasetError: they are too many, or one is too long.
    """
    if len(names) > CLASSES:
        raise DatasetError(f"{origin}: must have at most {CLASSES} classes, got {len(names)}")
    for k, name in enumerate(names):
        if len(name) > NAME_LENGTH:
            raise DatasetError(
                f"{origin}: the name of class {k} must have at most {NAME_LENGTH} characters, got "
                f"{len(name)}: {shortened(name)}; shorten it"
            )
    return [encodable(name) for name in names]
