"""Ultralytics datasets: what a YAML names, in every form upstream allows, to images and labels.

Nothing is downloaded here. Paths are resolved as upstream resolves them: `path` against the working
directory and then against Ultralytics' datasets folder, the splits against `path`.
"""

from __future__ import annotations

import errno
import json
import os
import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from yolodata.errors import DatasetError
from yolodata.files import read_regular, resolved
from yolodata.images.formats import IMAGE_SUFFIXES
from yolodata.ingest.dataset_yaml import (
    Keypoints,
    check_keys,
    class_names,
    find_yaml,
    ignored_bytes,
    keypoints,
    read_yaml,
    unquoted_names,
)
from yolodata.ingest.limits import (
    LABEL_BYTES,
    LIST_BYTES,
    LIST_LINES,
    PATH_LENGTH,
    TEXT_BYTES,
    shortened,
)
from yolodata.ingest.sample import RawLabels, Refused, Source, Split
from yolodata.ingest.survey import is_image, repetitions, some, survey
from yolodata.ingest.unknown import no_list
from yolodata.ingest.walk import files_of_split
from yolodata.shards.format import SPLITS
from yolodata.terminal import printable

_BARE = f"images{os.sep}"


class YoloSplit(Split):
    """Images of one split and their text label files."""

    def __init__(self, paths: list[str], unlisted: dict[str, str]) -> None:
        self.paths = paths
        self.unlisted = unlisted

    def raw_labels(self, index: int) -> RawLabels:
        """Reads the label file of image `index`; an absent one means background.

        Raises:
            OSError: it cannot be read.
            Refused: it is larger than a label file may be.
        """
        label_file = label_path(self.paths[index])
        try:
            return RawLabels(read_regular(label_file, LABEL_BYTES))
        except OSError as error:
            if error.errno == errno.EFBIG:
                raise Refused(f"label file {error.strerror}") from None
            if os.path.isfile(label_file):
                raise
            if os.path.lexists(label_file):  # a folder, or a link to nowhere: none to upstream
                return RawLabels(None, None, ("the label file is no file, so taken as absent",))
            return RawLabels(None)

    def label_files(self) -> Sequence[str]:
        """Gives the path of every image's label file, which need not exist."""
        return [label_path(path) for path in self.paths]


def label_path(image: str) -> str:
    """Gives an image's label file: the last folder `images` becomes `labels`, the suffix `.txt`."""
    here, there = f"{os.sep}images{os.sep}", f"{os.sep}labels{os.sep}"
    return there.join(image.rsplit(here, 1)).rsplit(".", 1)[0] + ".txt"


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
        origin = origin if len(origin) <= PATH_LENGTH else "a dict"
        home = Path(str(source.get("yaml_file") or "")).parent
        notes: list[str] = []
    else:
        file = find_yaml(Path(source))
        data, origin, home = read_yaml(file), str(file), file.parent
        notes = ignored_bytes(file)
    check_keys(data, origin, wanted)
    names = class_names(data, origin)
    notes += unquoted_names(data)
    shape, flip = keypoints(data, origin)
    root = _root(data, home, origin)
    entries: dict[str, list[str]] = {}
    for split in SPLITS:
        asked = split in (wanted or SPLITS)
        if not data.get(split):
            if wanted and asked:
                there = ", ".join(other for other in SPLITS if data.get(other))
                raise DatasetError(
                    f"{origin}: the key '{split}' is missing; there are {there or 'no splits'}; "
                    f"add '{split}: FOLDER-OR-LIST', or choose another split"
                )
            continue
        found = _resolve(root, data[split])
        absent = [printable(entry) for entry in found if not os.path.exists(entry)]
        if not absent:
            entries[split] = found
        elif asked and (wanted or split != "test"):  # test is optional upstream too
            raise DatasetError(_no_such(split, absent[0], data[split], root, home, origin))
        elif asked:
            notes.append(f"'test: {absent[0]}' does not exist, and there is no test split")
    return listed_source(origin, names, entries, wanted, notes, (shape, flip), root=root)


def _no_such(split: str, entry: str, given: Any, root: Path, home: Path, origin: str) -> str:
    """Says that an entry of the YAML does not exist, and where it is if that is easily found."""
    values = list(map(str, given if isinstance(given, list) else [given]))
    beside = [value for value in values if os.path.exists(home / value)]
    plain = [value.replace("\\", "/").strip().lstrip("/") for value in values]
    there = [value for value in plain if value and os.path.exists(_resolve(root, value)[0])]
    if beside and not root.is_absolute():
        todo = (
            f"'path: {root}' starts in the working folder, not at the YAML, beside which "
            f"'{beside[0]}' is; leave 'path' out, or write 'path: {resolved(home)}'"
        )
    elif beside:
        todo = f"beside the YAML, '{beside[0]}' is there; leave 'path' out, or correct it"
    elif there:
        todo = f"'{there[0]}' is there; write it so"
    else:
        todo = (
            "correct the YAML, or let Ultralytics download the dataset first, as yolodata does "
            "not; to pack the other splits alone, name them with --split"
        )
    return (
        f"{origin}: '{split}: {entry}' does not exist; every entry must be a folder with images or "
        f"a text file that lists them, relative to '{root}'; {todo}"
    )


