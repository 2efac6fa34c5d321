"""SkyPilot: the YAML file of a managed job, which a cloud may take the machines from."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import urlsplit

import fsspec
import yaml

from yolodata.checks import flag, whole
from yolodata.errors import ConfigError
from yolodata.launch.job import PORT, Group, Job, Options, is_of_a_machine, name_of_its_own
from yolodata.redaction import redacted
from yolodata.train.exit_codes import PREEMPTED

DATA = "yolodata-data"
"""Folder in the home of each machine that datasets are copied to."""

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_ACCELERATOR = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_INFRA = re.compile(r"[^\s/]+(/[^\s]+)?")


@dataclass(frozen=True)
class Machine(Group):
    """Which machines are rented.

    Attributes:
        accelerator: the GPU, as SkyPilot calls it; `gpus` says how many (`accelerator="A100"`).
        infra: cloud, region and zone; None lets SkyPilot choose (`infra="aws/us-east-1"`).
        spot: take machines that are cheaper, and may be taken away (`spot=False`).
        disk: GiB of a machine's disk; None leaves it to SkyPilot (`disk=512`).
        image: a machine's image, or a container's; None is SkyPilot's
            (`image="docker:ghcr.io/me/yolodata:1"`).
    """

    accelerator: str | None = None
    infra: str | None = None
    spot: bool = True
    disk: int | None = None
    image: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.accelerator is not None and not _ACCELERATOR.fullmatch(self.accelerator):
            raise ConfigError(
                f"accelerator must be one name, such as A100, got {self.accelerator!r}; how many a "
                "machine has is gpus="
            )
        if self.infra is not None and not _INFRA.fullmatch(self.infra):
            raise ConfigError(f"infra must be CLOUD/REGION/ZONE, got {self.infra!r}")
        flag("spot", self.spot)
        if self.disk is not None:
            whole("disk", self.disk, 1)


@dataclass(frozen=True)
class Software(Group):
    """What trains on a machine, and with which environment.

    Attributes:
        setup: commands that install yolodata on a machine; None where the image has it
            (`setup="$(cat setup.sh)"`).
        python: the interpreter there that has yolodata (`python="~/env/bin/python"`).
        variables: names of environment variables, with commas between, that `sky` takes from where
            it is started, as secrets: no file has their values (`variables="WANDB_API_KEY"`).
    """

    SHELL: ClassVar[tuple[str, ...]] = ("setup",)

    setup: str | None = None
    python: str = "python3"
    variables: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in self.names:
            if not _NAME.fullmatch(name):
                raise ConfigError(
                    "variables must be names of environment variables, with commas between, got "
                    f"{name!r}; their values are taken from where `sky` is started"
                )

    @property
    def names(self) -> list[str]:
        """Names of environment variables that the job gets."""
        return [] if self.variables is None else self.variables.split(",")


@dataclass(frozen=True)
class Recovery(Group):
    """How the job goes on after it was stopped.

    Attributes:
        bucket: URL that checkpoints go to, in a folder named after the job
            (`bucket="s3://my-bucket/runs"`).
        restarts: how often training is started again after an error; machines that are taken away
            do not count (`restarts=0`).
    """

    bucket: str | None = None
    restarts: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("restarts", self.restarts, 0)
        if self.bucket is None:
            return
        if is_of_a_machine(self.bucket):
            raise ConfigError(f"bucket must be a URL, such as s3://BUCKET/runs, got {self.bucket}")
        if urlsplit(self.bucket).scheme not in fsspec.available_protocols():
            raise ConfigError(
                "bucket must be a URL that fsspec knows, such as s3://BUCKET/runs or gs://, got "
                f"{redacted(self.bucket)}; for a store that speaks S3 (R2, say) give s3:// and the "
                "variable FSSPEC_S3_ENDPOINT_URL"
            )


@dataclass(frozen=True)
class SkyOptions(Options):
    """What a job asks of SkyPilot."""

    BUCKETS: ClassVar[tuple[str, ...]] = ("s3", "gs", "r2", "cos", "oci", "nebius")

    machine: Machine = Machine()
    software: Software = Software()
    recovery: Recovery = Recovery()


OPTIONS = SkyOptions


def write(job: Job) -> str:
    """Returns the YAML file.

    Raises:
        ConfigError: the arguments of training do not suit machines that may be taken away.
    """
    options = _options(job)
    _check(options)
    copied, arguments = _arguments(job)
    task: dict[str, Any] = {
        "name": options.common.job,
        "num_nodes": options.common.nodes,
        "resources": _resources(options),
        "config": {"hooks": [_hook(options)]},
    }
    if copied:
        task["file_mounts"] = copied
    if options.software.names:
        task["secrets"] = dict.fromkeys(options.software.names)
    if options.software.setup is not None:
        task["setup"] = _lines(options.software.setup)
    task["run"] = _run(options, arguments)
    head = f"# yolodata launch {shlex.join(job.given)}".replace("\n", "\n# ")
    return f"{head}\n{_HEAD}{yaml.dump(task, Dumper=_Dumper, sort_keys=False, width=1000)}"


def submit(job: Job, text: str) -> int:
    """Hands the file on to `sky jobs launch`; returns its exit status.

    Raises:
        ConfigError: `sky`, or a variable that is named, is not here.
    """
    options = _options(job)
    if shutil.which("sky") is None:
        raise ConfigError(
            "submit=True needs the command sky, which is not here; install it (pip install "
            "'skypilot[aws]', say), or give out=FILE and run `sky jobs launch FILE` where it is"
        )
    missing = [name for name in options.software.names if name not in os.environ]
    if missing:
        raise ConfigError(
            f"variables names {', '.join(missing)}, which the environment lacks; set it before, or "
            "leave it out"
        )
    with tempfile.TemporaryDirectory(prefix="yolodata-") as folder:
        file = Path(options.common.out or Path(folder) / f"{options.common.job}.yaml")
        if options.common.out is None:
            file.write_text(text, encoding="utf-8")
        named = [word for name in options.software.names for word in ("--secret", name)]
        return subprocess.run(["sky", "jobs", "launch", "-y", *named, str(file)]).returncode


_HEAD = """\
# For `sky jobs launch FILE`. SkyPilot starts it again on other machines when these are taken away,
# and where training ends with one of recover_on_exit_codes; resume=auto goes on where it was.
"""


def _options(job: Job) -> SkyOptions:
    assert isinstance(job.options, SkyOptions)
    return job.options


def _check(options: SkyOptions) -> None:
    """Refuses options that lack another one."""
    if options.common.gpus and options.machine.accelerator is None:
        raise ConfigError(
            f"accelerator must be given with gpus={options.common.gpus}, got none; give "
            "accelerator=A100, say (`sky gpus list` lists them), or gpus=0 to train on CPUs"
        )
    if not options.common.gpus and options.machine.accelerator is not None:
        raise ConfigError(
            f"accelerator={options.machine.accelerator} contradicts gpus=0; give one of them"
        )
    if options.software.setup is None and options.machine.image is None:
        raise ConfigError(
            "setup or image must be given, got none: a machine of a cloud has no yolodata; give "
            "setup=COMMANDS that install it, or image=docker:IMAGE that has it"
        )


def _resources(options: SkyOptions) -> dict[str, Any]:
    gpus = {options.machine.accelerator: options.common.gpus} if options.common.gpus else None
    found = {
        "infra": options.machine.infra,
        "accelerators": gpus,
        # With a plus: machines have what their kind has.
        "cpus": None if options.common.cpus is None else f"{options.common.cpus}+",
        "memory": None if options.common.memory is None else f"{options.common.memory}+",
        "disk_size": options.machine.disk,
        "image_id": options.machine.image,
        "use_spot": options.machine.spot,
        # Not PEER_LOST: where one rank fails, the others end with it, and what is in this list is
        # started again without a limit. A machine that is gone SkyPilot sees by itself.
        "job_recovery": {
            "max_restarts_on_errors": options.recovery.restarts,
            "recover_on_exit_codes": [PREEMPTED],
        },
    }
    return {name: value for name, value in found.items() if value is not None}


def _arguments(job: Job) -> tuple[dict[str, str], list[str]]:
    """Returns what is copied to each machine, and the arguments of training as words of a shell.

    Raises:
        ConfigError: checkpoints would be lost with a machine, or the dataset cannot be copied.
    """
    options = _options(job)
    given = list(job.arguments)
    if options.recovery.bucket is not None:
        if job.argument("yolodata.upload") is not None:
            raise ConfigError("bucket and yolodata.upload are two places; give one of them")
        given.append(
            f"yolodata.upload={options.recovery.bucket.rstrip('/')}/{name_of_its_own(job)}"
        )
    elif options.machine.spot and is_of_a_machine(job.argument("yolodata.upload") or ""):
        raise ConfigError(
            "a machine that is taken away takes its checkpoints with it; give bucket=URL, where "
            "they are copied to, or spot=False"
        )
    copied: dict[str, str] = {}
    words = []
    for argument in given:
        name, _, value = argument.partition("=")
        url = urlsplit(value)
        if name == "data" and url.scheme in options.BUCKETS:
            folder = Path(url.path).name
            if not folder or Path(folder).suffix in (".yaml", ".yml", ".zip", ".json"):
                raise ConfigError(
                    "data must be a folder of shards, made by `yolodata shard`, to be copied to "
                    f"the machines, got {value}"
                )
            place = f"{DATA}/{folder}"
            copied[f"~/{place}"] = value
            words.append(f'data="$HOME"/{shlex.quote(place)}')
        else:
            words.append(shlex.quote(argument))
    return copied, words


def _pid_file(options: SkyOptions) -> str:
    return f'"$HOME"/.yolodata-{options.common.job}.pid'


def _run(options: SkyOptions, arguments: list[str]) -> str:
    """What every machine runs. `exec`: signals to this script are signals to training."""
    words, job = " \\\n  ".join(["--", *arguments]), options.common.job
    return f"""\
