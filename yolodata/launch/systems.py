"""The systems that a job can be written for."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from yolodata.launch.job import Options

SYSTEMS = {
    "slurm": "yolodata.launch.slurm",
    "k8s": "yolodata.launch.kubernetes",
    "sky": "yolodata.launch.sky",
}
"""System -> module with `OPTIONS` (a class of options), `write(job)` and `submit(job, text)`."""


def module_of(system: str) -> ModuleType:
    """Returns the module of a system."""
    return import_module(SYSTEMS[system])


def options_of(system: str) -> type[Options]:
    """Returns the class of a system's options."""
    found: type[Options] = module_of(system).OPTIONS
    return found
