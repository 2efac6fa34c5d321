"""Ranks that slow each other down: a weak one, a thin wire, gradients sent one after the other.

Each alone, and two at once: then the one whose mending brings more has to come first.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image

from yolodata.machine import usable_cores

from .cpu_quota import quota_group
from .fault import Case, Truth

RANKS = 2
SIDE, BATCH = 64, 4
SECONDS = 40.0
"""The doctor is given: steps are of three kinds, and of a faulty one take a third of a second."""
TURNS = 2
"""Times that each truth is measured, in turn: machines get slower and faster."""
STEP = Path(__file__).with_name("ddp_step.py")
ROOT = Path(__file__).resolve().parents[2]


def arguments(folder: Path) -> list[str]:
    """Returns what the doctor is called with; a few drawn images lie in the folder."""
    random_bytes = np.random.default_rng(0)
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(8):
            pixels = random_bytes.integers(0, 256, (48, 64, 3), np.uint8)
            Image.fromarray(pixels).save(folder / "images" / split / f"{index}.jpg")
            label = folder / "labels" / split / f"{index}.txt"
            label.write_text("0 0.5 0.5 0.3 0.3\n")
    data = folder / "data.yaml"
    data.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: [thing]\n")
    return [
        str(data), "model=yolo26n.yaml", "device=cpu", f"imgsz={SIDE}", f"batch={BATCH}",
        "optimizer=SGD", "amp=False",
    ]  # fmt: skip


def torchrun(*options: str, before: Sequence[str] = ()) -> list[str]:
    """Returns the words that run a command in ranks; each rank runs `before` first."""
    run = [sys.executable, "-m", "torch.distributed.run", *options, "--no-python"]
    return [*run, *before]


def step_ms(prefix: Sequence[str], environment: Mapping[str, str], seconds: float = 8) -> float:
    """Measures a step of plain DDP, started as the doctor is."""
    command = [*prefix, sys.executable, str(STEP), str(SIDE), str(BATCH // RANKS), str(seconds)]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )
    found = re.search(r"step_ms=([\d.]+)", done.stdout)
    if found is None:
        raise RuntimeError(f"plain DDP did not run:\n{done.stdout}\n{done.stderr}")
    return float(found[1])


def core_of(rank: int) -> int:
    """The core that a rank stays on: ranks that move would take each other's."""
    cores = usable_cores()  # `nproc` would be one: torchrun and Ultralytics set OMP_NUM_THREADS
    return cores[rank % len(cores)]


def each_rank(folder: Path, lines: str) -> list[str]:
    """Returns words that run lines of shell in each rank, and then the command."""
    script = folder / f"{uuid4().hex[:8]}.sh"
    cores = " ".join(f"{rank}) core={core_of(rank)};;" for rank in range(RANKS))
    script.write_text(
        f'{lines}\ncase "$LOCAL_RANK" in {cores} esac\nexec taskset -c "$core" "$@"\n',
        encoding="utf-8",
    )
    return ["sh", str(script)]


@contextmanager
def weakened(weak: Mapping[str, Any]) -> Iterator[str]:
    """Lines of shell that take from one rank a part of its core; none for no rank.

    Args:
        weak: "rank", and the "share" of its core that it gets, or the "count" of busy processes
            beside it.
    """
    if not weak:
        yield ""
        return
    rank = weak["rank"]
    if "share" in weak:
        with quota_group(weak["share"]) as group:
            yield f'test "$RANK" != {rank} || echo 0 >{group / "cgroup.procs"}'
        return
    # As many busy processes as are drawn, for as long as the rank lives.
    busy = (
        f"for i in {' '.join(map(str, range(weak['count'])))}; do "
        f"taskset -c {core_of(rank)} "
        "sh -c 'while kill -0 $0 2>/dev/null; do i=0; "
        "while [ $i -lt 20000 ]; do i=$((i+1)); done; done' $$ & done"
    )
    yield f'if [ "$RANK" = {rank} ]; then {busy}; fi'


@dataclass(frozen=True)
class Conditions:
    """Under which conditions two ranks train.

    Attributes:
        weak: see `weakened`.
        apart: they run on two hosts, joined by a wire, instead of on one.
        mbit: what the wire carries, in Mbit/s; 0 is as it is.
        cap: MB of gradients that travel at once, to rank 0 and back; 0 is DDP as it is.
    """

    weak: Mapping[str, Any] = field(default_factory=dict)
    apart: bool = False
    mbit: int = 0
    cap: float = 0.0

    @contextmanager
    def held(self, folder: Path) -> Iterator[tuple[list[str], dict[str, str]]]:
        """Makes them true while the context lasts.

        Yields:
            Words that run a command in both ranks, and variables of the environment.
        """
        with ExitStack() as stack:
            lines = stack.enter_context(weakened(self.weak))
            if self.apart:
                prefix = stack.enter_context(hosts(folder, lines, self.mbit))
            else:
                prefix = torchrun(f"--nproc-per-node={RANKS}", before=each_rank(folder, lines))
            yield prefix, sending(folder, self.cap) if self.cap else {}

    @contextmanager
    def case(self, folder: Path) -> Iterator[Case]:
        """A case under them, of which only the cause is judged."""
        with self.held(folder) as (prefix, environment):
            yield Case(arguments(folder), prefix=prefix, environment=environment)

    def step_ms(self, folder: Path) -> float:
        """Milliseconds of a step under them."""
        with self.held(folder) as (prefix, environment):
            return step_ms(prefix, environment)


