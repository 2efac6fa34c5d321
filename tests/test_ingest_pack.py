"""Packing: same bytes whatever the workers and interruptions, and the source is only read."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from ingesting import jpeg, pack_arguments, picture, tree_hash, write_yolo

from yolodata import shards
from yolodata.cli import main
from yolodata.errors import ConfigError, DatasetError, ShardError
from yolodata.folders import Folder
from yolodata.ingest import pack, workers
from yolodata.ingest.convert import PackSettings
from yolodata.ingest.fingerprint import fingerprint
from yolodata.ingest.pack_cli import parse_size
from yolodata.ingest.relabel import relabel
from yolodata.ingest.source import open_source
from yolodata.shards.format import DATASET_FILE, WORK_FOLDER
from yolodata.shards.left_out import read_left_out
from yolodata.shards.lock import Lock
from yolodata.shards.notes import Notes, read_notes

REPOSITORY = Path(__file__).resolve().parents[1]
KILLS = 6


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source")
    data = write_yolo(root / "data", {"train": 23, "val": 9})
    bad = root / "data" / "images" / "train"
    (bad / "004a.jpg").write_bytes(b"no image")
    (bad / "011a.jpg").write_bytes(jpeg(picture(99, 5, 50)))
    (bad / "015.jpg").write_bytes((bad / "015.jpg").read_bytes() + b"tail")
    return data


def settings(**changes: object) -> dict:
    values = {"imgsz": 64, "progress": False, "shard_size": 1 << 16, **changes}
    return pack_arguments(**values)


def test_one_directory_per_split(source: Path, tmp_path: Path) -> None:
    report = pack(source, tmp_path / "out", **settings())
    assert list(report.splits) == ["train", "val"]
    train = report.splits["train"]
    assert (train.images, len(train.left_out)) == (23, 2)
    assert any("restored" in note for _, note in train.notes)
    with shards.open(tmp_path / "out", "train") as dataset:
        assert len(dataset) == 23
        assert dataset.meta.left_out == tuple(train.left_out)
        assert train.objects == len(dataset.cls) == dataset.meta.objects > 20
        empty = (np.diff(dataset.object_offset) == 0).sum()
        assert train.backgrounds == empty >= 5
        assert len(dataset.meta.shards) > 1
        names = [dataset.name(i) for i in range(23)]
        assert names == sorted(names)
        for i in (0, 10, 22):
            pixels = cv2.imread(names[i])
            assert dataset.image(i).shape[:2] == (dataset.height[i], dataset.width[i])
            assert pixels.shape[:2] == (dataset.orig_height[i], dataset.orig_width[i])


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_bytes_do_not_depend_on_workers(source: Path, tmp_path: Path, codec: str) -> None:
    for count in (1, 3):
        pack(source, tmp_path / f"{count}", **settings(codec=codec, workers=count))
    assert content_hash(tmp_path / "1") == content_hash(tmp_path / "3")


def content_hash(root: Path) -> list[tuple[str, bytes]]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return tuple((str(path.relative_to(root)), path.read_bytes()) for path in files)


KILLED = """
import os, signal, sys
from yolodata.shards.writer import ShardWriter
left = int(sys.argv[3])
def store(self, items, chunk=None, original=ShardWriter.store):
    global left
    if left < len(items):
        original(self, items[:left])
        self.close()  # as much as it says is recorded; test_killed_at_any_moment has the rest
        os.kill(os.getpid(), signal.SIGKILL)
    left -= len(items)
    original(self, items, chunk)
