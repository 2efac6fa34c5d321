"""Interrupts training at random moments, goes on with the same command, compares with a whole run.

Each trial starts the same training with `resume=auto`, sends SIGKILL, SIGTERM or SIGINT after a
random time, and starts it again. What must be the same to the last bit as in the run that nobody
interrupted: the sample stream, the loss of every batch, the weights and their average. A kill may
repeat batches since the last checkpoint; a repeated batch must be the same again. Once training has
begun, SIGTERM and SIGINT must end it with status 75; the time from the signal to the end is noted.

With several ranks SIGKILL strikes all processes at once, SIGTERM and SIGINT strike torchrun; and
there are trials in which a random rank alone is killed ("lost"), stopped ("frozen") or hangs in a
step after the first four ("hanging"): all processes must be gone within 60 s.

    python benchmarks/preemption.py --data DATA.yaml --json benchmarks/results/preemption.json
    python benchmarks/preemption.py --data DATA.yaml --ranks 2 --trials 6 --json …

With one rank each run is a fork of this process, which has everything imported already, so that the
signals fall into training and not into imports; with several, torchrun is started each time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import batch_notes
from batch_notes import noted

SIGNALS = ("SIGKILL", "SIGTERM", "SIGINT")
OF_ONE_RANK = {"lost": signal.SIGKILL, "frozen": signal.SIGSTOP, "hanging": None}
QUICK = 4  # first steps, which may take ten times as long


def train(folder: Path, name: str, data: Path) -> None:
    """One run in this process, which `batch_notes` writes down."""
    import torch
    from ultralytics import YOLO

    from yolodata.train import trainer_for

    torch.set_num_threads(1)
    model = YOLO(folder / "network.yaml")
    for event in ("on_train_start", "on_train_batch_start", "on_train_batch_end", "on_train_end"):
        model.add_callback(event, getattr(batch_notes, event))
    model.train(
        trainer=trainer_for("detect").configure(checkpoint_minutes=0.01, threads=1),
        **batch_notes.SETTINGS, data=str(data), project=str(folder / "runs"), name=name,
        resume="auto",
    )  # fmt: skip


def start(args: argparse.Namespace, folder: Path, name: str) -> int:
    """Begins a run; returns its process."""
    if args.ranks > 1:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [f"--nproc-per-node={args.ranks}", __file__, "--data", str(args.data)]
        command += ["--as-rank", str(folder), name]
        with (folder / "log.txt").open("a") as log:
            return subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True).pid
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        log = os.open(folder / "log.txt", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.dup2(log, 1)
        os.dup2(log, 2)
        train(folder, name, args.data)
        code = 0
    except SystemExit as stop:
        code = int(stop.code or 0)
    except KeyboardInterrupt:  # before training had begun to listen
        code = 130
    finally:
        os._exit(code)


def wait(pid: int) -> int:
    """The exit status of a run; negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def strike(args: argparse.Namespace, place: Path, pid: int, kind: str) -> list[int]:
    """Sends what the trial is about; returns the processes of the ranks."""
    several = range(args.ranks) if args.ranks > 1 else ()
    ranks = [batch_notes.process(place.parent, place.name, rank)["pid"] for rank in several]
    struck = [pid]
    if kind == "hanging":
        (place / f"{random.choice(several)}.hang").touch()
        return ranks
    if kind in OF_ONE_RANK:
        struck = [random.choice(ranks)]
    elif kind == "SIGKILL":
        struck += ranks
    for each in struck:
        os.kill(each, OF_ONE_RANK.get(kind) or signal.Signals[kind])
    return ranks