class RanksFault:
    """A fault of the section "ranks"."""

    cause = ""
    sections = ("ranks",)
    seconds = SECONDS

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws how severe the fault is."""
        raise NotImplementedError

    def worsen(self, conditions: Conditions, severity: Mapping[str, Any]) -> Conditions:
        """The conditions with the fault."""
        raise NotImplementedError

    def mend(self, conditions: Conditions) -> Conditions:
        """The conditions with the fault mended, and nothing else."""
        raise NotImplementedError

    @contextmanager
    def inject(self, severity: Mapping[str, Any], folder: Path) -> Iterator[Case]:
        """Injects it."""
        with injected([self], {self.cause: severity}, folder) as case:
            yield case


@contextmanager
def injected(
    faults: Sequence[RanksFault], severities: Mapping[str, Mapping[str, Any]], folder: Path
) -> Iterator[Case]:
    """A case of these faults together."""
    as_is = Conditions()
    for fault in faults:
        as_is = fault.worsen(as_is, severities[fault.cause])
    with ExitStack() as stack:
        prefix, environment = stack.enter_context(as_is.held(folder))

        def truths(settings: Mapping[str, Any]) -> Mapping[str, Truth]:
            stack.close()  # the doctor is done
            found: dict[str, list[float]] = {}
            for _ in range(TURNS):
                found.setdefault("", []).append(as_is.step_ms(folder))
                for one in faults:
                    found.setdefault(one.cause, []).append(one.mend(as_is).step_ms(folder))
            before = found.pop("")
            return {cause: Truth(before, ms) for cause, ms in found.items()}

        yield Case(arguments(folder), prefix=prefix, environment=environment, truths=truths)


class SlowRank(RanksFault):
    """One rank has a quota: a share of its core."""

    cause = "slow_rank"

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws which rank it is, and its share of a core."""
        return {"rank": rng.randrange(RANKS), "share": round(rng.uniform(0.2, 0.45), 2)}

    def worsen(self, conditions: Conditions, severity: Mapping[str, Any]) -> Conditions:
        """With a weak rank."""
        return replace(conditions, weak=severity)

    def mend(self, conditions: Conditions) -> Conditions:
        """With ranks that are alike."""
        return replace(conditions, weak={})


class Neighbours:
    """One rank is on a core beside busy processes.

    Only the cause is judged. Messages between ranks wait for their turn there, and by how much
    differs: plain DDP beside one busy process, started again and again, took 1.9 to 3.4 times as
    long as without it. So no start tells another one's gain.
    """

    name = "slow_rank beside busy processes"
    cause = "slow_rank"
    sections = ("ranks",)
    seconds = SECONDS

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws which rank it is, and how many are beside it."""
        return {"rank": rng.randrange(RANKS), "count": rng.randint(1, 3)}

    @contextmanager
    def inject(self, severity: Mapping[str, Any], folder: Path) -> Iterator[Case]:
        """Starts them with the rank."""
        with Conditions(weak=severity).case(folder) as case:
            yield case


class SlowLink(RanksFault):
    """Two hosts (network namespaces), joined by a wire that carries less than it says."""

    cause = "slow_link"

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws what the wire carries, in Mbit/s."""
        return {"mbit": round(100 * 6 ** rng.random())}

    def worsen(self, conditions: Conditions, severity: Mapping[str, Any]) -> Conditions:
        """On two hosts, with a throttled wire."""
        return replace(conditions, apart=True, mbit=severity["mbit"])

    def mend(self, conditions: Conditions) -> Conditions:
        """With the wire as it is."""
        return replace(conditions, mbit=0)


