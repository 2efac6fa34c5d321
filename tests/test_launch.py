"""What is common to all systems that start training elsewhere: words, agents, where they meet."""

from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from yolodata import __version__, cli
from yolodata.errors import ConfigError
from yolodata.launch import agent, rendezvous
from yolodata.launch.job import Common, Job, Options
from yolodata.launch.launch_cli import read_job
from yolodata.launch.slurm_options import SlurmOptions
from yolodata.launch.systems import SYSTEMS, options_of
from yolodata.train.distributed import launch, torchrun

MODEL = ["model=yolo26n.yaml", "data=coco8.yaml"]


# The words.


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_option_is_in_one_group_and_groups_are_small(system: str) -> None:
    groups = options_of(system).groups()
    names = [each.name for group in groups for each in fields(group)]
    assert len(set(names)) == len(names)
    assert max(len(groups), *(len(fields(group)) for group in groups)) <= 12


@pytest.mark.parametrize("system", SYSTEMS)
def test_options_have_no_names_of_arguments(system: str) -> None:
    """Else an argument of training would silently become an option of the job."""
    from ultralytics.utils import DEFAULT_CFG_DICT

    shared = options_of(system).fields().keys() & set(DEFAULT_CFG_DICT)
    assert shared <= {"time"}


def test_words_are_told_apart() -> None:
    job = read_job("slurm", ["time=1:30:00", *MODEL, "nodes=2", "train.time=2", "yolodata.stall=6"])
    assert isinstance(job.options, SlurmOptions)
    assert (job.options.common.nodes, job.options.allocation.time) == (2, "1:30:00")
    assert job.arguments == (*MODEL, "time=2", "yolodata.stall=6", "resume=auto", "device=0")
    assert job.argument("time") == "2"
    assert job.argument("batch") is None


