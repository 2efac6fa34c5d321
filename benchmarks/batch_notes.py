"""What runs have to have in common to the bit: a line a batch and rank, and how they are compared.

`yolodata.callbacks=benchmarks/batch_notes.py` lets a run with project=FOLDER/runs name=NAME write
FOLDER/NAME/RANK.jsonl (epoch, step, a hash of the samples, the losses), RANK.process, and at the
end `weights` (a hash of them and their average). FOLDER/pause says how many seconds it waits, after
each batch and after each update, as a JSON list; it may change while it runs. Where RANK.hang is,
that rank hangs at the beginning of its next step.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

RANK = int(os.environ.get("RANK", 0))
NETWORK = """
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
nc: 80
"""
SETTINGS: dict[str, Any] = {
    "epochs": 3, "imgsz": 64, "batch": 8, "nbs": 32, "device": "cpu", "amp": False,
    "plots": False, "verbose": False, "optimizer": "SGD", "warmup_epochs": 1.5,
    "close_mosaic": 1, "multi_scale": 0.5,
}  # fmt: skip
"""Of a run in which updates take up to four batches, and every kind of epoch occurs."""

fed = ""


def on_train_start(trainer: Any) -> None:
    """Begins to look at batches."""
    preprocess = trainer.preprocess_batch

    def noting(batch: dict[str, Any]) -> dict[str, Any]:
        global fed
        pictures = [batch["img"], batch["cls"], batch["bboxes"], batch["batch_idx"]]
        content = b"".join(part.numpy().tobytes() for part in pictures)
        fed = hashlib.sha256(content).hexdigest()
        return preprocess(batch)

    trainer.preprocess_batch = noting
    _place(trainer).mkdir(exist_ok=True)
    process = {
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
    }
    (_place(trainer) / f"{RANK}.process").write_text(json.dumps(process))


def on_train_batch_start(trainer: Any) -> None:
    """Hangs, if asked to."""
    if (_place(trainer) / f"{RANK}.hang").exists():
        time.sleep(3600)


def on_train_batch_end(trainer: Any) -> None:
    """Notes a batch."""
    losses = {name: float(value) for name, value in trainer.loss_items.items()}
    with (_place(trainer) / f"{RANK}.jsonl").open("a") as file:
        file.write(json.dumps([trainer.epoch, trainer.at.step, fed, losses]) + "\n")
    after_batch, after_update = json.loads((_place(trainer).parent / "pause").read_text())
    time.sleep(after_batch + (0 if trainer.at.pending else after_update))


def on_train_end(trainer: Any) -> None:
    """Notes the weights; Ultralytics calls this on rank 0 alone."""
    digest = hashlib.sha256()
    for state in (trainer.model.state_dict(), trainer.ema.ema.state_dict()):
        for value in state.values():
            digest.update(value.cpu().numpy().tobytes())
    (_place(trainer) / "weights").write_text(digest.hexdigest())


def process(folder: Path, name: str, rank: int) -> dict[str, Any]:
    """Where a rank runs: its process (pid), its machine (host), and the GPUs that it may use."""
    found: dict[str, Any] = json.loads((folder / name / f"{rank}.process").read_text())
    return found


def noted(folder: Path, name: str, rank: int) -> list[Any]:
    """Lines of a rank; the one that a kill cut in two is not one."""
    file = folder / name / f"{rank}.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def differences(folder: Path, whole: str, name: str, ranks: int) -> list[str]:
    """In what a run that has ended differs from the one that nobody interrupted."""
    wrong = []
    for rank in range(ranks):
        expected = {(epoch, step): rest for epoch, step, *rest in noted(folder, whole, rank)}
        seen = noted(folder, name, rank)
        if {(epoch, step) for epoch, step, *_ in seen} != set(expected):
            wrong.append(f"rank {rank} was not fed the batches of the whole run")
        elif any(expected[(epoch, step)] != rest for epoch, step, *rest in seen):
            wrong.append(f"rank {rank} saw other samples or losses")
    files = [folder / run / "weights" for run in (whole, name)]
    if not all(file.exists() for file in files):
        wrong.append("it did not come to its end")
    elif len({file.read_text() for file in files}) > 1:
        wrong.append("weights differ")
    return wrong


def repeated(folder: Path, whole: str, name: str, ranks: int) -> int:
    """Batches that were trained again after an interruption, of all ranks together."""
    return sum(
        len(noted(folder, name, rank)) - len(noted(folder, whole, rank)) for rank in range(ranks)
    )


def _place(trainer: Any) -> Path:
    """Where a run has its notes: outside its folder, which begins when it does."""
    runs: Path = trainer.save_dir.parent
    return runs.parent / trainer.save_dir.name
