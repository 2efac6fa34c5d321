"""Mistakes on the command line end with one message and no traceback, and are never ignored."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ingesting import write_yolo
from training import TINY

from yolodata import Loader, open_shards
from yolodata.arguments import literal
from yolodata.cli import main
from yolodata.errors import ConfigError, ShardError
from yolodata.ingest import PackSettings, pack
from yolodata.shards.verify import verify
from yolodata.train.exit_codes import PEER_LOST, STATUS, leave_status, status_left


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA.yaml, its shards in OUT, and a small network."""
    root = tmp_path_factory.mktemp("mistakes")
    write_yolo(root, {"train": 2, "val": 1})
    pack(root / "data.yaml", root / "out", PackSettings(imgsz=32), progress=False, workers=1)
    (root / "tiny.yaml").write_text(TINY)
    (root / "nothing.yaml").write_text("train:\nval:\nnames: [a]\n")
    return root


LONG = "a" * 300
# A relative `project=` would lie where all tests of this Python write to.
TRAIN = "train model=tiny.yaml device=cpu project={folder}/runs"


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("shard data.yaml new --workers -2", "workers must be 1 to 1024, got -2"),
        ("shard data.yaml new --workers 0", "workers must be 1 to 1024, got 0"),
        ("shard nothing.yaml new", "'train' and 'val' are both empty"),
        ("shard nothere.yaml new", "nothere.yaml: does not exist"),
        ("verify out --workers -1", "workers must be at least 1, got -1"),
        ("verify out/train --split val", "out/train: is one dataset, --split val chooses"),
        ("info out/train --split val", "out/train: is one dataset, --split val chooses"),
        ("view out/train --split val", "split 'val' was asked for"),
        (f"{TRAIN} data=nothere.yaml", "'nothere.yaml' does not exist"),
        (f"{TRAIN} data=data.yaml epochz=3", "'epochz' is not a valid YOLO argument"),
        (f"{TRAIN} data=data.yaml epochs=x", "'epochs=x' is of invalid type"),
        (
            f"{TRAIN} data=['data.yaml','data.yaml']",
            "data must be one dataset, got ['data.yaml'",
        ),
        (f"{TRAIN} data=data.yaml name={LONG}", "name too long); give another project= or name="),
        (f"{TRAIN} data={LONG}", "longer than the system takes; give a shorter one"),
        (f"{TRAIN} data=data.yaml yolodata.callbacks={LONG}", "longer than the system takes"),
        (f"train resume={LONG}", "longer than the system takes"),
        (f"info {LONG}", "longer than the system takes"),
        (f"diff out {'a/' * 5000}", "longer than the system takes"),
        (f"verify out workers={'a/' * 5000}", "workers must be"),
        ("doctor x\udcffy", "data must be UTF-8"),
        ("train model=nothere.pt data=data.yaml", "model=nothere.pt cannot be read"),
        (f"{TRAIN} yolodata.codek=jpeg nproc=2", "no setting codek (did you mean 'codec'?)"),
        (f"{TRAIN} yolodata.stall=0 nproc=2", "yolodata.stall must be at least 1, got 0"),
    ],
)
def test_one_message(
    folder: Path,
    command: str,
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(folder)
    assert main(command.format(folder=folder).split()) == 2
    message = capsys.readouterr().err
    assert said in message
    assert re.search(r"^yolodata: ", message, re.MULTILINE)
    assert not (folder / "new").exists()


def test_a_mistake_of_one_of_several_processes_is_the_status_of_the_run(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`yolodata train nproc=2` ends with what its processes leave: torchrun ends with 1 for all."""
    left = folder / "status"
    left.touch()
    monkeypatch.chdir(folder)
    monkeypatch.setenv(STATUS, str(left))
    assert status_left(left) is None
    assert main(f"{TRAIN} data=nothere.yaml".format(folder=folder).split()) == 2
    found = status_left(left)
    assert found
    assert found[0] == 2
    assert "'nothere.yaml' does not exist" in found[1]
    leave_status(PEER_LOST, "rank 0 is gone")  # the other process, which waited for this one
    assert status_left(left) == found


def test_what_the_parser_of_python_cannot_take_is_a_text() -> None:
    for text in ("a/" * 5000 + "a", "-" * 100_000 + "1"):
        assert literal(text) == text


def test_what_ranks_leave_is_read_whatever_was_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = tmp_path / "status"
    left.write_bytes(b'[76, "rank 1 is go\n5\n[1]\n[9, "a"]\n\xff\n')  # of a disk that was full
    monkeypatch.setenv(STATUS, str(left))
    assert status_left(left) is None
    leave_status(PEER_LOST, "a" * 20_000_000)
    found = status_left(left)
    assert found is not None
    assert found[0] == PEER_LOST
    assert len(found[1]) < 20_000
    (tmp_path / "link").symlink_to(left)
    before = left.read_bytes()
    monkeypatch.setenv(STATUS, str(tmp_path / "link"))
    leave_status(PEER_LOST, "a")
    assert left.read_bytes() == before


def test_failures_of_training_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        task = "detect"

        def __init__(self, model: str) -> None:
            self.model = model

        def add_callback(self, event: str, callback: object) -> None:
            pass

        def train(self, **_: object) -> None:
            raise RuntimeError("Dataset of ours")

    monkeypatch.setattr("ultralytics.YOLO", Failing)
    with pytest.raises(RuntimeError, match="of ours"):
        main(f"{TRAIN} data=data.yaml".split())


@pytest.mark.parametrize("workers", [0, -1, 1.5, "2"])
def test_workers(folder: Path, workers: object) -> None:
    for do in (
        lambda: pack(folder / "data.yaml", folder / "new", workers=workers),
        lambda: verify(folder / "out" / "train", workers=workers),
    ):
        with pytest.raises(ConfigError, match="workers must be"):
            do()


def test_a_split_that_is_not_there(folder: Path) -> None:
    with pytest.raises(ShardError, match="split 'val' was asked for"):
        Loader(folder / "out" / "train", 1, split="val")
    with (
        open_shards(folder / "out", split="val") as val,
        pytest.raises(ConfigError, match="is the split 'val', split='train' was asked for"),
    ):
        Loader(val, 1, split="train")
