"""Kubernetes: a TrainJob of Kubeflow Trainer v2, and the runtime that says how its pods look.

Note [who ends, who begins again]. `yolodata.launch.agent` is the first process of a pod. SIGTERM
reaches it, and it passes it on to the ranks; their exit status is the pod's. Asked to stop (75), or
on a machine that is taken away, a pod is made anew and counts for nothing. A mistake (2) ends the
job: the next try would make it again. Whatever else ends one pod, a lost peer (76) too, ends all of
them, and they begin again, at most `restarts` times. With `min_nodes`, torchrun lets the others go
on, so that only the pod begins again.
"""

from __future__ import annotations

import math
import re
import shlex
import subprocess
from dataclasses import dataclass
from typing import Any

import yaml

from yolodata.arguments import literal
from yolodata.checks import one_of, shown, whole
from yolodata.errors import ConfigError
from yolodata.launch.job import Job, Options
from yolodata.train.watchdog.exit_codes import MISTAKE, PREEMPTED

TRAINER = "trainer.kubeflow.org/v1alpha1"
RUNTIMES = {"cluster": "ClusterTrainingRuntime", "namespace": "TrainingRuntime"}

SHARDS, RUNS = "/shards", "/runs"
"""Where the volumes of shards and of runs are in a pod."""

LEAST_GRACE = 35
"""Seconds: torchrun gives its ranks 30, and then has to end itself."""

PATIENCE = 24 * 3600
"""Seconds that a pod waits for the others: a machine, or an image, may take long to come."""

PORT = 29500
"""Where the agents meet, at the first pod."""

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
_IMAGE = re.compile(r"[\w./:@-]{1,500}", re.ASCII)
_EFFECTS = ("NoSchedule", "PreferNoSchedule", "NoExecute")


