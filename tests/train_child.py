"""What the ranks of tests/test_train_ranks.py do: several runs, one after the other.

torchrun --nproc-per-node=2 train_child.py FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import torch
import train_notes
import ultralytics.engine.trainer
from training import arguments, first_update, train

from yolodata.errors import YolodataError
from yolodata.train import trainer_for
from yolodata.train.exits import Preempted

sys.modules["albumentations"] = None  # type: ignore[assignment] # as tests/conftest.py does
torch.set_num_threads(1)
folder = Path(sys.argv[1])
rank = int(os.environ["RANK"])
noting = {event: getattr(train_notes, event) for event in ("on_train_start", "on_train_batch_end")}


def run(
    name: str, mischief: str = "", ours: dict[str, Any] | None = None, **changed: object
) -> Any:
    train_notes.NOTES = folder / name
    train_notes.NOTES.mkdir(exist_ok=True)
    train_notes.reduced = 0
    os.environ["MISCHIEF"] = mischief or "-1:0:0:none"
    trainer = trainer_for("detect").configure(**(ours or {}))
    values = {"epochs": 4, "multi_scale": 0.0, "val": False, **changed}
    return train(trainer, arguments(folder, name, **values), noting)


os.environ["FREEZE_BN"] = "1"
run("two")

# One update from four batches of two ranks.
first_update(folder, "parts", batch=4)

# A static graph, as with compile=True, after a dry step.
ultralytics.engine.trainer.attempt_compile = lambda model, **_: model
done = run("dry", ours={"dry_step": True}, compile=True, nbs=4, epochs=1)
weights = [weight.detach().double().sum().item() for weight in done.model.parameters()]
(folder / f"dry-{rank}").write_text(str(weights))

# One rank is asked to stop, in the middle of an epoch; both go on.
try:
    run("stopped", "1:1:3:SIGTERM", resume="auto")
except Preempted as stop:
    (folder / f"stopped-{rank}").write_text(f"{stop.code}")
run("stopped", resume="auto")

# Ranks that do not see the same data.
try:
    run("unequal", fraction=1.0 if rank == 0 else 0.5)
except YolodataError as error:
    (folder / f"unequal-{rank}").write_text(str(error))

# A rank is frozen: nobody is left. What was begun goes on with another number of ranks.
run("frozen", "1:1:4:freeze", {"stall": 12.0}, resume="auto")