def test_a_run_that_is_named_goes_on() -> None:
    job = read_job("slurm", ["resume=runs/detect/train", "gpus=0"])
    assert job.arguments == ("resume=runs/detect/train", "device=cpu")
    assert read_job("slurm", [*MODEL, "gpus=3", "batch=48"]).argument("device") == "0,1,2"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data=coco8.yaml"], "model must be given"),
        (["model=yolo26n.yaml"], "data must be given"),
        ([*MODEL, "partitoin=gpu"], "did you mean 'partition'|partition"),
        ([*MODEL, "nproc=2"], "gpus=0 processes="),
        ([*MODEL, "device=0,1"], "gives this job device=0"),
        ([*MODEL, "device=cpu"], "gpus=0 trains on CPUs"),
        ([*MODEL, "gpus=2", "processes=3"], "contradicts"),
        ([*MODEL, "nodes=two"], "nodes must be a whole number"),
        ([*MODEL, "job=Up"], "job must be"),
        ([*MODEL, "submit=perhaps"], "submit must be True or False"),
        ([*MODEL, "epochs=ten"], "'epochs' must be an int"),
        ([*MODEL, "optimizer=Lion"], "'Lion' not found in list of available optimizers"),
        ([*MODEL, "batch=2.5"], "batch must be a whole number"),
        ([*MODEL, "nodes=3", "gpus=4"], "batch must be a multiple of 12, .* got 16; give batch=12"),
        ([*MODEL, "nodes=2", "gpus=4", "batch=12"], "multiple of 8, .* got 12; give batch=8"),
        ([*MODEL, "nodes=2", "batch=1"], "multiple of 2, .* got 1; give batch=2"),
        ([*MODEL, "batch=-1"], "find out what fits.* batch=16"),
        ([*MODEL, "gpus=5", "batch=0.7"], "find out what fits.* batch=15"),
        ([*MODEL, "imgsz=['big']"], "imgsz must be numbers"),
        ([*MODEL, "mosaic=5"], "between 0.0 and 1.0"),
        ([*MODEL, "train.time=soon"], "'time=soon' is of invalid type"),
        ([*MODEL, "yolodata.stal=6"], "stall"),
        ([*MODEL, "job=a", "partition=a\nb"], "partition must have no control characters"),
        ([*MODEL, "name=a\x1b[2J"], "name must have no control characters"),
        (["model=a.yaml", "data=['a.yaml','b.yaml']"], "data must be one dataset"),
        ([*MODEL, "job=a", "partition=\udcff"], "partition must be UTF-8"),
        ([*MODEL, "yolodata.upload=s3://KEY12345:hunter22@bucket/runs"], "has a secret in it"),
        ([*MODEL, "setup=export WANDB_API_KEY=hunter22"], "has a secret in it"),
        ([*MODEL, "sbatch=--comment=token=hunter22"], "has a secret in it"),
    ],
)
def test_mistakes_are_found_before_the_job_waits_in_a_queue(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as found:
        read_job("slurm", words)
    assert "hunter22" not in str(found.value)


def test_files_of_this_machine_are_read_where_the_job_has_them(tmp_path: Path) -> None:
    """Slurm's nodes have. In a pod, a file that only the laptop has ended the job as a mistake."""
    cfg = tmp_path / "cfg.yaml"
    cfg.write_text("batch: 6\nmodel: yolo26n.yaml\ndata: coco8.yaml\n")
    assert read_job("slurm", [f"cfg={cfg}", "nodes=3"]).argument("cfg") == str(cfg)
    for system in ("k8s", "sky"):
        with pytest.raises(ConfigError, match=r"cfg\.yaml is a file of this machine"):
            read_job(system, [*MODEL, f"cfg={cfg}"])


def test_buckets_that_nobody_copies_from_hold_no_data() -> None:
    for system, place in (("slurm", "s3://b/a.shards"), ("k8s", "s3://b/a"), ("sky", "az://b/a")):
        with pytest.raises(ConfigError, match=f"data={place} is no place .* copy it to"):
            read_job(system, [*MODEL, f"data={place}"])
    read_job("sky", [*MODEL, "data=s3://b/a.shards"])
    read_job("k8s", [*MODEL, "data=https://example.com/a.zip"])


def test_a_secret_that_is_read_there_is_none() -> None:
    read_job("slurm", [*MODEL, "setup=export WANDB_API_KEY=$(cat ~/.wandb) HF_TOKEN=$TOKEN"])


def test_no_job_holds_what_was_not_checked() -> None:
    """Also one that Python makes."""
    with pytest.raises(ConfigError, match="control"):
        Job(Options(), ("model=a.yaml\x1b",))
    with pytest.raises(ConfigError, match="out must be text"):
        Common(out=Path("a"))  # type: ignore[arg-type]


def test_it_is_printed_or_written(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["launch", "slurm", "train", *MODEL]) == 0
    printed = capfd.readouterr().out
    assert printed.startswith("#!/bin/bash\n")
    file = tmp_path / "job.sh"
    assert cli.main(["launch", "slurm", "train", *MODEL, f"out={file}"]) == 0
    assert capfd.readouterr().out == ""
    assert file.read_text().splitlines()[2:] == printed.splitlines()[2:]  # the second has the words
    assert cli.main(["launch", "slurm", "train", *MODEL, f"out={file}/job.sh"]) == 2  # no folder


def test_the_output_is_the_file_alone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Ultralytics greets whoever has no settings yet, which became the script's first line."""

    def greeting(*given: Any) -> Job:
        print("Creating new Ultralytics Settings")
        return read_job(*given)

    monkeypatch.setattr("yolodata.launch.launch_cli.read_job", greeting)
    assert cli.main(["launch", "slurm", "train", *MODEL]) == 0
    out, err = capfd.readouterr()
    assert out.startswith("#!/bin/bash\n")
    assert "Creating" in err


def test_a_checkout_that_nobody_installed_knows_its_version(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def nowhere(name: str) -> None:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata.Distribution, "from_name", nowhere)
    assert cli.main(["launch", "slurm", "train", *MODEL]) == 0
    assert f"Written by yolodata {__version__}" in capfd.readouterr().out


# Where the nodes meet.


def first_address(others: list[str], names: dict[str, list[str]], routes: dict[str, str]) -> str:
    return rendezvous.first_address(others, None, lambda n: names.get(n, []), routes.get)


ROUTES = {"10.0.0.2": "10.0.0.1", "192.168.1.2": "192.168.1.1", "127.0.0.1": "127.0.0.1",
          "127.0.1.1": "127.0.0.1", "fd00::2": "fd00::1"}  # fmt: skip


@pytest.mark.parametrize(
    ("others", "names", "expected"),
    [
        (["n2"], {"n2": ["10.0.0.2"]}, "10.0.0.1"),
        (["192.168.1.2"], {"192.168.1.2": ["192.168.1.2"]}, "192.168.1.1"),
        # A name that means this machine (/etc/hosts of a cloned image) is passed over …
        (["n2"], {"n2": ["127.0.1.1", "10.0.0.2"]}, "10.0.0.1"),
        (["n2", "n2.lan"], {"n2": ["127.0.1.1"], "n2.lan": ["10.0.0.2"]}, "10.0.0.1"),
        # … an address that means it is not: both nodes are on one machine.
        (["127.0.0.1"], {"127.0.0.1": ["127.0.0.1"]}, "127.0.0.1"),
        (["n2.lan", "n2"], {"n2": ["10.0.0.2"]}, "10.0.0.1"),  # one form is unknown
        (["n2"], {"n2": ["fd00::2", "10.0.0.2"]}, "10.0.0.1"),
        (["n2"], {"n2": ["fd00::2"]}, "fd00::1"),
        (["n2"], {"n2": ["172.16.0.2", "10.0.0.2"]}, "10.0.0.1"),  # no route to the first
    ],
)  # fmt: skip
def test_the_address_that_others_reach(
    others: list[str], names: dict[str, list[str]], expected: str
) -> None:
    assert first_address(others, names, ROUTES) == expected


def test_no_way_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        rendezvous, "interfaces", lambda: {"eth0": ["10.0.0.1"], "ib0": ["10.1.0.1"]}
    )
    with pytest.raises(
        ConfigError, match=r"n2 \(127.0.1.1\), n3 \(unknown\).*interface=.*eth0, ib0"
    ):
        first_address(["n2", "n3"], {"n2": ["127.0.1.1"]}, ROUTES)
    assert rendezvous.first_address([], "ib0") == "10.1.0.1"
    with pytest.raises(ConfigError, match=r"interface=ib1 has no address.*ib0 \(10.1.0.1\)"):
        rendezvous.first_address(["n2"], "ib1")
    assert rendezvous.interface_of("10.1.0.1") == "ib0"
    assert rendezvous.interface_of("10.9.9.9") is None


