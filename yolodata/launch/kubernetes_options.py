"""What a job asks of Kubernetes, each option checked."""

from __future__ import annotations

import re
from dataclasses import dataclass

from yolodata.checks import one_of, shown, whole
from yolodata.errors import ConfigError
from yolodata.launch.job import Group, Options

RUNTIMES = {"cluster": "ClusterTrainingRuntime", "namespace": "TrainingRuntime"}

TO_END = 5
"""Seconds of the time before SIGKILL in which torchrun ends itself; its ranks have the others."""

LEAST_GRACE = 30 + TO_END

_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_SUBDOMAIN = re.compile(
    r"(?=.{1,253}$)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
)
_KEY = re.compile(
    r"((?=[^/]{1,253}/)[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*/)?"
    r"[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?",
    re.ASCII,
)
_VALUE = re.compile(r"([A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?)?", re.ASCII)
_IMAGE = re.compile(
    r"([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?(:\d+)?/)?"  # registry
    r"[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*(/[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*)*"
    r"(:\w[\w.-]{0,127})?(@[a-z0-9]+:[0-9a-f]{32,})?",
    re.ASCII,
)
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


def _matching(name: str, value: str | None, form: re.Pattern[str], what: str) -> None:
    """Refuses a name that Kubernetes does not take."""
    if value is not None and not form.fullmatch(value):
        raise ConfigError(
            f"{name} must be {what} (a-z, 0-9, '-' within"
            f"{'' if form is _LABEL else ', parts'}), got {shown(value)}"
        )


def _with(group: Group, name: str, needed: str) -> None:
    """Refuses an option that needs another one of its group."""
    if getattr(group, name) is not None and getattr(group, needed) is None:
        raise ConfigError(f"{name} needs {needed}=; give both, or neither")


@dataclass(frozen=True)
class Objects(Group):
    """Where the objects are made, and of which kind.

    Attributes:
        namespace: where everything is made (`namespace="vision"`).
        runtime: `cluster` writes a ClusterTrainingRuntime, which needs an administrator's rights,
            `namespace` a TrainingRuntime (`runtime="namespace"`).
    """

    namespace: str = "default"
    runtime: str = "cluster"

    def __post_init__(self) -> None:
        super().__post_init__()
        _matching("namespace", self.namespace, _LABEL, "a DNS label")
        one_of("runtime", self.runtime, list(RUNTIMES))


@dataclass(frozen=True)
class Container(Group):
    """What runs in a pod.

    Attributes:
        image: container image with yolodata in it (`image="registry.example.com/yolodata:0.3.0"`).
        pull_with: Secret with which the image is pulled (`pull_with="registry"`).
        env_from: Secrets whose entries become environment variables, credentials of yolodata.upload
            say (`env_from="s3-credentials,tracker"`).
        user: number of user and group that processes have, and that volumes are given to; the
            default is that of the image in deploy/image (`user=1000`).
        shm: GiB that /dev/shm may take of the memory; None is what batches of Ultralytics' own
            loader would take, at most half of `memory` (`shm=16`).
    """

    image: str | None = None
    pull_with: str | None = None
    env_from: str | None = None
    user: int = 10001
    shm: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.image is not None and not _IMAGE.fullmatch(self.image):
            raise ConfigError(
                "image must name a container image, [REGISTRY/]NAME[:TAG][@sha256:DIGEST] with a "
                f"NAME of lower-case letters, got {shown(self.image)}"
            )
        _matching("pull_with", self.pull_with, _SUBDOMAIN, "a DNS name")
        for secret in self.secrets:
            if not _SUBDOMAIN.fullmatch(secret):
                raise ConfigError(
                    f"env_from must name Secrets, with ',' between them, got {shown(self.env_from)}"
                )
        whole("user", self.user, 1, 2**31 - 1)
        if self.shm is not None:
            whole("shm", self.shm, 1)

    @property
    def secrets(self) -> list[str]:
        """Names of the Secrets that become environment variables."""
        return [] if self.env_from is None else self.env_from.split(",")


@dataclass(frozen=True)
class Recovery(Group):
    """How the job goes on after it was stopped.

    Attributes:
        min_nodes: machines with which training goes on while others are missing; None needs all
            (`min_nodes=1`).
        restarts: times that the pods begin again after a failure; stops that were asked for count
            for nothing (`restarts=50`).
        grace: seconds from SIGTERM to SIGKILL, for the last step, its checkpoint and the upload
            (`grace=120`).
    """

    min_nodes: int | None = None
    restarts: int = 20
    grace: int = 60

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("restarts", self.restarts, 0, 2**31 - 1)
        whole("grace", self.grace, LEAST_GRACE, 2**31 - 1)


@dataclass(frozen=True)
class Volumes(Group):
    """Where datasets and run folders are kept.

    Attributes:
        shards: claim of the volume with packed datasets, at /shards, read-only
            (`shards="coco-shards"`).
        shards_size: GiB of that claim, which is written, too; None: it exists (`shards_size=50`).
        runs: claim of the volume with run folders, at /runs, which several nodes have to share;
            None keeps runs in the pod, which takes yolodata.upload (`runs="runs"`).
        runs_size: GiB of that claim, which is written, too; None: it exists (`runs_size=100`).
        storage_class: of the claims that are written; None is the cluster's default
            (`storage_class="filestore"`).
    """

    shards: str | None = None
    shards_size: int | None = None
    runs: str | None = None
    runs_size: int | None = None
    storage_class: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("shards", "runs", "storage_class"):
            _matching(name, getattr(self, name), _SUBDOMAIN, "a DNS name")
        for name in ("shards_size", "runs_size"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), 1)
                _with(self, name, name.removesuffix("_size"))
        if self.shards is not None and self.shards == self.runs:
            raise ConfigError(
                f"shards and runs must be two claims, got {shown(self.runs)} for both; one volume "
                "has either datasets, read-only, or runs"
            )


