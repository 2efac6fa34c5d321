"""Every error that yolodata raises on purpose.

A message says what is wrong, what is allowed, what was given and what to do.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager


class YolodataError(Exception):
    """Base class of all errors raised by yolodata.

    Where a docstring says so, Python's own are raised too (IndexError, ValueError of a recipe).
    """


class DatasetError(YolodataError, ValueError):
    """A source dataset (YOLO, COCO, VOC) cannot be used as it is."""


class ShardError(YolodataError, OSError):
    """A shard dataset on disk is missing, incomplete or damaged.

    When packing: the output holds another dataset, cannot be written, or has no room.
    """


class ConfigError(YolodataError, ValueError):
    """A setting is out of range, contradicts another one, or is not supported."""


class ArgumentError(ConfigError, TypeError):
    """An argument belongs elsewhere; says where, and how it is given there."""


class ResourceError(YolodataError, RuntimeError):
    """The machine lacks memory, threads or open files, or cannot read a disk; no data is wrong."""


class CallbackError(YolodataError, RuntimeError):
    """The file of `yolodata.callbacks=` raised an error, which is the cause of this one."""


# How torch, CUDA, OpenCV, cuBLAS, cuDNN, DALI, its decoders and the dynamic linker say that memory
# could not be had.
_NO_MEMORY = (
    "out of memory", "bad_alloc", "can't allocate", "cannot allocate", "cuda allocation failed",
    "alloc_failed", "allocator_failure", "cudnn_status_internal_error", "unable to find an engine",
    "insufficient memory", "failed to map segment",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory, and not that something is wrong."""
    said = str(error).lower()
    if isinstance(error, MemoryError) or any(text in said for text in _NO_MEMORY):
        return True
    # OpenCV may go on after Python had no memory for an array; what it returns then is the cause of
    # this error.
    return isinstance(error, SystemError) and isinstance(error.__cause__, MemoryError)


def lacking(error: BaseException) -> str:
    """Says what the machine lacks if that is what an error is about, and what to do; else ""."""
    if is_out_of_memory(error):
        return (
            "memory does not suffice; end other processes, or use fewer threads (workers=, "
            "--workers)"
        )
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return "too many files are open; raise the limit (`ulimit -n`)"
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    saving = "inline_container" in str(error) and "unexpected pos" in str(error)  # torch.save
    if full or saving:
        return "the disk is full, or a quota is used up; make room, and run the same command again"
    if isinstance(error, RuntimeError) and "can't start new thread" in str(error):
        return (
            "no more threads can be started; raise the limit (`ulimit -u`, or that of the "
            "container), or use fewer (workers=, --workers)"
        )
    return ""


@contextmanager
def starting(process: str) -> Iterator[None]:
    """Explains why a process cannot be started.

    Args:
        process: what it is, in words.

    Raises:
        ResourceError: it cannot be started.
    """
    try:
        yield
    except OSError as error:
        why = lacking(error)
        if error.errno == errno.EAGAIN:
            why = "no more can be started; raise the limit (`ulimit -u`, or that of the container)"
        raise ResourceError(f"{process} cannot be started: {why or error}") from error
