"""Ranks that slow each other down: a weak one, a thin wire, gradients sent one after the other."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from PIL import Image

from .fault import Case

RANKS = 2
SIDE, BATCH = 64, 4
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


def each_rank(folder: Path, lines: str) -> list[str]:
    """Returns words that run lines of shell in each rank, and then the command."""
    script = folder / f"{uuid4().hex[:8]}.sh"
    # A core each: on two cores, ranks that move would take each other's.
    script.write_text(
        f'{lines}\nexec taskset -c "$((LOCAL_RANK % $(nproc)))" "$@"\n', encoding="utf-8"
    )
    return ["sh", str(script)]


@contextmanager
def quota(share: float) -> Iterator[Path]:
    """A group of processes that gets a share of one core; yields its list of members."""
    group = Path("/sys/fs/cgroup/cpu") / uuid4().hex[:8]
    group.mkdir()
    try:
        (group / "cpu.cfs_quota_us").write_text(str(int(share * 50_000)))
        (group / "cpu.cfs_period_us").write_text("50000")
        yield group / "tasks"
    finally:
        group.rmdir()


class SlowRank:
    """One rank has a share of its core: by a quota, or beside processes that are busy there."""

    cause = "slow_rank"
    sections = ("ranks",)
    seconds = 12.0

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws which rank it is, and its share of a core."""
        rank = rng.randrange(RANKS)
        if rng.random() < 0.5:
            return {"how": "quota", "rank": rank, "share": round(rng.uniform(0.3, 0.65), 2)}
        return {"how": "neighbours", "rank": rank, "count": rng.choice([1, 2])}

    def inject(self, severity: Mapping[str, Any], folder: Path) -> AbstractContextManager[Case]:
        """Weakens the rank."""
        return self._injected(severity, folder)

    @contextmanager
    def _injected(self, severity: Mapping[str, Any], folder: Path) -> Iterator[Case]:
        given, rank = arguments(folder), severity["rank"]
        healthy = torchrun(f"--nproc-per-node={RANKS}", before=each_rank(folder, ""))
        with ExitStack() as stack:
            if severity["how"] == "quota":
                members = stack.enter_context(quota(severity["share"]))
                joins = f'test "$RANK" != {rank} || echo $$ >{members}'
            else:
                # As many busy processes as are drawn, for as long as the rank lives.
                busy = (
                    f"for i in {' '.join(map(str, range(severity['count'])))}; do "
                    f"taskset -c {rank % (os.cpu_count() or 1)} "
                    "sh -c 'while kill -0 $0 2>/dev/null; do i=0; "
                    "while [ $i -lt 20000 ]; do i=$((i+1)); done; done' $$ & done"
                )
                joins = f'if [ "$RANK" = {rank} ]; then {busy}; fi'
            weak = torchrun(f"--nproc-per-node={RANKS}", before=each_rank(folder, joins))
            yield Case(given, prefix=weak, truth=lambda: (step_ms(weak, {}), step_ms(healthy, {})))


class SlowLink:
    """Two hosts (network namespaces), joined by a wire that carries less than it says."""

    cause = "slow_link"
    sections = ("ranks",)
    seconds = 12.0

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws what the wire carries, in Mbit/s."""
        return {"mbit": round(100 * 6 ** rng.random())}

    def inject(self, severity: Mapping[str, Any], folder: Path) -> AbstractContextManager[Case]:
        """Throttles the wire."""
        return self._injected(severity, folder)

    @contextmanager
    def _injected(self, severity: Mapping[str, Any], folder: Path) -> Iterator[Case]:
        given = arguments(folder)
        with hosts(folder) as (prefix, first):
            throttle = f"root tbf rate {severity['mbit']}mbit burst 128kb latency 100ms".split()
            tc = ["ip", "netns", "exec", first, "tc", "qdisc"]

            def truth() -> tuple[float, float]:
                slow = step_ms(prefix, {})
                subprocess.run([*tc, "del", "dev", "cable", "root"], check=True)
                try:
                    return slow, step_ms(prefix, {})
                finally:
                    subprocess.run([*tc, "add", "dev", "cable", *throttle], check=True)

            subprocess.run([*tc, "add", "dev", "cable", *throttle], check=True)
            yield Case(given, prefix=prefix, truth=truth)


@contextmanager
def hosts(folder: Path) -> Iterator[tuple[list[str], str]]:
    """Two hosts with a wire between them; yields the words that run a command on both, one name."""
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
        known = folder / "hosts"
        known.write_text("127.0.0.1 localhost\n10.77.0.1 machine-a\n10.77.0.2 machine-b\n")
        script = folder / f"{uuid4().hex[:8]}.sh"
        port = 20_000 + random.SystemRandom().randrange(10_000)
        script.write_text(
            textwrap.dedent(f"""\
            host() {{
              name=$1 space=$2 rank=$3; shift 3
              exec ip netns exec "$space" unshare --uts --mount sh -c \\
                'hostname "$0"; mount --bind "$1" /etc/hosts; core=$2; shift 2
                 exec taskset -c "$core" "$@"' \\
                "$name" {known} "$((rank % $(nproc)))" env GLOO_SOCKET_IFNAME=cable \\
                {sys.executable} -m torch.distributed.run --nnodes=2 --nproc-per-node=1 \\
                --node-rank="$rank" --master-addr=10.77.0.1 --master-port={port} --no-python "$@"
            }}
            host machine-b {b} 1 "$@" &
            other=$!
            (host machine-a {a} 0 "$@"); status=$?
            test $status = 0 || kill $other
            wait $other
            exit $status
            """),
            encoding="utf-8",
        )
        yield ["sh", str(script)], a


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


class SerialReduce:
    """Gradients go to rank 0 and back, a few at a time, and each is waited for."""

    cause = "serial_reduce"
    sections = ("ranks",)
    seconds = 12.0

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws the MB that travel at once: from a tensor to a few."""
        return {"cap": round(10 ** rng.uniform(-6, -1.7), 6)}

    def inject(self, severity: Mapping[str, Any], folder: Path) -> AbstractContextManager[Case]:
        """Has every process of Python send gradients in this way."""
        return self._injected(severity, folder)

    @contextmanager
    def _injected(self, severity: Mapping[str, Any], folder: Path) -> Iterator[Case]:
        given = arguments(folder)
        habits = folder / uuid4().hex[:8]
        habits.mkdir()
        (habits / "sitecustomize.py").write_text(HABITS.replace("{cap}", str(severity["cap"])))
        path = os.pathsep.join([str(habits), str(ROOT), os.environ.get("PYTHONPATH", "")])
        run = torchrun(f"--nproc-per-node={RANKS}", before=each_rank(folder, ""))
        changed = {"PYTHONPATH": path}
        truth: Callable[[], tuple[float, float]] = lambda: (  # noqa: E731
            step_ms(run, changed),
            step_ms(run, {}),
        )
        yield Case(given, prefix=run, environment=changed, truth=truth)


FAULTS = (SlowRank(), SlowLink(), SerialReduce())
