"""Training where a GPU trains: precision, interruption, memory, ranks.

What a CPU can go through it goes through here as well, in single precision and over gloo, so that
the scenarios themselves are known to work.
"""

from __future__ import annotations

import os
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import train_notes
from test_train import Notes, final
from test_train_precision import SMALLER
from training import BATCHES, arguments, notes, prepare, together, train, yolodata_train

from yolodata.errors import ConfigError
from yolodata.train import trainer_for
from yolodata.train.distributed.process_group import ProcessGroup, backend_of
from yolodata.train.exit_codes import Preempted

CPU = pytest.param("cpu")
GPU = pytest.param("0", marks=pytest.mark.gpu)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("gpu"))


@pytest.fixture(autouse=True)
def _no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upstream compares two inferences before it uses fp16, with weights from the network."""
    monkeypatch.setattr("ultralytics.engine.trainer.check_amp", lambda model: True)


def values_of(folder: Path, name: str, device: str, amp: Any = False, **changed: Any) -> Any:
    """A short run: two epochs, without validation but the last."""
    there = {} if device == "cpu" else {"channels_last": True, "amp": amp}
    given = {"epochs": 2, "val": False, "device": device, **there, **changed}
    return arguments(folder, name, **given)


# Precision.


@pytest.mark.parametrize(
    ("device", "amp", "computed"),
    [
        pytest.param("cpu", False, torch.float32),
        pytest.param("0", False, torch.float32, marks=pytest.mark.gpu),
        pytest.param("0", True, torch.float16, marks=pytest.mark.gpu),
        pytest.param("0", "bf16", torch.bfloat16, marks=pytest.mark.gpu),
    ],
)
def test_what_is_computed_in_half_precision(
    folder: Path, device: str, amp: Any, computed: torch.dtype
) -> None:
    """The network; weights and loss are single. An update that overflows in fp16 is left out."""
    seen: set[tuple[torch.dtype, bool]] = set()
    updates: list[tuple[bool, bool]] = []  # whether the scale was halved, and whether weights moved

    def begin(trainer: Any) -> None:
        weights, own = list(trainer.model.parameters()), trainer.optimizer_step

        def note(module: Any, given: Any, out: torch.Tensor) -> None:
            last = out.is_contiguous(memory_format=torch.channels_last)
            seen.add((out.dtype, last))

        def step() -> None:
            if trainer.scaler.is_enabled() and len(updates) == 1:
                next(w.grad for w in weights if w.grad is not None).fill_(float("inf"))
            before, scale = [w.detach().clone() for w in weights], trainer.scaler.get_scale()
            own()
            moved = any(not torch.equal(*pair) for pair in zip(before, weights, strict=True))
            updates.append((trainer.scaler.get_scale() < scale, moved))

        trainer.model.model[-2].conv.register_forward_hook(note)
        trainer.optimizer_step = step

    values = values_of(folder, f"half-{device}-{amp}", device, amp)
    done = train(trainer_for("detect"), values, {"on_train_start": begin})
    assert (computed, device != "cpu") in seen
    assert done.scaler.is_enabled() == (computed == torch.float16)
    assert updates[1][0] == done.scaler.is_enabled()
    assert all(halved != moved for halved, moved in updates)
    assert any(moved for _, moved in updates)
    assert done.loss.dtype == torch.float32
    assert done.loss.isfinite()
    assert all(w.dtype == torch.float32 and w.isfinite().all() for w in done.model.parameters())


@pytest.mark.parametrize("device", [GPU])  # a minute on a CPU; see test_train_precision
def test_inductor_computes_the_same_and_compiles_once(folder: Path, device: str) -> None:
    from torch._dynamo.utils import counters

    (folder / "smaller.yaml").write_text(SMALLER)
    graphs: list[int] = []

    def run(name: str, **changed: Any) -> list[dict[str, float]]:
        noted = Notes()

        def end_batch(trainer: Any) -> None:
            noted.batch(trainer)
            graphs.append(int(counters["stats"]["unique_graphs"]))

        values = values_of(folder, name, device, multi_scale=0.0, epochs=1, **changed)
        values["model"] = str(folder / "smaller.yaml")
        train(trainer_for("detect"), values, {"on_train_batch_end": end_batch})
        return list(noted.losses.values())[: BATCHES - 1]  # without the smaller last one

    eager = run("eager")
    graphs.clear()
    counters.clear()
    compiled = run("compiled", compile=True)
    assert graphs[0] > 0
    assert set(graphs[: BATCHES - 1]) == {graphs[0]}
    for one, other in zip(eager, compiled, strict=True):
        assert other == pytest.approx(one, rel=2e-2)


# Interruption.


@pytest.fixture(scope="module", params=[CPU, GPU])
def whole(request: pytest.FixtureRequest, folder: Path) -> Any:
    """The run that nobody interrupts; fp16 with its scaler on a GPU."""
    patch = pytest.MonkeyPatch()
    patch.setattr("ultralytics.engine.trainer.check_amp", lambda model: True)
    noted = Notes()
    values = values_of(folder, f"whole-{request.param}", request.param, amp=True)
    done = train(trainer_for("detect"), values, noted.callbacks)
    patch.undo()
    return request.param, noted, done


def test_goes_on_to_the_bit(folder: Path, whole: Any) -> None:
    """Samples, losses, weights, the scaler's scale: where a device repeats a run to the bit."""
    device, uninterrupted, last = whole
    again = Notes()
    done = train(
        trainer_for("detect"), values_of(folder, f"again-{device}", device, amp=True),
        again.callbacks,
    )  # fmt: skip
    assert again.losses == uninterrupted.losses, "this device does not repeat a run to the bit"
    assert differing(done, last) == []

    before, after = Notes(BATCHES + 1, lambda _: os.kill(os.getpid(), signal.SIGTERM)), Notes()
    values = values_of(folder, f"stopped-{device}", device, amp=True, resume="auto")
    with pytest.raises(Preempted):
        train(trainer_for("detect"), values, before.callbacks)
    done = train(trainer_for("detect"), values, after.callbacks)
    assert before.places + after.places == uninterrupted.places
    assert before.losses | after.losses == uninterrupted.losses
    assert differing(done, last) == []
    assert done.scaler.state_dict() == last.scaler.state_dict()


