"""What recording steps and uploading checkpoints cost the training loop.

Times the calls that a recorded step makes (Ultralytics' callbacks included) in a process that is
alone, and in one of several ranks (without what travels between them), and `Uploader.put`.
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
from yolodata.train.distributed.waits import LOSS, CollectiveWaits
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


class _Step:
    """A step in which nothing happens but what is recorded of it.

    Args:
        folder: of the run.
        recorded: whether it is.
        ranks: whether it is one of several ranks, whose waits are recorded, too; it then has a
            backward pass, of one product.
    """

    def __init__(self, folder: Path, recorded: bool, ranks: bool) -> None:
        self._loop = loop = _Loop(folder)
        self._watcher = attach(loop) if recorded else None
        self._waits = CollectiveWaits(loop.device) if recorded and ranks else None
        self._weight = torch.ones(8, requires_grad=True) if ranks else None
        self._done = 0
        loop.run_callbacks("on_train_epoch_start")

    def __call__(self) -> None:
        """Makes the calls of `EpochLoop`, and of yolodata's trainers, in their order."""
        waits, watcher = self._waits, self._watcher
        self._callbacks("on_train_batch_start")
        if waits is not None:
            waits.begin()
            for _ in range(2):  # the loss of a network with two heads
                with waits.of(LOSS):
                    pass
        if self._weight is not None:
            loss = (self._weight * 2).sum()
            if waits is not None:
                waits.watch(loss)
            loss.backward()
        if waits is not None:
            waits.summed()
        self._callbacks("on_train_batch_end")
        self._done += 1
        if waits is not None and watcher is not None:
            offered = waits.offer(self._done)
            with waits.agreeing():
                pass
            known = waits.settle(offered)
            if known is not None:
                watcher.late(*known)
        if watcher is not None:  # the progress bar
            watcher.enter(watcher.enter("callbacks"))

    def _callbacks(self, event: str) -> None:
        if self._watcher is None:
            self._loop.run_callbacks(event)
            return
        before = self._watcher.enter("callbacks")
        self._loop.run_callbacks(event)
        self._watcher.enter(before)

    def close(self) -> None:
        """Writes the last rows."""
        self._loop.run_callbacks("teardown")


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


def recorded_step(steps: int, folder: Path) -> dict[str, dict[str, float]]:
    """Microseconds that a recorded step costs more than one without, in turns with that.

    Returns:
        of a process that is alone, and of one of several ranks: quantiles of single steps, and
        `cpu`, time of the processor: median and quartiles over 20 slices of the steps.
    """
    made = {
        (name, recorded): _Step(folder / name, recorded, name != "alone")
        for name in ("alone", "of_several_ranks")
        for recorded in (False, True)
    }
    turns = list(made.items())
    found: dict[tuple[str, bool], list[float]] = {kind: [] for kind in made}
    cpu: dict[tuple[str, bool], list[float]] = {kind: [] for kind in made}
    for _ in range(20):
        spent = dict.fromkeys(made, 0.0)
        for _ in range(steps // 20):
            turns.append(turns.pop(0))
            for kind, step in turns:
                start, work = time.perf_counter(), time.thread_time()
                step()
                spent[kind] += time.thread_time() - work
                found[kind].append(1e6 * (time.perf_counter() - start))
        for kind, seconds in spent.items():
            cpu[kind].append(1e6 * seconds / (steps // 20))
    results = {}
    for name in ("alone", "of_several_ranks"):
        made[name, True].close()
        rows = (folder / name / "steps.csv").read_text().count("\n") - 1
        assert rows == steps // 20 * 20, f"{rows} rows for {steps} steps"
        extra = np.array(found[name, True]) - statistics.median(found[name, False])
        more = np.array(cpu[name, True]) - np.array(cpu[name, False])
        results[name] = {
            "median": float(np.median(extra)),
            "p99": float(np.percentile(extra, 99)),
            "max": float(extra.max()),
            "cpu_median": float(np.median(more)),
            "cpu_quartile_1": float(np.percentile(more, 25)),
            "cpu_quartile_3": float(np.percentile(more, 75)),
        }
    return results


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
    parser.add_argument("--no-uploads", action="store_true", help="only what a recorded step costs")
    args = parser.parse_args()
    torch.set_num_threads(1)
    result = results.about("background") | {"steps": args.steps}
    if args.no_uploads:
        with tempfile.TemporaryDirectory() as name:
            result["recorded_step_us"] = recorded_step(args.steps, Path(name))
        print(json.dumps(result, indent=2))
        return 0
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
