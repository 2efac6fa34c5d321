"""COCO as people have it: which file is which split, where images lie, what cannot be used."""

from __future__ import annotations

import gzip
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingesting import HEIGHT, JPEG, ROW, TWO, WIDTH, build, classes, coco

from yolodata.errors import DatasetError
from yolodata.ingest import PackSettings, open_source, pack
from yolodata.ingest.coco_files import choose_files
from yolodata.ingest.labels import check_labels
from yolodata.ingest.relabel import relabel
from yolodata.ingest.sample import Refused
from yolodata.ingest.split_names import split_of
from yolodata.shards.left_out import read_left_out


def paths(source: Any, split: str, root: Path) -> list[str]:
    return [str(Path(path).relative_to(root.resolve())) for path in source.splits[split].paths]


# Splits.


@pytest.mark.parametrize(
    ("name", "split"),
    [
        *(("instances_train2017", "train"), ("trainval", "train"), ("train-val_2014", "train")),
        *(("valid", "val"), ("validation", "val"), ("lvis_v1_val", "val"), ("VAL", "val")),
        *(("instances_test-dev2017", "test"), ("testSet", "test")),
        *((name, None) for name in ("latest", "dataset_interval", "instances_minitrain2017")),
        *((name, None) for name in ("evaluation", "retrain", "contest", "train_test", "dev")),
    ],
)
def test_a_split_is_told_by_whole_words(name: str, split: str | None, tmp_path: Path) -> None:
    assert split_of(name) == split
    file = coco(tmp_path / "annotations" / f"{name}.json", at=tmp_path / "images")
    for source in (file, tmp_path):
        if split is None:
            with pytest.raises(DatasetError, match=rf"shard '.*{name}.json' OUT --split train"):
                open_source(source)
        else:
            assert list(open_source(source).splits) == [split]
    if split is None:
        assert list(open_source(file, splits=["val"]).splits) == ["val"]  # the answer
        assert list(open_source(tmp_path, splits=["val"]).splits) == ["val"]


def test_one_file_without_any_split_in_its_name_is_train(tmp_path: Path) -> None:
    """Label Studio, CVAT, FiftyOne; also where a folder above is called like a split."""
    for name, at in (
        ("result.json", "images"),
        ("annotations/instances_default.json", "images/default"),
        ("labels.json", "data"),
    ):
        root = tmp_path / "latest test" / Path(name).stem
        file = coco(root / name, at=root / at)
        for source in (file, root):
            found = open_source(source)
            assert list(found.splits) == ["train"]
            assert paths(found, "train", root) == [f"{at}/0.jpg", f"{at}/1.jpg"]


def test_of_two_files_for_one_name_that_of_the_task_is_read(tmp_path: Path) -> None:
    """Datumaro writes both for its subset "default"."""
    annotations = tmp_path / "annotations"
    for kind in ("instances", "person_keypoints"):
        coco(annotations / f"{kind}_default.json", at=tmp_path / "images" / "default")
    for task, kind in (("detect", "instances"), ("pose", "person_keypoints")):
        chosen = choose_files(tmp_path, None, task, lambda *_: True)
        assert [file.path.name for file in chosen.files.values()] == [f"{kind}_default.json"]
    coco(annotations / "other.json")
    with pytest.raises(
        DatasetError, match=r"instances_default\.json, .*/other\.json: the name must"
    ):
        open_source(tmp_path)


def test_roboflow(tmp_path: Path) -> None:
    for split in ("train", "valid", "test"):
        coco(tmp_path / split / "_annotations.coco.json", at=tmp_path / split)
    found = open_source(tmp_path)
    assert list(found.splits) == ["train", "val", "test"]
    assert paths(found, "val", tmp_path) == ["valid/0.jpg", "valid/1.jpg"]
    assert list(open_source(tmp_path / "valid" / "_annotations.coco.json").splits) == ["val"]


