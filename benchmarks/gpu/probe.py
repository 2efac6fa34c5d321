"""The renderer alone, and the copies that bound it, in one process.

    python benchmarks/gpu/probe.py SHARDS OUT.json [--device cuda] [--imgsz 640] [--only NAME ...]
    ncu ... python benchmarks/gpu/probe.py SHARDS - --launches 8    # nothing is timed

SHARDS is a dataset directory of raw shards. A line is printed as soon as it is known, and the JSON
is written anew after each, so that what was measured survives whatever comes next. A row that fails
says why and does not stop the others. Rows are those of `python -m yolodata.bench`.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import torch

from yolodata.bench import results, rows
from yolodata.bench.registry import make
from yolodata.bench.subject import Row, Task

CEILING = "gpu-copy-device"
KINDS = ("gpu-copy", "gpu-kernel")
ROWS = {row.id: row for row in rows.gpu_rows(1) if row.kind in KINDS}


def measure(row: Row, task: Task, rounds: int, launches: int = 0) -> dict[str, Any]:
    """Pictures a second: median and spread of `rounds` bursts. With `launches`, only these."""
    subject: Any = make(replace(row, device=task.device), task)  # first equal, or it raises
    try:
        for _ in range(launches):
            subject.once()
        subject.finish()
        if launches:
            return {}
        count, repeats = len(subject.once()), subject.repeats()
        speeds = [repeats * count / subject.burst(repeats) for _ in range(rounds)]
        facts = subject.facts()
    finally:
        subject.close()
    return {"label": row.label, "img_s": results.spread(speeds), **facts,
            "gb_s": median(speeds) * facts["bytes_each"] / 1e9,
            "launches_a_sample": repeats}  # fmt: skip


def main(argv: list[str] | None = None) -> int:
    """1 if a row failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("shards", type=Path)
    parser.add_argument("out", help="JSON file, or - for none")
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    parser.add_argument("--imgsz", type=int, default=640)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="*", default=list(ROWS), choices=list(ROWS), metavar="ROW")
    parser.add_argument("--note", help="written into the results")
    parser.add_argument("--launches", type=int, default=0, help="of each row, and no timing")
    args = parser.parse_args(argv)
    task = Task(args.shards, args.imgsz, args.batch, 0, (), args.device)
    note = {"note": args.note} if args.note else {}
    found = results.about(
        "gpu-kernel", imgsz=args.imgsz, batch=args.batch, rounds=args.rounds, **note
    )
    found |= {"rows": [], "complete": False}
    if gpu := found["machine"].get("gpu"):
        print(f"{gpu['name']}, driver {gpu['driver']}, CUDA {gpu['cuda']}", flush=True)
    failed = 0
    for name in args.only:
        begun = time.perf_counter()
        try:
            row = {"name": name, **measure(ROWS[name], task, args.rounds, args.launches)}
            if args.launches:
                continue
            copy = next((r for r in found["rows"] if r["name"] == CEILING and "gb_s" in r), None)
            if copy is not None and name != CEILING:
                row["of_copy"] = row["gb_s"] / copy["gb_s"]
            found["rows"].append(row)
            speed = row["img_s"]
            share = f" {row['of_copy']:6.1%} of {CEILING}" if "of_copy" in row else ""
            said = (
                f"{speed['median']:12,.0f} img/s ({speed['min']:,.0f} to {speed['max']:,.0f}) "
                f"{row['gb_s']:8.1f} GB/s{share}, {time.perf_counter() - begun:.1f} s"
            )
        except Exception as error:
            failed, reason = 1, f"{type(error).__name__}: {error}"
            traceback.print_exc()
            found["rows"].append({"name": name, "error": reason})
            said = f"FAILED: {reason[:300]}"
        print(f"{name:25} {said}", flush=True)
        if args.device == "cuda":
            torch.cuda.empty_cache()
        if args.out != "-":
            results.save(Path(args.out), found)
    if args.out != "-":
        results.save(Path(args.out), found | {"complete": True})
    return failed


if __name__ == "__main__":
    sys.exit(main())
