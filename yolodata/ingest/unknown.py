"""What a source is that cannot be packed as it is, and the next command."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from yolodata.errors import DatasetError
from yolodata.files import resolved
from yolodata.ingest.foreign import head, told
from yolodata.ingest.json_file import JSON_FILES
from yolodata.ingest.split_names import split_of_folder
from yolodata.ingest.survey import is_image
from yolodata.ingest.walk import files_below, folders_in, is_hidden

_KINDS = "a dataset YAML, a COCO JSON, or a folder of YOLO, COCO or Pascal VOC"
_CVAT = (
    "CVAT's own format, which is not read; export the task again, as 'Ultralytics YOLO Detection', "
    "'COCO' or 'Pascal VOC'"
)
_ARCHIVES = (
    ".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst", ".tzst",
    ".7z", ".rar", ".zip.001", ".7z.001",
)  # fmt: skip
_ZIP = (b"PK\3\4", b"PK\5\6")
_COMPRESSED = (
    b"\x1f\x8b",
    b"BZh",
    b"\xfd7zXZ\0",
    b"7z\xbc\xaf\x27\x1c",
    b"Rar!\x1a\x07",
    b"(\xb5/\xfd",
)
_PARTS = (
    "images",
    "labels",
    "annotations",
    "jpegimages",
    "imagesets",
    "train",
    "val",
    "valid",
    "test",
)
_LOOKED_AT = 50  # folders, and files, in a folder that is no dataset
_BELOW = ("*", "*/*", "*/*/*")  # folders that are looked at; VOCdevkit/VOC2007 lies in an archive


def refuse_other_files(path: Path) -> None:
    """Passes a YAML or a JSON file, of which others say what is wrong.

    Raises:
        DatasetError: the file is another one; says which, and what to give instead.
    """
    name, suffix = path.name.lower(), path.suffix.lower()
    if suffix in (".yaml", ".yml", ".json", ".jsonl") or name.endswith(".json.gz"):
        return
    folder = shlex.quote(str(path.parent))
    if name.endswith(_ARCHIVES) or _is_archive(path):
        said = _archive(path)
    elif is_image(name):
        said = f"{path}: is one image; give {_KINDS}, as '{path.parent}' may be"
    elif _begins(path, b"<annotations") and suffix == ".xml":
        said = f"{path}: is in {_CVAT}"
    elif suffix == ".xml":
        above = path.parent.name.lower() == "annotations"
        folder = shlex.quote(str(path.parent.parent if above else path.parent))
        said = (
            f"{path}: is one annotation; give the folder that holds all of them and the images: "
            f"yolodata shard {folder} OUT"
        )
    elif foreign := told(path):
        said = f"{path}: {foreign}"
    elif suffix in (".txt", ".names", ".data"):
        said = (
            f"{path}: names images or classes, and is no dataset; give the folder in which it is "
            f"(yolodata shard {folder} OUT), or write a data.yaml with 'train: …', 'val: …' and "
            "'names: […]' and give that"
        )
    else:
        said = (
            f"{path}: is no description of a dataset; the name of a YAML must end in .yaml or "
            f".yml; give {_KINDS}"
        )
    raise DatasetError(said)


def no_list(path: Path) -> str | None:
    """Says what a file is that is to list images, and is something else; None if it may be one."""
    if path.name.lower().endswith(_ARCHIVES) or _is_archive(path):
        unpack, folder = _unpacking(path)
        return (
            f"'{path}' is an archive; unpack it ({unpack}), and name a folder in {folder} instead"
        )
    if path.suffix.lower() == ".json":
        return (
            f"'{path}' is JSON; if it holds COCO's annotations, pack it alone: yolodata shard "
            f"{shlex.quote(str(path))} OUT"
        )
    return None


def _archive(path: Path) -> str:
    unpack, folder = _unpacking(path)
    return (
        f"{path}: is an archive, and shards are made of files; unpack it first: {unpack} && "
        f"yolodata shard {folder} OUT"
    )


def _unpacking(path: Path) -> tuple[str, str]:
    """The command that unpacks an archive, and the folder into which it does."""
    name = path.name
    stem = name[: -len(next((end for end in _ARCHIVES[::-1] if name.lower().endswith(end)), ""))]
    folder = path.with_name(stem or f"{name}-unpacked")
    if folder.exists():
        folder = path.with_name(f"{stem}-unpacked")
    what, into = shlex.quote(str(path)), shlex.quote(str(folder))
    if name.lower().endswith((".7z", ".rar", ".001")):
        unpack = f"7z x {what} -o{into}"
    elif name.lower().endswith(".zip") or head(path, 4) in _ZIP:
        unpack = f"unzip -q {what} -d {into}"
    else:
        unpack = f"mkdir -p {into} && tar -xf {what} -C {into}"
    return unpack, into


def near(path: Path) -> list[Path]:
    """Gives the folders in which a dataset may be where a folder is none."""
    found = [resolved(path).parent] if resolved(path).name.lower() in _PARTS else []
    level = [path]
    for _ in _BELOW:
        level = [folder for above in level for folder in folders_in(above)][:_LOOKED_AT]
        found += level
    return found[:_LOOKED_AT]


def refuse_folder(path: Path, datasets: Sequence[Path]) -> DatasetError | None:
    """Says what a folder lacks that holds no dataset, and what to do.

    Args:
        path: the folder, without YAML, COCO JSON or annotations of Pascal VOC.
        datasets: those of the folders `near` it that look like datasets; parts of others do not
            count.

    Returns:
        None where a JSON file may be meant, which is not COCO.
    """
    whole = [place for place in datasets if not {*datasets}.intersection(place.parents)]
    if whole:
        others = "" if len(whole) == 1 else f" ({len(whole)} folders look like datasets)"
        return DatasetError(
            f"{path}: is no dataset, but '{whole[0]}' looks like one{others}: yolodata shard "
            f"{shlex.quote(str(whole[0]))} OUT"
        )
    jsons = sorted(file for file in path.glob(JSON_FILES) if not is_hidden(file, path))
    if _begins(path / "annotations.xml", b"<annotations"):
        return DatasetError(f"{path / 'annotations.xml'}: is in {_CVAT}")
    images, labels, archives, rest = _content(path)
    classes = [] if labels else _class_folders(images, path)
    for file in () if labels else (list(map(str, jsons)) or rest)[:_LOOKED_AT]:
        if (foreign := told(file)) and not (classes and file.endswith(".csv")):
            return DatasetError(f"{file}: {foreign}")
    if jsons and not labels:
        return None
    if not images:
        if archives:
            return DatasetError(f"{path}: holds no images; {_archive(Path(archives[0]))}")
        holds = f"{len(labels)} label files, but no images" if labels else "no images"
        empty = "is empty" if not any(path.iterdir()) else f"holds {holds}"
        return DatasetError(f"{path}: {empty}, and no description of a dataset; give {_KINDS}")
    if labels:
        return DatasetError(
            f"{path}: holds {len(images)} images and {len(labels)} label files, but the names of "
            "the classes are missing; write them into "
            f"'{path / 'classes.txt'}', one a line, or write '{path / 'data.yaml'}':\n"
            f"    train: {_likely('train', images, path)}\n"
            f"    val: {_likely('val', images, path)}\n"
            f"    names: [{', '.join(f'name of class {k}' for k in range(_classes(labels)))}]"
        )
    if classes:
        return DatasetError(
            f"{path}: looks like a dataset for classification: images in {len(classes)} folders, "
            f"as {', '.join(classes[:3])}, without boxes; yolodata packs detection, segmentation, "
            "poses and oriented boxes; train this one with Ultralytics: yolo classify train "
            f"data={shlex.quote(str(path))}"
        )
    xml = next((file for file in rest if file.lower().endswith(".xml")), None)
    if xml:
        return DatasetError(
            f"{path}: holds {len(images)} images, as '{images[0]}', and no annotations near them; "
            f"if '{xml}' is one, give the folder in which it and its image are"
        )
    json = next((f for pattern in _BELOW for f in path.glob(f"{pattern}/{JSON_FILES}")), None)
    other = f"; '{json}' is JSON, but not COCO's" if json else ""
    return DatasetError(
        f"{path}: holds {len(images)} images, as '{images[0]}', but no annotations: no YAML, no "
        f"COCO JSON, no XML, no label files{other}; give {_KINDS}"
    )


def _begins(file: Path, words: bytes, count: int = 1000) -> bool:
    """Whether the first `count` bytes of a file hold some words."""
    return words in head(file, count)


def _is_archive(path: Path) -> bool:
    """Whether a file of any name begins like an archive."""
    begin = head(path, 512)
    return begin.startswith((*_ZIP, *_COMPRESSED)) or begin[257:262] == b"ustar"


def _content(path: Path) -> tuple[list[str], list[str], list[str], list[str]]:
    """Images, label files, archives and the rest of the files in a folder."""
    images: list[str] = []
    labels: list[str] = []
    archives: list[str] = []
    rest: list[str] = []
    for here, names in files_below(str(path)):
        for name in names:
            file = os.path.join(here, name)
            if is_image(name):
                images.append(file)
            elif name.lower().endswith(_ARCHIVES):
                archives.append(file)
            elif name.lower().endswith(".txt") and first_class(file) is not None:
                labels.append(file)
            elif not name.startswith("."):
                rest.append(file)
    return images, labels, archives, rest


def first_class(file: str) -> int | None:
    """The class of a label file's first row; None if it is none."""
    try:
        line = head(file, 1 << 16).partition(b"\n")[0]
        words = line.decode("utf-8-sig").split()
        return int(float(words[0])) if len(words) >= 5 and [float(word) for word in words] else None
    except (ValueError, OverflowError):
        return None


def _classes(labels: list[str]) -> int:
    """About how many classes label files use, at most ten."""
    return min(10, 1 + max(first_class(file) or 0 for file in labels[:100]))


def _likely(split: str, images: list[str], root: Path) -> str:
    """The folder of a split, relative to `root`: one that is called so, if there is one."""
    folders = list(dict.fromkeys(os.path.relpath(os.path.dirname(i), root) for i in images))
    named = (f for f in folders if split in map(split_of_folder, f.split(os.sep)))
    return next(named, folders[0 if split == "train" else -1])


def _class_folders(images: list[str], root: Path) -> list[str]:
    """Names of the folders of images, if they are several that are called like classes."""
    folders = sorted({os.path.basename(os.path.dirname(image)) for image in images})
    usual = {"images", "jpegimages", "train", "val", "valid", "test", root.name.lower()}
    return folders if len(folders) > 1 and not usual & {name.lower() for name in folders} else []
