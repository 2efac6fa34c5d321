"""Ultralytics datasets: a YAML file, in every form upstream allows, to images and label files.

Nothing is downloaded here. Paths are resolved as upstream resolves them: `path` against the working
directory and then against Ultralytics' datasets folder, the splits against `path`.
"""

from __future__ import annotations

import glob
import json
import os
import re
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from yolodata.errors import DatasetError
from yolodata.images.formats import IMAGE_SUFFIXES
from yolodata.ingest.sample import SPLITS, RawLabels, Source, Split

_KEY_TYPES: dict[str, tuple[type, ...]] = {
    "path": (str, Path),
    "train": (str, list),
    "val": (str, list),
    "test": (str, list),
    "names": (list, dict),
    "kpt_shape": (list, tuple),
    "flip_idx": (list, tuple),
}
_NOT_IN_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")


class YoloSplit(Split):
    """Images of one split and their text label files."""

    def __init__(self, paths: list[str], unlisted: dict[str, str]) -> None:
        self.paths = paths
        self.unlisted = unlisted

    def raw_labels(self, index: int) -> RawLabels:
        """Reads the label file of image `index`; an absent one means background."""
        label_file = label_path(self.paths[index])
        try:
            with open(label_file, "rb", buffering=0) as file:
                return RawLabels(file.read())
        except OSError:
            if os.path.isfile(label_file):
                raise
            return RawLabels(None)

    def label_files(self) -> Sequence[str]:
        """Gives the path of every image's label file, which need not exist."""
        return [label_path(path) for path in self.paths]


def label_path(image: str) -> str:
    """Gives an image's label file: the last folder `images` becomes `labels`, the suffix `.txt`."""
    here, there = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
    return there.join(image.rsplit(here, 1)).rsplit(".", 1)[0] + ".txt"


def read_yaml(file: Path) -> dict[str, Any]:
    """Parses a dataset YAML.

    Raises:
        DatasetError: the syntax is wrong (in the parser's own words), or it is no mapping.
    """
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    if file.suffix.lower() not in (".yaml", ".yml"):
        raise DatasetError(
            f"'{file}': the name of a dataset YAML must end in .yaml or .yml; rename the file"
        )
    text = file.read_text(encoding="utf-8", errors="ignore")
    try:
        data = yaml.load(text, Loader=loader)
    except yaml.YAMLError as error:
        try:
            data = yaml.load(_NOT_IN_YAML.sub("", text), Loader=loader)
        except yaml.YAMLError:
            raise DatasetError(
                f"YAML syntax error in '{file}': {error}. Correct the file."
            ) from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise DatasetError(
            f"'{file}' must hold a mapping with the keys train, val and names, got a "
            f"{type(data).__name__}; correct the file"
        )
    return data


def find_yaml(source: Path) -> Path:
    """Finds the YAML file that `source` means: itself, the one in a folder, or Ultralytics' own.

    Raises:
        DatasetError: there is none, or more than one.
    """
    if source.is_file():
        return source
    if not source.exists() and (named := _named_yaml(source)):
        return named
    if not source.is_dir():
        raise DatasetError(
            f"Dataset '{source}' does not exist. Give the path of a dataset YAML, or of a folder "
            "with one. "
            "yolodata does not download: let Ultralytics fetch the dataset first."
        )
    found: list[Path] = []
    for pattern in ("*.yaml", "*.yml"):
        found = found or sorted(source.glob(pattern)) or sorted(source.rglob(pattern))
    if len(found) > 1:
        found = [file for file in found if file.stem == source.stem] or found
    if not found:
        raise DatasetError(f"No YAML file in '{source}'. Give the path of the dataset YAML.")
    if len(found) > 1:
        raise DatasetError(
            f"{len(found)} YAML files in '{source}', and none alone is named '{source.stem}': "
            f"{', '.join(map(str, found[:5]))}. Give the path of one of them."
        )
    return found[0]


def _named_yaml(name: Path) -> Path | None:
    """What a bare name (coco8, coco8.yaml) stands for: a YAML here, or one that Ultralytics brings.

    Its folder is looked for; nothing of it is imported.
    """
    package = find_spec("ultralytics")
    roots = (package and package.submodule_search_locations) or []
    if name.name != str(name):
        return None
    whole = name.suffix in (".yaml", ".yml")
    names = [name] if whole else [Path(f"{name}{suffix}") for suffix in (".yaml", ".yml")]
    folders = [Path(), *(Path(root) / "cfg" / "datasets" for root in roots)]
    files = (folder / file for folder in folders for file in names)
    return next((file for file in files if file.is_file()), None)


