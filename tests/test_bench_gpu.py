"""The benchmark's rows on a GPU, on machines that need not have one, and training steps."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from training import network

from yolodata.bench import (
    data,
    kernel,
    profiling,
    report,
    results,
    rounds,
    rows,
    server,
)
from yolodata.bench.burst import Pace
from yolodata.bench.ceilings import DeviceCopy
from yolodata.bench.gpu_utilisation import UtilisationMeter
from yolodata.bench.kernel import Kernel, mean_source_bytes, source_bytes
from yolodata.bench.registry import IN_TRAINER, KINDS, make
from yolodata.bench.rows import default_cores, train_rows
from yolodata.bench.subject import Batch, Row, Sample, Subject, Task
from yolodata.errors import ConfigError
from yolodata.machine import usable_cores
from yolodata.telemetry import nvml

pytestmark = pytest.mark.early

ROOT = Path(__file__).resolve().parent.parent
GPU = {"name": "NVIDIA Fiction", "memory_gib": 80.0, "capability": "9.0", "l2_mib": 50.0,
       "count": 1, "driver": "600.1", "cuda": "13.0"}  # fmt: skip


# Which rows there are.


@pytest.mark.parametrize("cores", [1, 2, 16])
def test_a_gpu_adds_rows_and_changes_none(cores: int) -> None:
    without, with_gpu = rows.loader_rows(cores), rows.loader_rows(cores, on_gpu=True)
    assert with_gpu[: len(without)] == without
    added = with_gpu[len(without) :]
    assert added
    assert all(row.device == "cuda" and row.id.startswith("gpu-") for row in added)
    assert len({row.id for row in with_gpu}) == len(with_gpu)
    assert len({row.group for row in added}) == 1  # one run, so that shares are of neighbours
    ids = {row.id: row for row in added}
    for row in added:
        assert row.kind in KINDS
        assert all(ids[peer].cores == row.cores for peer in row.peers)
        assert not row.ceiling or row.ceiling in ids
    first = [row.id for row in added]
    assert first.index("gpu-copy-device") < first.index("gpu-kernel-uint8")
    assert {row.cores for row in added} == {cores, min(cores, 2)}


def test_batches_on_a_gpu_come_from_the_longer_dataset() -> None:
    sources = {row.id: row.source for row in rows.gpu_rows(4)}
    assert sources["gpu-ultralytics-ram-4"] == "ram-many"
    assert sources["gpu-yolodata-raw-host-2"] == "raw-many"
    assert sources["gpu-yolodata-jpeg-none-4"] == "jpeg"
    assert sources["gpu-kernel-uint8"] == "raw"
    found = [row.source for row in rows.loader_rows(1)]
    assert found[:5] == ["files", "ram", "jpeg", "raw", "memory"]
    assert found[5:] == [f"{name}-polygons" for name in found[:4]]


def test_a_row_has_albumentations(albumentations, shards: Path) -> None:
    """Where it is installed; its loader makes the pictures of the row beside it, but for some."""
    made = []
    for name in ("raw-device", "raw-device-albumentations"):
        row = replace(row_of(f"gpu-yolodata-{name}-2"), device="cpu")
        subject = make(row, Task(shards, 64, 4, 0))
        pictures = [batch["img"].clone() for batch in itertools.islice(subject.batches, 30)]
        made.append(torch.cat(pictures))
        subject.close()
    other = (made[0] != made[1]).flatten(1).any(1)
    assert 0 < other.sum() < 30


def test_what_trains() -> None:
    assert default_cores(16, "cuda") == [16, 2]
    assert default_cores(2, "cuda") == [2]
    assert default_cores(16, "cpu") == [16]
    found = train_rows([16, 2, 16], "cuda")
    assert [row.cores for row in found] == [16] * 5 + [2] * 4
    workers = {row.id: row.threads for row in found if row.kind == "ultralytics"}
    assert workers == {"ultralytics-16": 16, "ultralytics-default-16": 8, "ultralytics-2": 2}
    assert len({row.id for row in found}) == len(found)
    for row in found:
        assert row.kind in IN_TRAINER
        assert row.peers == (() if row.kind == "fixed" else (f"fixed-{row.cores}",))
    assert [row.source for row in found[:4]] == ["raw-many", "raw-many", "jpeg", "files"]


# What they measure, on the CPU, where figures mean nothing but everything else is the same.


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("gpu") / "keep"
    wanted = data.Wanted(None, 4, 12, 64, seed=0)
    made = data.prepare(wanted, folder, {"raw", "raw-many", "ram-many"}, lambda _: None)
    assert made.by_codec["raw-many"] != made.by_codec["raw"]
    assert made.by_codec["ram-many"] == folder / "long" / "data.yaml"
    return made.by_codec["raw"]


def row_of(name: str) -> Row:
    return next(row for row in rows.gpu_rows(2) if row.id == name)


@pytest.mark.parametrize(
    "name", ["gpu-copy-device", "gpu-copy-host", "gpu-copy-map", "gpu-kernel-float16"]
)
def test_bursts_are_timed_by_their_own_clock(name: str, shards: Path) -> None:
    task = Task(shards, 64, 2 if name == "gpu-copy-map" else 4, 0)  # its shard is small
    subject = make(row_of(name), task)
    assert server._warm(subject, 8)["shape"] == (3, 64, 64)
    assert subject.facts()["bytes_each"] >= 3 * 64 * 64
    bursts, sample = measured_for(subject, 0.03)
    assert sample.pictures == sum(len(b["img"]) * b["repeats"] for b in bursts)
    assert sample.seconds == sum(burst["seconds"] for burst in bursts)
    subject.close()


def measured_for(subject: Subject, seconds: float) -> tuple[list[Batch], Sample]:
    batches, taken = server.measure(subject, seconds), []
    while True:
        try:
            taken.append(next(batches))
        except StopIteration as end:
            return taken, end.value


def test_copies_count_what_they_move() -> None:
    task = Task(None, 64, 2, 0)
    device, host = (
        DeviceCopy(row_of(name), task).facts() for name in ("gpu-copy-device", "gpu-copy-host")
    )
    assert device["bytes_each"] == 2 * host["bytes_each"] == 2 * 3 * 64 * 64


def test_a_kernel_that_makes_other_pictures_is_not_timed(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = Kernel.once
    monkeypatch.setattr(Kernel, "once", lambda self: right(self).flip(0))
    with pytest.raises(ConfigError, match="not the CPU renderer's"):
        make(row_of("gpu-kernel-uint8"), Task(shards, 64, 4, 0))


@pytest.mark.parametrize("name", kernel.RECIPES)
def test_the_kernel_is_timed_with_every_kind_of_recipe(
    name: str, shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes other steps then: see Note [windows] in csrc/render/source_window.h."""
    checked: list[Any] = []
    compare = Kernel._compare
    monkeypatch.setattr(
        Kernel,
        "_compare",
        lambda self, recipes, host: checked.extend(recipes) or compare(self, recipes, host),
    )
    row = row_of("gpu-kernel-segment" if name == "segment" else "gpu-kernel-rotated")
    make(replace(row, recipes=name), Task(shards, 64, 4, 0)).close()
    layers = [layer for made in checked for layer in made.to_dict()["layers"]]
    assert layers
    assert all((layer["matrix"][1] != 0) == (name == "rotated") for layer in layers)
    assert any(layer["paste"] for layer in layers) == (name == "segment")


