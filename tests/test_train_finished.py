"""Runs that are finished: said, trained on, found again on a new machine, exported."""

from __future__ import annotations

import copy
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from training import BATCHES, arguments, prepare, train
from ultralytics import YOLO
from ultralytics.utils import LOGGER

from yolodata.cli import main
from yolodata.errors import ConfigError, YolodataError
from yolodata.train import trainer as trainer_module
from yolodata.train import trainer_for
from yolodata.train.checkpoint import file
from yolodata.train.checkpoint.continuation import continuation
from yolodata.train.checkpoint.run_folder import FOLDER
from yolodata.train.trainer import DurableTrainer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("finished"))


@pytest.fixture(scope="module")
def logged() -> list[str]:
    """What training said while the run was made."""
    return []


@pytest.fixture(scope="module")
def run(folder: Path, logged: list[str]) -> Path:
    """A finished run of two epochs, which was uploaded."""
    settings = trainer_for("detect").configure(upload=str(folder / "elsewhere"))
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    LOGGER.addHandler(handler)
    train(settings, arguments(folder, "run", epochs=2, resume="auto"))
    LOGGER.removeHandler(handler)
    return folder / "runs" / "run"


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(trainer_module.LOGGER, "info", lambda text="", *_: lines.append(str(text)))
    return lines


@pytest.fixture
def copied(folder: Path, run: Path, request: pytest.FixtureRequest) -> str:
    """The run under a name of the test's own."""
    shutil.copytree(run, folder / "runs" / request.node.name)
    return request.node.name


def newest(run: Path) -> dict[str, Any]:
    found = file.newest_whole(run / FOLDER)
    assert found is not None
    return file.read(found)


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_what_is_said_names_no_place_that_is_gone(run: Path, logged: list[str]) -> None:
    stripped = [line for line in logged if "without the optimizer's state" in line]
    assert [line.split(":")[0] for line in stripped] == [
        str(run / "weights" / name) for name in ("last.pt", "best.pt")
    ]
    assert not [line for line in logged if ".writing" in line]


