"""Records of training steps: what they say, that they survive, and who sees them."""

from __future__ import annotations

import csv
import gzip
import json
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loading import draw_dataset, packed
from slow_memory import slow_memory
from training import network
from twin import stand_in

import yolodata
from yolodata import _native
from yolodata.errors import ConfigError
from yolodata.shards import reader
from yolodata.telemetry import Telemetry
from yolodata.telemetry.attribution import attribute
from yolodata.telemetry.rows import Rows
from yolodata.telemetry.step_row import COLUMNS, StepRow, read_steps
from yolodata.telemetry.steps import StepRecorder
from yolodata.train.distributed.waits import GRADIENTS, LAG, LOSS, CollectiveWaits
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


def test_a_row_is_read_as_it_was_written(tmp_path: Path) -> None:
    rows = [StepRow(1, 1, 2.0, 3, 4.5, 0.125, 6.0, gpu_busy=0.5), StepRow(2, 1, *[3.0] * 23)]
    rows[1].images = 3
    file = tmp_path / "steps.csv"
    lines = [",".join(COLUMNS) + "\n", *(row.line() for row in rows)]
    file.write_text("".join(lines))
    assert list(read_steps(file)) == rows
    for damage in ("nan", "much"):
        file.write_text(lines[0] + lines[1].replace("4.500", damage) + lines[2] + lines[1][:9])
        assert list(read_steps(file)) == rows[1:]


def test_a_wait_is_split_by_what_the_loader_did(tmp_path: Path) -> None:
    def split(wait_ms: float, **seconds: float) -> dict[str, float | None]:
        row = StepRow(1, 1, 0, 4, 100.0, wait_ms, 40.0)
        attribute(row, seconds)
        names = ("storage", "decode", "plan", "render", "copy", "device_wait")
        return {name: getattr(row, f"{name}_ms") for name in names if getattr(row, f"{name}_ms")}

    # Of all threads together: more than the wait, or less.
    found = split(40.0, storage=0.3, decode=0.4, plan=0.02, collate=0.08, render=0.2, wait=0.04)
    assert found == pytest.approx({"storage": 12, "decode": 16, "plan": 4, "render": 8})
    assert split(40.0, render=0.01, transform=0.03) == {"render": 40.0}
    assert split(0.0, storage=0.3, decode=0.4) == {}
    assert split(40.0) == split(40.0, plan=0.0) == {}
    found = split(10.0, plan=0.01, device_wait=0.02, copy=0.003, kernel=0.001)
    assert found == pytest.approx({"plan": 10, "copy": 15, "render": 5, "device_wait": 20})


def test_parts_of_a_step_and_what_lay_between(tmp_path: Path) -> None:
    recorder = StepRecorder(tmp_path, device=CPU)
    recorder.between(0.5, 0.25)
    recorder.begin(0, 0)
    recorder.batch(4)
    assert recorder.enter("callbacks") == ""
    time.sleep(0.03)
    recorder.done()  # it is a callback itself: the rest of them is the next row's
    time.sleep(0.02)
    assert recorder.enter("save") == "callbacks"
    time.sleep(0.01)
    recorder.enter("")
    step(recorder)
    recorder.enter("callbacks")
    time.sleep(0.05)  # between epochs, which is no part of a step
    recorder.enter("")
    recorder.between(0.0, 0.0)
    recorder.begin(1, 2)
    step(recorder)
    recorder.close()
    first, second, third = read_steps(recorder.path)
    assert third.callbacks_ms <= third.step_ms < 50
    assert 30 <= first.callbacks_ms <= first.step_ms
    assert (first.validate_ms, first.save_ms) == (500, 250)
    assert 20 <= second.callbacks_ms <= second.step_ms - 10
    assert 10 <= second.save_ms <= second.step_ms - second.callbacks_ms
    assert (second.validate_ms, second.straggler_ms, second.copy_ms) == (0, None, None)