def trial(args: argparse.Namespace, folder: Path, kind: str, batches: int) -> Any:
    """One interruption; what was different is in the result's `wrong`.

    It comes up to 0.4 s after a random batch (with one rank, the 0th is the start), which may be
    the last of an epoch: validation, saving and the evaluation at the end are hit too.
    """
    name = "trial"
    for place in (folder / name, folder / "runs" / name):
        shutil.rmtree(place, ignore_errors=True)
    first = QUICK + 1 if kind == "hanging" else int(args.ranks > 1)
    after, delay = random.randint(first, batches), random.uniform(0, 0.4)
    pid = start(args, folder, name)
    while any(len(noted(folder, name, rank)) < after for rank in range(args.ranks)):
        time.sleep(0.002)
    time.sleep(delay)
    sent = time.monotonic()
    ranks = strike(args, folder / name, pid, kind)
    status = wait(pid)
    while any(Path(f"/proc/{rank}").exists() for rank in ranks):
        time.sleep(0.01)
    took = time.monotonic() - sent
    before = len(noted(folder, name, 0))
    for flag in (folder / name).glob("*.hang"):
        flag.unlink()
    again = wait(start(args, folder, name))
    wrong = [] if again == 0 else [f"the second run ended with {again}"]
    if took > 60:
        wrong.append(f"it took {took:.0f} s until all processes were gone")
    # Before training has begun, signals do what they do to any program.
    expected = {-9, 0} if kind == "SIGKILL" else {75, 0} if before else {75, 0, 130, -15}
    if args.ranks == 1 and status not in expected:
        wrong.append(f"the first run ended with {status} after {before} batches")
    wrong += batch_notes.differences(folder, "whole", name, args.ranks)
    repeated = batch_notes.repeated(folder, "whole", name, args.ranks)
    if kind in ("SIGTERM", "SIGINT") and repeated:
        wrong.append(f"{repeated} batches were repeated")
    return {
        "signal": kind, "after_batch": after, "delay_s": round(delay, 3), "status": status,
        "batches": before, "missed": status == 0,
        "end_s": round(took, 2), "repeated": repeated, "wrong": wrong,
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=20, help="of each kind")
    parser.add_argument("--ranks", type=int, default=1)
    parser.add_argument(
        "--kinds", nargs="+", choices=[*SIGNALS, *OF_ONE_RANK], help="of trials (default: all)"
    )
    parser.add_argument("--pause", type=float, default=0.02, help="seconds after each batch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--as-rank", nargs=2, metavar=("FOLDER", "NAME"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.as_rank:
        train(Path(args.as_rank[0]), args.as_rank[1], args.data)
        return 0
    kinds = args.kinds or [*SIGNALS, *(OF_ONE_RANK if args.ranks > 1 else ())]
    if args.ranks == 1 and OF_ONE_RANK.keys() & set(kinds):
        parser.error(f"{', '.join(OF_ONE_RANK)} need --ranks 2 or more")
    import yolodata.train.trainer  # noqa: F401  so that forks need not

    random.seed(args.seed)
    trials = []
    with tempfile.TemporaryDirectory(prefix="yolodata-preemption-") as place:
        folder = Path(place)
        (folder / "network.yaml").write_text(batch_notes.NETWORK)
        (folder / "pause").write_text(json.dumps([args.pause, 0]))
        for _ in range(2 if args.ranks == 1 else 1):  # the first one packs
            shutil.rmtree(folder / "whole", ignore_errors=True)
            shutil.rmtree(folder / "runs", ignore_errors=True)
            if wait(start(args, folder, "whole")):
                print((folder / "log.txt").read_text())
                return 1
        batches = len(noted(folder, "whole", 0))
        for _ in range(args.trials):
            for kind in kinds:
                missed = True
                while missed:  # a run that was over before the signal is no trial
                    trials.append(trial(args, folder, kind, batches))
                    missed = trials[-1]["missed"]
                    print(json.dumps(trials[-1]), flush=True)
            result = summary(args, trials)
    print(
        f"{result['hits']} interruptions, {result['wrong']} wrong; {result['seconds_to_the_end']}"
    )
    return 1 if result["wrong"] else 0


def summary(args: argparse.Namespace, trials: list[Any]) -> dict[str, Any]:
    """What is written, with --json: all trials, and how many of them went wrong."""
    from yolodata.bench import results

    hits = [t for t in trials if not t["missed"]]
    kinds = {t["signal"]: [u["end_s"] for u in hits if u["signal"] == t["signal"]] for t in hits}
    found = {
        **results.about("preemption"), "data": args.data.parent.name,
        "ranks": args.ranks, "trials": trials, "hits": len(hits),
        "wrong": sum(bool(t["wrong"]) for t in trials),
        "seconds_to_the_end": {
            kind: {"n": len(ends), "median": statistics.median(ends), "most": max(ends)}
            for kind, ends in kinds.items()
        },
    }  # fmt: skip
    if args.json:
        results.save(args.json, found)
    return found


if __name__ == "__main__":
    sys.exit(main())
