"""The trainer in one process: upstream's arithmetic, and nothing lost when it is interrupted."""

from __future__ import annotations

import logging
import os
import random
import re
import shutil
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checkpoints
import numpy as np
import pytest
import torch
from training import BATCHES, arguments, prepare, train

import yolodata
from yolodata.errors import ConfigError, YolodataError
from yolodata.telemetry.journal import read_journal
from yolodata.train import TrainSettings, signals, trainer_for
from yolodata.train import trainer as trainer_module
from yolodata.train.checkpoint import file
from yolodata.train.checkpoint.object_store import ObjectStore
from yolodata.train.checkpoint.run_folder import FOLDER, find_newest, keep_epochs, weights_whole
from yolodata.train.checkpoint.uploader import Uploader
from yolodata.train.distributed import launch
from yolodata.train.distributed.process_group import ProcessGroup
from yolodata.train.exit_codes import Preempted
from yolodata.train.oom import largest_batch
from yolodata.train.train_cli import processes_wanted
from yolodata.train.trainer import UPLOAD_AT_STOP

STEPS = 3 * BATCHES


class Notes:
    """Callbacks that note each batch's loss and place, and do something at one of them."""

    def __init__(self, at: int | str = -1, act: Any = None) -> None:
        self.at, self.act = at, act
        self.losses: dict[tuple[int, int], dict[str, float]] = {}
        self.places: list[tuple[int, int]] = []

    def batch(self, trainer: Any) -> None:
        state = trainer.train_loader.state_dict()
        place = (state["epoch"], state["position"])
        self.places.append(place)
        self.losses[place] = {name: float(v) for name, v in trainer.loss_items.items()}
        if len(self.places) == self.at:
            self.act(trainer)

    def step(self, trainer: Any) -> None:
        if self.at == "step" and len(self.places) == 2 * BATCHES:
            self.act(trainer)
            time.sleep(10)  # as a compilation takes

    def validation(self, validator: Any) -> None:
        at = {"validation": 2 * BATCHES, "evaluation": STEPS}.get(str(self.at))
        if len(self.places) == at and (self.at == "validation" or not validator.training):
            self.act(validator)

    def saving(self, trainer: Any) -> None:
        if self.at == "saving" and len(self.places) == 2 * BATCHES:
            self.act(trainer)

    @property
    def callbacks(self) -> dict[str, Any]:
        return {
            "on_train_batch_start": self.step,
            "on_train_batch_end": self.batch,
            "on_val_batch_start": self.validation,
            "on_model_save": self.saving,
        }


def final(trainer: Any) -> dict[str, torch.Tensor]:
    model = trainer.model.state_dict()
    return {**model, **{f"ema.{k}": v for k, v in trainer.ema.ema.state_dict().items()}}


def rows(trainer: Any) -> list[list[str]]:
    """results.csv without the column of times."""
    return [line.split(",")[:1] + line.split(",")[2:] for line in trainer.csv.read_text().split()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("train"))


@pytest.fixture(scope="module")
def whole(folder: Path) -> tuple[Notes, Any]:
    """The run that nobody interrupts."""
    notes = Notes()
    return notes, train(trainer_for("detect"), arguments(folder, "whole"), notes.callbacks)


def test_the_loop_is_upstreams(folder: Path, whole: tuple[Notes, Any]) -> None:
    """Weights, averages, optimiser and table, to the last bit."""
    ours = whole[1]
    theirs = train(yolodata.DetectionTrainer, arguments(folder, "upstream"))
    expected = final(theirs)
    assert [
        name for name, value in final(ours).items() if not torch.equal(value, expected[name])
    ] == []
    assert rows(ours) == rows(theirs)
    left, right = (t.optimizer.state_dict()["state"] for t in (ours, theirs))
    assert all(torch.equal(left[i]["momentum_buffer"], right[i]["momentum_buffer"]) for i in left)
    assert {file.name for file in ours.wdir.iterdir()} == {"last.pt", "best.pt"}