def test_what_is_known_later_is_in_the_row_of_its_step(tmp_path: Path) -> None:
    told: list[StepRow] = []
    recorder = StepRecorder(tmp_path, device=CPU, every=0.01, listeners=[told.append])
    recorder.hold = 3
    recorder.begin(0, 0)
    for number in range(1, 9):
        step(recorder)
        if number > 2:
            recorder.late(number - 2, 0.001 * number, 0.002 * number)
    deadline = time.monotonic() + 60
    while len(told) < 5 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert [row.step for row in told] == [1, 2, 3, 4, 5]
    recorder.close()
    found = list(read_steps(recorder.path))
    assert [row.all_reduce_ms for row in found] == [3, 4, 5, 6, 7, 8, None, None]
    assert [row.straggler_ms for row in found] == [6, 8, 10, 12, 14, 16, None, None]


def test_listeners_are_told_by_a_thread_and_may_fail(tmp_path: Path, caplog: Any) -> None:
    told: list[tuple[int, str]] = []

    def fail(row: StepRow) -> None:
        told.append((-row.step, ""))
        raise KeyError("port")

    def listen(row: StepRow) -> None:
        told.append((row.step, threading.current_thread().name))

    recorder = StepRecorder(tmp_path, device=CPU, listeners=[fail, listen])
    recorder.begin(0, 0)
    for _ in range(3):
        step(recorder)
    recorder.close()
    name = "yolodata-telemetry"
    assert told == [(-1, ""), (1, name), (2, name), (3, name)]
    assert caplog.text.count("a listener of steps.csv failed") == 1


class _Clock:
    """Moments that a test sets; those of the last `behind` steps have not come yet."""

    def __init__(self) -> None:
        self.time, self.reached = 0.0, 1e9

    def now(self) -> float:
        return self.time

    def seconds(self, begun: float, ended: float) -> float | None:
        return ended - begun if ended <= self.reached else None


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_the_last_rank_waits_for_the_transfer_alone(data: st.DataObject) -> None:
    """Two collectives a step that end on all ranks at once; each rank says what it waited for."""
    ranks, on_gpu = data.draw(st.integers(2, 4)), data.draw(st.booleans())
    device = torch.device("cuda", 0) if on_gpu else CPU
    clocks = [_Clock() for _ in range(ranks)]
    waits = [CollectiveWaits(device, clock) for clock in clocks]
    lateness = st.lists(st.integers(0, 50), min_size=ranks, max_size=ranks)
    expected: dict[int, tuple[float, list[float]]] = {}
    for number in range(1, 9):
        transfer, late = 0.0, [0.0] * ranks
        for kind, cost in ((LOSS, 0.001), (GRADIENTS, 0.004)):
            arrivals = [1e-3 * ms for ms in data.draw(lateness)]
            start = max(clock.time for clock in clocks)
            end = start + max(arrivals) + cost
            transfer += cost
            for rank, (clock, arrival) in enumerate(zip(clocks, arrivals, strict=True)):
                late[rank] += max(arrivals) - arrival
                if kind == LOSS:
                    waits[rank].begin()
                clock.time = start + arrival
                with waits[rank].of(kind):
                    clock.time = end
        expected[number] = transfer, late
        offers = [wait.offer(number) for wait in waits]
        largest = [max(values) for values in zip(*offers, strict=True)]
        for rank, wait in enumerate(waits):
            found = wait.settle(largest)
            if number <= wait.lag:
                assert found is None
                continue
            step, reduce, straggler = found
            assert step == number - (LAG if on_gpu else 0)
            assert reduce == pytest.approx(expected[step][0], abs=1e-5)
            assert straggler == pytest.approx(expected[step][1][rank], abs=1e-5)
    clocks[0].reached = 0.0  # a GPU that is too far behind: nobody waits, and nobody guesses
    for wait, clock in zip(waits, clocks, strict=True):
        wait.begin()
        with wait.of(LOSS):
            clock.time += 1
        wait.lag = 0
    largest = [max(values) for values in zip(*(wait.offer(9) for wait in waits), strict=True)]
    assert [wait.settle(largest) for wait in waits] == [None] * ranks


