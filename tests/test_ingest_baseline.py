"""Packing stores progressive JPEG files as baseline ones with the same pixels, or says why not."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest
from ingesting import jpeg, pack_arguments, picture, tree_hash, write_yolo
from jpeg_files import last_scans_removed, progressive
from PIL import Image

from yolodata import shards
from yolodata._native import jpeg_header
from yolodata.cli import main
from yolodata.errors import ConfigError, ShardError
from yolodata.ingest import baseline, pack, workers
from yolodata.ingest.convert import PackSettings, try_decoding
from yolodata.ingest.estimate import estimate
from yolodata.ingest.source import open_source
from yolodata.ultralytics.auto_pack import cache_folder, packed
from yolodata.ultralytics.settings import Settings

INCOMPLETE, BASELINE, LARGE = "003.jpg", "004.jpg", "005.jpg"


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine images: seven progressive, one of those without its last scan; one is large."""
    data = write_yolo(tmp_path_factory.mktemp("source") / "data", {"train": 9, "val": 1})
    images = data.parent / "images" / "train"
    for k, file in enumerate(sorted(images.iterdir())):
        if file.name not in (BASELINE, "008.jpg"):
            file.write_bytes(progressive(40 + k, 60 + k))
    (images / LARGE).write_bytes(progressive(120, 150))
    file = images / INCOMPLETE
    file.write_bytes(last_scans_removed(file.read_bytes(), 1))
    return data


def settings(**changes: object) -> dict:
    values = {"codec": "jpeg", "imgsz": 96, "progress": False, "splits": ["train"], **changes}
    return pack_arguments(**values)


def content(root: Path) -> dict[Path, bytes]:
    return {f.relative_to(root): f.read_bytes() for f in sorted(root.rglob("*")) if f.is_file()}


def scans(data: object) -> int:
    return jpeg_header(data)[2]


def test_the_same_pixels_in_one_scan(source: Path, tmp_path: Path) -> None:
    before = tree_hash(source.parent)
    report = pack(source, tmp_path / "out", **settings()).splits["train"]
    with shards.open(tmp_path / "out", "train") as dataset:
        for i in range(len(dataset)):
            file = Path(dataset.name(i))
            kept = dataset.sample(i).tobytes() == file.read_bytes()
            assert kept == (file.name in (INCOMPLETE, BASELINE, "008.jpg"))
            assert (scans(dataset.sample(i)) > 1) == (file.name == INCOMPLETE)
            decoded = cv2.imdecode(dataset.sample(i), cv2.IMREAD_COLOR)
            np.testing.assert_array_equal(decoded, cv2.imread(str(file)))
    notes = {Path(file).name: note for file, note in report.notes}
    assert sorted(notes) == [f"00{k}.jpg" for k in (0, 1, 2, 3, 5, 6, 7)]
    assert "kept as it is: it lacks some of its coefficients" in notes.pop(INCOMPLETE)
    assert set(notes.values()) == {baseline.DONE}
    assert tree_hash(source.parent) == before