def official(root: Path, year: str) -> None:
    """The annotation folder as COCO's own archives make it."""
    notes = root / "annotations"
    for split in ("train", "val"):
        images = [f"{split}{k}.jpg" for k in range(2)]
        coco(notes / f"instances_{split}{year}.json", images, at=root / f"{split}{year}")
        coco(
            notes / f"person_keypoints_{split}{year}.json",
            images,
            TWO,
            listed=[{"id": k, "name": TWO[k], "keypoints": ["nose"]} for k in TWO],
        )
        captions = [{"id": 0, "image_id": 0, "caption": "a cat"}]
        (notes / f"captions_{split}{year}.json").write_text(
            json.dumps({"images": [], "annotations": captions})
        )
        coco(notes / f"stuff_{split}{year}.json", images)
        (notes / f"panoptic_{split}{year}.json").write_text("not even JSON")
    (notes / f"._instances_val{year}.json").write_bytes(b"\0\5\x16\7")  # of macOS
    names = (f"image_info_test{year}", f"image_info_test-dev{year}", "image_info_unlabeled")
    for name in (*names, "lvis_v1_image_info_test_dev"):
        (notes / f"{name}.json").write_text(json.dumps({"images": [], "categories": []}))


@pytest.mark.parametrize("year", ["2014", "2017"])
def test_the_official_folder(tmp_path: Path, year: str) -> None:
    official(tmp_path, year)
    found = open_source(tmp_path)
    assert list(found.splits) == ["train", "val"]
    assert not found.left_out
    assert paths(found, "val", tmp_path) == [f"val{year}/val0.jpg", f"val{year}/val1.jpg"]
    assert list(open_source(tmp_path, splits=["val"]).splits) == ["val"]
    assert open_source(tmp_path, task="pose").kpt_shape == (1, 3)
    with pytest.raises(DatasetError, match="no 'test'; there are annotations for"):
        open_source(tmp_path, splits=["test"])


def test_both_years_in_one_folder(tmp_path: Path) -> None:
    """The year whose images are there is meant; with both, the message has the command."""
    for year in ("2014", "2017"):
        official(tmp_path, year)
    with pytest.raises(DatasetError, match=r"2 annotation files for 'train'.* --split train"):
        open_source(tmp_path)
    for split in ("train2014", "val2014"):
        for file in (tmp_path / split).iterdir():
            file.unlink()
    found = open_source(tmp_path)
    assert paths(found, "val", tmp_path)[0] == "val2017/val0.jpg"
    assert {Path(name).name for name in found.left_out} == {
        "instances_train2014.json",
        "instances_val2014.json",
    }


def test_a_split_that_nothing_was_put_into(tmp_path: Path) -> None:
    """Roboflow exports such ones; the others are packed."""
    coco(tmp_path / "train.json", at=tmp_path / "images")
    file = coco(tmp_path / "test.json", [])
    found = open_source(tmp_path)
    assert list(found.splits) == ["train"]
    assert found.left_out == {str(file): "no images in it, and 0 annotations"}
    (tmp_path / "train.json").unlink()
    for source, splits in ((file, None), (tmp_path, ["test"]), (tmp_path, None)):
        with pytest.raises(DatasetError, match=r"test\.json: there are no images in it"):
            open_source(source, splits=splits)


def test_label_files_that_other_options_read_are_said(tmp_path: Path) -> None:
    """Ultralytics' own archive of COCO has the labels of train as text alone."""
    coco(tmp_path / "annotations" / "instances_val2017.json", at=tmp_path / "images" / "val2017")
    there = {"images/train2017/a.jpg": JPEG, "labels/train2017/a.txt": ROW, "images/b.jpg": JPEG}
    build(tmp_path, there)
    reasons = pack(tmp_path, tmp_path / "out", PackSettings(imgsz=32), progress=False).left_out
    said = {Path(path).name: "--format yolo" in reason for path, reason in reasons.items()}
    assert said == {"a.jpg": True, "b.jpg": False}


