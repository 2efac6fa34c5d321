"""Every error that yolodata raises on purpose.

A message says what is wrong, what is allowed, what was given and what to do.
"""

from __future__ import annotations


class YolodataError(Exception):
    """Base class of all errors raised by yolodata."""


class DatasetError(YolodataError, ValueError):
    """A source dataset (YOLO, COCO, VOC) cannot be used as it is."""


class ShardError(YolodataError, OSError):
    """A shard dataset on disk is missing, incomplete or damaged."""


class ConfigError(YolodataError, ValueError):
    """A setting is out of range, contradicts another one, or is not supported."""


class ArgumentError(ConfigError, TypeError):
    """An argument belongs elsewhere; says where, and how it is given there."""


# How torch, CUDA, cuBLAS, cuDNN, DALI and its decoders say that memory could not be had.
_NO_MEMORY = (
    "out of memory", "bad_alloc", "can't allocate", "cannot allocate", "cuda allocation failed",
    "alloc_failed", "allocator_failure", "cudnn_status_internal_error", "unable to find an engine",
)  # fmt: skip


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that there is no memory, and not that something is wrong."""
    said = str(error).lower()
    return isinstance(error, MemoryError) or any(text in said for text in _NO_MEMORY)
