"""Slurm: the batch script, and how it is handed on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from yolodata.errors import ConfigError
from yolodata.launch.job import Job
from yolodata.launch.slurm_options import SlurmOptions
from yolodata.launch.slurm_script import script

OPTIONS = SlurmOptions


def write(job: Job) -> str:
    """Returns the script."""
    return script(job)


def submit(job: Job, text: str) -> int:
    """Hands the script on to Slurm.

    Returns:
        sbatch's exit status.

    Raises:
        ConfigError: there is no sbatch here.
    """
    file = [] if job.options.common.out is None else [str(Path(job.options.common.out))]
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", *file],
            input=None if file else text,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            check=False,
        )
    except FileNotFoundError:
        raise ConfigError(
            "submit=True needs sbatch, which is not on this machine; give out=FILE, and run "
            "`sbatch FILE` on a login node of the cluster"
        ) from None
    if done.returncode == 0:
        number = done.stdout.strip().partition(";")[0]
        print(f"yolodata: Slurm has the job as number {number}", file=sys.stderr)
    return done.returncode