@pytest.mark.parametrize("name", [r.id for r in rows.gpu_rows(2) if r.kind == "gpu-kernel"])
def test_every_kernel_row_first_equals_the_cpu(name: str, shards: Path) -> None:
    made = make(row_of(name), Task(shards, 64, 2, 0))
    picture = made.once()
    order = torch.channels_last if "last" in name else torch.contiguous_format
    assert picture.is_contiguous(memory_format=order)
    assert str(picture.dtype) == f"torch.{row_of(name).output}"
    made.close()


def test_decoding_alone(tmp_path: Path) -> None:
    pytest.importorskip("nvidia.dali")
    wanted = data.Wanted(None, 4, 4, 64, seed=0)
    made = data.prepare(wanted, tmp_path / "keep", {"jpeg"}, lambda _: None)
    subject = make(row_of("gpu-dali"), Task(made.by_codec["jpeg"], 64, 2, 0))
    assert measured_for(subject, 0.01)[1].pictures % 2 == 0
    subject.close()


def test_pace_needs_no_gpu() -> None:
    pace = Pace(torch.device("cpu"))
    pace.keep()
    pace.finish()


def recipe(**changes: Any) -> dict[str, Any]:
    tile = {"image": 0, "x0": 0, "y0": 0, "height": 64, "width": 64,
            "x1": 0, "y1": 0, "x2": 64, "y2": 64}  # fmt: skip
    layer = {"canvas": [64, 64], "tiles": [tile], "matrix": [1, 0, 0, 0, 1, 0, 0, 0, 1]}
    return {"size": [64, 64], "layers": [layer], "mixup": None, "cutmix": None, **changes}


