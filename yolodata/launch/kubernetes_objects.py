"""A TrainJob of Kubeflow Trainer v2, and the runtime that says how its pods look.

Note [who ends, who begins again]. `yolodata.launch.agent` is the first process of a pod. SIGTERM
reaches it, and it passes it on to the ranks; their exit status is the pod's. Asked to stop (75), or
on a machine that is taken away, a pod is made anew and counts for nothing. A mistake (2) ends the
job: the next try would make it again. Whatever else ends one pod, a lost peer (76) too, ends all of
them, and they begin again, at most `restarts` times. With `min_nodes`, torchrun lets the others go
on, so that only the pod begins again; when the first pod is done all are, because nobody can join
the others any more: a pod that comes later would wait for a day, and fail.
"""

from __future__ import annotations

import math
import shlex
from typing import Any

from yolodata.arguments import literal
from yolodata.errors import ConfigError
from yolodata.launch.job import PORT, Job, is_of_a_machine, name_of_its_own
from yolodata.launch.kubernetes_options import RUNTIMES, TO_END, KubernetesOptions
from yolodata.train.exit_codes import MISTAKE, PREEMPTED

TRAINER = "trainer.kubeflow.org/v1alpha1"

SHARDS, RUNS = "/shards", "/runs"
"""Where the volumes of shards and of runs are in a pod."""

PATIENCE = 24 * 3600
"""Seconds that a pod waits for the others: a machine, or an image, may take long to come."""

LAST_PORT = 65535


def manifests(job: Job) -> list[dict[str, Any]]:
    """Returns the objects that Kubernetes is given, in the order in which they are made.

    Raises:
        ConfigError: an argument of training would not do what it says in a pod.
    """
    _check(job)
    asked = job.options
    assert isinstance(asked, KubernetesOptions)
    claims = [
        _claim(name, size, asked)
        for name, size in (
            (asked.volumes.shards, asked.volumes.shards_size),
            (asked.volumes.runs, asked.volumes.runs_size),
        )
        if name is not None and size is not None
    ]
    return [*claims, _runtime(job, asked), _train_job(job, asked)]


def _check(job: Job) -> None:
    """Refuses what is lost with a pod, and what nobody reaches there."""
    asked = job.options
    assert isinstance(asked, KubernetesOptions)
    if asked.container.image is None:
        raise ConfigError(
            "image must be given, got none; name a container image with yolodata in it "
            "(image=registry.example.com/yolodata:0.3.0)"
        )
    upload = _given(job, "yolodata.upload")
    if upload is not None and is_of_a_machine(upload):
        upload = None
    if asked.volumes.runs is None and upload is None:
        raise ConfigError(
            "runs=CLAIM or yolodata.upload=URL of a bucket must be given, got none: a pod that "
            "begins again would find no checkpoint"
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
    ports = _ports(job, asked)
    if ports and (ports[-1] > LAST_PORT or PORT in ports):
        raise ConfigError(
            f"yolodata.metrics takes a port for each process of a pod, {ports[0]} to {ports[-1]}, "
            f"and must leave out {PORT}, where pods meet, and what is above {LAST_PORT}; give "
            "another, such as 0.0.0.0:9401"
        )


def _given(job: Job, name: str) -> str | None:
    """Returns the value of an argument of training; None where it is not given, or None."""
    value = job.argument(name)
    return None if value in (None, "", "None") else value


def _port(metrics: str | None) -> int | None:
    """Returns the port of the first rank where others reach it; None without one."""
    interface, _, port = (metrics or "").rpartition(":")
    return int(port) if interface in ("0.0.0.0", "[::]") and port.isdecimal() else None


def _ports(job: Job, asked: KubernetesOptions) -> range:
    """Returns the ports of a pod's ranks; none without a first one."""
    first = _port(_given(job, "yolodata.metrics"))
    return range(first, first + asked.common.processes_a_node) if first is not None else range(0)


def _metadata(asked: KubernetesOptions, name: str) -> dict[str, Any]:
    return {"name": name, "namespace": asked.objects.namespace, "labels": _labels(asked)}


def _labels(asked: KubernetesOptions) -> dict[str, str]:
    return {"app.kubernetes.io/name": "yolodata", "app.kubernetes.io/instance": asked.common.job}


def _claim(name: str, size: int, asked: KubernetesOptions) -> dict[str, Any]:
    """A volume, which pods of several machines mount where there are several."""
    spec: dict[str, Any] = {
        "accessModes": ["ReadWriteMany" if asked.common.nodes > 1 else "ReadWriteOnce"],
        "resources": {"requests": {"storage": f"{size}Gi"}},
    }
    if asked.volumes.storage_class is not None:
        spec["storageClassName"] = asked.volumes.storage_class
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _metadata(asked, name),
        "spec": spec,
    }