ShardWriter.store = store
from yolodata.ingest import PackSettings, pack
pack(sys.argv[1], sys.argv[2], PackSettings(imgsz=64), progress=False, shard_size=1 << 16)
"""


@pytest.mark.parametrize("images", [0, 3, 13, 26])
def test_killed_and_continued(source: Path, tmp_path: Path, images: int) -> None:
    pack(source, tmp_path / "clean", **settings())
    command = [sys.executable, "-c", KILLED, source, tmp_path / "out", images]
    done = subprocess.run([str(c) for c in command], cwd=REPOSITORY, check=False)
    assert done.returncode == -signal.SIGKILL
    with pytest.raises(ShardError):
        shards.open(tmp_path / "out", "val")
    report = pack(source, tmp_path / "out", **settings())
    assert report.splits["train"].resumed == (images if images < 25 else 0)
    assert report.splits["train"].reused == (images > 25)
    assert report.splits["train"].images == 23
    assert len(report.splits["train"].left_out) == 2
    assert content_hash(tmp_path / "out") == content_hash(tmp_path / "clean")


def test_killed_at_any_moment(source: Path, tmp_path: Path) -> None:
    """By the clock, wherever it strikes: within a write, between two files, while workers begin."""
    before = tree_hash(source.parent)
    pack(source, tmp_path / "clean", **settings())
    clean = content_hash(tmp_path / "clean")
    command = [sys.executable, REPOSITORY / "tests" / "pack_kill_child.py", source, tmp_path, KILLS]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([str(c) for c in command], env=environment, capture_output=True)
    assert done.returncode == 0
    assert not done.stderr
    assert len(done.stdout.split()) == KILLS
    for out in (tmp_path / str(kill) for kill in range(KILLS)):
        for split in ("train", "val"):
            try:
                shards.open(out, split).close()
            except ShardError:
                continue
            whole = set(content_hash(tmp_path / "clean" / split))
            assert whole <= set(content_hash(out / split))
        pack(source, out, **settings())
        assert content_hash(out) == clean
    assert content_hash(tmp_path / "whole") == clean
    assert tree_hash(source.parent) == before


def test_killed_at_the_very_end(source: Path, tmp_path: Path) -> None:
    pack(source, tmp_path / "clean", **settings())
    pack(source, tmp_path / "out", **settings())
    work = tmp_path / "out" / "val" / WORK_FOLDER
    work.mkdir()
    (work / "settings").write_bytes(b"finished")
    (work / "lock").touch()
    assert pack(source, tmp_path / "out", **settings()).splits["val"].reused
    assert content_hash(tmp_path / "out") == content_hash(tmp_path / "clean")
    assert not work.exists()


def test_the_same_again_does_nothing(source: Path, tmp_path: Path) -> None:
    first = pack(source, tmp_path / "out", **settings())
    before = tree_hash(tmp_path / "out")
    second = pack(source, tmp_path / "out", **settings(workers=1))
    assert tree_hash(tmp_path / "out") == before
    assert all(split.reused for split in second.splits.values())
    assert second.splits["train"].objects == first.splits["train"].objects


def test_something_else_is_refused_unless_overwritten(source: Path, tmp_path: Path) -> None:
    pack(source, tmp_path / "out", **settings())
    before = tree_hash(tmp_path / "out")
    with pytest.raises(ShardError, match=r"codec.*--overwrite"):
        pack(source, tmp_path / "out", **settings(codec="jpeg"))
    with pytest.raises(ShardError, match="imgsz"):
        pack(source, tmp_path / "out", **settings(imgsz=96))
    assert tree_hash(tmp_path / "out") == before
    pack(source, tmp_path / "out", **settings(codec="jpeg", overwrite=True))
    with shards.open(tmp_path / "out", "val") as dataset:
        assert dataset.meta.codec == "jpeg"


@pytest.mark.parametrize("damage", ["flipped", "cut off"])
def test_what_is_damaged_is_overwritten_and_the_rest_is_not(
    source: Path, tmp_path: Path, damage: str
) -> None:
    pack(source, tmp_path / "out", **settings())
    good = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    shard = tmp_path / "out" / "train" / "shard-00000.safetensors"
    whole, kept = shard.read_bytes(), (tmp_path / "out" / "val" / DATASET_FILE).stat().st_mtime_ns
    cut = whole[:-4096] if damage == "cut off" else whole[:5000] + b"!" + whole[5001:]
    assert cut != whole
    shard.write_bytes(cut)
    report = pack(source, tmp_path / "out", **settings(overwrite=True))
    assert [split.reused for split in report.splits.values()] == [False, True]
    assert (tmp_path / "out" / "val" / DATASET_FILE).stat().st_mtime_ns == kept
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == good


def test_reencoded_pictures_are_small_and_close(source: Path, tmp_path: Path) -> None:
    pack(source, tmp_path / "raw", **settings(imgsz=40, splits=["val"]))
    pack(source, tmp_path / "jpeg", **settings(imgsz=40, splits=["val"], codec="jpeg", reencode=95))
    with shards.open(tmp_path / "raw") as raw, shards.open(tmp_path / "jpeg") as small:
        for i in range(len(raw)):
            decoded = cv2.imdecode(small.sample(i), cv2.IMREAD_COLOR)
            assert max(decoded.shape) == 40
            assert (small.height[i], small.width[i]) == decoded.shape[:2]
            difference = np.abs(raw.image(i).astype(int) - small.image(i).astype(int))
            assert difference.mean() < 8
        assert raw.orig_height.tolist() == small.orig_height.tolist()
    with pytest.raises(ConfigError, match="reencode"):
        pack(source, tmp_path / "x", **settings(reencode=90))


@pytest.mark.parametrize(
    "wrong",
    [
        {"codec": "png"},
        {"imgsz": 5},
        {"imgsz": 6.5},
        {"codec": "jpeg", "reencode": 0},
        {"task": "x"},
    ],
)
def test_settings_are_checked(wrong: dict) -> None:
    with pytest.raises(ConfigError, match=str(next(iter(reversed(wrong.values()))))):
        PackSettings(**wrong)


def test_output_inside_the_images_is_refused(source: Path) -> None:
    images = source.parent / "images" / "train"
    before = tree_hash(source.parent)
    for out in (images, images / "shards", source.parent / "images"):  # images/train is a split's
        with pytest.raises(ConfigError, match="image folder"):
            pack(source, out, **settings())
    assert tree_hash(source.parent) == before


def test_no_usable_image_and_no_label(tmp_path: Path) -> None:
    data = write_yolo(tmp_path, {"train": 3, "val": 3})
    for file in (tmp_path / "images" / "val").iterdir():
        file.write_bytes(b"")
    pack(data, tmp_path / "out", **settings(splits=["train"]))
    with pytest.raises(DatasetError, match=r"none of the 3 images of 'val'.*empty"):
        pack(data, tmp_path / "out", **settings(splits=["val"]))
    for file in (tmp_path / "labels" / "train").iterdir():
        file.unlink()
    with pytest.raises(DatasetError, match="no label file for any of 3 training images"):
        pack(data, tmp_path / "other", **settings(splits=["train"]))


def test_single_cls_keeps_images_with_unknown_classes(tmp_path: Path) -> None:
    data = write_yolo(tmp_path, {"train": 2, "val": 1}, names=3)
    (tmp_path / "labels" / "train" / "001.txt").write_text("7 .5 .5 .1 .1\n2 .5 .5 .2 .2")
    assert pack(data, tmp_path / "a", **settings()).splits["train"].images == 1
    assert pack(data, tmp_path / "b", **settings(single_cls=True)).splits["train"].images == 2
    with shards.open(tmp_path / "b", "train") as dataset:
        assert dataset.cls.tolist() == [0, 2]


def test_keypoints_are_stored_whatever_the_task(tmp_path: Path) -> None:
    data = write_yolo(tmp_path, {"train": 3, "val": 1}, kpt_shape=[2, 3], flip_idx=[1, 0])
    label = tmp_path / "labels" / "train" / "001.txt"
    label.write_text("1 .5 .5 .1 .1 .4 .4 2 .6 .6 1")
    (tmp_path / "labels" / "train" / "002.txt").write_text("1 .5 .5 .1 .1")
    pack(data, tmp_path / "detect", **settings(splits=["train"]))
    report = pack(data, tmp_path / "pose", **settings(splits=["train"], task="pose"))
    assert [os.path.basename(path) for path, _ in report.splits["train"].left_out] == ["002.jpg"]
    for out, images in (("detect", 3), ("pose", 2)):
        with shards.open(tmp_path / out) as dataset:
            assert len(dataset) == images
            assert dataset.meta.kpt_shape == (2, 3)
            assert dataset.meta.flip_idx == (1, 0)
            assert dataset.keypoints is not None
            expected = np.array([[0.4, 0.4, 2], [0.6, 0.6, 1]], np.float32)
            np.testing.assert_array_equal(dataset.keypoints[0], expected)


def test_relabel(tmp_path: Path) -> None:
    data = write_yolo(tmp_path / "data", {"train": 6, "val": 2})
    labels = tmp_path / "data" / "labels" / "train"
    out = tmp_path / "out"
    pack(data, out, **settings(splits=["train"]))
    pixels = [(p.name, p.read_bytes()) for p in sorted((out / "train").glob("shard-*"))]
    prints = fingerprint(data, "train")

    (labels / "001.txt").write_text("2 .5 .5 .25 .5")
    (labels / "002.txt").write_text("9 .5 .5 .25 .5")
    (labels / "003.txt").unlink(missing_ok=True)
    assert fingerprint(data, "train")["images"] == prints["images"]
    assert fingerprint(data, "train")["labels"] != prints["labels"]
    with pytest.raises(ShardError, match="yolodata labels"):
        pack(data, out, **settings(splits=["train"]))
    before = tree_hash(tmp_path / "data")
    report = relabel(out, data)
    assert tree_hash(tmp_path / "data") == before
    assert report.splits["train"].images == 5
    assert "name: 9" in report.splits["train"].left_out[0][1]
    assert [(p.name, p.read_bytes()) for p in sorted((out / "train").glob("shard-*"))] == pixels
    assert pack(data, out, **settings(splits=["train"])).splits["train"].reused

    clean = tmp_path / "clean"
    pack(data, clean, **settings(splits=["train"]))
    with shards.open(out) as mine, shards.open(clean) as other:
        assert mine.meta.left_out == other.meta.left_out
        assert mine.cls.tobytes() == other.cls.tobytes()
        assert mine.box.tobytes() == other.box.tobytes()
        assert [mine.name(i) for i in range(5)] == [other.name(i) for i in range(5)]
        for i in range(5):
            np.testing.assert_array_equal(mine.image(i), other.image(i))

    (labels / "002.txt").write_text("1 .5 .5 .25 .5")
    with pytest.raises(DatasetError, match="pixels are not stored"):
        relabel(out, data)


def test_no_split_is_relabelled_while_another_is_written(tmp_path: Path) -> None:
    data, out = write_yolo(tmp_path, {"train": 3, "val": 2}), tmp_path / "out"
    pack(data, out, **settings())
    files = [out / split / DATASET_FILE for split in ("train", "val")]
    before = [file.read_bytes() for file in files]
    for split in ("train", "val"):
        (tmp_path / "labels" / split / "000.txt").write_text("1 0.5 0.5 0.1 0.1\n")
    with Folder.at(out / "val") as folder:
        lock = Lock(folder)
        with pytest.raises(ShardError, match="this process is writing this dataset"):
            relabel(out, data)
        lock.remove()
    assert [file.read_bytes() for file in files] == before
    relabel(out, data)
    assert all(file.read_bytes() != old for file, old in zip(files, before, strict=True))


def test_new_labels_and_what_is_in_no_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """left_out.json is true afterwards, as if all had been packed anew."""
    data = write_yolo(tmp_path / "data", {"train": 3, "val": 2})
    labels, out = tmp_path / "data" / "labels" / "train", tmp_path / "out"
    (labels / "old.txt").write_text("0 .5 .5 .25 .5")
    pack(data, out, **settings())
    assert read_left_out(out) == {str(labels / "old.txt"): "label file without an image"}
    (labels / "old.txt").rename(labels / "new.txt")
    assert main(["labels", str(out), str(data)]) == 0
    assert read_left_out(out) == {str(labels / "new.txt"): "label file without an image"}
    assert f"in no split: {labels / 'new.txt'}: label file" in capsys.readouterr().out


def test_notes_on_single_images_are_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also after new labels, and by splits that are packed one after the other."""
    data = write_yolo(tmp_path / "data", {"train": 3, "val": 2})
    labels, out = tmp_path / "data" / "labels" / "train", tmp_path / "out"
    image = tmp_path / "data" / "images" / "train" / "001.jpg"
    image.write_bytes(image.read_bytes() + b"tail")  # which upstream mends
    (labels / "002.txt").write_text("0 .5 .5 .25 .5\n" * 3)
    words = ["shard", str(data), str(out), "--imgsz", "32", "--quiet", "--split"]
    assert main([*words, "train"]) == 0
    assert f"are listed in {out / 'notes.json'}" in capsys.readouterr().out
    assert main([*words, "val"]) == 0
    said = read_notes(out)
    pictures = said["train"]["pictures"]
    assert [(Path(path).name, "restored" in note) for path, note in pictures] == [("001.jpg", True)]
    assert said["train"]["labels"] == [
        (str(image.with_name("002.jpg")), "2 duplicate labels removed")
    ]
    assert said["val"] == {"splits": [], "pictures": [], "labels": []}
    capsys.readouterr()
    assert main(["info", str(out)]) == 0
    assert capsys.readouterr().out.count("notes    1 on pictures, 1 on labels; listed in") == 1
    assert main([*words, "train"]) == 0  # it is there already
    assert read_notes(out) == said
    (labels / "002.txt").write_text("0 .5 .5 .25 .5\n")
    (labels / "000.txt").write_text("0 .5 .5 .25 .5\n" * 2)
    assert main(["labels", str(out), str(data)]) == 0
    told = read_notes(out)["train"]
    assert told["pictures"] == pictures
    assert told["labels"] == [(str(image.with_name("000.jpg")), "1 duplicate labels removed")]
    (out / "notes.json").write_text('{"train": [1]}')
    with pytest.raises(ShardError, match="must list"):
        read_notes(out)


