"""What this process may use of its machine."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from yolodata import cgroup
from yolodata.errors import ResourceError
from yolodata.terminal import size_text

_HUGE = 4 << 20  # bytes of memory that is worth huge pages

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def usable_cores() -> tuple[int, ...]:
    """Numbers of the cores that this process may run on, sorted; all where that is not known."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def allowed_cores() -> tuple[int, ...]:
    """Numbers of the cores that this process could give itself, sorted.

    These are more than the usable ones where somebody only chose fewer (taskset, a launcher), and
    fewer than the machine's where a control group (cpuset) forbids the others.
    """
    if not hasattr(os, "sched_setaffinity"):
        return usable_cores()
    found = usable_cores()

    def widen() -> None:
        nonlocal found
        # The kernel leaves out what is forbidden, and refuses where nothing remains.
        try:
            os.sched_setaffinity(0, range(os.sysconf("SC_NPROCESSORS_CONF")))
        except OSError:
            return
        found = usable_cores()

    # Affinity belongs to a thread, and that of this one ends with it.
    thread = threading.Thread(target=widen, name="allowed-cores")
    thread.start()
    thread.join()
    return found


def available_memory(root: Path = cgroup.ROOT) -> int:
    """Bytes of memory that can still be used: of the machine's, within a control group's limit."""
    import psutil

    free = int(psutil.virtual_memory().available)
    limited = cgroup.memory_free(root)
    return free if limited is None else min(free, limited)


def process_memory() -> dict[str, int]:
    """Returns the sizes in `/proc/self/status` in bytes, by name: VmHWM, RssAnon, RssFile, ….

    Raises:
        OSError: this system has no such file.
    """
    found = {}
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if value.endswith(" kB"):
            found[name] = int(value.split()[0]) * 1024
    return found


def give_back_memory() -> None:
    """Gives memory that was freed, and that the allocator kept, back to the system.

    Note [freed is not given back]. Batches and images are freed in any order, by several threads,
    each with a heap of its own. glibc keeps what lies between pieces in use, which this gives back,
    and up to 64 MB at the top of the heap of each thread, also of one that has ended, which nothing
    gives back. So large memory of threads is taken from the system itself: `fresh_memory`. Other
    allocators than glibc's have no such function; nothing happens there.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def fresh_memory(nbytes: int) -> npt.NDArray[np.uint8]:
    """Takes zeroed memory uint8 (nbytes,) from the system, which has it back when it is forgotten.

    For what is large and used again: the system makes each page when it is first touched.

    Raises:
        ResourceError: there is not as much.
    """
    import numpy as np

    try:
        pages = mmap.mmap(-1, max(nbytes, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, OverflowError) as error:
        raise ResourceError(
            f"out of memory: {size_text(nbytes)} cannot be had at once; give a smaller batch or "
            "smaller pictures, or end other processes"
        ) from error
    if nbytes >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # advice, which NumPy gives for its own memory, too
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, np.uint8, nbytes)


def ranks_here(world_size: int = 1) -> int:
    """Ranks that share this machine, as torchrun says; without it, all there are."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 0)) or world_size


def usable_threads(world_size: int) -> int:
    """Native threads of one rank when the ranks of a machine share its cores."""
    return max(1, len(usable_cores()) // ranks_here(world_size))
