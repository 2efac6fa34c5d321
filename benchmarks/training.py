"""Does a model learn the same from our batches as from Ultralytics' own?

    python benchmarks/training.py --data DATA.yaml --json OUT.json
    python benchmarks/charts.py OUT.json

Trains the same model from scratch with both loaders, several seeds each, and compares the final mAP
of the two groups. The loaders draw different random numbers, so single runs differ as seeds do; the
groups must overlap. Every run is a process of its own, and is kept in OUT.json when it ends: the
same command trains what is missing there. When nothing is, it only reports.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from yolodata import environment
from yolodata.bench import results

LOADERS = ("ultralytics", "yolodata")
CURVES = {
    "metrics/mAP50(B)": "mAP50",
    "metrics/mAP50-95(B)": "mAP50-95",
    "train/box_loss": "box loss",
    "train/cls_loss": "class loss",
}


def train_one(loader: str, seed: int, args: argparse.Namespace, folder: Path) -> None:
    """One run in this process; results.csv is left in folder/LOADER-SEED."""
    from ultralytics import YOLO

    extra: dict[str, Any] = {}
    if loader == "yolodata":
        import yolodata

        shards = folder / f"shards-{seed}"
        extra["trainer"] = yolodata.DetectionTrainer.configure(folder=str(shards))
    else:
        # Mosaic partners come from the whole dataset, as ours do; else from its last images.
        extra["cache"] = "ram"
    YOLO(args.model).train(
        data=str(args.data), imgsz=args.imgsz, epochs=args.epochs, batch=args.batch, seed=seed,
        device=args.device, workers=2, amp=False, plots=False, pretrained=False, verbose=False,
        optimizer="AdamW", lr0=args.lr, warmup_epochs=1.0, close_mosaic=args.epochs // 4,
        nbs=args.batch, project=str(folder), name=f"{loader}-{seed}", exist_ok=True, **extra,
    )  # fmt: skip


def read_curves(file: Path) -> dict[str, list[float]]:
    """Columns of a run's results.csv, by the names of `CURVES`."""
    with file.open() as handle:
        rows = [{k.strip(): v for k, v in row.items()} for row in csv.DictReader(handle)]
    return {name: [float(row[column]) for row in rows] for column, name in CURVES.items()}


def permutation_p(a: list[float], b: list[float]) -> float:
    """Share of all regroupings whose means differ at least as much: an exact, two-sided test."""
    pooled, total = a + b, sum(a + b)
    observed = abs(mean(a) - mean(b))
    firsts = [sum(chosen) for chosen in itertools.combinations(pooled, len(a))]
    differences = (abs(first / len(a) - (total - first) / len(b)) for first in firsts)
    return mean(difference >= observed - 1e-12 for difference in differences)


def summary(values: list[float]) -> dict[str, Any]:
    """Mean and spread of a group."""
    spread = stdev(values) if len(values) > 1 else 0.0
    return {"mean": mean(values), "stdev": spread, "min": min(values), "max": max(values),
            "values": values}  # fmt: skip


def begin(args: argparse.Namespace) -> dict[str, Any]:
    """The document in args.json, or a new one.

    Raises:
        SystemExit: the file's runs are not comparable with those that would be added.
    """
    names = ("model", "imgsz", "epochs", "batch", "lr", "device")
    new = results.about("training", **{name: str(getattr(args, name)) for name in names})
    new |= {"dataset": args.data.resolve().parent.name, "runs": []}
    if not (args.json and args.json.exists()):
        return new
    old: dict[str, Any] = json.loads(args.json.read_text(encoding="utf-8"))
    for what in ("dataset", "settings", "machine", "versions"):
        ours, theirs = _comparable(new[what]), _comparable(old.get(what))
        if ours != theirs:
            raise SystemExit(
                f"{args.json} has runs of other {what}: there {theirs}, here {ours}; give the same "
                "ones, or another --json"
            )
    return old


def _comparable(about: Any) -> Any:
    """Without what may differ between the runs of a file, of which each has its own commit."""
    if not isinstance(about, dict):
        return about
    return {k: v for k, v in about.items() if k not in ("load_before", "commit")}


def main() -> int:
    """Trains what is missing and reports; 1 when the ranges of the two groups do not overlap."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="YAML of a dataset")
    parser.add_argument("--model", default="yolo26n.yaml")
    parser.add_argument("--imgsz", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.002)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time (default: 1)")
    parser.add_argument("--json", type=Path, help="runs are kept there, and not repeated")
    parser.add_argument("--one", nargs=2, metavar=("LOADER", "SEED"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="keep the run folders there")
    args = parser.parse_args()
    if args.one:
        train_one(args.one[0], int(args.one[1]), args, args.folder)
        return 0
    values = begin(args)
    there = {(run["loader"], run["seed"]) for run in values["runs"]}
    wanted = [(loader, seed) for seed in range(args.seeds) for loader in LOADERS]
    with tempfile.TemporaryDirectory() as temporary, ThreadPoolExecutor(args.jobs) as pool:
        folder = (args.folder or Path(temporary)).resolve()
        starts = [pool.submit(run, *pair, folder) for pair in wanted if pair not in there]
        try:
            for done in as_completed(starts):
                values["runs"].append(made := done.result())
                values["runs"].sort(key=lambda run: (run["seed"], run["loader"]))
                if args.json:
                    results.save(args.json, values)
                last = made["curves"]["mAP50"][-1]
                print(f"{made['loader']:12} seed {made['seed']}: mAP50 {last:.4f}", flush=True)
        finally:
            pool.shutdown(cancel_futures=True)  # after a failed run, no others
    return report(values, args)


def run(loader: str, seed: int, folder: Path) -> dict[str, Any]:
    """One run in a process of its own.

    Raises:
        SystemExit: it failed.
    """
    began = time.monotonic()
    more = ["--one", loader, str(seed), "--folder", str(folder)]
    command = [sys.executable, __file__, *sys.argv[1:], *more]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{loader}, seed {seed}: {done.stdout[-3000:]} {done.stderr[-3000:]}")
    return {
        "loader": loader, "seed": seed, "date": results.today(),
        "seconds": round(time.monotonic() - began, 1),
        "commit": environment.versions().get("commit"),
        "curves": read_curves(folder / f"{loader}-{seed}" / "results.csv"),
    }  # fmt: skip


def report(values: dict[str, Any], args: argparse.Namespace) -> int:
    """Prints, writes and judges what the runs gave."""
    values |= {"final": {}, "p_value": {}, "overlap": {}}
    failed = 0
    for name in ("mAP50", "mAP50-95"):
        # The mean of the last three epochs: a single one jumps.
        groups = {
            loader: [mean(run["curves"][name][-3:]) for run in values["runs"]
                     if run["loader"] == loader]
            for loader in LOADERS
        }  # fmt: skip
        values["final"][name] = {loader: summary(group) for loader, group in groups.items()}
        a, b = groups.values()
        values["p_value"][name] = permutation_p(a, b)
        values["overlap"][name] = max(min(a), min(b)) <= min(max(a), max(b))
        failed |= not values["overlap"][name]
        for loader in LOADERS:
            s = values["final"][name][loader]
            print(f"{name:9} {loader:12} {s['mean']:.4f} +- {s['stdev']:.4f} "
                  f"({s['min']:.4f} to {s['max']:.4f}), n = {len(s['values'])}")  # fmt: skip
        print(f"{name:9} permutation test p = {values['p_value'][name]:.2f}, "
              f"ranges overlap: {values['overlap'][name]}")  # fmt: skip
    if args.json:
        results.save(args.json, values)
    return failed


if __name__ == "__main__":
    sys.exit(main())
