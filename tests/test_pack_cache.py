"""`yolodata cache`: what trainers packed is found and removed; nothing else is ever touched."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ingesting import tree_hash, write_yolo

from yolodata.cli import main
from yolodata.errors import DatasetError
from yolodata.ingest import PackSettings, cache_cli, pack, pack_cache
from yolodata.shards.format import WORK_FOLDER
from yolodata.ultralytics.auto_pack import cache_folder, packed, refuse_unpacked
from yolodata.ultralytics.settings import Settings


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("YOLODATA_CACHE", str(tmp_path / "home"))


def trained(root: Path, **settings: str) -> Path:
    """A dataset, packed as a trainer packs it; returns the folder of its shards."""
    yaml = write_yolo(root, {"train": 3, "val": 2})
    data = {"yaml_file": str(yaml), "path": str(root), "train": "x", "val": "x"}
    chosen = Settings(workers=1, **settings)
    for split in ("train", "val"):
        shards = packed(data, split, 32, chosen, single_cls=False, task="detect", show=False)
    return shards.path.parent


def interrupt(folder: Path) -> None:
    """Leaves of a split what a packer leaves that was killed."""
    (folder / "dataset.json").unlink()
    (folder / WORK_FOLDER).mkdir()
    (folder / WORK_FOLDER / "part-00000").write_bytes(b"part")
    (folder / WORK_FOLDER / "part-00001.new").write_bytes(b"half")


def test_all_are_found_wherever_they_lie(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = trained(tmp_path / "a" / "set")
    elsewhere = trained(tmp_path / "b" / "set", folder=str(tmp_path / "common"))
    by_hand = tmp_path / "a" / "mine.yolodata"
    pack(tmp_path / "a" / "set" / "data.yaml", by_hand, PackSettings(imgsz=32), progress=False)
    assert beside.parent == tmp_path / "a" / "set.yolodata"
    assert [found.folder for found in pack_cache.find()] == [beside, elsewhere]
    (tmp_path / "home" / pack_cache.LIST).unlink()
    assert pack_cache.find() == []
    assert [found.folder for found in pack_cache.find([tmp_path / "a"])] == [beside]
    assert [found.folder for found in pack_cache.find([tmp_path])] == [beside, elsewhere]
    capsys.readouterr()
    assert main(["cache", "ls", str(tmp_path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [fact["splits"]["train"]["images"] for fact in facts] == [3, 3]
    taken = sum(file.stat().st_size for file in beside.rglob("*") if file.is_file())
    assert facts[0]["bytes"] == taken
    shutil.rmtree(tmp_path / "a" / "set")
    assert main(["cache", "ls", str(tmp_path)]) == 0
    assert "data.yaml, which is gone" in capsys.readouterr().out


def test_clean_removes_ours_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = trained(tmp_path / "one"), trained(tmp_path / "two")
    by_hand = tmp_path / "three"
    pack(tmp_path / "one" / "data.yaml", by_hand, PackSettings(imgsz=32), progress=False)
    (second / "notes.txt").write_text("mine")
    (second / "train" / "model.pt").write_text("mine")
    (second / "test").symlink_to(by_hand)
    copies = first / pack_cache.AS_FILES / "val"
    (copies / "0123456789abcdef-raw" / "images").mkdir(parents=True)
    (copies / "0123456789abcdef-raw" / "images" / "0.npy").write_bytes(b"made of shards")
    (copies / ".lock").touch()
    sources = [tree_hash(tmp_path / name) for name in ("one", "two", "three")]
    capsys.readouterr()
    assert main(["cache", "clean"]) == 2  # nobody can be asked
    assert "--yes" in capsys.readouterr().err
    assert first.exists()
    assert main(["cache", "clean", "--yes"]) == 0
    said = capsys.readouterr().out
    assert not first.parent.exists()
    left = sorted(str(path.relative_to(second)) for path in second.rglob("*"))
    assert left == ["notes.txt", "test", "train", "train/model.pt"]
    assert str(second / "train" / "model.pt") in said
    assert [tree_hash(tmp_path / name) for name in ("one", "two", "three")] == sources
    assert pack_cache.find() == []


def test_leftovers_of_interrupted_packs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half, none, whole = (trained(tmp_path / name) for name in ("half", "none", "whole"))
    for path in (half / "val", none / "train", none / "val"):
        interrupt(path)
    (whole / "train" / WORK_FOLDER).mkdir()
    (whole / "train" / WORK_FOLDER / "settings").write_bytes(b"left")
    before = tree_hash(half / "train"), tree_hash(whole / "val")
    assert main(["cache", "ls"]) == 0
    assert "val (unfinished)" in capsys.readouterr().out
    assert main(["cache", "clean", "--unfinished", "--yes"]) == 0
    assert not (half / "val").exists()
    assert not none.exists()
    assert not (whole / "train" / WORK_FOLDER).exists()
    assert (tree_hash(half / "train"), tree_hash(whole / "val")) == before
    assert main(["cache", "clean", "--unfinished", "--yes"]) == 0
    assert "nothing to remove" in capsys.readouterr().out


def test_what_is_being_packed_stays(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trained(tmp_path / "set")
    before = tree_hash(folder / "train")
    with (folder / ".train.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main(["cache", "clean", "--yes"]) == 1
    assert "a trainer is packing into it" in capsys.readouterr().err
    assert tree_hash(folder / "train") == before
    assert main(["cache", "clean", "--yes"]) == 0
    assert not folder.exists()


def test_a_home_that_cannot_be_written_is_no_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").write_text("a file")
    folder = trained(tmp_path / "set")
    assert pack_cache.find() == []
    assert [found.folder for found in pack_cache.find([tmp_path])] == [folder]
    monkeypatch.delenv("YOLODATA_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    assert pack_cache.find() == []
    pack_cache.remember(folder)


def test_trainers_say_what_packing_notes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    yaml = write_yolo(tmp_path / "set", {"train": 2, "val": 2})
    shutil.rmtree(tmp_path / "set" / "labels" / "val")
    data = {"yaml_file": str(yaml), "path": str(yaml.parent), "train": "x", "val": "x"}
    how = {"single_cls": False, "task": "detect", "show": False}
    with caplog.at_level("WARNING", "yolodata"):
        packed(data, "val", 32, Settings(workers=1), **how)
    (said,) = caplog.messages
    assert said.startswith(f"{yaml}: no image of 'val' has an object")


def test_trainers_keep_the_codec_that_auto_chose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    yaml = write_yolo(tmp_path / "set", {"train": 3, "val": 2})
    data = {"yaml_file": str(yaml), "path": str(yaml.parent), "train": "x", "val": "x"}
    Usage = namedtuple("Usage", "total used free")

    def codec(free: int, split: str) -> str:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 50, 0, free))
        how = {"single_cls": False, "task": "detect", "show": True}
        return packed(data, split, 96, Settings(workers=1), **how).meta.codec

    every = 5 * 96 * 96 * 3
    assert codec(2 * every, "train") == "jpeg"
    assert "codec=auto is jpeg: pixels would take" in capfd.readouterr().err
    assert codec(1 << 40, "train") == codec(1 << 40, "val") == "jpeg"
    assert "auto" not in capfd.readouterr().err
    jpeg = cache_folder(data, 96, Settings(codec="jpeg"), "detect")
    shutil.rmtree(jpeg)
    assert codec(1 << 40, "val") == "raw"
    assert codec(2 * every, "train") == "raw"
    assert not jpeg.exists()


def test_trainers_are_given_no_yaml_without_an_end(tmp_path: Path) -> None:
    """Ultralytics would wait for a FIFO, and read /dev/zero until the memory is full."""
    os.mkfifo(tmp_path / "pipe.yaml")
    (tmp_path / "zero.yaml").symlink_to("/dev/zero")
    for name in ("pipe.yaml", "zero.yaml"):
        with pytest.raises(DatasetError, match=f"{name}: is neither a file nor a folder; give"):
            refuse_unpacked(tmp_path / name)
    refuse_unpacked(tmp_path / "missing.yaml")  # Ultralytics says so, or downloads it


def test_a_listed_folder_does_not_act_on_the_terminal() -> None:
    meta: Any = SimpleNamespace(images=1, source={"path": "b\x1b[2J"})
    found = pack_cache.Packed(Path("a\x1b[2J"), {"train": meta}, 1)
    said = cache_cli._line(found)
    assert "a\\x1b[2J" in said
    assert "b\\x1b[2J" in said
    assert "\x1b" not in said
