"""The dry step, of every task, and what is done where memory ends all the same."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from training import TINY, arguments, prepare, train
from ultralytics.cfg import get_cfg
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.nn import tasks

from yolodata.errors import YolodataError
from yolodata.pipeline.config import AugmentConfig
from yolodata.train import trainer_for
from yolodata.train.distributed.process_group import ProcessGroup
from yolodata.train.forward import largest_side
from yolodata.train.loop import EpochLoop
from yolodata.train.oom import most_objects, pending_bytes
from yolodata.train.watchdog.supervisor import Supervisor

HEADS = {
    "detect": ("DetectionModel", "Detect, [nc]"),
    "segment": ("SegmentationModel", "Segment26, [nc, 8, 32]"),
    "obb": ("OBBModel", "OBB26, [nc, 1]"),
    "pose": ("PoseModel", "Pose26, [nc, [5, 3]]"),
}


def test_half_the_batch_goes_on_from_the_last_update(tmp_path: Path) -> None:
    """Memory ends in the sixth batch, and again in the second epoch, where it is the end."""
    places: list[tuple[int, int, int]] = []

    def begin(trainer: Any) -> None:
        own = trainer.preprocess_batch

        def prepare_batch(batch: dict[str, Any]) -> dict[str, Any]:
            if (len(places) == 5 and trainer.batch_size == 4) or trainer.epoch == 1:
                raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB\nmore")
            prepared: dict[str, Any] = own(batch)
            return prepared

        trainer.preprocess_batch = prepare_batch

    def end(trainer: Any) -> None:
        position = trainer.train_loader.state_dict()["position"]
        places.append((trainer.at.step, position, trainer.at.pending))

    values = arguments(prepare(tmp_path), "halved", warmup_epochs=0.0)
    with pytest.raises(YolodataError, match=r"in epoch 2, batch 1: .*2 GiB; give batch=1 "):
        train(trainer_for("detect"), values, {"on_train_start": begin, "on_train_batch_end": end})
    whole = [(1, 4, 1), (2, 8, 2), (3, 12, 3), (4, 16, 0), (5, 20, 1)]
    assert places == [*whole, (9, 18, 1), (10, 20, 2), (11, 22, 3)]


def test_an_update_that_memory_does_not_suffice_for(tmp_path: Path) -> None:
    """Weights may be half new: nothing goes on, with a smaller batch or without."""

    def begin(trainer: Any) -> None:
        def step() -> None:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")

        trainer.optimizer_step = step

    values = arguments(prepare(tmp_path), "update", warmup_epochs=0.0)
    with pytest.raises(
        YolodataError, match=r"at the update of epoch 1, batch 4: .*; give batch=2 "
    ):
        train(trainer_for("detect"), values, {"on_train_start": begin})


class FakeTrainer:
    """As much of a trainer as a dry step needs."""

    def __init__(self, task: str, model: Any, **augment: Any) -> None:
        overlap = augment.pop("overlap_mask", True)
        self.args: Any = get_cfg(overrides={"task": task, "imgsz": 64, "overlap_mask": overlap})
        self.model, self.device, self.stride = model, torch.device("cpu"), 32
        subset = SimpleNamespace(object_offset=[0, 3, 3, 8])
        self.train_loader = SimpleNamespace(
            dataset=SimpleNamespace(subset=subset),
            augment=AugmentConfig(imgsz=64, **augment),
            batch_size=2,
        )
        self.own_loader = self.train_loader
        self.data, self.amp, self.batch_size = {"kpt_shape": [5, 3]}, False, 2
        self.optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        self.scaler = torch.amp.GradScaler("cuda", enabled=False)

    def _model_train(self) -> None:
        self.model.train()

    def _clear_memory(self, threshold: float) -> None:
        pass


@pytest.mark.parametrize("task", [*HEADS, "segment without overlap"])
def test_a_dry_step_of_every_task(task: str, tmp_path: Path) -> None:
    task, _, alone = task.partition(" ")
    kind, head = HEADS[task]
    (tmp_path / "net.yaml").write_text(TINY.replace("Detect, [nc]", head) + "kpt_shape: [5, 3]\n")
    model = getattr(tasks, kind)(str(tmp_path / "net.yaml"), verbose=False)
    trainer: Any = FakeTrainer(task, model, overlap_mask=not alone)
    model.args = trainer.args
    process_group, no_saver = ProcessGroup(), SimpleNamespace()
    supervisor = Supervisor(process_group, 30.0, lambda: None)
    before = [weight.detach().clone() for weight in model.state_dict().values()]
    EpochLoop(trainer, process_group, supervisor, no_saver).dry_step()  # type: ignore[arg-type]
    after = model.state_dict().values()
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.parametrize("imgsz", [32, 320, 608, 640])  # 608 / 640 / 608 rounds up
@pytest.mark.parametrize("multi_scale", [0.0, 0.01, 0.1, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("stride", [32, 64])
def test_the_largest_side_is_upstreams(
    imgsz: int, multi_scale: float, stride: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    imgsz = -(-imgsz // stride) * stride  # as upstream has made it when a trainer is set up
    args = SimpleNamespace(imgsz=imgsz, multi_scale=multi_scale)
    trainer = SimpleNamespace(args=args, stride=stride, device=torch.device("cpu"))
    sides = []
    for below in (1, stride, stride + 1, 2 * stride):  # what may be drawn, from the largest on
        monkeypatch.setattr("random.randrange", lambda low, high, k=below: max(high - k, low))
        pictures = torch.zeros(1, 1, imgsz, imgsz, dtype=torch.uint8)
        batch = DetectionTrainer.preprocess_batch(trainer, {"img": pictures})
        sides.append(batch["img"].shape[-1])
    assert largest_side(imgsz, multi_scale, stride) == max(sides)


def test_the_most_that_can_meet() -> None:
    def most(**augment: Any) -> list[int]:
        trainer: Any = FakeTrainer("detect", torch.nn.Linear(3, 2), **augment)
        return [int(n) for n in most_objects(trainer.train_loader, 2)]

    assert most(mosaic=0.0) == [5, 3]
    assert most() == [5 + 3 + 0 + 5, 3 + 0 + 5 + 3]
    assert most(mosaic=0.0, copy_paste=0.1, mixup=0.1, cutmix=0.1) == [16, 16]  # of six pictures
    trainer: Any = FakeTrainer("detect", torch.nn.Linear(3, 2))
    assert pending_bytes(trainer, ProcessGroup()) == 2 * 8 * 4
    assert pending_bytes(trainer, ProcessGroup(size=2)) == 3 * 8 * 4  # and buckets