def listed_source(
    origin: str,
    names: dict[int, str],
    entries: Mapping[str, Sequence[str]],
    wanted: Sequence[str] | None = None,
    notes: Iterable[str] = (),
    skeleton: Keypoints = (None, None),
    bases: Sequence[Path] = (),
    root: Path | None = None,
    searched: Sequence[str] = (),
) -> Source:
    """Lists the images of all splits, and what else lies there.

    Args:
        origin, names: see `Source`.
        entries: of each split: existing folders, and text files that list images.
        wanted: splits to read; the images of the others are known, and not left out.
        notes: see `Source`.
        skeleton: `kpt_shape` and `flip_idx`.
        bases: folders in which images of a list are looked for where they are not in the working
            folder.
        root: folder of the dataset; folders `images` in it that hold images of a split are searched
            for others.
        searched: folders that are searched, too.

    Raises:
        DatasetError: a wanted split has no images, or there is none.
    """
    said = list(notes)
    splits: dict[str, YoloSplit] = {}
    for split, places in entries.items():
        try:
            splits[split] = _list_images(places, f"{origin}: {split}", bases)
        except DatasetError as error:
            if split in (wanted or ("train", "val")):
                raise
            if not wanted:
                said.append(f"there is no test split: {error}")
    if not splits:
        raise DatasetError(
            f"{origin}: 'train' and 'val' are both empty, so that there is nothing to read; give "
            "at least one of them a folder with images, or a text file that lists them"
        )
    every = [place for places in entries.values() for place in places]
    folders = [place for place in every if os.path.isdir(place)]
    lists = [place for place in every if not os.path.isdir(place)]
    images = [path for split in splits.values() for path in split.paths]
    trees = _image_trees(images, resolved(root)) if root else ()
    found = survey(images, [*folders, *searched, *trees], lists, label_path)
    asked = {split: splits[split] for split in wanted or splits}
    bare = [path for split in asked.values() for path in split.paths if path.startswith(_BARE)]
    if bare:
        said.append(
            f"label files of {len(bare)} images are looked for beside them, because nothing stands "
            f"before 'images' in the list: {some(bare)}. Begin the lines with './'"
        )
    shared = _sharing({path for split in asked.values() for path in split.paths})
    if shared:
        said.append(
            f"{len(shared)} images have one name with several suffixes, and so one label file, "
            f"which labels all of them, as with Ultralytics: {some(shared)}"
        )
    return Source(
        origin,
        "yolo",
        names,
        asked,
        *skeleton,
        tuple(sorted(set(folders))),
        found,
        (*said, *repetitions({split: images.paths for split, images in asked.items()})),
    )


def _sharing(paths: Collection[str]) -> list[str]:
    """The images that differ from another one in nothing but the suffix."""
    counts = Counter(path.rpartition(".")[0] for path in paths)
    if len(counts) == len(paths):
        return []
    return sorted(path for path in paths if counts[path.rpartition(".")[0]] > 1)


def _image_trees(images: Sequence[str], root: Path) -> Iterator[str]:
    """The folders `images` inside of `root` in which images are, directly or deeper."""
    for folder in dict.fromkeys(os.path.dirname(path) for path in images):
        head, here, _ = f"{folder}{os.sep}".rpartition(f"{os.sep}images{os.sep}")
        if here and root in (Path(head), *Path(head).parents):
            yield f"{head}{here}".rstrip(os.sep)