def test_this_machine() -> None:
    assert rendezvous.source("127.0.0.1") == "127.0.0.1"
    assert rendezvous.source("nowhere.invalid") is None
    assert rendezvous.resolve("nowhere.invalid") == []
    assert rendezvous.interface_of("127.0.0.1") == "lo"


def test_a_port_that_nobody_has() -> None:
    port = rendezvous.free_port("127.0.0.1", 4711)
    with socket.create_server(("127.0.0.1", port)):
        other = rendezvous.free_port("127.0.0.1", 4711)
        assert other != port
        assert other in rendezvous.PORTS
        endpoint = rendezvous.joined("127.0.0.1", port)
        assert rendezvous.wait_for(endpoint, 5) is None
    assert rendezvous.wait_for(endpoint, 0) == os.strerror(errno.ECONNREFUSED)
    with pytest.raises(ConfigError, match=r"192\.0\.2\.1 cannot be used"):
        rendezvous.free_port("192.0.2.1", 0)  # of no machine


@pytest.mark.parametrize("place", [("10.0.0.1", 20000), ("fd00::1", 29999)])
def test_endpoints(place: tuple[str, int]) -> None:
    assert rendezvous.split(rendezvous.joined(*place)) == place
    for wrong in ("10.0.0.1", ":20000", "10.0.0.1:http"):
        with pytest.raises(ConfigError, match="ADDRESS:PORT"):
            rendezvous.split(wrong)