@pytest.mark.parametrize(
    ("number", "at"),
    [
        (signal.SIGTERM, random.Random(1).randint(1, STEPS)),
        (signal.SIGUSR1, 3),
        (signal.SIGINT, BATCHES),
        (signal.SIGTERM, "validation"),
        (signal.SIGTERM, "saving"),
        (signal.SIGTERM, "evaluation"),
        (signal.SIGTERM, "step"),
    ],
)
def test_goes_on_where_a_signal_stopped_it(
    folder: Path,
    whole: tuple[Notes, Any],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    at: int | str,
) -> None:
    if at == "step":  # which takes longer than whoever asks will wait
        monkeypatch.setattr(signals, "LATE", 0.2)
    said: list[str] = []
    monkeypatch.setattr(trainer_module.LOGGER, "info", lambda text="", *_: said.append(str(text)))
    name = f"stopped-{number.name}-{at}"
    values = arguments(folder, name, resume="auto")
    before = Notes(at, lambda _: os.kill(os.getpid(), number))
    handler = signal.getsignal(number)
    with pytest.raises(Preempted) as stop:
        train(trainer_for("detect"), values, before.callbacks)
    assert stop.value.code == 75
    newest = file.checkpoints_in(folder / "runs" / name / FOLDER)[0]
    doing = {
        "validation": "while validating",
        "saving": "while saving",
        "evaluation": "while validating the best model",
        "step": "while waiting for data",
    }
    # The next update may be that of the next epoch: what is held at the end of this one is written.
    where = doing.get(str(at), r"(after epoch 1, batch \d|while in callbacks)")
    [end] = [line for line in said if ": stopped " in line]
    pattern = f"{number.name}: stopped {where}; resume=auto goes on from {newest}."
    assert re.search(pattern, end), end
    assert signal.getsignal(number) == handler
    after = Notes()
    done = train(trainer_for("detect"), values, after.callbacks)
    uninterrupted, last = whole
    assert before.places + after.places == uninterrupted.places
    assert before.losses | after.losses == uninterrupted.losses
    expected = final(last)
    assert all(torch.equal(value, expected[name]) for name, value in final(done).items())
    assert rows(done) == rows(last)
    events = read_journal(done.save_dir)
    starts = [event for event in events if event["event"] == "start"]
    assert [start["resumed"] for start in starts] == [False] + [True] * bool(after.places)
    assert all(start["after_s"] > 0 and start["ranks"] == 1 for start in starts)
    written = [event for event in events if event["event"] == "checkpoint"]
    assert len(written) >= 3  # ends of epochs, and where it was stopped
    assert all(each["write_s"] > 0 and each["mib"] > 0 for each in written)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_before_training_ends_at_once(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {each: signal.getsignal(each) for each in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        with pytest.raises(Preempted) as stop, signals.stopping_at_once():
            signal.raise_signal(number)
        for each in before:  # `timeout` sends two; the status is that of the first
            signal.raise_signal(each)
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
    assert stop.value.code == 75
    assert capsys.readouterr().err == (
        f"yolodata: {number.name}: ended; nothing was being trained\n"
    )
    with signals.stopping_at_once():
        pass
    assert before == {each: signal.getsignal(each) for each in before}


def test_falls_back_past_a_damaged_checkpoint(
    folder: Path, whole: tuple[Notes, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """Without warning the process is gone, and its newest checkpoint is cut."""

    class Gone(Exception):
        pass

    def vanish(trainer: Any) -> None:
        trainer.saver.writer.wait()
        raise Gone

    settings = trainer_for("detect").configure(checkpoint_minutes=1e-9, keep=3)
    values = arguments(folder, "damaged", resume="auto")
    before = Notes(11, vanish)
    with pytest.raises(Gone):
        train(settings, values, before.callbacks)
    kept = file.checkpoints_in(folder / "runs" / "damaged" / "checkpoints")
    assert len(kept) == 3
    kept[0].write_bytes(kept[0].read_bytes()[:-1])
    data = bytearray(kept[1].read_bytes())
    data[len(data) // 2] ^= 1
    kept[1].write_bytes(data)
    (kept[0].parent / f".{'0' * 16}.tmp").write_bytes(b"what a killed process leaves")
    after = Notes()
    with caplog.at_level(logging.INFO, "yolodata"):
        done = train(settings, values, after.callbacks)
    assert sum("is not used" in line for line in caplog.messages) == 2
    again = len(before.places) + len(after.places) - STEPS
    assert again > 0
    assert before.places[:-again] + after.places == whole[0].places
    assert before.losses | after.losses == whole[0].losses
    expected = final(whole[1])
    assert all(torch.equal(value, expected[name]) for name, value in final(done).items())
    assert not list(kept[0].parent.glob(".*"))


def test_another_checkpoint_of_the_run_by_name(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`resume=FILE` goes back to it, and what came after is forgotten."""
    settings = trainer_for("detect").configure(keep=9)
    train(settings, arguments(folder, "named", epochs=3))
    files = file.checkpoints_in(folder / "runs" / "named" / "checkpoints")
    assert [file.name[:14] for file in files] == [f"0000{epoch}-00000000" for epoch in (3, 2, 1)]
    notes = Notes()
    said: list[str] = []
    monkeypatch.setattr(trainer_module.LOGGER, "info", lambda text="", *_: said.append(str(text)))
    train(settings, arguments(folder, "named", epochs=3, resume=str(files[-1])), notes.callbacks)
    assert f"yolodata: going on from {files[-1]}" in said
    assert [epoch for epoch, _ in notes.places][::BATCHES] == [1, 2]
    last = file.checkpoints_in(files[0].parent)[0]
    with pytest.raises(YolodataError, match="its name must be"):
        file.read(last.rename(last.with_name("other.ckpt")))


def test_goes_on_from_where_it_was_uploaded_to(folder: Path, whole: tuple[Notes, Any]) -> None:
    """The machine is lost with its disk; another one has the URL alone."""
    settings = trainer_for("detect").configure(upload=str(folder / "elsewhere"))
    before = Notes(8, lambda _: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(Preempted):
        train(settings, arguments(folder, "lost", resume="auto"), before.callbacks)
    shutil.rmtree(folder / "runs" / "lost")
    after = Notes()
    train(settings, arguments(folder, "lost", resume="auto"), after.callbacks)
    assert before.places + after.places == whole[0].places
    assert before.losses | after.losses == whole[0].losses


def test_what_was_written_arrives_when_training_fails(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    patience: list[float] = []
    monkeypatch.setattr(Uploader, "close", lambda self, timeout: patience.append(timeout))

    def fail(trainer: Any) -> None:
        raise ValueError("a callback's own mistake")

    settings = trainer_for("detect").configure(upload=str(folder / "failed"))
    with pytest.raises(ValueError, match="own mistake"):
        train(settings, arguments(folder, "failed"), {"on_train_batch_end": fail})
    assert patience == [UPLOAD_AT_STOP]


def test_the_newest_of_both_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine begins, another one goes on, the first one takes over again."""
    run, url = tmp_path / "run", tmp_path / "elsewhere"

    def made(place: Path, epoch: int, step: int) -> Path:
        return checkpoints.write(place / FOLDER, epoch, step)

    mine = made(run, 1, 3)
    with Uploader(url) as uploader:
        uploader.put(made(tmp_path / "other", 2, 0))
    later = find_newest(run, str(url))
    assert later is not None
    assert later.name.startswith("00002-00000000")
    assert find_newest(run, None) == later  # it is in the folder now
    last = made(run, 2, 1)
    assert find_newest(run, str(url)) == last
    last.write_bytes(b"cut")
    later.unlink()
    assert find_newest(run, str(url)) == later  # and not the older one that is here
    later.unlink()
    monkeypatch.setattr(ObjectStore, "entries", lambda self: Path("/nowhere").read_bytes())
    assert find_newest(run, str(url)) == mine
    mine.unlink()
    with pytest.raises(YolodataError, match="cannot be read"):
        find_newest(run, str(url))


def test_results_that_will_be_written_again_are_dropped(tmp_path: Path) -> None:
    csv = tmp_path / "results.csv"
    csv.write_text("epoch,time\n1,1.5\n2,2.5\n3,3")
    keep_epochs(csv, 2)
    assert csv.read_text() == "epoch,time\n1,1.5\n2,2.5\n"
    keep_epochs(csv, 0)
    assert csv.read_text() == "epoch,time\n"


def test_weights_are_whole_or_as_they_were(tmp_path: Path) -> None:
    (tmp_path / "last.pt").write_bytes(b"old")
    trainer = SimpleNamespace(wdir=tmp_path, last=tmp_path / "last.pt", best=tmp_path / "best.pt")

    def save(*files: Path) -> None:
        for path in files:
            path.write_bytes(b"new")
            if len(files) == 1:
                raise OSError("the disk is full")

    with pytest.raises(OSError, match="full"), weights_whole(trainer):
        save(trainer.last)
    assert (trainer.last, trainer.last.read_bytes()) == (tmp_path / "last.pt", b"old")
    with weights_whole(trainer):
        save(trainer.last, trainer.best)
        assert (tmp_path / "last.pt").read_bytes() == b"old"
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        "last.pt": b"new", "best.pt": b"new",
    }  # fmt: skip


# Memory.


def test_the_dry_step_is_the_largest_and_leaves_no_trace(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def check(trainer: Any) -> None:
        before = {name: value.clone() for name, value in final(trainer).items()}
        drawn = random.getstate()
        trainer.loop.dry_step()
        assert random.getstate() == drawn
        assert all(torch.equal(value, before[name]) for name, value in final(trainer).items())
        assert all(p.grad is None for p in trainer.model.parameters())
        batch = largest_batch(trainer)
        counts = sorted(len(label["cls"]) for label in trainer.train_loader.dataset.labels)
        seen.update(shape=tuple(batch["img"].shape), most=len(batch["cls"]), counts=counts)
        monkeypatch.setattr(
            type(trainer.model), "loss", lambda *_: (_ for _ in ()).throw(out_of_memory)
        )
        trainer.loop.dry_step()

    out_of_memory = RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
    with pytest.raises(YolodataError, match=r"batch=2 .*nbs=16.*and after that mosaic=0") as told:
        train(trainer_for("detect"), arguments(folder, "dry"), {"on_train_start": check})
    assert "Tried to allocate 2 GiB" in str(told.value)
    assert seen["shape"] == (4, 3, 96, 96)  # multi_scale=0.5
    assert seen["most"] == sum(seen["counts"][-16:])  # four pictures of four tiles each


# Settings and launch.


@pytest.mark.parametrize(
    "wrong",
    [{"keep": 0}, {"checkpoint_minutes": -1}, {"stall": "long"}, {"scale_lr": "log"},
     {"upload": 3}, {"upload": "s4://bucket"},
     {"whole_batch_loss": 1}, {"dry_step": "yes"}, {"codec": "png"}, {"callbacks": 3},
     {"folder": 3}, {"folder": True}, {"threads": 1025}, {"prefetch": 257}, {"workers": 2**63},
     {"hw_decoder_load": True}],
)  # fmt: skip
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        trainer_for("detect").configure(**wrong)


def test_settings_are_read_by_the_plain_trainer_too(tmp_path: Path) -> None:
    from yolodata.ultralytics.settings import Settings

    TrainSettings(codec="jpeg", keep=5).save(tmp_path)
    assert Settings.of_run(tmp_path) == Settings(codec="jpeg")
    again = TrainSettings.of_run(tmp_path)
    assert again is not None
    assert again.as_given() == {"codec": "jpeg", "keep": 5}


def test_callbacks_of_a_file(tmp_path: Path) -> None:
    from yolodata.train.callbacks import callbacks_of_file

    file = tmp_path / "mine.py"
    file.write_text("def on_train_end(trainer): ...\ndef helper(): ...\n")
    assert list(callbacks_of_file(str(file))) == ["on_train_end"]
    file.write_text("def on_train_ends(trainer): ...\n")
    with pytest.raises(ConfigError, match="on_train_ends"):
        callbacks_of_file(str(file))


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("def on_train_end(trainer):\n    inner()\ndef inner():\n    raise ValueError('mine')\n",
         4, "ValueError: mine"),
        ("import json\ndef on_train_end(trainer):\n    json.loads('{')\n", 3, "JSONDecodeError: "),
        ("X = 1 / 0\n", 1, "ZeroDivisionError: division by zero"),
        ("import nothere\n", 1, "ModuleNotFoundError: No module named 'nothere'"),
        ("def on_train_end(trainer)\n    pass\n", 1, "SyntaxError: expected ':'"),
    ],
)  # fmt: skip
def test_an_error_of_a_file_of_callbacks_is_its_own(
    tmp_path: Path, text: str, line: int, said: str
) -> None:
    """Where and what in the first line, then the traceback of what the file called, and no more."""
    from yolodata.errors import CallbackError
    from yolodata.train.callbacks import callbacks_of_file

    file = tmp_path / "mine.py"
    file.write_text(text)
    with pytest.raises(CallbackError, match="yours: mend it there") as found:
        callbacks_of_file(str(file))["on_train_end"](None)
    first, *rest = str(found.value).splitlines()
    assert first.startswith(f"{file}, line {line}: ")
    assert said in first
    assert f'  File "{file}", line {line}' in "\n".join(rest)
    assert said in rest[-1]
    assert not any(name in "\n".join(rest) for name in ("callbacks.py", "importlib"))
    assert isinstance(found.value, RuntimeError)  # a collective may have broken in it
    assert found.value.__cause__ is not None


def test_what_callbacks_may_raise_on_purpose(tmp_path: Path) -> None:
    from yolodata.train.callbacks import callbacks_of_file

    file = tmp_path / "mine.py"
    for error in ("KeyboardInterrupt()", "SystemExit(3)", "RuntimeError('CUDA out of memory')"):
        file.write_text(f"def on_train_end(trainer):\n    raise {error}\n")
        with pytest.raises(BaseException, match=r"3|memory|^$") as found:
            callbacks_of_file(str(file))["on_train_end"](None)
        assert type(found.value).__name__ == error.partition("(")[0]


def test_how_many_processes() -> None:
    assert processes_wanted(["model=a", "device=0,1,2"]) == 3
    assert processes_wanted(["device=cpu", "nproc=2"]) == processes_wanted(["device=0,0"]) == 2
    assert processes_wanted(["device=0"]) == processes_wanted(["epochs=1"]) == 1
    with pytest.raises(ConfigError, match="contradicts"):
        processes_wanted(["device=0,1", "nproc=3"])
    with pytest.raises(ConfigError, match="whole number"):
        processes_wanted(["nproc=two"])


def test_a_file_of_arguments_says_how_many_processes(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("nproc: 2\nepochs: 3\n")
    assert processes_wanted([f"cfg={file}"]) == 2
    assert processes_wanted([f"cfg={file}", "nproc=1"]) == 1
    file.write_text("device: [0, 1, 2]\n")
    assert processes_wanted([f"cfg={file}"]) == 3
    assert processes_wanted([f"cfg={file}", "device=cpu"]) == 1


def test_how_torchrun_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a signal that it does not handle torchrun dies, and leaves its ranks behind."""
    started = launch.command(["model=a.yaml", "nproc=2"], 2)
    assert started[-4:] == ["--nproc-per-node=2", "-m", "yolodata.train", "model=a.yaml"]
    handled = started[started.index("--signals-to-handle") + 1].split(",")
    assert set(handled) == {"SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1"}
    monkeypatch.setattr(launch, "torchrun_knows", lambda _: False)  # an older torch
    assert "--signals-to-handle" not in launch.command(["model=a.yaml"], 2)


def test_places_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    world = ProcessGroup(rank=5, local_rank=1, size=8, local_size=4)
    assert world.device(None) == "1"  # not 5: this is the second machine
    assert world.device("4,5,6,7") == "5"
    assert world.device("cpu") == "cpu"
    assert world.device("3,3,3,3") == "3"  # they share it
    with pytest.raises(ConfigError, match="4 processes run on this machine"):
        world.device("0,1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ConfigError, match="torchrun"):
        ProcessGroup.join()


def test_learning_rates_of_large_batches() -> None:
    auto, linear = TrainSettings(), TrainSettings(scale_lr="linear")
    assert auto.lr_factor("AdamW", 4.0) == 2.0
    assert auto.lr_factor("SGD", 4.0) == auto.lr_factor("MuSGD", 4.0) == 1.0
    assert linear.lr_factor("SGD", 4.0) == 4.0
    assert TrainSettings(scale_lr="sqrt").lr_factor("AdamW", 1.0) == 1.0
    assert linear.lr_factor("AdamW", 0.5) == 1.0


def test_random_generators_go_on() -> None:
    from yolodata.train.checkpoint.state import random_state, set_random_state

    cpu = torch.device("cpu")
    state = random_state(cpu)
    draws = [(random.random(), np.random.rand(), torch.rand(1).item()) for _ in range(2)]
    set_random_state(state, cpu)
    assert draws == [(random.random(), np.random.rand(), torch.rand(1).item()) for _ in range(2)]