def open_yolo(
    source: str | Path | Mapping[str, Any], wanted: Sequence[str] | None = None
) -> Source:
    """Reads an Ultralytics dataset and lists its images.

    Args:
        source: a YAML file, a folder with one, or the dict that upstream's `check_det_dataset`
            returns.
        wanted: the splits to list; by default train, val, and test where it is given and exists.

    Raises:
        DatasetError: what upstream refuses too: a missing `train` or `val`, neither `names` nor
            `nc`, different counts of them, values of a wrong type, paths that do not exist.
    """
    if isinstance(source, Mapping):
        data, origin = dict(source), str(source.get("yaml_file") or source.get("path") or "a dict")
        home = Path(str(source.get("yaml_file") or "")).parent
    else:
        file = find_yaml(Path(source))
        data, origin, home = read_yaml(file), str(file), file.parent
    _check_keys(data, origin)
    names = _class_names(data, origin)
    shape, flip = _keypoints(data, origin)
    root = _root(data, home, origin)
    folders: set[str] = set()
    splits: dict[str, YoloSplit] = {}
    for split in wanted or SPLITS:
        if not data.get(split):
            if wanted:
                raise DatasetError(
                    f"{origin}: no '{split}'; given are {[s for s in SPLITS if data.get(s)]}."
                )
            continue
        entries = _resolve(root, data[split])
        absent = [entry for entry in entries if not os.path.exists(entry)]
        if absent and split == "test" and not wanted:  # optional upstream too
            continue
        if absent:
            raise DatasetError(
                f"{origin}: '{split}: {absent[0]}' does not exist; every entry must be a folder "
                f"with images or a text file that lists them, relative to '{root}'. Correct the "
                "YAML, or let Ultralytics download the dataset first; yolodata does not download."
            )
        folders.update(entry for entry in entries if os.path.isdir(entry))
        splits[split] = _list_images(entries, f"{origin}: {split}")
    if not splits:
        raise DatasetError(
            f"{origin}: 'train' and 'val' are both empty, so that there is nothing to read. Give "
            "at least one of them a folder with images, or a text file that lists them."
        )
    return Source(origin, "yolo", names, splits, shape, flip, tuple(sorted(folders)))


def _check_keys(data: dict[str, Any], origin: str) -> None:
    for key, types in _KEY_TYPES.items():
        value = data.get(key)
        if value is not None and not isinstance(value, types):
            allowed = " or ".join(t.__name__ for t in types if t is not Path)
            raise DatasetError(
                f"{origin}: '{key}' must be a {allowed}, got {value!r}; correct the YAML"
            )
    if "val" not in data and "validation" in data:
        data["val"] = data.pop("validation")
    for key in ("train", "val"):
        if key not in data:
            raise DatasetError(
                f"{origin}: the key '{key}' is missing. Ultralytics requires both 'train' and "
                "'val'; its keys are "
                f"{sorted(map(str, data))}. Add '{key}: FOLDER-OR-LIST'."
            )
    for key in ("train", "val", "test"):
        value = data.get(key)
        if isinstance(value, list) and not all(isinstance(entry, str) for entry in value):
            raise DatasetError(
                f"{origin}: '{key}' must list paths only, got {value!r}; correct the YAML"
            )
    channels = data.get("channels", 3)
    if channels != 3:
        raise DatasetError(
            f"{origin}: 'channels: {channels}' is not supported; shards hold 3 channels. Train "
            "this dataset with "
            "Ultralytics' own loader."
        )


def _class_names(data: dict[str, Any], origin: str) -> dict[int, str]:
    names, nc = data.get("names"), None
    if names is None and "nc" not in data:
        raise DatasetError(
            f"{origin}: neither 'names' nor 'nc' is given. Add 'names:' with one name per class."
        )
    if "nc" in data:
        try:
            nc = int(float(data["nc"]))
            if nc != float(data["nc"]):
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            raise DatasetError(
                f"{origin}: 'nc' must be a whole number, got {data['nc']!r}; correct the YAML"
            ) from None
    if names is None:
        names = [f"class_{k}" for k in range(nc or 0)]
    elif nc is not None and len(names) != nc:
        raise DatasetError(
            f"{origin}: 'nc' must be the number of 'names' ({len(names)}), got {nc}; correct it"
        )
    try:
        named = (
            dict(enumerate(names))
            if isinstance(names, list)
            else {int(k): v for k, v in names.items()}
        )
    except (TypeError, ValueError):
        raise DatasetError(
            f"{origin}: the keys of 'names' must be class numbers, got {list(names)[:5]}; correct "
            "the YAML"
        ) from None
    if not named:
        raise DatasetError(f"{origin}: no classes. 'names' needs at least one.")
    if sorted(named) != list(range(len(named))):
        raise DatasetError(
            f"{origin}: {len(named)} 'names' must be numbered 0 to {len(named) - 1}, got "
            f"{sorted(named)[:10]}; correct the YAML"
        )
    return {k: str(named[k]) for k in range(len(named))}


