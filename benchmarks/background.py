"""What recording steps and uploading checkpoints cost the training loop.

Times the calls that a recorded step makes (Ultralytics' callbacks included), and `Uploader.put`.
Then takes steps of a fixed kind (Python, and a small product of matrices) in slices, in turns
without an upload and with one that never ends: to a folder, and to moto's S3 server in another
process, which shares the cores.

    python benchmarks/background.py --json benchmarks/results/background.json
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

import numpy as np
import torch
from s3fs import S3FileSystem
from ultralytics.utils.callbacks import get_default_callbacks

from yolodata.bench import results
from yolodata.telemetry import Telemetry
from yolodata.train.checkpoint.uploader import Uploader
from yolodata.ultralytics.telemetry import attach

SERVER = """
import logging, sys, time
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
server.start()
print("http://%s:%s" % server.get_host_and_port(), flush=True)
sys.stdin.read()
"""


class _Loop:
    """As much of a trainer as callbacks see."""

    def __init__(self, folder: Path) -> None:
        self.callbacks = get_default_callbacks()
        self.save_dir, self.device, self.epoch, self.metrics = folder, torch.device("cpu"), 0, {}
        self.train_loader = _Batches()

    def add_callback(self, event: str, function: Any) -> None:
        self.callbacks[event].append(function)

    def run_callbacks(self, event: str) -> None:
        for function in self.callbacks[event]:
            function(self)


class _Batches:
    """As much of a loader as the recorder sees, with the counters of a real one."""

    batch_size = 16

    def __init__(self) -> None:
        self.telemetry = Telemetry()
        for stage in ("plan", "render", "decode", "wait", "collate"):
            self.telemetry.add(stage, 1.0)
        for name in ("batches", "samples", "discarded", "decodes", "hits"):
            self.telemetry.count(name)

    def __len__(self) -> int:
        return 1 << 20


def recorded_step(steps: int, folder: Path) -> dict[str, float]:
    """Microseconds that a recorded step costs more than one without; `cpu_mean` of its thread."""
    bare, loop = _Loop(folder), _Loop(folder)
    attach(loop)
    found: dict[str, list[float]] = {"bare": [], "recorded": []}
    cpu = {"bare": 0.0, "recorded": 0.0}
    loop.run_callbacks("on_train_epoch_start")
    for _ in range(steps):
        for name, one in (("bare", bare), ("recorded", loop)):
            start, work = time.perf_counter(), time.thread_time()
            one.run_callbacks("on_train_batch_start")
            one.run_callbacks("on_train_batch_end")
            cpu[name] += 1e6 * (time.thread_time() - work) / steps
            found[name].append(1e6 * (time.perf_counter() - start))
    loop.run_callbacks("teardown")
    rows = (folder / "steps.csv").read_text().count("\n") - 1
    assert rows == steps, f"{rows} rows for {steps} steps"
    extra = np.array(found["recorded"]) - statistics.median(found["bare"])
    return {
        "median": float(np.median(extra)),
        "mean": float(extra.mean()),
        "cpu_mean": cpu["recorded"] - cpu["bare"],
        "p99": float(np.percentile(extra, 99)),
        "max": float(extra.max()),
    }


def slice_of_steps(seconds: float) -> float:
    """Steps a second."""
    a = torch.rand(256, 256)
    steps, start = 0, time.perf_counter()
    while (passed := time.perf_counter() - start) < seconds:
        a = (a @ a).clamp(0, 1)
        sum(i * i for i in range(10_000))
        steps += 1
    return steps / passed


def while_uploading(
    url: str, options: dict[str, Any], rounds: int, mib: int, folder: Path
) -> dict[str, Any]:
    """Steps a second with uploads that never end, as a share of those without."""
    path = folder / "last.ckpt"
    path.write_bytes(np.random.default_rng(0).bytes(mib << 20))
    shares, puts = [], []
    with Uploader(url, keep=2, options=options) as up:
        up.put(path)
        assert up.flush(120), up.status()  # connected
        first, busy, cpu = up.status().bytes, 0.0, 0.0
        for _ in range(rounds):
            alone = slice_of_steps(0.5)
            steps = 0.0
            began = time.perf_counter()
            others = time.process_time() - time.thread_time()
            for _ in range(5):
                start = time.perf_counter()
                up.put(path)
                puts.append(1e6 * (time.perf_counter() - start))
                steps += slice_of_steps(0.1) / 5
            shares.append(steps / alone)
            up.flush(60)
            busy += time.perf_counter() - began
            cpu += time.process_time() - time.thread_time() - others
        status = up.status()
    assert status.failed == status.errors == 0, status
    sent = (status.bytes - first) / (mib << 20)
    return {
        "lost_ms_a_checkpoint": 1e3 * (1 - statistics.median(shares)) * busy / sent,
        "cpu_ms_a_checkpoint": 1e3 * cpu / sent,
        "share_median": statistics.median(shares),
        "share_quartiles": statistics.quantiles(shares, n=4)[::2],
        "rounds": rounds,
        "put_us_median": statistics.median(puts),
        "put_us_max": max(puts),
        "checkpoint_mib": mib,
        "uploaded_mib_s": (status.bytes - first) / busy / 2**20,
    }


def main() -> int:
    """Measures, prints, saves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--mib", type=int, default=40, help="size of a checkpoint")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = results.about("background") | {"steps": args.steps}
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with tempfile.TemporaryDirectory() as name, server:
        folder = Path(name)
        endpoint = server.stdout.readline().strip()
        options = {"endpoint_url": endpoint, "key": "k", "secret": "s",
                   "client_kwargs": {"region_name": "eu-west-1"}}  # fmt: skip
        S3FileSystem(**options).mkdir("runs")
        result["recorded_step_us"] = recorded_step(args.steps, folder)
        rest = (args.rounds, args.mib, folder)
        result["upload_to_folder"] = while_uploading(str(folder / "far"), {}, *rest)
        result["upload_to_s3"] = while_uploading("s3://runs/a", options, *rest)
        server.stdin.close()
    print(json.dumps(result, indent=2))
    if args.json:
        results.save(args.json, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
