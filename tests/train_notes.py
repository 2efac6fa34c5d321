"""Callbacks for runs of `yolodata train`: every rank notes what it was fed and what it lost.

One line a batch in NOTES/RANK.jsonl: epoch, batch of the epoch, a hash of each sample, the loss and
its mean over the epoch, the objects that the progress bar showed last, and how many times gradients
were reduced so far. Batch norm is frozen with FREEZE_BN=1. MISCHIEF says what goes wrong, as
RANK:EPOCH:BATCH:WHAT, with WHAT one of kill, freeze, raise, a signal, an event that hangs from then
on, or SIGNAL@EVENT, a signal when it comes next.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

RANK = int(os.environ.get("RANK", 0))
NOTES = Path(os.environ.get("NOTES", "."))
reduced = 0
hanging = ""
fed: list[str] = []
shown: list[int] = []  # objects, in the progress bar


def on_train_start(trainer: Any) -> None:
    (NOTES / f"{RANK}.pid").write_text(str(os.getpid()))
    preprocess, model_train = trainer.preprocess_batch, trainer._model_train

    def noting(batch: dict[str, Any]) -> dict[str, Any]:
        boxes, places = batch["bboxes"], batch["batch_idx"]
        fed[:] = [
            hashlib.sha1(
                b"".join(part.cpu().numpy().tobytes() for part in (image, boxes[places == i]))
            ).hexdigest()[:16]
            for i, image in enumerate(batch["img"])
        ]
        return preprocess(batch)

    def frozen() -> None:
        model_train()
        for module in trainer.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    trainer.preprocess_batch = noting
    show = trainer.loop._show_progress
    trainer.loop._show_progress = lambda *given: (shown.append(given[-1]), show(*given))
    if os.environ.get("FREEZE_BN") == "1":
        trainer._model_train = frozen
    if hasattr(trainer.model, "register_comm_hook"):
        trainer.model.register_comm_hook(None, counting)
    misbehave(trainer)


def counting(state, bucket):  # torch reads annotations, and knows none of these as text
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook

    global reduced
    reduced += bucket.is_last()
    return allreduce_hook(torch.distributed.group.WORLD, bucket)


def hang_in(event: str) -> None:
    global hanging
    if hanging == event:
        time.sleep(600)
    name, at, when = hanging.partition("@")
    if at and when == event:
        hanging = ""
        os.kill(os.getpid(), getattr(signal, name))


def on_train_batch_start(trainer: Any) -> None:
    hang_in("on_train_batch_start")


def on_val_batch_start(validator: Any) -> None:
    hang_in("on_val_batch_start")


def on_train_epoch_end(trainer: Any) -> None:
    hang_in("on_train_epoch_end")


def on_train_batch_end(trainer: Any) -> None:
    weights = b"".join(w.detach().cpu().numpy().tobytes() for w in trainer.model.parameters())
    note = {
        "epoch": trainer.epoch,
        "batch": trainer.at.step,
        "fed": list(fed),
        "loss": {name: float(value) for name, value in trainer.loss_items.items()},
        "mean": {name: float(value) for name, value in trainer.tloss.items()},
        "shown": shown[-1] if shown else 0,
        "reduced": reduced,
        "weights": hashlib.sha1(weights).hexdigest(),
        "accumulate": trainer.accumulate,
    }
    with (NOTES / f"{RANK}.jsonl").open("a") as file:
        file.write(json.dumps(note) + "\n")
    misbehave(trainer)
    time.sleep(float(os.environ.get("PAUSE", 0)))


def misbehave(trainer: Any) -> None:
    rank, epoch, batch, what = os.environ.get("MISCHIEF", "-1:0:0:none").split(":")
    if (RANK, trainer.at.epoch, trainer.at.step) != (int(rank), int(epoch), int(batch)):
        return
    (NOTES / "mischief").write_text(str(time.time()))
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "freeze":
        os.kill(os.getpid(), signal.SIGSTOP)
    elif "on_" in what:
        global hanging
        hanging = what
    elif what == "raise":
        raise ValueError("mischief")
    else:
        os.kill(os.getpid(), getattr(signal, what))
