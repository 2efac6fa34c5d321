"""File systems that this process sees, from /proc/self/mountinfo."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")

# fmt: off
NETWORK = frozenset((
    "9p", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "glusterfs", "gpfs", "lustre", "ncpfs",
    "nfs", "nfs4", "ocfs2", "orangefs", "pvfs2", "smb3", "smbfs", "virtiofs", "wekafs",
))
# fmt: on


@dataclass(frozen=True)
class Mount:
    """One mounted file system.

    Attributes:
        root: the folder of the file system that is mounted; "/" for all of it.
        point: where it is mounted.
        kind: the kernel's word for the file system, such as "ext4"; "" where nothing is known.
        options: of the file system (the "super options").
    """

    root: str = "/"
    point: str = "/"
    kind: str = ""
    options: tuple[str, ...] = ()

    @property
    def where(self) -> str:
        """Where the bytes are: "memory", "network", "fuse", "overlay", "local" or "unknown"."""
        if self.kind in NETWORK:
            return "network"
        if self.kind == "fuse" or self.kind.startswith("fuse."):
            return "fuse"
        if self.kind in ("tmpfs", "ramfs", "devtmpfs"):
            return "memory"
        if self.kind == "overlay":
            return "overlay"
        return "local" if self.kind else "unknown"


def mounts(file: Path = MOUNTS) -> list[Mount]:
    """All mounts, in the order in which they were made; none where that is unknown."""
    try:
        lines = file.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        before, _, after = line.partition(" - ")
        fields, rest = before.split(), after.split()
        if len(fields) >= 5 and rest:
            options = tuple(rest[2].split(",")) if len(rest) > 2 else ()
            found.append(Mount(_plain(fields[3]), _plain(fields[4]), rest[0], options))
    return found


def mount_of(path: str | os.PathLike[str], file: Path = MOUNTS) -> Mount:
    """The mount that a file or folder is on; one without a kind where that is unknown."""
    place = os.path.realpath(path)
    best = Mount(point="")
    for mount in mounts(file):
        inside = place == mount.point or place.startswith(mount.point.rstrip("/") + "/")
        if inside and len(mount.point) >= len(best.point):  # a later mount hides an earlier one
            best = mount
    return best


def _plain(text: str) -> str:
    """Undoes the kernel's escapes: \\040 is a space."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text)