def test_what_ranks_wait_for_between_epochs_is_no_steps() -> None:
    """What they agree on after a step is part of the next one, unless an epoch ends there."""
    clock = _Clock()
    waits, weights = CollectiveWaits(CPU, clock), []
    for step in range(4):
        if step == 2:
            waits.begin_epoch()
        waits.begin()
        offer = waits.offer(step)
        with waits.agreeing():
            time.sleep(0.02)
        weights.append(waits.settle(offer)[1])
    assert weights[0] == weights[2] == 0
    assert min(weights[1], weights[3]) >= 0.02

    on_gpu = CollectiveWaits(torch.device("cuda", 0), clock)  # known some steps later, or never
    found = []
    for step in range(1, 2 * LAG + 3):
        if step == LAG + 2:
            on_gpu.begin_epoch()
        on_gpu.begin()
        found.append(on_gpu.settle(on_gpu.offer(step)))
    assert [step and step[0] for step in found] == [None] * LAG + [1] + [None] * LAG + [LAG + 2]


def test_the_backward_pass_says_when_its_own_part_ends() -> None:
    """Before what was queued by others while it went on, as DistributedDataParallel does."""
    seen: list[str] = []

    class Clock(_Clock):
        def now(self) -> float:
            seen.append("moment")
            return 0.0

    def late(gradient: torch.Tensor) -> None:
        seen.append("last gradient")
        engine: Any = torch.autograd.Variable._execution_engine
        engine.queue_callback(lambda: seen.append("others"))

    waits, weight = CollectiveWaits(CPU, Clock()), torch.ones(3, requires_grad=True)
    weight.register_hook(late)
    loss = (weight * 2).sum()
    waits.begin()
    waits.watch(loss)
    loss.backward()
    waits.summed()
    assert seen == ["last gradient", "moment", "others", "moment"]
    assert weight.grad is not None
    assert weight.grad.tolist() == [2.0] * 3


def test_only_waiting_for_pages_is_storage() -> None:
    late, there = slow_memory(40_000, 0.05), np.zeros(1 << 22, np.uint8)
    # Less what it computes meanwhile, and by another clock than the one that sleeps.
    assert 0.04 <= 1e-9 * _native.wait_for_pages(late) < 5
    others = [subprocess.Popen(["sh", "-c", "while :; do :; done"]) for _ in range(2)]
    try:
        waited = [_native.wait_for_pages(there) for _ in range(200)]
    finally:
        for other in others:
            other.kill()
            other.wait()
    # It gives its processor away to others, or not at all; that is no storage.
    assert np.median(waited) == 0
    assert _native.wait_for_pages(there[:0]) == 0


def test_the_loader_tells_how_long_it_waits_for_storage(tmp_path: Path) -> None:
    """Pixels that come late, as those of a mapped file may; then the same ones, which are there."""
    yaml = draw_dataset(tmp_path / "set", {"train": 16, "val": 1})
    folder = packed(yaml, tmp_path / "shards", "raw", 64)
    with yolodata.Loader(folder, 4, split="train", reading=yolodata.ReadOptions(2)) as loader:
        backend: Any = loader._open_backend()
        late = slow_memory(backend._maps[0].nbytes, 0.1)
        backend._base[:] = late.ctypes.data
        found = []
        for _ in range(2):
            before = loader.telemetry.read()
            list(loader)
            found.append(loader.telemetry.read().since(before).seconds)
    assert 0.1 <= found[0]["storage"] < 5
    assert found[1]["storage"] < 0.02
    for seconds in found:
        assert 0 < seconds["render"] < 5


