"""What belongs to a run at its upload URL: which files go there, and which are taken from there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import BinaryIO

from yolodata.provenance.manifest import FILE, RunManifest
from yolodata.provenance.manifest import LARGEST as LARGEST_MANIFEST
from yolodata.train.checkpoint import file
from yolodata.train.checkpoint.manifest import LARGEST, is_name
from yolodata.train.checkpoint.object_store import RefusedObject
from yolodata.train.checkpoint.uploader import Expectations
from yolodata.train.checkpoint.weights import more_than_weights

FOLDER = "checkpoints"
"""In the run folder; beside Ultralytics' `weights`."""

EVALUATED = "evaluated"
"""Holds the name of the checkpoint that the evaluation of the best weights was made after."""

_LARGEST = 256 << 20  # bytes of a table, a plot, settings
# Not what grows all the time (steps.csv, steps.rank1.csv, steps.1.csv), and no hidden files.
_BESIDE = re.compile(
    rf"weights/(last|best)\.pt|(?!\.|steps\.)[^/]+\.(csv|yaml|png|jpg)|{FOLDER}/{EVALUATED}|{FILE}"
)


def belongs_beside(name: str, size: int) -> bool:
    """Whether a file of a run folder is uploaded with a checkpoint.

    Args:
        name: its relative path.
        size: in bytes.
    """
    largest = LARGEST if name.endswith(".pt") else _LARGEST
    return is_name(name) and _BESIDE.fullmatch(name) is not None and size <= largest


class OfARun(Expectations):
    """Checkpoints and files of a run, and nothing else.

    Nothing is believed because it is there: a checkpoint's name, checksum and content agree, it
    holds tensors and plain values, weights hold networks of Ultralytics' and torch's alone, and
    files beside are such as a run has.
    """

    def wrong_name(self, name: str, checksum: str) -> str | None:
        """A checkpoint's has the checksum in it."""
        if file.checksum_in(name) != checksum:
            return f"its name must be EPOCH-STEP-{checksum}{file.SUFFIX}"
        return None

    def wrong_content(self, name: str, opened: BinaryIO) -> str | None:
        """A checkpoint's is a state, of the epoch and step in its name.

        Raises:
            RefusedObject: it is of another version of yolodata.
        """
        file.check_torch()
        wrong, state = file.examined(name, opened)
        if wrong is None and state.get("version") != file.VERSION:
            raise RefusedObject(
                f"{name} is of version {state.get('version')!r:.20}, and not {file.VERSION}: "
                "another yolodata wrote it"
            )
        return wrong

    def wrong_beside(self, name: str, size: int) -> str | None:
        """It is one that a run uploads."""
        return None if belongs_beside(name, size) else "no such file is uploaded with a checkpoint"

    def wrong_content_beside(self, name: str, opened: BinaryIO) -> str | None:
        """Weights hold no code, and a manifest is one."""
        if name == FILE:
            opened.seek(0)
            try:
                RunManifest.from_json(opened.read(LARGEST_MANIFEST + 1))
            except ValueError as error:
                return str(error)
        if not name.endswith(".pt"):
            return None
        return more_than_weights(Path(f"/proc/self/fd/{opened.fileno()}"))
