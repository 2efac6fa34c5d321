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