def _datasets_folder() -> Path:
    """Ultralytics' `datasets_dir`: from its settings file, without importing it, or its default."""
    config = os.getenv("YOLO_CONFIG_DIR") or os.getenv("XDG_CONFIG_HOME") or "~/.config"
    settings = Path(os.path.expanduser(config)) / "Ultralytics" / "settings.json"
    try:
        return Path(json.loads(read_regular(settings, TEXT_BYTES))["datasets_dir"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return Path.cwd() / "datasets"


def _root(data: dict[str, Any], home: Path, origin: str) -> Path:
    path = Path(data.get("path") or home)
    if os.path.exists(path) or path.is_absolute():
        return path
    datasets = _datasets_folder()
    if os.path.exists(datasets / path):
        return resolved(datasets / path)
    raise DatasetError(
        f"{origin}: 'path: {path}' is neither in '{Path.cwd()}' nor in Ultralytics' datasets "
        f"folder '{datasets}'; "
        "a relative 'path' starts there, not at the YAML; write an absolute one, leave 'path' out "
        "to start at the YAML's folder, or let Ultralytics download the dataset first, as yolodata "
        "does not"
    )


def _resolve(root: Path, value: str | list[str]) -> list[str]:
    if isinstance(value, list):
        return [str(resolved(root / entry)) for entry in value]
    path = resolved(root / value)
    if not os.path.exists(path) and value.startswith("../"):
        path = resolved(root / value[3:])
    return [str(path)]


def _list_images(entries: Sequence[str], where: str, bases: Sequence[Path]) -> YoloSplit:
    """All images of a split, sorted by path as upstream does; a repeated path stays repeated."""
    found: list[str] = []
    unlisted: dict[str, str] = {}
    for entry in entries:
        if os.path.isdir(entry):
            found += (path for path in files_of_split(entry, unlisted) if is_image(path))
            continue
        if is_image(entry):
            raise DatasetError(
                f"{where}: '{entry}' is one image; give its folder, or a text file that lists it"
            )
        if other := no_list(Path(entry)):
            raise DatasetError(f"{where}: {other}")
        listed = _read_list(Path(entry), where, bases)
        for path in listed:
            if len(path) > PATH_LENGTH:
                unlisted[shortened(path)] = f"listed in {entry}, but longer than a path may be"
            elif is_image(path):
                found.append(path)
            elif path.strip():
                unlisted[path] = f"listed in {entry}, but its suffix is not that of an image"
        _check_some_exist([path for path in listed if is_image(path)], Path(entry), where)
    if not found:
        other = f"; the first entry is {shortened(next(iter(unlisted)))}" if unlisted else ""
        raise DatasetError(
            f"{where}: no images in {', '.join(entries)}{other}; give files that end in "
            f"{', '.join(sorted(IMAGE_SUFFIXES))}"
        )
    paths = sorted(path.replace("/", os.sep) for path in found)
    if not any(os.path.exists(path) for path in paths):
        raise DatasetError(
            f"{where}: none of the {len(paths)} images that are listed exists, as '{paths[0]}'; "
            "put them there, or correct the list"
        )
    return YoloSplit(paths, unlisted)


def _read_list(file: Path, where: str, bases: Sequence[Path]) -> list[str]:
    """Lines of an image list; './' means the list's own folder, else the working directory."""
    try:
        text = read_regular(file, LIST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DatasetError(
            f"{where}: the image list '{file}' must be UTF-8 text, got {error}; save it as UTF-8"
        ) from None
    except OSError as error:
        raise DatasetError(
            f"{where}: the image list '{file}' cannot be read: {error.strerror or error}; mend it"
        ) from None
    if "\0" in text:
        raise DatasetError(
            f"{where}: the image list '{file}' must be UTF-8 text, got NUL bytes, as UTF-16 has; "
            "save it as UTF-8"
        )
    lines = text.count("\n") + text.count("\r")
    if lines > LIST_LINES:
        raise DatasetError(
            f"{where}: the image list '{file}' must have at most {LIST_LINES} lines, got {lines}"
        )
    return [_listed(line, file, bases) for line in text.strip().splitlines()]


def _listed(line: str, file: Path, bases: Sequence[Path]) -> str:
    if line.startswith("./"):
        line = f"{file.parent}{os.sep}{line[2:]}"
    if not bases or not line.strip() or os.path.exists(line):
        return line
    places = (base / tail for base in bases for tail in (line, line.partition("/")[2]) if tail)
    return next((str(place) for place in places if os.path.exists(place)), line)


def _check_some_exist(images: Sequence[str], file: Path, where: str) -> None:
    """Refuses a list none of whose images are where it is read from, if they are somewhere else.

    Raises:
        DatasetError: with the command that mends the list.
    """
    if not images or any(os.path.exists(path) for path in images):
        return
    first = images[0]
    if "\\" in first and "/" not in first:
        mend = shlex.join(("sed", "-i", r"s|\\|/|g", str(file)))
        raise DatasetError(
            f"{where}: '{first}', listed in '{file}', has '\\' between folders, where this system "
            f"has '/'; mend the list: {mend}"
        )
    if first.startswith(f"{file.parent}{os.sep}"):
        first = f".{first[len(str(file.parent)) :]}"  # as it stands in the list
    parts = first.split("/")
    for folder in (file.parent, *file.parent.parents[:2]):
        for k in range(len(parts)):  # CVAT writes data/ before paths, where nothing is called so
            begins, rest = "/".join((*parts[:k], "")), "/".join(parts[k:])
            if rest and os.path.exists(folder / rest):
                start = "." if folder == file.parent else folder
                mend = shlex.join(("sed", "-i", f"s|^{begins}|{start}/|", str(file)))
                raise DatasetError(
                    f"{where}: '{first}', listed in '{file}', does not exist; paths in a list "
                    "start in the working folder, unless they begin with '/', or with './', which "
                    f"is the list's own folder; this one is '{folder / rest}'; mend the list: "
                    f"{mend}"
                )
