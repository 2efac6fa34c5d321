"""Variables of the environment that make ranks slow or stop them, and why; silent about others."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from yolodata.doctor.finding import Finding, Knob
from yolodata.doctor.ranks.links import Links, selected


@dataclass(frozen=True)
class Place:
    """Where the variables are to act.

    Attributes:
        ranks: processes in all.
        here: processes of this machine.
        cuda: they train on GPUs.
        links: what could carry their data.
        cores: that they may use on this machine.
    """

    ranks: int
    here: int
    cuda: bool
    links: Links
    cores: int

    @property
    def machines(self) -> bool:
        """Whether there are several machines."""
        return self.ranks > self.here

    @property
    def fair_threads(self) -> int:
        """Threads of each rank that share no core."""
        return max(1, self.cores // self.here)


Judged = tuple[Literal["breaks", "slow", "risk"], str] | None
_DEFAULT_BUFFER = 4 * 2**20  # bytes; NCCL_BUFFSIZE


def _on(value: str) -> bool:
    return value.strip().lower() not in ("", "0", "false", "off", "no", "n")


def _whole(value: str) -> int | None:
    return int(value) if value.strip().lstrip("-").isdigit() else None


def _shm(value: str, at: Place) -> Judged:
    if not _on(value) or at.here < 2 or at.links.peer_access:
        return None
    why = "NCCL then sends through sockets what GPUs of one machine would pass on in host memory"
    if at.links.peer_access is None:
        return "risk", f"{why}; whether these GPUs reach each other directly is not known"
    return "slow", f"{why}, and these GPUs do not reach each other directly"


def _p2p(value: str, at: Place) -> Judged:
    if not _on(value) or at.here < 2 or not at.links.peer_access:
        return None
    return "slow", (
        "gradients take the way through host memory, although these GPUs reach each other directly"
    )


def _p2p_level(value: str, at: Place) -> Judged:
    return _p2p("1", at) if value.strip().upper() in ("LOC", "0") else None


def _infiniband(value: str, at: Place) -> Judged:
    if not _on(value) or not at.machines or not at.links.infiniband:
        return None
    return "slow", (
        f"the machines are joined by InfiniBand ({', '.join(at.links.infiniband)}), and NCCL "
        "then uses TCP sockets"
    )


def _interface(value: str, at: Place) -> Judged:
    allowed = selected(value, at.links.interfaces)
    if not allowed:
        return "breaks", (
            f"no interface that is up has such a name (there are {', '.join(at.links.interfaces)})"
        )
    if not at.machines:
        return None
    if all(name == "lo" for name in allowed):
        return "breaks", "the loopback interface does not lead to the other machines"
    first, rates = allowed[0], at.links.interfaces
    if first.startswith(("docker", "virbr", "br-", "cni", "flannel")):
        return "risk", f"{first} is a bridge for containers of this machine alone"
    fastest = max(rates, key=lambda name: rates[name])
    if not at.links.infiniband and 0 < rates[first] * 2 <= rates[fastest]:
        return "slow", (
            f"{first} has {rates[first]:,.0f} Mbit/s, and {fastest} {rates[fastest]:,.0f}"
        )
    return None


def _buffer(value: str, at: Place) -> Judged:
    size = _whole(value)
    if size is None or size >= _DEFAULT_BUFFER:
        return None
    return "risk", (
        f"buffers of {size:,} B, where NCCL takes {_DEFAULT_BUFFER:,}, cut large messages into "
        "more steps"
    )


def _threads_of_nccl(value: str, at: Place) -> Judged:
    count = _whole(value)
    if count is None or count >= 256:
        return None
    return "risk", f"{count} threads a block move less than the 512 that NCCL may choose"


def _channels(value: str, at: Place) -> Judged:
    count = _whole(value)
    if count is None or count > 2:
        return None
    return "risk", f"with {count} channel(s) a single block or two move all data of a GPU"


def _pinned(value: str, at: Place) -> Judged:
    if not value.strip():
        return None
    return "risk", (
        f"{value} is used for every size and topology; NCCL measures and chooses for each"
    )


def _check_pointers(value: str, at: Place) -> Judged:
    return ("slow", "every collective checks its pointers first") if _on(value) else None


def _debug(value: str, at: Place) -> Judged:
    if value.strip().upper() != "TRACE":
        return None
    return "slow", "NCCL writes a line for every operation of every rank"


def _blocking(value: str, at: Place) -> Judged:
    if not _on(value):
        return None
    return "slow", (
        "every kernel is waited for before the next is launched, and nothing overlaps with the "
        "reducing of gradients"
    )


def _no_cache(value: str, at: Place) -> Judged:
    if value == "":
        return None  # torch asks whether it is set to anything
    return "slow", "every tensor is asked of the driver, which waits for the GPU each time"


def _detail(value: str, at: Place) -> Judged:
    if value.strip().upper() != "DETAIL" or at.ranks < 2:
        return None
    return "slow", (
        "before every collective the ranks compare what each of them is about to do (and torch "
        "2.14 with gloo crashes where DistributedDataParallel begins)"
    )


def _threads(value: str, at: Place) -> Judged:
    count = _whole(value)
    if count is None or at.cuda:
        return None
    if count >= 2 * at.fair_threads:
        return "slow", (
            f"{at.here} ranks with {count} threads each take turns on {at.cores} cores; "
            f"{at.fair_threads} a rank is what fits"
        )
    if at.ranks > 1 and 2 * count <= at.fair_threads:
        return "slow", (
            f"{at.here} ranks with {count} threads each leave most of {at.cores} cores idle; "
            f"{at.fair_threads} a rank is what fits (torchrun sets 1 where nothing is set)"
        )
    return None


# Variable -> (it matters to NCCL alone, or to GPUs alone; what is wrong with a value).
_JUDGES: dict[str, tuple[Literal["nccl", "cuda", "all"], Callable[[str, Place], Judged]]] = {
    "NCCL_SHM_DISABLE": ("nccl", _shm),
    "NCCL_P2P_DISABLE": ("nccl", _p2p),
    "NCCL_P2P_LEVEL": ("nccl", _p2p_level),
    "NCCL_IB_DISABLE": ("nccl", _infiniband),
    "NCCL_SOCKET_IFNAME": ("nccl", _interface),
    "NCCL_BUFFSIZE": ("nccl", _buffer),
    "NCCL_NTHREADS": ("nccl", _threads_of_nccl),
    "NCCL_MAX_NCHANNELS": ("nccl", _channels),
    "NCCL_ALGO": ("nccl", _pinned),
    "NCCL_PROTO": ("nccl", _pinned),
    "NCCL_CHECK_POINTERS": ("nccl", _check_pointers),
    "NCCL_DEBUG": ("nccl", _debug),
    "CUDA_LAUNCH_BLOCKING": ("cuda", _blocking),
    "PYTORCH_NO_CUDA_MEMORY_CACHING": ("cuda", _no_cache),
    "TORCH_DISTRIBUTED_DEBUG": ("all", _detail),
    "OMP_NUM_THREADS": ("all", _threads),
}


def judge_environment(
    variables: Mapping[str, str], place: Place, step_ms: float | None, threads_gain: float | None
) -> Iterator[Finding]:
    """Finds the variables that hurt where the ranks run.

    Args:
        variables: the environment.
        place: where they are to act.
        step_ms: of a step as it is; None where none was measured.
        threads_gain: how many times as fast a step was with a fair number of threads; None where
            that was not measured.
    """
    for name, (matters, judge) in _JUDGES.items():
        if name not in variables or (matters != "all" and not place.cuda):
            continue
        if matters == "nccl" and place.ranks < 2:
            continue
        judged = judge(variables[name], place)
        if judged is None:
            continue
        kind, why = judged
        gain = threads_gain if name == "OMP_NUM_THREADS" else None
        if name == "OMP_NUM_THREADS" and place.ranks > 1 and (gain is None or gain < 1.05):
            continue  # it can be measured, and does not hurt here
        lost = step_ms * (1 - 1 / gain) if gain and step_ms else None
        evidence = f"{name}={variables[name]}: {why}"
        if gain is not None:
            evidence += f"; measured: {gain:.2f} times as fast a step with what fits"
        yield Finding(
            "nccl_environment",
            kind,
            f"{name}={variables[name]} {_VERDICTS[kind]}",
            evidence,
            Knob(_remedy(name, place), {}),
            lost_ms=lost,
            step_ms=step_ms if gain else None,
            gain=gain,
            measured=gain is not None,
            fake=place.links.fake,
        )


_VERDICTS = {
    "breaks": "keeps the ranks from reaching each other",
    "slow": "makes training slower",
    "risk": "may make training slower",
}


def _remedy(name: str, place: Place) -> str:
    if name == "OMP_NUM_THREADS":
        return f"Set OMP_NUM_THREADS={place.fair_threads} for each rank"
    if name == "NCCL_SOCKET_IFNAME":
        return "Unset NCCL_SOCKET_IFNAME, or name the fastest interface that leads to the others"
    return f"Unset {name}"
