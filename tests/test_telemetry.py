"""Records of training steps: what they say, that they survive, and who sees them."""

from __future__ import annotations

import csv
import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loading import draw_dataset
from training import network

import yolodata
from yolodata.errors import ConfigError
from yolodata.telemetry import Telemetry
from yolodata.telemetry.rows import Rows
from yolodata.telemetry.step_row import COLUMNS
from yolodata.telemetry.steps import StepRecorder
from yolodata.ultralytics.settings import Settings

CPU = torch.device("cpu")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def step(recorder: StepRecorder, wait: float = 0.0, work: float = 0.0) -> None:
    time.sleep(wait)
    recorder.batch(4)
    time.sleep(work)
    recorder.done()


def test_a_row_says_where_the_time_went(tmp_path: Path) -> None:
    recorder = StepRecorder(tmp_path / "run", device=CPU)
    recorder.begin(0, 0)
    step(recorder, wait=0.03, work=0.01)
    step(recorder, wait=0.0, work=0.02)
    assert "img/s" in recorder.summary()
    assert "GPU" not in recorder.summary()
    values = recorder.take()
    recorder.close()
    first, second = rows(recorder.path)
    assert tuple(first) == COLUMNS
    assert [first["step"], second["step"]] == ["1", "2"]
    assert (first["epoch"], first["images"]) == ("1", "4")
    assert float(first["step_ms"]) >= 40
    assert 30 <= float(first["wait_ms"]) <= float(first["step_ms"]) - 10
    assert float(second["wait_ms"]) <= float(second["step_ms"]) - 20
    assert float(first["images_s"]) == pytest.approx(4e3 / float(first["step_ms"]), rel=0.01)
    assert abs(float(second["time"]) - time.time()) < 60
    assert (first["hit_share"], first["gpu_busy"], first["device_mib"]) == ("", "", "")
    assert 10 < float(first["private_mib"]) <= float(first["rss_mib"])
    total = float(first["step_ms"]) + float(second["step_ms"])
    assert values["telemetry/step_ms"] == pytest.approx(total / 2, rel=1e-3)
    assert values["telemetry/images_s"] == pytest.approx(8e3 / total, rel=1e-3)
    assert recorder.take() == {}


def test_the_counters_of_a_loader_are_taken_over(tmp_path: Path) -> None:
    counters = Telemetry()
    counters.count("samples", 100)  # of batches before this run
    recorder = StepRecorder(tmp_path, device=CPU, counters=counters)
    recorder.begin(2, 10)
    for hits, decodes in ((3, 1), (0, 0)):
        counters.add("wait", 0.5)
        counters.add("collate", 9.0)  # of other threads
        counters.add("decode", 9.0)
        counters.count("samples", 6)
        counters.count("hits", hits)
        counters.count("decodes", decodes)
        step(recorder)
    recorder.close()
    first, second = rows(recorder.path)
    assert (first["step"], first["epoch"], first["images"]) == ("11", "3", "6")
    assert (first["wait_ms"], first["hit_share"]) == ("500.000", "0.7500")
    assert (second["wait_ms"], second["hit_share"]) == ("500.000", "")