def test_files_of_two_kinds_are_said(tmp_path: Path) -> None:
    coco(tmp_path / "annotations" / "instances_train2017.json", at=tmp_path / "train2017")
    coco(tmp_path / "annotations" / "person_keypoints_val2017.json", at=tmp_path / "val2017")
    (note,) = open_source(tmp_path).notes
    assert "'instances_train2017.json', 'person_keypoints_val2017.json'" in note
    coco(tmp_path / "annotations" / "instances_val2017.json")
    assert not open_source(tmp_path).notes


def test_what_else_lies_in_the_folder_is_named(tmp_path: Path) -> None:
    coco(tmp_path / "annotations" / "instances_train.json", at=tmp_path / "images")
    coco(tmp_path / "annotations" / "train_old.json")
    coco(tmp_path / "annotations" / "latest.json")
    (tmp_path / "annotations" / "test_config.json").write_text('{"lr": 0.1}')
    (tmp_path / "annotations" / "notes.json").write_text("[]")
    found = open_source(tmp_path)
    assert list(found.splits) == ["train"]
    reasons = {Path(name).name: reason for name, reason in found.left_out.items()}
    assert set(reasons) == {"train_old.json", "latest.json", "test_config.json"}
    assert "--split" in reasons["latest.json"]
    assert "not COCO" in reasons["test_config.json"]
    assert not open_source(tmp_path, splits=["train"]).left_out
    with pytest.raises(DatasetError, match=r"latest.json' OUT --split val"):
        open_source(tmp_path, splits=["val"])
    for name in ("instances_val2014.json", "instances_val2017.json"):
        (tmp_path / "annotations" / name).write_text('{"images": [')
    assert list(open_source(tmp_path, splits=["train"]).splits) == ["train"]
    with pytest.raises(DatasetError, match=r"val20.*ends in the middle"):
        open_source(tmp_path)


# Images.


def test_the_folder_named_after_the_split_wins(tmp_path: Path) -> None:
    images = ["0.jpg", "1.jpg"]
    coco(tmp_path / "annotations" / "instances_train.json", images, at=tmp_path / "images")
    coco(tmp_path / "annotations" / "instances_val.json", images, at=tmp_path / "val")
    found = open_source(tmp_path)
    assert paths(found, "train", tmp_path) == ["images/0.jpg", "images/1.jpg"]
    assert paths(found, "val", tmp_path) == ["val/0.jpg", "val/1.jpg"]
    (tmp_path / "val" / "1.jpg").unlink()  # and it is not taken from train
    assert paths(open_source(tmp_path), "val", tmp_path) == ["val/0.jpg", "val/1.jpg"]
    report = pack(tmp_path, tmp_path / "out", PackSettings(imgsz=64), progress=False).splits["val"]
    assert not report.notes
    assert [Path(path).name for path, _ in report.left_out] == ["1.jpg"]
    (tmp_path / "val" / "0.jpg").unlink()
    said = r"may be another split's, because there is '.*/val'"
    with pytest.raises(DatasetError, match=said) as error:
        open_source(tmp_path)
    assert "names have to be equal" not in str(error.value)  # they are
    (tmp_path / "val" / "notes.txt").touch()  # no folder of images: nothing speaks against images/
    assert paths(open_source(tmp_path), "val", tmp_path) == ["images/0.jpg", "images/1.jpg"]


@pytest.mark.parametrize(
    "own", ["train/images", "train2017/images", "images/train/images", "train2017/train2017"]
)
def test_folders_of_images_in_those_of_splits(tmp_path: Path, own: str) -> None:
    """Train's are not taken for val's, where both count from 0."""
    images = ["0.jpg", "1.jpg"]
    for split in ("train", "val"):
        coco(tmp_path / f"{split}.json", images, at=tmp_path / own.replace("train", split))
    build(tmp_path, {f"images/{name}": JPEG for name in images})
    found = open_source(tmp_path)
    for split in ("train", "val"):
        folder = own.replace("train", split)
        assert paths(found, split, tmp_path) == [f"{folder}/0.jpg", f"{folder}/1.jpg"]


