"""Interrupts jobs of a Slurm cluster and compares them with a job that nobody interrupted.

The cluster is real and its machines are not: `slurm_cluster` has slurmctld and a slurmd a node in
namespaces of this machine. `yolodata launch slurm` writes the job: two nodes, one rank each. Each
job trains on real images and is interrupted by every kind once, in random order and after random
batches, which may be before the first:

    signal    scancel --signal=USR1, to the steps or to the script
    requeue   scontrol requeue
    limit     the time limit comes near (scontrol update TimeLimit), and Slurm sends its signal
    node      all processes of a node are killed at once; slurmctld finds out, and the node is
              started again

After each the job has to come back by itself, and at the end the sample stream, the loss of every
batch, the weights and their average have to be those of the whole run, to the last bit.

    sudo PATH=$PATH python benchmarks/slurm.py --data DATA.yaml --json benchmarks/results/slurm.json

With `--container FILE.sif` the ranks are in containers, by the Apptainer that is in the PATH.

Needs root and Debian's slurmctld, slurmd, slurm-client, munge and iproute2; no GPU.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import batch_notes
import slurm_cluster
from slurm_cluster import Cluster, command, until

KINDS = ("signal", "requeue", "limit", "node")
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
RANKS = 2
CONTROL = """\
#!/bin/bash
#SBATCH --nodes=2 --ntasks-per-node=1 --output={name}.out
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n1)
address=$({address})
echo "rendezvous at $address"
srun torchrun --nnodes=2 --nproc-per-node=1 --rdzv-id=$SLURM_JOB_ID --rdzv-backend=c10d \\
    --rdzv-endpoint="$address:$((29500 + SLURM_JOB_ID))" -m yolodata.train {words}
