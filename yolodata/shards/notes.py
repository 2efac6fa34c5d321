"""notes.json beside the splits: what was changed on the way, or is odd, about single images.

These images are packed. What is left out is in dataset.json and left_out.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from yolodata.errors import ShardError
from yolodata.files import read_regular
from yolodata.folders import Folder
from yolodata.shards.format import SPLITS
from yolodata.shards.json_text import MAX_BYTES, parse_json

NOTES = "notes.json"
OTHER_SPLITS, PICTURES, LABELS = KINDS = ("splits", "pictures", "labels")
"""What a note is about: other splits that have the image, its file, or its labels."""
ROOM = 12 << 20
"""Bytes in the file of one kind and split; all of them are below `MAX_BYTES`."""

Entries = list[tuple[str, str]]
"""(path, note) of images."""


class Notes:
    """Notes on the images of a split, as many as there is room for, and how many more there are."""

    def __init__(self) -> None:
        self._listed: dict[str, Entries] = {kind: [] for kind in KINDS}
        self._room = dict.fromkeys(KINDS, ROOM)
        self._more = dict.fromkeys(KINDS, 0)

    def add(self, kind: str, notes: Iterable[tuple[str, str]]) -> None:
        """Adds (path, note) of images."""
        for note in notes:
            self._room[kind] -= len(json.dumps(note)) + 20  # of indents
            if self._room[kind] >= 0:
                self._listed[kind].append(note)
            else:
                self._more[kind] += 1

    def of(self, kind: str) -> Entries:
        """Lists those of one kind; the last entry counts what has no room."""
        more = self._more[kind]
        return self._listed[kind] + [("", f"{more} more notes, not listed")] * bool(more)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Gives all (path, note)."""
        for kind in KINDS:
            yield from self.of(kind)


def write_notes(root: Path, notes: Mapping[str, Mapping[str, Entries]]) -> None:
    """Says in a folder of splits what there is to know about images of some of them.

    Args:
        root: the folder.
        notes: split -> kind -> entries. What was said of other splits and kinds stays.

    Raises:
        OSError: the folder cannot be written to.
    """
    try:
        before = read_notes(root)
    except ShardError:  # a damaged one is replaced
        before = {}
    known = before | {split: before.get(split, {}) | dict(of) for split, of in notes.items()}
    after = {  # in an order that does not depend on who wrote first
        split: {kind: known[split][kind] for kind in KINDS if kind in known[split]}
        for split in SPLITS
        if split in known
    }
    if after == before:
        return
    text = json.dumps(after, indent=1)
    with Folder.at(root) as folder:
        folder.check_ours()
        folder.replace_alone(NOTES, f"{text}\n".encode())


def read_notes(root: Path) -> dict[str, dict[str, Entries]]:
    """Reads that: split -> kind -> entries; nothing where nothing is said.

    Raises:
        ShardError: the file is damaged.
    """
    file = root / NOTES
    try:
        content = parse_json(read_regular(file, MAX_BYTES), str(file))
        return {
            str(split): {str(kind): [_entry(one) for one in listed] for kind, listed in of.items()}
            for split, of in content.items()
        }
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise ShardError(f"{file}: cannot be read ({error}); pack again, or remove it") from None
    except (AttributeError, TypeError, ValueError):
        raise ShardError(
            f"{file}: must list [path, note] by split and kind; pack again, or remove it"
        ) from None


def _entry(value: object) -> tuple[str, str]:
    if not isinstance(value, list):
        raise TypeError
    path, note = value
    if not (isinstance(path, str) and isinstance(note, str)):
        raise TypeError
    return path, note
