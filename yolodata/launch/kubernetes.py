"""Kubernetes: the YAML of a job, and handing it to kubectl."""

from __future__ import annotations

import math
import re
import subprocess
from typing import Any

import yaml

from yolodata.errors import ConfigError
from yolodata.launch.job import Job
from yolodata.launch.kubernetes_objects import manifests
from yolodata.launch.kubernetes_options import KubernetesOptions

OPTIONS = KubernetesOptions


def write(job: Job) -> str:
    """Returns the YAML documents: claims, runtime, TrainJob.

    Raises:
        ConfigError: an argument of training would not do what it says in a pod.
    """
    return yaml.dump_all(manifests(job), Dumper=_Dumper, sort_keys=False, width=math.inf)


def submit(job: Job, text: str) -> int:
    """Hands the YAML to kubectl; returns its exit status.

    Raises:
        ConfigError: there is no kubectl.
    """
    try:
        command = ["kubectl", "apply", "-f", "-"]
        return subprocess.run(command, input=text, encoding="utf-8").returncode
    except FileNotFoundError:
        raise ConfigError(
            "submit=True needs kubectl, which is not there; install it, or give out=FILE and apply "
            "that elsewhere"
        ) from None


class _Dumper(yaml.SafeDumper):
    """Quotes every text that another reader of YAML might take for a number or a truth value.

    PyYAML quotes by YAML 1.1 alone; kubectl takes 1e3 for a number, and y for true.
    """

    def ignore_aliases(self, data: Any) -> bool:
        """Nothing is written once and named later: people read the file."""
        return True

    def represent_text(self, text: str) -> yaml.ScalarNode:
        """Returns the node of a text."""
        plain = re.fullmatch(r"[A-Za-z/]\S+", text) is not None
        return self.represent_scalar("tag:yaml.org,2002:str", text, None if plain else '"')


_Dumper.add_representer(str, _Dumper.represent_text)