def _keypoints(
    data: dict[str, Any], origin: str
) -> tuple[tuple[int, int] | None, tuple[int, ...] | None]:
    shape, flip = data.get("kpt_shape"), data.get("flip_idx")
    if shape is None:
        return None, None
    if (
        len(shape) != 2
        or not all(isinstance(x, int) for x in shape)
        or shape[0] < 0
        or shape[1] not in (0, 2, 3)
    ):
        raise DatasetError(
            f"{origin}: 'kpt_shape' must be [number of keypoints, 2 for x y or 3 for x y visible], "
            f"got {list(shape)}; correct the YAML"
        )
    if not shape[0] or not shape[1]:
        return None, None
    if flip and not (
        all(isinstance(x, int) for x in flip) and sorted(flip) == list(range(shape[0]))
    ):
        raise DatasetError(
            f"{origin}: 'flip_idx' must name each of the keypoints 0 to {shape[0] - 1} once, got "
            f"{list(flip)}; correct the YAML"
        )
    return (shape[0], shape[1]), tuple(flip) if flip else None


def _datasets_folder() -> Path:
    """Ultralytics' `datasets_dir`: from its settings file, without importing it, or its default."""
    config = os.getenv("YOLO_CONFIG_DIR") or os.getenv("XDG_CONFIG_HOME") or "~/.config"
    settings = Path(config).expanduser() / "Ultralytics" / "settings.json"
    try:
        return Path(json.loads(settings.read_text(encoding="utf-8"))["datasets_dir"])
    except (OSError, ValueError, KeyError, TypeError):
        return Path.cwd() / "datasets"


def _root(data: dict[str, Any], home: Path, origin: str) -> Path:
    path = Path(data.get("path") or home)
    if path.exists() or path.is_absolute():
        return path
    datasets = _datasets_folder()
    if (datasets / path).exists():
        return (datasets / path).resolve()
    raise DatasetError(
        f"{origin}: 'path: {path}' is neither in '{Path.cwd()}' nor in Ultralytics' datasets "
        f"folder '{datasets}'. "
        "A relative 'path' starts there, not at the YAML; write an absolute one, leave 'path' out "
        "to start at the YAML's folder, or let Ultralytics download the dataset first; yolodata "
        "does not download."
    )


def _resolve(root: Path, value: str | list[str]) -> list[str]:
    if isinstance(value, list):
        return [str((root / entry).resolve()) for entry in value]
    path = (root / value).resolve()
    if not path.exists() and value.startswith("../"):
        path = (root / value[3:]).resolve()
    return [str(path)]


def _list_images(entries: list[str], where: str) -> YoloSplit:
    """All images of a split, sorted by path as upstream does; a repeated path stays repeated."""
    found: list[str] = []
    unlisted: dict[str, str] = {}
    for entry in entries:
        if os.path.isdir(entry):
            found += (p for p in _walk(entry) if _suffix(p) in IMAGE_SUFFIXES)
            continue
        for path in _read_list(Path(entry), where):
            if _suffix(path) in IMAGE_SUFFIXES:
                found.append(path)
            elif path.strip():
                unlisted[path] = f"listed in {entry}, but its suffix is not that of an image"
    if not found:
        raise DatasetError(
            f"{where}: no images in {', '.join(entries)}. Image files end in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}."
        )
    return YoloSplit(sorted(path.replace("/", os.sep) for path in found), unlisted)


def _suffix(path: str) -> str:
    return path.rpartition(".")[-1].lower()


def _walk(folder: str) -> list[str]:
    """Files with a dot in their name, in all folders below; no hidden ones, links followed."""
    return glob.glob(os.path.join(glob.escape(folder), "**", "*.*"), recursive=True)


def _read_list(file: Path, where: str) -> list[str]:
    """Lines of an image list; './' means the list's own folder, else the working directory."""
    try:
        lines = file.read_text(encoding="utf-8-sig").strip().splitlines()
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{where}: the image list '{file}' must be UTF-8 text, got {error}; save it as UTF-8"
        ) from None
    return [f"{file.parent}{os.sep}{line[2:]}" if line.startswith("./") else line for line in lines]
