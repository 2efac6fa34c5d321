"""What Kubernetes is given: strictly by its schemas, and run here as pods would run it."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from training import NOTING, arguments, prepare

from yolodata.errors import ConfigError
from yolodata.launch import kubernetes
from yolodata.launch.launch_cli import read_job
from yolodata.train.distributed import launch
from yolodata.train.exit_codes import PEER_LOST, PREEMPTED

pytestmark = pytest.mark.early

PLAIN = ["model=yolo26n.yaml", "data=/shards/coco/data.yaml", "image=example.com/yolodata:1"]
SMALL = [*PLAIN, "job=small", "gpus=0", "device=cpu", "yolodata.upload=memory://elsewhere"]
LARGE = [
    *PLAIN, "job=coco-m", "namespace=vision", "nodes=4", "gpus=8", "cpus=96", "memory=900",
    "shards=coco", "shards_size=50", "runs=runs", "runs_size=100", "storage_class=nfs.fast",
    "env_from=s3,tracker", "pull_with=registry", "queue=gpus", "queue_priority=high",
    "topology=cloud.google.com/gce-topology-block", "topology_mode=required", "priority=training",
    "select=gpu=h100,zone=", "tolerate=nvidia.com/gpu:NoSchedule,for=vision:NoExecute",
    "yolodata.metrics=0.0.0.0:9401", "batch=512",
]  # fmt: skip
JOBS = {
    "small": SMALL,
    "large": LARGE,
    "namespaced": [*LARGE, "runtime=namespace"],
    "elastic": [*LARGE, "min_nodes=2", "batch=480"],
}


def written(*words: str) -> list[dict[str, Any]]:
    """The documents of the YAML."""
    return list(yaml.safe_load_all(kubernetes.write(read_job("k8s", words))))


def runtime(*words: str) -> Any:
    """The runtime's specification."""
    return written(*words)[-2]["spec"]


def pods(*words: str) -> Any:
    """The specification of the pods' Job."""
    return runtime(*words)["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]


# By the schemas.


def refuse_what_is_wrong(document: dict[str, Any]) -> None:
    """Raises where the strict schemas of Kubernetes and Kubeflow Trainer refuse a document."""
    if document["apiVersion"] == "v1":
        validate(document)
        return
    models = pytest.importorskip("kubeflow_trainer_api.models", reason="kubeflow-trainer-api")
    group, version = document["apiVersion"].split("/")
    assert (group, version) == ("trainer.kubeflow.org", "v1alpha1")
    model = getattr(models, f"TrainerV1alpha1{document['kind']}")
    read = model.from_dict(copy.deepcopy(document))
    everything_was_read(document, read.to_dict(), document["kind"])
    if document["kind"] != "TrainJob":
        (job,) = document["spec"]["template"]["spec"]["replicatedJobs"]
        validate(
            {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "a"}, **job["template"]}
        )
        pod = job["template"]["spec"]["template"]
        validate({"apiVersion": "v1", "kind": "Pod", **pod})


def validate(document: dict[str, Any]) -> None:
    reason = "kubernetes-validate"
    pytest.importorskip("kubernetes_validate", reason=reason).validate(
        document, "1.32", strict=True
    )


def everything_was_read(given: Any, read: Any, where: str) -> None:
    """The models leave out what they do not know, without a word."""
    if isinstance(given, dict):
        for name, value in given.items():
            assert name in read, f"{where}.{name} is unknown"
            everything_was_read(value, read[name], f"{where}.{name}")
    elif isinstance(given, list):
        assert len(read) == len(given), where
        for at, (one, other) in enumerate(zip(given, read, strict=True)):
            everything_was_read(one, other, f"{where}[{at}]")
    else:
        assert read == given, where


FREE = {"labels", "annotations", "nodeSelector", "requests", "limits", "emptyDir"}
"""Mappings in which any name is allowed, or of which none is set."""