def _runtime(job: Job, asked: KubernetesOptions) -> dict[str, Any]:
    """How the pods look; the TrainJob says what runs in them."""
    elastic = asked.recovery.min_nodes is not None
    metadata = _metadata(asked, _runtime_name(asked))
    if asked.objects.runtime == "cluster":
        del metadata["namespace"]
    metadata["labels"]["trainer.kubeflow.org/framework"] = "torch"
    pods: dict[str, Any] = {
        "backoffLimit": asked.recovery.restarts if elastic else 0,
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
    if elastic:
        pods["successPolicy"] = {"rules": [{"succeededIndexes": "0"}]}
    step = {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    return {
        "apiVersion": TRAINER,
        "kind": RUNTIMES[asked.objects.runtime],
        "metadata": metadata,
        "spec": {
            # No policy for torch: it would tell torchrun where all meet by its environment, and
            # cannot say a range of nodes. The agent says both.
            "mlPolicy": {"numNodes": asked.common.nodes},
            "template": {
                "spec": {
                    "failurePolicy": {
                        "maxRestarts": 0 if elastic else asked.recovery.restarts,
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
    return (
        f"{asked.objects.namespace}.{asked.common.job}"
        if asked.objects.runtime == "cluster"
        else asked.common.job
    )


def _exit(code: int) -> dict[str, Any]:
    return {"containerName": "node", "operator": "In", "values": [code]}


def _annotations(job: Job, asked: KubernetesOptions) -> dict[str, str]:
    """What schedulers, autoscalers and Prometheus read at a pod."""
    found = {
        # Only to save money; a machine that goes is survived.
        "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
        "karpenter.sh/do-not-disrupt": "true",
    }
    if asked.kueue.topology is not None:
        found[f"kueue.x-k8s.io/podset-{asked.kueue.topology_mode}-topology"] = asked.kueue.topology
    ports = _ports(job, asked)
    if ports:
        found["prometheus.io/scrape"] = "true"
        found["prometheus.io/port"] = str(ports[0])
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
    if asked.volumes.runs is None:
        volumes.append({"name": "runs", "emptyDir": {}})
    else:
        claim = {"claimName": asked.volumes.runs}
        volumes.append({"name": "runs", "persistentVolumeClaim": claim})
    if asked.volumes.shards is not None:
        claim = {"claimName": asked.volumes.shards}
        volumes.append({"name": "shards", "persistentVolumeClaim": claim})
        mounts.append({"name": "shards", "mountPath": SHARDS, "readOnly": True})
    container: dict[str, Any] = {
        "name": "node",  # Kubeflow Trainer looks for this one
        "image": asked.container.image,
        "workingDir": RUNS,
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,  # only /tmp, /runs and /dev/shm are written to
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }
    if asked.container.secrets:
        container["envFrom"] = [{"secretRef": {"name": name}} for name in asked.container.secrets]
    ports = _ports(job, asked)
    if ports:
        container["ports"] = [
            {"name": f"metrics-{rank}", "containerPort": port} for rank, port in enumerate(ports)
        ]
    pod: dict[str, Any] = {
        "restartPolicy": "Never",  # a pod failure policy takes no other
        "terminationGracePeriodSeconds": asked.recovery.grace,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": asked.container.user,
            "runAsGroup": asked.container.user,
            "fsGroup": asked.container.user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [container],
        "volumes": volumes,
    }
    if asked.container.pull_with is not None:
        pod["imagePullSecrets"] = [{"name": asked.container.pull_with}]
    if asked.placement.priority is not None:
        pod["priorityClassName"] = asked.placement.priority
    if asked.placement.selector:
        pod["nodeSelector"] = asked.placement.selector
    if asked.placement.tolerations:
        pod["tolerations"] = asked.placement.tolerations
    return pod


def _shm(job: Job, asked: KubernetesOptions) -> int:
    """GiB of /dev/shm: a gibibyte for NCCL, and the batches of Ultralytics' workers.

    Ours are threads. Where Ultralytics' own loader takes over, each of its workers has four batches
    there.
    """
    if asked.container.shm is not None:
        return asked.container.shm

    def given(name: str, default: int) -> int:
        value = literal(job.argument(name) or str(default))
        return value if isinstance(value, int) and value > 0 else default

    batches = 4 * given("workers", 8) + 1
    pictures = (
        given("batch", 16 * asked.common.processes_a_node * asked.common.nodes) / asked.common.nodes
    )
    reckoned = 1 + math.ceil(1.25 * batches * pictures * 3 * given("imgsz", 640) ** 2 / 2**30)
    return (
        reckoned if asked.common.memory is None else max(1, min(reckoned, asked.common.memory // 2))
    )


def _train_job(job: Job, asked: KubernetesOptions) -> dict[str, Any]:
    metadata = _metadata(asked, asked.common.job)
    if asked.kueue.queue is not None:
        metadata["labels"]["kueue.x-k8s.io/queue-name"] = asked.kueue.queue
    if asked.kueue.queue_priority is not None:
        metadata["labels"]["kueue.x-k8s.io/priority-class"] = asked.kueue.queue_priority
    metadata["annotations"] = {"yolodata/command": shlex.join(("yolodata", "launch", *job.given))}
    # torch asks for the user's name, and a number without an entry in /etc/passwd has none.
    environment = {"HOME": "/tmp", "LOGNAME": "yolodata", "PYTHONUNBUFFERED": "1"}
    trainer: dict[str, Any] = {
        "numNodes": asked.common.nodes,
        "image": asked.container.image,
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
                "kind": RUNTIMES[asked.objects.runtime],
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
            added.append(f"name={name_of_its_own(job)}")
    return [*job.arguments, *added]


def _agent(asked: KubernetesOptions) -> list[str]:
    """Options of what starts the ranks of a pod."""
    options = [
        f"--nodes={asked.common.nodes}",
        f"--processes={asked.common.processes_a_node}",
        f"--grace={asked.recovery.grace - TO_END}",
    ]
    if asked.common.nodes > 1:
        job = asked.common.job
        options += [
            "--node=$(JOB_COMPLETION_INDEX)",
            f"--rendezvous={job}-node-0-0.{job}:{PORT}",  # JobSet's name of the first
            f"--run={job}",
            f"--patience={PATIENCE}",
        ]
    if asked.recovery.min_nodes is not None:
        options += [f"--least={asked.recovery.min_nodes}", f"--restarts={asked.recovery.restarts}"]
    return [*options, "--numa"] if asked.common.gpus else options


def _resources(asked: KubernetesOptions) -> dict[str, str]:
    """Requests, and limits as well: so cores and memory belong to the pod (QoS Guaranteed)."""
    found = {}
    if asked.common.cpus is not None:
        found["cpu"] = str(asked.common.cpus)
    if asked.common.memory is not None:
        found["memory"] = f"{asked.common.memory}Gi"
    if asked.common.gpus:
        found[asked.placement.gpu_resource] = str(asked.common.gpus)
    return found