@dataclass(frozen=True)
class KubernetesOptions(Options):
    """What a job asks of Kubernetes; `nodes` are pods, one a machine as a rule.

    Attributes:
        image: container image with yolodata in it (`image="registry.example.com/yolodata:0.2.0"`).
        namespace: where everything is made (`namespace="vision"`).
        runtime: `cluster` writes a ClusterTrainingRuntime, which needs an administrator's rights,
            `namespace` a TrainingRuntime (`runtime="namespace"`).
        min_nodes: machines with which training goes on while others are missing; None needs all
            (`min_nodes=1`).
        restarts: times that the pods begin again after a failure; stops that were asked for count
            for nothing (`restarts=50`).
        grace: seconds from SIGTERM to SIGKILL, for the last checkpoint and its upload
            (`grace=120`).
        shards: claim of the volume with packed datasets, at /shards, read-only
            (`shards="coco-shards"`).
        shards_size: GiB of that claim, which is written, too; None: it exists (`shards_size=50`).
        runs: claim of the volume with run folders, at /runs, which several nodes have to share;
            None keeps runs in the pod, which takes yolodata.upload (`runs="runs"`).
        runs_size: GiB of that claim, which is written, too; None: it exists (`runs_size=100`).
        storage_class: of the claims that are written; None is the cluster's default
            (`storage_class="filestore"`).
        env_from: Secrets whose entries become environment variables, credentials of yolodata.upload
            say (`env_from="s3-credentials,tracker"`).
        pull_with: Secret with which the image is pulled (`pull_with="registry"`).
        shm: GiB that /dev/shm may take of the memory; None is what batches of Ultralytics' own
            loader would take, at most half of `memory` (`shm=16`).
        gpu_resource: name of the GPUs (`gpu_resource="amd.com/gpu"`).
        queue: LocalQueue of Kueue; None needs no Kueue (`queue="gpus"`).
        topology: node label within one value of which Kueue places all pods
            (`topology="cloud.google.com/gce-topology-block"`).
        topology_mode: `preferred` takes other places where that one is full, `required` waits
            (`topology_mode="required"`).
        queue_priority: WorkloadPriorityClass of Kueue (`queue_priority="high"`).
        priority: PriorityClass of the pods (`priority="training"`).
        select: labels that nodes must have, KEY=VALUE (`select="gpu=h100,zone=a"`).
        tolerate: taints that pods tolerate, KEY[=VALUE]:EFFECT
            (`tolerate="nvidia.com/gpu:NoSchedule"`).
        user: number of user and group that processes have, and that volumes are given to; the
            default is that of the image in deploy/image (`user=1000`).
    """

    image: str | None = None
    namespace: str = "default"
    runtime: str = "cluster"
    min_nodes: int | None = None
    restarts: int = 20
    grace: int = 60
    shards: str | None = None
    shards_size: int | None = None
    runs: str | None = None
    runs_size: int | None = None
    storage_class: str | None = None
    env_from: str | None = None
    pull_with: str | None = None
    shm: int | None = None
    gpu_resource: str = "nvidia.com/gpu"
    queue: str | None = None
    topology: str | None = None
    topology_mode: str = "preferred"
    queue_priority: str | None = None
    priority: str | None = None
    select: str | None = None
    tolerate: str | None = None
    user: int = 10001

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_names()
        one_of("runtime", self.runtime, list(RUNTIMES))
        one_of("topology_mode", self.topology_mode, ["preferred", "required"])
        whole("restarts", self.restarts, 0, 2**31 - 1)
        whole("grace", self.grace, LEAST_GRACE)
        whole("user", self.user, 1)
        for name in ("shards_size", "runs_size", "shm"):
            if getattr(self, name) is not None:
                whole(name, getattr(self, name), 1)
        if self.min_nodes is not None:
            whole("min_nodes", self.min_nodes, 1, self.nodes, " (nodes)")
        if self.shm is not None and self.memory is not None and self.shm >= self.memory:
            raise ConfigError(
                f"shm must be less than memory={self.memory}, of which /dev/shm takes its pages, "
                f"got {self.shm}"
            )
        for name, needed in (
            ("shards_size", "shards"),
            ("runs_size", "runs"),
            ("topology", "queue"),
            ("queue_priority", "queue"),
        ):
            if getattr(self, name) is not None and getattr(self, needed) is None:
                raise ConfigError(f"{name} needs {needed}=; give both, or neither")
        self.selector, self.tolerations  # noqa: B018 - raise what is wrong with them

    def _check_names(self) -> None:
        """Raises ConfigError where a name is none that Kubernetes takes."""
        if self.image is not None and not _IMAGE.fullmatch(self.image):
            raise ConfigError(f"image must name a container image, got {shown(self.image)}")
        # JobSet makes pods JOB-node-0-INDEX-abcde, which have to be DNS labels.
        longest = 63 - len(f"-node-0-{self.nodes - 1}-abcde")
        if not self.job[0].isalpha() or len(self.job) > longest:
            raise ConfigError(
                f"job must begin with a letter and have at most {longest} characters with "
                f"nodes={self.nodes}, because pods are named after it, got {shown(self.job)}"
            )
        for name, form, what in (
            ("namespace", _LABEL, "a DNS label"),
            ("queue", _LABEL, "a DNS label"),
            ("queue_priority", _LABEL, "a DNS label"),
            ("shards", _SUBDOMAIN, "a DNS name"),
            ("runs", _SUBDOMAIN, "a DNS name"),
            ("storage_class", _SUBDOMAIN, "a DNS name"),
            ("pull_with", _SUBDOMAIN, "a DNS name"),
            ("priority", _SUBDOMAIN, "a DNS name"),
            ("topology", _KEY, "the key of a node label"),
            ("gpu_resource", _KEY, "the name of a resource"),
        ):
            value = getattr(self, name)
            if value is not None and not form.fullmatch(value):
                raise ConfigError(
                    f"{name} must be {what} (a-z, 0-9, '-' within"
                    f"{'' if form is _LABEL else ', parts'}), got {shown(value)}"
                )
        for secret in self.secrets:
            if not _SUBDOMAIN.fullmatch(secret):
                raise ConfigError(
                    f"env_from must name Secrets, with ',' between them, got {shown(self.env_from)}"
                )

    @property
    def secrets(self) -> list[str]:
        """Names of the Secrets that become environment variables."""
        return [] if self.env_from is None else self.env_from.split(",")

    @property
    def selector(self) -> dict[str, str]:
        """Labels that nodes must have."""
        found = {}
        for one in [] if self.select is None else self.select.split(","):
            key, equals, value = one.partition("=")
            if not equals or not _KEY.fullmatch(key) or not _VALUE.fullmatch(value):
                raise ConfigError(
                    f"select must be labels of nodes, KEY=VALUE with ',' between them, got {one!r}"
                )
            found[key] = value
        return found

    @property
    def tolerations(self) -> list[dict[str, str]]:
        """Taints that pods tolerate."""
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


