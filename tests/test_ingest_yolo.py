"""Ultralytics YAML files: found, refused and listed as upstream does, shown by running upstream."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from ingesting import upstream_files, write_yolo

from yolodata.errors import ConfigError, DatasetError
from yolodata.images.formats import IMAGE_SUFFIXES
from yolodata.ingest import open_source
from yolodata.ingest.fingerprint import fingerprint
from yolodata.ingest.yolo import _datasets_folder, label_path, open_yolo


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images in many places, lists that name them in many ways."""
    base = tmp_path_factory.mktemp("yolo")
    write_yolo(base, {"train": 4, "val": 3, "test": 2})
    train = base / "images" / "train"
    deep = train / "b" / "images" / "deep"
    deep.mkdir(parents=True)
    for name in ("z.png", "a.JPG", "m.Jpeg", "notes.txt", "movie.gif", "no_suffix", ".hidden.jpg"):
        (deep / name).write_bytes(b"x")
    (train / ".hidden").mkdir()
    (train / ".hidden" / "x.jpg").write_bytes(b"x")
    (train / "folder.jpg").mkdir()
    (base / "with [brackets] *").mkdir()
    (base / "with [brackets] *" / "k.jpg").write_bytes(b"x")
    (base / "linked").symlink_to(train)
    (base / "empty").mkdir()
    lists = {
        "relative.txt": "./images/train/001.jpg\n./images/train/000.jpg\n./missing.jpg",
        "bom.txt": "\ufeff./images/train/001.jpg\n",
        "windows.txt": "./images/train/001.jpg\r\n./images/val/000.jpg\r\n",
        "absolute.txt": f"{base}/images/val/002.jpg\n{base}/images/val/000.jpg\n",
        "working_folder.txt": "images/train/001.jpg\nimages/val/001.jpg\n",
        "repeated.txt": "./images/train/001.jpg\n./images/train/001.jpg\n",
        "odd.txt": "./images/a.gif\n\n  \n./images/train/001.jpg \n./x./images/002.jpg\n./b.jpg\n"
        "./images/train/000.jpg",
        "no_images.txt": "./notes.txt\n",
        "nothing.txt": "",
        "latin.txt": b"./images/\xe9.jpg\n",
    }
    for name, text in lists.items():
        (base / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return base


@pytest.fixture(autouse=True)
def _no_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    import ultralytics.data.utils as upstream

    monkeypatch.setattr(upstream, "check_font", lambda *_: None)
    monkeypatch.setattr("ultralytics.data.base.check_file_speeds", lambda *_, **__: None)


NAMES = {"names": ["a", "b", "c"]}
GOOD: dict[str, dict[str, Any]] = {
    "folders": {"train": "images/train", "val": "images/val", **NAMES},
    "trailing slash": {"train": "images/train/", "val": "images/val/", **NAMES},
    "folder of folders": {"train": "images", "val": "images/val", **NAMES},
    "test too": {"train": "images/train", "val": "images/val", "test": "images/test", **NAMES},
    "test that is absent": {"train": "images/train", "val": "images/val", "test": "no", **NAMES},
    "lists": {"train": "relative.txt", "val": "absolute.txt", **NAMES},
    "list with a mark": {"train": "bom.txt", "val": "windows.txt", **NAMES},
    "list of the working folder": {"train": "working_folder.txt", "val": "images/val", **NAMES},
    "list with repetition": {"train": "repeated.txt", "val": "images/val", **NAMES},
    "list with odd lines": {"train": "odd.txt", "val": "images/val", **NAMES},
    "list of folders": {"train": ["images/val", "images/test"], "val": ["images/val"], **NAMES},
    "list of both": {"train": ["images/val", "relative.txt"], "val": "images/val", **NAMES},
    "the same folder twice": {"train": ["images/val", "images/val"], "val": "images/val", **NAMES},
    "validation": {"train": "images/train", "validation": "images/val", **NAMES},
    "parent folder that is none": {"train": "../images/train", "val": "../images/val", **NAMES},
    "brackets": {"train": "with [brackets] *", "val": "images/val", **NAMES},
    "linked folder": {"train": "linked", "val": "images/val", **NAMES},
    "names by number": {
        "train": "images/train",
        "val": "images/val",
        "names": {1: "b", 0: "a", "2": 3},
    },
    "nc without names": {"train": "images/train", "val": "images/val", "nc": 4},
    "nc as text": {"train": "images/train", "val": "images/val", "nc": "3", **NAMES},
    "nc as float": {"train": "images/train", "val": "images/val", "nc": 3.0},
    "names empty, nc given": {"train": "images/train", "val": "images/val", "names": None, "nc": 2},
    "kpt_shape": {"train": "images/train", "val": "images/val", "kpt_shape": [17, 3], **NAMES},
    "unknown keys": {"train": "images/train", "val": "images/val", "author": [1, {}], **NAMES},
}
BAD: dict[str, dict[str, Any] | str] = {
    "no train": {"val": "images/val", **NAMES},
    "no val": {"train": "images/train", **NAMES},
    "no names": {"train": "images/train", "val": "images/val"},
    "names null": {"train": "images/train", "val": "images/val", "names": None},
    "names empty": {"train": "images/train", "val": "images/val", "names": []},
    "names a text": {"train": "images/train", "val": "images/val", "names": "a b"},
    "names with a gap": {"train": "images/train", "val": "images/val", "names": {0: "a", 2: "b"}},
    "names from 1": {"train": "images/train", "val": "images/val", "names": {1: "a", 2: "b"}},
    "names with words": {"train": "images/train", "val": "images/val", "names": {"x": "a"}},
    "nc differs": {"train": "images/train", "val": "images/val", "nc": 2, **NAMES},
    "nc a word": {"train": "images/train", "val": "images/val", "nc": "three", **NAMES},
    "nc a fraction": {"train": "images/train", "val": "images/val", "nc": 1.5},
    "nc null": {"train": "images/train", "val": "images/val", "nc": None, **NAMES},
    "train a number": {"train": 3, "val": "images/val", **NAMES},
    "train a dict": {"train": {"a": 1}, "val": "images/val", **NAMES},
    "path a list": {"path": ["x"], "train": "images/train", "val": "images/val", **NAMES},
    "kpt_shape a number": {"train": "images/val", "val": "images/val", "kpt_shape": 17, **NAMES},
    "absent train": {"train": "images/absent", "val": "images/val", **NAMES},
    "absent val": {"train": "images/train", "val": "images/absent", **NAMES},
    "one of two absent": {"train": ["images/train", "no"], "val": "images/val", **NAMES},
    "absent list": {"train": "absent.txt", "val": "images/val", **NAMES},
    "empty folder": {"train": "empty", "val": "images/val", **NAMES},
    "empty list": {"train": "nothing.txt", "val": "images/val", **NAMES},
    "list without images": {"train": "no_images.txt", "val": "images/val", **NAMES},
    "list that is not UTF-8": {"train": "latin.txt", "val": "images/val", **NAMES},
    "absent path": {"path": "/no/such", "train": "images/train", "val": "images/val", **NAMES},
    "syntax": "train: [images/train\nval: images/val\nnames: [a]",
    "tab": "train:\timages/train\n\tval: x",
    "a list": "- train\n- val",
    "a text": "just words",
    "empty": "",
}


def write(root: Path, content: dict[str, Any] | str) -> Path:
    file = root / "data.yaml"
    file.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return file


def upstream(file: Path) -> tuple[dict[str, Any], dict[str, list[str]]]:
    from ultralytics.data.utils import check_det_dataset

    data = check_det_dataset(str(file), autodownload=False)
    splits = [s for s in ("train", "val", "test") if data.get(s)]
    present = [s for s in splits if s != "test" or os.path.exists(data[s])]
    return data, {split: upstream_files(data, split) for split in present}


@pytest.mark.parametrize("case", GOOD)
def test_accepted(root: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    file = write(root, GOOD[case])
    data, files = upstream(file)
    source = open_source(file)
    assert source.kind == "yolo"
    assert source.names == data["names"]
    assert {split: images.paths for split, images in source.splits.items()} == files
    from ultralytics.data.utils import img2label_paths

    for split, images in source.splits.items():
        assert images.label_files() == img2label_paths(files[split])
    again = open_yolo(data)  # the dict that upstream returns means the same
    assert {split: images.paths for split, images in again.splits.items()} == files


@pytest.mark.parametrize("case", BAD)
def test_refused(root: Path, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    file = write(root, BAD[case])
    with pytest.raises(Exception):  # noqa: PT011 - upstream raises nearly anything
        upstream(file)
    with pytest.raises(DatasetError) as refusal:
        open_source(file)
    message = str(refusal.value)
    assert len(message) > 40
    assert "; " in message or ". " in message  # what is wrong, and what to do


@pytest.fixture
def elsewhere(root: Path, tmp_path: Path) -> Iterator[Path]:
    """Upstream's datasets folder, with the dataset in it."""
    import ultralytics.data.utils as upstream_utils

    (tmp_path / "sets").mkdir()
    (tmp_path / "sets" / "mine").symlink_to(root)
    before = upstream_utils.DATASETS_DIR
    upstream_utils.DATASETS_DIR = tmp_path / "sets"
    yield tmp_path
    upstream_utils.DATASETS_DIR = before


def test_without_a_home_folder_there_are_no_settings_of_ultralytics(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A container's user may have none (`HOME` is not set, and the number has no name)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("YOLO_CONFIG_DIR", "~no-such-user")
    assert _datasets_folder() == tmp_path / "datasets"


def test_relative_path_is_looked_for_here_and_in_the_datasets_folder(
    root: Path, elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = {"path": "mine", "train": "images/train", "val": "images/val", **NAMES}
    file = write(elsewhere, content)
    settings = elsewhere / "config" / "Ultralytics"
    settings.mkdir(parents=True)
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(elsewhere / "config"))
    monkeypatch.chdir(elsewhere)
    with pytest.raises(DatasetError, match="path: mine"):
        open_source(file)
    (settings / "settings.json").write_text('{"datasets_dir": "%s"}' % (elsewhere / "sets"))
    assert open_source(file).splits["val"].paths == upstream(file)[1]["val"]
    monkeypatch.chdir(root.parent)
    file = write(elsewhere, {**content, "path": root.name})  # relative to the working folder
    assert open_source(file).splits["val"].paths == upstream(file)[1]["val"]


def test_a_folder_means_the_yaml_in_it(tmp_path: Path) -> None:
    file = write_yolo(tmp_path, {"train": 2, "val": 1})
    assert open_source(tmp_path).origin == str(file)
    (tmp_path / "other.yaml").write_text("names: [a]")
    with pytest.raises(DatasetError, match="2 YAML files"):
        open_source(tmp_path)
    with pytest.raises(DatasetError, match="does not exist"):
        open_source(tmp_path / "absent.yaml")
    with pytest.raises(DatasetError, match="is one image"):
        open_source(tmp_path / "images" / "train" / "000.jpg")
    (tmp_path / "other.yaml").unlink()
    for name in ("data.YAML", "Data.Yml"):
        file = file.rename(tmp_path / name)
        assert open_source(tmp_path).origin == str(file)


def test_names_that_yaml_reads_as_something_else_are_said(tmp_path: Path) -> None:
    write_yolo(tmp_path, {"train": 1, "val": 1})
    for names, said in (("no, yes, ~", "False and one True and one None"), ("'no', 7, 1.0", "")):
        write(tmp_path, f"train: images/train\nval: images/val\nnames: [{names}]")
        found = [note.partition(",")[0] for note in open_source(tmp_path).notes]
        assert found == ([f"a class is called {said}"] if said else [])


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": "images\\train"}, "'images/train' is there; write it so"),
        ({"train": "..\\images\\train"}, r"'\.\./images/train' is there; write it so"),
        ({"train": "/images/train "}, "'images/train' is there; write it so"),
        ({"path": "/no/such"}, "beside the YAML, 'images/train' is there; leave 'path' out"),
        ({"train": "images/train/000.jpg"}, "000.jpg' is one image; give its folder"),
        ({"train": "names.txt"}, "the first entry is 'images/train/000'"),
    ],
)
def test_what_is_nearly_right_is_said(tmp_path: Path, changes: dict[str, str], said: str) -> None:
    write_yolo(tmp_path, {"train": 1, "val": 1})
    (tmp_path / "names.txt").write_text("images/train/000\n")
    write(tmp_path, {"train": "images/train", "val": "images/val", **NAMES, **changes})
    with pytest.raises(DatasetError, match=said):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train": None, "val": None}, "'train' and 'val' are both empty"),
        ({"kpt_shape": [2, 3], "flip_idx": ["a", 1]}, r"0 to 1 once, got \['a', 1\]"),
        ({"kpt_shape": [2, 3], "flip_idx": [0, 0]}, r"got \[0, 0\]"),
    ],
)
def test_what_upstream_would_stumble_over_later(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(DatasetError, match=said):
        open_source(write_yolo(tmp_path, {"train": 1, "val": 1}, **changes))


@pytest.mark.parametrize("name", ["coco8.yaml", "coco8"])
def test_the_dataset_files_that_upstream_brings(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "config" / "Ultralytics" / "settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(json.dumps({"datasets_dir": str(tmp_path)}))
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "config"))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(DatasetError, match="path: coco8"):
        open_source(name)
    write_yolo(tmp_path / "coco8", {"train": 2, "val": 1})
    source = open_source(name)
    assert len(source.names) == 80
    assert source.splits["val"].paths == [str(tmp_path / "coco8" / "images" / "val" / "000.jpg")]
    text = (tmp_path / "coco8" / "data.yaml").read_text()
    (tmp_path / "empty" / "coco8.yaml").write_text(f"path: {tmp_path}/coco8\n{text}")
    assert len(open_source(name).names) < 80  # one's own comes first