@contextmanager
def hosts(folder: Path, lines: str, mbit: int) -> Iterator[list[str]]:
    """Two hosts with a wire between them; yields the words that run a command on both.

    Args:
        lines: of shell, which each rank runs first.
        mbit: what the wire carries, in Mbit/s; 0 is as it is.
    """
    names = [uuid4().hex[:8] for _ in range(2)]
    with ExitStack() as stack:
        for name in names:
            subprocess.run(["ip", "netns", "add", name], check=True)
            stack.callback(subprocess.run, ["ip", "netns", "del", name], check=False)
        a, b = names
        wire = f"ip link add cable netns {a} type veth peer name cable netns {b}"
        subprocess.run(wire.split(), check=True)
        for number, name in enumerate(names, 1):
            for words in (f"addr add 10.77.0.{number}/24 dev cable", "link set lo up",
                          "link set cable up"):  # fmt: skip
                subprocess.run(["ip", "-n", name, *words.split()], check=True)
        if mbit:
            throttle = f"add dev cable root tbf rate {mbit}mbit burst 128kb latency 100ms".split()
            subprocess.run(["ip", "netns", "exec", a, "tc", "qdisc", *throttle], check=True)
        known = folder / "hosts"
        known.write_text("127.0.0.1 localhost\n10.77.0.1 machine-a\n10.77.0.2 machine-b\n")
        script = folder / f"{uuid4().hex[:8]}.sh"
        port = 20_000 + random.SystemRandom().randrange(10_000)
        # Groups are joined first: a network namespace has a /sys of its own, without them.
        script.write_text(
            textwrap.dedent(f"""\
            host() {{
              name=$1 space=$2 RANK=$3 core=$4; shift 4
              {lines or ":"}
              exec ip netns exec "$space" unshare --uts --mount sh -c \\
                'hostname "$0"; mount --bind "$1" /etc/hosts; core=$2; shift 2
                 exec taskset -c "$core" "$@"' \\
                "$name" {known} "$core" env GLOO_SOCKET_IFNAME=cable \\
                {sys.executable} -m torch.distributed.run --nnodes=2 --nproc-per-node=1 \\
                --node-rank="$RANK" --master-addr=10.77.0.1 --master-port={port} --no-python "$@"
            }}
            host machine-b {b} 1 {core_of(1)} "$@" &
            other=$!
            (host machine-a {a} 0 {core_of(0)} "$@"); status=$?
            test $status = 0 || kill $other
            wait $other
            exit $status
            """),
            encoding="utf-8",
        )
        yield ["sh", str(script)]


HABITS = '''\
"""What users of this machine have in all their processes."""

import importlib.abc
import importlib.util
import sys

NAME = "torch.nn.parallel.distributed"


class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != NAME:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        load = spec.loader.exec_module

        def exec_module(module):
            load(module)
            change(module.DistributedDataParallel)

        spec.loader.exec_module = exec_module
        return spec


def change(kind):
    made = kind.__init__

    def __init__(self, *args, **kwargs):
        kwargs["bucket_cap_mb"] = {cap}
        made(self, *args, **kwargs)
        self.register_comm_hook(None, send)

    kind.__init__ = __init__


def send(state, bucket):
    import torch
    import torch.distributed as dist

    gradients = bucket.buffer()
    dist.reduce(gradients, 0)
    gradients /= dist.get_world_size()
    dist.broadcast(gradients, 0)
    done = torch.futures.Future()
    done.set_result(gradients)
    return done


sys.meta_path.insert(0, Finder())
'''


def sending(folder: Path, cap: float) -> dict[str, str]:
    """Variables with which every process of Python sends gradients in turn, `cap` MB at once."""
    habits = folder / uuid4().hex[:8]
    habits.mkdir()
    (habits / "sitecustomize.py").write_text(HABITS.replace("{cap}", str(cap)))
    path = os.pathsep.join([str(habits), str(ROOT), os.environ.get("PYTHONPATH", "")])
    return {"PYTHONPATH": path}


class SerialReduce(RanksFault):
    """Gradients go to rank 0 and back, a few at a time, and each is waited for."""

    cause = "serial_reduce"

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws the MB that travel at once: from a tensor to a few."""
        return {"cap": round(10 ** rng.uniform(-6, -1.7), 6)}

    def worsen(self, conditions: Conditions, severity: Mapping[str, Any]) -> Conditions:
        """With a way of sending of its own."""
        return replace(conditions, cap=severity["cap"])

    def mend(self, conditions: Conditions) -> Conditions:
        """As DDP sends."""
        return replace(conditions, cap=0.0)


ALONE = (SlowRank(), SlowLink(), SerialReduce())


@dataclass(frozen=True)
class Pair:
    """A fault, and another one, drawn.

    Attributes:
        first: the fault.
    """

    first: RanksFault
    cause: str = "*"
    sections: tuple[str, ...] = ("ranks",)
    seconds: float = SECONDS

    @property
    def name(self) -> str:
        """That of the fault, and that it is not alone."""
        return f"{self.first.cause} and another"

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws the other fault, and both severities."""
        other = rng.choice([fault for fault in ALONE if fault is not self.first])
        return {fault.cause: fault.draw(rng) for fault in (self.first, other)}

    @contextmanager
    def inject(self, severity: Mapping[str, Any], folder: Path) -> Iterator[Case]:
        """Injects both."""
        faults = [fault for fault in ALONE if fault.cause in severity]
        with injected(faults, severity, folder) as case:
            yield case


class HealthyRanks:
    """Two ranks that are alike, on one host or on two with a wire that carries all."""

    name = "healthy ranks"
    cause = ""
    sections = ("ranks",)
    seconds = SECONDS

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws on how many hosts they are."""
        return {"apart": rng.random() < 0.5}

    @contextmanager
    def inject(self, severity: Mapping[str, Any], folder: Path) -> Iterator[Case]:
        """Has nothing to inject but the ranks."""
        with Conditions(apart=severity["apart"]).case(folder) as case:
            yield case


FAULTS = (*ALONE, Neighbours(), *map(Pair, ALONE), HealthyRanks())