def manifests(job: Job) -> list[dict[str, Any]]:
    """Returns the objects that Kubernetes is given, in the order in which they are made.

    Raises:
        ConfigError: as `write`.
    """
    _check(job)
    asked = job.options
    assert isinstance(asked, KubernetesOptions)
    claims = [
        _claim(name, size, asked)
        for name, size in ((asked.shards, asked.shards_size), (asked.runs, asked.runs_size))
        if name is not None and size is not None
    ]
    return [*claims, _runtime(job, asked), _train_job(job, asked)]


def _check(job: Job) -> None:
    """Refuses what is lost with a pod, and what nobody reaches there."""
    asked = job.options
    assert isinstance(asked, KubernetesOptions)
    if asked.image is None:
        raise ConfigError(
            "image must be given, got none; name a container image with yolodata in it "
            "(image=registry.example.com/yolodata:0.2.0)"
        )
    batch = literal(job.argument("batch") or "16")
    if asked.min_nodes is not None and isinstance(batch, int) and batch > 0:
        counts = [n * asked.processes_a_node for n in range(asked.min_nodes, asked.nodes + 1)]
        divides = math.lcm(*counts)
        if batch % divides:
            raise ConfigError(
                f"batch must be a multiple of {divides} with min_nodes={asked.min_nodes}, because "
                f"{', '.join(map(str, counts))} processes may share it, got {batch}"
            )
    upload = _given(job, "yolodata.upload")
    if asked.runs is None and upload is None:
        raise ConfigError(
            "runs= or yolodata.upload=URL must be given, got none: a pod that begins again would "
            "find no checkpoint"
        )
    place = _given(job, "save_dir") or _given(job, "project")
    if place is not None and upload is None and place != RUNS and not place.startswith(f"{RUNS}/"):
        raise ConfigError(f"project must be {RUNS} or below, which outlives a pod, got {place!r}")
    metrics = _given(job, "yolodata.metrics")
    if metrics is not None and not metrics.endswith(".prom") and _port(metrics) is None:
        raise ConfigError(
            "yolodata.metrics must be 0.0.0.0:PORT, or [::]:PORT, for a Prometheus outside of the "
            f"pod to reach it there, got {metrics!r}"
        )


def _given(job: Job, name: str) -> str | None:
    """Returns the value of an argument of training; None where it is not given, or None."""
    value = job.argument(name)
    return None if value in (None, "", "None") else value


def _port(metrics: str | None) -> int | None:
    """Returns the port of the first rank where others reach it; None without one."""
    interface, _, port = (metrics or "").rpartition(":")
    return int(port) if interface in ("0.0.0.0", "[::]") and port.isdecimal() else None


def _metadata(asked: KubernetesOptions, name: str) -> dict[str, Any]:
    return {"name": name, "namespace": asked.namespace, "labels": _labels(asked)}


def _labels(asked: KubernetesOptions) -> dict[str, str]:
    return {"app.kubernetes.io/name": "yolodata", "app.kubernetes.io/instance": asked.job}


def _claim(name: str, size: int, asked: KubernetesOptions) -> dict[str, Any]:
    """A volume, which pods of several machines mount where there are several."""
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteMany" if asked.nodes > 1 else "ReadWriteOnce"],
        "resources": {"requests": {"storage": f"{size}Gi"}},
    }
    if asked.storage_class is not None:
        spec["storageClassName"] = asked.storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _metadata(asked, name),
        "spec": spec,
    }


