"""Files that the user names as output: a report, a picture, a chart."""

from __future__ import annotations

import os
from pathlib import Path

from yolodata.errors import ConfigError
from yolodata.files import Buffer, write_all
from yolodata.folders import Folder

_STREAMS = {"/dev", "/dev/fd", "/dev/pts", "/proc/self/fd"}
"""Folders of names that are no files: `--json /dev/stdout`, `--json >(jq .)`."""


def write_output(path: Path, data: Buffer, option: str = "") -> None:
    """Writes a file that the user named; whoever reads it finds all of it, or what was there.

    What has the name is replaced. Of a link, the link is: where it leads to may be somebody else's
    choice. Only streams (`/dev/stdout`) are written to as they are.

    Args:
        path: of the file; its folder is made.
        data: all of its content.
        option: that it was given with, for the message.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        if os.path.dirname(os.path.abspath(path)) in _STREAMS:
            _write_to(path, data)
        else:
            with Folder.at(path.parent, create=True) as folder:
                folder.replace(path.name, data, durable=False)
    except OSError as error:
        raise ConfigError(
            f"{option} {path}".strip() + f" cannot be written: {error.strerror or error}; give a "
            "file in a folder that exists or can be made"
        ) from None


def _write_to(path: Path, data: Buffer) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        write_all(fd, data)
    finally:
        os.close(fd)
