"""Slurm: a batch script."""

from __future__ import annotations

from dataclasses import dataclass

from yolodata.launch.job import Job, Options


@dataclass(frozen=True)
class SlurmOptions(Options):
    """What a job asks of Slurm.

    Attributes:
        time: limit of the job, as Slurm writes it (`time="2-00:00:00"`).
        partition: where it runs; None is Slurm's default (`partition="gpu"`).
    """

    time: str = "24:00:00"
    partition: str | None = None


OPTIONS = SlurmOptions


def write(job: Job) -> str:
    """Returns the script."""
    return "#!/bin/bash\n"


def submit(job: Job, text: str) -> int:
    """Hands the script on to Slurm; returns the exit status."""
    return 1
