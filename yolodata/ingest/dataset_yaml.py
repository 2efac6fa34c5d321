"""The YAML file of an Ultralytics dataset: found, parsed, and its keys checked."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from yolodata.errors import DatasetError
from yolodata.ingest.sample import SPLITS
from yolodata.shards.data_yaml import is_of_shards

_KEY_TYPES: dict[str, tuple[type, ...]] = {
    "path": (str, Path),
    "train": (str, list),
    "val": (str, list),
    "test": (str, list),
    "names": (list, dict),
    "kpt_shape": (list, tuple),
    "flip_idx": (list, tuple),
}
_DATASET_KEYS = frozenset(("train", "val", "validation", "test", "names", "nc"))
_NOT_IN_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]+")

_short = reprlib.Repr()
_short.maxstring = 80
_short.maxlevel = 3

Keypoints = tuple[tuple[int, int] | None, tuple[int, ...] | None]


def read_yaml(file: Path) -> dict[str, Any]:
    """Parses a dataset YAML.

    Raises:
        DatasetError: the syntax is wrong (in the parser's own words), or it is no mapping.
    """
    if file.suffix.lower() not in (".yaml", ".yml"):
        raise DatasetError(
            f"'{file}': the name of a dataset YAML must end in .yaml or .yml; rename the file"
        )
    try:
        text = file.read_bytes().decode("utf-8", errors="ignore")
    except OSError as error:
        raise DatasetError(
            f"'{file}' cannot be read: {error.strerror or error}; correct it"
        ) from None
    try:
        data = _parse(text)
    except Exception as error:  # a YAMLError, or what a constructor raised for an odd value
        try:
            data = _parse(_NOT_IN_YAML.sub("", text))
        except Exception:
            raise DatasetError(
                f"YAML syntax error in '{file}': {error or type(error).__name__}. Correct the file."
            ) from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise DatasetError(
            f"'{file}' must hold a mapping with the keys train, val and names, got a "
            f"{type(data).__name__}; correct the file"
        )
    return data


def _parse(text: str) -> Any:
    import yaml

    return yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def dataset_yamls(folder: Path, deep: bool = False) -> list[Path]:
    """Gives the YAML files in a folder but those of something else; a broken one may be a dataset.

    Args:
        folder: it.
        deep: also in the folders below.
    """
    look = folder.rglob if deep else folder.glob
    found = sorted(look("*.yaml")) + sorted(look("*.yml"))
    return [file for file in found if _may_be_dataset(file)]


def _may_be_dataset(file: Path) -> bool:
    try:
        return not is_of_shards(file) and not _DATASET_KEYS.isdisjoint(read_yaml(file))
    except DatasetError:
        return True


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
        found = [file for file in found if _may_be_dataset(file)] or found
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


def ignored_bytes(file: Path) -> list[str]:
    """Says, in a sentence, that bytes of a YAML were ignored; nothing if none were."""
    try:
        file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        return [
            f"'{file}' is not UTF-8 (byte {error.start}); such bytes were ignored, also in names, "
            "as Ultralytics ignores them. Save it as UTF-8"
        ]
    return []


def check_keys(data: dict[str, Any], origin: str, wanted: Sequence[str] | None) -> None:
    """Checks the types of what a YAML holds; its key `validation` becomes `val`.

    Args:
        data: the mapping.
        origin: of it, for messages.
        wanted: splits that are asked for; without any, train and val are required.

    Raises:
        DatasetError: names the key, what is allowed, and what was given.
    """
    for key, types in _KEY_TYPES.items():
        value = data.get(key)
        if value is not None and not isinstance(value, types):
            allowed = " or ".join(t.__name__ for t in types if t is not Path)
            raise DatasetError(
                f"{origin}: '{key}' must be a {allowed}, got {shortened(value)}; correct the YAML"
            )
    if "val" not in data and "validation" in data:
        data["val"] = data.pop("validation")
    for key in ("train", "val"):
        if key not in data and not wanted:
            known = [split for split in SPLITS if data.get(split)]
            alone = f", or pack {known[0]} alone with --split {known[0]}" if known else ""
            raise DatasetError(
                f"{origin}: the key '{key}' is missing. Ultralytics requires both 'train' and "
                f"'val'; the keys are {shortened(sorted(map(str, data)))}. Add '{key}: "
                f"FOLDER-OR-LIST'{alone}."
            )
    for key in ("train", "val", "test"):
        value = data.get(key)
        if isinstance(value, list) and not all(isinstance(entry, str) for entry in value):
            raise DatasetError(
                f"{origin}: '{key}' must list paths only, got {shortened(value)}; correct the YAML"
            )
    channels = data.get("channels", 3)
    if channels != 3:
        raise DatasetError(
            f"{origin}: 'channels: {shortened(channels)}' is not supported; shards hold 3. "
            "Train this dataset with Ultralytics' own loader."
        )


def class_names(data: dict[str, Any], origin: str) -> dict[int, str]:
    """Gives class number to name, of `names` and `nc`.

    Raises:
        DatasetError: both are absent, or they contradict each other or the rules.
    """
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
                f"{origin}: 'nc' must be a whole number, got {shortened(data['nc'])}; correct it"
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
            f"{origin}: the keys of 'names' must be class numbers, got "
            f"{shortened(list(names))}; correct the YAML"
        ) from None
    if not named:
        raise DatasetError(f"{origin}: no classes. 'names' needs at least one.")
    if sorted(named) != list(range(len(named))):
        raise DatasetError(
            f"{origin}: {len(named)} 'names' must be numbered 0 to {len(named) - 1}, got "
            f"{sorted(named)[:10]}; correct the YAML"
        )
    nested = [value for value in named.values() if isinstance(value, (list, dict, set))]
    if nested:
        raise DatasetError(
            f"{origin}: every one of 'names' must be a text, got {shortened(nested[0])}; correct it"
        )
    return {k: str(named[k]) for k in range(len(named))}


def keypoints(data: dict[str, Any], origin: str) -> Keypoints:
    """Gives `kpt_shape` and `flip_idx`, None without keypoints.

    Raises:
        DatasetError: one of them is wrong.
    """
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
            f"got {shortened(list(shape))}; correct the YAML"
        )
    if not shape[0] or not shape[1]:
        return None, None
    if flip and not (
        all(isinstance(x, int) for x in flip) and sorted(flip) == list(range(shape[0]))
    ):
        raise DatasetError(
            f"{origin}: 'flip_idx' must name each of the keypoints 0 to {shape[0] - 1} once, got "
            f"{shortened(list(flip))}; correct the YAML"
        )
    return (shape[0], shape[1]), tuple(flip) if flip else None


def shortened(value: Any) -> str:
    """Gives what a YAML holds in a form for messages, however large or nested it is."""
    return _short.repr(value)
