"""Whether a file of weights holds a network and nothing else.

Ultralytics' weights are pickles of networks, and opening a pickle runs what its author wrote. Those
of a run folder may have come with it, or from where it was uploaded to. So they are first read by
torch's restricted reader, with every class replaced by one that does nothing. What passes makes
objects of known classes without calling them, and has no other code to run.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch

from yolodata.errors import is_out_of_memory
from yolodata.files import open_regular
from yolodata.train.checkpoint.file import COMPRESSED, check_torch, larger_in_memory

_OF_ULTRALYTICS = ("ultralytics.nn.modules", "ultralytics.nn.tasks", "ultralytics.nn.distill_model")
_PARTS = {"ultralytics.nn.distill_model", "ultralytics.utils.loss", "ultralytics.utils.tal"}
_VALUES = {
    "ultralytics.utils.IterableSimpleNamespace",
    "pathlib.PosixPath",
    "pathlib._local.PosixPath",
    "numpy.dtype",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
}


def more_than_weights(path: Path) -> str | None:
    """Says what a file of weights holds beside a network; None if nothing.

    Raises:
        ConfigError: as `file.check_torch`.
    """
    import ultralytics.nn.tasks  # noqa: F401 - whose classes are looked up

    check_torch()
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            if larger_in_memory(file):
                return COMPRESSED
            file.seek(0)
            named = torch.serialization.get_unsafe_globals_in_checkpoint(file)
            others = sorted(name for name in named if name not in _VALUES and not _is_part(name))
            if others:
                return f"it names {others[0]!r}, which is no part of a network"
            inert: list[Any] = [(_Value if name in _VALUES else _Part, name) for name in named]
            file.seek(0)
            with torch.serialization.safe_globals(inert):
                torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a made-up file makes of the reader
        if is_out_of_memory(error):
            raise
        first = (str(error).splitlines() or [""])[0]
        return f"torch's restricted reader refuses it ({type(error).__name__}: {first:.200})"
    return None


def _is_part(name: str) -> bool:
    """Whether a class is of a network: torch's, Ultralytics', or one of the user's own."""
    module, _, attribute = name.rpartition(".")
    found = getattr(sys.modules.get(module), attribute, None)
    if not isinstance(found, type) or found.__module__ != module:
        return False
    if module in _PARTS:
        return True
    if module.startswith("ultralytics.") and not module.startswith(_OF_ULTRALYTICS):
        return False
    return issubclass(found, torch.nn.Module)


class _Value:
    """Stands for a class that a pickle may call."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


class _Part(_Value):
    """Stands for a class of which a pickle may make objects, but which it may not call.

    A network's constructor builds what a text describes, and evaluates parts of that text.
    """

    def __new__(cls, *_: object) -> _Part:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        raise ValueError("a class of a network is called")
