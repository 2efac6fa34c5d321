"""SkyPilot's task file: read by SkyPilot itself, its commands run by bash; no cloud was used."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from yolodata.errors import ConfigError
from yolodata.launch import agent, launch_cli, sky

TRAINING = ["model=yolo26n.yaml", "data=coco8.yaml"]
GIVEN = ["accelerator=A100", "gpus=4", "bucket=s3://mine/runs/", "setup=true", "job=coco-m"]
NASTY = "name=a 'b' \"c\" $HOME `id` \\ ;#"

STUB = """\
#!{python}
import json, os, signal, sys, time
told = {{"argv": sys.argv[1:], "safe": os.environ.get("PYTHONSAFEPATH")}}
open(os.environ["TOLD"], "w").write(json.dumps(told))
if "WAIT" in os.environ:
    signal.signal(signal.SIGTERM, lambda *_: (open(os.environ["WAIT"], "w"), sys.exit(75)))
    time.sleep(60)
"""


def written(*words: str) -> str:
    return sky.write(launch_cli.read_job("sky", [*TRAINING, *GIVEN, *words]))


def task(*words: str) -> dict[str, Any]:
    return dict(yaml.safe_load(written(*words)))


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder with an interpreter that notes what it is given."""
    stub = tmp_path / "env" / "bin" / "python"
    stub.parent.mkdir(parents=True)
    stub.write_text(STUB.format(python=sys.executable))
    stub.chmod(0o755)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("TOLD", str(tmp_path / "told"))
    return tmp_path


def run(script: str, node: int, addresses: list[str]) -> subprocess.Popen[bytes]:
    """Starts what SkyPilot runs on a machine, with the variables that it sets there."""
    env = {
        **os.environ,
        "SKYPILOT_NODE_RANK": str(node),
        "SKYPILOT_NODE_IPS": "\n".join(addresses),
        "SKYPILOT_NUM_NODES": str(len(addresses)),
        "SKYPILOT_TASK_ID": "sky-managed-2026_coco-m_7-0",
    }
    return subprocess.Popen(["bash", "-c", script], env=env)


# With SkyPilot itself; docs/sky.md says how to have it.


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """SkyPilot's reader, as strict as that of its server; the client leaves some keys to that."""
    reader = pytest.importorskip("sky", reason="SkyPilot is not installed (docs/sky.md)")
    monkeypatch.setattr("sky.utils.schemas._allow_additional_properties", lambda: False)

    def read(text: str) -> Any:
        (tmp_path / "task.yaml").write_text(text)
        return reader.Task.from_yaml(str(tmp_path / "task.yaml"))

    return read


def test_skypilot_reads_what_is_meant(read: Callable[[str], Any]) -> None:
    text = written(
        "nodes=2", "infra=aws/us-east-1", "disk=300", "memory=200", "cpus=32", "restarts=2",
        "variables=WANDB_API_KEY,HF_TOKEN", "image=docker:example.com/yolodata:1",
        "data=s3://mine/sets/coco.shards",
    )  # fmt: skip
    found = read(text)
    (resources,) = found.resources
    assert (found.name, found.num_nodes) == ("coco-m", 2)
    assert resources.accelerators == {"A100": 4}
    assert resources.use_spot
    assert (resources.cpus, resources.memory, resources.disk_size) == ("32+", "200+", 300)
    assert (str(resources.cloud).lower(), resources.region) == ("aws", "us-east-1")
    assert resources.image_id == {"us-east-1": "docker:example.com/yolodata:1"}
    recovery = {"max_restarts_on_errors": 2, "recover_on_exit_codes": [75]}
    assert {name: resources.job_recovery[name] for name in recovery} == recovery
    assert [hook["events"] for hook in resources.hooks] == [["preemption", "down"]]
    assert found.file_mounts == {"~/yolodata-data/coco.shards": "s3://mine/sets/coco.shards"}
    assert [ref.name for ref in found.managed_secret_refs] == ["WANDB_API_KEY", "HF_TOKEN"]


KEYS = (
    "num_nodes resources accelerators use_spot infra job_recovery max_restarts_on_errors "
    "recover_on_exit_codes config hooks events setup"
)


@pytest.mark.parametrize("name", KEYS.split())
def test_skypilot_refuses_a_misspelt_key(read: Callable[[str], Any], name: str) -> None:
    text = written("infra=aws")
    read(text)
    wrong = re.sub(rf"(?m)^([ -]*){name}:", rf"\1{name}x:", text)
    assert wrong != text
    with pytest.raises(ValueError, match=f"{name}x"):
        read(wrong)


def test_values_come_from_where_sky_is_started(read: Callable[[str], Any], tmp_path: Path) -> None:
    """Else a provider of secrets is asked, which SkyPilot's own server has not."""
    read(written("variables=WANDB_API_KEY"))
    from sky.utils import dag_utils

    given = [("WANDB_API_KEY", "hunter2")]  # by --secret
    (found,) = dag_utils.load_chain_dag_from_yaml(str(tmp_path / "task.yaml"), None, given).tasks
    assert not found.managed_secret_refs
    assert found.secrets["WANDB_API_KEY"].get_secret_value() == "hunter2"


# Without it.


