"""Has a trainer tell Prometheus how it goes, through Ultralytics' callbacks.

metrics = MetricsWatcher("auto")      # yolodata's trainers do it by themselves (setting `metrics`)
telemetry.attach(trainer, listeners=[metrics.add_step])
metrics.attach(trainer)
"""

from __future__ import annotations

import math
import re
import time
from pathlib import Path
from typing import Any

import torch
from ultralytics.utils import LOCAL_RANK, LOGGER, RANK, colorstr

from yolodata.telemetry.metrics.catalogue import key
from yolodata.telemetry.metrics.destination import read_destination
from yolodata.telemetry.metrics.exporter import Exporter
from yolodata.telemetry.step_row import StepRow
from yolodata.ultralytics.telemetry import detach

_MAP = re.compile(r"metrics/mAP50(-95)?\((\w+)\)")
_OF = {"B": "box", "M": "mask", "P": "pose"}


class MetricsWatcher:
    """Callbacks of one trainer, and its exporter while it trains.

    Args:
        destination: the setting `metrics`.
        every: seconds between two looks at the loss.

    Raises:
        ConfigError: the destination is neither a port nor a file.
    """

    def __init__(self, destination: int | str, every: float = 1.0) -> None:
        self._destination, self._every = read_destination(destination), every
        self._exporter: Exporter | None = None
        self._sample: _Sample | None = None
        self._next = 0.0
        self._scale: float | None = None

    def attach(self, trainer: Any) -> None:
        """Has a trainer's metrics delivered while it trains.

        The recorder is attached before: it tells the last steps when it is closed.

        Args:
            trainer: any of Ultralytics', before it trains.
        """
        detach(trainer, MetricsWatcher)
        trainer.add_callback("on_train_start", self.begin)
        trainer.add_callback("on_train_epoch_start", self.epoch)
        trainer.add_callback("on_train_batch_end", self.batch)
        trainer.add_callback("on_fit_epoch_end", self.validated)
        trainer.add_callback("on_model_save", self.saved)
        trainer.add_callback("teardown", self.close)

    def add_step(self, row: StepRow) -> None:
        """Counts a step; for the recorder's thread."""
        if self._exporter is not None:
            self._exporter.add_step(row)

    def checkpoint(self, path: Path, seconds: float) -> None:
        """Notes a checkpoint that was written; for the writer's thread."""
        if self._exporter is not None:
            self._exporter.checkpoint(path, seconds)

    def begin(self, trainer: Any) -> None:
        """Training begins: delivery does."""
        exporter = Exporter(
            trainer.save_dir,
            device=trainer.device,
            rank=max(RANK, 0),
            local_rank=max(LOCAL_RANK, 0),
        )
        saver = getattr(trainer, "saver", None)
        if RANK in {-1, 0} and saver is not None and saver.newest is not None:  # it saves
            exporter.checkpoint(saver.newest)
        exporter.set({"epochs": trainer.epochs})
        said = exporter.start(self._destination)
        if said:
            self._exporter = exporter
            LOGGER.info(f"{colorstr('metrics: ')}{said}")

    def epoch(self, trainer: Any) -> None:
        """An epoch begins, or goes on."""
        if self._exporter is not None:
            self._exporter.set({"epochs": trainer.epochs, "epoch": trainer.epoch + 1})
            self._exporter.follow(getattr(trainer.train_loader, "telemetry", None))

    def batch(self, trainer: Any) -> None:
        """A step has ended: begins to look at the loss and the scale, about once a second.

        They are on the device, which nobody waits for: the values of one look are read in the next.
        """
        now = time.monotonic()
        if self._exporter is None or now < self._next:
            return
        self._next = now + self._every
        if self._sample is not None:
            values = self._sample.values()
            if values is None:
                return
            self._show(values, trainer.scaler)
        self._sample = _Sample(_watched(trainer))

    def validated(self, trainer: Any) -> None:
        """An epoch's validation is done, which only rank 0 has the metrics of."""
        if self._exporter is None or RANK not in {-1, 0}:
            return
        shown = {}
        for name, value in (trainer.metrics or {}).items():
            precision = _MAP.fullmatch(name)
            if precision is not None:
                iou, of = "0.5:0.95" if precision[1] else "0.5", precision[2]
                shown[key("map", iou, _OF.get(of, of))] = float(value)
            elif name.startswith("val/"):
                shown[key("validation_loss", name.removeprefix("val/"))] = float(value)
        self._exporter.set(shown)

    def saved(self, trainer: Any) -> None:
        """Weights are written: the only checkpoint of a trainer that writes no state."""
        if self._exporter is not None and getattr(trainer, "saver", None) is None:
            self._exporter.checkpoint(trainer.last)
            self._exporter.count({"checkpoints": 1})

    def close(self, trainer: Any) -> None:
        """Training has ended, in whichever way."""
        exporter, self._exporter = self._exporter, None
        if exporter is not None:
            exporter.close()

    def _show(self, values: dict[str, float], scaler: Any) -> None:
        assert self._exporter is not None
        scale, before = values.get("gradient_scale"), self._scale
        if scale is not None:
            if before is not None and 0 < scale < before:
                halvings = math.log(scale / before) / math.log(scaler.get_backoff_factor())
                self._exporter.count({"skipped_steps": round(halvings)})
            self._scale = scale
        self._exporter.set({"gradient_scale": 1.0, **values})


class _Sample:
    """Scalars on their way from the device to the host.

    Args:
        scalars: tensors of one element, by name.
    """

    def __init__(self, scalars: dict[str, torch.Tensor]) -> None:
        self._names = list(scalars)
        self._event: torch.cuda.Event | None = None
        if not scalars:
            return
        flat = [value.detach().float().reshape(()) for value in scalars.values()]
        together = torch.stack(flat)
        self._values = together.to("cpu", non_blocking=True)
        if together.is_cuda:
            self._event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._event.record()

    def values(self) -> dict[str, float] | None:
        """Returns the values by name; None while the device has not got there."""
        if not self._names:
            return {}
        if self._event is not None and not self._event.query():  # type: ignore[no-untyped-call]
            return None
        return dict(zip(self._names, self._values.tolist(), strict=True))


def _watched(trainer: Any) -> dict[str, torch.Tensor]:
    """What is looked at: the losses that the progress bar shows, and the scaler's factor.

    The mean over an epoch stays NaN once a step's loss was, so that no look can miss it.
    """
    found = {
        key("loss", name): value
        for name, value in (trainer.tloss or {}).items()
        if isinstance(value, torch.Tensor)
    }
    scale = getattr(trainer.scaler, "_scale", None)  # get_scale() would wait for the device
    if scale is not None:
        found["gradient_scale"] = scale.to(next(iter(found.values())).device) if found else scale
    return found
