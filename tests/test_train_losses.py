"""Losses of several ranks are those of one process with the whole batch, to the gradient."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._pytree import tree_map
from ultralytics.cfg import get_cfg
from ultralytics.nn import tasks
from ultralytics.utils import loss as upstream

from yolodata.train.distributed.global_loss import GlobalLoss
from yolodata.train.distributed.process_group import ProcessGroup
from yolodata.train.distributed.validation_loss import ValidationLoss

MODELS = {
    "yolo26n": tasks.DetectionModel,
    "yolov8n": tasks.DetectionModel,
    "yolo26n-seg": tasks.SegmentationModel,
    "yolov8n-seg": tasks.SegmentationModel,
    "yolo26n-pose": tasks.PoseModel,
    "yolo26n-obb": tasks.OBBModel,
}
"""Which together have all criteria; a mask an object is YOLOv8's here."""

IMAGES, SIDE = 4, 64


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small tensors: more threads would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Ranks:
    """Two ranks as threads, which meet where they sum something up over all of them."""

    def __init__(self) -> None:
        self.given: dict[int, torch.Tensor] = {}
        self.barrier = threading.Barrier(2, timeout=300)
        self.rank = threading.local()

    def all_reduce(self, tensor: torch.Tensor, **_: Any) -> None:
        self.given[self.rank.number] = tensor.clone()
        self.barrier.wait()
        total = self.given[0] + self.given[1]
        self.barrier.wait()
        tensor.copy_(total)

    def run(self, work: Any) -> list[Any]:
        found: list[Any] = [None, None]

        def thread(number: int) -> None:
            self.rank.number = number
            try:
                found[number] = work(number)
            except BaseException:
                self.barrier.abort()
                raise

        threads = [threading.Thread(target=thread, args=(number,)) for number in range(2)]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        return found


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Ranks:
    made = Ranks()
    monkeypatch.setattr(torch.distributed, "all_reduce", made.all_reduce)
    return made


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    made = MODELS[request.param](f"{request.param}.yaml", nc=3, verbose=False)
    made.args = get_cfg(overrides={"overlap_mask": "yolo26" in request.param})
    return made


def batch_of(model: Any, empty: tuple[int, ...] = (), tiny: tuple[int, ...] = ()) -> dict[str, Any]:
    """Pictures with 1 to 4 objects each; none in `empty`, too small for an anchor in `tiny`."""
    random = torch.Generator().manual_seed(3)
    counts = [0 if image in empty else 4 - image for image in range(IMAGES)]
    number = sum(counts)
    where = torch.repeat_interleave(torch.arange(IMAGES), torch.tensor(counts))
    small = torch.tensor([int(image) in tiny for image in where], dtype=torch.bool)[:, None]
    sizes = torch.where(small, 1e-6, torch.rand(number, 2, generator=random) * 0.4 + 0.2)
    boxes = torch.cat([torch.rand(number, 2, generator=random) * 0.5 + 0.25, sizes], 1)
    angles = torch.rand(number, 1, generator=random)
    keypoints = torch.rand(number, 17, 3, generator=random)
    keypoints[..., 2] = (keypoints[..., 2] > 0.6).float() * 2
    side = SIDE // 4
    batch = {
        "img": torch.rand(IMAGES, 3, SIDE, SIDE, generator=random),
        "batch_idx": where.float(),
        "cls": torch.randint(0, 3, (number, 1), generator=random).float(),
        "bboxes": torch.cat([boxes, angles], 1) if hasattr(model.model[-1], "ne") else boxes,
        "keypoints": keypoints,
        "sem_masks": torch.randint(0, 3, (IMAGES, side, side), generator=random).float(),
    }
    if model.args.overlap_mask:
        masks = torch.zeros(IMAGES, side, side, dtype=torch.uint8)
        for image, count in enumerate(counts):
            for index in range(count):
                masks[image, 2 + 3 * index : 6 + 3 * index, 3:12] = index + 1
    else:
        masks = torch.zeros(number, side, side, dtype=torch.uint8)
        for index in range(number):
            masks[index, 2 + index : 6 + index, 3:12] = 1
    batch["masks"] = masks
    return batch


def part(batch: dict[str, Any], first: int, last: int) -> dict[str, Any]:
    """Pictures of a batch, as a batch of their own."""
    mine = (batch["batch_idx"] >= first) & (batch["batch_idx"] < last)
    found = {}
    for name, value in batch.items():
        found[name] = value[first:last] if len(value) == IMAGES != len(mine) else value[mine]
        if name in ("img", "sem_masks"):
            found[name] = value[first:last]
    if len(batch["masks"]) != len(mine):
        found["masks"] = batch["masks"][first:last]
    found["batch_idx"] = batch["batch_idx"][mine] - first
    return found


def predict(model: Any, batch: dict[str, Any]) -> Any:
    """What the network says, as leaves that gradients are taken of."""
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    with torch.no_grad():
        found = model(batch["img"])
    return tree_map(lambda t: t.clone().requires_grad_(), found)


