"""Files that the user names as output: a report, a picture, a chart."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from yolodata.errors import ConfigError
from yolodata.files import Buffer
from yolodata.folders import Folder

_DEVICES = {"/dev", "/dev/pts"}
_OF_PROCESS = re.compile("/(?:dev|proc/self)/fd/([0-9]+)")  # `--json >(jq .)`


def write_output(path: Path, data: Buffer, option: str = "") -> None:
    """Writes a file that the user named; whoever reads it finds all of it, or what was there.

    What has the name is replaced. Of a link, the link is: where it leads to may be somebody else's
    choice. Only streams (`/dev/stdout`) and devices are written to as they are.

    Args:
        path: of the file; its folder is made.
        data: all of its content.
        option: that it was given with, for the message.

    Raises:
        ConfigError: it cannot be written.
    """
    with _explained(path, option):
        stream = _stream(os.path.abspath(path))
        if stream is None:
            with Folder.at(path.parent, create=True) as folder:
                folder.replace(path.name, data, durable=False)
        else:
            with os.fdopen(stream, "wb") as file:
                file.write(data)


def check_output(path: Path | None, option: str) -> None:
    """Finds out before the work, which may take an hour, whether `write_output` could write.

    Args:
        path: of the file; its folder is made. None is no output.
        option: that it was given with, for the message.

    Raises:
        ConfigError: it cannot be written.
    """
    if path is None:
        return
    with _explained(path, option):
        stream = _stream(os.path.abspath(path))
        if stream is not None:
            os.close(stream)
        elif path.is_dir() and not path.is_symlink():
            raise IsADirectoryError(errno.EISDIR, "it is a folder")
        else:
            with Folder.at(path.parent, create=True):
                if not os.access(path.parent, os.W_OK):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


@contextmanager
def _explained(path: Path, option: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ConfigError(
            f"{option} {path}".strip() + f" cannot be written: {error.strerror or error}; give a "
            "file in a folder that exists or can be made"
        ) from None


def _stream(name: str) -> int | None:
    """A descriptor of what is no file; None where it is to be one."""
    own = {"/dev/stdout": "/dev/fd/1", "/dev/stderr": "/dev/fd/2"}.get(name, name)
    if found := _OF_PROCESS.fullmatch(own):
        sys.stdout.flush()  # what was printed before comes first
        return os.dup(int(found[1]))
    if os.path.dirname(name) in _DEVICES:
        return os.open(name, os.O_WRONLY | os.O_NOCTTY | os.O_CLOEXEC)
    return None
