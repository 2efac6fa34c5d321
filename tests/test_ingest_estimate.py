"""What a pack takes is said before it begins; what cannot fit is refused; auto chooses by room."""

from __future__ import annotations

import math
import shutil
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ingesting import pack_arguments, write_yolo

from yolodata import shards
from yolodata.cli import main
from yolodata.errors import ShardError
from yolodata.ingest import estimate as estimates
from yolodata.ingest import pack
from yolodata.ingest.convert import PackSettings
from yolodata.ingest.estimate import estimate, room
from yolodata.ingest.source import open_source

Usage = namedtuple("Usage", "total used free")
MIB = 1 << 20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_yolo(tmp_path_factory.mktemp("source"), {"train": 210, "val": 9}, size=(150, 200))


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Says how many bytes are free."""

    def set_free(nbytes: float) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(1 << 50, 0, int(nbytes)))

    return set_free


def packed(data: Path, out: Path, **changes: Any) -> dict[str, str]:
    pack(data, out, **pack_arguments(**{"imgsz": 128, "progress": False, **changes}))
    return {name: shards.read_meta(path).codec for name, path in shards.splits(out).items()}


@pytest.mark.parametrize(
    "settings",
    [PackSettings(imgsz=128), PackSettings("jpeg", 128), PackSettings("jpeg", 128, 90)],
    ids=["raw", "jpeg", "reencode"],
)
def test_the_estimate_is_what_shards_take(
    data: Path, tmp_path: Path, settings: PackSettings
) -> None:
    found = estimate(open_source(data).splits.values(), settings).of(settings)
    packed(data, tmp_path, codec=settings.codec, reencode=settings.reencode)
    taken = sum(file.stat().st_size for file in tmp_path.rglob("shard-*"))
    headers = 4096 * len(list(tmp_path.rglob("shard-*")))
    assert abs(taken - headers - found.nbytes) <= found.error + 1
    assert found.error < 0.25 * found.nbytes
    if settings.codec == "jpeg" and settings.reencode is None:
        assert found.error == 0


def test_what_other_settings_would_take(data: Path) -> None:
    """Also where one of the splits is small."""
    splits = open_source(data).splits
    found = estimate(splits.values(), PackSettings(imgsz=128))
    others = found.others(PackSettings(imgsz=128))
    assert set(others) == {"codec=jpeg", "codec=jpeg reencode=90"}
    assert others["codec=jpeg reencode=90"].nbytes < others["codec=jpeg"].nbytes
    few = estimate([splits["val"]], PackSettings(imgsz=128))
    assert set(few.others(PackSettings(imgsz=128))) == {"codec=jpeg"}


def test_what_cannot_be_opened_takes_nothing(data: Path, tmp_path: Path) -> None:
    root = shutil.copytree(data.parent, tmp_path / "copy")
    before = estimate(open_source(root / "data.yaml").splits.values(), PackSettings(imgsz=128)).raw
    for file in sorted((root / "images" / "train").iterdir())[::2]:
        file.write_bytes(b"broken")
    after = estimate(open_source(root / "data.yaml").splits.values(), PackSettings(imgsz=128)).raw
    assert after.nbytes == pytest.approx(before.nbytes / 2, abs=after.error + before.error)


def test_no_file_is_read_that_packing_would_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow reads all of a WebP file to open it, and of a sparse one there may be a terabyte."""
    monkeypatch.setattr(estimates, "open_picture", lambda _: pytest.fail("it is opened"))
    with (tmp_path / "x.webp").open("wb") as file:
        file.write(b"RIFF\xff\xff\xff\xffWEBPVP8L")
        file.truncate(1 << 40)
    assert estimates._look(str(tmp_path / "x.webp")).shape == (0, 0)


def test_what_cannot_fit_is_refused_before_anything_is_written(
    data: Path, tmp_path: Path, free: Callable[[float], None]
) -> None:
    free(4 * MIB)  # pixels take more than 8, files about 2
    with pytest.raises(ShardError, match=r"4\.0 MiB are free there; use codec=jpeg \(2\.\d MiB"):
        packed(data, tmp_path / "out", codec="raw")
    assert not (tmp_path / "out").exists()
    assert set(packed(data, tmp_path / "out", codec="jpeg").values()) == {"jpeg"}
    free(0)
    with pytest.raises(ShardError, match="make room"):
        packed(data, tmp_path / "other", codec="jpeg")
    assert packed(data, tmp_path / "out", codec="jpeg")  # nothing is left to do


def test_what_a_pack_replaces_or_continues_counts_as_free(
    data: Path, tmp_path: Path, free: Callable[[float], None]
) -> None:
    packed(data, tmp_path)
    free(0)
    taken = sum(file.stat().st_size for file in tmp_path.rglob("*/*") if file.is_file())
    assert room(tmp_path, ["train", "val"]) == taken
    assert room(tmp_path, ["test"]) == 0
    packed(data, tmp_path, single_cls=True, overwrite=True)


def test_a_file_system_that_says_nothing_refuses_nothing(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 0))
    assert room(tmp_path / "not" / "there", []) == math.inf
    assert packed(data, tmp_path, splits=["val"])


def test_auto_is_raw_where_it_fits_comfortably(
    data: Path, tmp_path: Path, free: Callable[[float], None], capfd: pytest.CaptureFixture[str]
) -> None:
    free(1024 * MIB)
    assert set(packed(data, tmp_path / "a", codec="auto").values()) == {"raw"}
    free(12 * MIB)  # room for pixels, but not three times
    assert set(packed(data, tmp_path / "b", codec="auto", progress=True).values()) == {"jpeg"}
    said = capfd.readouterr().err
    assert "codec=auto is jpeg: pixels would take about 8." in said
    assert "packing 210 train and 9 val images as JPEG files" in said
    assert "12.0 MiB free there" in said
    free(1024 * MIB)  # what is there stays
    assert set(packed(data, tmp_path / "b", codec="auto").values()) == {"jpeg"}
    shutil.rmtree(tmp_path / "b" / "val")
    assert set(packed(data, tmp_path / "b", codec="auto").values()) == {"jpeg"}


def test_auto_with_reencode(data: Path, tmp_path: Path, free: Callable[[float], None]) -> None:
    for mib, codec in ((1024, "raw"), (12, "jpeg")):
        free(mib * MIB)
        out = tmp_path / codec
        line = ["shard", str(data), str(out), "--codec", "auto", "--reencode", "80", "--quiet"]
        assert main([*line, "--imgsz", "128"]) == 0
        meta = shards.read_meta(out / "train")
        assert (meta.codec, meta.source["reencode"]) == (codec, 80 if codec == "jpeg" else None)
