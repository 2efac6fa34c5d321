"""MLflow, W&B and TensorBoard after real runs, read back as they do; trackers that fail."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from queue import Queue
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from training import arguments, prepare, train

import yolodata
from yolodata.provenance import manifest
from yolodata.provenance.manifest import RunManifest
from yolodata.train import signals, train_cli, trainer_for
from yolodata.train.exit_codes import PREEMPTED, STATUS, Preempted, status_left
from yolodata.train.signals import leave_in_time
from yolodata.ultralytics.trackers import calls
from yolodata.ultralytics.trackers.calls import Trackers
from yolodata.ultralytics.trackers.mlflow import MLFLOW_FILE, _kept_run, begin

pytestmark = pytest.mark.early

WHY = "an experiment tracker that the extra `test` installs, where it is not left out"
EPOCHS = 3
KILL = """
import os, signal

def on_model_save(trainer):  # the loggers have the losses of this epoch, and no checkpoint has it
    if trainer.epoch == 1 and "KILL" in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)
"""
SWAP_IN = """
import json, sys, yolodata
from ultralytics import YOLO
values = json.loads(sys.argv[1])
YOLO(values.pop("model")).train(trainer=yolodata.DetectionTrainer, **values)
"""


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Ultralytics with its three loggers switched on, as outside of tests, which it never logs."""
    if not any(map(PathFinder.find_spec, ("mlflow", "wandb", "tensorboard"))):
        pytest.skip(WHY)
    folder = tmp_path_factory.mktemp("trackers")
    found = {
        **{name: value for name, value in os.environ.items() if not name.startswith("PYTEST")},
        "PYTHONPATH": str(Path(yolodata.__file__).parents[1]),
        "OMP_NUM_THREADS": "1",
        "YOLO_CONFIG_DIR": str(folder),
        "MLFLOW_TRACKING_URI": (folder / "mlflow").as_uri(),
        "MLFLOW_ALLOW_FILE_STORE": "true",
        "WANDB_MODE": "offline",
        "WANDB_SILENT": "true",
        "WANDB_DATA_DIR": str(folder),
        "WANDB_CACHE_DIR": str(folder),
        "WANDB_CONFIG_DIR": str(folder),
    }
    switch = "from ultralytics import settings; settings.update(mlflow=True, wandb=True, "
    run([sys.executable, "-c", f"{switch} tensorboard=True)"], found)
    return found


def run(command: list[str], env: dict[str, str], ends: int = 0) -> None:
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == ends, done.stdout + done.stderr