def test_a_finished_run_says_so_and_changes_nothing(
    folder: Path, copied: str, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = folder / "runs" / copied
    before = content(place)
    values = arguments(folder, copied, epochs=2, resume="auto", patience=7)
    monkeypatch.setattr(DurableTrainer, "_do_train", lambda self: pytest.fail("it trains"))
    done = train(trainer_for("detect"), values)
    assert content(place) == before
    assert (done.best, done.last) == (place / "weights/best.pt", place / "weights/last.pt")
    assert [line for line in said if "yolodata" in line] == [
        f"yolodata: {place} is finished after 2 epochs, and nothing is trained: see its "
        "results.csv and weights/best.pt. Give more epochs= to train on, or another name= for a "
        "new run. No effect have: patience from 100 to 7."
    ]


@pytest.mark.parametrize(
    "given", [["resume={}"], ["resume=True", "model={}"], ["resume=1", "model={}"]]
)
def test_weights_of_a_finished_run_are_no_run_to_resume(
    run: Path, given: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(run / "weights" / "last.pt") for word in given]
    assert main(["train", *words, "device=cpu"]) == 2
    assert "nothing to resume" in capsys.readouterr().err


def test_more_epochs_train_on(folder: Path, copied: str, said: list[str]) -> None:
    """From the finished state, as a run of that many epochs would go on there."""
    place = folder / "runs" / copied
    before = newest(place)
    seen: list[Any] = []

    def begin(trainer: Any) -> None:
        model, average = trainer.model.state_dict(), trainer.ema.ema.state_dict()
        assert all(torch.equal(model[name], value) for name, value in before["model"].items())
        assert all(torch.equal(average[name], value) for name, value in before["ema"].items())
        assert trainer.ema.updates == before["ema_updates"] > 0
        assert trainer.optimizer.state_dict()["state"]
        assert trainer.model.criterion.o2m == pytest.approx(0.8 - 0.7 * 2 / 4)  # of 5 epochs

    def note(trainer: Any) -> None:
        assert not trainer.train_loader.state_dict()["mosaic_closed"] or trainer.epoch == 4
        seen.append((trainer.epoch, trainer.optimizer.param_groups[0]["lr"]))

    values = arguments(folder, copied, epochs=5, resume="auto")
    train(trainer_for("detect"), values, {"on_train_start": begin, "on_train_batch_end": note})
    assert [epoch for epoch, _ in seen] == [epoch for epoch in (2, 3, 4) for _ in range(BATCHES)]
    for epoch, rate in seen:
        assert rate == pytest.approx(0.01 * ((1 - epoch / 5) * 0.99 + 0.01))
    assert any("training to epoch 5 instead of 2" in line for line in said)
    rows = (place / "results.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == ["1", "2", "3", "4", "5"]
    assert newest(place)["stage"] == "finished"


def state(**changed: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `continuation` reads of a run that finished 10 epochs, and its settings."""
    given = {
        "epochs": 10, "patience": 5, "time": None, "lr0": 0.01, "optimizer": "auto", "box": 7.5,
        "model": "a/n.yaml", "device": "0",
    }  # fmt: skip
    found = {
        "epoch": 10, "step": 0, "stage": "finished", "epochs": 10, "elapsed": 3600.0,
        "stopper": {"best_epoch": 9}, "optimizer_name": "AdamW", "given": copy.copy(given),
    }  # fmt: skip
    return {**found, **changed}, given


EARLY = {"epoch": 8, "stopper": {"best_epoch": 3}}
BEGUN = {"epoch": 4, "stage": "train"}


@pytest.mark.parametrize(
    ("run_is", "asked", "stage"),
    [
        ({}, {}, "done"),
        ({}, {"device": "cpu", "lr0": 0.1}, "done"),  # it has no effect, and that is said
        ({}, {"epochs": 11}, "train"),
        ({}, {"epochs": 11, "optimizer": "adamw", "model": "b/n.yaml"}, "train"),
        ({}, {"epochs": 11, "box": 3.0}, "train"),
        ({}, {"epochs": 9}, "epochs must be at least 10"),
        ({}, {"epochs": 11, "lr0": 0.1}, "cannot change lr0 from 0.01 to 0.1"),
        ({}, {"epochs": 11, "model": "m.yaml"}, "cannot change model"),
        (EARLY, {}, "done"),
        (EARLY, {"epochs": 20}, "stopped early after 8 epochs, 5 after the best"),
        (EARLY, {"patience": 6}, "train"),
        (EARLY, {"patience": 0, "epochs": 20}, "train"),
        (EARLY, {"patience": 6, "epochs": 8}, "done"),
        (BEGUN, {}, "train"),
        (BEGUN, {"epochs": 6}, "train"),
        (BEGUN, {"epochs": 4}, "finished"),
        (BEGUN, {"epochs": 3}, "epochs must be at least 4"),
        ({**BEGUN, "step": 1}, {"epochs": 4}, "epochs must be at least 5"),
        ({**BEGUN, "stage": "validate"}, {"epochs": 4}, "epochs must be at least 5"),
        (BEGUN, {"optimizer": "SGD"}, "cannot change optimizer from auto to SGD"),
        ({}, {"time": 0.5}, "done"),
        ({}, {"time": 2.0}, "train"),
    ],
)
def test_what_a_run_may_go_on_with(
    run_is: dict[str, Any], asked: dict[str, Any], stage: str
) -> None:
    found, given = state(**run_is)
    if stage in ("train", "finished", "done"):
        plan = continuation(found, {**given, **asked}, Path("runs/a"), evaluated=True)
        assert (plan.stage, plan.optimizer) == (stage, "AdamW")
        for name in asked:
            if name in ("box", "lr0"):
                assert f"{name} from {given[name]} to {asked[name]}" in plan.said
    else:
        with pytest.raises(ConfigError, match=stage) as told:
            continuation(found, {**given, **asked}, Path("runs/a"), evaluated=True)
        assert "runs/a" in str(told.value)


def test_what_a_run_was_given_is_shown_briefly_and_without_acting() -> None:
    """A checkpoint may have come from anywhere."""
    found, given = state()
    found["given"] = {**found["given"], "box": "\x1b[2J" + "a" * 10_000}
    plan = continuation(found, {**given, "epochs": 11}, Path("runs/a"), evaluated=True)
    assert plan.stage == "train"
    assert "box from \\x1b[2Jaaa" in plan.said
    assert "\x1b" not in plan.said
    assert len(plan.said) < 1000


def test_an_evaluation_that_was_interrupted_is_made_again() -> None:
    found, given = state()
    plan = continuation(found, given, Path("runs/a"), evaluated=False)
    assert plan.stage == "finished"
    assert "only the evaluation" in plan.said


def test_a_run_keeps_the_optimiser_that_auto_chose(folder: Path) -> None:
    """Ten thousand updates are the limit; more epochs may pass it."""
    values = arguments(folder, "auto", epochs=1, optimizer="auto", resume="auto", val=False)
    done = train(trainer_for("detect"), values)
    assert type(done.optimizer).__name__ == "AdamW"

    class Enough(Exception):
        pass

    def begin(trainer: Any) -> None:
        assert type(trainer.optimizer).__name__ == "AdamW"
        raise Enough

    with pytest.raises(Enough):
        train(trainer_for("detect"), {**values, "epochs": 10000}, {"on_train_start": begin})


def test_another_network_is_named(folder: Path, copied: str) -> None:
    other = folder / copied / "tiny.yaml"
    other.parent.mkdir()
    other.write_text((folder / "tiny.yaml").read_text().replace("[64, 3, 2]", "[128, 3, 2]"))
    values = arguments(folder, copied, epochs=3, resume="auto", model=str(other))
    with pytest.raises(ConfigError, match="is another network than the state's"):
        train(trainer_for("detect"), values)


def test_a_finished_run_on_a_new_machine(
    folder: Path, run: Path, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk and the dataset are gone; all files of the run come back."""
    settings = trainer_for("detect").configure(upload=str(folder / "elsewhere"))
    before = content(run)
    before.pop("steps.csv")
    away = run.rename(run.with_name("away"))
    data = str(folder / "nowhere.yaml")
    try:
        train(settings, arguments(folder, "run", epochs=2, resume="auto", data=data))
        kept = newest(run)
        after = content(run)
    finally:
        shutil.rmtree(run, ignore_errors=True)
        away.rename(run)
    assert any(f"{run} is finished after 2 epochs" in line for line in said)
    assert {name: before[name] for name in after} == after
    assert {"weights/best.pt", "weights/last.pt", "results.csv", "args.yaml", "yolodata.yaml"} <= {
        *after
    }
    assert kept["results"].encode() == after["results.csv"]


def test_what_is_missing_is_written_from_the_checkpoint(
    folder: Path, copied: str, said: list[str]
) -> None:
    place = folder / "runs" / copied
    table = (place / "results.csv").read_bytes()
    for name in ("weights/last.pt", "weights/best.pt", "results.csv"):
        (place / name).unlink()
    train(trainer_for("detect"), arguments(folder, copied, epochs=2, resume="auto"))
    assert (place / "results.csv").read_bytes() == table
    assert len(YOLO(place / "weights" / "last.pt").names) == 3
    assert any("see its results.csv and weights/last.pt." in line for line in said)


def test_weights_of_a_checkpoint(
    folder: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are those that Ultralytics keeps, and validate alike."""
    out = tmp_path / "out.pt"
    assert main(["export", str(run), str(out)]) == 0
    assert "after 2 epochs" in capsys.readouterr().out
    ours, theirs = YOLO(out), YOLO(run / "weights" / "last.pt")
    mine, expected = ours.model.state_dict(), theirs.model.state_dict()
    assert all(torch.equal(mine[name], value) for name, value in expected.items())
    assert (ours.names, ours.task, ours.ckpt["epoch"]) == (theirs.names, "detect", -1)
    assert ours.ckpt["train_results"] == theirs.ckpt["train_results"]
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    boxes = [m.predict(picture, verbose=False, conf=0.001)[0].boxes.data for m in (ours, theirs)]
    assert torch.equal(*boxes)
    assert main(["export", str(file.newest_whole(run / FOLDER)), str(tmp_path / "b.pt")]) == 0


@pytest.mark.parametrize(
    ("source", "out", "told"),
    [
        ("{run}", "{tmp}/out.onnx", "must be a new file"),
        ("{run}", "{tmp}/nowhere/out.pt", "must be a new file in a folder that is there"),
        ("{run}", "{run}/weights/last.pt", "must be a new file"),
        ("{tmp}", "{tmp}/out.pt", "there must be a whole checkpoint"),
        ("{tmp}/nowhere", "{tmp}/out.pt", "there must be a whole checkpoint"),
        ("{run}/weights/last.pt", "{tmp}/out.pt", "there must be a whole checkpoint"),
        ("{tmp}/00001-00000000-0123456789abcdef.ckpt", "{tmp}/out.pt", "cut or damaged"),
        ("{tmp}/other.ckpt", "{tmp}/out.pt", "its name must be"),
    ],
)
def test_what_cannot_be_exported(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: str, out: str, told: str
) -> None:
    for name in ("other.ckpt", "00001-00000000-0123456789abcdef.ckpt"):
        (tmp_path / name).write_bytes(b"?")
    places = {"run": run, "tmp": tmp_path}
    assert main(["export", source.format(**places), out.format(**places)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("yolodata: ")
    assert told in said
    assert said.count("\n") == 1


def test_weights_of_another_version_are_refused(run: Path, tmp_path: Path) -> None:
    from yolodata.train.checkpoint.export import write_weights

    found = newest(run)
    found["network"] = {**found["network"], "head": [[[3], 1, "NoSuchLayer", []]]}
    with pytest.raises(YolodataError, match="cannot make the network of the checkpoint"):
        write_weights(found, tmp_path / "out.pt")
