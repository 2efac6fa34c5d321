"""The doctor's section on memory: what is counted, what is predicted, and what is said of it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from loading import draw_dataset
from training import network

from yolodata.doctor.data import described
from yolodata.doctor.examination import Examination, Outcome
from yolodata.doctor.memory import section
from yolodata.doctor.memory.batches import Batches, most_objects
from yolodata.doctor.memory.changes import Change, in_turns
from yolodata.doctor.memory.devices import CpuDevice, CudaDevice, OutOfMemory, go_through
from yolodata.doctor.memory.limit import Limit, host_limit
from yolodata.doctor.memory.loader import LoaderMemory
from yolodata.doctor.memory.peak import PeakModel, Reading, fit, fit_error, search_largest
from yolodata.doctor.memory.process import peak_of_process
from yolodata.doctor.memory.section import Section
from yolodata.doctor.memory.tensors import NewBytes, held_bytes, saved_for_backward
from yolodata.doctor.memory.verdicts import Measured, accumulated, judge, judge_host
from yolodata.doctor.sections import examine
from yolodata.doctor.setup import Setup
from yolodata.doctor.step import ModelStep

MIB = 1 << 20


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("memory")
    draw_dataset(folder, {"train": 12, "val": 4})
    return str(folder / "data.yaml")


def setup_of(data: str, **arguments: Any) -> Setup:
    given = {"model": network(), "imgsz": 64, "batch": 8, "device": "cpu", "workers": 0}
    return Setup(data, {**given, **arguments}, seconds=5)


# What is counted.


def test_bytes_of_new_tensors_are_counted_once_and_until_they_are_freed() -> None:
    before = torch.zeros(MIB, dtype=torch.uint8)
    with NewBytes() as new:
        first = torch.ones(MIB, dtype=torch.uint8)
        view = first[: MIB // 2].view(2, -1)
        before.add_(1)
        before.view(-1)
        assert (new.now, new.peak) == (MIB, MIB)
        second = first + 1
        del first
        assert (new.now, new.peak) == (2 * MIB, 2 * MIB), "a view keeps it"
        del view
        assert new.now == MIB
        third = torch.ones(MIB, dtype=torch.uint8)
        assert new.peak == 2 * MIB
    del second, third


def test_activations_are_what_autograd_keeps() -> None:
    layer = torch.nn.Linear(8, 4, bias=False)
    x = torch.zeros(16, 8)
    with saved_for_backward(layer) as saved:
        y = layer(x).exp()  # keeps x for the weights, and its own result
        z = y.exp()
    assert sum(saved.values()) == 4 * (16 * 8 + 2 * 16 * 4)
    result = weakref.ref(z)
    gc.disable()  # a cycle would be found by it alone
    try:
        del z
        assert result() is None
    finally:
        gc.enable()
    y.sum().backward()
    assert layer.weight.grad is not None


def test_the_peak_of_the_process_is_seen() -> None:
    with peak_of_process() as taken:
        torch.ones(48 * MIB, dtype=torch.uint8)  # freed before the end
    assert 47 * MIB < taken.bytes < 64 * MIB
    with peak_of_process() as taken:
        torch.ones(MIB, dtype=torch.uint8)
    assert taken.bytes < 16 * MIB


def profiled_peak(work: Callable[[], None]) -> int:
    """The most bytes that torch's allocator had given at once, as its profiler tells."""
    with torch.profiler.profile(profile_memory=True) as profile:
        work()
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    memory = sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns())
    return int(np.cumsum([event.nbytes() for event in memory]).max())