"""
CONTROLS = {
    "by_name": 'srun --nodes=1 --ntasks=1 --nodelist="$first" hostname --ip-address',
    "by_address": r'scontrol show node "$first" | sed -n "s/.*NodeAddr=\([^ ]*\).*/\1/p"',
}
"""Scripts as in PyTorch's examples, which cannot work where a node's own name means 127.0.1.1: that
is no address for others, and by the right one torchrun does not know that it is to serve its store.
"""
PAUSE, SLOW = (0.1, 0.0), (0.1, 8.0)
"""Seconds after a batch and after an update. It is slow while slurmctld, which looks every 30 s,
may find a limit; after updates alone, because ranks that are to stop wait 4 s for the next one.
Where it is further away, the last bits change (docs/training.md#interruption).
"""


class Campaign:
    """Jobs on a cluster, and what came of them.

    Attributes:
        cluster: with two nodes.
        folder: the cluster's, with data, network, runs and notes.
        order: epoch and step of each batch of the whole run.
    """

    def __init__(self, cluster: Cluster, data: Path, container: Path | None = None) -> None:
        """Copies the data, so that nothing is written beside them.

        Args:
            cluster: that is up.
            data: a dataset YAML; its folder is copied.
            container: a SIF to train in.
        """
        self.cluster, self.folder = cluster, cluster.folder
        self.container = {} if container is None else {"container": container}
        self.order: list[list[int]] = []
        self.data = self.folder / data.parent.name / data.name
        shutil.copytree(data.parent, self.data.parent)
        (self.folder / "network.yaml").write_text(batch_notes.NETWORK)
        shutil.copy(batch_notes.__file__, self.folder)
        self.pause(PAUSE)

    def pause(self, seconds: tuple[float, float]) -> None:
        """Sets the pace of what runs."""
        (self.folder / "pause.new").write_text(json.dumps(seconds))
        (self.folder / "pause.new").replace(self.folder / "pause")

    def write(self, name: str, **options: Any) -> Path:
        """Lets `yolodata launch slurm` write the script of a job."""
        options = {"job": name, "nodes": RANKS, "time": "1:00:00", "output": f"{name}.out",
                   **self.container, **options,
                   "out": self.folder / f"{name}.sh"}  # fmt: skip
        words = [f"{key}={value}" for key, value in options.items()]
        words += [word for word in self.words(name) if not word.startswith("device=")]
        command(sys.executable, "-m", "yolodata", "launch", "slurm", "train", *words)
        return self.folder / f"{name}.sh"

    def words(self, name: str) -> list[str]:
        """The arguments of training."""
        arguments = {
            **batch_notes.SETTINGS, "epochs": 4,
            "model": self.folder / "network.yaml", "data": self.data,
            "project": self.folder / "runs", "name": name,
            "yolodata.callbacks": self.folder / "batch_notes.py",
            "yolodata.checkpoint_minutes": 0.01, "yolodata.threads": 1,
        }  # fmt: skip
        return [f"{key}={value}" for key, value in arguments.items()]

    def control(self, name: str) -> Path:
        """Writes one of `CONTROLS`."""
        words = " ".join(self.words(name))
        script = self.folder / f"{name}.sh"
        script.write_text(CONTROL.format(name=name, address=CONTROLS[name], words=words))
        return script

    def submit(self, script: Path) -> str:
        """Returns the number of a job that begins."""
        return command("sbatch", "--parsable", f"--chdir={self.folder}", str(script)).strip()

    def state(self, job: str) -> str:
        """Slurm's word for what a job does, like RUNNING."""
        return self.cluster.shows("job", job)["JobState"]

    def restarts(self, job: str) -> int:
        """How often a job has come back."""
        return int(self.cluster.shows("job", job)["Restarts"])

    def finish(self, job: str) -> str:
        """Waits until a job is over; returns its state."""
        until(lambda: self.state(job) in OVER, 600, f"the end of job {job}")
        return self.state(job)

    def whole(self) -> list[str]:
        """The run to compare with; returns where each rank was.

        Raises:
            RuntimeError: it fails, or its ranks are not on a node each.
        """
        ended = self.finish(self.submit(self.write("whole", gpus=0, cpus=2)))
        if ended != "COMPLETED":
            raise RuntimeError(f"the job that nobody interrupted ended as {ended}")
        self.order = [line[:2] for line in self.noted("whole")[0]]
        hosts = [batch_notes.process(self.folder, "whole", rank)["host"] for rank in range(RANKS)]
        if sorted(hosts) != list(self.cluster.nodes):
            raise RuntimeError(f"ranks were on {hosts}")
        return hosts

    def trial(self, name: str, kinds: Sequence[str]) -> dict[str, Any]:
        """One job with an interruption of each kind; what was different is in `wrong`."""
        job = self.submit(self.write(name, gpus=0, cpus=2))
        hits: list[dict[str, Any]] = []
        for kind in kinds:
            place = self.place(self.noted(name))
            room = (len(self.order) - 2 - place) // (len(kinds) - len(hits))
            hit = self.interrupt(job, name, kind, place + random.randint(0, max(0, room)))
            if hit is None:
                break
            hits.append(hit)
            print(json.dumps({"job": name, **hit}), flush=True)
        state = self.finish(job)
        wrong = [] if state == "COMPLETED" else [f"the job ended as {state}"]
        wrong += batch_notes.differences(self.folder, "whole", name, RANKS)
        wrong += [f"{h['kind']}: {h['repeated']} batches were repeated" for h in hits
                  if h["kind"] in ("signal", "limit") and h["repeated"]]  # fmt: skip
        return {"interruptions": hits, "state": state, "wrong": wrong}

    def noted(self, name: str) -> list[list[Any]]:
        """The lines of each rank."""
        return [batch_notes.noted(self.folder, name, rank) for rank in range(RANKS)]

    def place(self, noted: list[list[Any]]) -> int:
        """How many batches of the whole run rank 0 has been fed."""
        return len({(epoch, step) for epoch, step, *_ in noted[0]})

    def interrupt(self, job: str, name: str, kind: str, target: int) -> dict[str, Any] | None:
        """One interruption, up to 0.4 s after a batch.

        Args:
            job: its number.
            name: of the run.
            kind: of `KINDS`.
            target: batches that come before. Where they have come already, it strikes up to 10 s
                after the start: into imports, the rendezvous and the first batches.

        Returns:
            What was seen; None where the job was over before.
        """
        until(lambda: self.state(job) != "PENDING", 120, f"the start of job {job}")
        late = self.place(self.noted(name)) >= target
        until(lambda: self.place(self.noted(name)) >= target, 300, f"batch {target} of {name}")
        time.sleep(random.uniform(0, 10 if late else 0.4))
        restarts, struck, before = self.restarts(job), time.monotonic(), self.noted(name)
        self.strike(job, kind)

        def back() -> bool:  # pending once all processes are gone
            state = self.state(job)
            return state in OVER or (state == "PENDING" and self.restarts(job) > restarts)

        until(back, 300, f"job {job} to come back after {kind}")
        if self.state(job) in OVER:
            return None
        seen, ended = self.noted(name), time.monotonic()
        self.pause(PAUSE)
        if kind == "limit":
            command("scontrol", "update", f"JobId={job}", "TimeLimit=60")

        def new() -> list[list[int]]:
            return [line[:2] for line in self.noted(name)[0][len(seen[0]) :]]

        until(lambda: new() or self.state(job) in OVER, 300, f"job {job} to go on")
        resumed = time.monotonic()  # at the end, where only that was left
        next_one = self.order.index(new()[0]) if new() else len(self.order)
        return {
            "kind": kind, "at_start": late, "batches": self.place(before),
            "requeued_s": round(ended - struck, 1), "resumed_s": round(resumed - struck, 1),
            "repeated": self.place(seen) - next_one,
        }  # fmt: skip

    def strike(self, job: str, kind: str) -> None:
        """Does what the interruption is about."""
        if kind == "signal":
            # To the agents, or to the script, which has to pass it on.
            command("scancel", "--signal=USR1", *random.choice(([], ["--batch"])), job)
        elif kind == "requeue":
            command("scontrol", "requeue", job)
        elif kind == "limit":
            self.pause(SLOW)
            # In less than 180 s, with which the script asks for its signal.
            minutes = int(self.cluster.shows("job", job)["RunTime"].split(":")[1])
            command("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes + 3}")
        else:
            node = random.choice(list(self.cluster.nodes))
            self.cluster.pull_plug(node)
            until(lambda: "DOWN" in self.cluster.state(node), 120, f"Slurm to miss {node}")
            self.cluster.plug_in(node)


def campaign(args: argparse.Namespace, folder: Path) -> int:
    """On the login node; returns the exit status."""
    from yolodata.bench import results

    random.seed(args.seed)
    with ExitStack() as stack:
        if args.keep:  # once no daemon changes what is there
            ignore = shutil.ignore_patterns("munge", "spool-*")  # sockets
            stack.callback(shutil.copytree, folder, args.keep, ignore=ignore)
        nodes = stack.enter_context(Cluster(folder))
        jobs, begun = Campaign(nodes, args.data, args.container), time.monotonic()
        found = {
            **results.about("slurm"), "slurm": command("scontrol", "--version").strip(),
            "data": args.data.parent.name, "container": args.container is not None,
            "hosts": jobs.whole(), "jobs": [],
        }  # fmt: skip
        if not args.short:
            found |= checks(jobs, 2 * (time.monotonic() - begun))
        done = 0
        while done < args.interruptions:
            kinds = random.sample(args.kinds, min(args.interruptions - done, len(args.kinds)))
            found["jobs"].append(jobs.trial(f"job{len(found['jobs'])}", kinds))
            done += len(found["jobs"][-1]["interruptions"])
            if args.json:
                results.save(args.json, found | summary(found))
            if found["jobs"][-1]["wrong"]:
                break
    print(json.dumps(summary(found)))
    return 1 if any(job["wrong"] for job in found["jobs"]) else 0


def checks(jobs: Campaign, seconds: float) -> dict[str, Any]:
    """The same run with (faked) GPUs asked for, and scripts that cannot work here.

    Args:
        jobs: after `whole`.
        seconds: that these get.

    Raises:
        RuntimeError: one of them did not do what it has to.
    """
    script = jobs.write("gpus", gpus=1)
    text = script.read_text()
    if "device=0" not in text:
        raise RuntimeError(f"a script for GPUs should train on device 0: {text}")
    script.write_text(text.replace("device=0", "device=cpu"))  # there is none
    state = jobs.finish(jobs.submit(script))
    wrong = batch_notes.differences(jobs.folder, "whole", "gpus", RANKS)
    gpus = [batch_notes.process(jobs.folder, "gpus", rank)["gpus"] for rank in range(RANKS)]
    if state != "COMPLETED" or wrong or None in gpus:
        raise RuntimeError(f"the job with GPUs ended as {state}, {wrong}, with GPUs {gpus}")
    controls = {name: jobs.submit(jobs.control(name)) for name in CONTROLS}
    time.sleep(seconds)
    said = {}
    for name, job in controls.items():
        if any(jobs.noted(name)) or jobs.state(job) == "COMPLETED":
            raise RuntimeError(f"{name}, a script that was to fail here trained")
        said[name] = (jobs.folder / f"{name}.out").read_text().splitlines()[0]
        command("scancel", job, check=False)  # it may have failed
    for job in controls.values():
        jobs.finish(job)
    return {"gpus_of_ranks": gpus, "controls": {"seconds": round(seconds), "said": said}}


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Of all interruptions: how many, how many jobs went wrong, and how long it took."""
    hits = [hit for job in found["jobs"] for hit in job["interruptions"]]
    kinds = sorted({hit["kind"] for hit in hits})

    def spread(kind: str, key: str) -> dict[str, float]:
        values = [hit[key] for hit in hits if hit["kind"] == kind]
        return {"n": len(values), "median": statistics.median(values), "most": max(values)}

    return {
        "interruptions": len(hits),
        "wrong": sum(bool(job["wrong"]) for job in found["jobs"]),
        "seconds_to_requeue": {kind: spread(kind, "requeued_s") for kind in kinds},
        "repeated_batches": {kind: spread(kind, "repeated") for kind in kinds},
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=lambda text: Path(text).resolve(), required=True)
    parser.add_argument("--container", type=lambda text: Path(text).resolve(), metavar="FILE.sif")
    parser.add_argument("--interruptions", type=int, default=20)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--short", action="store_true", help="no faked GPUs, no control")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--keep", type=Path, help="copy logs, scripts, runs and notes to here")
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.inside:
        return campaign(args, args.inside)
    why = slurm_cluster.missing()
    if why:
        print(f"no cluster: {why}", file=sys.stderr)
        return 2
    return slurm_cluster.inside([sys.executable, __file__, *sys.argv[1:], "--inside"])


if __name__ == "__main__":
    sys.exit(main())