def test_source_bytes() -> None:
    plain = recipe()
    whole = 3 * 64 * 64
    assert source_bytes(plain) == pytest.approx(whole)
    layer = plain["layers"][0]
    larger = {**layer, "matrix": [2, 0, 0, 0, 2, 0, 0, 0, 1]}
    assert source_bytes(recipe(layers=[larger])) == pytest.approx(whole / 4)
    smaller = {**layer, "matrix": [0.5, 0, 0, 0, 0.5, 0, 0, 0, 1]}
    assert source_bytes(recipe(layers=[smaller])) == pytest.approx(whole)
    aside = {**layer, "matrix": [1, 0, 32, 0, 1, 0, 0, 0, 1]}
    assert source_bytes(recipe(layers=[aside])) == pytest.approx(whole / 2)
    hidden = {**layer, "tiles": layer["tiles"] * 2}
    assert source_bytes(recipe(layers=[hidden])) == pytest.approx(whole)
    mixed = recipe(layers=[layer, layer], mixup={"layer": 1, "ratio": 0.5})
    assert source_bytes(mixed) == pytest.approx(2 * whole)
    cut = recipe(layers=[layer, layer], cutmix={"layer": 1, "area": [0, 0, 16, 64]})
    assert source_bytes(cut) == pytest.approx(whole)


def test_source_bytes_of_a_stream(shards: Path) -> None:
    from yolodata import AugmentConfig
    from yolodata.shards import reader

    found = mean_source_bytes(reader.open(shards), AugmentConfig(imgsz=64))
    assert 0.2 * 3 * 64 * 64 < found < 4 * 3 * 64 * 64


# What is said of it.


def measured(name: str, speeds: list[float], **facts: float) -> rounds.Measured:
    ready = {"shape": (3, 64, 64), "dtype": "uint8", "brightness": (100.0, 1.0), "objects": None,
             "pinned": True, "facts": facts}  # fmt: skip
    samples = [Sample(int(speed), 1.0, {"plan": 0.01}) for speed in speeds]
    return rounds.Measured(row_of(name), ready, samples)


@pytest.fixture
def canned() -> dict[str, Any]:
    found = [
        measured("gpu-copy-device", [1000, 2000], bytes_each=2.0),
        measured("gpu-kernel-uint8", [600, 1000], bytes_each=1.0),
        measured("gpu-dali", [100, 100]),
        measured("gpu-ultralytics-none-2", [10, 10]),
        measured("gpu-yolodata-jpeg-none-2", [90, 95]),
        rounds.Measured(row_of("gpu-yolodata-raw-host-2"), error="raw-host: no device"),
    ]
    begin = {
        "benchmark": "loader",
        "machine": {"cpu": "C", "cores_usable": 2, "cores_total": 2, "os": "O", "gpu": GPU},
        "versions": {"torch": "2"},
        "settings": {"imgsz": 64, "batch": 2, "rounds": 2, "seconds": 0.1},
    }
    return results.document(begin, {}, found)


def test_shares_of_a_ceiling_are_of_bytes_or_of_pictures(canned: dict[str, Any]) -> None:
    shares = {share["ours"]: share for share in canned["shares"]}
    assert shares["gpu-kernel-uint8"]["samples"] == [0.3, 0.25]
    assert shares["gpu-yolodata-jpeg-none-2"]["samples"] == [0.9, 0.95]
    by_name = {row["name"]: row for row in canned["rows"]}
    assert by_name["gpu-copy-device"]["gb_s"]["samples"] == [2e-6, 4e-6]
    assert canned["floor"] == []
    assert canned["ratios"][0]["samples"] == [9.0, 9.5]


def test_the_table_has_the_gpu(canned: dict[str, Any], tmp_path: Path) -> None:
    canned = json.loads(json.dumps(canned))  # as from a file
    text = report.text(canned)
    for words in ("NVIDIA Fiction: 80 GiB", "driver 600.1", "CUDA 13", "GPU, 2 cores",
                  "x no cache", "27.5% (25.0% to 30.0%)", "FAILED: raw-host: no device",
                  "device copy"):  # fmt: skip
        assert words in text
    assert "| GPU, 2 cores | img/s |" in report.markdown(canned)
    from yolodata.bench import plot

    plot.save(tmp_path / "bars.png", canned)
    assert (tmp_path / "bars.png").stat().st_size > 1000