@dataclass(frozen=True)
class Kueue(Group):
    """What is asked of Kueue, which lets jobs wait until there is room.

    Attributes:
        queue: LocalQueue of Kueue; None needs no Kueue (`queue="gpus"`).
        topology: node label within one value of which Kueue places all pods
            (`topology="cloud.google.com/gce-topology-block"`).
        topology_mode: `preferred` takes other places where that one is full, `required` waits
            (`topology_mode="required"`).
        queue_priority: WorkloadPriorityClass of Kueue (`queue_priority="high"`).
    """

    queue: str | None = None
    topology: str | None = None
    topology_mode: str = "preferred"
    queue_priority: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _matching("queue", self.queue, _LABEL, "a DNS label")
        _matching("queue_priority", self.queue_priority, _LABEL, "a DNS label")
        _matching("topology", self.topology, _KEY, "the key of a node label")
        one_of("topology_mode", self.topology_mode, ["preferred", "required"])
        for name in ("topology", "queue_priority"):
            _with(self, name, "queue")


@dataclass(frozen=True)
class Placement(Group):
    """Which nodes the pods may run on, and before whom.

    Attributes:
        gpu_resource: name of the GPUs (`gpu_resource="amd.com/gpu"`).
        priority: PriorityClass of the pods (`priority="training"`).
        select: labels that nodes must have, KEY=VALUE (`select="gpu=h100,zone=a"`).
        tolerate: taints that pods tolerate, KEY[=VALUE]:EFFECT
            (`tolerate="nvidia.com/gpu:NoSchedule"`).
    """

    gpu_resource: str = "nvidia.com/gpu"
    priority: str | None = None
    select: str | None = None
    tolerate: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _matching("priority", self.priority, _SUBDOMAIN, "a DNS name")
        _matching("gpu_resource", self.gpu_resource, _KEY, "the name of a resource")
        if "/" not in self.gpu_resource:
            raise ConfigError(
                "gpu_resource must be VENDOR/NAME, as nodes call it (nvidia.com/gpu), got "
                f"{shown(self.gpu_resource)}"
            )
        self.selector, self.tolerations  # noqa: B018 - raise what is wrong with them

    @property
    def selector(self) -> dict[str, str]:
        """Labels that nodes must have, as of `select`.

        Raises:
            ConfigError: `select` is of another form, or names a label twice.
        """
        found = {}
        for one in [] if self.select is None else self.select.split(","):
            key, equals, value = one.partition("=")
            if not equals or not _KEY.fullmatch(key) or not _VALUE.fullmatch(value):
                raise ConfigError(
                    f"select must be labels of nodes, KEY=VALUE with ',' between them, got {one!r}"
                )
            if key in found:
                raise ConfigError(f"select must name a label once, got {self.select!r}")
            found[key] = value
        return found

    @property
    def tolerations(self) -> list[dict[str, str]]:
        """Taints that pods tolerate, as of `tolerate`.

        Raises:
            ConfigError: `tolerate` is of another form.
        """
        found = []
        for one in [] if self.tolerate is None else self.tolerate.split(","):
            taint, _, effect = one.rpartition(":")
            key, equals, value = taint.partition("=")
            if effect not in _EFFECTS or not _KEY.fullmatch(key) or not _VALUE.fullmatch(value):
                raise ConfigError(
                    "tolerate must be taints, KEY:EFFECT or KEY=VALUE:EFFECT with ',' between "
                    f"them and an EFFECT of {', '.join(_EFFECTS)}, got {one!r}"
                )
            told = {"operator": "Equal", "value": value} if equals else {"operator": "Exists"}
            found.append({"key": key, **told, "effect": effect})
        return found


@dataclass(frozen=True)
class KubernetesOptions(Options):
    """What a job asks of Kubernetes; `nodes` are pods, one a machine as a rule."""

    objects: Objects = Objects()
    container: Container = Container()
    recovery: Recovery = Recovery()
    volumes: Volumes = Volumes()
    kueue: Kueue = Kueue()
    placement: Placement = Placement()

    @property
    def process_counts(self) -> list[int]:
        """How many processes may train together; more than one with `min_nodes`."""
        nodes, least = self.common.nodes, self.recovery.min_nodes
        counts = range(nodes if least is None else least, nodes + 1)
        return [count * self.common.processes_a_node for count in counts]

    def __post_init__(self) -> None:
        job, nodes = self.common.job, self.common.nodes
        # JobSet makes pods JOB-node-0-INDEX-abcde, which have to be DNS labels.
        longest = 63 - len(f"-node-0-{nodes - 1}-abcde")
        if not job[0].isalpha() or len(job) > longest:
            raise ConfigError(
                f"job must begin with a letter and have at most {longest} characters with "
                f"nodes={nodes}, because pods are named after it, got {shown(job)}"
            )
        if self.recovery.min_nodes is not None:
            whole("min_nodes", self.recovery.min_nodes, 1, nodes, " (nodes)")
        shm, memory = self.container.shm, self.common.memory
        if shm is not None and memory is not None and shm >= memory:
            raise ConfigError(
                f"shm must be less than memory={memory}, of which /dev/shm takes its pages, got "
                f"{shm}"
            )
