"""Takes machines away from a training under elastic torchrun, and gives them back.

Each "machine" is a torchrun agent on this one, with an address of its own (127.0.0.1, 127.0.0.2,
...) and one rank on the CPU:

    torchrun --nnodes=1:N --max-restarts=99 --rdzv-backend=c10d -m yolodata.train ... resume=auto

A trial lets all of them train, takes one away after a random batch, waits until the others train
without it, starts it again, and waits until all train together and the run ends. It is taken away
by SIGKILL to the agent and its rank at once ("lost") or by SIGTERM to the agent ("asked", as a spot
machine is). The rendezvous is kept by a process of its own, so that any machine may go; in the
trial "host" the first machine keeps it, and is the one that goes.

Whenever the ranks start anew, they go on from a checkpoint: what was trained after it is trained
again. What is left without that is the surviving line. In it every sample of every epoch has to be
trained on once, in the order and with the pixels and boxes of the run that nobody disturbed, which
one process made. Losses and weights cannot be the same to the bit: sums over ranks are added in
another order, and each rank has a batch norm of its own. How far they are away is noted, with batch
norm as it is and with batch norm frozen, and of the same run by N ranks that nobody disturbed.

    python benchmarks/elastic.py --data DATA.yaml --json benchmarks/results/elastic.json
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

EPOCHS, BATCH = 6, 12
CONF = "last_call_timeout=2,keep_alive_interval=1,keep_alive_max_attempt=3"
LIMIT = 300  # seconds that only end a hang


# Of a rank: this file is its `yolodata.callbacks`.

fed: list[str] = []
life: list[str] = []  # which start of all ranks this is


def on_train_start(trainer: Any) -> None:
    preprocess, model_train = trainer.preprocess_batch, trainer._model_train

    def noting(batch: dict[str, Any]) -> dict[str, Any]:
        boxes, classes, places = batch["bboxes"], batch["cls"], batch["batch_idx"]
        fed[:] = []
        for at, image in enumerate(batch["img"]):
            parts = (image, classes[places == at], boxes[places == at])
            content = b"".join(part.numpy().tobytes() for part in parts)
            fed.append(hashlib.sha256(content).hexdigest()[:16])
        return preprocess(batch)

    def frozen() -> None:
        from torch import nn

        model_train()
        for module in trainer.model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()

    trainer.preprocess_batch = noting
    if os.environ.get("FREEZE_BN") == "1":
        trainer._model_train = frozen
    life.append(trainer.process_group.from_first(f"{time.time():.3f}"))


def on_train_batch_end(trainer: Any) -> None:
    group = trainer.process_group
    note = {
        "life": life[-1],
        "at": [trainer.epoch, trainer.at.step],
        "rank": group.rank,
        "ranks": group.size,
        "fed": list(fed),
        "loss": {name: float(value) for name, value in trainer.loss_items.items()},
        "time": time.time(),
        "pid": os.getpid(),
    }
    with (Path(os.environ["NOTES"]) / f"{os.environ['MACHINE']}.jsonl").open("a") as file:
        file.write(json.dumps(note) + "\n")
    time.sleep(float(os.environ["PAUSE"]))


def on_train_epoch_end(trainer: Any) -> None:
    import torch
    from ultralytics.utils.torch_utils import unwrap_model

    # Before the end, where the average becomes that of the best weights.
    if trainer.process_group.rank == 0 and trainer.epoch == EPOCHS - 1:
        state = {"model": unwrap_model(trainer.model), "average": trainer.ema.ema}
        weights = {name: of.state_dict() for name, of in state.items()}
        torch.save(weights, Path(os.environ["NOTES"]) / "weights.pt")


# The machines.


class Machines:
    """The agents of one run.

    Args:
        args: of the command line.
        folder: of data, network and runs.
        name: of the run.
        count: machines at most.
        frozen: whether batch norm is.
        host: who keeps the rendezvous: a process of its own (None) or a machine.
    """

    def __init__(
        self, args: Any, folder: Path, name: str, count: int, frozen: bool, host: int | None = None
    ) -> None:
        self.args, self.folder, self.name, self.count = args, folder, name, count
        self.notes = folder / "notes" / name
        for place in (self.notes, folder / "runs" / name):
            shutil.rmtree(place, ignore_errors=True)
        self.notes.mkdir(parents=True)
        self.frozen, self.host = frozen, host
        self.agents: dict[int, subprocess.Popen[bytes]] = {}
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.store = None
        if host is None:
            self.store = subprocess.Popen([sys.executable, __file__, "--store", str(self.port)])

    def start(self, machine: int) -> None:
        """Starts the agent of a machine."""
        conf = f"is_host={str(machine == self.host).lower()},{self.args.conf}"
        # torchrun's own store would stay where the first machine was (docs/training.md#elastic).
        env = {
            **os.environ, "OMP_NUM_THREADS": "1",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": str(int(not self.args.share_store)),
            "NOTES": str(self.notes), "MACHINE": str(machine), "PAUSE": str(self.args.pause),
            "FREEZE_BN": str(int(self.frozen)),
        }  # fmt: skip
        command = [
            sys.executable, "-m", "torch.distributed.run", f"--nnodes=1:{self.count}",
            "--nproc-per-node=1", "--max-restarts=99", "--rdzv-backend=c10d",
            f"--rdzv-endpoint=127.0.0.1:{self.port}", f"--rdzv-id={self.name}",
            f"--rdzv-conf={conf}", f"--local-addr=127.0.0.{machine + 1}",
            "-m", "yolodata.train", f"model={self.folder / 'network.yaml'}",
            f"data={self.args.data}", f"epochs={EPOCHS}", "imgsz=64", f"batch={BATCH}", "nbs=24",
            "device=cpu", "amp=False", "plots=False", "verbose=False", "val=False", "workers=0",
            "optimizer=SGD", "warmup_epochs=1.5", "close_mosaic=1",
            f"project={self.folder / 'runs'}", f"name={self.name}", "resume=auto",
            "yolodata.checkpoint_minutes=0.02", "yolodata.threads=1",
            f"yolodata.callbacks={__file__}",
        ]  # fmt: skip
        with (self.folder / f"{self.name}-{machine}.log").open("ab") as log:
            self.agents[machine] = subprocess.Popen(
                command, env=env, stdout=log, stderr=log, start_new_session=True
            )

    def lines(self) -> list[dict[str, Any]]:
        """What all ranks noted, in order of time; the line that a kill cut in two is left out."""
        found = []
        for file in self.notes.glob("*.jsonl"):
            machine = int(file.stem)
            whole = [line for line in file.read_text().split("\n")[:-1] if line.endswith("}")]
            found += [{"machine": machine, **json.loads(line)} for line in whole]
        return sorted(found, key=lambda line: float(line["time"]))

    def wait(self, until: Callable[[], Any], what: str) -> Any:
        """Waits, and returns what is there then.

        Raises:
            RuntimeError: it takes too long.
        """
        deadline = time.monotonic() + LIMIT
        while not (found := until()):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what}: not within {LIMIT} s")
            time.sleep(0.1)
        return found

    def trained(self, ranks: int, since: float, batches: int) -> list[dict[str, Any]]:
        """Lines of rank 0 in a start of so many ranks, if there are enough since then."""
        found = [
            line
            for line in self.lines()
            if line["ranks"] == ranks and line["time"] > since and line["rank"] == 0
        ]
        return found if len(found) >= batches else []

    def take_away(self, machine: int, how: str) -> None:
        """Ends the agent of a machine, and its rank."""
        agent = self.agents.pop(machine)
        if how == "asked":
            agent.terminate()
        else:
            children = _children(agent.pid)
            for pid in (agent.pid, *children):
                os.kill(pid, signal.SIGKILL)
        agent.wait()

    def ended(self) -> list[int] | None:
        """The exit statuses of the agents, if all have ended."""
        codes = [agent.poll() for agent in self.agents.values()]
        return None if None in codes else [int(code or 0) for code in codes]

    def close(self) -> None:
        """Ends what is left."""
        for machine in list(self.agents):
            if self.agents[machine].poll() is None:
                self.take_away(machine, "lost")
        if self.store is not None:
            self.store.kill()
            self.store.wait()


def _children(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def keep_rendezvous(port: int) -> None:
    """Keeps the rendezvous of the agents, as a small machine that stays would."""
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", port, is_master=True, wait_for_workers=False)
    print(f"a rendezvous at port {store.port}", file=sys.stderr)
    signal.pause()


# What is compared.


def surviving_line(lines: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Returns the batches that led to the weights at the end, and what there was in all.

    Of every start: what it trained before the place where the next one went on.

    Returns:
        of every batch: `at` (epoch, batch), `fed` (hashes, in the order of one process), `loss`.
        `starts` (ranks, and batches trained of each), `repeated` (batches trained again), `wrong`.
    """
    lives: dict[str, dict[tuple[int, int], dict[int, Any]]] = {}
    for line in lines:
        batches = lives.setdefault(line["life"], {})
        batches.setdefault(tuple(line["at"]), {})[line["rank"]] = line
    wrong, kept = [], []
    order = sorted(lives, key=float)
    begins = [min(lives[name]) for name in order]
    repeated = 0
    for number, name in enumerate(order):
        next_begin = min(begins[number + 1 :], default=None)
        for at, ranks in sorted(lives[name].items()):
            if next_begin is not None and at >= next_begin:
                repeated += 1
                continue
            size = next(iter(ranks.values()))["ranks"]
            if sorted(ranks) != list(range(size)):  # it was killed before it could note it
                wrong.append(f"batch {at} survives, but only ranks {sorted(ranks)} noted it")
                continue
            parts = [ranks[rank]["fed"] for rank in range(size)]
            together = [sample for place in zip(*parts, strict=True) for sample in place]
            kept.append({"at": at, "fed": together, "loss": ranks[0]["loss"]})
    starts = [
        {"ranks": next(iter(next(iter(lives[n].values())).values()))["ranks"],
         "batches": len(lives[n])}
        for n in order
    ]  # fmt: skip
    return kept, {"starts": starts, "repeated": repeated, "wrong": wrong}


