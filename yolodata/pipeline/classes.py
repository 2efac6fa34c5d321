"""The classes that users give arguments to, together: of each it is known what it takes.

So an argument in the wrong place is told where it belongs (`misplaced`).
"""

from __future__ import annotations

from yolodata.pipeline.config import AugmentConfig
from yolodata.pipeline.loader import Loader
from yolodata.pipeline.options import DeviceOptions, EpochOptions, LabelOptions, Ranks, ReadOptions
from yolodata.pipeline.validation import ValidationLoader

__all__ = [
    "AugmentConfig",
    "DeviceOptions",
    "EpochOptions",
    "LabelOptions",
    "Loader",
    "Ranks",
    "ReadOptions",
    "ValidationLoader",
]
