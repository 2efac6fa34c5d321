"""Memory of this process that the kernel cannot take back: now, and at its peak."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from yolodata.machine import give_back_memory, process_memory

_RESET = Path("/proc/self/clear_refs")


def anonymous_bytes() -> int:
    """Returns the bytes of this process that are no file's; those of files can be dropped.

    Raises:
        OSError: this system does not say.
    """
    sizes = process_memory()
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
    sizes = process_memory()
    # Files' pages are few and only grow here, so those of the end were there at the peak at most.
    taken.bytes = max(sizes["VmHWM"] - sizes["RssFile"] - before, 0)