def test_notes_are_bounded_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("yolodata.shards.notes.ROOM", 100)
    notes = Notes()
    notes.add("labels", [(f"{k}.jpg", "odd") for k in range(9)])
    notes.add("pictures", [("a.jpg", "b")])
    assert list(notes) == [
        ("a.jpg", "b"), ("0.jpg", "odd"), ("1.jpg", "odd"), ("", "7 more notes, not listed"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("shard_size", 4095), ("shard_size", float("nan")), ("shard_size", "3"),
        ("shard_size", 1 << 63), ("shard_size", True), ("workers", 0), ("workers", 1 << 63),
        ("workers", 1025), ("imgsz", 9), ("imgsz", 64.0), ("reencode", 101),
    ],
)  # fmt: skip
def test_numbers_out_of_range_are_refused_first(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be"):
        pack(tmp_path / "nothere.yaml", tmp_path / "out", **pack_arguments(**{name: value}))


@pytest.mark.parametrize("change", ["new", "gone", "touched"])
def test_relabel_needs_the_same_images(tmp_path: Path, change: str) -> None:
    data = write_yolo(tmp_path / "data", {"train": 3, "val": 2})
    images = tmp_path / "data" / "images" / "train"
    pack(data, tmp_path / "out", **settings(splits=["train"]))
    if change == "new":
        (images / "009.jpg").write_bytes(jpeg(picture(5, 20, 20)))
    elif change == "gone":
        (images / "001.jpg").unlink()
    else:
        (images / "001.jpg").write_bytes(jpeg(picture(5, 20, 20)))
    before = content_hash(tmp_path / "out")
    said = {"new": "1 new.*009", "gone": "1 gone.*001", "touched": "were changed"}[change]
    with pytest.raises(DatasetError, match=said):
        relabel(tmp_path / "out", data)
    with pytest.raises(ShardError, match="--overwrite"):
        pack(data, tmp_path / "out", **settings(splits=["train"]))
    assert content_hash(tmp_path / "out") == before


@pytest.mark.parametrize("change", ["no val", "bad labels"])
def test_new_labels_of_all_splits_or_of_none(tmp_path: Path, change: str) -> None:
    """A split that fails leaves no other one with classes that it does not have."""
    data = write_yolo(tmp_path / "data", {"train": 3, "val": 2})
    pack(data, tmp_path / "out", **settings())
    before = content_hash(tmp_path / "out")
    content = {**yaml.safe_load(data.read_text()), "names": ["x", "y", "z", "w"]}
    if change == "no val":
        del content["val"]
    for k in range(2) if change == "bad labels" else ():
        (tmp_path / "data" / "labels" / "val" / f"{k:03}.txt").write_text("0 5 5 5 5\n")
    data.write_text(yaml.safe_dump(content))
    said = r"'val' is missing|no image would be left.*above 1\.01"
    with pytest.raises(DatasetError, match=said):
        relabel(tmp_path / "out", data)
    assert content_hash(tmp_path / "out") == before


def test_new_names_are_new_labels(tmp_path: Path) -> None:
    data = write_yolo(tmp_path / "data", {"train": 3, "val": 2})
    pack(data, tmp_path / "out", **settings())
    content = yaml.safe_load(data.read_text())
    data.write_text(yaml.safe_dump({**content, "names": ["x", "y", "z", "w"]}))
    with pytest.raises(ShardError, match="yolodata labels"):
        pack(data, tmp_path / "out", **settings())
    relabel(tmp_path / "out", data)
    with shards.open(tmp_path / "out", "val") as dataset:
        assert dataset.meta.names == {0: "x", 1: "y", 2: "z", 3: "w"}


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_no_command_touches_the_source(
    source: Path, tmp_path: Path, codec: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = tree_hash(source.parent)
    out = str(tmp_path / "out")
    arguments = ["--imgsz", "64", "--codec", codec, "--shard-size", "64K", "--quiet"]
    assert main(["shard", str(source), out, *arguments]) == 0
    assert "23 images" in capsys.readouterr().out
    assert main(["shard", str(source), out, *arguments]) == 0
    assert "nothing to do" in capsys.readouterr().out
    assert main(["labels", out, str(source)]) == 0
    assert main(["verify", out, "--full"]) == 0
    assert main(["info", out]) == 0
    capsys.readouterr()
    assert main(["shard", str(source), out, "--imgsz", "96", "--quiet"]) != 0
    assert "--overwrite" in capsys.readouterr().err
    assert tree_hash(source.parent) == before


def test_a_split_without_objects_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_yolo(tmp_path, {"train": 2, "val": 2})
    assert pack(data, tmp_path / "out", **settings()).notes == ()
    (tmp_path / "labels" / "val").rename(tmp_path / "elsewhere")
    (note,) = pack(data, tmp_path / "out", **settings(overwrite=True)).notes
    first = tmp_path / "labels" / "val" / "000.txt"
    assert note == f"no image of 'val' has an object; its labels were sought in '{first}', …"
    assert main(["labels", str(tmp_path / "out"), str(data)]) == 0
    assert f"  note: {note}\n" in capsys.readouterr().out


def test_notes_say_the_first_image_of_each_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Numbers are told where all notes of a kind have the same."""
    data = write_yolo(tmp_path, {"train": 4, "val": 1})
    for name, repeats in (("000", 1), ("001", 3), ("003", 2)):
        rows = "0 0.5 0.5 0.2 0.2\n" * repeats
        (tmp_path / "labels" / "train" / f"{name}.txt").write_text(rows)
    line = ["shard", str(data), str(tmp_path / "out"), "--imgsz", "32", "--quiet"]
    assert main(line) == 0
    image = tmp_path / "images" / "train" / "001.jpg"
    said = capsys.readouterr().out
    assert f"  note: 2 × # duplicate labels removed (first: {image})\n" in said
    (tmp_path / "labels" / "train" / "003.txt").unlink()
    assert main([*line, "--overwrite"]) == 0
    assert f"  note: 1 × 2 duplicate labels removed ({image})\n" in capsys.readouterr().out


def in_order(source: Path, count: int) -> Iterator[workers.Results]:
    found = open_source(source)
    rules = found.rules("detect", False)
    return workers.in_order(found.splits["train"], rules, PackSettings(imgsz=64), range(25), count)


def test_stopping_ends_the_workers(source: Path) -> None:
    results = in_order(source, 2)
    next(results)
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("yolodata-pack")]


def test_order_is_kept_under_uneven_load(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = workers.prepare

    def slow(split, chunk, *rest):
        time.sleep(random.random() * 0.02)
        return honest(split, chunk, *rest)

    monkeypatch.setattr(workers, "prepare", slow)
    found = [outcome for results in in_order(source, 4) for outcome in results.outcomes]
    names = [outcome.sample.name for outcome in found if outcome.sample]
    assert names == sorted(names)
    assert len(names) == 23


def test_sizes() -> None:
    assert parse_size("512M") == 512 << 20
    assert parse_size("1g") == 1 << 30
    assert parse_size("1.5GiB") == 3 << 29
    assert parse_size("100000") == 100000
    for wrong in ("", "x", "12", "5T", "-1M"):
        with pytest.raises(ConfigError, match="shard size"):
            parse_size(wrong)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    data = write_yolo(tmp_path, {"train": 2, "val": 1})
    folder = os.fsencode(tmp_path / "images" / "train")
    name = b"\xff\xfe.jpg"
    try:
        with open(os.path.join(folder, name), "wb") as file:
            file.write(jpeg(picture(1, 20, 30)))
    except OSError:
        pytest.skip("the file system wants UTF-8")
    pack(data, tmp_path / "out", **settings(splits=["train"]))
    with shards.open(tmp_path / "out") as dataset:
        names = [os.fsencode(dataset.name(i)) for i in range(len(dataset))]
    assert os.path.join(folder, name) in names
