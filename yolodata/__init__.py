"""A high-performance data-loading engine for training YOLO detectors.

Importing this package is quick: names are looked up when they are first used.
"""

from __future__ import annotations

from importlib import import_module

from yolodata.version import __version__ as __version__

TYPE_CHECKING = False  # as type checkers know it; `typing` may be a file of the working folder
if TYPE_CHECKING:
    from typing import Any

    from yolodata._native import Recipe
    from yolodata.errors import (
        ConfigError,
        DatasetError,
        ResourceError,
        ShardError,
        YolodataError,
    )
    from yolodata.ingest import PackSettings, pack
    from yolodata.pipeline.classes import (
        AugmentConfig,
        DeviceOptions,
        EpochOptions,
        LabelOptions,
        Loader,
        Ranks,
        ReadOptions,
        ValidationLoader,
    )
    from yolodata.pipeline.recipe import labels, plan, render
    from yolodata.shards import ShardDataset
    from yolodata.shards import open as open_shards
    from yolodata.ultralytics.trainer import (
        DetectionTrainer,
        OBBTrainer,
        PoseTrainer,
        SegmentationTrainer,
    )
    from yolodata.ultralytics.validator import (
        DetectionValidator,
        OBBValidator,
        PoseValidator,
        SegmentationValidator,
    )

__all__ = [
    "AugmentConfig",
    "ConfigError",
    "DatasetError",
    "DetectionTrainer",
    "DetectionValidator",
    "DeviceOptions",
    "EpochOptions",
    "LabelOptions",
    "Loader",
    "OBBTrainer",
    "OBBValidator",
    "PackSettings",
    "PoseTrainer",
    "PoseValidator",
    "Ranks",
    "ReadOptions",
    "Recipe",
    "ResourceError",
    "SegmentationTrainer",
    "SegmentationValidator",
    "ShardDataset",
    "ShardError",
    "ValidationLoader",
    "YolodataError",
    "labels",
    "open_shards",
    "pack",
    "plan",
    "render",
]

_PLACES = {
    "AugmentConfig": "pipeline.classes",
    "ConfigError": "errors",
    "DatasetError": "errors",
    "DetectionTrainer": "ultralytics.trainer",
    "DetectionValidator": "ultralytics.validator",
    "DeviceOptions": "pipeline.classes",
    "EpochOptions": "pipeline.classes",
    "LabelOptions": "pipeline.classes",
    "Loader": "pipeline.classes",
    "OBBTrainer": "ultralytics.trainer",
    "OBBValidator": "ultralytics.validator",
    "PackSettings": "ingest",
    "PoseTrainer": "ultralytics.trainer",
    "PoseValidator": "ultralytics.validator",
    "Ranks": "pipeline.classes",
    "ReadOptions": "pipeline.classes",
    "Recipe": "_native",
    "ResourceError": "errors",
    "SegmentationTrainer": "ultralytics.trainer",
    "SegmentationValidator": "ultralytics.validator",
    "ShardDataset": "shards",
    "ShardError": "errors",
    "ValidationLoader": "pipeline.classes",
    "YolodataError": "errors",
    "labels": "pipeline.recipe",
    "open_shards": "shards",
    "pack": "ingest",
    "plan": "pipeline.recipe",
    "render": "pipeline.recipe",
}

_RENAMED = {"open_shards": "open"}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), _RENAMED.get(name, name))
