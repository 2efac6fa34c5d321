"""A step of `yolodata train`'s loop against Ultralytics', on the same loader and network.

Both train the same network from the same seed on yolodata's loader, taking turns, each of them
first in every other round; a run's first epoch is left out. Measured are the time of a step by the
clock, and the CPU time of all threads of a process, which depends less on what else is running.
Ratios are medians of the rounds' ratios. Then the time that a checkpoint in an epoch takes from the
step that waits for it, and in the thread that writes it.

    python benchmarks/trainer.py --data DATA.yaml --json benchmarks/results/trainer.json

With several processes (torchrun, gloo) Ultralytics' own loop is not run (it takes them from
`device=`); instead the same loop reduces gradients after every batch, as Ultralytics' does, with
updates every eighth batch.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yolodata
from yolodata.bench import results
from yolodata.train import trainer_for


def every_batch(trainer: Any) -> None:
    """Has gradients travel after every batch."""
    trainer.model.no_sync = contextlib.nullcontext


def run(args: argparse.Namespace, trainer: Any, name: str, begin: Any = None) -> tuple[Any, Any]:
    """Milliseconds of a step, of the clock and of the CPU; and the trainer."""
    from ultralytics import YOLO

    starts: list[tuple[float, float]] = []
    ends: list[tuple[float, float]] = []
    model = YOLO(args.model)
    model.add_callback("on_train_epoch_start", lambda _: starts.append(clocks()))
    model.add_callback("on_train_epoch_end", lambda _: ends.append(clocks()))
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
    wall, cpu = (1e3 * sum(end[i] - start[i] for start, end in timed) / steps for i in range(2))
    return {"wall_ms": wall, "cpu_ms": cpu}, model.trainer


def now() -> float:
    """After everything that was enqueued."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def clocks() -> tuple[float, float]:
    """The time, and the CPU time of all threads of this process."""
    return now(), time.process_time()


def checkpoint_times(args: argparse.Namespace) -> dict[str, Any]:
    """Of checkpoints in the middle of an epoch."""
    seen: list[float] = []

    def begin(trainer: Any) -> None:
        write, trainer.args.save = trainer.saver.write, True

        def timed(**given: bool) -> None:
            start = now()
            write(**given)
            if given:  # there are none at the end of an epoch
                seen.append(now() - start)

        trainer.saver.write = timed

    trainer = trainer_for("detect").configure(checkpoint_minutes=1e-6)
    _, done = run(args, trainer, "checkpoints", begin)
    written = done.saver.writer.seconds  # by rank 0
    sizes = [file.stat().st_size for file in (done.save_dir / "checkpoints").glob("*.ckpt")]
    return {
        "count": len(seen),
        "mib": round(max(sizes) / 2**20, 1),
        "step_waits_ms_median": round(1e3 * statistics.median(seen), 1),
        "step_waits_ms_most": round(1e3 * max(seen), 1),
        "thread_writes_ms_median": round(1e3 * statistics.median(written), 1) if written else None,
    }


def measure(args: argparse.Namespace) -> None:
    """What one process measures, into a file of its own in `args.part`."""
    rank, ranks = (int(os.environ.get(name, n)) for name, n in (("RANK", 0), ("WORLD_SIZE", 1)))
    args.nbs = args.batch * (1 if ranks == 1 else 8)
    args.folder = args.part / "runs"
    ours = trainer_for("detect").configure(telemetry=False)
    plain = yolodata.DetectionTrainer.configure(telemetry=False)
    other = (plain, "upstream") if ranks == 1 else (ours, "every", every_batch)
    runs: dict[str, tuple[Any, ...]] = {"ours": (ours, "ours"), "other": other}
    rounds = []
    for number in range(args.rounds + 1):  # the first one packs, fills caches, compiles
        found = {}
        for who in ("ours", "other") if number % 2 else ("other", "ours"):
            found[who], _ = run(args, *runs[who])
        if number:
            rounds.append(found)
            print(rank, found, flush=True)
    checkpoint = checkpoint_times(args)
    result = {"nbs": args.nbs, "rounds": rounds, "checkpoint": checkpoint}
    (args.part / f"{rank}.json").write_text(json.dumps(result))


def merged(processes: list[Any]) -> dict[str, Any]:
    """One result of what all processes measured: the clock of the slowest, the CPU's mean."""
    rounds = [
        {
            who: {
                "wall_ms": max(process[who]["wall_ms"] for process in each),
                "cpu_ms": statistics.mean(process[who]["cpu_ms"] for process in each),
            }
            for who in ("ours", "other")
        }
        for each in zip(*(process["rounds"] for process in processes), strict=True)
    ]

    def spread(what: str) -> dict[str, Any]:
        ratios = [found["ours"][what] / found["other"][what] for found in rounds]
        return {
            **{who: statistics.median(found[who][what] for found in rounds) for who in rounds[0]},
            "ratio": {"median": statistics.median(ratios), "least": min(ratios),
                      "most": max(ratios)},
        }  # fmt: skip

    return {
        "compared_with": "Ultralytics' loop" if len(processes) == 1 else "gradients every batch",
        "nbs": processes[0]["nbs"],
        "wall_ms_of_a_step": spread("wall_ms"),
        "cpu_ms_of_a_step_and_process": spread("cpu_ms"),
        "rounds": rounds,
        "checkpoint": processes[0]["checkpoint"],
    }


def with_processes(ranks: int, arguments: list[str]) -> dict[str, Any]:
    """What so many processes measure, started for it."""
    start = [sys.executable]
    if ranks > 1:
        start += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    with tempfile.TemporaryDirectory(prefix="yolodata-trainer-") as folder:
        subprocess.run([*start, __file__, *arguments, "--part", folder], check=True)
        files = [Path(folder) / f"{rank}.json" for rank in range(ranks)]
        return merged([json.loads(file.read_text()) for file in files])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="yolo26n.yaml")
    parser.add_argument("--imgsz", type=int, default=160)
    parser.add_argument("--batch", type=int, default=8, help="of all processes together")
    parser.add_argument("--epochs", type=int, default=2, help="that are timed, in a run")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--amp", default=False)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        measure(args)
        return
    facts = ("model", "imgsz", "batch", "device", "amp", "epochs")
    result = {
        **results.about("trainer"), "data": args.data.parent.name,
        **{name: getattr(args, name) for name in facts},
        "ranks": {ranks: with_processes(ranks, sys.argv[1:]) for ranks in args.ranks},
    }  # fmt: skip
    for ranks, found in result["ranks"].items():
        shown = ("wall_ms_of_a_step", "cpu_ms_of_a_step_and_process", "checkpoint")
        print(ranks, json.dumps({name: found[name] for name in shown}))
    if args.json:
        results.save(args.json, result)


if __name__ == "__main__":
    main()
