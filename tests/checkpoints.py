"""Checkpoint files for tests: small, and whole in every respect that is checked."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import torch

from yolodata.train.checkpoint import file
from yolodata.train.checkpoint.state import random_state

GIVEN = {"epochs": 9, "time": None, "patience": 100}


class Code:
    """Makes a folder when somebody loads it as a pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def state(epoch: int, step: int = 0, **changes: Any) -> dict[str, Any]:
    """The state of a run, of a network with one weight."""
    weight = {"weight": torch.full((2,), float(epoch))}
    return {
        "version": file.VERSION,
        "epoch": epoch,
        "step": step,
        "pending": 0,
        "stage": "train",
        "model": weight,
        "ema": weight,
        "optimizer": {"state": {}, "param_groups": []},
        "scaler": {},
        "gradients": {},
        "tloss": None,
        "loss": torch.zeros(()),
        "given": GIVEN,
        "args": {"task": "detect", "close_mosaic": 0},
        "network": {},
        "names": {0: "thing"},
        "results": "",
        "optimizer_name": "SGD",
        "epochs": 9,
        "elapsed": random.random(),  # no two files have one checksum
        "ema_updates": 0,
        "scheduler": 0,
        "criterion": {},
        "loader": None,
        "batch": 4,
        "loss_names": [],
        "metrics": {},
        "fitness": None,
        "best_fitness": None,
        "stopper": {"best_fitness": None, "best_epoch": 0, "possible_stop": False},
        "nan_recovery_attempts": 0,
        "generators": [random_state(torch.device("cpu"))],
        **changes,
    }


def write(folder: Path, epoch: int, step: int = 0, **changes: Any) -> Path:
    """Writes a checkpoint into a folder."""
    return file.write(folder, state(epoch, step, **changes))
