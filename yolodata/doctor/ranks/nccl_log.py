"""What NCCL chose, read from what it writes with NCCL_DEBUG=INFO."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

# "Channel 00/0 : 0[0] -> 1[1] via P2P/IPC/read", "Channel 00/0 : 7[1] -> 8[0] [send] via NET/IB/0"
_CONNECTION = re.compile(
    r"Channel (?P<channel>\d+)(?:/\d+)? ?: ?"
    r"(?P<sender>\d+)\[[^\]]*\] -> (?P<receiver>\d+)\[[^\]]*\]"
    r"(?: \[(?:send|receive)\])? via (?P<way>\S+)"
)
_VERSION = re.compile(r"NCCL version (\S+)")
_ENVIRONMENT = re.compile(r"(NCCL_\w+) set by environment to (.+?)\.?\s*$")
_NETWORK = re.compile(r"Using network (\S+)")
_INTERFACES = re.compile(r"NET/(?:Socket|IB) : Using ((?:\[\d+\]\S+ ?)+)")
_RINGS, _TREES = re.compile(r"Channel \d+/\d+ ?: +\d+ +\d+"), re.compile(r"Trees? ?\[0\]")
_WARNING = re.compile(r"NCCL WARN (.+?)\s*$")


@dataclass(frozen=True)
class NcclChoice:
    """What NCCL chose for one communicator, as far as its log says.

    Attributes:
        version: of NCCL; "" where the log does not say.
        transports: connections by transport: "P2P", "SHM", "NET/Socket", "NET/IB", ….
        connections: (sender, receiver) -> transport; numbers of ranks.
        channels: over which data are sent at once.
        network: that it uses between machines ("Socket", "IB", a plugin's name); "" for none.
        interfaces: network interfaces that it uses.
        rings, trees: whether it built them.
        environment: variables that it says it obeys.
        warnings: of its own.
    """

    version: str = ""
    transports: Mapping[str, int] = field(default_factory=dict)
    connections: Mapping[tuple[int, int], str] = field(default_factory=dict)
    channels: int = 0
    network: str = ""
    interfaces: tuple[str, ...] = ()
    rings: bool = False
    trees: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def through_network(self, ranks_here: range) -> list[tuple[int, int]]:
        """Pairs of ranks of one machine between which the network carries data."""
        return [
            pair
            for pair, way in self.connections.items()
            if way.startswith("NET") and pair[0] in ranks_here and pair[1] in ranks_here
        ]

    def as_dict(self) -> dict[str, object]:
        """Returns plain values for JSON."""
        return {
            "version": self.version,
            "transports": dict(self.transports),
            "channels": self.channels,
            "network": self.network,
            "interfaces": list(self.interfaces),
            "rings": self.rings,
            "trees": self.trees,
            "environment": dict(self.environment),
            "warnings": list(self.warnings),
        }


def parse_nccl_log(text: str) -> NcclChoice:
    """Reads a log of NCCL_DEBUG=INFO, of one rank or of several; other lines are passed over."""
    connections: dict[tuple[int, int], str] = {}
    transports: Counter[str] = Counter()
    channels: set[str] = set()
    environment: dict[str, str] = {}
    warnings: list[str] = []
    interfaces: list[str] = []
    version = network = ""
    rings = trees = False
    for line in text.splitlines():
        if found := _CONNECTION.search(line):
            parts = found["way"].split("/")
            way = "/".join(parts[:2]) if parts[0] == "NET" else parts[0]
            pair = int(found["sender"]), int(found["receiver"])
            connections[pair] = way
            transports[way] += 1
            channels.add(found["channel"])
        elif found := _VERSION.search(line):
            version = found[1]
        elif found := _ENVIRONMENT.search(line):
            environment[found[1]] = found[2]
        elif found := _INTERFACES.search(line):
            interfaces += re.findall(r"\[\d+\]([^:\s]+)", found[1])
        elif found := _NETWORK.search(line):
            network = found[1]
        elif (found := _WARNING.search(line)) and found[1] not in warnings:
            warnings.append(found[1])
        rings |= bool(_RINGS.search(line)) or "Connected all rings" in line
        trees |= bool(_TREES.search(line)) or "Connected all trees" in line
    return NcclChoice(
        version,
        dict(transports),
        connections,
        len(channels),
        network,
        tuple(dict.fromkeys(interfaces)),
        rings,
        trees,
        environment,
        tuple(warnings),
    )


@contextmanager
def logging_to(folder: Path) -> Iterator[None]:
    """NCCL, which must not have begun in this process, writes what it chooses into the folder.

    It reads these variables once, when its first communicator is made. A user's own are kept.
    """
    ours = {"NCCL_DEBUG": "INFO", "NCCL_DEBUG_FILE": str(folder / "nccl.%h.%p")}
    if any(name in os.environ for name in ours):
        yield
        return
    os.environ.update(ours)
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def read_logs(folder: Path) -> str:
    """Returns what NCCL wrote into the folder; "" for nothing."""
    return "\n".join(
        file.read_text(encoding="utf-8", errors="replace") for file in sorted(folder.iterdir())
    )
