"""What belongs to a run at its upload URL: which files go there, and which are taken from there."""

from __future__ import annotations

import re
from typing import BinaryIO

from yolodata.errors import YolodataError
from yolodata.train.checkpoint import contents, file
from yolodata.train.checkpoint.manifest import is_name
from yolodata.train.checkpoint.uploader import Expectations

FOLDER = "checkpoints"
"""In the run folder; beside Ultralytics' `weights`."""

EVALUATED = "evaluated"
"""Holds the name of the checkpoint that the evaluation of the best weights was made after."""

# Not what grows all the time (steps.csv), and no hidden files.
_BESIDE = re.compile(
    rf"weights/(last|best)\.pt|(?!\.|steps\.csv$)[^/]+\.(csv|yaml|png|jpg)|{FOLDER}/{EVALUATED}"
)
_NAME = re.compile(r"([0-9]{5})-([0-9]{8})-([0-9a-f]{16})\.ckpt")


def belongs_beside(name: str) -> bool:
    """Whether a file of a run folder, by its relative path, is uploaded with a checkpoint."""
    return is_name(name) and _BESIDE.fullmatch(name) is not None


class OfARun(Expectations):
    """Checkpoints and files of a run, and nothing else.

    Nothing is believed because it is there: a checkpoint's name, checksum and content agree, it
    holds tensors and plain values, weights hold networks of Ultralytics' and torch's alone, and
    files beside are such as a run has.
    """

    def wrong_name(self, name: str, checksum: str) -> str | None:
        """A checkpoint's has the checksum in it."""
        found = _NAME.fullmatch(name)
        if found is None or found[3] != checksum:
            return f"its name must be EPOCH-STEP-{checksum}{file.SUFFIX}"
        return None

    def wrong_content(self, name: str, file: BinaryIO) -> str | None:
        """A checkpoint's is a state, of the epoch and step in its name."""
        found = _NAME.fullmatch(name)
        try:
            state = contents.read_state(file)
        except YolodataError as error:
            return str(error)
        place = (state["epoch"], state["step"])
        if found is None or place != (int(found[1]), int(found[2])):
            return f"it is of epoch {place[0]}, step {place[1]}"
        return None

    def wrong_beside(self, name: str) -> str | None:
        """It is one that a run uploads."""
        return None if belongs_beside(name) else "no such file is uploaded with a checkpoint"

    def wrong_content_beside(self, name: str, file: BinaryIO) -> str | None:
        """Weights hold no code."""
        return contents.wrong_weights(file) if name.endswith(".pt") else None
