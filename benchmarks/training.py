"""Does a model learn the same from our batches as from Ultralytics' own?

    python benchmarks/training.py --data DATA.yaml --json OUT.json --plot OUT.png

Trains the same model from scratch with both loaders, several seeds each, and compares the final mAP
of the two groups. The loaders draw different random numbers, so single runs differ as seeds do; the
groups must overlap. Every run is a process of its own.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean, stdev
from typing import Any

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

        extra["trainer"] = yolodata.DetectionTrainer.configure(folder=str(folder / "shards"))
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
    pooled, size = a + b, len(a)
    observed = abs(mean(a) - mean(b))
    splits = list(itertools.combinations(range(len(pooled)), size))
    hits = 0
    for chosen in splits:
        first = [pooled[i] for i in chosen]
        second = [pooled[i] for i in range(len(pooled)) if i not in chosen]
        hits += abs(mean(first) - mean(second)) >= observed - 1e-12
    return hits / len(splits)


def summary(values: list[float]) -> dict[str, Any]:
    """Mean and spread of a group."""
    spread = stdev(values) if len(values) > 1 else 0.0
    return {"mean": mean(values), "stdev": spread, "min": min(values), "max": max(values),
            "values": values}  # fmt: skip


def draw(curves: dict[str, list[dict[str, list[float]]]], file: Path, title: str) -> None:
    """The curves of every run, a panel for each of `CURVES`."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(1, len(CURVES), figsize=(4.2 * len(CURVES), 3.6))
    colours = dict(zip(LOADERS, ("tab:orange", "tab:blue"), strict=True))
    for panel, name in zip(panels, CURVES.values(), strict=True):
        for loader, runs in curves.items():
            for i, run in enumerate(runs):
                panel.plot(
                    range(1, len(run[name]) + 1), run[name], color=colours[loader], alpha=0.75,
                    label=loader if i == 0 else None,
                )  # fmt: skip
        panel.set_title(name)
        panel.set_xlabel("epoch")
        panel.grid(alpha=0.3)
    panels[0].legend()
    figure.suptitle(title)
    figure.tight_layout()
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)


def main() -> int:
    """Trains every run and reports; 1 when the ranges of the two groups do not overlap."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="YAML of a dataset")
    parser.add_argument("--model", default="yolo26n.yaml")
    parser.add_argument("--imgsz", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=24)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.002)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--one", nargs=2, metavar=("LOADER", "SEED"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="keep the runs there")
    args = parser.parse_args()
    if args.one:
        train_one(args.one[0], int(args.one[1]), args, args.folder)
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.folder or Path(temporary)).resolve()
        curves: dict[str, list[dict[str, list[float]]]] = {loader: [] for loader in LOADERS}
        for seed in range(args.seeds):
            for loader in LOADERS:
                command = [sys.executable, __file__, *sys.argv[1:], "--one", loader, str(seed)]
                done = subprocess.run(
                    [*command, "--folder", str(folder)], capture_output=True, text=True
                )
                if done.returncode:
                    print(done.stdout[-3000:], done.stderr[-3000:], file=sys.stderr)
                    return 1
                curves[loader].append(read_curves(folder / f"{loader}-{seed}" / "results.csv"))
                last = curves[loader][-1]
                print(f"{loader:12} seed {seed}: mAP50 {last['mAP50'][-1]:.4f}", flush=True)
    return report(curves, args)


def report(curves: dict[str, list[dict[str, list[float]]]], args: argparse.Namespace) -> int:
    """Prints, writes and judges what the runs gave."""
    names = ("model", "imgsz", "epochs", "batch", "lr", "seeds", "device")
    result = results.about("training", **{name: str(getattr(args, name)) for name in names})
    result |= {"dataset": args.data.resolve().parent.name, "final": {}, "p_value": {},
               "overlap": {}, "curves": curves}  # fmt: skip
    failed = 0
    for name in ("mAP50", "mAP50-95"):
        # The mean of the last three epochs: a single one jumps.
        groups = {loader: [mean(run[name][-3:]) for run in runs] for loader, runs in curves.items()}
        result["final"][name] = {loader: summary(values) for loader, values in groups.items()}
        a, b = groups.values()
        result["p_value"][name] = permutation_p(a, b)
        result["overlap"][name] = max(min(a), min(b)) <= min(max(a), max(b))
        failed |= not result["overlap"][name]
        for loader in LOADERS:
            s = result["final"][name][loader]
            print(f"{name:9} {loader:12} {s['mean']:.4f} +- {s['stdev']:.4f} "
                  f"({s['min']:.4f} to {s['max']:.4f})")  # fmt: skip
        print(f"{name:9} permutation test p = {result['p_value'][name]:.2f}, "
              f"ranges overlap: {result['overlap'][name]}")  # fmt: skip
    if args.json:
        results.save(args.json, result)
    if args.plot:
        draw(curves, args.plot, f"{args.model}, {result['dataset']}, imgsz {args.imgsz}, "
             f"{args.seeds} seeds each")  # fmt: skip
    return failed


if __name__ == "__main__":
    sys.exit(main())