set -eu
export PYTHONSAFEPATH=1
first=$(printf '%s\\n' "$SKYPILOT_NODE_IPS" | head -n 1)
echo $$ > {_pid_file(options)}
exec {_program(options.software.python)} -m yolodata.launch.agent \\
  --nodes "$SKYPILOT_NUM_NODES" --node "$SKYPILOT_NODE_RANK" --rendezvous "$first:{PORT}" \\
  --run "${{SKYPILOT_TASK_ID:-{job}}}" --processes {options.common.processes_a_node} \\
  {words}
"""


def _program(name: str) -> str:
    """A path of the home of whoever runs it, or any other."""
    return f'"$HOME"/{shlex.quote(name[2:])}' if name.startswith("~/") else shlex.quote(name)


def _hook(options: SkyOptions) -> dict[str, Any]:
    """Asks training to stop when SkyPilot knows that the machine goes, and waits until it has."""
    run = f"""\
pid=$(cat {_pid_file(options)} 2>/dev/null) || exit 0
grep -qa yolodata.launch.agent "/proc/$pid/cmdline" || exit 0
kill -TERM "$pid"
for _ in $(seq 50); do kill -0 "$pid" 2>/dev/null || break; sleep 0.5; done
"""
    return {"run": run, "events": ["preemption", "down"], "timeout": 30}


def _lines(text: str) -> str:
    return text if text.endswith("\n") else f"{text}\n"


class _Dumper(yaml.SafeDumper):
    """Texts of several lines are shown as such."""


def _text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", value, style="|" if "\n" in value else None
    )


_Dumper.add_representer(str, _text)
