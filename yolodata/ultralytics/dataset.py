"""A split of the dataset that Ultralytics' arguments name: its shards, and what of them counts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ultralytics.data.utils import get_split_fraction
from ultralytics.utils import RANK

from yolodata.arguments import check_text
from yolodata.errors import ConfigError
from yolodata.machine import usable_threads
from yolodata.pipeline.options import LabelOptions
from yolodata.shards import ShardDataset, splits
from yolodata.shards import open as open_shards
from yolodata.shards.data_yaml import DATA_YAML
from yolodata.ultralytics.auto_pack import is_shards, packed
from yolodata.ultralytics.settings import Settings


def shards_of(data: Any) -> Any:
    """`data=` as it was given; the folder of shards for the data.yaml in it.

    Raises:
        ConfigError: it is one split of a folder of shards, no path, or not UTF-8.
    """
    if data is None:
        return None
    if not isinstance(data, (str, Path)):
        hint = f"; a folder of this name is written data=./{data}" if isinstance(data, int) else ""
        raise ConfigError(f"data must be a YAML file or a folder, got {data!r}{hint}")
    check_text("data", str(data))
    path = Path(data)
    if path.name == DATA_YAML and splits(path.parent):
        return str(path.parent)
    if path in splits(path.parent).values():
        raise ConfigError(f"data={data} is one split of a folder of shards; give {path.parent}")
    return data


def open_split(
    args: Any, data: Mapping[str, Any], split: str, settings: Settings, task: str
) -> ShardDataset:
    """The shards of a split: of the folder that `args.data` names, or packed from its YAML.

    Args:
        args: Ultralytics' arguments; `imgsz` is one number of pixels already.
        data: the dataset as `check_det_dataset` describes it.
        split: "train", "val" or "test".
        settings: where datasets are packed to, and how.
        task: "detect", "segment", "pose" or "obb".
    """
    if is_shards(args.data):
        return open_shards(args.data, split=split)
    return packed(
        dict(data),
        split,
        int(args.imgsz),
        settings,
        single_cls=bool(args.single_cls),
        task="pose" if task == "pose" else "detect",  # others decide alike
        show=RANK in {-1, 0},
    )


def label_options(args: Any, data: Mapping[str, Any], split: str, task: str) -> LabelOptions:
    """Which images and objects of a split take part, and as what."""
    # Of a dataset that was downloaded by its list (NDJSON), upstream took the share then.
    fraction = 1.0 if data.get("complete") else get_split_fraction(args.fraction, split)
    classes = [args.classes] if isinstance(args.classes, int) else args.classes
    return LabelOptions(
        task,
        classes,
        bool(args.single_cls),
        fraction,
        int(args.mask_ratio),
        bool(args.overlap_mask),
    )


def loader_threads(settings: Settings, device: str, workers: int, world_size: int) -> int:
    """Native threads that make batches, in one of `world_size` processes on a kind of device."""
    if settings.threads is not None:
        return settings.threads
    if device == "cpu":  # upstream sets workers=0 there; torch needs the cores
        return max(1, usable_threads(world_size) // 4)
    return max(1, min(workers, usable_threads(world_size)))