def sliced(preds: Any, first: int, last: int) -> Any:
    return tree_map(lambda t: t.detach()[first:last].clone().requires_grad_(), preds)


def leaves(preds: Any) -> list[torch.Tensor]:
    return list(torch.utils._pytree.tree_leaves(preds))


def gradients(loss: torch.Tensor, preds: Any) -> list[torch.Tensor]:
    given = torch.autograd.grad(loss.sum(), leaves(preds), allow_unused=True)
    return [
        torch.zeros_like(leaf) if gradient is None else gradient
        for leaf, gradient in zip(leaves(preds), given, strict=True)
    ]


CASES = {
    "objects everywhere": {},
    "a rank without objects": {"empty": (2, 3)},
    "a rank whose objects have no anchor": {"tiny": (2, 3)},
    "no objects": {"empty": (0, 1, 2, 3)},
}


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_lose_what_one_process_does(model: Any, ranks: Ranks, case: str) -> None:
    batch = batch_of(model, **CASES[case])
    preds = predict(model, batch)
    whole, items = model.init_criterion()(preds, batch)
    expected = gradients(whole, preds)
    parts = [(0, 2), (2, 4)]
    halves = [sliced(preds, *span) for span in parts]

    def work(rank: int, whole_batch: bool = True) -> Any:
        group = ProcessGroup(rank=rank, size=2, store=object())
        criterion = GlobalLoss(model.init_criterion(), group, whole_batch)
        assert criterion.covers_all_ranks
        loss, said = criterion(halves[rank], part(batch, *parts[rank]))
        return loss.detach() * 2, said, gradients(loss, halves[rank])  # DDP: the mean over ranks

    for loss, said, found in ranks.run(work):
        assert {n: float(v) for n, v in said.items()} == pytest.approx(
            {n: float(v) for n, v in items.items()}, rel=2e-5, abs=1e-6
        )
        torch.testing.assert_close(loss, whole.detach(), rtol=2e-5, atol=1e-5)
    del loss, said, found
    joined = zip(*(each[2] for each in ranks.run(work)), strict=True)
    for mine, theirs in zip(joined, expected, strict=True):
        scale = max(float(theirs.abs().max()), 1e-6)
        torch.testing.assert_close(torch.cat(mine), theirs, rtol=1e-4, atol=1e-5 * scale)
    if case == "objects everywhere":  # a rank's own criterion says something else
        _, alone = model.init_criterion()(halves[0], part(batch, *parts[0]))
        assert any(float(alone[n]) != pytest.approx(float(items[n]), rel=1e-2) for n in items)


def test_validations_of_ranks_are_summed_up_by_batch(model: Any, ranks: Ranks) -> None:
    """Of two batches of one process, rank 0 has three quarters and rank 1 the rest."""
    batch = batch_of(model, empty=(2,))
    preds = predict(model, batch)
    with torch.no_grad():
        criterion, expected = model.init_criterion(), {}
        for first in (0, 2):
            _, items = criterion(sliced(preds, first, first + 2), part(batch, first, first + 2))
            for name, value in items.items():
                expected[name] = expected.get(name, 0.0) + float(value) / 2

    def work(rank: int) -> Any:
        group = ProcessGroup(rank=rank, size=2, store=object())
        first, last = (0, 3) if rank == 0 else (3, 4)
        loss = ValidationLoss(model.init_criterion(), group, first, 2)
        with torch.inference_mode():
            for image in range(first, last):
                loss(sliced(preds, image, image + 1), part(batch, image, image + 1))
        return loss.means(IMAGES)

    for found in ranks.run(work):
        assert found == pytest.approx(expected, rel=2e-5, abs=1e-6)


def test_a_copy_of_the_model_makes_its_own_criterion(model: Any) -> None:
    import copy

    model.criterion = GlobalLoss(model.init_criterion(), ProcessGroup(), whole_batch=True)
    copied = copy.deepcopy(model)
    assert copied.criterion is None
    assert isinstance(model.criterion.inner, (upstream.E2ELoss, upstream.v8DetectionLoss))
    model.criterion = None


def test_the_network_of_a_checkpoint_is_made_again(model: Any) -> None:
    """Of every task, from its description as plain values; `yolodata export` does so."""
    from yolodata.train.checkpoint.export import weights_of
    from yolodata.train.checkpoint.state import plain

    names = {0: "a", 1: "b", 2: "c"}
    task = {"Detect": "detect", "Segment": "segment", "Pose": "pose", "OBB": "obb"}
    head = type(model.model[-1]).__name__.removesuffix("26")
    state = {
        "args": {"task": task[head]},
        "network": plain(model.yaml),
        "names": names,
        "ema": model.state_dict(),
        "metrics": {},
        "fitness": None,
        "results": "epoch,time\n1,2.5\n",
    }
    found = weights_of(state)
    made = found["model"].state_dict()
    assert all(
        torch.equal(made[name], v.half() if v.is_floating_point() else v)
        for name, v in model.state_dict().items()
    )
    assert (found["model"].names, found["train_results"]) == (
        names,
        {"epoch": [1.0], "time": [2.5]},
    )