def test_one_name_in_two_folders_for_all_splits_is_not_guessed(tmp_path: Path) -> None:
    file = coco(tmp_path / "train.json", ["0.jpg", "1.jpg"])
    build(tmp_path, {"images/0.jpg": JPEG, "data/0.jpg": JPEG, "data/1.jpg": JPEG})
    train = open_source(file).splits["train"]
    assert [Path(path).name for path in train.paths] == ["1.jpg"]
    (reason,) = train.unlisted.values()
    assert reason == f"may also be {tmp_path.resolve()}/data/0.jpg; name the folder --images DIR"
    build(tmp_path, {"images/1.jpg": JPEG})
    with pytest.raises(DatasetError, match=r"none of the 2 images.*images/1.jpg': may also be"):
        pack(file, tmp_path / "out", progress=False)
    assert len(open_source(file, images=tmp_path / "data").splits["train"].paths) == 2


def test_an_image_of_two_splits_and_another_size_are_said(tmp_path: Path) -> None:
    images = [
        {"file_name": "0.jpg"},
        {"file_name": "1.jpg", "width": 2 * WIDTH, "height": 2 * HEIGHT},
    ]
    images += [{"file_name": "2.jpg", "width": HEIGHT, "height": WIDTH}]
    for split in ("train", "val"):
        file = coco(tmp_path / f"instances_{split}.json", images, at=tmp_path / "images")
    file.write_text(file.read_text().replace("[5, 4, 20", "[6, 4, 20"))  # of val's image 1
    report = pack(tmp_path, tmp_path / "out", PackSettings(imgsz=64), progress=False)
    why = "pixels, but the image has 64 x 48:"
    sizes = [
        ("1.jpg", f"labelled as 128 x 96 {why} scaled since?"),
        ("2.jpg", f"labelled as 48 x 64 {why} turned since, or another image?"),
    ]
    said = {
        split: [(Path(path).name, note) for path, note in r.notes]
        for split, r in report.splits.items()
    }
    assert said["train"] == sizes
    assert said["val"][3:] == sizes
    assert [path for path, _ in said["val"][:3]] == ["0.jpg", "1.jpg", "2.jpg"]
    assert ["with other labels" in note for _, note in said["val"][:3]] == [False, True, False]
    alone = tmp_path / "alone"  # one file after the other
    for split in ("train", "val"):
        file = tmp_path / f"instances_{split}.json"
        last = pack(file, alone, PackSettings(imgsz=64), progress=False).splits[split]
    assert [note for _, note in last.notes][:3] == ["also an image of 'train'"] * 3
    again = relabel(alone, file, splits=["val"]).splits["val"]
    assert [note for _, note in again.notes] == [note for _, note in sizes]


def test_absent_images_are_sought_where_the_others_are(tmp_path: Path) -> None:
    coco(tmp_path / "annotations" / "train.json", ["0.jpg", "1.jpg"])
    build(tmp_path, {"data/0.jpg": JPEG, "images/other.jpg": JPEG})
    assert paths(open_source(tmp_path), "train", tmp_path) == ["data/0.jpg", "data/1.jpg"]


@pytest.mark.parametrize(
    ("at", "given", "below"),
    [
        ("annotations_trainval2017/annotations", ".", "train2017/train2017"),
        (".", "coco", "train2017"),
        ("COCO", "PNG", "."),
        ("annotations", "images/train2017/Data", "."),
    ],
)
def test_where_images_may_be_is_said(tmp_path: Path, at: str, given: str, below: str) -> None:
    """Annotations in the folder of their archive, or beside that of the images."""
    root = tmp_path / "my set"
    images = root / given
    file = coco(root / at / "instances_train2017.json", at=images / below)
    with pytest.raises(DatasetError, match=f"--images '{images}', if those there") as refusal:
        open_source(file)
    option = shlex.split(str(refusal.value).partition("--images ")[2])[0].rstrip(",")
    assert len(open_source(file, images=option).splits["train"].paths) == 2


