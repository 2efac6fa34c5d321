"""What serving metrics costs a step of 20 ms.

Slices of steps (small products of matrices) take turns, recorded alone and with metrics, which
another process asks for once a second: fifteen times as often as the configuration that we ship.
Added up is what callbacks and all threads but the one that trains compute more, which hardly
depends on how busy the machine is; and the steps' time, which does.

    python benchmarks/exporter.py --json benchmarks/results/exporter.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from background import _Loop

from yolodata.bench import results
from yolodata.ultralytics.metrics import MetricsWatcher
from yolodata.ultralytics.telemetry import attach

ALLOWED = 0.005
"""Share of a step that metrics may cost."""

SCRAPER = """
import sys, urllib.request
for line in sys.stdin:
    print(len(urllib.request.urlopen(line.strip()).read()), flush=True)
"""


class _Trained(_Loop):
    """As much of a trainer as metrics see."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        super().__init__(folder)
        self.epochs = 1
        self.tloss = {name: torch.tensor(1.0) for name in ("box_loss", "cls_loss", "dfl_loss")}
        self.scaler = torch.amp.GradScaler("cuda", enabled=False)


def step_with_metrics(milliseconds: float, rounds: int, folder: Path) -> dict[str, Any]:
    """What metrics add to steps of so many milliseconds, over all threads of the process.

    Returns:
        of each round the microseconds that a step with metrics computes more (`cpu_us`: callbacks,
        and all threads but the one that trains), and its time by the time of the others (`times`);
        `share` is the median of `cpu_us` by so many milliseconds.
    """
    loops = {"recorded": _Trained(folder / "recorded"), "metrics": _Trained(folder / "metrics")}
    attach(loops["recorded"])
    watching = attach_metrics(loops["metrics"])
    for loop in loops.values():
        loop.run_callbacks("on_train_start")
        loop.run_callbacks("on_train_epoch_start")
    targets = json.loads((folder / "metrics" / "metrics" / "target.rank0.json").read_text())
    url = f"http://{targets[0]['targets'][0]}/metrics\n"
    steps = max(1, round(1e3 / milliseconds))  # a second of them
    a, start = torch.rand(256, 256), time.thread_time()  # not what other processes take
    for _ in range(100):
        a = (a @ a).clamp(0, 1)
    products = max(1, round(milliseconds / (10 * (time.thread_time() - start))))
    scraper = subprocess.Popen(
        [sys.executable, "-c", SCRAPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert scraper.stdin is not None
    assert scraper.stdout is not None
    cpu, times, took = [], [], []
    for number in range(rounds):
        used, passed = {}, {}
        for name in sorted(loops, reverse=bool(number % 2)):
            loop, told = loops[name], 0.0
            others = time.process_time() - time.thread_time()
            begun = time.perf_counter()
            for step in range(2 * steps):
                if name == "metrics" and step % steps == 0:
                    scraper.stdin.write(url)
                    scraper.stdin.flush()
                work = time.thread_time()
                loop.run_callbacks("on_train_batch_start")
                told += time.thread_time() - work
                for _ in range(products):
                    a = (a @ a).clamp(0, 1)
                work = time.thread_time()
                loop.run_callbacks("on_train_batch_end")
                told += time.thread_time() - work
            passed[name] = (time.perf_counter() - begun) / (2 * steps)
            others = time.process_time() - time.thread_time() - others
            used[name] = 1e6 * (others + told) / (2 * steps)
        cpu.append(used["metrics"] - used["recorded"])
        times.append(passed["metrics"] / passed["recorded"])
        took.append(1e3 * passed["recorded"])
    scraper.stdin.close()
    scraped = [int(line) for line in scraper.stdout]
    scraper.wait()
    assert len(scraped) == 2 * rounds, f"{len(scraped)} scrapes in {rounds} rounds"
    exported = watching._exporter.read()
    for loop in loops.values():
        loop.run_callbacks("teardown")
    assert exported["steps"] > steps, exported["steps"]
    return {
        "step_ms": statistics.median(took),
        "scrapes_a_second": 1.0,
        "bytes_a_scrape": scraped[-1],
        "cpu_us": results.spread(cpu),
        "times": results.spread(times),
        "share": statistics.median(cpu) / (1e3 * milliseconds),
    }


def attach_metrics(loop: _Trained) -> MetricsWatcher:
    """Has the steps of a loop recorded, and served on a free port."""
    watching = MetricsWatcher("auto")
    attach(loop, listeners=[watching.add_step])
    watching.attach(loop)
    return watching


def main() -> int:
    """Measures, prints, saves; 1 if metrics cost more than they may."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--milliseconds", type=float, default=20.0, help="of a step")
    parser.add_argument("--rounds", type=int, default=20)
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = results.about("exporter", milliseconds=args.milliseconds, rounds=args.rounds)
    with tempfile.TemporaryDirectory() as name:
        result |= step_with_metrics(args.milliseconds, args.rounds, Path(name))
    print(json.dumps(result, indent=1))
    if args.json:
        results.save(args.json, result)
    return int(result["share"] > ALLOWED)


if __name__ == "__main__":
    sys.exit(main())