class FakeNvml(types.ModuleType):
    """Two devices; the one that is asked for is busy half of the time."""

    def nvmlInit(self) -> None: ...

    def nvmlSystemGetDriverVersion(self) -> str:
        return "600.1"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> types.SimpleNamespace:
        assert handle == "GPU-1234"
        return types.SimpleNamespace(gpu=50)


def test_busy_share(monkeypatch: pytest.MonkeyPatch) -> None:
    here = UtilisationMeter(torch.device("cpu"))
    here.start()
    assert here.stop() is None
    assert "no GPU" in here.reason
    monkeypatch.setitem(sys.modules, "pynvml", None)
    absent = UtilisationMeter(torch.device("cuda"))
    absent.start()
    assert (absent.stop(), absent.reason) == (None, nvml.ABSENT)
    assert nvml.driver() is None
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml("pynvml"))
    monkeypatch.setattr(torch.cuda, "get_device_properties",
                        lambda device: types.SimpleNamespace(uuid="1234"))  # fmt: skip
    assert nvml.driver() == "600.1"
    meter = UtilisationMeter(torch.device("cuda"))
    assert meter.reason == ""
    meter.start()
    assert meter.stop() == 0.5
    assert meter.stop() is None


def test_pinning_takes_workers_along() -> None:

    if not hasattr(os, "sched_setaffinity"):
        pytest.skip("no affinity here")
    one = usable_cores()[-1]
    code = (
        "import os, subprocess, sys; from yolodata.bench import cores; os.setsid(); "
        "p = subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE); "
        f"cores.pin(({one},)); print(os.sched_getaffinity(p.pid)); p.kill()"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == f"{{{one}}}", done.stderr


def test_workers_rest_while_it_is_not_their_turn() -> None:
    stat = Path("/proc/self/stat")
    if not stat.exists():
        pytest.skip("no /proc here")
    worker = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    subject = Subject(iter([{"img": []}]), workers=lambda: [worker])
    (row,) = (row for row in train_rows([1], "cpu") if row.kind == "ultralytics")
    parent: Any = types.SimpleNamespace()
    here = server.Server(parent, [(row, Task(None, 64, 2, 0))], lambda *_: subject)
    here.open(row.id)

    def state() -> str:
        return Path(f"/proc/{worker.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def becomes(wanted: bool) -> None:
        end = time.monotonic() + 300
        while (state() == "T") != wanted:
            assert time.monotonic() < end
            time.sleep(0.01)

    with here._in_turn(row.id):
        becomes(False)
    becomes(True)
    here.close()
    becomes(False)
    worker.kill()
    worker.wait()
    with here._in_turn(row.id):  # it is gone: nothing to stop
        pass


# What is left of it when it is stopped.


@pytest.mark.parametrize(("ends", "status"), [("terminate", 143), ("kill", -9)])
def test_a_benchmark_that_is_stopped_keeps_its_rounds_and_leaves_nobody(
    tmp_path: Path, ends: str, status: int
) -> None:
    file = tmp_path / "out.json"
    process = subprocess.Popen(
        [sys.executable, "-m", "yolodata.bench", "--only", "copy-1", "--imgsz", "64",
         "--images", "16", "--seconds", "0.05", "--rounds", "1000", "--json", str(file)],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip

    def values() -> dict[str, Any]:
        return json.loads(file.read_text()) if file.exists() else {"rows": []}

    end = time.monotonic() + 300
    while not any(row["img_s"]["samples"] for row in values()["rows"]):
        assert time.monotonic() < end
        time.sleep(0.05)
    measuring = children(process.pid)
    assert measuring or sys.platform != "linux"
    for pid in measuring:
        os.kill(pid, signal.SIGSTOP)  # one that hangs, and notices nothing by itself
    getattr(process, ends)()
    assert process.wait(120) == status
    assert not values()["complete"]
    try:
        while any(Path(f"/proc/{pid}").exists() for pid in measuring):
            assert time.monotonic() < end
            time.sleep(0.05)
    finally:
        for pid in measuring:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def children(parent: int) -> list[int]:
    """Processes that one has started, but for Python's own that looks after resources."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            ours = int(stat.read_text().rpartition(")")[2].split()[1]) == parent
            if ours and b"spawn_main" in (stat.parent / "cmdline").read_bytes():
                found.append(int(stat.parent.name))
    return found


# Training steps, end to end.


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("train")
    arguments = ["train", "--device", "cpu", "--model", network(), "--imgsz", "64",
                 "--batch", "4", "--images", "4", "--many", "12", "--rounds", "1", "--steps", "2",
                 "--cores", "1", "--profile", "--json", str(out / "out.json"),
                 "--plot", str(out / "out.png")]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "yolodata.bench", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + done.stdout
    return {"text": done.stdout, "values": json.loads((out / "out.json").read_text()), "out": out}


def test_training_measures_every_feed(trained: dict[str, Any]) -> None:
    values = trained["values"]
    assert values["benchmark"] == "train"
    assert [row["name"] for row in values["rows"]] == [row.id for row in train_rows([1], "cpu")]
    for row in values["rows"]:
        assert len(row["steps_s"]["samples"]) == 1
        for img_s, steps_s in zip(row["img_s"]["samples"], row["steps_s"]["samples"], strict=True):
            assert img_s == pytest.approx(4 * steps_s)
        assert row["busy"]["median"] is None
        assert 0 <= row["wait_ms"]["median"] <= row["step_ms"]["median"]
        assert row["wait_ms"]["median"] < row["step_ms"]["median"]
        assert row["profile"]["steps"] == 2
        assert row["profile"]["gpu_idle"] is None
        assert any("conv" in name for name, *_ in row["profile"]["cpu_ops"])
    assert [ratio["peer"] for ratio in values["ratios"]] == ["fixed-1"] * 3
    (process,) = values["processes"]
    assert process["parameters"] > 1e4
    assert process["pinned"] == hasattr(os, "sched_setaffinity")
    assert not process["amp"]


def test_training_prints_a_table(trained: dict[str, Any]) -> None:
    for words in ("one core", "a batch that never changes", "x fixed batch", "GPU busy share: not",
                  "Ultralytics, no cache", "tiny-detect.yaml on cpu"):  # fmt: skip
        assert words in trained["text"]
    assert "| a batch that never changes |" in report.markdown(trained["values"])
    assert (trained["out"] / "out.png").stat().st_size > 1000


@pytest.mark.parametrize(("load", "varies"), [("auto", False), (0.0, False), (0.65, True)])
def test_the_table_says_where_pictures_vary(
    canned: dict[str, Any], load: Any, varies: bool
) -> None:
    canned["settings"]["hw_decoder_load"] = load
    for told in (report.text(canned), report.markdown(canned)):
        assert ("hw_decoder_load=0.65: pictures of JPEG shards may differ" in told) == varies


class Deadly:
    """A task that ends the process which is given it."""

    def __reduce__(self) -> Any:
        return os._exit, (1,)


@pytest.mark.parametrize(("task", "error"), [(Deadly(), "exit code 1"), (None, "AttributeError")])
def test_a_training_process_that_dies_takes_its_rows_along(
    task: Any, error: str, tmp_path: Path
) -> None:
    said: list[str] = []
    plan = rounds.Plan(rounds=1, steps=1)
    found = rounds.run(train_rows([1], "cpu"), lambda row: task, plan, tmp_path, said.append)
    assert all(f.ready is None for f in found)
    assert all(f.error and error in f.error for f in found)
    assert any("failed" in line for line in said)
    values = results.document(begin_of_training(), {}, found)
    text = report.text(json.loads(json.dumps(values)))
    assert text.count("FAILED: train-1") == 1
    assert "failed" in text


def begin_of_training() -> dict[str, Any]:
    return {
        "benchmark": "train",
        "machine": {"cpu": "C", "cores_usable": 1, "cores_total": 1, "os": "O"},
        "versions": {"torch": "2"},
        "settings": {"model": "m", "device": "cpu", "batch": 4, "imgsz": 64, "rounds": 1,
                     "steps": 1},
    }  # fmt: skip


class FakeTraining:
    """A training process whose feed of Ultralytics never starts."""

    closed = False

    def __init__(self, jobs: Any, folder: Path) -> None:
        self.name = jobs[0][0].process

    def ask(
        self, limit: float, what: str, name: str, seconds: float, steps: int = 0, late: str = ""
    ) -> Any:
        assert not self.closed
        if what == "slice":
            return Sample(4 * steps, 1.0, steps=steps)
        if "ultralytics" in name:
            raise rounds.BenchError(f"{self.name}: TimeoutError: did not start within 5 s")
        return {"objects": None, "facts": {}, "about": "", "process": {"amp": False}}

    def _ask_to_stop(self) -> None:
        FakeTraining.closed = True

    def _end(self, deadline: float) -> None: ...


def test_a_feed_that_does_not_start_takes_no_other_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds, "Session", FakeTraining)
    task: Any = None
    kept: list[list[int]] = []
    found = rounds.run(
        [row for row in train_rows([2], "cpu") if "jpeg" not in row.id], lambda row: task,
        rounds.Plan(rounds=2, steps=3, start_limit=5), tmp_path, lambda _: None,
        lambda found: kept.append([len(f.samples) for f in found]),
    )  # fmt: skip
    assert [len(f.samples) for f in found] == [2, 2, 0]
    assert "did not start within 5 s" in (found[2].error or "")
    assert kept[:3] == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]  # before it was started
    (process,) = results.document(begin_of_training(), {}, found)["processes"]
    assert process == {"cores": 2, "amp": False, "feeds": {"fixed-2": "", "yolodata-raw-2": ""}}


def test_a_server_goes_on_without_a_row() -> None:
    """One that takes too long to be made, and one that cannot be."""
    sent: list[Any] = []
    asked = [("start", "slow", 0.1), ("start", "broken", 9.0), ("start", "fine", 9.0), ("stop",)]
    parent: Any = types.SimpleNamespace(recv=lambda: asked.pop(0), send=sent.append)
    closed: list[str] = []

    def endless(name: str) -> Any:
        while name == "fine":
            yield {"img": np.zeros((2, 3, 4, 4), np.uint8)}
        raise ConfigError("no such picture")

    def make_one(row: Row, task: Task) -> Subject:
        if row.id == "slow":
            time.sleep(30)
        return Subject(endless(row.id), warm_up=2, close=lambda: closed.append(row.id))

    like = train_rows([2], "cpu")[0]
    jobs = [(replace(like, id=name), Task(None, 64, 2, 0)) for name in ("slow", "broken", "fine")]
    here = server.Server(parent, jobs, make_one)
    here.warm_steps = 1
    batches: list[Batch] = list(here)
    assert len(batches) == 1
    assert [status for status, _ in sent] == ["failed", "failed", "done"]
    assert "did not start within 0.1 s" in sent[0][1]
    assert "no such picture" in sent[1][1]
    assert closed == ["broken"]
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0.0


def event(name: str, cat: str, ts: float, dur: float, tid: int = 1, **args: Any) -> dict[str, Any]:
    return {"ph": "X", "pid": 1, "tid": tid, "name": name, "cat": cat, "ts": ts, "dur": dur,
            "args": args}  # fmt: skip


def test_a_trace_is_summed_up() -> None:
    trace = [
        {"ph": "M", "name": "process_name", "args": {}},
        event("yolodata.step", "user_annotation", 0, 1000),
        event("yolodata.step", "user_annotation", 1000, 1000),
        event("aten::add", "cpu_op", 1100, 40),
        event("aten::copy_", "cpu_op", 1110, 20),
        event("cudaLaunchKernel", "cuda_runtime", 1115, 5, correlation=7),
        event("aten::conv2d", "cpu_op", 1200, 100),
        event("cudaLaunchKernel", "cuda_runtime", 1250, 5, correlation=8),
        event("cudaLaunchKernel", "cuda_runtime", 1210, 5, tid=2, correlation=9),  # the loader's
        event("cudaLaunchKernel", "cuda_runtime", 1400, 5, correlation=10),  # after it
        event("nchwToNhwc", "kernel", 1300, 50, tid=7, correlation=7),
        event("conv", "kernel", 1350, 150, tid=7, correlation=8),
        event("render", "kernel", 1450, 150, tid=8, correlation=9),
        event("relu", "kernel", 1600, 100, tid=7, correlation=10),
        event("earlier", "kernel", -100, 50, tid=7, correlation=1),
    ]
    found = profiling.summary(trace)
    assert found["steps"] == 2
    assert found["step_ms"] == 1.0
    assert found["gpu_idle"] == pytest.approx(1 - 400 / 2000)  # overlaps count once
    assert found["launches"] == 2.0
    assert found["kernels"][0] == ["conv", 0.5, 0.075]
    assert found["before_first_convolution"] == [
        ["aten::copy_", "nchwToNhwc", 50.0],
        ["aten::conv2d", "conv", 150.0],
    ]
    with pytest.raises(ValueError, match="no step"):
        profiling.summary([])


def test_arrays_of_any_place_are_looked_at() -> None:
    assert server.on_host(torch.ones(2, dtype=torch.bfloat16)).dtype == np.float32
    assert server.on_host(np.ones(2, np.uint8)).dtype == np.uint8
    assert server.on_host(torch.ones(2, dtype=torch.uint8)).dtype == np.uint8
