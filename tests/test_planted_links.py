"""Links that lie where packing writes: what they lead to is never written, emptied or removed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ingesting import tree_hash, write_yolo

from yolodata import shards
from yolodata.cli import main
from yolodata.errors import ShardError
from yolodata.ingest import PackSettings, pack, pack_cache
from yolodata.ingest.relabel import relabel
from yolodata.shards.data_yaml import DATA_YAML, write_data_yaml
from yolodata.shards.format import WORK_FOLDER
from yolodata.shards.left_out import write_left_out
from yolodata.shards.notes import write_notes
from yolodata.ultralytics import as_files, auto_pack
from yolodata.ultralytics.settings import Settings

FOLDERS = ("train", "train/.packing")
FILES = (
    "train/.packing/lock",
    "train/.packing/settings",
    "train/.packing/settings.new",
    "train/.packing/part-00000",
    "train/.packing/part-00000.new",
    "train/.packing/in-work",
    "train/.packing/shard-00000.safetensors",
    "train/.packing/labels.safetensors",
    "train/.packing/dataset.json",
    "train/shard-00000.safetensors",
    "train/labels.safetensors",
    "train/labels-0123456789abcdef.safetensors",
    "train/dataset.json",
    "left_out.json",
    "data.yaml",
    f".data.yaml.{os.getpid()}",
)


class Outside:
    """Files of somebody else, under names of ours too; links to them, and whether they changed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in ("lock", "part-00000", "shard-00000.safetensors", "letter", "a/b", "val/x.npy"):
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(b"of somebody else")
        for age, file in enumerate(sorted(path.rglob("*"))):
            os.utime(file, (age, age))
        self.before = self._now()

    def _now(self) -> tuple[Any, ...]:
        files = sorted(self.path.rglob("*"))
        return tree_hash(self.path), [(str(f), f.stat().st_mtime_ns) for f in files]

    def plant(self, at: Path, kind: str) -> None:
        """Puts a link to these files at a path; a "new" one leads where nothing is yet."""
        at.parent.mkdir(parents=True, exist_ok=True)
        if at.is_dir() and not at.is_symlink():
            shutil.rmtree(at)
        at.unlink(missing_ok=True)
        if kind == "hard":
            at.hardlink_to(self.path / "letter")
        else:
            at.symlink_to(
                {"file": self.path / "letter", "new": self.path / "new"}.get(kind, self.path)
            )

    def check(self, what: str) -> None:
        assert self._now() == self.before, f"{what}: something outside was touched"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where possible: no test here can see what thousands of fsyncs do."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as path:
        yield Path(path)


