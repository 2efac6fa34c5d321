"""Small YAML files of names and values, as this package and Ultralytics write them for a run.

They may come from anywhere with the folder of a run. So they are bounded, and hold no aliases: a
kilobyte of those makes a structure that nobody can walk to its end.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from yolodata.errors import ConfigError
from yolodata.files import read_regular

_LIMIT = 1 << 18  # bytes; args.yaml has about 4,000


def read_plain_yaml(path: Path) -> dict[str, Any]:
    """Reads names and values; none of an empty file.

    Raises:
        OSError: there is no such file, it is no regular one, or it has more than 256 KiB.
        ValueError: it holds something else.
    """
    try:
        found = yaml.load(read_regular(path, _LIMIT).decode(), _Loader)
    except yaml.YAMLError as error:
        raise ValueError(str(error).splitlines()[0]) from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if found is None:
        return {}
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ValueError("it must hold names and values")
    return found


def read_settings(path: Path) -> dict[str, Any]:
    """Reads names and values.

    Raises:
        ConfigError: there is no such file, or it holds something else.
    """
    try:
        return read_plain_yaml(path)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or error
        raise ConfigError(
            f"{path}: cannot be read: {why}; name the folder of a run that yolodata made"
        ) from None


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ValueError("an alias (*name) is not allowed")
        return super().compose_node(parent, index)