def named(value: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """Every mapping of a document and each of its names that a schema knows."""
    if isinstance(value, list):
        for one in value:
            yield from named(one)
    elif isinstance(value, dict):
        for name, inner in list(value.items()):
            yield value, name
            if name not in FREE:
                yield from named(inner)


@pytest.mark.parametrize("words", JOBS.values(), ids=JOBS)
def test_schemas_take_what_is_written_and_no_misspelt_name(words: list[str]) -> None:
    documents = written(*words)
    assert [one["kind"] for one in documents][-2:] == [
        "TrainingRuntime" if "runtime=namespace" in words else "ClusterTrainingRuntime", "TrainJob",
    ]  # fmt: skip
    for document in documents:
        refuse_what_is_wrong(document)
        depths = 0
        for holder, name in named(document):
            if name in ("apiVersion", "kind") and holder is document:
                continue
            holder[f"{name}s"] = holder.pop(name)
            with pytest.raises(Exception) as found:  # noqa: PT011 - of three libraries
                refuse_what_is_wrong(document)
            assert "Skipped" not in type(found.value).__name__
            holder[name] = holder.pop(f"{name}s")
            depths += 1
        assert depths >= (9 if document["kind"] == "PersistentVolumeClaim" else 20)
        refuse_what_is_wrong(document)


def test_the_page_shows_what_can_be_used() -> None:
    page = (Path(__file__).parents[1] / "docs" / "kubernetes.md").read_text()
    shown = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)]
    for document in shown:
        if document["kind"] in ("Namespace", "Job"):
            validate(document)
    assert [one["kind"] for one in shown] == ["Namespace", "Job", "PyTorchJob"]
    commands = re.findall(r"^yolodata launch k8s train (?!…)((?:.*\\\n)*.*)", page, re.MULTILINE)
    assert commands
    for words in commands:
        assert written(*shlex.split(words.replace("\\\n", " ")))


# What the documents say.


def test_a_pod_has_what_the_job_asks_for() -> None:
    claims, (spec, job) = written(*LARGE)[:-2], (pods(*LARGE), written(*LARGE)[-1])
    assert [one["spec"]["resources"]["requests"]["storage"] for one in claims] == ["50Gi", "100Gi"]
    assert all(one["spec"]["accessModes"] == ["ReadWriteMany"] for one in claims)
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "gpus"
    assert job["metadata"]["labels"]["kueue.x-k8s.io/priority-class"] == "high"
    trainer = job["spec"]["trainer"]
    assert trainer["numNodes"] == 4
    assert trainer["resourcesPerNode"]["limits"] == trainer["resourcesPerNode"]["requests"] == {
        "cpu": "96", "memory": "900Gi", "nvidia.com/gpu": "8",
    }  # fmt: skip
    assert trainer["args"] == [
        "--nodes=4", "--processes=8", "--grace=55", "--node=$(JOB_COMPLETION_INDEX)",
        "--rendezvous=coco-m-node-0-0.coco-m:29500", "--run=coco-m", "--patience=86400", "--numa",
        "--", *PLAIN[:2], *LARGE[-2:], "resume=auto", "device=0,1,2,3,4,5,6,7",
        "project=/runs", "name=coco-m",
    ]  # fmt: skip
    assert "--grace=115" in written(*LARGE, "grace=120")[-1]["spec"]["trainer"]["args"]
    far = "yolodata.callbacks=/shards/callbacks.py"  # this machine need not have it
    assert far in written(*LARGE, far)[-1]["spec"]["trainer"]["args"]
    for words in (LARGE, [*LARGE, "runtime=namespace"]):
        runtime_of_job, job = written(*words)[-2:]
        assert job["spec"]["runtimeRef"]["kind"] == runtime_of_job["kind"]
        assert job["spec"]["runtimeRef"]["name"] == runtime_of_job["metadata"]["name"]
    elastic = written(*LARGE, "min_nodes=2", "batch=96")[-1]["spec"]["trainer"]["args"]
    assert elastic[7:10] == ["--least=2", "--restarts=20", "--numa"]
    template = spec["template"]
    annotations = template["metadata"]["annotations"]
    topology = "kueue.x-k8s.io/podset-required-topology"
    assert annotations[topology] == "cloud.google.com/gce-topology-block"
    assert annotations["prometheus.io/port"] == "9401"
    pod = template["spec"]
    assert pod["nodeSelector"] == {"gpu": "h100", "zone": ""}
    assert pod["tolerations"][1] == {
        "key": "for", "operator": "Equal", "value": "vision", "effect": "NoExecute",
    }  # fmt: skip
    (container,) = pod["containers"]
    assert [one["containerPort"] for one in container["ports"]] == list(range(9401, 9409))
    assert container["envFrom"] == [{"secretRef": {"name": name}} for name in ("s3", "tracker")]
    shm = pod["volumes"][0]["emptyDir"]  # 128 pictures of 640 x 640 in each of 33 batches, and 1
    assert shm == {"medium": "Memory", "sizeLimit": "8Gi"}
    asked = pods(*SMALL)["template"]["metadata"]["annotations"]
    assert not [name for name in asked if "kueue" in name or "prometheus" in name]


