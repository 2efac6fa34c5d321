"""A training job, as every system needs to know it: its options, and the arguments of training."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

from yolodata.checks import flag, nearest, shown, whole
from yolodata.errors import ConfigError
from yolodata.redaction import redacted

if TYPE_CHECKING:
    from typing_extensions import Self

PORT = 29500
"""Of the first machine, or pod, where the agents meet."""

_JOB = re.compile(r"[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_EXPANSION = re.compile(r"\$(\w+|\{[^}]*\}|\([^)]*\))")  # of a shell: no secret yet


def check_text(what: str, text: str, lines: bool = False) -> None:
    """Refuses a text that may not stand in a file that is written.

    Args:
        what: it is, for the message.
        text: the value of an option, or NAME=VALUE of an argument.
        lines: whether it may have several lines.

    Raises:
        ConfigError: it has control characters, or a secret in it.
    """
    if _CONTROL.search(text.replace("\n", "").replace("\t", "") if lines else text):
        raise ConfigError(
            f"{what} must have no control characters{'' if lines else ', such as a new line,'} in "
            f"it, got {shown(redacted(text))}"
        )
    if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
        raise ConfigError(f"{what} must be UTF-8, as the file that is written is, got {text!r}")
    text = _EXPANSION.sub("$", text)
    if redacted(text) != text:
        raise ConfigError(
            f"{what} has a secret in it ({redacted(text)}), which the file that starts the job "
            "would keep; give it in the job's environment, or in a file that only you can read"
        )


@dataclass(frozen=True)
class Group:
    """Options that belong together. Each is text, a number or a flag."""

    SHELL: ClassVar[tuple[str, ...]] = ()
    """Options that are commands of a shell, which may have several lines."""

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, str):
                check_text(each.name, value, lines=each.name in self.SHELL)
            elif "str" in str(each.type) and value is not None:
                raise ConfigError(f"{each.name} must be text, got {shown(value)}")


@dataclass(frozen=True)
class Common(Group):
    """What a job asks of any system.

    Attributes:
        job: name of the job: lower-case letters, digits and `-`, at most 52. Where it names the run
            too (Kubernetes, a bucket of SkyPilot), each training needs its own (`job="coco-m"`).
        nodes: machines (`nodes=2`).
        gpus: GPUs of a machine, and processes there; 0 trains on CPUs (`gpus=4`).
        processes: processes of a machine, without GPUs; None is one (`processes=2`).
        cpus: cores of a machine; None leaves them to the system (`cpus=32`).
        memory: GiB of a machine; None leaves it to the system (`memory=256`).
        out: file that is written; None prints (`out="job.sh"`).
        submit: hand the file on to the system as well (`submit=True`).
    """

    job: str = "yolodata"
    nodes: int = 1
    gpus: int = 1
    processes: int | None = None
    cpus: int | None = None
    memory: int | None = None
    out: str | None = None
    submit: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.job, str) or not _JOB.fullmatch(self.job):
            raise ConfigError(
                "job must be at most 52 lower-case letters, digits and '-', with none of the "
                f"last at its ends, got {self.job!r}"
            )
        whole("nodes", self.nodes, 1)
        whole("gpus", self.gpus, 0)
        for name in ("processes", "cpus", "memory"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), 1)
        if self.gpus and self.processes not in (None, self.gpus):
            raise ConfigError(
                f"processes={self.processes} contradicts gpus={self.gpus}: each GPU has one "
                "process; give one of them (gpus=0 trains on CPUs)"
            )
        flag("submit", self.submit)
        super().__post_init__()

    @property
    def processes_a_node(self) -> int:
        """Processes of a machine."""
        return self.gpus or self.processes or 1

    @property
    def device(self) -> str:
        """What training's `device` is: with the GPUs named, it fails where one is missing."""
        return ",".join(map(str, range(self.gpus))) or "cpu"


@dataclass(frozen=True)
class Options:
    """What a job asks of a system: groups of options, each of which has a default.

    On a command line an option is given by its name alone: no two groups have one of the same name.

    Attributes:
        common: what it asks of any system.
    """

    SHARES_FILES: ClassVar[bool] = False
    """Whether the machines of the job have the files of the one that starts it."""

    BUCKETS: ClassVar[tuple[str, ...]] = ()
    """Schemes of URLs that the system copies datasets from, to the machines of the job."""

    common: Common = Common()

    @classmethod
    def groups(cls) -> list[type[Group]]:
        """Lists the classes of the groups, in order."""
        return [type(group) for group in vars(cls()).values()]

    @classmethod
    def fields(cls) -> dict[str, Field[Any]]:
        """Returns the options of all groups, by name."""
        return {each.name: each for group in cls.groups() for each in fields(group)}

    @property
    def process_counts(self) -> list[int]:
        """How many processes may train together."""
        return [self.common.nodes * self.common.processes_a_node]

    def changed(self, values: Mapping[str, Any]) -> Self:
        """These options with some replaced.

        Args:
            values: by the names of options, of whichever group.

        Raises:
            ConfigError: a name is unknown, or a value is out of range.
        """
        known = list(self.fields())
        for name in values:
            if name not in known:
                raise ConfigError(
                    f"there is no option {name!r}{nearest(name, known)}; there are "
                    f"{', '.join(known)}"
                )
        groups: dict[str, Any] = {}
        for each in fields(self):
            group: Group = getattr(self, each.name)
            own = {part.name for part in fields(group)}
            groups[each.name] = replace(group, **{n: values[n] for n in values if n in own})
        return replace(self, **groups)


@dataclass(frozen=True)
class Job:
    """A training to start elsewhere.

    Attributes:
        options: what it asks of the system.
        arguments: of `yolodata train`, as NAME=VALUE, in order; `resume` is among them.
        given: the words of `yolodata launch`, for a comment in the file.
    """

    options: Options
    arguments: tuple[str, ...]
    given: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        for argument in self.arguments:
            check_text(argument.partition("=")[0], argument, lines=True)

    def argument(self, name: str) -> str | None:
        """Returns the value of an argument of training; None where it is not given."""
        found = [one for one in self.arguments if one.partition("=")[0] == name]
        return found[-1].partition("=")[2] if found else None


def name_of_its_own(job: Job) -> str:
    """Returns the job's name, for a run, or a folder of checkpoints, that has to have one.

    Raises:
        ConfigError: none was given.
    """
    name = job.options.common.job
    if name == Common.job:
        raise ConfigError(
            f"job must be a name that no other training has, got {name!r}, which is the default: "
            "it names the run, and the next training of that name would go on with this one; give "
            "job=NAME"
        )
    return name


def is_of_a_machine(place: str) -> bool:
    """Whether a path, or a URL, is lost with the machine that writes there."""
    return urlsplit(place).scheme in ("", "file", "local")
