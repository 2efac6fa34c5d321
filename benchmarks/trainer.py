"""Steps per second of `yolodata train`'s loop against Ultralytics', on the same loader and network.

Both train the same network from the same seed on yolodata's loader, taking turns; a run's first
epoch is left out. The ratio is the median of the ratios of the rounds. Then the time that a
checkpoint in an epoch takes from the step that waits for it, and in the thread that writes it.

    python benchmarks/trainer.py --data DATA.yaml --json benchmarks/results/trainer.json
    torchrun --nproc-per-node=2 benchmarks/trainer.py --data DATA.yaml --nbs 64

With several processes Ultralytics' own loop is not run (it takes them from `device=`); instead the
same loop reduces gradients after every batch, as Ultralytics' does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import yolodata
from yolodata.bench.machine import machine, versions
from yolodata.train import trainer_for


class EveryBatch:
    """A network whose gradients travel after every batch."""

    def __init__(self, model: Any) -> None:
        model.no_sync = contextlib.nullcontext


def run(args: argparse.Namespace, trainer: Any, name: str, begin: Any = None) -> tuple[Any, Any]:
    """Steps per second and CPU milliseconds of a step, after the first epoch; and the trainer."""
    from ultralytics import YOLO

    starts: list[tuple[float, float]] = []
    ends: list[tuple[float, float]] = []
    model = YOLO(args.model)
    model.add_callback("on_train_epoch_start", lambda _: starts.append((now(), cpu_time())))
    model.add_callback("on_train_epoch_end", lambda _: ends.append((now(), cpu_time())))
    if begin is not None:
        model.add_callback("on_train_start", begin)
    model.train(
        trainer=trainer, data=str(args.data), epochs=args.epochs + 1, imgsz=args.imgsz,
        batch=args.batch, nbs=args.nbs, device=args.device, amp=args.amp, val=False, save=False,
        plots=False, verbose=False, optimizer="SGD", workers=2, close_mosaic=0, exist_ok=True,
        project=str(args.folder), name=name, warmup_epochs=0,
    )  # fmt: skip
    steps = len(model.trainer.train_loader) * args.epochs
    timed = list(zip(starts, ends, strict=True))[1:]
    wall, cpu = (sum(end[i] - start[i] for start, end in timed) for i in range(2))
    return {"steps_s": steps / wall, "cpu_ms": 1e3 * cpu / steps}, model.trainer


def now() -> float:
    """After everything that was enqueued."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def cpu_time() -> float:
    """Of all threads of this process."""
    return time.process_time()


def checkpoint_times(args: argparse.Namespace) -> dict[str, Any]:
    """Of checkpoints in the middle of an epoch."""
    seen: list[float] = []

    def begin(trainer: Any) -> None:
        write, trainer.args.save = trainer._write_checkpoint, True

        def timed(wait: bool) -> None:
            start = now()
            write(wait)
            seen.append(now() - start)

        trainer._write_checkpoint = timed

    trainer = trainer_for("detect").configure(checkpoint_minutes=1e-6)
    _, done = run(args, trainer, "checkpoints", begin)
    sizes = [file.stat().st_size for file in (done.save_dir / "checkpoints").glob("*.ckpt")]
    return {
        "count": len(seen),
        "mib": round(max(sizes) / 2**20, 1),
        "step_waits_ms_median": round(1e3 * statistics.median(seen), 1),
        "step_waits_ms_most": round(1e3 * max(seen), 1),
        "thread_writes_ms_median": round(1e3 * statistics.median(done._writer.seconds), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="yolo26n.yaml")
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--nbs", type=int, default=8)
    parser.add_argument("--epochs", type=int, default=2, help="that are timed, in a run")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", default=False)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    ranks = int(os.environ.get("WORLD_SIZE", 1))
    base = f"yolodata-trainer-{os.environ.get('TORCHELASTIC_RUN_ID', os.getpid())}"
    args.folder = Path(tempfile.gettempdir()) / base
    ours = trainer_for("detect").configure(telemetry=False)
    plain = yolodata.DetectionTrainer.configure(telemetry=False)
    rounds = []
    for number in range(args.rounds + 1):  # the first one packs, fills caches, compiles
        mine, _ = run(args, ours, "ours")
        if ranks == 1:
            theirs, _ = run(args, plain, "upstream")
        else:
            theirs, _ = run(args, ours, "every", lambda trainer: EveryBatch(trainer.model))
        if number:
            ratio = mine["steps_s"] / theirs["steps_s"]
            rounds.append({"ours": mine, "other": theirs, "ratio": ratio})
            print(rounds[-1], flush=True)
    ratios = sorted(row["ratio"] for row in rounds)
    facts = ("model", "imgsz", "batch", "nbs", "device", "amp", "epochs")
    result = {
        "machine": machine(), "versions": versions(), "data": args.data.parent.name, "ranks": ranks,
        **{name: getattr(args, name) for name in facts},
        "compared_with": "Ultralytics' loop" if ranks == 1 else "gradients after every batch",
        "steps_per_second": rounds,
        "ratio": {
            "median": statistics.median(ratios), "least": ratios[0], "most": ratios[-1],
        },
        # What else the machine does changes the wall clock, and hardly this.
        "cpu_ms_of_a_step": {
            who: statistics.median(row[who]["cpu_ms"] for row in rounds)
            for who in ("ours", "other")
        },
        "checkpoint": checkpoint_times(args),
    }  # fmt: skip
    if int(os.environ.get("RANK", 0)) == 0:
        print(
            json.dumps({name: result[name] for name in ("ratio", "cpu_ms_of_a_step", "checkpoint")})
        )
        if args.json:
            args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