def test_pods_are_what_the_restricted_standard_asks_for() -> None:
    """Pod Security Standards, restricted: what an admission controller would refuse."""
    pod = pods(*SMALL)["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["runAsUser"] == pod["securityContext"]["fsGroup"] != 0
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    (container,) = pod["containers"]
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert {next(iter(set(one) - {"name"})) for one in pod["volumes"]} == {"emptyDir"}
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)


def test_who_begins_again() -> None:
    """Exit statuses of `yolodata train`, as the Job's controller judges them: first rule first."""

    def action(job: Any, code: int, *, disrupted: bool = False) -> str:
        for rule in job["podFailurePolicy"]["rules"]:
            codes = rule.get("onExitCodes", {"values": []})["values"]
            conditions = [one["type"] for one in rule.get("onPodConditions", [])]
            if code in codes or (disrupted and "DisruptionTarget" in conditions):
                return str(rule["action"])
        return "Count"

    all_of_them, one_of_them = (
        pods(*LARGE, "restarts=7"),
        pods(*LARGE, "restarts=7", "min_nodes=2", "batch=96"),
    )
    for job in (all_of_them, one_of_them):
        assert job["template"]["spec"]["restartPolicy"] == "Never"
        assert {code: action(job, code) for code in (1, 2, 75, 76, 137)} == {
            1: "Count", 2: "FailJob", 75: "Ignore", 76: "Count", 137: "Count",
        }  # fmt: skip
        assert action(job, 137, disrupted=True) == "Ignore"
    assert all_of_them["backoffLimit"] == 0  # one failure ends the Job, and JobSet makes a new one
    policy = runtime(*LARGE, "restarts=7")["template"]["spec"]["failurePolicy"]
    assert policy["maxRestarts"] == 7
    assert policy["rules"][0]["action"] == "FailJobSet"
    assert policy["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert one_of_them["backoffLimit"] == 7
    elastic = runtime(*LARGE, "restarts=7", "min_nodes=2", "batch=96")["template"]["spec"][
        "failurePolicy"
    ]
    assert elastic["maxRestarts"] == 0
    # A pod that comes when training has ended would wait for the first one, for a day and longer.
    assert one_of_them["successPolicy"] == {"rules": [{"succeededIndexes": "0"}]}
    assert "successPolicy" not in all_of_them


def test_texts_stay_texts_whoever_reads_them() -> None:
    """kubectl reads YAML by other rules than PyYAML: y is true there, 1e3 a number."""
    text = kubernetes.write(
        read_job(
            "k8s",
            [
                *SMALL,
                "job=y",
                "namespace=1e3",
                "select=a=0o17",
                "name=a$(HOME)",
                "project=/runs: - b",
            ],
        )
    )
    assert 'namespace: "1e3"' in text
    assert '"a": "0o17"' in text
    assert 'name: "y"' in text
    job = list(yaml.safe_load_all(text))[-1]
    assert "name=a$$(HOME)" in job["spec"]["trainer"]["args"]  # which Kubernetes takes as $(HOME)
    assert "project=/runs: - b" in job["spec"]["trainer"]["args"]


WRONG = {
    "image must be given": ["model=a", "data=b", "runs=a"],
    "image must name": ["image=a b"],
    r"\[REGISTRY/\]NAME": ["image=https://example.com/yolodata:1"],
    "NAME of lower-case letters": ["image=example.com/Vision/yolodata:1"],
    "shards and runs must be two claims": ["shards=a", "runs=a", "shards_size=5", "runs_size=9"],
    "gpu_resource must be VENDOR/NAME": ["gpu_resource=cpu", "cpus=4"],
    "select must name a label once": ["select=zone=a,zone=b"],
    "user must be 1 to 2147483647": ["user=4294967296"],
    "a port for each process of a pod, 65534 to 65536": [
        "yolodata.metrics=0.0.0.0:65534",
        "processes=3",
        "batch=15",
    ],
    "leave out 29500, where pods meet": [
        "yolodata.metrics=0.0.0.0:29499",
        "processes=2",
        "nodes=2",
    ],
    "job must be a name that no other training has": ["job=yolodata"],
    "begin with a letter": ["job=1a"],
    "at most 48 characters": [f"job={'a' * 49}"],
    "at most 46 characters": [f"job={'a' * 47}", "nodes=101"],
    "namespace must be a DNS label": ["namespace=a.b"],
    "queue must be a DNS label": ["queue=Gpus"],
    "runs must be a DNS name": ["runs=a/b"],
    "env_from must name": ["env_from=a,"],
    "topology must be the key": ["topology=a/b/c", "queue=q"],
    "topology needs queue": ["topology=rack"],
    "shards_size needs shards": ["shards_size=4"],
    "runs_size must be a whole number": ["runs=a", "runs_size=4Gi"],
    "memory must be a whole number": ["memory=1.5"],
    "grace must be 35 to": ["grace=30"],
    r"min_nodes must be 1 to 2 \(nodes\)": ["nodes=2", "min_nodes=3"],
    "multiple of 6, because it is that of all 1 or 2 or 3 processes together": [
        "nodes=3",
        "min_nodes=1",
        "batch=8",
    ],
    "user must be 1 to": ["user=0"],
    "shm must be less than memory=4": ["shm=4", "memory=4"],
    "select must be labels": ["select=gpu"],
    "tolerate must be taints": ["tolerate=gpu:Never"],
    "runtime must be one of": ["runtime=pod"],
    "runs=CLAIM or yolodata.upload=URL of a bucket must be given, got none": [
        "yolodata.upload=None"
    ],
    "runs=CLAIM or yolodata.upload=URL of a bucket must be given": ["yolodata.upload=/tmp/runs"],
    "a pod that begins again would find no checkpoint": ["yolodata.upload=file:///tmp/runs"],
    "project must be /runs": ["runs=a", "project=runs", "yolodata.upload=None"],
    "has a secret in it": ["yolodata.upload=file://me:password@host/runs"],
    "yolodata.metrics must be 0.0.0.0:PORT": ["yolodata.metrics=9401"],
    "did you mean 'namespace'": ["namespaces=a"],
}


@pytest.mark.parametrize(("said", "words"), WRONG.items(), ids=range(len(WRONG)))
def test_mistakes_are_refused_before_anything_is_written(said: str, words: list[str]) -> None:
    given = words if said == "image must be given" else [*SMALL, *words]
    with pytest.raises(ConfigError, match=said) as found:
        written(*given)
    assert "password" not in str(found.value)


def test_kubectl_gets_the_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = read_job("k8s", SMALL)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match="needs kubectl"):
        kubernetes.submit(job, "a: 1\n")
    fake = tmp_path / "kubectl"
    fake.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/given\n/bin/cat >> {tmp_path}/given\nexit 3\n'
    )
    fake.chmod(0o755)
    assert kubernetes.submit(job, "a: 1\n") == 3
    assert (tmp_path / "given").read_text() == "apply -f -\na: 1\n"