def test_a_predicted_peak_is_what_another_way_of_counting_finds(data: str) -> None:
    setup = setup_of(data, model="yolo26n.yaml")
    step, batches = ModelStep(setup), Batches(setup, described(setup))
    device = CpuDevice({})
    go_through(step, batches(1))
    step.trainer.optimizer_step()
    go_through(step, batches(1))
    model = fit(*(device.passes(step, batches(n)) for n in (4, 8)), static=device.static())
    large = batches(24)
    given = sum(value.nbytes for value in large.values() if isinstance(value, torch.Tensor))
    peak = profiled_peak(lambda: go_through(step, large)) + given
    assert model.passes(24) == pytest.approx(peak, rel=0.1)
    assert model.passes(16) != pytest.approx(peak, rel=0.1)
    held = held_bytes(step.trainer)
    weights = sum(p.numel() for p in step.trainer.model.parameters())
    assert held["gradients"] == 4 * sum(
        p.numel() for p in step.trainer.model.parameters() if p.requires_grad
    )
    assert held["weights"] == held["ema"] > 4 * weights
    assert held["optimizer"] > held["gradients"]


def test_objects_of_the_fullest_picture(data: str) -> None:
    setup = setup_of(data)
    counts = np.array([3])
    assert most_objects(counts, setup) == 12
    assert most_objects(counts, setup_of(data, mosaic=0.0)) == 3
    assert most_objects(counts, setup_of(data, mixup=0.1)) == 24
    batch = Batches(setup, described(setup))(11)
    assert batch["img"].shape == (11, 3, 64, 64)
    assert len(batch["cls"]) == len(batch["batch_idx"]) == 11 * (batch["batch_idx"] == 3).sum()


# What is predicted.


def test_a_line_through_two_readings() -> None:
    def reading(batch: int, tensors: int) -> Reading:
        return Reading(batch, tensors, round(1.2 * tensors), 0, 1.0)

    model = fit(reading(2, 300), reading(4, 500), static=1000, update=600)
    assert model.need(10) == 1000 + 1.2 * 1100
    assert model.need(1) == 1000 + 1.2 * 600, "the update takes more"
    assert fit_error(model, reading(8, 900)) < 0.001
    assert fit_error(model, reading(8, 1000)) > 0.09
    assert [model.largest(limit) for limit in (1719, 1720, model.need(7), model.need(7) - 1)] == [
        0, 5, 7, 6,
    ]  # fmt: skip
    assert model.for_area(4).need(10) == 1000 + 1.2 * 4100


@dataclass
class LimitedDevice:
    """Has memory for so many pictures, whatever a model says."""

    most: int
    asked: int = 0

    def fits(self, batch: int) -> bool:
        self.asked += 1
        return batch <= self.most