@pytest.mark.parametrize("mapped", [True, False])
def test_decoding_is_no_storage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mapped: bool
) -> None:
    """What is read before an image is decoded, be it from a map or by calls."""
    yaml = draw_dataset(tmp_path / "set", {"train": 16, "val": 1})
    folder = packed(yaml, tmp_path / "shards", "jpeg", 64)
    sample = reader.ShardDataset.sample

    def late(self: Any, image: int) -> Any:
        if not mapped:
            time.sleep(0.01)
        return sample(self, image)

    if mapped:
        monkeypatch.setattr(_native, "wait_for_pages", lambda bytes: 10_000_000)
    monkeypatch.setattr(reader.ShardDataset, "sample", late)
    shards = reader.ShardDataset(folder / "train", io="mmap" if mapped else "pread")
    with yolodata.Loader(shards, 4, reading=yolodata.ReadOptions(2)) as loader:
        list(loader)
        found = loader.telemetry.read()
    waited = 0.010 * found.counts["decodes"]
    assert waited * 0.9 <= found.seconds["storage"] < waited + 5
    if mapped:  # what was said to be waiting is no decoding
        monkeypatch.undo()
        with yolodata.Loader(shards, 4, reading=yolodata.ReadOptions(2)) as loader:
            list(loader)
        decoding = loader.telemetry.read().seconds["decode"]
        assert decoding - found.seconds["decode"] == pytest.approx(waited, rel=0.9)


def test_what_a_device_does_is_counted_without_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(monkeypatch)
    folder = packed(
        draw_dataset(tmp_path / "set", {"train": 16, "val": 1}), tmp_path / "s", "raw", 64
    )
    with yolodata.Loader(folder, 4, split="train", device="cuda") as loader:
        list(loader)
        found = loader.telemetry.read().seconds
    # The twin needs a millisecond for each thing that it does: a copy and a kernel each batch.
    assert found["copy"] == pytest.approx(0.004, abs=2e-3)
    assert found["kernel"] == pytest.approx(0.004, abs=2e-3)
    assert 0 <= found["device_wait"] <= 0.02
    assert "storage" not in found  # the images are on the device


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
    from yolodata.ultralytics.trackers.calls import Trackers

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
    monkeypatch.setattr(Trackers, "tell", lambda self, trainer: None)  # these are none of its own
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
    traced = kind.configure(profile="5-6")
    YOLO(tmp_path / "cut" / "weights" / "last.pt").train(trainer=traced, resume=True)
    found = rows(file)
    assert [int(row["step"]) for row in found] == [1, 2, 3, 4, 5, 6]
    assert found[:3] == cut[:3]
    assert found[3] != cut[3]  # the second epoch began anew
    trace = json.loads(gzip.decompress((file.parent / "profile.rank0.json.gz").read_bytes()))
    names = [event["name"] for event in trace["traceEvents"] if event.get("ph") == "X"]
    steps = [name for name in names if "step " in name]
    assert sorted(steps) == [
        "step 5",
        "step 6",
        *(f"waiting for the batch of step {n}" for n in (5, 6)),
    ]
    assert any("convolution_backward" in name for name in names)


@pytest.mark.parametrize(
    "given", ["6-5", "0-3", "1-101", "a", "-5", "1-2-3", "1.5", True, 0, "", "1 - 2"]
)
def test_steps_to_profile_that_are_none(given: Any) -> None:
    with pytest.raises(ConfigError, match="profile must be steps as FIRST-LAST"):
        Settings(profile=given)


def test_steps_to_profile_that_the_run_does_not_have(tmp_path: Path, drawn: Path) -> None:
    from ultralytics import YOLO

    kind = yolodata.DetectionTrainer.configure(profile=7)
    with pytest.raises(
        ConfigError, match="steps from 1 to 6, which 2 epochs of 3 batches are, got 7-"
    ):
        YOLO(network()).train(data=str(drawn), trainer=kind, project=str(tmp_path), **QUIET)


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


def test_telemetry_counts_from_any_thread() -> None:
    telemetry = Telemetry()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: (telemetry.add("a", 0.5), telemetry.count("n")), range(1000)))
    before = telemetry.read()
    assert before.seconds == {"a": 500.0}
    assert before.counts == {"n": 1000}
    with pytest.raises(ValueError, match="inside"), telemetry.time("b"):
        raise ValueError("inside")
    added = telemetry.read().since(before)
    assert added.counts == {"n": 0}
    assert added.seconds["a"] == 0.0
    assert 0 <= added.seconds["b"] < 1
    assert before.milliseconds_each(1000) == {"a": 500.0}