# How pods end.


@pytest.mark.parametrize(("restarted", "status"), [(True, PREEMPTED), (False, PEER_LOST)])
def test_a_stop_counts_more_than_what_earlier_ranks_left(
    restarted: bool, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first ranks lost a peer, torchrun starts others, and those are asked to stop."""
    script = tmp_path / "rank.py"
    script.write_text(
        "import os, signal, sys, time\n"
        "from yolodata.train.exit_codes import PEER_LOST, PREEMPTED, leave_status\n"
        "def end(code):\n"
        "    leave_status(code, 'why')\n"
        "    os._exit(code)\n"
        "signal.signal(signal.SIGTERM, lambda *_: end(PREEMPTED))\n"
        "if os.environ['TORCHELASTIC_RESTART_COUNT'] == '0':\n"
        "    end(PEER_LOST)\n"
        f"open({str(tmp_path / 'ready')!r}, 'w').close()\n"
        "time.sleep(120)\n"
    )
    options = ("--standalone", "--max-restarts=1")
    start = launch.command([], 1, options)
    monkeypatch.setattr(launch, "command", lambda *_: [*start[: start.index("-m", 2)], str(script)])

    def ask() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask, daemon=True).start()
    assert launch.launch([], 1, options, restarted=restarted) == status


def test_a_pod_that_waits_for_the_first_one_ends_when_it_is_asked_to() -> None:
    """As the first process of a pod, Python would not even hear SIGTERM without a handler."""
    with socket.socket() as nobody:  # bound, and not listening
        nobody.bind(("127.0.0.1", 0))
        start = ["-m", "yolodata.launch.agent", "--nodes=2", "--node=1", "--", "model=a", "data=b"]
        start.insert(4, f"--rendezvous=127.0.0.1:{nobody.getsockname()[1]}")
        with subprocess.Popen([sys.executable, *start], stderr=subprocess.PIPE, text=True) as agent:
            handled, deadline = 1 << signal.SIGTERM - 1, time.monotonic() + 300
            status = Path(f"/proc/{agent.pid}/status")
            try:
                while not int(status.read_text().partition("SigCgt:")[2].split()[0], 16) & handled:
                    assert agent.poll() is None
                    assert time.monotonic() < deadline, "it hears no SIGTERM"
                    time.sleep(0.02)
                agent.terminate()
                said = agent.communicate(timeout=300)[1]
            finally:
                agent.kill()
        assert (agent.returncode, "SIGTERM" in said) == (PREEMPTED, True), said


# Run as pods run it.


class Pods:
    """The pods of a TrainJob, as processes of this machine that are the first of theirs.

    Kubernetes' part is done here: `$$` in arguments, and the Job's number of each pod.
    """

    def __init__(self, documents: list[dict[str, Any]], places: dict[str, str]) -> None:
        trainer = documents[-1]["spec"]["trainer"]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        name = documents[-1]["metadata"]["name"]
        places = {**places, f"{name}-node-0-0.{name}": "127.0.0.1", "29500": port}
        assert trainer["command"][0] == "python"
        self.command = [sys.executable, *trainer["command"][1:]]
        for word in trainer["args"]:
            word = word.replace("$$", "$")
            for place, here in places.items():
                if place != "/tmp":
                    word = word.replace(place, here)
            self.command.append(word)
        self.name = name
        self.environment = {
            one["name"]: places.get(one["value"], one["value"]) for one in trainer["env"]
        }
        self.processes = [self.start(index) for index in range(trainer["numNodes"])]

    def start(self, index: int) -> subprocess.Popen[str]:
        """Starts a pod."""
        host = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--mount-proc", "--uts"]
        # torchrun tells nodes apart by address and process, and these pods share one address.
        forks = "true & " * 10 * index
        begin = f'hostname "$0" && {forks} exec "$@"'
        host += ["--kill-child", "sh", "-c", begin, f"{self.name}-{index}"]
        ours = {
            "PYTHONPATH": os.pathsep.join([str(NOTING.parents[1]), str(NOTING.parent)]),
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.Popen(
            [*host, *(one.replace("$(JOB_COMPLETION_INDEX)", str(index)) for one in self.command)],
            env={**os.environ, **self.environment, **ours},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ask_to_stop(self, index: int) -> None:
        """Sends SIGTERM to the first process of a pod, as kubelet does."""
        parent = self.processes[index].pid
        (first,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        os.kill(int(first), signal.SIGTERM)

    def ended(self, index: int) -> tuple[int, str]:
        """The exit status and the words of a pod."""
        said, _ = self.processes[index].communicate(timeout=240)
        return self.processes[index].returncode, said

    def wait(self, happened: Callable[[], bool]) -> None:
        """Waits until something happened, while all run."""
        deadline = time.monotonic() + 240
        while not happened():
            for index, process in enumerate(self.processes):
                assert process.poll() is None, self.ended(index)
            assert time.monotonic() < deadline, "it takes too long"
            time.sleep(0.1)

    def __enter__(self) -> Pods:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    can = subprocess.run(
        [
            "unshare",
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--mount-proc",
            "--uts",
            "true",
        ],
        capture_output=True,
    )
    if can.returncode:
        pytest.skip("needs namespaces of users, processes and host names")
    return prepare(tmp_path_factory.mktemp("pods"))


def places_of(trained: Path) -> dict[str, str]:
    (trained / "tmp").mkdir(exist_ok=True)
    return {"/runs": str(trained / "runs"), "/tmp": str(trained / "tmp")}


def asked_for(trained: Path, name: str, *more: str) -> list[dict[str, Any]]:
    values = arguments(trained, name, epochs=40, val=False, multi_scale=0.0)
    del values["project"]
    words = [f"{key}={value}" for key, value in values.items()]
    words += ["image=a", f"job={name}", "nodes=2", "gpus=0", "runs=runs"]
    return written(*words, *more)


def test_all_pods_end_when_one_is_asked_to_and_go_on_made_anew(trained: Path) -> None:
    places, run = places_of(trained), trained / "runs" / "all"
    with Pods(asked_for(trained, "all"), places) as first:
        first.wait((run / "results.csv").exists)
        first.ask_to_stop(1)
        ended = [first.ended(0), first.ended(1)]
    assert [code for code, _ in ended] == [75, 75], ended
    epochs = len((run / "results.csv").read_text().splitlines()) - 1
    with Pods(asked_for(trained, "all", f"epochs={epochs + 1}"), places) as second:
        ended = [second.ended(0), second.ended(1)]
    assert [code for code, _ in ended] == [0, 0], ended
    assert "yolodata: going on from" in ended[0][1], ended


@pytest.mark.long
def test_with_min_nodes_the_others_go_on(trained: Path) -> None:
    """One is asked to stop, and the other trains alone; benchmarks/elastic.py has the way back."""
    places, run = places_of(trained), trained / "runs" / "some"

    def ranks() -> int:
        file = run / "journal.jsonl"
        notes = map(json.loads, file.read_text().splitlines()) if file.exists() else []
        return [0, *(note["ranks"] for note in notes if note["event"] == "start")][-1]

    with Pods(asked_for(trained, "some", "min_nodes=1", "epochs=5000"), places) as made:
        made.wait(lambda: ranks() == 2)
        made.ask_to_stop(1)
        assert made.ended(1)[0] == 75
        made.processes.pop()
        made.wait(lambda: ranks() == 1)
        made.ask_to_stop(0)
        code, said = made.ended(0)
    assert code == 75, said