def compared(kept: list[Any], whole: list[Any]) -> dict[str, Any]:
    """The surviving line against the run of one process that nobody disturbed."""
    wrong = []
    if [batch["at"] for batch in kept] != [batch["at"] for batch in whole]:
        wrong.append("batches are missing, or survive twice")
    away = []
    samples = 0
    for one, other in zip(whole, kept, strict=False):
        # The last step repeats some samples where an epoch does not divide by the ranks.
        if other["fed"][: len(one["fed"])] != one["fed"]:
            wrong.append(f"batch {other['at']} had other samples")
        samples += len(one["fed"])
        sums = [sum(batch["loss"].values()) for batch in (one, other)]
        away.append(abs(sums[1] - sums[0]) / sums[0])
    return {"batches": len(kept), "samples": samples, "wrong": wrong,
            "loss_away": {"median": sorted(away)[len(away) // 2], "most": max(away)}}  # fmt: skip


def weights_away(one: Path, other: Path) -> dict[str, float]:
    """How far weights, and their averages, are away: |a - b| / |a|, of all in one vector."""
    import torch

    a, b = (torch.load(path / "weights.pt", weights_only=True) for path in (one, other))
    found = {}
    for kind in a:
        pairs = [
            (a[kind][name].double(), b[kind][name].double())
            for name in a[kind]
            if a[kind][name].is_floating_point() and "running_" not in name
        ]
        difference = sum(float(((x - y) ** 2).sum()) for x, y in pairs)
        found[kind] = (difference / sum(float((x**2).sum()) for x, _ in pairs)) ** 0.5
    return found


def undisturbed(args: Any, folder: Path, name: str, count: int, frozen: bool) -> Machines:
    """A run of so many ranks that nobody disturbs."""
    machines = Machines(args, folder, name, count, frozen)
    try:
        for machine in range(count):
            machines.start(machine)
        codes = machines.wait(machines.ended, f"{name}: the end")
    finally:
        machines.close()
    if any(codes):
        raise RuntimeError(f"{name} ended with {codes}; see {folder}")
    return machines


def trial(args: Any, folder: Path, how: str, whole: Machines) -> dict[str, Any]:
    """One machine goes and comes back; what was different is in the result's `wrong`."""
    every = len({tuple(line["at"]) for line in whole.lines()})
    count = args.machines
    machines = Machines(
        args, folder, "trial", count, whole.frozen, host=0 if how == "host" else None
    )
    result: dict[str, Any] = {"taken": how, "frozen_batch_norm": whole.frozen}
    try:
        for machine in range(count):
            machines.start(machine)
        after = random.randint(2, every // 4)
        machines.wait(lambda: machines.trained(count, 0, after), "the beginning")
        gone = random.randrange(count) if args.lose is None else args.lose
        gone = 0 if how == "host" else gone
        taken = time.time()
        machines.take_away(gone, "lost" if how == "host" else how)
        result |= {"machine": gone, "after_batch": after}
        if how == "host":
            codes = machines.wait(machines.ended, "the end of the others")
            result |= {"others_ended_with": codes, "others_end_s": round(time.time() - taken, 1)}
            for machine in range(count):
                machines.start(machine)
        else:
            fewer = machines.wait(
                lambda: machines.trained(count - 1, taken, random.randint(2, 6)),
                "training with fewer",
            )
            back = time.time()
            machines.start(gone)
            result["fewer_s"] = round(fewer[0]["time"] - taken, 1)
            taken = back
        more = machines.wait(lambda: machines.trained(count, taken, 1), "training with all again")
        result["all_again_s"] = round(more[0]["time"] - taken, 1)
        result["ended_with"] = machines.wait(machines.ended, "the end")
        kept, line = surviving_line(machines.lines())
        result |= {**line, **compared(kept, surviving_line(whole.lines())[0])}
        result["wrong"] += line["wrong"]
        result["weights_away"] = weights_away(whole.notes, machines.notes)
        if any(result["ended_with"]):
            result["wrong"].append("an agent did not end with 0")
        if how == "asked" and result["repeated"]:
            result["wrong"].append(f"{result['repeated']} batches were repeated")
    except RuntimeError as error:
        logs = [file.read_text()[-3000:] for file in sorted(folder.glob("trial-*.log"))]
        print("\n".join(logs), file=sys.stderr)
        result["wrong"] = [str(error)]
    finally:
        machines.close()
        for file in folder.glob("trial-*.log"):
            file.unlink()
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path)
    parser.add_argument("--trials", type=int, default=4, help="of each kind")
    parser.add_argument("--machines", type=int, default=2)
    parser.add_argument("--kinds", nargs="+", default=["lost", "asked", "host"])
    parser.add_argument("--pause", type=float, default=0.2, help="seconds after each batch")
    parser.add_argument("--conf", default=CONF, help="--rdzv-conf of torchrun")
    parser.add_argument("--lose", type=int, help="the machine that goes; default: any")
    parser.add_argument(
        "--share-store", action="store_true", help="leave torchrun's store in the first agent"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--store", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.store:
        keep_rendezvous(args.store)
        return 0
    from batch_notes import NETWORK  # beside this file, which ranks import from elsewhere

    random.seed(args.seed)
    trials: list[Any] = []
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="yolodata-elastic-") as place:
        folder = Path(place)
        (folder / "network.yaml").write_text(NETWORK)
        whole = {f: undisturbed(args, folder, f"one-{f}", 1, f) for f in (False, True)}
        together = []
        for frozen, one in whole.items():
            other = undisturbed(args, folder, f"all-{frozen}", args.machines, frozen)
            kept = [surviving_line(run.lines())[0] for run in (other, one)]
            found = {**compared(*kept), "weights_away": weights_away(one.notes, other.notes)}
            together.append({"frozen_batch_norm": frozen, **found})
            print(json.dumps(together[-1]), flush=True)
        for number in range(args.trials):
            for kind in args.kinds:
                trials.append(trial(args, folder, kind, whole[number % 2 == 1]))
                print(json.dumps(trials[-1]), flush=True)
                result = summary(args, together, trials)
    print(f"{len(trials)} trials, {result['wrong']} wrong")
    return 1 if result["wrong"] else 0


def summary(args: argparse.Namespace, together: list[Any], trials: list[Any]) -> dict[str, Any]:
    """What is written, with --json: all trials, and how many of them went wrong."""
    from yolodata.bench import results

    found = {
        **results.about("elastic"), "data": args.data.parent.name, "machines": args.machines,
        "rdzv_conf": args.conf, "undisturbed": together, "trials": trials,
        "wrong": sum(bool(t["wrong"]) for t in [*together, *trials]),
    }  # fmt: skip
    if args.json:
        results.save(args.json, found)
    return found


if __name__ == "__main__":
    sys.exit(main())