def test_gpu_levels_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = types.ModuleType("pynvml")
    library.nvmlInit = lambda: None
    library.nvmlDeviceGetHandleByUUID = lambda uuid: uuid
    library.nvmlDeviceGetUtilizationRates = lambda handle: types.SimpleNamespace(
        gpu={"GPU-12": 97}[handle]
    )
    monkeypatch.setitem(sys.modules, "pynvml", library)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: types.SimpleNamespace(uuid="12")
    )
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3 << 30)
    recorder = StepRecorder(tmp_path, device=torch.device("cuda", 0), rank=3)
    recorder.begin(0, 0)
    step(recorder)
    assert "GPU 97% busy" in recorder.summary()
    values = recorder.take()
    assert (values["telemetry/gpu_busy"], values["telemetry/device_mib"]) == (0.97, 3072)
    recorder.close()
    assert recorder.path.name == "steps.rank3.csv"
    [row] = rows(recorder.path)
    assert (row["gpu_busy"], row["device_mib"]) == ("0.97", "3072")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_whatever_was_cut_off_a_resumed_file_has_every_step_once(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("rows") / "steps.csv"
    written = data.draw(st.integers(0, 12))
    run = Rows(path, COLUMNS)
    run.keep(0)
    run.append("".join(f"{n}," + "1," * (len(COLUMNS) - 2) + "1\n" for n in range(1, written + 1)))
    run.close()
    path.write_bytes(path.read_bytes()[: data.draw(st.integers(0, path.stat().st_size))])
    whole = path.read_bytes().count(b"\n") - 1
    last = data.draw(st.integers(0, max(whole, 0)))  # a checkpoint is older than the last row
    again = Rows(path, COLUMNS)
    again.keep(last)
    again.append("".join(f"{n}," + "2," * (len(COLUMNS) - 2) + "2\n" for n in range(last + 1, 15)))
    again.close()
    found = rows(path)
    assert [int(row["step"]) for row in found] == list(range(1, 15))
    assert [row["epoch"] for row in found] == ["1"] * last + ["2"] * (14 - last)


def test_a_file_of_another_version_is_kept(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "steps.csv").write_text("step,loss\n1,2\n")
    for _ in range(2):  # the second time it is our own
        recorder = StepRecorder(tmp_path, device=CPU)
        recorder.begin(0, 0)
        step(recorder)
        recorder.close()
    assert (tmp_path / "steps.1.csv").read_text() == "step,loss\n1,2\n"
    assert len(rows(tmp_path / "steps.csv")) == 1
    assert caplog.text.count("other columns") == 1
    assert len(list(tmp_path.iterdir())) == 2


def test_rows_are_on_disk_while_training_goes_on(tmp_path: Path) -> None:
    recorder = StepRecorder(tmp_path, device=CPU, every=0.01)
    recorder.begin(0, 0)
    threads = [t for t in threading.enumerate() if t.name == "yolodata-telemetry"]
    assert len(threads) == 1
    for _ in range(200):  # against the thread that writes
        step(recorder)
    deadline = time.monotonic() + 60
    while len(rows(recorder.path)) < 200 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [int(row["step"]) for row in rows(recorder.path)] == list(range(1, 201))
    recorder.close()
    recorder.close()
    assert not threads[0].is_alive()


def test_a_full_disk_does_not_end_training(tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    recorder = StepRecorder(tmp_path / "run", device=CPU)
    recorder.begin(0, 0)
    step(recorder)
    recorder.close()
    assert caplog.text.count("rows are lost") == 1


# In Ultralytics' trainer.

QUIET = {
    "imgsz": 64, "batch": 4, "device": "cpu", "amp": False, "plots": False, "verbose": False,
    "workers": 0, "exist_ok": True, "optimizer": "SGD", "warmup_epochs": 0.0, "epochs": 2,
}  # fmt: skip


@pytest.fixture
def drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    try:
        import torchvision  # noqa: F401
    except Exception:  # upstream's validator imports it and does not use it here
        monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    return draw_dataset(tmp_path / "set", {"train": 10, "val": 4})


def test_a_run_is_recorded_and_the_loggers_are_told(
    tmp_path: Path, drawn: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics import YOLO
    from ultralytics.utils.callbacks import mlflow, tensorboard, wb

    from yolodata.ultralytics import telemetry as watching

    logged: dict[str, list[tuple[str, int]]] = {"tensorboard": [], "wandb": [], "mlflow": []}

    class Writer:
        def add_scalar(self, name: str, value: float, at: int) -> None:
            logged["tensorboard"].append((name, at))

        def close(self) -> None: ...

    def log_wandb(values: dict[str, Any], commit: bool) -> None:
        logged["wandb"].extend((name, values.get("epoch", 0)) for name in values)

    def log_mlflow(metrics: dict[str, float], step: int) -> None:
        logged["mlflow"].extend((name, step + 1) for name in metrics)

    monkeypatch.setattr(tensorboard, "WRITER", Writer(), raising=False)
    monkeypatch.setattr(wb, "wb", types.SimpleNamespace(run=types.SimpleNamespace(log=log_wandb)))
    monkeypatch.setattr(wb, "model_info_for_loggers", lambda trainer: {})
    monkeypatch.setattr(mlflow, "mlflow", types.SimpleNamespace(log_metrics=log_mlflow))
    model = YOLO(network())
    model.add_callback("on_train_start", lambda trainer: setattr(trainer, "_mlflow_active", True))
    # As Ultralytics does for the loggers that are installed.
    monkeypatch.setattr(
        "ultralytics.utils.callbacks.add_integration_callbacks",
        lambda trainer: [
            trainer.add_callback("on_fit_epoch_end", logger.on_fit_epoch_end)
            for logger in (tensorboard, wb, mlflow)
        ],
    )
    places = {"data": str(drawn), "project": str(tmp_path), **QUIET}
    said: list[str] = []
    with monkeypatch.context() as patched:
        patched.setattr(watching.LOGGER, "info", lambda text="", *_: said.append(str(text)))
        model.train(trainer=yolodata.DetectionTrainer, name="a", **places)
    trainer = model.trainer
    found = rows(trainer.save_dir / "steps.csv")
    assert [int(row["step"]) for row in found] == [1, 2, 3, 4, 5, 6]
    assert [int(row["epoch"]) for row in found] == [1, 1, 1, 2, 2, 2]
    assert [int(row["images"]) for row in found] == [4, 4, 2, 4, 4, 2]
    assert all(0 <= float(row["wait_ms"]) < float(row["step_ms"]) for row in found)
    assert sum("img/s, " in text for text in said) == 2  # after each epoch
    names = {"step_ms", "wait_share", "images_s", "rss_mib"}
    for logger, values in logged.items():
        for epoch in (1, 2):
            told = [name for name, at in values if at == epoch and name.startswith("telemetry/")]
            assert sorted(told) == sorted(f"telemetry/{name}" for name in names), logger
    assert not [t for t in threading.enumerate() if t.name == "yolodata-telemetry"]

    # Upstream's files are what they are without.
    head = (trainer.save_dir / "results.csv").read_text().splitlines()[0]
    assert "telemetry" not in head
    assert not [name for name in trainer.metrics if name.startswith("telemetry")]
    kept = torch.load(trainer.last, weights_only=False)["train_metrics"]
    assert not [name for name in kept if name.startswith("telemetry")]

    # The model trains again, and only the new run is recorded; or nothing is.
    model.train(trainer=yolodata.DetectionTrainer, name="b", **{**places, "epochs": 1})
    assert len(rows(tmp_path / "b" / "steps.csv")) == 3
    assert len(rows(tmp_path / "a" / "steps.csv")) == 6
    off = yolodata.DetectionTrainer.configure(telemetry=False)
    overrides = {"model": network(), "name": "c", "task": "detect", **places}
    assert "StepWatcher" not in str(off(overrides=overrides).callbacks)
    assert "StepWatcher" in str(yolodata.DetectionTrainer(overrides=overrides).callbacks)
    with pytest.raises(ConfigError, match="telemetry must be True or False, got 1"):
        Settings(telemetry=1)  # type: ignore[arg-type]


def test_a_resumed_run_has_every_step_once(tmp_path: Path, drawn: Path) -> None:
    from ultralytics import YOLO

    def power_cut(trainer: Any) -> None:
        if trainer.epoch == 1 and len(seen) == 5:
            raise KeyboardInterrupt
        seen.append(trainer.epoch)

    seen: list[int] = []
    model = YOLO(network())
    model.add_callback("on_train_batch_start", power_cut)
    kind = yolodata.DetectionTrainer
    with pytest.raises(KeyboardInterrupt):
        model.train(data=str(drawn), trainer=kind, project=str(tmp_path), name="cut", **QUIET)
    file = tmp_path / "cut" / "steps.csv"
    cut = rows(file)
    assert [int(row["step"]) for row in cut] == [1, 2, 3, 4, 5]
    YOLO(tmp_path / "cut" / "weights" / "last.pt").train(trainer=kind, resume=True)
    found = rows(file)
    assert [int(row["step"]) for row in found] == [1, 2, 3, 4, 5, 6]
    assert found[:3] == cut[:3]
    assert found[3] != cut[3]  # the second epoch began anew


def test_a_trainer_of_ultralytics_is_recorded_too(tmp_path: Path, drawn: Path) -> None:
    from ultralytics import YOLO
    from ultralytics.models.yolo.detect import DetectionTrainer

    from yolodata.ultralytics.telemetry import attach

    class Recorded(DetectionTrainer):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            attach(self)

    YOLO(network()).train(
        data=str(drawn), trainer=Recorded, project=str(tmp_path), name="a", **{**QUIET, "epochs": 1}
    )
    found = rows(tmp_path / "a" / "steps.csv")
    assert [int(row["step"]) for row in found] == [1, 2, 3]
    assert all(0 < float(row["wait_ms"]) < float(row["step_ms"]) for row in found)
