"""Small runs of the trainer, in this process or under torchrun, and what they note."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from loading import draw_dataset

TINY = """
nc: 3
scales: {n: [0.33, 0.125, 256]}
backbone:
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [128, 3, 2]]
  - [-1, 1, C3k2, [128, False, 0.25]]
  - [-1, 1, Conv, [256, 3, 2]]
  - [-1, 1, Conv, [256, 3, 2]]
  - [-1, 1, Conv, [256, 3, 2]]
head:
  - [[3, 4, 5], 1, Detect, [nc]]
end2end: True
reg_max: 1
"""

HEADS = {"detect": "Detect, [nc]", "segment": "Segment26, [nc, 16, 64]",
         "pose": "Pose26, [nc, kpt_shape]", "obb": "OBB26, [nc, 1]"}  # fmt: skip


@functools.cache
def network(task: str = "detect", classes: int = 3) -> str:
    """A network of few layers for a task, as a file; upstream's smallest takes ten times longer."""
    file = Path(_folder().name) / f"tiny-{task}{'' if classes == 3 else classes}.yaml"
    file.write_text(
        TINY.replace("nc: 3", f"nc: {classes}").replace("Detect, [nc]", HEADS[task])
        + "kpt_shape: [3, 2]\n"
    )
    return str(file)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


ARGUMENTS: dict[str, Any] = {
    "imgsz": 64, "batch": 4, "nbs": 16, "epochs": 3, "device": "cpu", "amp": False, "plots": False,
    "verbose": False, "workers": 0, "optimizer": "SGD", "warmup_epochs": 1.5, "close_mosaic": 1,
    "seed": 1, "multi_scale": 0.5,
}  # fmt: skip
"""Six batches an epoch from 22 images, the last one smaller; an update every 1 to 4 batches."""

BATCHES = 6
NOTING = Path(__file__).with_name("train_notes.py")


def prepare(folder: Path) -> Path:
    """Dataset and network of these runs."""
    draw_dataset(folder / "set", {"train": 22, "val": 6})
    (folder / "tiny.yaml").write_text(TINY)
    return folder


def arguments(folder: Path, name: str, **changed: Any) -> dict[str, Any]:
    return {
        **ARGUMENTS,
        "model": str(folder / "tiny.yaml"),
        "data": str(folder / "set" / "data.yaml"),
        "project": str(folder / "runs"),
        "name": name,
        **changed,
    }


def train(trainer: Any, values: dict[str, Any], callbacks: dict[str, Any] | None = None) -> Any:
    """Trains in this process; returns the trainer."""
    from ultralytics import YOLO

    model = YOLO(values["model"])
    for event, function in (callbacks or {}).items():
        model.add_callback(event, function)
    model.train(trainer=trainer, **{k: v for k, v in values.items() if k != "model"})
    return model.trainer


def yolodata_train(
    values: dict[str, Any], env: dict[str, str], timeout: float = 900
) -> subprocess.CompletedProcess[str]:
    """The command line, which takes its processes with it when it takes too long."""
    given = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    given["PYTHONPATH"] = os.pathsep.join([str(NOTING.parents[1]), str(NOTING.parent)])
    written = [f"{name}={value}" for name, value in values.items()]
    with subprocess.Popen(
        [sys.executable, "-m", "yolodata", "train", *written],
        env=given, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.terminate()
            out, err = process.communicate()
            raise AssertionError(f"it took more than {timeout} s: {err}") from None
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def notes(folder: Path, rank: int = 0) -> list[dict[str, Any]]:
    file = folder / f"{rank}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


def together(ranks: list[dict[str, Any]]) -> list[str]:
    """What ranks were fed in a step, in the order of one process."""
    fed = [rank["fed"] for rank in ranks]
    return [sample for position in zip(*fed, strict=True) for sample in position]


class Enough(Exception):
    """What was wanted of a run is there."""


def first_update(folder: Path, name: str, batch: int) -> None:
    """Gradients of the first update, of 16 images in batches of this size, in FOLDER/NAME-RANK.pt.

    Batch norm is frozen, and the loss is a sum over images: Ultralytics' own is normalised batch by
    batch, so that it cannot be the same for parts and the whole.
    """
    import torch
    from ultralytics.utils.torch_utils import unwrap_model

    from yolodata.train import trainer_for

    def begin(trainer: Any) -> None:
        model = unwrap_model(trainer.model)
        train_mode, reduced = trainer._model_train, []

        def criterion(preds: Any, given: Any) -> Any:
            parts = [preds[head][key] for head in preds for key in ("boxes", "scores")]
            loss = torch.stack([part.square().sum() for part in parts])
            return loss, {"sum_loss": loss.sum().detach()}

        def frozen() -> None:
            train_mode()
            for module in model.modules():
                if isinstance(module, torch.nn.BatchNorm2d):
                    module.eval()

        def stop() -> None:
            found = {name: p.grad.clone() for name, p in model.named_parameters()}
            rank = os.environ.get("RANK", "0")
            torch.save([found, sum(reduced)], folder / f"{name}-{rank}.pt")
            raise Enough

        def counting(state, bucket):
            from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

            reduced.append(bucket.is_last())
            return allreduce_hook(torch.distributed.group.WORLD, bucket)

        model.criterion, trainer._model_train, trainer.optimizer_step = criterion, frozen, stop
        if hasattr(trainer.model, "register_comm_hook"):
            trainer.model.register_comm_hook(None, counting)

    values = arguments(folder, name, batch=batch, multi_scale=0.0, warmup_epochs=0.0)
    with contextlib.suppress(Enough):
        train(trainer_for("detect"), values, {"on_train_start": begin})