def differing(one: Any, other: Any) -> list[str]:
    """Names of weights, averages and buffers that are not the same to the bit."""
    expected = final(other)
    return [name for name, value in final(one).items() if not torch.equal(value, expected[name])]


# Memory.


@pytest.mark.parametrize("device", [CPU, GPU])
def test_half_the_batch_goes_on_where_memory_ends(folder: Path, device: str) -> None:
    """In the second batch, of which two thirds would fit; nothing is left out."""
    places: list[tuple[int, int]] = []
    resting = 0

    def begin(trainer: Any) -> None:
        own = trainer.preprocess_batch

        def prepare_batch(batch: dict[str, Any]) -> dict[str, Any]:
            if device == "cpu" and len(places) == 1 and trainer.batch_size == 8:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
            prepared: dict[str, Any] = own(batch)
            return prepared

        trainer.preprocess_batch = prepare_batch

    def begin_batch(trainer: Any) -> None:
        nonlocal resting
        if device == "cpu":
            return
        if not places:
            torch.cuda.reset_peak_memory_stats()
            resting = torch.cuda.memory_allocated()
        elif len(places) == 1 and trainer.batch_size == 8:
            needed = torch.cuda.max_memory_allocated() - resting
            torch.cuda.empty_cache()
            limit = torch.cuda.memory_reserved() + 2 * needed // 3
            total = torch.cuda.get_device_properties(0).total_memory
            torch.cuda.set_per_process_memory_fraction(limit / total)

    def end_batch(trainer: Any) -> None:
        places.append((trainer.batch_size, trainer.train_loader.state_dict()["position"]))

    large = {} if device == "cpu" else {"imgsz": 640}
    values = values_of(
        folder, f"halved-{device}", device, batch=8, warmup_epochs=0.0, multi_scale=0.0, epochs=1,
        **large,
    )  # fmt: skip
    events = {"on_train_start": begin, "on_train_batch_start": begin_batch,
              "on_train_batch_end": end_batch}  # fmt: skip
    try:
        done = train(trainer_for("detect"), values, events)
    finally:
        if device != "cpu":
            torch.cuda.set_per_process_memory_fraction(1.0)
    size = done.batch_size
    assert size == 4 or (size == 2 and device != "cpu")
    assert places == [(8, 8), *((size, min(first + size, 22)) for first in range(0, 22, size))]
    assert all(weight.isfinite().all() for weight in done.model.parameters())


# Ranks.