@pytest.mark.parametrize("error", [0.0, 0.01, 0.2])
def test_bisection_finds_the_largest_batch_also_where_the_model_is_wrong(error: float) -> None:
    rng = np.random.default_rng(0)
    model = PeakModel(static=1e8, fixed=1e6, per_picture=5e7)
    for limit in rng.uniform(1e8, 6e10, 100):
        guess = model.largest(limit)
        device = LimitedDevice(round(guess * rng.uniform(0.7, 1.3)))
        found = search_largest(model, limit, error, device.fits)
        assert found.done
        assert found.largest <= device.most <= found.largest + max(found.largest // 64, 1) - 1
        assert device.asked == len(found.tried) <= 16
    exact = LimitedDevice(model.largest(6e10))
    search_largest(model, 6e10, 0.01, exact.fits)
    assert exact.asked <= 6, "near the limit alone"


def test_bisection_ends_with_the_time() -> None:
    model, device = PeakModel(0, 0, 1e6), LimitedDevice(90)
    found = search_largest(model, 1e8, 0.1, device.fits, lambda batch: device.asked < 2)
    assert (found.largest, found.done, device.asked) == (90, False, 2)
    never = search_largest(model, 1e8, 0.1, device.fits, lambda batch: False)
    assert (never.largest, never.done, never.tried) == (0, False, ())


# Devices.


class FakeDevice(CpuDevice):
    """Memory ends above a given number of pictures, of any size."""

    can_try = True

    def __init__(self, most: int) -> None:
        super().__init__({"memory_limit_bytes": 2000 * MIB})
        self.most, self.inside, self.refused = most, False, 0

    def passes(self, step: ModelStep, batch: Mapping[str, Any]) -> Reading:
        if self.inside and len(batch["img"]) > self.most:
            self.refused += 1
            raise OutOfMemory
        images = len(batch["img"])
        scale = images * batch["img"].shape[-1] ** 2
        return Reading(images, 800 * scale, 880 * scale, 700 * scale, 1e-4)

    @contextmanager
    def capped(self) -> Iterator[None]:
        self.inside = True
        yield
        self.inside = False


def test_the_largest_batch_is_tried_where_the_device_refuses(data: str) -> None:
    setup = setup_of(data, batch=900, nbs=64)
    examination = Examination(setup, deadline=float("inf"))
    device = FakeDevice(most=300)
    step = ModelStep(setup)
    section = Section(examination, described(setup), step, device)
    outcome = section.outcome()
    assert device.refused
    assert outcome.measured["largest_batch_tried"]
    assert 296 <= outcome.measured["largest_batch"] <= 300
    (finding,) = outcome.findings
    assert (finding.cause, finding.kind, finding.measured) == ("out_of_memory", "breaks", True)
    assert finding.fake
    assert outcome.fake
    batch = finding.knob.settings["batch"]
    assert batch <= 300
    assert batch * round(finding.knob.settings["nbs"] / batch) == pytest.approx(900, rel=0.05)


@pytest.mark.parametrize("can_try", [True, False])
def test_other_settings_are_tried_below_the_limit_too(
    data: str, can_try: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("yolodata.doctor.memory.changes.candidates", lambda step: {})

    class Gpu(FakeDevice):
        name = "cuda:0"

        def static(self) -> int:
            return 0

        def passes(self, step: ModelStep, batch: Mapping[str, Any]) -> Reading:
            inside.append(self.inside)
            return super().passes(step, batch)

    inside: list[bool] = []
    setup, device = setup_of(data, batch=4, imgsz=64), Gpu(most=300)
    device.can_try = can_try
    examination = Examination(setup, deadline=float("inf"))
    tried = Section(examination, described(setup), ModelStep(setup), device).outcome()
    names = {change["name"] for change in tried.measured["changes"]}
    assert {"batch", "accumulation"} <= names, (names, tried.not_done)
    assert inside[-1] == can_try  # they come last
    assert not device.inside


def test_a_gpu_that_refuses_is_left_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    fractions = [0.8]
    calls: list[str] = []
    memory = SimpleNamespace(
        get_per_process_memory_fraction=lambda device: fractions[-1],
        set_per_process_memory_fraction=lambda share, device: fractions.append(share),
    )
    for name, value in {
        "memory": memory, "synchronize": lambda device: None, "memory_allocated": lambda d: 5,
        "reset_peak_memory_stats": lambda device: None, "memory_reserved": lambda d: 100,
        "empty_cache": lambda: calls.append("empty_cache"), "mem_get_info": lambda d: (300, 1000),
        "get_device_properties": lambda device: SimpleNamespace(total_memory=1000),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, value)
    gradients: list[None] = []

    def forward(batch: Any) -> torch.Tensor:
        raise RuntimeError(batch["error"])

    step: Any = SimpleNamespace(
        forward=forward, device=torch.device("cpu"),
        trainer=SimpleNamespace(
            args=SimpleNamespace(compile=False), model=torch.nn.Linear(2, 2),
            scaler=torch.amp.GradScaler("cpu", enabled=False),
            optimizer=SimpleNamespace(zero_grad=lambda: gradients.append(None)),
        ),
    )  # fmt: skip
    device = CudaDevice(torch.device("cuda:0"), {})
    assert device.limit().bytes == 380
    with pytest.raises(OutOfMemory), device.capped():
        device.passes(
            step, {"error": "CUDA out of memory. Tried to allocate", "img": torch.ones(1)}
        )
    assert fractions == [0.8, pytest.approx(0.38), 0.8]
    assert gradients
    assert "empty_cache" in calls
    with pytest.raises(RuntimeError, match="illegal"), device.capped():
        device.passes(step, {"error": "an illegal memory access", "img": torch.ones(1)})
    assert fractions[-1] == 0.8


@pytest.mark.gpu
def test_a_gpu_whose_memory_ends(data: str) -> None:
    setup = setup_of(data, device="0")
    step, batches = ModelStep(setup), Batches(setup, described(setup))
    go_through(step, batches(2))
    step.trainer.optimizer_step()
    memory = torch.cuda.memory
    before = memory.get_per_process_memory_fraction()
    small = CudaDevice(step.device, {"gpu_memory_bytes": 256 * MIB})
    held = small.static()
    with small.capped():
        readings = [small.passes(step, batches(n)) for n in (2, 4, 8)]
        with pytest.raises(OutOfMemory):
            small.passes(step, batches(4096))
        assert small.static() <= held + MIB
        assert small.passes(step, batches(8)).tensors == pytest.approx(readings[2].tensors, rel=0.2)
    assert memory.get_per_process_memory_fraction() == before
    assert fit_error(fit(*readings[:2], static=held), readings[2]) < 0.1


def test_the_smaller_limit_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    from yolodata.doctor.memory import limit

    monkeypatch.setattr(limit, "anonymous_bytes", lambda: 10)
    monkeypatch.setattr(limit, "available_memory", lambda: 90)
    monkeypatch.setattr(limit.cgroup, "memory_free", lambda: None)
    assert host_limit({}) == Limit(100, "the machine has available")
    assert host_limit({"memory_limit_bytes": 1000}).bytes == 100
    assert host_limit({"memory_limit_bytes": 60}) == Limit(60, "the control group allows", True)
    monkeypatch.setattr(limit.cgroup, "memory_free", lambda: 90)
    assert host_limit({}) == Limit(100, "the control group allows")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert host_limit({}).bytes == 55


# What is said.


ARGUMENTS = {"nbs": 64, "weight_decay": 0.0005, "imgsz": 640}


def measured(limit: float, batch: int = 64, **values: Any) -> Measured:
    model = PeakModel(static=1e9, fixed=0, per_picture=1e8)
    known = {"loader": 0, "error": 0.01, "how": "", "arguments": ARGUMENTS, **values}
    return Measured(batch, model, limit=Limit(round(limit), "there is"), **known)


def test_a_batch_that_fits_is_no_complaint() -> None:
    assert judge(measured(8e9)) == []
    assert judge(measured(9e9, loader=500 * MIB)) == []


def test_a_batch_that_does_not_fit() -> None:
    (finding,) = judge(measured(5e9))
    assert (finding.cause, finding.kind) == ("out_of_memory", "breaks")
    assert finding.knob.settings == {"batch": 32}  # 38 fit; 32 are half of the update
    assert "is 38" in finding.evidence
    (tight,) = judge(measured(7.5e9))  # of 7.4, 6.4 are uncertain by 5 %
    assert tight.kind == "risk"
    (loader,) = judge(measured(8e9, loader=1000 * MIB))
    assert loader.kind == "breaks"
    (nothing,) = judge(measured(1e9))
    assert nothing.knob.settings == {"imgsz": 320}


@pytest.mark.parametrize("batch", [2, 16, 48, 64, 96, 640])
def test_an_update_still_sees_as_many_pictures(batch: int) -> None:
    nbs, decay = 64, 0.0005
    wanted = batch * max(round(nbs / batch), 1)
    for limit in np.linspace(1.11e9, 1e9 + 1e8 * batch - 1, 20):
        m = measured(limit, batch=batch)
        (finding,) = judge(m)
        chosen = {"nbs": nbs, "weight_decay": decay, **finding.knob.settings}
        assert 1 <= chosen["batch"] <= m.largest
        # As Ultralytics does it.
        pictures = chosen["batch"] * max(round(chosen["nbs"] / chosen["batch"]), 1)
        assert pictures == pytest.approx(wanted, rel=0.05)
        scaled = chosen["weight_decay"] * pictures / chosen["nbs"]
        assert scaled == pytest.approx(decay * wanted / nbs, rel=0.05)
    assert accumulated(64, 64, 37) == 32
    assert accumulated(64, 64, 18, ranks=2) == 32
    (both,) = judge(measured(5e9, batch=32 * 2, ranks=2, arguments={**ARGUMENTS, "nbs": 128}))
    assert both.knob.settings == {"batch": 64}  # 38 fit in each; 128 an update
    assert accumulated(48, 64, 24) is None
    (few,) = judge(measured(1.43e9, batch=12))  # 4 fit; with nbs=64 only 3 come close to 60
    assert few.knob.settings == {"batch": 4, "nbs": 60, "weight_decay": 0.0005 * 60 / 64}


def test_what_is_faster_in_every_round_is_an_opportunity() -> None:
    change = Change("amp", {"amp": True}, 64, 10**9, 10.0, gain=1.5, least_gain=1.3)
    changes = [
        change,
        replace(change, settings={"amp": "bf16"}, gain=1.4),
        replace(change, name="channels_last", gain=1.02),
        replace(change, name="batch", least_gain=0.98),
        replace(change, name="compile", settings={"compile": True}, gain=1.2, once_s=40.0),
        replace(change, name="accumulation", gain=2.0),
    ]
    found = {one.cause: one for one in judge(measured(8e9, step_ms=15.0, changes=changes))}
    assert set(found) == {"amp", "compile"}
    assert not any(one.complaint for one in found.values())
    assert found["amp"].knob.settings == {"amp": True}
    assert (found["amp"].gain, found["amp"].lost_ms) == (1.5, pytest.approx(5.0))
    assert "40 s" in found["compile"].evidence


def test_steps_are_timed_in_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: clock[0])
    order: list[str] = []

    def work(name: str, seconds: float) -> Callable[[], None]:
        def go() -> None:
            order.append(name)
            clock[0] += seconds

        return go

    found = in_turns(work("a", 0.3), work("b", 0.2), pictures=2.0)
    assert found == (pytest.approx(200), pytest.approx(3.0), pytest.approx(3.0))
    assert order == ["a", "b"] * 6


def test_a_loader_that_the_host_has_no_room_for() -> None:
    loader = LoaderMemory(seen=600 * MIB, to_come=200 * MIB, processes=8)
    own, limit = 1000 * MIB, Limit(2000 * MIB, "there is")
    assert judge_host(loader, own, limit, 16) == []
    (finding,) = judge_host(loader, own, replace(limit, bytes=1500 * MIB), 16)
    assert (finding.kind, finding.knob.settings) == ("breaks", {"workers": 5})


# The whole section.


def run(setup: Setup, **probes: Any) -> Outcome:
    return examine(setup, ["memory"], probes=probes).outcomes["memory"]


def test_the_section(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(section, "_TELLING", 8 * MIB)  # what is said of the heap is not looked at
    setup = replace(setup_of(data, batch=256), seconds=2)
    healthy = run(setup)
    assert not healthy.findings
    assert not healthy.fake
    figures = healthy.measured
    parts = figures["parts_bytes"]
    assert sum(parts.values()) == pytest.approx(figures["need_bytes"], rel=0.01)
    assert all(size >= 0 for size in parts.values()), parts
    assert parts["activations"] > parts["temporary"]
    assert figures["loader"]["bytes"] > 0
    loader = LoaderMemory(**{k: v for k, v in figures["loader"].items() if k != "bytes"})
    monkeypatch.setattr(section, "loader_memory", lambda *_: loader)
    limit = PeakModel(**figures["model"]).need(128) + loader.bytes
    ends = run(setup, memory_limit_bytes=limit)
    assert ends.fake
    (finding,) = ends.findings
    assert (finding.cause, finding.kind, finding.fake) == ("out_of_memory", "breaks", True)
    assert finding.knob.settings["batch"] < 200


def test_a_wait_has_no_memory(data: str) -> None:
    waiting = run(replace(setup_of(data), step_ms=5.0))
    assert (waiting.findings, waiting.measured) == ((), {})
    assert waiting.not_done
