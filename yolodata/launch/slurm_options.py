"""What a job can ask of Slurm."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from yolodata.checks import flag, one_of, whole
from yolodata.errors import ConfigError
from yolodata.launch.job import Group, Options

_TIME = re.compile(r"(?:(\d+)-)?(\d+)(?::(\d{1,2}))?(?::(\d{1,2}))?")
_WORD = re.compile(r"[\w.:@%+,/~=-]+", re.ASCII)
_EXPRESSION = re.compile(r"[\w.:@%+,/~=&|()\[\]*!-]+", re.ASCII)
_PATH = re.compile(r"/[\w./@+=-]*", re.ASCII)
_RAW = re.compile(r"--[a-z][a-z-]*(=[ !%&(-\[\]^_a-~]*)?", re.ASCII)  # no quote, $, #, \ or `
_OWN = {
    "job-name": "job", "nodes": "nodes", "ntasks": "nodes", "ntasks-per-node": "nodes",
    "cpus-per-task": "cpus", "gres": "gpus", "gpus": "gpus", "gpus-per-node": "gpus",
    "gpus-per-task": "gpus", "gpus-per-socket": "gpus", "ntasks-per-gpu": "gpus",
    "mem": "memory", "time": "time", "partition": "partition", "account": "account", "qos": "qos",
    "constraint": "constraint", "reservation": "reservation", "exclusive": "exclusive",
    "requeue": "requeue", "no-requeue": "requeue", "signal": "lead", "output": "output",
    "error": "output", "open-mode": "output",
}  # fmt: skip
_NEVER = {
    "array": "its jobs would all train the same run; write a script for each, with a name= of its "
    "own",
    "wrap": "it stands for a script, and this is one",
}
RUNTIMES = ("apptainer", "pyxis")


def seconds_of(time: str) -> int | None:
    """Returns a time limit of Slurm's in seconds; None for "UNLIMITED", and for 0, its other name.

    Raises:
        ConfigError: it is of another form.
    """
    if time.upper() in ("UNLIMITED", "INFINITE"):
        return None
    match = _TIME.fullmatch(time)
    if match is None:
        raise ConfigError(
            "time must be MINUTES, MINUTES:SECONDS, HOURS:MINUTES:SECONDS, DAYS-HOURS, "
            "DAYS-HOURS:MINUTES, DAYS-HOURS:MINUTES:SECONDS or UNLIMITED, "
            f"got {time!r}"
        )
    days, *parts = match.groups()
    numbers = [int(part) for part in parts if part is not None]
    if days is not None:  # hours first
        units = [3600, 60, 1]
    else:
        units = {1: [60], 2: [60, 1], 3: [3600, 60, 1]}[len(numbers)]
    found = int(days or 0) * 86400 + sum(n * unit for n, unit in zip(numbers, units, strict=False))
    return found or None


def _matching(name: str, value: str | None, pattern: re.Pattern[str], allowed: str) -> None:
    if value is not None and not pattern.fullmatch(value):
        raise ConfigError(f"{name} must consist of {allowed}, got {value!r}")


def _no_home(name: str, value: str | None) -> None:
    if str(value).startswith("~/"):
        raise ConfigError(
            f"{name} must not begin with ~, which nobody replaces there, got {value!r}; write the "
            "folder's whole path"
        )


@dataclass(frozen=True)
class Allocation(Group):
    """What is asked of Slurm.

    Attributes:
        time: limit of the job, as Slurm writes it; it goes on after that with `requeue`
            (`time="2-00:00:00"`).
        partition: where it runs; None is Slurm's default (`partition="gpu"`).
        account: that is charged; None is the user's own (`account="vision"`).
        qos: quality of service; None is the account's (`qos="high"`).
        constraint: features that nodes must have, as an expression (`constraint="a100&ib"`).
        reservation: a reservation to run in (`reservation="course"`).
        exclusive: take whole nodes, with all their memory unless `memory` says otherwise
            (`exclusive=True`).
        gpu_type: kind of GPU, where a cluster has several (`gpu_type="a100"`).
        sbatch: further options of sbatch, as on its command line
            (`sbatch="--mail-type=END,FAIL --nice=100"`).
    """

    time: str = "24:00:00"
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    reservation: str | None = None
    exclusive: bool = False
    gpu_type: str | None = None
    sbatch: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        flag("exclusive", self.exclusive)
        seconds_of(self.time)
        for name in ("partition", "account", "qos", "reservation", "gpu_type"):
            _matching(name, getattr(self, name), _WORD, "letters, digits and .:@%+,/~=-")
        _matching(
            "constraint", self.constraint, _EXPRESSION, "letters, digits and .:@%+,/~=-&|()[]*!"
        )
        self.raw()

    def raw(self) -> list[str]:
        """Returns the further options of sbatch, one a line.

        Raises:
            ConfigError: one is of another form, or has an option of ours.
        """
        try:
            words = shlex.split(self.sbatch or "")
        except ValueError as error:
            raise ConfigError(
                f"sbatch must be a command line, got {self.sbatch!r}: {error}"
            ) from error
        for word in words:
            name = word.removeprefix("--").partition("=")[0]
            if not _RAW.fullmatch(word):
                raise ConfigError(
                    "sbatch must be options --NAME=VALUE without quotes, $, #, ` and \\ in their "
                    f"values, got {word!r}"
                )
            if name in _NEVER:
                raise ConfigError(f"sbatch={word} cannot be: {_NEVER[name]}")
            if name in _OWN:
                raise ConfigError(f"sbatch={word} has an option of its own: give {_OWN[name]}=")
        return words


@dataclass(frozen=True)
class Recovery(Group):
    """How the job goes on after it was stopped.

    Attributes:
        requeue: go on after the time limit, preemption and lost nodes by itself
            (`requeue=False`).
        retries: how often in a row the job may lose a process or a node, within an hour of its
            start, before it gives up (`retries=5`).
        lead: seconds before the time limit at which training is asked to stop (`lead=300`).
    """

    requeue: bool = True
    retries: int = 3
    lead: int = 180

    def __post_init__(self) -> None:
        super().__post_init__()
        flag("requeue", self.requeue)
        whole("retries", self.retries, 0)
        whole("lead", self.lead, 10, 65535)


@dataclass(frozen=True)
class Records(Group):
    """Where the job writes what it says.

    Attributes:
        output: file of what the script and all ranks print, in Slurm's patterns
            (`output="logs/%x-%j.out"`).
        logs: folder for what each rank prints; a folder for the job is made in it
            (`logs="logs"`).
    """

    output: str = "%x-%j.out"
    logs: str = "."

    def __post_init__(self) -> None:
        super().__post_init__()
        _matching("output", self.output, _WORD, "letters, digits and .:@%+,/~=-")
        for name in ("output", "logs"):
            _no_home(name, getattr(self, name))


@dataclass(frozen=True)
class Software(Group):
    """What trains on a node.

    Attributes:
        setup: shell commands before training, such as modules and an environment
            (`setup="module load cuda; source env/bin/activate"`).
        python: interpreter on the nodes, or in the container
            (`python="/shared/env/bin/python"`).
        container: image to train in (`container="/shared/yolodata.sif"`).
        runtime: what runs the container: apptainer or pyxis (`runtime="pyxis"`).
        mounts: folders that the container sees, as SOURCE[:DESTINATION[:ro]], with commas
            (`mounts="/data:/data:ro,/scratch"`).
    """

    SHELL = ("setup",)

    setup: str | None = None
    python: str = "python"
    container: str | None = None
    runtime: str = "apptainer"
    mounts: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("python", "container"):
            _no_home(name, getattr(self, name))
            if str(getattr(self, name)).startswith("-"):
                raise ConfigError(f"{name} must not begin with '-', got {getattr(self, name)!r}")
        one_of("runtime", self.runtime, RUNTIMES)
        if self.container is None and self.mounts is not None:
            raise ConfigError("mounts are a container's; give container=, or no mounts")
        self.mount_list()

    def mount_list(self) -> list[tuple[str, str, str]]:
        """Returns source, destination and flags ("" or "ro") of each mount.

        Raises:
            ConfigError: one is of another form.
        """
        found = []
        for text in self.mounts.split(",") if self.mounts else []:
            source, _, rest = text.partition(":")
            destination, _, flags = rest.partition(":")
            destination = destination or source
            paths = _PATH.fullmatch(source) and _PATH.fullmatch(destination)
            if not paths or flags not in ("", "ro", "rw"):
                raise ConfigError(
                    "mounts must be written /SOURCE[:/DESTINATION[:ro]], with commas between them, "
                    f"got {text!r}"
                )
            found.append((source, destination, flags))
        return found


@dataclass(frozen=True)
class Hardware(Group):
    """Which parts of a node are used.

    Attributes:
        interface: network interface that connects the nodes; None finds it (`interface="ib0"`).
        numa: keep each rank on the cores of the NUMA node of its GPU (`numa=False`).
    """

    interface: str | None = None
    numa: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        flag("numa", self.numa)
        _matching("interface", self.interface, _WORD, "letters, digits and .:@%+,/~=-")


@dataclass(frozen=True)
class SlurmOptions(Options):
    """What a job asks of Slurm."""

    SHARES_FILES = True  # compute nodes mount what the login node does

    allocation: Allocation = Allocation()
    recovery: Recovery = Recovery()
    records: Records = Records()
    software: Software = Software()
    hardware: Hardware = Hardware()

    def __post_init__(self) -> None:
        time, lead = self.allocation.time, self.recovery.lead
        seconds = seconds_of(time)
        if seconds is not None and seconds <= lead + 60:
            raise ConfigError(
                f"time={time} leaves no time to train: training is asked to stop lead={lead} s "
                "before, and Slurm may ask 60 s earlier; give more time, or a shorter lead"
            )