def test_a_partial_download(tmp_path: Path) -> None:
    images = [f"{k:03}.jpg" for k in range(30)]
    file = coco(tmp_path / "annotations" / "instances_train.json", images)
    with pytest.raises(DatasetError, match=rf"none of its 30 images, as '000.jpg', .*{tmp_path}'"):
        open_source(file)
    for name in images[-3:]:
        (tmp_path / "images" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "images" / name).write_bytes(JPEG)
    report = pack(tmp_path, tmp_path / "out", PackSettings(imgsz=64), progress=False).splits[
        "train"
    ]
    assert report.images == 3
    assert [Path(path).name for path, _ in report.left_out] == images[:-3]
    assert {reason for _, reason in report.left_out} == {
        "cannot be read: No such file or directory"
    }


def test_lvis(tmp_path: Path) -> None:
    """No file names, but addresses, whose last folder is that of the image."""
    host = "http://images.cocodataset.org"
    folders = {"train": ["train2017/0.jpg", "val2017/1.jpg"], "val": ["val2017/0.jpg"]}
    for split, files in folders.items():
        images = [{"coco_url": f"{host}/{name}"} for name in files]
        coco(tmp_path / "annotations" / f"lvis_v1_{split}.json", images)
        for name in files:
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(JPEG)
    found = open_source(tmp_path)
    assert {split: paths(found, split, tmp_path) for split in found.splits} == folders


def test_names_of_2014_for_files_of_2017(tmp_path: Path) -> None:
    """LVIS v0.5: where no file has the name, the address counts."""
    url = "http://images.cocodataset.org/train2017/000000000009.jpg"
    image = {"file_name": "COCO_val2014_000000000009.jpg", "coco_url": url}
    build(tmp_path, {"train2017/000000000009.jpg": JPEG})
    file = coco(tmp_path / "annotations" / "lvis_v0.5_val.json", [image])
    assert paths(open_source(file), "val", tmp_path) == ["train2017/000000000009.jpg"]
    build(tmp_path, {"val2014/COCO_val2014_000000000009.jpg": JPEG})
    stored = ["val2014/COCO_val2014_000000000009.jpg"]
    assert paths(open_source(file), "val", tmp_path) == stored


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("a.JPG", "a.jpg"),
        ("a.png", "a.jpg"),
        ("a b.jpg", "a%20b.jpg"),
        ("a%20b.jpg", "a b.jpg"),
        ("a.jpg ", "a.jpg"),
        ("\u00e9.jpg", "e\u0301.jpg"),  # one é, as Windows and as macOS write it
        ("a", "a.jpg"),
    ],
)
def test_names_that_are_nearly_there(tmp_path: Path, name: str, there: str) -> None:
    build(tmp_path, {f"images/{there}": JPEG})
    file = coco(tmp_path / "train.json", [name])
    with pytest.raises(
        DatasetError, match=f"images/{re.escape(there)}' is there, but names have to be"
    ):
        open_source(file)
    build(tmp_path, {"images/other.jpg": JPEG})
    (reason,) = open_source(coco(file, [name, "other.jpg"])).splits["train"].unlisted.values()
    assert reason.startswith("no such file, but one whose name differs in suffix")


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("sub\\0.jpg", "images/sub/0.jpg"),
        ("C:\\data\\export\\0.jpg", "images/0.jpg"),
        ("/home/someone/0.jpg", "images/0.jpg"),
        ("../upload/0.jpg", "images/0.jpg"),
        ("images/0.jpg", "images/0.jpg"),
        ("odd\\name.jpg", "images/odd\\name.jpg"),
    ],
)
def test_names_with_folders(tmp_path: Path, name: str, stored: str) -> None:
    file = coco(tmp_path / "result.json", [name])
    (tmp_path / stored).parent.mkdir(parents=True)
    (tmp_path / stored).write_bytes(JPEG)
    assert paths(open_source(file), "train", tmp_path) == [stored]


