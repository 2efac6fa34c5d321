"""Run folders that somebody else made, on `resume=`: one line of what is wrong, no code runs."""

from __future__ import annotations

import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
import xxhash
import yaml
from training import arguments, network, prepare, train

from yolodata.cli import main
from yolodata.errors import YolodataError
from yolodata.train import trainer_for
from yolodata.train.checkpoint import file
from yolodata.train.checkpoint.run_folder import FOLDER


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder that looks like a run."""
    folder = tmp_path / "run"
    (folder / FOLDER).mkdir(parents=True)
    values = {"model": network(), "data": "none.yaml", "epochs": 9, "project": str(tmp_path)}
    (folder / "args.yaml").write_text(yaml.safe_dump({**values, "name": "run", "device": "cpu"}))
    return folder


def placed(run: Path, content: bytes, progress: str = "00003-00000000") -> Path:
    """A checkpoint of a content, whose name is right."""
    path = run / FOLDER / f"{progress}-{xxhash.xxh3_64(content).hexdigest()}.ckpt"
    path.write_bytes(content)
    return path


def saved(tmp_path: Path, state: Any, **how: Any) -> bytes:
    torch.save(state, tmp_path / "saved", **how)
    return (tmp_path / "saved").read_bytes()


def nested(times: int, each: int) -> list[Any]:
    """Few objects that are many to whoever walks through them."""
    value: list[Any] = [0]
    for _ in range(times):
        value = [value] * each
    return value


def deep(times: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(times):
        value = [value]
    return value


STATES: dict[str, Callable[[Path], Any]] = {
    "code": lambda ran: {**checkpoints.state(3), "results": checkpoints.Code(ran)},
    "a list": lambda ran: [1, 2],
    "nothing": lambda ran: None,
    "empty": lambda ran: {},
    "no model": lambda ran: {k: v for k, v in checkpoints.state(3).items() if k != "model"},
    "a model of text": lambda ran: checkpoints.state(3, model={"weight": "1"}),
    "another epoch": lambda ran: {**checkpoints.state(3), "epoch": 5},
    "a negative step": lambda ran: {**checkpoints.state(3), "step": -1},
    "an epoch of text": lambda ran: {**checkpoints.state(3), "epoch": "3"},
    "epochs of 400 digits": lambda ran: checkpoints.state(3, epochs=10**400),
    "settings that are a list": lambda ran: checkpoints.state(3, given=[1]),
    "settings without time": lambda ran: checkpoints.state(3, given={}),
    "names that are numbers": lambda ran: checkpoints.state(3, names={0: 1}),
    "a table of bytes": lambda ran: checkpoints.state(3, results=b"epoch\n"),
    "a stage": lambda ran: checkpoints.state(3, stage="later"),
    "many": lambda ran: checkpoints.state(3, given={**checkpoints.GIVEN, "a": nested(30, 10)}),
    "deep": lambda ran: checkpoints.state(3, given={**checkpoints.GIVEN, "a": deep(200)}),
    "patience without end": lambda ran: checkpoints.state(
        3, given={**checkpoints.GIVEN, "patience": math.inf}
    ),
    "mosaic without end": lambda ran: checkpoints.state(
        3, args={"task": "detect", "close_mosaic": math.inf}
    ),
    "a time that is none": lambda ran: checkpoints.state(3, elapsed=math.nan),
    "no generator": lambda ran: checkpoints.state(3, generators=[]),
}


@pytest.mark.parametrize("what", STATES)
def test_states_that_are_none(
    what: str, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ran = tmp_path / "ran"
    path = placed(run, saved(tmp_path, STATES[what](ran)))
    with pytest.raises(YolodataError) as refused:
        file.read(path)
    assert len(str(refused.value)) < 1000
    assert str(path) in str(refused.value)
    whole = checkpoints.write(run / FOLDER, 2)
    newest = file.newest_whole(run / FOLDER)
    if what == "empty":  # of no version: of another yolodata, maybe, so that nobody passes it over
        assert newest == path
    else:
        assert newest == whole
        assert [line for line in caplog.messages if "is not used" in line]
    assert not ran.exists()


def _truncated(path: Path) -> None:
    os.truncate(path, 100)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


FILES: dict[str, Callable[[Path], None]] = {
    "truncated": _truncated,
    "FIFO": _fifo,
    "device": _device,
    "folder": _folder,
    "empty": lambda path: os.truncate(path, 0),
}


@pytest.mark.parametrize("what", FILES)
def test_files_that_are_no_checkpoints(
    what: str, run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = checkpoints.write(run / FOLDER, 3)
    FILES[what](path)
    assert main(["train", f"resume={path}"]) == 2
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("yolodata:")]
    assert len(said) == 1
    assert str(path) in said[0]
    whole = checkpoints.write(run / FOLDER, 2)
    assert file.newest_whole(run / FOLDER) == whole


def test_code_in_a_checkpoint_is_not_run_by_the_command(
    run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    ran = tmp_path / "ran"
    for content in (saved(tmp_path, checkpoints.Code(ran)), pickle.dumps(checkpoints.Code(ran))):
        path = placed(run, content)
        assert main(["train", f"resume={path}"]) == 2
        assert "cannot be resumed from" in capfd.readouterr().err
    assert not ran.exists()


def test_a_state_that_fits_no_network_is_an_error_of_one_line(tmp_path: Path) -> None:
    """Its parts have the right types; what they say cannot be had."""
    folder = prepare(tmp_path)
    train(trainer_for("detect").configure(telemetry=False), arguments(folder, "run", epochs=1))
    [path] = file.checkpoints_in(folder / "runs" / "run" / FOLDER)
    state = file.read(path)
    generators = [{**state["generators"][0], "python": [3, [1, 2], None]}]
    groups = {"state": {}, "param_groups": [{"params": [0]}]}
    given = {**state["given"], "seed": torch.zeros(2)}
    for wrong in (
        {"generators": generators}, {"optimizer": groups}, {"gradients": {"x": 1}},
        {"given": given},
    ):  # fmt: skip
        torch.save({**state, **wrong}, tmp_path / "saved")
        other = placed(path.parent.parent, (tmp_path / "saved").read_bytes(), path.name[:14])
        values = arguments(folder, "run", epochs=2, resume=str(other))
        with pytest.raises(YolodataError, match=r"cannot be resumed from: ") as refused:
            train(trainer_for("detect").configure(telemetry=False), values)
        assert len(str(refused.value)) < 1000
        other.unlink()