def test_splits_that_are_asked_for(tmp_path: Path) -> None:
    file = write_yolo(tmp_path, {"train": 2, "val": 1})
    assert list(open_source(file, splits=["val"]).splits) == ["val"]
    with pytest.raises(DatasetError, match="key 'test' is missing; there are train, val"):
        open_source(file, splits=["test"])
    with pytest.raises(ConfigError, match="split must be one of"):
        open_source(file, splits=["training"])


def test_options_of_other_formats_are_refused(tmp_path: Path) -> None:
    file = write_yolo(tmp_path, {"train": 2, "val": 1})
    for wrong in ({"images": tmp_path}, {"names": ["a"]}, {"format": "csv"}, {"task": "depth"}):
        with pytest.raises(ConfigError):
            open_source(file, **wrong)
    with pytest.raises(DatasetError, match="kpt_shape"):
        open_source(file, task="pose")
    write_yolo(tmp_path / "grey", {"train": 1, "val": 1}, channels=1)
    with pytest.raises(DatasetError, match="'channels' must be 3, which shards hold, got 1"):
        open_source(tmp_path / "grey" / "data.yaml")


@pytest.mark.parametrize(
    "path",
    [
        "/a/images/b.jpg",
        "/a/images/images/b.c.jpg",
        "/images/x/images/y/b.jpg",
        "/a/pictures/b.jpg",
        "images/b.jpg",
        "/a/images.old/b.jpg",
        "/a.b/images/c",
    ],
)
def test_label_paths(path: str) -> None:
    from ultralytics.data.utils import img2label_paths

    assert label_path(path) == img2label_paths([path])[0]


