"""COCO's JSON files: what is in one, and which of a folder belongs to which split."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from yolodata.errors import DatasetError
from yolodata.files import resolved
from yolodata.ingest.foreign import told
from yolodata.ingest.json_file import JSON_FILES, found_in, read_json, read_part
from yolodata.ingest.split_names import says_nothing, split_of, split_of_folder
from yolodata.shards.format import SPLITS

_LISTS = ("images", "annotations", "categories")
_DETECTION = ("instances_", "person_keypoints_")  # how COCO's own files begin
_OTHER_TASKS = ("captions_", "stuff_", "panoptic_", "image_info_")  # nothing to detect in them
_CATEGORIES = b'"categories"'
_LONGEST_LIST = 16 << 20  # bytes in which a list of categories ends
_ROBOFLOW = "_annotations.coco.json"


class NotDetection(DatasetError):
    """A JSON file that can be read, and holds no objects to detect."""


class CocoContent(NamedTuple):
    """The lists of a JSON file; nothing in them has been looked at."""

    images: list[Any]
    annotations: list[Any]
    categories: list[Any]


class CocoFile:
    """One JSON file, read when it is needed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def content(self) -> CocoContent:
        """The lists of the file.

        Raises:
            NotDetection: it is no COCO file, or one for another task.
            DatasetError: it is no JSON.
        """
        data = read_json(self.path)
        for key in _LISTS:
            if not isinstance(data, dict) or not isinstance(data.get(key), list):
                if foreign := told(self.path):
                    raise NotDetection(f"{self.path}: {foreign}")
                raise NotDetection(
                    f"{self.path}: is not COCO, because '{key}' is no list in it; give a file with "
                    "the lists images, annotations and categories"
                )
        content = CocoContent(*(data[key] for key in _LISTS))
        notes = content.annotations
        if notes and not any(isinstance(note, dict) and "bbox" in note for note in notes):
            raise NotDetection(
                f"{self.path}: holds no objects to detect: none of its {len(notes)} annotations "
                "can be used, because none has a 'bbox'; give another file"
            )
        return content


def read_category_list(file: Path) -> list[Any]:
    """Reads the list "categories" of a file, without all the rest where that can be done.

    Raises:
        DatasetError: as `CocoFile.content`.
    """
    return _categories_alone(file) or CocoFile(file).content.categories


def _categories_alone(file: Path) -> list[Any] | None:
    """The list behind the only "categories" of a file; None if that is not to be found."""
    try:
        places = found_in(file, _CATEGORIES)[_CATEGORIES]
        if len(places) != 1:
            return None
        raw = read_part(file, places[0] + len(_CATEGORIES), _LONGEST_LIST)
        text = raw.decode("utf-8", errors="ignore")
        found, _ = json.JSONDecoder().raw_decode(text.lstrip(" \t\r\n:"))
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, list) else None


@dataclass
class Chosen:
    """The files of a source.

    Attributes:
        files: one for each split that is to be read.
        siblings: of splits that were not asked for. Only their categories matter.
        left_out: annotation files that are not read, though no option left them out: path ->
            reason.
    """

    files: dict[str, CocoFile] = field(default_factory=dict)
    siblings: dict[str, CocoFile] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def choose_files(
    origin: Path,
    wanted: Sequence[str] | None,
    task: str,
    has_images: Callable[[CocoFile, str], bool],
) -> Chosen:
    """Finds the annotation files of a source, and their splits.

    Args:
        origin: a JSON file or a folder.
        wanted: splits to read; all that are there by default.
        task: "pose" prefers `person_keypoints_*.json`, every other task `instances_*.json`.
        has_images: whether images of a file are there, as those of one split.

    Raises:
        DatasetError: a file cannot be read, none can be used, or it is unclear which one is meant;
            says with which command it is clear.
    """
    if not origin.is_dir():
        return Chosen({_split_of_one(origin, wanted): CocoFile(origin)})
    by_split, unclear = _by_split(origin)
    chosen = Chosen()
    for split in (split for split in SPLITS if split in by_split):
        files = _preferred(by_split[split], task, chosen)
        if wanted and split not in wanted:
            if len(files) == 1:
                chosen.siblings[split] = CocoFile(files[0])
        elif file := _one_of(files, split, chosen, has_images):
            chosen.files[split] = file
    if not chosen.files and not chosen.siblings:
        _choose_unclear(_of_task(unclear, task), wanted, chosen)
    elif not wanted:
        _list_unclear(unclear, chosen)
    reasons = "".join(f"; {reason}" for reason in chosen.left_out.values())
    absent = [split for split in wanted or () if split not in chosen.files]
    if absent:
        example = f"'{unclear[0]}'" if unclear else "FILE"
        raise DatasetError(
            f"{origin}: no '{absent[0]}'; there are annotations for {list(by_split)}, and files "
            f"that begin with {', '.join(_OTHER_TASKS)} hold no objects{reasons}; give the path of "
            f"a JSON file: yolodata shard {example} OUT --split {absent[0]}"
        )
    if not chosen.files:
        raise DatasetError(
            f"{origin}: no COCO annotations, which are annotations/instances_train*.json or "
            f"train/_annotations.coco.json{reasons}; give the path of one JSON file"
        )
    if wanted:  # in the order in which they were asked for
        chosen.files = {split: chosen.files[split] for split in wanted}
        chosen.left_out.clear()
    return chosen