@pytest.fixture
def outside(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Outside:
    monkeypatch.setenv("YOLODATA_CACHE", str(folder / "home"))
    return Outside(folder / "outside")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def packed(yaml: Path, out: Path, **more: Any) -> bool:
    """Packs; whether it was refused."""
    try:
        how = {"shard_size": 1 << 16, "workers": 1, "progress": False, **more}
        pack(yaml, out, PackSettings(imgsz=32), **how)
    except ShardError:
        return True
    return False


def test_packing_follows_no_link(folder: Path, outside: Outside) -> None:
    yaml = write_yolo(folder / "data", {"train": 3, "val": 1})
    assert not packed(yaml, folder / "clean")
    clean = contents(folder / "clean" / "train")
    refused = []
    for place in FOLDERS + FILES:
        for kind in ("folder",) if place in FOLDERS else ("file", "new", "hard"):
            for overwrite in (True, False) if kind == "file" else (True,):
                out = folder / f"{place.replace('/', '-')}-{kind}-{overwrite}"
                outside.plant(out / place, kind)
                if packed(yaml, out, overwrite=overwrite):
                    refused.append((place, overwrite))
                elif not place.endswith(".new"):
                    assert contents(out / "train") == clean, (place, kind)
                outside.check(f"{place}, {kind}")
                shutil.rmtree(out)
    assert {place for place, overwrite in refused if overwrite} == {*FOLDERS, FILES[0]}
    assert len([place for place, overwrite in refused if not overwrite]) == 5


def test_continuing_follows_no_link(
    folder: Path, outside: Outside, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an interrupted pack says it stored may be a link to a file of that content."""
    monkeypatch.setattr(shards.writer, "RECORD_SECONDS", 0.0)
    yaml = write_yolo(folder / "data", {"train": 30, "val": 1})
    assert not packed(yaml, folder / "clean")
    store = shards.ShardWriter.store

    def end_early(self: Any, items: Any, chunk: Any = None) -> None:
        store(self, items, chunk)
        if self._shard and self._end:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(shards.ShardWriter, "store", end_early)
        with pytest.raises(KeyboardInterrupt):
            packed(yaml, folder / "half")
    work = folder / "half" / "train" / WORK_FOLDER
    names = [file.relative_to(folder / "half") for file in work.iterdir()]
    names += [file.relative_to(folder / "half") for file in work.parent.glob("shard-*")]
    assert {name.name[:5] for name in names} == {"lock", "setti", "part-", "in-wo", "shard"}
    for number, name in enumerate(names):
        for make in (os.symlink, os.link):
            out = folder / f"{number}-{make.__name__}"
            shutil.copytree(folder / "half", out)
            aside = folder / f"aside-{number}-{make.__name__}"
            (out / name).rename(aside)
            make(aside, out / name)
            before = aside.read_bytes()
            if not packed(yaml, out):
                assert contents(out / "train") == contents(folder / "clean" / "train"), name
            assert aside.read_bytes() == before, name


def test_new_labels_follow_no_link(folder: Path, outside: Outside) -> None:
    yaml = write_yolo(folder / "data", {"train": 3, "val": 1})
    assert not packed(yaml, folder / "packed")
    (folder / "data" / "labels" / "train" / "001.txt").write_text("2 .5 .5 .25 .5")
    for place in ("train/.packing", "train/.packing/lock", "train/.packing/dataset.json"):
        out = folder / place.replace("/", "-")
        shutil.copytree(folder / "packed", out)
        kind = "file" if place.count("/") > 1 else "folder"
        outside.plant(out / place, kind)
        try:
            relabel(out, yaml)
        except ShardError as error:
            assert "is a link" in str(error)  # noqa: PT017 - some are replaced instead
        outside.check(place)
    shutil.copytree(folder / "packed" / "train", folder / "elsewhere")
    (folder / "out").mkdir()
    (folder / "out" / "train").symlink_to(folder / "elsewhere")
    before = tree_hash(folder / "elsewhere")
    with pytest.raises(ShardError, match="is a link"):
        relabel(folder / "out", yaml)
    assert tree_hash(folder / "elsewhere") == before


def trained(root: Path, **settings: str) -> Path:
    """A dataset, packed as a trainer packs it; returns the folder of its shards."""
    data = {"yaml_file": str(root / "data.yaml"), "path": str(root), "train": "x", "val": "x"}
    how = {"single_cls": False, "task": "detect", "show": False}
    for split in ("train", "val"):
        found = auto_pack.packed(data, split, 32, Settings(workers=1, **settings), **how)
    return found.path.parent


def test_automatic_packing_follows_no_link(
    folder: Path, outside: Outside, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside the dataset everything has a name that can be known: it goes elsewhere then."""
    write_yolo(folder / "set", {"train": 3, "val": 2})
    beside = folder / "set.yolodata"
    name = trained(folder / "set").name
    shutil.rmtree(beside)
    places: dict[str, str] = {"": "folder", name: "folder"}
    places |= dict.fromkeys((".codec.lock", f"{name}/.train.lock"), "file")
    places |= {f"{name}/{place}": "folder" for place in FOLDERS}
    for place, kind in places.items():
        outside.plant(beside / place if place else beside, kind)
        caplog.clear()
        try:
            kept = trained(folder / "set", codec="auto" if "codec" in place else "raw")
        except ShardError as error:
            assert place
            assert "is a link" in str(error)  # noqa: PT017
        else:
            assert kept.parent.parent == folder / "home"
            assert len([r for r in caplog.records if "packing into" in r.message]) == 1
        outside.check(place)
        beside.unlink() if beside.is_symlink() else shutil.rmtree(beside)


def test_cache_clean_follows_no_link(folder: Path, outside: Outside) -> None:
    write_yolo(folder / "set", {"train": 3, "val": 2})
    places = ("train", "train/.packing", "as-files", "as-files/val", ".train.lock", "data.yaml")
    for place in places:
        kept = trained(folder / "set")
        outside.plant(kept / place, "file" if place.endswith(("lock", "yaml")) else "folder")
        main(["cache", "clean", str(folder), "--yes"])
        outside.check(place)
        shutil.rmtree(folder / "set.yolodata", ignore_errors=True)
    kept = trained(folder / "set")
    kept.parent.rename(folder / "aside")  # what the list names, exchanged for a link
    kept.parent.symlink_to(folder / "aside")
    before = tree_hash(folder / "aside")
    main(["cache", "clean", "--yes"])
    assert tree_hash(folder / "aside") == before


@pytest.mark.parametrize("kind", ["file", "new", "hard"])
def test_the_list_of_what_was_packed_is_no_link(folder: Path, outside: Outside, kind: str) -> None:
    write_yolo(folder / "set", {"train": 3, "val": 2})
    outside.plant(folder / "home" / pack_cache.LIST, kind)
    trained(folder / "set")
    pack_cache.find()
    outside.check(kind)


@pytest.mark.parametrize(
    ("place", "kind"),
    [("as-files", "folder"), ("as-files/val", "folder"), ("as-files/val/begun", "folder")]
    + [("as-files/val/.lock", kind) for kind in ("file", "new", "hard")],
)
def test_files_of_shards_follow_no_link(
    folder: Path, outside: Outside, place: str, kind: str
) -> None:
    yaml = write_yolo(folder / "data", {"train": 2, "val": 2})
    assert not packed(yaml, folder / "out")
    outside.plant(folder / "out" / place, kind)
    try:
        as_files.files_of(folder / "out", "val")
    except ShardError as error:
        assert "remove it" in str(error)  # noqa: PT017 - some are replaced instead
    outside.check(place)


def test_times_of_linked_arrays_stay(folder: Path, outside: Outside) -> None:
    yaml = write_yolo(folder / "data", {"train": 2, "val": 2})
    assert not packed(yaml, folder / "out")
    images = as_files.files_of(folder / "out", "val")
    array = next(images.glob("*/*.npy"))
    outside.plant(array, "file")
    as_files.files_of(folder / "out", "val")
    outside.check("array")
    outside.plant(array.parent, "folder")
    with pytest.raises(ShardError, match="is a link"):
        as_files.files_of(folder / "out", "val")
    outside.check("folder of an array")


def opened_to_all(folder: Path) -> str:
    folder.chmod(0o777)
    return "everybody may write there"


def given_away(folder: Path) -> str:
    if os.geteuid():
        pytest.skip("only root can give a folder away")
    os.chown(folder, 12345, -1)
    return "belongs to user 12345"


@pytest.mark.parametrize("change", [opened_to_all, given_away])
def test_folders_that_others_can_change_are_refused(
    folder: Path, outside: Outside, change: Callable[[Path], str], caplog: Any
) -> None:
    yaml = write_yolo(folder / "set", {"train": 3, "val": 2})
    for place in ("", "train", "train/.packing"):
        out = folder / f"out-{len(place)}"
        (out / place).mkdir(parents=True)
        why = change(out / place)
        with pytest.raises(ShardError, match=why):
            pack(yaml, out, PackSettings(imgsz=32), progress=False)
        assert [file for file in out.rglob("*") if file.is_file()] == []
    assert not packed(yaml, folder / "whole")
    before = contents(folder / "whole")
    why = change(folder / "whole" / "train")
    (yaml.parent / "labels" / "train" / "001.txt").write_text("2 .5 .5 .25 .5")
    with pytest.raises(ShardError, match=why):
        relabel(folder / "whole", yaml)
    assert contents(folder / "whole") == before
    change(folder / "whole")
    for write in (
        lambda: write_notes(folder / "whole", {"train": {"labels": [("a", "b")]}}),
        lambda: write_left_out(folder / "whole", {"a": "b"}),
        lambda: write_data_yaml(folder / "whole"),
    ):
        (folder / "whole" / DATA_YAML).unlink(missing_ok=True)
        with pytest.raises(PermissionError, match=why):
            write()
    beside = trained(folder / "set").parent
    assert beside == folder / "set.yolodata"
    why = change(beside)
    assert trained(folder / "set").parent.parent == folder / "home"
    assert why in caplog.text