@pytest.mark.parametrize(
    ("name", "there", "found"),
    [
        ("..\\label\\1.jpg", (), "images/1.jpg"),  # as X-AnyLabeling writes it beside 0.jpg
        ("gone/1.jpg", (), "images/1.jpg"),
        ("gone/1.jpg", ("gone/2.jpg",), "images/gone/1.jpg"),  # the folder is there, the image not
        ("val/1.jpg", (), "images/val/1.jpg"),  # of another split
        ("gone/0.jpg", (), "images/gone/0.jpg"),  # one name for two images
    ],
)
def test_some_names_with_folders_that_are_not_there(
    tmp_path: Path, name: str, there: Sequence[str], found: str
) -> None:
    file = coco(tmp_path / "result.json", ["0.jpg", name])
    for image in ("0.jpg", "1.jpg", *there):
        target = tmp_path / "images" / image
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(JPEG)
    assert paths(open_source(file), "train", tmp_path) == ["images/0.jpg", found]


def test_names_lose_their_folders_only_where_nothing_is_confused(tmp_path: Path) -> None:
    file = coco(tmp_path / "result.json", ["a/0.jpg", "a/0.jpg"])  # a file under two ids
    (tmp_path / "0.jpg").write_bytes(JPEG)
    assert paths(open_source(file), "train", tmp_path) == ["0.jpg"]
    (tmp_path / "0.jpg").unlink()
    file = coco(tmp_path / "result.json", ["a/0.jpg", "b/0.jpg"])
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "0.jpg").write_bytes(JPEG)
    with pytest.raises(DatasetError, match="none of its 2 images"):
        open_source(file)
    file = coco(tmp_path / "annotations" / "val.json", ["val/0.jpg"])
    with pytest.raises(DatasetError, match="none of its 1 images"):
        open_source(file)
    assert open_source(file, images=tmp_path / "images").splits["val"].paths


@pytest.mark.parametrize(
    ("there", "found"),
    [
        (["train/patch8/0.jpg", "train/patch9/0.jpg"], True),
        (["images/train/v1/patch8/0.jpg", "images/train/v2/patch9/0.jpg"], True),
        (["train/patch9/0.jpg"], True),
        (["val/patch8/0.jpg", "patch8/0.jpg"], False),  # perhaps another split's
    ],
)
def test_names_lose_their_first_folders(tmp_path: Path, there: Sequence[str], found: bool) -> None:
    """As Objects365, whose archives hold patches."""
    file = coco(
        tmp_path / "annotations" / "zhiyuan_objv2_train.json",
        ["images/v1/patch8/0.jpg", "images/v2/patch9/0.jpg"],
    )
    build(tmp_path, dict.fromkeys(there, JPEG))
    if found:
        assert set(there) <= set(paths(open_source(file), "train", tmp_path))
    else:
        with pytest.raises(DatasetError, match="none of its 2 images"):
            open_source(file)


def test_trainval_finds_images_in_both_folders(tmp_path: Path) -> None:
    file = coco(
        tmp_path / "annotations" / "instances_trainval2014.json", ["0.jpg", "1.jpg", "2.jpg"]
    )
    for place in ("train2014/0.jpg", "val2014/1.jpg", "train2014/2.jpg", "val2014/2.jpg"):
        (tmp_path / place).parent.mkdir(exist_ok=True)
        (tmp_path / place).write_bytes(JPEG)
    found = open_source(file)
    assert paths(found, "train", tmp_path) == ["train2014/0.jpg", "val2014/1.jpg"]
    ((path, reason),) = found.splits["train"].unlisted.items()
    assert path.endswith("train2014/2.jpg")
    assert "val2014/2.jpg" in reason


# A file under several ids.


