"""Memory of this process that the kernel cannot take back: now, and at its peak."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from yolodata.machine import give_back_memory

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")


def status() -> dict[str, int]:
    """Returns the sizes in `/proc/self/status` in bytes, by name.

    Raises:
        OSError: this system has no such file.
    """
    found = {}
    for line in _STATUS.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[name] = int(value.split()[0]) * 1024
    return found


def anonymous_bytes() -> int:
    """Returns the bytes of this process that are no file's; those of files can be dropped.

    Raises:
        OSError: this system does not say.
    """
    sizes = status()
    return sizes["RssAnon"] + sizes["RssShmem"]


@dataclass
class Taken:
    """Bytes that the process took at its peak beyond what it had; 0 while it is measured."""

    bytes: int = 0


@contextmanager
def peak_of_process() -> Iterator[Taken]:
    """Measures the peak of memory that is no file's while the context lasts.

    Raises:
        OSError: this system has no peak that can be begun anew.
    """
    give_back_memory()
    before = anonymous_bytes()
    _RESET.write_text("5", encoding="utf-8")  # the peak (VmHWM) is what there is now
    taken = Taken()
    yield taken
    sizes = status()
    # Files' pages are few and only grow here, so those of the end were there at the peak at most.
    taken.bytes = max(sizes["VmHWM"] - sizes["RssFile"] - before, 0)
