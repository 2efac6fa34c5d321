"""Callbacks from a Python file, so that every rank has them, wherever it was started."""

from __future__ import annotations

import functools
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ultralytics.utils.callbacks import default_callbacks

from yolodata.errors import CallbackError, ConfigError, YolodataError, is_out_of_memory
from yolodata.files import resolved


def callbacks_of_file(path: str) -> dict[str, Callable[[Any], None]]:
    """Returns the functions of a Python file that are named after Ultralytics' training events.

    What goes wrong in one becomes a CallbackError.

    Raises:
        CallbackError: the file itself raises an error.
        ConfigError: the file has none, or one that looks like an event and is not.
    """
    file = resolved(path)
    if not file.is_file():  # where training runs: a job may be written on another machine
        raise ConfigError(f"yolodata.callbacks must be a Python file that is there, got {path!r}")
    spec = importlib.util.spec_from_file_location(f"yolodata_callbacks_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"yolodata.callbacks must be a Python file, got {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that what it defines can be pickled
    with _explained(file):
        spec.loader.exec_module(module)
    named = {
        name: value
        for name, value in vars(module).items()
        if callable(value) and (name.startswith("on_") or name == "teardown")
    }
    unknown = sorted(set(named) - set(default_callbacks))
    if unknown or not named:
        raise ConfigError(
            f"{path}: must define functions named after Ultralytics' events "
            f"({', '.join(sorted(default_callbacks))}), got {', '.join(unknown) or 'none'}"
        )
    return {name: _explaining(function, file) for name, function in named.items()}


def _explaining(function: Callable[[Any], None], file: Path) -> Callable[[Any], None]:
    @functools.wraps(function)
    def call(trainer: Any) -> None:
        with _explained(file):
            function(trainer)

    return call


@contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Errors of the file become one message: where, what, and the traceback from the file on.

    What is raised on purpose here stays as it is, and so does lack of memory, of which a trainer
    knows what to do.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, YolodataError) or is_out_of_memory(error):
            raise
        frames = traceback.extract_tb(error.__traceback__)
        begin = next((k for k, frame in enumerate(frames) if frame.filename == str(file)), 0)
        own = [frame for frame in frames[begin:] if frame.filename == str(file)]
        line = own[-1].lineno if own else getattr(error, "lineno", None)  # of a SyntaxError
        said = "".join(traceback.format_exception_only(type(error), error)).rstrip()
        called = "".join(traceback.format_list(frames[begin:] if own else []))
        raise CallbackError(
            f"{file}, line {line}: {said.splitlines()[-1]}; this is the file of "
            f"yolodata.callbacks=, which is yours: mend it there, or train without it\n"
            f"{called}{said}"
        ) from error