def other_kinds(files: Sequence[Path]) -> tuple[str, ...]:
    """Says, in a sentence, that files of COCO's are not of one kind; nothing if they are.

    Its `person_keypoints_*` hold persons alone, `instances_*` no keypoints.
    """
    kinds = {kind for kind in _DETECTION for file in files if file.name.startswith(kind)}
    if len(kinds) < 2:
        return ()
    names = ", ".join(f"'{file.name}'" for file in files)
    return (f"the splits have annotations of different kinds, {names}: is a file missing?",)


def _split_of_one(file: Path, wanted: Sequence[str] | None) -> str:
    """The split of a file that was given by its path: the one asked for, or what its name says."""
    if wanted and len(set(wanted)) > 1:
        raise DatasetError(
            f"{file}: is one split, {len(wanted)} were asked for; ask for one, or give the folder "
            "with the files of all"
        )
    if wanted:
        return wanted[0]
    found = split_of(file.stem) or split_of_folder(resolved(file).parent.name)
    if found is None and not says_nothing(file.stem):
        raise DatasetError(_question([file]))
    return found or "train"


def _question(files: Sequence[Path]) -> str:
    names = ", ".join(str(file) for file in files)
    return (
        f"{names}: the name must hold train, val or test as a word of its own, to say which split "
        f"it is; or say it in the command: yolodata shard '{files[0]}' OUT --split train (or val, "
        'or test); in Python, splits=["train"]'
    )


def _by_split(origin: Path) -> tuple[dict[str, list[Path]], list[Path]]:
    """Annotation files of a folder by the splits that their names say; and those that say none."""
    by_split: dict[str, list[Path]] = {}
    unclear: list[Path] = []
    places = (JSON_FILES, f"annotations/{JSON_FILES}")
    found = [file for pattern in places for file in sorted(origin.glob(pattern))]
    for file in found + sorted(origin.glob(f"*/{_ROBOFLOW}")):
        hidden = file.name.startswith(".")  # macOS leaves ._instances_val2017.json
        if not hidden and not file.name.removeprefix("lvis_v1_").startswith(_OTHER_TASKS):
            split = split_of(file.parent.name if file.name == _ROBOFLOW else file.stem)
            (by_split.setdefault(split, []) if split else unclear).append(file)
    return by_split, unclear


def _preferred(files: list[Path], task: str, chosen: Chosen) -> list[Path]:
    """Those of COCO's own name for a task, if there are any."""
    prefix, _ = _prefixes(task)
    first = [file for file in files if file.name.startswith(prefix)] or files
    for file in files:
        if file not in first and not file.name.startswith(_DETECTION):
            chosen.left_out[str(file)] = f"'{first[0].name}' was read instead of '{file.name}'."
    return first


def _of_task(files: list[Path], task: str) -> list[Path]:
    """Files but those beside which one of the same name is for the task."""
    prefix, other = _prefixes(task)
    return [
        file
        for file in files
        if not file.name.startswith(other)
        or file.with_name(prefix + file.name.removeprefix(other)) not in files
    ]


def _prefixes(task: str) -> Sequence[str]:
    """How COCO's own files for a task begin, and those for others."""
    return _DETECTION[::-1] if task == "pose" else _DETECTION


def _one_of(
    files: list[Path],
    split: str,
    chosen: Chosen,
    has_images: Callable[[CocoFile, str], bool],
) -> CocoFile | None:
    """The one file that can be used; one whose images are there before others."""
    usable: list[CocoFile] = []
    broken: DatasetError | None = None
    for path in files:
        file = CocoFile(path)
        try:
            usable += [file] if file.content else []
        except DatasetError as error:
            chosen.left_out[str(path)] = str(error)
            broken = broken if isinstance(error, NotDetection) else error
    if broken and not usable:
        raise broken
    if len(usable) > 1:
        there = [file for file in usable if has_images(file, split)]
        for file in usable:
            if there and file not in there:
                chosen.left_out[str(file.path)] = f"{file.path}: none of its images is there"
        usable = there or usable
    if len(usable) > 1:
        raise DatasetError(
            f"{len(usable)} annotation files for '{split}': "
            f"{', '.join(str(file.path) for file in usable)}; give the path of one of them: "
            f"yolodata shard '{usable[0].path}' OUT --split {split}"
        )
    return usable[0] if usable else None


def _choose_unclear(files: list[Path], wanted: Sequence[str] | None, chosen: Chosen) -> None:
    """Takes the only file of a folder, though its name says no split."""
    usable: list[CocoFile] = []
    for path in files:
        file = CocoFile(path)
        try:
            usable += [file] if file.content else []
        except DatasetError as error:
            chosen.left_out[str(path)] = str(error)
    if len(usable) > 1:
        raise DatasetError(_question([file.path for file in usable]))
    if usable:
        chosen.files[_split_of_one(usable[0].path, wanted)] = usable[0]


def _list_unclear(files: list[Path], chosen: Chosen) -> None:
    """Names the annotation files beside others that say their split."""
    for path in files:
        try:
            if CocoFile(path).content:
                chosen.left_out[str(path)] = _question([path])
        except NotDetection:
            pass
        except DatasetError as error:
            chosen.left_out[str(path)] = str(error)