def _runtime(job: Job, asked: KubernetesOptions) -> dict[str, Any]:
    """How the pods look; the TrainJob says what runs in them."""
    elastic = asked.min_nodes is not None
    metadata = _metadata(asked, _runtime_name(asked))
    if asked.runtime == "cluster":
        del metadata["namespace"]
    metadata["labels"]["trainer.kubeflow.org/framework"] = "torch"
    pods = {
        "backoffLimit": asked.restarts if elastic else 0,
        "podReplacementPolicy": "Failed",  # two pods with one place would write into one run
        "podFailurePolicy": {
            "rules": [
                {"action": "FailJob", "onExitCodes": _exit(MISTAKE)},
                {"action": "Ignore", "onExitCodes": _exit(PREEMPTED)},
                {
                    "action": "Ignore",
                    "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}],
                },
            ]
        },
        "template": {
            "metadata": {"labels": _labels(asked), "annotations": _annotations(job, asked)},
            "spec": _pod(job, asked),
        },
    }
    step = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    return {
        "apiVersion": TRAINER,
        "kind": RUNTIMES[asked.runtime],
        "metadata": metadata,
        "spec": {
            # No policy for torch: it would tell torchrun where all meet by its environment, and
            # cannot say a range of nodes. The agent says both.
            "mlPolicy": {"numNodes": asked.nodes},
            "template": {
                "spec": {
                    "failurePolicy": {
                        "maxRestarts": 0 if elastic else asked.restarts,
                        "rules": [
                            {
                                "name": "mistake",
                                "action": "FailJobSet",
                                "onJobFailureReasons": ["PodFailurePolicy"],
                            }
                        ],
                    },
                    "replicatedJobs": [
                        {
                            "name": "node",
                            "replicas": 1,
                            "template": {"metadata": {"labels": step}, "spec": pods},
                        }
                    ],
                }
            },
        },
    }


def _runtime_name(asked: KubernetesOptions) -> str:
    """The cluster's runtimes are seen by all namespaces, which may have jobs of one name."""
    return f"{asked.namespace}.{asked.job}" if asked.runtime == "cluster" else asked.job


def _exit(code: int) -> dict[str, Any]:
    return {"containerName": "node", "operator": "In", "values": [code]}


def _annotations(job: Job, asked: KubernetesOptions) -> dict[str, str]:
    """What schedulers, autoscalers and Prometheus read at a pod."""
    found = {
        # Only to save money; a machine that goes is survived.
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    if asked.topology is not None:
        found[f"kueue.x-k8s.io/podset-{asked.topology_mode}-topology"] = asked.topology
    port = _port(_given(job, "yolodata.metrics"))
    if port is not None:
        found["prometheus.io/scrape"] = "true"
        found["prometheus.io/port"] = str(port)
        found["prometheus.io/path"] = "/metrics"
    return found


def _pod(job: Job, asked: KubernetesOptions) -> dict[str, Any]:
    volumes: list[dict[str, Any]] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{_shm(job, asked)}Gi"}},
        {"name": "tmp", "emptyDir": {}},
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "shm", "mountPath": "/dev/shm"},
        {"name": "tmp", "mountPath": "/tmp"},
        {"name": "runs", "mountPath": RUNS},
    ]
    if asked.runs is None:
        volumes.append({"name": "runs", "emptyDir": {}})
    else:
        claim = {"claimName": asked.runs}
        volumes.append({"name": "runs", "persistentVolumeClaim": claim})
    if asked.shards is not None:
        claim = {"claimName": asked.shards}
        volumes.append({"name": "shards", "persistentVolumeClaim": claim})
        mounts.append({"name": "shards", "mountPath": SHARDS, "readOnly": True})
    container: dict[str, Any] = {
        "name": "node",  # Kubeflow Trainer looks for this one
        "image": asked.image,
        "workingDir": RUNS,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,  # only /tmp, /runs and /dev/shm are written to
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }
    if asked.secrets:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in asked.secrets]
    port = _port(_given(job, "yolodata.metrics"))
    if port is not None:
        container["ports"] = [
            {"name": f"metrics-{rank}", "containerPort": port + rank}
            for rank in range(asked.processes_a_node)
        ]
    pod: dict[str, Any] = {
        "restartPolicy": "Never",  # a pod failure policy takes no other
        "terminationGracePeriodSeconds": asked.grace,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": asked.user,
            "runAsGroup": asked.user,
            "fsGroup": asked.user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }
    if asked.pull_with is not None:
        pod["imagePullSecrets"] = [{"name": asked.pull_with}]
    if asked.priority is not None:
        pod["priorityClassName"] = asked.priority
    if asked.selector:
        pod["nodeSelector"] = asked.selector
    if asked.tolerations:
        pod["tolerations"] = asked.tolerations
    return pod