@pytest.mark.parametrize("addresses", [["10.0.0.5"], ["10.0.0.5", "10.0.0.6"]])
def test_every_machine_starts_its_agent(machine: Path, addresses: list[str]) -> None:
    words = ["python=~/env/bin/python", f"nodes={len(addresses)}", "data=gs://mine/a b.shards"]
    script = task(*words, NASTY)["run"]
    assert subprocess.run(["bash", "-n", "-c", script]).returncode == 0
    for node in range(len(addresses)):
        assert run(script, node, addresses).wait(60) == 0
        told = json.loads((machine / "told").read_text())
        assert told["safe"] == "1"
        assert told["argv"][:2] == ["-m", "yolodata.launch.agent"]
        found = agent._parser().parse_args(told["argv"][2:])
        assert (found.nodes, found.node, found.processes) == (len(addresses), node, 4)
        assert found.rendezvous == "10.0.0.5:29500"
        assert found.run == "sky-managed-2026_coco-m_7-0"
        assert found.arguments == [
            "model=yolo26n.yaml", "data=coco8.yaml", f"data={machine}/yolodata-data/a b.shards",
            NASTY, "resume=auto", "device=0,1,2,3", "yolodata.upload=s3://mine/runs/coco-m",
        ]  # fmt: skip


def test_the_hook_asks_training_to_stop_and_waits(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = task("python=~/env/bin/python")
    (hook,) = found["config"]["hooks"]
    assert subprocess.run(["bash", "-c", hook["run"]], timeout=300).returncode == 0  # nothing runs
    monkeypatch.setenv("WAIT", str(machine / "stopped"))
    training = run(found["run"], 0, ["10.0.0.5"])
    while not (machine / "told").exists() or not (machine / "told").read_text():
        time.sleep(0.05)
    time.sleep(0.5)  # until it listens
    assert not (machine / "stopped").exists()
    reaped = subprocess.Popen(["bash", "-c", hook["run"]])
    assert training.wait(60) == 75
    assert (machine / "stopped").exists()
    assert reaped.wait(60) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["accelerator=A100:8"], "one name"),
        (["gpus=0"], "contradicts gpus=0"),
        (["infra=aws us-east-1"], "infra must be"),
        (["spot=maybe"], "spot must be"),
        (["variables=A-B"], "names of environment variables"),
        (["bucket=mine"], "bucket must be a URL"),
        (["bucket=file:///mnt/runs"], "bucket must be a URL"),
        (["bucket=r2://mine/runs"], "bucket must be a URL that fsspec knows"),
        (["yolodata.upload=s3://other"], "two places"),
        (["data=s3://mine/coco.yaml"], "a folder of shards"),
        (["setup=export TOKEN=hunter2hunter2"], "secret"),
        (["bucket=s3://key:secretsecret@mine/runs"], "secret"),
        (["restarts=-1"], "restarts"),
        (["disk=0"], "disk"),
    ],
)
def test_mistakes_are_named(words: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as error:
        written(*words)
    assert "hunter2" not in str(error.value)
    assert "secretsecret" not in str(error.value)


@pytest.mark.parametrize("lacks", ["accelerator", "bucket", "setup", "job"])
def test_what_has_to_be_given(lacks: str) -> None:
    words = [word for word in GIVEN if not word.startswith(lacks)]
    with pytest.raises(ConfigError, match=f"{lacks}="):
        sky.write(launch_cli.read_job("sky", [*TRAINING, *words]))


@pytest.mark.parametrize("place", ["None", "/mnt/runs", "file:///mnt/runs"])
def test_a_place_on_a_machine_that_goes_is_none(place: str) -> None:
    words = [word for word in GIVEN if not word.startswith("bucket")]
    job = launch_cli.read_job("sky", [*TRAINING, *words, f"yolodata.upload={place}"])
    with pytest.raises(ConfigError, match="give bucket=URL"):
        sky.write(job)


def test_what_may_be_left_out() -> None:
    cpu = ["gpus=0", "processes=2", "spot=False", "image=docker:yolodata", "setup=TOKEN=$TOKEN x"]
    found = yaml.safe_load(sky.write(launch_cli.read_job("sky", [*TRAINING, *cpu])))
    assert "accelerators" not in found["resources"]
    assert found["resources"]["use_spot"] is False
    assert "--processes 2" in found["run"]
    assert "device=cpu" in found["run"]
    assert "yolodata.upload" not in found["run"]
    assert "file_mounts" not in found


def test_submitting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path), prepend=None)
    file = tmp_path / "job.yaml"
    words = [*TRAINING, *GIVEN, "submit=True", f"out={file}", "variables=WANDB_API_KEY"]
    job = launch_cli.read_job("sky", words)
    with pytest.raises(ConfigError, match="command sky"):
        sky.submit(job, "")
    stub = tmp_path / "sky"
    stub.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/told\nexit 3\n')
    stub.chmod(0o755)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="WANDB_API_KEY"):
        sky.submit(job, "")
    monkeypatch.setenv("WANDB_API_KEY", "hunter2")
    assert sky.submit(job, "") == 3
    expected = f"jobs launch -y --secret WANDB_API_KEY {file}\n"
    assert (tmp_path / "told").read_text() == expected
