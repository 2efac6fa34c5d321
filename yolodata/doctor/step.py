"""One training step: of a model, or a wait that stands for the step of a GPU that is not here."""

from __future__ import annotations

import tempfile
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol
from unittest.mock import patch

import numpy as np
import torch
from ultralytics.utils.torch_utils import autocast, unwrap_model

from yolodata import terminal
from yolodata.doctor.setup import Setup
from yolodata.ultralytics.auto_pack import describe_shards, is_shards
from yolodata.ultralytics.command_line import open_model, refusals_as_errors


class Step(Protocol):
    """Takes one batch, as Ultralytics' `collate_fn` makes it."""

    device: torch.device

    def __call__(self, batch: Mapping[str, Any]) -> float:
        """Makes one step, to its end on the device; returns the loss (NaN where there is none)."""
        ...


class WaitingStep:
    """Waits for the milliseconds of a step.

    Args:
        milliseconds: of one step.
    """

    def __init__(self, milliseconds: float) -> None:
        self.device = torch.device("cpu")
        self._seconds = milliseconds / 1e3

    def __call__(self, batch: Mapping[str, Any]) -> float:
        """Waits; the processor is free meanwhile, as it is while a GPU works."""
        time.sleep(self._seconds)
        return float("nan")


class ModelStep:
    """Forward, loss, backward and update of a model, as Ultralytics' trainer does them.

    Args:
        setup: model, device, optimiser, AMP and learning rate are taken from its arguments.

    Attributes:
        trainer: Ultralytics', with `model`, `optimizer` and `scaler`, set up to train.

    Raises:
        ConfigError: the model or an argument cannot be used.
    """

    def __init__(self, setup: Setup) -> None:
        made = open_model(setup.train.model)
        kind = type("StepTrainer", (_WithoutData, made._smart_load("trainer")), {})
        # It writes nothing that is kept, looks at no network and plots nothing.
        with tempfile.TemporaryDirectory(prefix="yolodata-doctor-") as folder:
            overrides = {
                **setup.arguments, "model": setup.train.model, "task": made.task,
                "data": setup.data, "save_dir": folder, "plots": False, "val": False,
                "mode": "train",
            }  # fmt: skip
            # It compares two inferences, with weights that it would have to download.
            amp = patch("ultralytics.engine.trainer.check_amp", _on_gpu)
            with refusals_as_errors(), amp, quiet():
                self.trainer: Any = kind(overrides=overrides)
                if made.ckpt:
                    self.trainer.model = made.model
                self.trainer._setup_train()
        self.device = self.trainer.device
        self.trainer._model_train()
        for group in self.trainer.optimizer.param_groups:
            group["lr"] = group["initial_lr"]

    def forward(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Returns the loss, a scalar on the device."""
        trainer = self.trainer
        kind = torch.bfloat16 if trainer.args.amp == "bf16" else trainer.amp
        with autocast(kind, device=self.device.type):
            prepared = trainer.preprocess_batch(dict(batch))
            if trainer.args.compile:  # only the network is compiled
                predictions = trainer.model(prepared["img"])
                found = unwrap_model(trainer.model).loss(prepared, predictions)
            else:
                found = trainer.model(prepared)
        return found[0].sum()

    def __call__(self, batch: Mapping[str, Any]) -> float:
        """Makes one step and waits for its end; returns the loss."""
        loss = self.forward(batch)
        self.trainer.scaler.scale(loss).backward()
        self.trainer.optimizer_step()
        return float(loss.detach())


class _WithoutData:
    """What a trainer needs of its data to be set up, without any of it."""

    data: dict[str, Any]
    args: Any
    batch_size: int

    def get_dataset(self) -> dict[str, Any]:
        """The names of the classes, and where the images are."""
        if is_shards(self.args.data):
            return describe_shards(self.args.data, ("train",))
        from ultralytics.data.utils import check_det_dataset

        with refusals_as_errors():
            found: dict[str, Any] = check_det_dataset(self.args.data, autodownload=False)
        return found

    def get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        """A loader that has a length, and no batches."""
        return _NoLoader(self.batch_size)

    def set_class_weights(self) -> None:
        """They come from the labels."""


class _NoLoader:
    """Has what a trainer asks of a loader before its first batch."""

    def __init__(self, batch_size: int) -> None:
        self.batch_size, self.drop_last, self.num_workers = batch_size, True, 0
        self.dataset = self.sampler = range(batch_size * 1000)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return 1000


def drawn_batch(setup: Setup, images: int | None = None, objects: int = 8) -> dict[str, Any]:
    """A batch of noise that never changes, as `collate_fn` would return it for boxes.

    Args:
        setup: gives size and number of pictures.
        images: number of pictures; None is the setup's.
        objects: boxes a picture, of classes 0.

    Returns:
        img uint8 (B, 3, S, S); cls float32 (N, 1); bboxes float32 (N, 4) xywh in 0-1; batch_idx
        float32 (N,); on the CPU.
    """
    images = setup.batch if images is None else images
    rng = np.random.default_rng(setup.seed)
    size = setup.imgsz
    boxes = rng.uniform(0.1, 0.4, (images * objects, 4)).astype(np.float32)
    return {
        "img": torch.from_numpy(rng.integers(0, 256, (images, 3, size, size), np.uint8)),
        "cls": torch.zeros(images * objects, 1),
        "bboxes": torch.from_numpy(boxes),
        "batch_idx": torch.arange(images).repeat_interleave(objects).float(),
        "im_file": [str(Path(setup.data))] * images,
        "ori_shape": [(size, size)] * images,
        "resized_shape": [(size, size)] * images,
    }


def _on_gpu(model: torch.nn.Module) -> bool:
    return next(model.parameters()).is_cuda


@contextmanager
def quiet() -> Iterator[None]:
    """Ultralytics tells of the model that it builds; the doctor's output is its table."""
    with terminal.quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