@pytest.mark.parametrize("outlines", [False, True])
def test_a_file_under_several_ids_as_upstream_converts_it(tmp_path: Path, outlines: bool) -> None:
    from ultralytics.data.converter import convert_coco
    from ultralytics.data.utils import verify_image_label

    file = coco(tmp_path / "annotations" / "instances_train.json", ["0.jpg", "1.jpg"] * 3)
    data = json.loads(file.read_text())
    data["annotations"].append({**data["annotations"][0], "image_id": 4})  # the same row again
    for note in data["annotations"] if outlines else ():
        x = note["bbox"][0]
        note["segmentation"] = [[x, 4, x + 20, 4, x + 20, 24]]
    file.write_text(json.dumps(data))
    for name in ("0.jpg", "1.jpg"):
        target = tmp_path / "images" / "train" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(JPEG)
    convert_coco(str(file.parent), str(tmp_path / "work"), outlines, False, cls91to80=False)
    source = open_source(file)
    split = source.splits["train"]
    assert len(split.paths) == 2
    for i, path in enumerate(split.paths):
        label = tmp_path / "work" / "labels" / "train" / f"{Path(path).stem}.txt"
        theirs = verify_image_label((path, str(label), "", False, 2, 0, 0, False))
        ours = check_labels(split.raw_labels(i), source.rules("detect", False))
        assert len(ours.cls) == 3
        assert ours.cls.tobytes() == np.ascontiguousarray(theirs[1][:, 0]).tobytes()
        assert ours.box.tobytes() == np.ascontiguousarray(theirs[1][:, 1:]).tobytes()


# What cannot be used.


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda d: d["annotations"][0].pop("bbox"), "annotation 0 cannot be used"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, 3]), "annotation 0 cannot be used"),
        (lambda d: d["annotations"][0].update(bbox=None), "annotation 0 cannot be used"),
        (lambda d: d["annotations"][0].update(bbox=["a", 2, 3, 4]), "annotation 0 cannot be used"),
        (lambda d: d["annotations"][0].update(bbox=[float("nan"), 2, 3, 4]), "not a number"),
        (lambda d: d["annotations"][0].update(bbox=[1, 2, float("inf"), 4]), "inf is above"),
        (lambda d: d["annotations"][0].update(category_id=99), "no category has the id 99"),
        (lambda d: d["annotations"][0].update(category_id=None), "annotation 0 .*TypeError"),
        (lambda d: d["images"][0].pop("width"), "needs id, width and height"),
        (lambda d: d["images"][0].update(width=0), "a side has no pixels"),
        (lambda d: d["images"][0].update(width=float("inf")), "OverflowError"),
        (lambda d: d["images"][0].update(id=[1]), "needs id, width and height"),
    ],
)
def test_one_bad_entry_takes_out_its_image_alone(tmp_path: Path, change: Any, said: str) -> None:
    file = coco(tmp_path / "train.json", at=tmp_path / "images")
    data = json.loads(file.read_text())
    change(data)
    file.write_text(json.dumps(data))
    source = open_source(file)
    split = source.splits["train"]
    assert len(check_labels(split.raw_labels(1), source.rules("detect", False)).cls) == 1
    with pytest.raises(Refused, match=said):
        check_labels(split.raw_labels(0), source.rules("detect", False))


def test_what_is_in_no_split_after_one_split_and_the_next(tmp_path: Path) -> None:
    """As if both had been packed at once; also after new labels of one of them."""
    files = {}
    for split in ("train", "val"):
        names = [f"{split}{k}.jpg" for k in range(2)]
        files[split] = coco(tmp_path / f"instances_{split}.json", names, at=tmp_path / "images")
        stray = {"id": 9, "image_id": 77, "category_id": 1, "bbox": [1, 2, 3, 4]}
        content = json.loads(files[split].read_text())
        files[split].write_text(
            json.dumps({**content, "annotations": [*content["annotations"], stray]})
        )
    (tmp_path / "images" / "other.jpg").write_bytes(JPEG)
    pack(tmp_path, tmp_path / "whole", PackSettings(imgsz=64), progress=False)
    expected = read_left_out(tmp_path / "whole")
    strays = {split: f"1 annotations of {file}" for split, file in files.items()}
    assert {*strays.values(), str(tmp_path / "images" / "other.jpg")} == set(expected)
    out = tmp_path / "out"
    for file in files.values():
        pack(file, out, PackSettings(imgsz=64), progress=False)
    assert read_left_out(out) == expected
    files["val"].write_text(files["val"].read_text().replace("77", "0"))
    relabel(out, files["val"], splits=["val"])
    del expected[strays["val"]]
    assert read_left_out(out) == expected