def test_what_the_first_node_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert rendezvous.main(["--port-from", "4711", "--", "127.0.0.1", "n2.invalid"]) == 0
    address, port = rendezvous.split(capsys.readouterr().out.strip())
    assert (address, port in rendezvous.PORTS) == ("127.0.0.1", True)
    assert rendezvous.main(["--interface", "none0", "n2"]) == 2
    assert "none0" in capsys.readouterr().err


# The agent.


def test_how_agents_find_each_other() -> None:
    assert agent.torchrun_options(1, 0, None, "7") == ["--standalone"]
    first = agent.torchrun_options(2, 0, "10.0.0.1:20007", "7", "10.0.0.1")
    second = agent.torchrun_options(2, 1, "10.0.0.1:20007", "7", "10.0.0.2")
    assert "--rdzv-endpoint=10.0.0.1:20007" in set(first) & set(second)
    assert {"--nnodes=2", "--rdzv-id=7"} <= set(first) & set(second)
    # One serves the store, whatever names say; nobody goes by its full name.
    assert [line for line in first if "is_host=1" in line]
    assert [line for line in second if "is_host=0" in line]
    assert ("--local-addr=10.0.0.1" in first, "--local-addr=10.0.0.2" in second) == (True, True)


def test_interfaces_are_said_to_gloo(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME"):
        monkeypatch.delenv(name, raising=False)
    assert agent.network_variables("127.0.0.1", None) == {"GLOO_SOCKET_IFNAME": "lo"}
    assert agent.network_variables("10.0.0.1", "ib0") == {
        "GLOO_SOCKET_IFNAME": "ib0",
        "NCCL_SOCKET_IFNAME": "=ib0",
    }
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth7")
    assert agent.network_variables("127.0.0.1", None) == {}


def machine(root: Path, gpus: dict[str, str]) -> Path:
    """sysfs of two NUMA nodes: cores 0 and 1, and core 2 to 1000."""
    for node, cores in enumerate(("0-1", "2-1000")):
        folder = root / f"devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(cores)
        (folder / "distance").write_text("10 20" if node == 0 else "20 10")
    (root / "devices/system/node/has_memory").write_text("0-1")
    for bus, node in gpus.items():
        (root / "bus/pci/drivers/nvidia" / bus).mkdir(parents=True)
        (root / "bus/pci/devices" / bus).mkdir(parents=True)
        (root / "bus/pci/devices" / bus / "numa_node").write_text(node)
    return root


GPU, OTHER = "0000:3b:00.0", "0000:af:00.0"


@pytest.mark.parametrize(
    ("gpus", "cores", "missing", "why"),
    [
        ({GPU: "0", OTHER: "1"}, (0, 3), None, None),
        ({GPU: "0"}, (0, 1), None, None),
        ({GPU: "1"}, (0, 1), None, "no cores of NUMA node 1"),  # torchrun would fail
        ({GPU: "-1"}, (0, 3), None, "does not say"),
        ({}, (0, 3), None, "does not say"),
        ({GPU: "0"}, (0, 3), "numactl", "numactl is not installed"),
        ({GPU: "0"}, (0, 3), "torchrun", "this torchrun has no"),
    ],
)
def test_ranks_near_their_gpus(
    gpus: dict[str, str], cores: tuple[int, ...], missing: str | None, why: str | None,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(agent, "usable_cores", lambda: cores)
    monkeypatch.setattr(agent.shutil, "which", lambda name: None if name == missing else name)
    monkeypatch.setattr(agent, "torchrun_knows", lambda _: missing != "torchrun")
    options, said = agent.binding_options(machine(tmp_path, gpus))
    assert bool(options) == (why is None)
    assert (why or "") in said


def test_one_numa_node_needs_no_words(tmp_path: Path) -> None:
    assert agent.binding_options(tmp_path) == ([], "")


def test_nobody_at_the_first_node(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may come back: the job is tried again, a few times."""
    monkeypatch.setattr(agent, "JOIN", 0.0)
    port = rendezvous.free_port("127.0.0.1", 1)
    words = ["--nodes", "2", "--node", "1", "--rendezvous", f"127.0.0.1:{port}", "--", *MODEL]
    assert agent.main(words) == 76
    assert "interface=" in capsys.readouterr().err


@pytest.fixture
def rank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """In torchrun's place a process that says with what it was started, and waits for a file."""
    script = tmp_path / "rank.py"
    script.write_text(
        "import json, os, signal, sys, time\n"
        f"folder = {str(tmp_path)!r}\n"
        "def stop(number, frame):\n"
        "    open(f'{folder}/signals', 'a').write(signal.Signals(number).name + '\\n')\n"
        "signal.signal(signal.SIGTERM, stop)\n"
        "open(f'{folder}/started', 'w').write(json.dumps([sys.argv[1:], dict(os.environ)]))\n"
        "while not os.path.exists(f'{folder}/end'): time.sleep(0.01)\n"
        "open(os.environ['YOLODATA_STATUS'], 'a').write('[75, \"SIGTERM\"]\\n')\n"
        "sys.exit(1)\n"
    )
    before = launch.command
    monkeypatch.setattr(
        launch, "command", lambda *given: [sys.executable, str(script), *before(*given)]
    )
    yield tmp_path
    (tmp_path / "end").touch()  # also where the test failed


def test_a_signal_goes_on_once(rank: Path) -> None:
    """srun and Slurm may both send some; torchrun dies of many, and leaves its ranks."""
    code = (
        f"import sys; sys.argv[1:] = []; from yolodata.train.distributed import launch\n"
        f"start = launch.command\n"
        f"launch.command = lambda *given: [{sys.executable!r}, {str(rank / 'rank.py')!r}]\n"
        f"from yolodata.launch import agent\n"
        f"sys.exit(agent.main(['--logs', {str(rank / 'logs')!r}, '--grace', '99', '--', 'a=b']))"
    )
    child = subprocess.Popen([sys.executable, "-c", code])
    try:
        wait_until(lambda: (rank / "started").exists() and (rank / "started").stat().st_size > 0)
        for _ in range(3):
            child.send_signal(signal.SIGUSR1)
            child.send_signal(signal.SIGTERM)
            time.sleep(0.05)
        wait_until(lambda: (rank / "signals").exists())
        (rank / "end").touch()
        assert child.wait(60) == 75
    finally:
        child.kill()
    assert (rank / "signals").read_text() == "SIGTERM\n"
    assert (rank / "logs/node0/status").read_text() == '[75, "SIGTERM"]\n'


def test_a_signal_that_comes_while_torchrun_begins_goes_on(
    rank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would end this process alone, and leave torchrun and its ranks to themselves."""
    begin = subprocess.Popen

    def interrupted(*words: Any, **options: Any) -> subprocess.Popen[bytes]:
        child = begin(*words, **options)
        wait_until(lambda: (rank / "started").exists())
        os.kill(os.getpid(), signal.SIGTERM)
        return child

    def end_when_told() -> None:
        try:
            wait_until(lambda: (rank / "signals").exists())
        finally:
            (rank / "end").touch()

    monkeypatch.setattr("yolodata.train.distributed.launch.subprocess.Popen", interrupted)
    alone: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: alone.append(number))
    watching = threading.Thread(target=end_when_told)
    watching.start()
    try:
        assert launch.launch(["a=b"], 2) == 75
    finally:
        watching.join()
        signal.signal(signal.SIGTERM, before)
    assert not alone
    assert (rank / "signals").read_text() == "SIGTERM\n"


@pytest.mark.parametrize(("code", "status"), [("3", 3), ("None", 137)])
def test_how_torchrun_ended(monkeypatch: pytest.MonkeyPatch, code: str, status: int) -> None:
    """By a signal, as a shell says it: schedulers know 137, and not 247."""
    end = f"import os, signal, sys; sys.exit({code}) if {code} else os.kill(os.getpid(), 9)"
    monkeypatch.setattr(launch, "command", lambda *_: [sys.executable, "-c", end])
    assert launch.launch(["a=b"], 1) == status


def test_how_ranks_ended_is_written_through_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The folder of logs may be one that others write into; a full disk cuts a line in two."""
    mine, status = tmp_path / "mine", tmp_path / "logs" / "status"
    status.parent.mkdir()
    mine.write_bytes(b"mine")
    os.utime(mine, (1e9, 1e9))
    status.symlink_to(mine)
    said = '[76, "why\\u001b[2J"]\n[76, "a pe'
    write = f"import sys; open({str(status)!r}, 'a').write({said!r}); sys.exit(9)"
    monkeypatch.setattr(launch, "command", lambda *_: [sys.executable, "-c", write])
    assert launch.launch(["a=b"], 1, status=status) == 76
    assert status.read_text() == said
    assert capfd.readouterr().err == "yolodata: the run ended: why\\x1b[2J\n"
    plant = f"os.unlink({str(status)!r}); os.symlink({str(mine)!r}, {str(status)!r})"
    stop = f"import os, time; {plant}; os.kill(os.getppid(), 15); time.sleep(60)"
    monkeypatch.setattr(launch, "command", lambda *_: [sys.executable, "-c", stop])
    assert launch.launch(["a=b"], 1, status=status, restarted=True) == 75
    assert status.read_bytes() == b""
    assert (mine.read_bytes(), mine.stat().st_mtime) == (b"mine", 1e9)


def test_a_rank_that_a_signal_killed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody says 76 where there is no other rank: then it is what a shell would say."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

    def ended(_: Any) -> None:
        failure = ProcessFailure(local_rank=0, pid=7, exitcode=-9, error_file="")
        raise ChildFailedError("train", {0: failure})

    monkeypatch.setattr(torchrun, "SIGNALS", ())
    monkeypatch.setattr("torch.distributed.run.main", ended)
    assert torchrun.main() == 137
    assert "rank 0 (process 7) ended by SIGKILL" in capsys.readouterr().err


def test_what_a_rank_is_given(
    rank: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (rank / "end").touch()
    monkeypatch.setenv("SLURM_NODEID", "0")
    monkeypatch.setattr(agent, "usable_cores", lambda: (0,))
    words = ["--nodes", "2", "--rendezvous", "127.0.0.1:20000", "--run", "7.0", "--processes", "3"]
    assert agent.main([*words, "--logs", str(rank / "logs"), "--", *MODEL]) == 75
    given, environment = json.loads((rank / "started").read_text())
    assert given[-2:] == MODEL
    assert {"--nproc-per-node=3", "--rdzv-id=7.0", "--tee=3"} <= set(given)
    assert f"--log-dir={rank / 'logs/node0'}" in given
    assert environment["GLOO_SOCKET_IFNAME"] == "lo"
    assert environment["PYTHONUNBUFFERED"] == "1"
    assert "3 processes share 1 core " in capsys.readouterr().err


@pytest.mark.parametrize("known", [[], ["203.0.113.9"]], ids=["late", "of an earlier pod"])
def test_the_first_node_needs_no_name_of_its_own(
    known: list[str], rank: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchrun fails after two minutes, where its own name means nothing, or another pod."""
    (rank / "end").touch()
    names = {"j-0.j": known, "j-0": ["127.0.1.1", "10.0.0.1"]}
    monkeypatch.setattr(rendezvous, "resolve", lambda name: names[name])
    monkeypatch.setattr(rendezvous.socket, "gethostname", lambda: "j-0")
    monkeypatch.setattr(rendezvous, "source", lambda name: "10.0.0.1" if names[name] else None)
    monkeypatch.setattr(agent, "network_variables", lambda *_: {})
    words = ["--nodes", "2", "--node", "0", "--rendezvous", "j-0.j:29500", "--", *MODEL]
    assert agent.main(words) == 75
    given, _ = json.loads((rank / "started").read_text())
    assert {"--rdzv-endpoint=10.0.0.1:29500", "--local-addr=10.0.0.1"} <= set(given)


def test_arguments_arrive_through_torchrun_as_they_were_given() -> None:
    from torch.distributed.elastic.utils import macros

    words = ["name=a $$b $$$ ${local_rank} $local_rank $(HOME)", "model=yolo26n.yaml"]
    assert macros.substitute(launch.command(words, 2)[-2:], "1") == words


def wait_until(condition: Any, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