def test_what_is_packed_is_said(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["shard", str(source), str(tmp_path / "out"), "codec=jpeg", "imgsz=96", "split=train"]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert f"note: 6 × {baseline.DONE}" in said
    assert "note: 1 × JPEG with several scans kept as it is" in said
    assert main(["info", str(tmp_path / "out")]) == 0
    assert "jpeg (progressive files as baseline), imgsz 96" in capsys.readouterr().out
    assert main(["verify", str(tmp_path / "out"), "--full", "--quiet"]) == 0


def test_files_are_kept_if_asked_for(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = ["shard", str(source), str(tmp_path), "codec=jpeg", "imgsz=96", "split=train"]
    line.append("keep_files=True")
    assert main(line) == 0
    assert "scans" not in capsys.readouterr().out
    with shards.open(tmp_path, "train") as dataset:
        for i in range(len(dataset)):
            assert dataset.sample(i).tobytes() == Path(dataset.name(i)).read_bytes()
    with pytest.raises(ShardError, match="differs in source keep_files"):
        pack(source, tmp_path, **settings())
    pack(source, tmp_path, **settings(overwrite=True))
    with pytest.raises(ConfigError, match="keep_files must be left out for codec 'raw'"):
        PackSettings("raw", keep_files=True)


def test_bytes_do_not_depend_on_workers_or_interruptions(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for count in (1, 3):
        pack(source, tmp_path / f"{count}", **settings(workers=count))
    assert content(tmp_path / "1") == content(tmp_path / "3")
    real, left = workers.prepare, [1]

    def interrupted(*args: object) -> object:
        with threading.Lock():
            left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(workers, "prepare", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack(source, tmp_path / "again", **settings(workers=1))
    monkeypatch.undo()
    with pytest.raises(ShardError, match="unfinished pack of another source, or with other"):
        pack(source, tmp_path / "again", **settings(keep_files=True))
    pack(source, tmp_path / "again", **settings())
    assert content(tmp_path / "again") == content(tmp_path / "1")


def test_reencoding_leaves_smaller_ones_to_it(source: Path, tmp_path: Path) -> None:
    pack(source, tmp_path, **settings(reencode=80))
    with shards.open(tmp_path, "train") as dataset:
        counts = [scans(dataset.sample(i)) > 1 for i in range(len(dataset))]
        assert counts == [Path(dataset.name(i)).name == INCOMPLETE for i in range(len(dataset))]
        large = [Path(dataset.name(i)).name for i in range(9)].index(LARGE)
        assert max(cv2.imdecode(dataset.sample(large), cv2.IMREAD_COLOR).shape) == 96


def test_other_pixels_are_never_stored(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A core that makes a mistake: another picture, or none."""
    other = np.frombuffer(jpeg(picture(7, 40, 60)), np.uint8)
    for k, wrong in enumerate((other, other[:40])):
        monkeypatch.setattr(baseline, "baseline_jpeg", lambda _, wrong=wrong: (wrong, ""))
        report = pack(source, tmp_path / f"{k}", **settings()).splits["train"]
        assert {note for _, note in report.notes} == {
            "JPEG with several scans kept as it is: its pixels would be others"
        }
        with shards.open(tmp_path / f"{k}", "train") as dataset:
            assert len(dataset) == 9
            for i in range(9):
                assert dataset.sample(i).tobytes() == Path(dataset.name(i)).read_bytes()


def test_a_file_on_which_the_core_ends_is_found(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []
    monkeypatch.setattr(
        baseline, "baseline_jpeg", lambda data: tried.append(len(data)) or (None, "")
    )
    file = next((source.parent / "images" / "train").iterdir())
    try_decoding(str(file), PackSettings("jpeg", 96))
    assert tried == [file.stat().st_size]


def test_the_estimate_knows_that_they_grow(tmp_path: Path) -> None:
    data = write_yolo(tmp_path / "data", {"train": 40, "val": 1}, size=(150, 200))
    for file in (data.parent / "images" / "train").iterdir():
        Image.open(file).save(file, "JPEG", progressive=True, quality=90)
    splits = [open_source(data).splits["train"]]
    keep = estimate(splits, PackSettings("jpeg", 640, keep_files=True)).jpeg
    grown = estimate(splits, PackSettings("jpeg", 640)).jpeg
    assert keep.error == 0
    assert grown.nbytes > keep.nbytes
    assert grown.error > 0
    pack(
        data,
        tmp_path / "out",
        PackSettings(codec="jpeg", imgsz=640),
        progress=False,
        splits=["train"],
    )
    with shards.open(tmp_path / "out", "train") as dataset:
        taken = sum(-(-int(nbytes) // 4096) * 4096 for nbytes in dataset.nbytes)
    assert abs(taken - grown.nbytes) <= grown.error + 40 * 4096 / 2  # whole pages


def of_trainer(source: Path, imgsz: int = 96, **given: object) -> tuple[Path, dict]:
    data = {"yaml_file": str(source), "path": str(source.parent), "train": "x", "val": "x"}
    how = {"single_cls": False, "task": "detect", "show": False}
    found = packed(data, "train", imgsz, Settings(workers=1, **given), **how)
    with found:
        return found.path.parent, dict(found.meta.source)


def test_trainers_pack_each_way_into_a_folder_of_its_own(source: Path, tmp_path: Path) -> None:
    ways = [
        {}, {"keep_files": True},
        {"reencode": True}, {"reencode": 80}, {"reencode": 80, "imgsz": 64},
    ]  # fmt: skip
    common = {"codec": "jpeg", "folder": str(tmp_path)}
    found = [of_trainer(source, **common, **way) for way in ways]
    assert len({folder for folder, _ in found}) == len(ways)
    assert [about["reencode"] for _, about in found] == [None, None, 90, 80, 80]
    assert [about["keep_files"] for _, about in found] == [False, True, False, False, False]
    assert of_trainer(source, **common, reencode=90)[0] == found[2][0]  # True is 90
    assert of_trainer(source, **common, reencode=False)[0] == found[0][0]
    raw = of_trainer(source, codec="auto", folder=str(tmp_path / "auto"), reencode=80)
    assert "keep_files" not in raw[1]
    assert raw[1]["reencode"] is None
    plain = {"yaml_file": str(source), "path": str(source.parent)}
    place = cache_folder(plain, 96, Settings(codec="raw", folder=str(tmp_path / "auto")), "detect")
    assert raw[0] == place


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"reencode": 0}, "yolodata.reencode must be 1 to 100, or True, got 0"),
        ({"reencode": 101}, "yolodata.reencode must be 1 to 100, or True, got 101"),
        ({"reencode": 9.5}, "yolodata.reencode must be a whole number, got 9.5"),
        ({"reencode": "high"}, "yolodata.reencode must be a whole number, got 'high'"),
        ({"codec": "raw", "reencode": True}, "reencode=True is about JPEG files, and codec=raw"),
        ({"codec": "raw", "keep_files": True}, "keep_files=True is about JPEG files"),
        ({"keep_files": 1}, "yolodata.keep_files must be True or False, got 1"),
    ],
)
def test_wrong_settings_are_one_clear_error(wrong: dict, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Settings(**wrong)
    assert said in str(caught.value)
