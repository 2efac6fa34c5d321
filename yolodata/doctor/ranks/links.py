"""What could carry data between the ranks: GPUs, InfiniBand, interfaces; read, not timed."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NETWORKS = Path("/sys/class/net")
INFINIBAND = Path("/sys/class/infiniband")
_SIOCGIFADDR = 0x8915  # asks the kernel for an interface's IPv4 address


@dataclass(frozen=True)
class Links:
    """What could carry data between ranks, as this process sees it.

    Attributes:
        gpus: that torch finds here.
        peer_access: every GPU here reaches every other one's memory; None where that is not known.
        infiniband: devices, each with its rate in Mbit/s (0 where it does not say).
        interfaces: network interfaces that are up, each with its rate in Mbit/s (0 where it does
            not say).
        used: the interface that leads to the other ranks; "" where none was found.
        fake: replaced by a probe.
    """

    gpus: int = 0
    peer_access: bool | None = None
    infiniband: Mapping[str, float] = field(default_factory=dict)
    interfaces: Mapping[str, float] = field(default_factory=dict)
    used: str = ""
    fake: bool = False

    @property
    def rate(self) -> float:
        """Mbit/s of what leads to other machines; 0 where nothing says it."""
        if self.infiniband:
            return max(self.infiniband.values())
        return self.interfaces.get(self.used, 0.0)


def find_links(probe: Mapping[str, Any] | None) -> Links:
    """Returns what is there.

    Args:
        probe: what a test puts in its place, the attributes of `Links` as plain values.
    """
    if probe is not None:
        return Links(**{**probe, "fake": True})
    gpus, peers = _gpus()
    interfaces = {}
    for folder in sorted(NETWORKS.glob("*")):
        if _text(folder / "operstate") in ("up", "unknown"):
            interfaces[folder.name] = max(0.0, float(_text(folder / "speed") or 0))
    infiniband = {}
    for folder in sorted(INFINIBAND.glob("*")):
        rate = re.match(r"[\d.]+", _text(folder / "ports" / "1" / "rate"))
        infiniband[folder.name] = float(rate.group()) * 1e3 if rate else 0.0
    return Links(gpus, peers, infiniband, interfaces, _used(interfaces))


def selected(value: str, interfaces: Mapping[str, float]) -> list[str]:
    """Returns the interfaces that NCCL_SOCKET_IFNAME or GLOO_SOCKET_IFNAME allows.

    Args:
        value: names separated by commas, of which each is a prefix; "=" before them asks for the
            exact names, "^" for all others.
        interfaces: that are there.
    """
    without, exact = value.startswith("^"), "=" in value[:2]
    names = [name for name in value.lstrip("^=").split(",") if name]

    def named(interface: str) -> bool:
        return any(interface == n if exact else interface.startswith(n) for n in names)

    return [interface for interface in interfaces if named(interface) != without]


def _gpus() -> tuple[int, bool | None]:
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count < 2:
        return count, None
    pairs = [(a, b) for a in range(count) for b in range(count) if a != b]
    return count, all(torch.cuda.can_device_access_peer(a, b) for a, b in pairs)


def _used(interfaces: Mapping[str, float]) -> str:
    """The interface with the address from which the machine of rank 0 is reached."""
    named = os.environ.get("GLOO_SOCKET_IFNAME", "").split(",")[0]
    if named in interfaces:
        return named
    host = os.environ.get("MASTER_ADDR")
    if not host:
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        try:
            asked.connect((host, 9))  # sends nothing
            own = asked.getsockname()[0]
            for name in interfaces:
                words = struct.pack("256s", name.encode()[:15])
                try:
                    answer = fcntl.ioctl(asked.fileno(), _SIOCGIFADDR, words)
                except OSError:  # it has no address
                    continue
                if socket.inet_ntoa(answer[20:24]) == own:
                    return name
        except OSError:
            return ""
    return ""


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):  # `speed` cannot be read of some interfaces
        return ""