@pytest.fixture(scope="module")
def resumed(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was killed in its second epoch, and went on in two processes."""
    folder = prepare(tmp_path_factory.mktemp("resumed"))
    (folder / "kill.py").write_text(KILL)
    values = arguments(folder, "run", epochs=EPOCHS, multi_scale=0.0, resume="auto")
    values["yolodata.callbacks"] = str(folder / "kill.py")
    command = [sys.executable, "-m", "yolodata", "train", *(f"{k}={v}" for k, v in values.items())]
    run(command, {**env, "KILL": "1"}, -signal.SIGKILL)
    run([*command, "nproc=2"], env)
    return folder / "runs" / "run"


@pytest.fixture(scope="module")
def swapped_in(env: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = prepare(tmp_path_factory.mktemp("swapped"))
    values = json.dumps(arguments(folder, "swap", epochs=1, warmup_epochs=0.0))
    run([sys.executable, "-c", SWAP_IN, values], env)
    return folder / "runs" / "swap"


def of_run(folder: Path) -> RunManifest:
    found = manifest.read(folder)
    assert found is not None
    assert found.dataset is not None
    return found


# What the trackers have.


@pytest.fixture(scope="module")
def _mlflow() -> Any:
    hidden = sys.modules.pop("mlflow")
    try:
        return pytest.importorskip("mlflow", reason=WHY)
    finally:
        sys.modules["mlflow"] = hidden


@pytest.fixture
def mlflow(_mlflow: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package, which is hidden from tests that do not ask for it."""
    monkeypatch.setitem(sys.modules, "mlflow", _mlflow)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return _mlflow


def mlflow_runs(mlflow: Any, env: dict[str, str], folder: Path) -> Any:
    client = mlflow.MlflowClient(env["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name(str(folder.parent))
    return client, client.search_runs([experiment.experiment_id])


def wandb_records(folder: Path) -> list[list[Any]]:
    """The messages of each of W&B's files, which are in LevelDB's format of logs."""
    messages = pytest.importorskip("wandb.proto.wandb_internal_pb2", reason=WHY)
    found = []
    for file in sorted(folder.glob("wandb/*run-*/run-*.wandb")):
        data, at, parts, records = file.read_bytes(), 7, [], []
        assert data.startswith(b":W&B")
        while at < len(data):
            if (left := 32768 - at % 32768) < 7:  # too little of a block for a header
                at += left
                continue
            size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
            parts.append(data[at + 7 : at + 7 + size])
            at += 7 + size
            if kind in (1, 4):  # all of a message, or its last part
                records.append(messages.Record.FromString(b"".join(parts)))
                parts = []
        found.append(records)
    return found


def wandb_config(records: list[Any]) -> dict[str, Any]:
    updates = [u for r in records if r.HasField("config") for u in r.config.update]
    return {update.key: json.loads(update.value_json) for update in updates}


def wandb_dataset(records: list[Any]) -> Any:
    [found] = [
        r.artifact for r in records if r.HasField("artifact") and r.artifact.type == "dataset"
    ]
    return found


def tensorboard_of(folder: Path) -> Any:
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason=WHY
    )
    found = events.EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    return found.Reload()


def hyperparameters(accumulator: Any) -> dict[str, Any]:
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    found = accumulator.PluginTagToContent("hparams")
    started = HParamsPluginData.FromString(found["_hparams_/session_start_info"])
    return {
        name: value.string_value or value.number_value
        for name, value in started.session_start_info.hparams.items()
    }


def test_mlflow_has_dataset_and_manifest_and_a_resumed_run_is_one(
    mlflow: Any, env: dict[str, str], resumed: Path
) -> None:
    client, runs = mlflow_runs(mlflow, env, resumed)
    made = of_run(resumed)
    [found] = runs
    assert found.info.status == "FINISHED"
    assert found.data.tags["yolodata.dataset"] == made.dataset.version
    assert found.data.tags["yolodata.settings"] == made.settings.checksum
    [used] = found.inputs.dataset_inputs
    assert used.dataset.digest == made.dataset.version
    assert [(tag.key, tag.value) for tag in used.tags] == [("mlflow.data.context", "training")]
    assert mlflow.data.get_source(used.dataset).load() == made.dataset.splits["train"].path
    local = Path(found.info.artifact_uri.removeprefix("file://"))
    assert RunManifest.from_json((local / manifest.FILE).read_bytes()) == made
    history = client.get_metric_history(found.info.run_id, "val/box_loss")
    assert [point.step for point in history] == [0, 1, 2]
    # That of the epoch in which the process was killed came twice, and is the same.
    losses = client.get_metric_history(found.info.run_id, "train/box_loss")
    assert [point.step for point in losses] == [0, 1, 1, 2]


def test_wandb_has_dataset_and_manifest_in_the_run_that_went_on(resumed: Path) -> None:
    _, records = wandb_records(resumed)
    names = [file.name for file in resumed.glob("wandb/*run-*/run-*.wandb")]
    assert len(names) == 2
    assert len(set(names)) == 1, "each start has a run of its own"
    made = of_run(resumed)
    assert RunManifest.from_dict(wandb_config(records)["yolodata"]) == made
    used = wandb_dataset(records)
    assert set(used.aliases) == {"latest", made.dataset.version}
    assert json.loads(used.metadata) == made.dataset.to_dict()
    for split, entry in zip(made.dataset.splits.values(), used.manifest.contents, strict=True):
        file = Path(split.path) / "dataset.json"
        assert entry.ref == file.as_uri()
        assert entry.size == file.stat().st_size
    rows = [
        {"/".join(item.nested_key) or item.key: item.value_json for item in r.history.item}
        for r in records
        if r.HasField("history")
    ]
    epochs = [int(row["epoch"]) for row in rows if "train/box_loss" in row]
    assert epochs == [2, 3]


def test_tensorboard_has_dataset_and_manifest_and_each_epoch_once(resumed: Path) -> None:
    found, made = tensorboard_of(resumed), of_run(resumed)
    values = hyperparameters(found)
    assert values["yolodata.dataset"] == made.dataset.version
    assert values["yolodata.settings"] == made.settings.checksum
    assert values["imgsz"] == 64
    content = found.PluginTagToContent("hparams")
    assert set(content) >= {"_hparams_/experiment", "_hparams_/session_end_info"}
    assert b"metrics/mAP50(B)" in content["_hparams_/experiment"]
    text = found.Tensors("yolodata/manifest/text_summary")[-1].tensor_proto.string_val[0]
    assert RunManifest.from_json(text) == made
    for name in ("train/box_loss", "val/box_loss", "lr/pg0"):
        assert [point.step for point in found.Scalars(name)] == [1, 2, 3], name
    # Those of the best weights come last, and the table of hyperparameters shows them.
    assert [point.step for point in found.Scalars("metrics/mAP50(B)")] == [1, 2, 3, 4]
    assert not [path for path in resumed.rglob("events.*") if path.parent != resumed]


def test_a_trainer_in_ultralytics_loop_tells_mlflow_too(
    mlflow: Any, env: dict[str, str], swapped_in: Path
) -> None:
    _, [found] = mlflow_runs(mlflow, env, swapped_in)
    version = of_run(swapped_in).dataset.version
    assert [used.dataset.digest for used in found.inputs.dataset_inputs] == [version]


def test_a_trainer_in_ultralytics_loop_tells_wandb_too(swapped_in: Path) -> None:
    [records] = wandb_records(swapped_in)
    version = of_run(swapped_in).dataset.version
    assert wandb_config(records)["yolodata"]["dataset"]["version"] == version
    assert version in wandb_dataset(records).aliases


def test_a_trainer_in_ultralytics_loop_tells_tensorboard_too(swapped_in: Path) -> None:
    values = hyperparameters(tensorboard_of(swapped_in))
    assert values["yolodata.dataset"] == of_run(swapped_in).dataset.version


def test_mlflow_prints_no_address_with_a_password(
    mlflow: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"
    trainer = SimpleNamespace(args=SimpleNamespace(resume=False), save_dir=tmp_path)
    for address, printed in (("http://host", None), ("http://me:pa55w0rd@host", "true")):
        monkeypatch.setenv(quiet, "")
        monkeypatch.delenv(quiet)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        begin(trainer, lambda _: None)
        assert os.environ.get(quiet) == printed


# Trackers that fail.


class Failing:
    """A callback of a tracker of upstream's, or of somebody else; notes how long it may take."""

    def __init__(self, module: str) -> None:
        self.__module__ = module
        self.limits: list[float | None] = []

    def __call__(self, trainer: Any) -> None:
        supervisor = getattr(trainer, "supervisor", None)
        self.limits.append(supervisor.heartbeat.limit if supervisor else None)
        raise ConnectionError("https://me:secret-key@host/api is gone")


@pytest.mark.parametrize("make", [lambda: yolodata.DetectionTrainer, lambda: trainer_for("detect")])
def test_a_tracker_that_fails_ends_no_training(
    make: Callable[[], Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    monkeypatch.setattr("ultralytics.utils.LOGGER.warning", lambda text, *_: said.append(str(text)))
    values = arguments(prepare(tmp_path), "fails", epochs=2, val=False)
    tracker = Failing("ultralytics.utils.callbacks.wb")
    done = train(make(), values, {"on_train_epoch_end": tracker})
    assert (done.save_dir / "results.csv").read_text().count("\n") == 3
    assert tracker.limits == [None]  # other ranks wait for it as long as it takes
    [warning] = [text for text in said if "failed" in text]
    assert "W&B" in warning
    assert "is gone" in warning
    assert "secret-key" not in warning
    other = Failing("callbacks_of_the_user")  # what is no tracker may end it
    with pytest.raises(ConnectionError):
        train(make(), {**values, "name": "other"}, {"on_train_epoch_end": other})
    assert other.limits == [300.0 if hasattr(done, "supervisor") else None]


def test_a_tracker_that_takes_no_manifest_gets_the_values_of_epochs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An MLflow server whose artifacts are out of reach."""
    said: list[str] = []
    monkeypatch.setattr("ultralytics.utils.LOGGER.warning", said.append)
    refuses = Failing("ultralytics.utils.callbacks.mlflow")
    monkeypatch.setitem(calls._TOLD, "MLflow", lambda trainer, _: refuses(trainer))
    RunManifest.of("none", {}, {}).write(tmp_path)
    trainer = SimpleNamespace(save_dir=tmp_path, callbacks={"on_fit_epoch_end": [refuses]})
    trackers = Trackers()
    trackers.run(trainer, "on_train_start")
    trackers.run(trainer, "on_fit_epoch_end")
    assert len(refuses.limits) == 2
    told, failed = said
    assert "MLflow does not take all of manifest.json" in told
    assert "secret-key" not in told
    assert "MLflow failed" in failed


def test_a_tracker_that_failed_is_still_ended() -> None:
    tracker = Failing("ultralytics.utils.callbacks.mlflow")
    events = ("on_train_epoch_end", "on_fit_epoch_end", "teardown")
    trainer = type("T", (), {"callbacks": {event: [tracker] for event in events}})()
    trackers = Trackers()
    for event in events:
        trackers.run(trainer, event)
    assert len(tracker.limits) == 2


@pytest.mark.parametrize("asked", [None, -60.0])
def test_a_tracker_that_hangs_keeps_no_process_that_was_asked_to_stop(
    asked: float | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its exit status says that it is to be started again; who kills it takes that away."""
    ended: Queue[int] = Queue()
    monkeypatch.setattr(signals.os, "_exit", ended.put)
    monkeypatch.setattr(signals, "LEAVE", 0.0 if asked is None else 30.0)
    monkeypatch.setattr(signals, "LEAST", 0.01)
    status = tmp_path / "status"
    status.touch()
    monkeypatch.setenv(STATUS, str(status))
    trainer = SimpleNamespace()
    if asked is not None:
        stop = SimpleNamespace(at=time.monotonic() + asked)
        trainer.supervisor = SimpleNamespace(stop=stop)

    def leave(error: BaseException) -> None:
        try:
            raise error
        finally:
            leave_in_time(trainer)

    with pytest.raises(KeyError):
        leave(KeyError("no stop"))
    time.sleep(0.05)
    assert ended.empty()
    with pytest.raises(Preempted):
        leave(Preempted("SIGTERM"))
    assert ended.get(timeout=60) == PREEMPTED
    assert status_left(status) == (PREEMPTED, "SIGTERM")


def test_yolodata_train_waits_for_trackers_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    noted: list[Any] = []
    model = SimpleNamespace(
        task="detect",
        add_callback=lambda *given: noted.append(given),
        train=lambda **given: noted.append(given["epochs"]),
    )
    monkeypatch.setattr("yolodata.ultralytics.command_line.open_model", lambda _: model)
    train_cli.train("yolo26n.yaml", {"epochs": 1}, {})
    assert noted == [("teardown", leave_in_time), 1]


def test_without_trackers_nothing_of_theirs_is_imported() -> None:
    code = "import sys, yolodata.train.trainer; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"mlflow", "wandb", "tensorboard"} & set(done.stdout.split())


def test_what_a_tracker_raises_is_told_in_a_line_without_acting_or_secrets() -> None:
    said = calls._said(ValueError("s3://k:secret@b \x1b[2J\nmore"))
    assert said == "ValueError: s3://***@b \\x1b[2J"


@pytest.mark.parametrize("run_id", ["\x1b[2J", "../../models", "a" * 300, [1], ""])
def test_no_run_of_mlflow_is_asked_for_by_any_text(tmp_path: Path, run_id: Any) -> None:
    """The file comes along with a run folder, from an upload URL too."""
    trainer = SimpleNamespace(args=SimpleNamespace(resume=True), save_dir=tmp_path)
    (tmp_path / MLFLOW_FILE).write_text(yaml.safe_dump({"run_id": run_id}))
    assert _kept_run(trainer) is None
    (tmp_path / MLFLOW_FILE).write_text("run_id: '0123abcd'\n")
    assert _kept_run(trainer) == "0123abcd"
