"""Which kind of source is this? One entrance for Ultralytics YAML, COCO JSON and Pascal VOC."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from yolodata.errors import ConfigError, DatasetError, ResourceError, lacking
from yolodata.ingest.dataset_yaml import dataset_yamls
from yolodata.ingest.json_file import JSON_FILES, found_in
from yolodata.ingest.limits import PATH_LENGTH, shortened
from yolodata.ingest.sample import TASKS, Source
from yolodata.ingest.unknown import near, refuse_folder, refuse_other_files
from yolodata.ingest.voc import has_annotations, open_voc
from yolodata.ingest.yolo import open_yolo
from yolodata.ingest.yolo_folder import names_files, open_yolo_folder
from yolodata.shards.data_yaml import is_of_shards
from yolodata.shards.format import DATASET_FILE, SPLITS

_JSON = (".json", ".json.gz", ".jsonl")  # COCO's reader says what is wrong with others
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
        ResourceError: the machine lacks memory.
    """
    if task not in TASKS:
        raise ConfigError(f"task must be one of {', '.join(TASKS)}, got {task!r}")
    if format not in FORMATS:
        raise ConfigError(f"format must be one of {', '.join(FORMATS)}, got {format!r}")
    for split in splits or ():
        if split not in SPLITS:
            raise ConfigError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
    try:
        found = _open(source, splits, format, images, names, task)
    except MemoryError as error:
        raise ResourceError(f"{source}: cannot be read: {lacking(error)}") from error
    except OSError as error:
        what = str(error.filename or source)
        what = what if len(what) <= PATH_LENGTH else shortened(what)
        raise DatasetError(
            f"{what}: cannot be read: {error.strerror or error}; restore it, or give another "
            "dataset"
        ) from error
    except RecursionError:
        raise DatasetError(
            f"{source}: has folders in folders, too deep to be a dataset; give one of them"
        ) from None
    if task == "pose" and found.kpt_shape is None:
        raise DatasetError(
            f"{found.origin}: 'kpt_shape' must be [number of keypoints, 2 or 3] for task 'pose', "
            "got none; add it to the YAML"
        )
    return found


def _open(
    source: str | Path | Mapping[str, Any],
    splits: Sequence[str] | None,
    format: str,
    images: str | Path | None,
    names: Sequence[str] | None,
    task: str,
) -> Source:
    if isinstance(source, str) and (scheme := re.match(r"[a-z][a-z0-9+.-]+://", source)):
        raise DatasetError(
            f"SOURCE must be a path, because yolodata does not download, got {scheme[0]}…; fetch "
            "it first, or let Ultralytics do it, and give the folder or its YAML"
        )
    if not isinstance(source, Mapping) and Path(source).is_file():
        refuse_other_files(Path(source))
        if Path(source).name == DATASET_FILE or is_of_shards(Path(source)):
            _refuse_shards(Path(source).parent)
    kind = tell_format(source) if format == "auto" else format
    if isinstance(source, Mapping) and kind != "yolo":
        raise ConfigError(f"format must be 'yolo' for a dict, got {kind!r}")
    if kind == "yolo" and images is not None:
        raise ConfigError(
            "images must be left out for an Ultralytics YAML, which says itself where its images "
            f"are, got {str(images)!r}"
        )
    if images is not None and not os.path.isdir(images):
        raise DatasetError(f"{images}: does not exist; give the folder of the images")
    if kind == "yolo" and names:
        raise ConfigError(
            "names must be left out for an Ultralytics YAML, which has class names, got "
            f"{list(names)}"
        )
    if kind == "coco":
        from yolodata.ingest.coco import open_coco

        return open_coco(_path(source), splits, images=images, names=names, task=task)
    if kind == "voc":
        return open_voc(_path(source), splits, images=images, names=names)
    if not isinstance(source, Mapping) and _is_yolo_folder(Path(source)):
        return open_yolo_folder(Path(source), splits)
    return open_yolo(source, splits)


def _is_yolo_folder(path: Path) -> bool:
    """Whether a folder has class names and no YAML of a dataset."""
    return path.is_dir() and bool(names_files(path)) and not dataset_yamls(path)


def _path(source: str | Path | Mapping[str, Any]) -> Path:
    assert not isinstance(source, Mapping)
    return Path(source)


def tell_format(source: str | Path | Mapping[str, Any]) -> str:
    """Tells "yolo", "coco" or "voc" by the suffix of a file or the content of a folder.

    Raises:
        DatasetError: the source does not exist, is no dataset, or looks like more than one.
    """
    if isinstance(source, Mapping):
        return "yolo"
    path = Path(source)
    if path.is_dir():
        return _folder_format(path)
    if path.name.lower().endswith(_JSON):
        if not path.is_file():
            raise DatasetError(
                f"{path}: does not exist; give a COCO JSON file, a dataset YAML or a folder"
            )
        return "coco"
    return "yolo"


def lacks_yaml(source: str | Path) -> str | None:
    """Says what a source is that has no YAML, so that Ultralytics cannot read it; else None."""
    path = Path(source)
    try:
        if path.is_dir() and dataset_yamls(path, deep=True):
            return None
        kind = tell_format(path)
    except (DatasetError, OSError):
        return None
    if kind == "yolo":
        return "a YOLO folder without a YAML" if _is_yolo_folder(path) else None
    return {"coco": "COCO", "voc": "Pascal VOC"}[kind]


def _folder_format(path: Path) -> str:
    signs = _signs(path)
    kinds = list(signs)
    if len(kinds) > 1:
        raise DatasetError(
            f"{path}: looks like {' and '.join(kinds)} "
            f"({', '.join(str(signs[kind][0]) for kind in kinds)}); "
            "say which with --format, or give the path of the file"
        )
    if kinds:
        return kinds[0]
    _refuse_shards(path)
    if dataset_yamls(path, deep=True):
        return "yolo"
    if refusal := refuse_folder(path, [place for place in near(path) if _signs(place)]):
        raise refusal
    return "coco"  # which says what a JSON file here lacks


def _signs(path: Path) -> dict[str, list[Path]]:
    """Files in a folder that tell a format."""
    names, annotations = names_files(path), has_annotations(path)
    signs = {
        "yolo": dataset_yamls(path) or ([] if annotations else names),
        "coco": [
            *(file for file in sorted(path.glob(JSON_FILES)) if _looks_like_coco(file)),
            *path.glob(f"annotations/{JSON_FILES}"),
            *path.glob("*/_annotations.coco.json"),
        ],
        "voc": annotations,
    }
    return {kind: files for kind, files in signs.items() if files}


def _refuse_shards(path: Path) -> None:
    places = (path, *(path / split for split in SPLITS))
    packed = next((place for place in places if (place / "labels.safetensors").is_file()), None)
    if packed is not None:
        raise DatasetError(
            f"{path}: is packed already: '{packed}' holds shards; look at them with `yolodata "
            f"info {path}`, or give the dataset of which they were made"
        )


def _looks_like_coco(file: Path) -> bool:
    """Whether a JSON file holds the words of COCO's lists; it is not parsed."""
    try:
        return all(found_in(file, b'"images"', b'"annotations"').values())
    except OSError:
        return True  # reading it says what is wrong
