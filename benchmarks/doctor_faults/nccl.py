"""Variables that make NCCL, or the ranks it connects, slow."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from .fault import Case, Truth
from .ranks import RANKS, arguments, step_ms, torchrun

# Variable -> (values, the machine on which they hurt).
_PCIE = {"gpus": 4, "peer_access": False, "interfaces": {"lo": 0, "eth0": 10000}, "used": "eth0"}
_NVLINK = {**_PCIE, "peer_access": True}
HOSTILE: dict[str, tuple[list[str], dict[str, Any]]] = {
    "NCCL_SHM_DISABLE": (["1", "true"], _PCIE),
    "NCCL_P2P_DISABLE": (["1"], _NVLINK),
    "NCCL_P2P_LEVEL": (["LOC", "0"], _NVLINK),
    "NCCL_SOCKET_IFNAME": (["ib0", "=eth", "^lo,eth"], _NVLINK),
    "NCCL_BUFFSIZE": (["65536", "262144", "1048576"], _NVLINK),
    "NCCL_NTHREADS": (["64", "128"], _NVLINK),
    "NCCL_ALGO": (["Tree", "Ring"], _NVLINK),
    "NCCL_PROTO": (["LL", "Simple"], _NVLINK),
    "NCCL_DEBUG": (["TRACE"], _NVLINK),
    "CUDA_LAUNCH_BLOCKING": (["1"], _NVLINK),
    "PYTORCH_NO_CUDA_MEMORY_CACHING": (["1"], _NVLINK),
}


class HostileEnvironment:
    """A variable that hurts: on GPUs that are not here, or threads on the cores that are."""

    cause = "nccl_environment"
    sections = ("ranks",)
    seconds = 12.0

    def draw(self, rng: random.Random) -> dict[str, Any]:
        """Draws a variable and its value."""
        if rng.random() < 0.25:
            return {"name": "OMP_NUM_THREADS", "value": str(rng.choice([3, 4]))}
        name = rng.choice(sorted(HOSTILE))
        return {"name": name, "value": rng.choice(HOSTILE[name][0])}

    def inject(self, severity: Mapping[str, Any], folder: Path) -> AbstractContextManager[Case]:
        """Sets the variable."""
        return self._injected(severity, folder)

    @contextmanager
    def _injected(self, severity: Mapping[str, Any], folder: Path) -> Iterator[Case]:
        given = arguments(folder)
        name, value = severity["name"], severity["value"]
        if name in HOSTILE:  # no GPU is here: the machine is faked, and nothing is timed
            yield Case(given, environment={name: value}, probes={"ranks.links": HOSTILE[name][1]})
            return
        # Not a core each: too many threads share all of them.
        run = torchrun(f"--nproc-per-node={RANKS}", before=["env"])
        yield Case(
            given,
            prefix=run,
            environment={name: value},
            truth=lambda: Truth([step_ms(run, {name: value})], [step_ms(run, {name: "1"})]),
        )


FAULTS = (HostileEnvironment(),)