def test_image_suffixes() -> None:
    from ultralytics.data.utils import IMG_FORMATS

    assert IMAGE_SUFFIXES == IMG_FORMATS


def test_fingerprint_sees_every_change(tmp_path: Path) -> None:
    file = write_yolo(tmp_path, {"train": 4, "val": 1})
    images, labels = tmp_path / "images" / "train", tmp_path / "labels" / "train"
    seen = [fingerprint(file, "train")]
    assert fingerprint(file, "train") == seen[0]
    assert fingerprint(file, "val") != seen[0]

    def changed(images_too: bool, labels_too: bool) -> None:
        now = fingerprint(file, "train")
        assert (now["images"] != seen[-1]["images"]) == images_too
        assert (now["labels"] != seen[-1]["labels"]) == labels_too
        seen.append(now)

    (labels / "001.txt").write_text("0 .5 .5 .1 .1")
    changed(False, True)
    (labels / "000.txt").write_text("")  # was missing
    changed(False, True)
    (labels / "002.txt").unlink(missing_ok=True)
    changed(False, True)
    os.utime(images / "001.jpg", ns=(1, 1))
    changed(True, False)
    (images / "001.jpg").rename(images / "001b.jpg")
    changed(True, True)
    (images / "003.jpg").unlink()
    changed(True, True)
    file.write_text(file.read_text().replace("c0", "zero"))
    changed(False, True)
