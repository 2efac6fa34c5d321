"""Callbacks from a Python file, so that every rank has them, wherever it was started."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from typing import Any

from ultralytics.utils.callbacks import default_callbacks

from yolodata.errors import ConfigError
from yolodata.files import resolved


def callbacks_of_file(path: str) -> dict[str, Callable[[Any], None]]:
    """Returns the functions of a Python file that are named after Ultralytics' training events.

    Raises:
        ConfigError: the file has none, or one that looks like an event and is not.
    """
    file = resolved(path)
    spec = importlib.util.spec_from_file_location(f"yolodata_callbacks_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ConfigError(f"yolodata callbacks must be a Python file, got {path}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # so that what it defines can be pickled
    spec.loader.exec_module(module)
    named = {
        name: value
        for name, value in vars(module).items()
        if callable(value) and (name.startswith("on_") or name == "teardown")
    }
    unknown = sorted(set(named) - set(default_callbacks))
    if unknown or not named:
        raise ConfigError(
            f"{path} must define functions named after Ultralytics' events "
            f"({', '.join(sorted(default_callbacks))}), got {', '.join(unknown) or 'none'}"
        )
    return named