def test_nothing_is_lost_in_silence(tmp_path: Path) -> None:
    file = coco(tmp_path / "train.json", at=tmp_path / "images")
    data = json.loads(file.read_text())
    data["images"] += [5, {"id": 7, "width": WIDTH, "height": HEIGHT}]
    data["annotations"] += ["x", {"id": 9, "image_id": 77, "category_id": 1, "bbox": [1, 2, 3, 4]}]
    data["annotations"] += [{**data["annotations"][0], "id": 10 + k} for k in range(2)]
    file.write_text(json.dumps(data))
    source = open_source(file)
    assert set(source.splits["train"].unlisted) == {f"image 2 of {file}", f"image 3 of {file}"}
    ((what, why),) = source.left_out.items()
    assert what.startswith("2 annotations of")
    assert "77" in why
    report = pack(file, tmp_path / "out", PackSettings(imgsz=64), progress=False).splits["train"]
    assert (report.images, report.objects, len(report.left_out)) == (2, 2, 2)
    assert [note for _, note in report.notes] == ["2 repeated annotations dropped"]


def test_one_id_for_several_images_is_not_guessed(tmp_path: Path) -> None:
    images = [{"file_name": f"{k}.jpg", "id": k // 2} for k in range(4)]
    images.append({"file_name": "4.jpg", "id": 9})
    images.append({"file_name": "4.jpg", "id": 9})  # the same again changes nothing
    split = open_source(coco(tmp_path / "train.json", images, at=tmp_path / "images")).splits[
        "train"
    ]
    for k in range(4):
        with pytest.raises(Refused, match=rf"the id {k // 2} stands for several images"):
            split.raw_labels(k)
    assert split.raw_labels(4).text


def test_ids_as_texts(tmp_path: Path) -> None:
    file = coco(
        tmp_path / "train.json", [{"file_name": "0.jpg", "id": "7"}], at=tmp_path / "images"
    )
    text = file.read_text().replace('"image_id": "7"', '"image_id": 7')
    file.write_text(text.replace('"category_id": 1', '"category_id": "1"'))
    assert classes(open_source(file), "train") == [0]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b'{"images": [', "ends in the middle"),
        (b'{"a": 1}\n{"a": 2}\n', "not one a line"),
        (gzip.compress(b"{}", mtime=0), "gunzip -k"),
        (b"PK\x03\x04....", "unzip"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"<!DOCTYPE html>", "web page"),
        ('{"images": ["训练"]}'.encode("gbk"), "UTF-8"),
        (b"[" * 100_000, "too deep|ends in the middle"),
        (b"[]", "'images' is no list"),
        (b'{"images": [], "annotations": []}', "'categories' is no list"),
        (b'{"images": [{}], "annotations": [{"caption": "x"}], "categories": []}', "no objects"),
        (b'{"images": [], "annotations": [], "categories": []}', "one class, got none"),
        (b'{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}]}', "no image"),
    ],
)
def test_what_is_no_json_of_coco_says_what_it_is(tmp_path: Path, content: bytes, said: str) -> None:
    for name in ("train.json", "instances_train.json.gz", "train.jsonl"):
        file = tmp_path / name
        file.write_bytes(content)
        with pytest.raises(DatasetError, match=said):
            open_source(file)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_encodings_of_json(tmp_path: Path, encoding: str) -> None:
    file = coco(tmp_path / "train.json", categories={1: "训练"}, at=tmp_path / "images")
    file.write_text(file.read_text(), encoding=encoding)
    assert open_source(file).names == {0: "训练"}
