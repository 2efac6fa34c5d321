"""Where metrics go: a port, a free port, or a file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolodata.errors import ConfigError

LOCALHOST = "127.0.0.1"
"""The interface of a port that is given without one: metrics have no password."""

SUFFIX = ".prom"


@dataclass(frozen=True)
class Address:
    """An HTTP address.

    Attributes:
        host: of the interface.
        port: of local rank 0, the next one of the next rank; 0 is a free one for each rank.
    """

    host: str
    port: int

    def of_rank(self, local_rank: int) -> Address:
        """Returns the address of a rank on this machine."""
        return Address(self.host, self.port + local_rank) if self.port else self

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


@dataclass(frozen=True)
class TextFile:
    """A file for the textfile collector of node-exporter.

    Attributes:
        path: of rank 0; that of another has its number in it, as steps.csv does.
    """

    path: Path

    def of_rank(self, rank: int) -> Path:
        """Returns the file of a rank of the run."""
        return self.path if rank == 0 else self.path.with_suffix(f".rank{rank}{SUFFIX}")


def read_destination(value: Any) -> Address | TextFile:
    """Returns where metrics go.

    Args:
        value: of the setting: PORT, HOST:PORT, auto, HOST:auto, or PATH.prom.

    Raises:
        ConfigError: it is something else.
    """
    text = "" if isinstance(value, bool) else str(value)
    if text.endswith(SUFFIX) and text != SUFFIX:
        return TextFile(Path(os.path.expanduser(text)))  # `~nobody` stays what it is
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]") if colon else LOCALHOST
    if host and port == "auto":
        return Address(host, 0)
    if host and port.isdecimal() and 1 <= int(port) <= 65535:
        return Address(host, int(port))
    raise ConfigError(
        "yolodata.metrics must be a port from 1 to 65535, auto (a free one), either with the "
        "interface that serves it (0.0.0.0:9401 is all of them, a port alone this machine only), "
        f"or a file that ends in {SUFFIX} (for node-exporter's textfile collector), got {value!r}"
    )