def _shm(job: Job, asked: KubernetesOptions) -> int:
    """GiB of /dev/shm: a gibibyte for NCCL, and the batches of Ultralytics' workers.

    Ours are threads. Where Ultralytics' own loader takes over, each of its workers has four batches
    there.
    """
    if asked.shm is not None:
        return asked.shm

    def given(name: str, default: int) -> int:
        value = literal(job.argument(name) or str(default))
        return value if isinstance(value, int) and value > 0 else default

    batches = 4 * given("workers", 8) + 1
    pictures = given("batch", 16 * asked.processes_a_node * asked.nodes) / asked.nodes
    reckoned = 1 + math.ceil(1.25 * batches * pictures * 3 * given("imgsz", 640) ** 2 / 2**30)
    return reckoned if asked.memory is None else max(1, min(reckoned, asked.memory // 2))


def _train_job(job: Job, asked: KubernetesOptions) -> dict[str, Any]:
    metadata = _metadata(asked, asked.job)
    if asked.queue is not None:
        metadata["labels"]["kueue.x-k8s.io/queue-name"] = asked.queue
    if asked.queue_priority is not None:
        metadata["labels"]["kueue.x-k8s.io/priority-class"] = asked.queue_priority
    metadata["annotations"] = {"yolodata/command": shlex.join(("yolodata", "launch", *job.given))}
    # torch asks for the user's name, and a number without an entry in /etc/passwd has none.
    environment = {"HOME": "/tmp", "LOGNAME": "yolodata", "PYTHONUNBUFFERED": "1"}
    trainer: dict[str, Any] = {
        "numNodes": asked.nodes,
        "image": asked.image,
        "command": ["python", "-m", "yolodata.launch.agent"],
        # Kubernetes reads $(NAME) in them, and $$ as $.
        "args": [*_agent(asked), "--", *(word.replace("$", "$$") for word in _arguments(job))],
        "env": [{"name": name, "value": value} for name, value in environment.items()],
    }
    resources = _resources(asked)
    if resources:
        trainer["resourcesPerNode"] = {"requests": resources, "limits": resources}
    return {
        "apiVersion": TRAINER,
        "kind": "TrainJob",
        "metadata": metadata,
        "spec": {
            "runtimeRef": {
                "apiGroup": TRAINER.partition("/")[0],
                "kind": RUNTIMES[asked.runtime],
                "name": _runtime_name(asked),
            },
            "trainer": trainer,
        },
    }


def _arguments(job: Job) -> list[str]:
    """The arguments of training; a run without a place has one that outlives the pod."""
    added = []
    if _given(job, "save_dir") is None:
        if _given(job, "project") is None:
            added.append(f"project={RUNS}")
        if _given(job, "name") is None:
            added.append(f"name={job.options.job}")
    return [*job.arguments, *added]


def _agent(asked: KubernetesOptions) -> list[str]:
    """Options of what starts the ranks of a pod."""
    options = [f"--nodes={asked.nodes}", f"--processes={asked.processes_a_node}"]
    if asked.nodes > 1:
        options += [
            "--node=$(JOB_COMPLETION_INDEX)",
            f"--rendezvous={asked.job}-node-0-0.{asked.job}:{PORT}",  # JobSet's name of the first
            f"--run={asked.job}",
            f"--patience={PATIENCE}",
        ]
    if asked.min_nodes is not None:
        options += [f"--least={asked.min_nodes}", f"--restarts={asked.restarts}"]
    return [*options, "--numa"] if asked.gpus else options


def _resources(asked: KubernetesOptions) -> dict[str, str]:
    """Requests, and limits as well: so cores and memory belong to the pod (QoS Guaranteed)."""
    found = {}
    if asked.cpus is not None:
        found["cpu"] = str(asked.cpus)
    if asked.memory is not None:
        found["memory"] = f"{asked.memory}Gi"
    if asked.gpus:
        found[asked.gpu_resource] = str(asked.gpus)
    return found


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