@pytest.fixture
def group_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process that is connected as several are; by itself it would train without a group."""
    with socket.create_server(("localhost", 0)) as server:
        port = str(server.getsockname()[1])
    for name, value in {
        "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1",
        "MASTER_ADDR": "localhost", "MASTER_PORT": port,
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("yolodata.train.distributed.process_group._server", None)
    monkeypatch.setattr(ProcessGroup, "join", lambda: ProcessGroup.of_launcher(1))


@pytest.mark.usefixtures("group_of_one")
def test_a_group_of_one_trains_as_a_process_does(folder: Path, whole: Any) -> None:
    """NCCL on a GPU: DDP, gradients before an update alone, a checkpoint, the group's end."""
    device, alone, _ = whole
    backends: set[str] = set()
    reduced: list[int] = []
    wanted: list[int] = []

    def begin(trainer: Any) -> None:
        backends.add(torch.distributed.get_backend())
        trainer.model.register_comm_hook(None, counting)
        own = trainer.optimizer_step

        def step() -> None:
            wanted.append(1)
            own()

        trainer.optimizer_step = step

    def counting(state, bucket):  # torch reads annotations, and knows none of these as text
        from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

        reduced.append(bucket.is_last())
        return allreduce_hook(torch.distributed.group.WORLD, bucket)

    values = values_of(folder, f"group-{device}", device, amp=True, resume="auto")
    before, after = Notes(BATCHES + 1, lambda _: os.kill(os.getpid(), signal.SIGTERM)), Notes()
    with pytest.raises(Preempted):
        train(trainer_for("detect"), values, {**before.callbacks, "on_train_start": begin})
    assert not torch.distributed.is_initialized()
    assert sum(reduced) == len(wanted) > 0
    train(trainer_for("detect"), values, {**after.callbacks, "on_train_start": begin})
    assert not torch.distributed.is_initialized()
    assert sum(reduced) == len(wanted) < 2 * BATCHES
    assert backends == {"gloo" if device == "cpu" else "nccl"}
    assert before.places + after.places == alone.places
    for place, loss in (before.losses | after.losses).items():
        assert loss == pytest.approx(alone.losses[place], rel=1e-3)


@pytest.mark.parametrize("device", [GPU])  # test_train_ranks does it on a CPU
def test_two_ranks_share_a_card(folder: Path, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over gloo, as one process would: samples and losses; and both have the same weights."""
    monkeypatch.setenv("FREEZE_BN", "1")
    for name in ("one", "two"):
        (folder / name).mkdir()
    monkeypatch.setattr(train_notes, "NOTES", folder / "one")
    monkeypatch.setattr(train_notes, "RANK", 9)
    events = {e: getattr(train_notes, e) for e in ("on_train_start", "on_train_batch_end")}
    train(trainer_for("detect"), values_of(folder, "one", device, multi_scale=0.0), events)

    values = values_of(folder, "two", device, multi_scale=0.0)
    values |= {"nproc": 2} if device == "cpu" else {"device": f"{device},{device}"}
    noting = folder / "noting.py"
    noting.write_text(
        "import sys\nsys.modules['albumentations'] = None  # as conftest.py does\n"
        "from train_notes import on_train_batch_end, on_train_start"
    )
    ours = {"yolodata.callbacks": noting, "yolodata.stall": 60}
    done = yolodata_train({**values, **ours}, {"NOTES": str(folder / "two")})
    assert done.returncode == 0, done.stderr
    assert ("share a GPU" in done.stderr) == (device != "cpu")
    alone, ranks = notes(folder / "one", 9), [notes(folder / "two", rank) for rank in range(2)]
    assert len(alone) == len(ranks[0]) == 2 * BATCHES
    for one, *both in zip(alone, *ranks, strict=True):
        fed = together(both)
        assert fed[: len(one["fed"])] == one["fed"]
        for rank in both:  # convolutions in TF32
            assert rank["loss"] == pytest.approx(one["loss"], rel=1e-2)
        assert both[0]["weights"] == both[1]["weights"]
    assert len({step["weights"] for step in ranks[0]}) > 2


def test_what_connects_ranks() -> None:
    """NCCL takes no device twice; the same name on another machine is another device."""
    assert backend_of([["a", "0"], ["a", "1"], ["b", "0"]]) == "nccl"
    assert backend_of([["a", "0"]]) == "nccl"
    assert backend_of([["a", "0"], ["a", "1"], ["a", "1"]]) == "gloo"
    assert backend_of([["a", "cpu"], ["a", "cpu"]]) == "gloo"
    with pytest.raises(ConfigError, match=r"but rank 1, rank 2 of 3 would train on a CPU"):
        backend_of([["a", "0"], ["a", "cpu"], ["b", "cpu"]])
