"""Half precision and compilation under our loop, as far as a CPU shows them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from training import BATCHES, Enough, arguments, prepare, train

from yolodata.train import trainer_for
from yolodata.train.distributed.global_loss import GlobalLoss
from yolodata.train.distributed.process_group import ProcessGroup

SMALLER = """
nc: 3
scales: {n: [0.33, 0.125, 256]}
backbone:
  - [-1, 1, Conv, [64, 3, 4]]
  - [-1, 1, Conv, [64, 3, 4]]
head:
  - [[0, 1], 1, Detect, [nc]]
reg_max: 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return prepare(tmp_path_factory.mktemp("precision"))


def test_the_loss_is_computed_in_single_precision() -> None:
    seen: list[Any] = []

    class Inner:
        def __call__(self, preds: Any, batch: Any) -> Any:
            product = preds["boxes"][0] @ preds["boxes"][0].T
            seen.append((preds["boxes"][0].dtype, product.dtype, preds["index"].dtype))
            return product.sum(), {}

    criterion = GlobalLoss(Inner(), ProcessGroup(), whole_batch=True)
    boxes = torch.rand(3, 3, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        half = boxes @ boxes
        assert half.dtype == torch.bfloat16
        preds = {"boxes": [half], "index": torch.zeros(2, dtype=torch.int64)}
        loss, _ = criterion(preds, {"img": torch.zeros(1)})
    assert seen == [(torch.float32, torch.float32, torch.int64)]
    assert loss.dtype == torch.float32
    loss.backward()
    assert boxes.grad is not None


def test_training_in_bfloat16(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network computes in bfloat16; weights and loss stay in single precision.

    Upstream refuses bfloat16 on CPUs, so that autocast is entered in its place.
    """
    bfloat16 = torch.autocast("cpu", torch.bfloat16)
    monkeypatch.setattr("yolodata.train.loop.precision", lambda trainer: bfloat16)
    seen: set[Any] = set()

    def begin(trainer: Any) -> None:
        last = trainer.model.model[-2].conv
        last.register_forward_hook(lambda module, given, out: seen.add(out.dtype))

    values = arguments(folder, "half", epochs=1, val=False)
    done = train(trainer_for("detect"), values, {"on_train_start": begin})
    assert torch.bfloat16 in seen
    assert done.loss.dtype == torch.float32
    assert done.loss.isfinite()
    assert {weight.dtype for weight in done.model.parameters()} == {torch.float32}


def test_nothing_is_compiled_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches differ in their numbers of objects, and not in shape: one compilation serves all."""
    counter = CompileCounter()
    monkeypatch.setattr(
        "ultralytics.engine.trainer.attempt_compile",
        lambda model, **_: torch.compile(model, backend=counter, dynamic=False),
    )
    objects: list[int] = []
    compiled: list[int] = []

    def begin(trainer: Any) -> None:
        own = trainer.preprocess_batch

        def counting(batch: dict[str, Any]) -> dict[str, Any]:
            objects.append(len(batch["cls"]))
            prepared: dict[str, Any] = own(batch)
            return prepared

        trainer.preprocess_batch = counting

    def end(trainer: Any) -> None:
        compiled.append(counter.frame_count)
        if len(compiled) == BATCHES - 1:  # without the smaller last one
            trainer.model(torch.zeros(3, 3, 64, 64))
            compiled.append(counter.frame_count)
            raise Enough  # weights may name the counter, and are then set aside

    (folder / "tiny.yaml").write_text(SMALLER)
    values = arguments(folder, "compiled", compile=True, multi_scale=0.0, epochs=1, val=False)
    with pytest.raises(Enough):
        train(trainer_for("detect"), values, {"on_train_start": begin, "on_train_batch_end": end})
    assert len(set(objects)) > 2
    *steps, other_shape = compiled
    assert steps[0] > 0
    assert set(steps) == {steps[0]}
    assert other_shape > steps[0]
