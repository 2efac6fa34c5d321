"""Which kind of source is this? One entrance for Ultralytics YAML, COCO JSON and Pascal VOC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yolodata.errors import ConfigError, DatasetError
from yolodata.ingest.sample import SPLITS, TASKS, Source
from yolodata.ingest.yolo import open_yolo

_JSON = (".json", ".json.gz", ".jsonl", ".ndjson")  # COCO's reader says what is wrong with others
FORMATS = ("auto", "yolo", "coco", "voc")


def open_source(
    source: str | Path | Mapping[str, Any],
    *,
    splits: Sequence[str] | None = None,
    format: str = "auto",
    images: str | Path | None = None,
    names: Sequence[str] | None = None,
    task: str = "detect",
) -> Source:
    """Finds out what `source` is, reads its description and lists its images; opens no image.

    Args:
        source: a dataset YAML, a COCO JSON, a folder of any of the three kinds, or the dict that
            Ultralytics' `check_det_dataset` returns.
        splits: some of "train", "val", "test"; all that are there by default.
        format: "yolo", "coco" or "voc", or "auto" to tell by suffix and content.
        images: folder of the images, for COCO and VOC.
        names: class names in order, for COCO and VOC; objects of others are dropped.
        task: with "pose", `kpt_shape` is required, and COCO's person_keypoints files are read.

    Raises:
        DatasetError: the source cannot be used.
        ConfigError: the arguments are wrong, or contradict each other.
    """
    if task not in TASKS:
        raise ConfigError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if format not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    for split in splits or ():
        if split not in SPLITS:
            raise ConfigError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    kind = tell_format(source) if format == "auto" else format
    if isinstance(source, Mapping) and kind != "yolo":
        raise ConfigError(f"format must be 'yolo' for a dict, got {kind!r}")
    if kind == "yolo" and images:
        raise ConfigError(
            "images must be left out for an Ultralytics YAML, which says itself where its images "
            f"are, got {str(images)!r}"
        )
    if kind == "yolo" and names:
        raise ConfigError(
            "names must be left out for an Ultralytics YAML, which has class names, got "
            f"{list(names)}"
        )
    if kind == "coco":
        from yolodata.ingest.coco import open_coco

        found = open_coco(_path(source), splits, images=images, names=names, task=task)
    elif kind == "voc":
        from yolodata.ingest.voc import open_voc

        found = open_voc(_path(source), splits, images=images, names=names)
    else:
        found = open_yolo(source, splits)
    if task == "pose" and found.kpt_shape is None:
        raise DatasetError(
            f"{found.origin}: task 'pose' needs 'kpt_shape: [number of keypoints, 2 or 3]' in the "
            "YAML, which has none."
        )
    return found


def _path(source: str | Path | Mapping[str, Any]) -> Path:
    assert not isinstance(source, Mapping)
    return Path(source)


def tell_format(source: str | Path | Mapping[str, Any]) -> str:
    """Tells "yolo", "coco" or "voc" by the suffix of a file or the content of a folder.

    Raises:
        DatasetError: the file does not exist, or the folder looks like more than one.
    """
    if isinstance(source, Mapping):
        return "yolo"
    path = Path(source)
    if path.name.lower().endswith(_JSON):
        if not path.is_file():
            raise DatasetError(
                f"'{path}' does not exist. Give a COCO JSON file, a dataset YAML or a folder."
            )
        return "coco"
    if not path.is_dir():
        return "yolo"
    from yolodata.ingest.voc import ANNOTATION_FOLDERS

    signs = {
        "yolo": [*path.glob("*.yaml"), *path.glob("*.yml")],
        "coco": [
            *path.glob("*.json"),
            *path.glob("annotations/*.json"),
            *path.glob("*/_annotations.coco.json"),
        ],
        "voc": [
            file for name in ANNOTATION_FOLDERS for file in list((path / name).glob("*.xml"))[:1]
        ],
    }
    kinds = [kind for kind, files in signs.items() if files]
    if len(kinds) > 1:
        raise DatasetError(
            f"'{path}' looks like {' and '.join(kinds)} "
            f"({', '.join(str(signs[kind][0]) for kind in kinds)}). "
            "Say which with --format, or give the path of the file."
        )
    return kinds[0] if kinds else "yolo"
