"""The YAML file of an Ultralytics dataset: found, parsed, and its keys checked."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from yolodata.errors import DatasetError
from yolodata.files import read_regular
from yolodata.ingest.limits import (
    CLASSES,
    KEYPOINTS,
    PATH_LENGTH,
    YAML_BYTES,
    YAML_DEPTH,
    YAML_VALUES,
    checked_names,
    shortened,
)
from yolodata.ingest.walk import is_hidden
from yolodata.shards.data_yaml import is_of_shards
from yolodata.shards.format import SPLITS

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

_YAMLS = ("*.[yY][aA][mM][lL]", "*.[yY][mM][lL]")
_MERGE = "tag:yaml.org,2002:merge"
_MERGES = 100  # of one mapping
_DIGITS = 20  # of an integer, sign and prefix included

Keypoints = tuple[tuple[int, int] | None, tuple[int, ...] | None]


class _TooMuch(Exception):
    """A YAML holds more than one may; the only argument says of what."""


def read_yaml(file: Path) -> dict[str, Any]:
    """Parses a dataset YAML.

    Raises:
        DatasetError: the syntax is wrong (in the parser's own words), it is no mapping, or it
            holds more than a YAML may.
    """
    if file.suffix.lower() not in (".yaml", ".yml"):
        raise DatasetError(
            f"{file}: the name of a dataset YAML must end in .yaml or .yml; rename the file"
        )
    try:
        text = read_regular(file, YAML_BYTES).decode("utf-8", errors="ignore")
    except OSError as error:
        raise DatasetError(
            f"{file}: cannot be read: {error.strerror or error}; correct it"
        ) from None
    try:
        try:
            data = _parse(text)
        except _TooMuch:
            raise
        except Exception as error:  # a YAMLError, or what a constructor raised for an odd value
            try:
                data = _parse(_NOT_IN_YAML.sub("", text))
            except _TooMuch:
                raise
            except Exception:
                said = str(error) or type(error).__name__
                raise DatasetError(
                    f"{file}: YAML syntax error: {said[:1000]}; correct the file"
                ) from None
    except _TooMuch as error:
        raise DatasetError(
            f"{file}: is no description of a dataset: it has {error}; give another file"
        ) from None
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise DatasetError(
            f"{file}: must hold a mapping with the keys train, val and names, got a "
            f"{type(data).__name__}; correct the file"
        )
    return data


def _parse(text: str) -> Any:
    import yaml

    loader = _loader()
    values = depth = 0
    for event in yaml.parse(text, Loader=loader):
        values += isinstance(event, yaml.NodeEvent)
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if values > YAML_VALUES:
            raise _TooMuch(f"more than {YAML_VALUES} values")
        if depth > YAML_DEPTH:
            raise _TooMuch(f"lists in lists, more than {YAML_DEPTH} deep")
    return yaml.load(text, Loader=loader)


@cache
def _loader() -> type[Any]:
    """PyYAML's safe loader, for files that want to be expensive.

    An alias costs nothing, since PyYAML makes no copy. A merge does, and merges of merges make of
    a kilobyte as many entries as one likes.
    """
    import yaml

    base: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]
        merged = 0

        def flatten_mapping(self, node: Any) -> None:
            merges = [value for key, value in node.value if key.tag == _MERGE]
            if len(merges) > _MERGES:
                raise _TooMuch(f"a mapping with more than {_MERGES} merges (<<)")
            for value in merges:
                several = isinstance(value, yaml.SequenceNode)
                for part in value.value if several else [value]:
                    if isinstance(part, yaml.MappingNode):
                        self.flatten_mapping(part)
                        self.merged += 1 + len(part.value)
                        if self.merged > YAML_VALUES:
                            raise _TooMuch(f"merges (<<) of more than {YAML_VALUES} values")
            super().flatten_mapping(node)

        def integer(self, node: Any) -> Any:
            # Longer ones stay texts. Nothing here needs them, Python refuses to write those of many
            # digits, and as keys they can be chosen so that all have one hash.
            text = self.construct_scalar(node)
            return self.construct_yaml_int(node) if len(text) <= _DIGITS else text

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.integer)
    return Loader


def dataset_yamls(folder: Path, deep: bool = False) -> list[Path]:
    """Gives the YAML files in a folder but those of something else; a broken one may be a dataset.

    Args:
        folder: it.
        deep: also in the folders below.
    """
    found = (file for pattern in _YAMLS for file in _found(folder, pattern, deep))
    return [file for file in found if _may_be_dataset(file)]


def _found(folder: Path, pattern: str, deep: bool) -> list[Path]:
    found = folder.rglob(pattern) if deep else folder.glob(pattern)
    return sorted(file for file in found if not is_hidden(file, folder))


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
            f"{source}: does not exist; give the path of a dataset YAML, or of a folder with one; "
            "yolodata does not download: let Ultralytics fetch the dataset first"
        )
    found: list[Path] = []
    for pattern in _YAMLS:
        found = found or _found(source, pattern, False) or _found(source, pattern, True)
    if len(found) > 1:
        found = [file for file in found if _may_be_dataset(file)] or found
    if len(found) > 1:
        found = [file for file in found if file.stem == source.stem] or found
    if not found:
        raise DatasetError(f"{source}: no YAML file in it; give the path of the dataset YAML")
    if len(found) > 1:
        raise DatasetError(
            f"{source}: {len(found)} YAML files in it, and none alone is named '{source.stem}': "
            f"{', '.join(map(str, found[:5]))}; give the path of one of them"
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
        read_regular(file, YAML_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        return [
            f"'{file}' is not UTF-8 (byte {error.start}); such bytes were ignored, also in names, "
            "as Ultralytics ignores them. Save it as UTF-8"
        ]
    return []


def unquoted_names(data: dict[str, Any]) -> list[str]:
    """Says, in a sentence, which class names YAML took for something else; nothing if none."""
    names = data.get("names") or []
    values = list(names.values() if isinstance(names, dict) else names)
    odd = dict.fromkeys(str(name) for name in values if name is None or isinstance(name, bool))
    if not odd:
        return []
    return [
        f"a class is called {' and one '.join(odd)}, as with Ultralytics, because YAML reads words "
        "like no, yes, off, on and null so. Write such names in quotes"
    ]


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
                f"{origin}: the key '{key}' is missing: Ultralytics requires both 'train' and "
                f"'val'; the keys are {shortened(sorted(map(str, data)))}; add '{key}: "
                f"FOLDER-OR-LIST'{alone}"
            )
    for key in ("train", "val", "test"):
        value = data.get(key)
        if isinstance(value, list) and not all(isinstance(entry, str) for entry in value):
            raise DatasetError(
                f"{origin}: '{key}' must list paths only, got {shortened(value)}; correct the YAML"
            )
    for key in ("path", "train", "val", "test"):
        value = data.get(key) or []
        for entry in value if isinstance(value, list) else [value]:
            if not _may_be_path(os.fspath(entry)):
                raise DatasetError(
                    f"{origin}: '{key}' must be a path, got {shortened(entry)}, which no file can "
                    "be called; correct the YAML"
                )
    channels = data.get("channels", 3)
    if channels != 3:
        raise DatasetError(
            f"{origin}: 'channels' must be 3, which shards hold, got {shortened(channels)}; train "
            "this dataset with Ultralytics' own loader"
        )


def _may_be_path(text: str) -> bool:
    try:
        return b"\0" not in os.fsencode(text) and len(text) <= PATH_LENGTH
    except UnicodeEncodeError:  # half a character
        return False


def class_names(data: dict[str, Any], origin: str) -> dict[int, str]:
    """Gives class number to name, of `names` and `nc`.

    Raises:
        DatasetError: both are absent, or they contradict each other or the rules.
    """
    names, nc = data.get("names"), None
    if names is None and "nc" not in data:
        raise DatasetError(
            f"{origin}: neither 'names' nor 'nc' is given; add 'names:' with one name per class"
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
    for count in (nc or 0, len(names or ())):
        if count > CLASSES:
            raise DatasetError(f"{origin}: must have at most {CLASSES} classes, got {count}")
    if names is None:
        names = [f"class_{k}" for k in range(nc or 0)]
    elif nc is not None and len(names) != nc:
        raise DatasetError(
            f"{origin}: 'nc' must be the number of 'names' ({len(names)}), got {nc}; correct it"
        )
    values = names if isinstance(names, list) else list(names.values())
    try:
        numbers = range(len(names)) if isinstance(names, list) else [int(k) for k in names]
    except (TypeError, ValueError, OverflowError):
        raise DatasetError(
            f"{origin}: the keys of 'names' must be class numbers, got "
            f"{shortened(list(names))}; correct the YAML"
        ) from None
    if not numbers:
        raise DatasetError(f"{origin}: 'names' must name at least one class, got none; add it")
    known = all(0 <= number < len(names) for number in numbers)  # others may all have one hash
    named = dict(zip(numbers, values, strict=True)) if known else {}
    if not known or sorted(named) != list(range(len(named))):
        raise DatasetError(
            f"{origin}: {len(names)} 'names' must be numbered 0 to {len(names) - 1}, got "
            f"{shortened(sorted(numbers)[:10])}; correct the YAML"
        )
    nested = [value for value in named.values() if isinstance(value, (list, tuple, dict, set))]
    if nested:
        raise DatasetError(
            f"{origin}: every one of 'names' must be a text, got {shortened(nested[0])}; correct it"
        )
    return dict(enumerate(checked_names([str(named[k]) for k in range(len(named))], origin)))


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
        or not 0 <= shape[0] <= KEYPOINTS
        or shape[1] not in (0, 2, 3)
    ):
        raise DatasetError(
            f"{origin}: 'kpt_shape' must be [number of keypoints up to {KEYPOINTS}, 2 for x y or 3 "
            f"for x y visible], got {shortened(list(shape))}; correct the YAML"
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
