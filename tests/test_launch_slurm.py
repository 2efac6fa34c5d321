"""The batch script for Slurm, run by bash, with srun, scontrol, squeue and sbatch of our own."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from yolodata.errors import ConfigError
from yolodata.launch import slurm
from yolodata.launch.job import Job
from yolodata.launch.launch_cli import read_job
from yolodata.launch.slurm_options import SlurmOptions, seconds_of

ARGUMENTS = ("model=yolo26n.yaml", "data=coco8.yaml", "resume=auto", "device=cpu")

# Each notes its words, ended by NUL, one call a line. srun waits for a signal, or to be told.
STUBS = {
    "srun": """
printf '%s\\0' srun "$@" >> "$FOLDER/calls"; echo >> "$FOLDER/calls"
case "$*" in
*yolodata.launch.rendezvous*) echo Welcome; echo 10.0.0.1:20007; exit "${MEET:-0}" ;;
esac
trap 'sleep 0.2; echo USR1 >> "$FOLDER/signals"; exit "${STUBBORN:-75}"' USR1
trap 'echo TERM >> "$FOLDER/signals"' TERM
touch "$FOLDER/trains"
while [ -n "$WAITS" ] && [ ! -e "$FOLDER/end" ]; do sleep 0.02; done
exit "${STATUS:-0}"
""",
    "scontrol": """
printf '%s\\0' scontrol "$@" >> "$FOLDER/calls"; echo >> "$FOLDER/calls"
case "$1 $2" in
"show hostnames") printf 'n1\\nn2\\n' ;;
"show node") printf 'NodeName=n2 Arch=x86_64\\n   NodeAddr=10.0.0.2 NodeHostName=n2\\n' ;;
requeue*) exit "${REQUEUE:-0}" ;;
esac
""",
    "squeue": """
printf '%s\\0' squeue "$@" >> "$FOLDER/calls"; echo >> "$FOLDER/calls"
echo "${STATE:-RUNNING}"
""",
    "sbatch": """
printf '%s\\0' sbatch "$@" >> "$FOLDER/calls"; echo >> "$FOLDER/calls"
[ $# -gt 1 ] || cat > "$FOLDER/submitted"
echo "4711;cluster"
exit "${STATUS:-0}"
""",
}


class Cluster:
    """Slurm's commands in PATH, and what they were called with."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "bin").mkdir()
        (folder / "work").mkdir()
        for name, text in STUBS.items():
            (folder / "bin" / name).write_text(f"#!/bin/bash\n{text}")
            (folder / "bin" / name).chmod(0o755)

    def environment(self, **variables: str) -> dict[str, str]:
        return {
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "FOLDER": str(self.folder),
            "SLURM_JOB_ID": "4711",
            "SLURM_JOB_NODELIST": "n[1-2]",
            "SLURM_CPUS_PER_TASK": "8",
            **variables,
        }

    def start(self, text: str, **variables: str) -> subprocess.Popen[str]:
        """Runs a script as slurmd does."""
        (self.folder / "calls").write_text("")
        (self.folder / "signals").write_text("")
        for name in ("trains", "end"):
            (self.folder / name).unlink(missing_ok=True)
        nodes = re.findall("#SBATCH --nodes=(.*)", text)[0]
        variables = {"SLURM_JOB_NUM_NODES": nodes, **variables}
        return subprocess.Popen(
            ["/bin/bash", "-c", text],
            cwd=self.folder / "work",
            env=self.environment(**variables),
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, text: str, **variables: str) -> tuple[int, str]:
        """Gives exit status, and what was said."""
        process = self.start(text, **variables)
        _, said = process.communicate(timeout=300)
        return process.returncode, said

    def calls(self, program: str = "") -> list[list[str]]:
        lines = (self.folder / "calls").read_text().split("\0\n")
        found = [line.split("\0") for line in lines if line]
        return [line for line in found if not program or line[0] == program]

    def requeued(self) -> bool:
        return ["scontrol", "requeue", "4711"] in self.calls()

    def trains(self) -> None:
        end = time.monotonic() + 300
        while not (self.folder / "trains").exists():
            assert time.monotonic() < end
            time.sleep(0.01)

    def signals(self) -> list[str]:
        return (self.folder / "signals").read_text().split()


@pytest.fixture
def cluster(tmp_path: Path) -> Cluster:
    return Cluster(tmp_path)


def script(*arguments: str, **options: Any) -> str:
    return slurm.write(Job(SlurmOptions().changed(options), (*ARGUMENTS, *arguments)))


def directives(text: str) -> list[str]:
    return [line.removeprefix("#SBATCH ") for line in text.splitlines() if line[:7] == "#SBATCH"]


# What is asked of Slurm.

OTHER: dict[str, Any] = {
    "job": "coco-m", "nodes": 2, "gpus": 4, "processes": 2, "cpus": 16, "memory": 64,
    "time": "2:00", "partition": "gpu", "account": "vision", "qos": "high", "constraint": "a100&ib",
    "reservation": "course", "exclusive": True, "gpu_type": "a100", "requeue": False, "retries": 5,
    "lead": 30, "output": "logs/%x.out", "logs": "/scratch/logs", "interface": "ib0", "numa": False,
    "setup": "module load cuda", "python": "/env/bin/python", "container": "/a.sif",
    "runtime": "pyxis", "mounts": "/data:/data:ro", "sbatch": "--nice=100 --comment='a b'",
}  # fmt: skip
NEEDS = {
    "processes": {"gpus": 0}, "interface": {"nodes": 2}, "runtime": {"container": "/a.sif"},
    "mounts": {"container": "/a.sif"}, "time": {"lead": 10},
}  # fmt: skip


@pytest.mark.parametrize(
    "name", [name for name in SlurmOptions.fields() if name not in ("out", "submit")]
)
def test_no_option_is_ignored(name: str) -> None:
    common = NEEDS.get(name, {})
    assert script(**common) != script(**{**common, name: OTHER[name]})


def test_what_sbatch_reads() -> None:
    found = directives(script(**{**OTHER, "processes": None, "mounts": None, "lead": 20}))
    assert set(found) == {
        "--job-name=coco-m", "--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=16",
        "--gres=gpu:a100:4", "--mem=64G", "--time=2:00", "--partition=gpu", "--account=vision",
        "--qos=high", "--constraint=a100&ib", "--reservation=course", "--exclusive", "--no-requeue",
        "--signal=B:USR1@20", "--output=logs/%x.out", "--open-mode=append", "--nice=100",
        '--comment="a b"',
    }  # fmt: skip
    assert "--mem=0" in directives(script(exclusive=True))
    assert "--requeue" in directives(script())
    assert not [line for line in directives(script(gpus=0)) if "gpu" in line]


def test_options_come_before_commands() -> None:
    """sbatch reads none behind the first command."""
    lines = script(setup="#SBATCH --uid=0\ntrue", sbatch="--nice=1").splitlines()
    last = max(i for i, line in enumerate(lines) if line.startswith("#SBATCH --nice"))
    assert all(line.startswith("#") for line in lines[: last + 1])


@pytest.mark.parametrize(
    ("time", "seconds"),
    [
        ("30", 1800), ("1:30", 90), ("1:00:30", 3630), ("2-0", 172800), ("2-12:30", 217800),
        ("1-01:01:01", 90061), ("UNLIMITED", None), ("0", None), ("0:00", None),
    ],
)  # fmt: skip
def test_time_limits(time: str, seconds: int | None) -> None:
    assert seconds_of(time) == seconds


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"time": "2 days"}, "time must be"),
        ({"time": "3:00"}, "leaves no time to train"),  # would be requeued for ever
        ({"lead": 5}, "lead must be"),
        ({"partition": "gpu --uid=0"}, "partition must consist of"),
        ({"account": "a\nb"}, "control"),
        ({"qos": "a#b"}, "qos must consist of"),
        ({"constraint": "a;b"}, "constraint must consist of"),
        ({"gpu_type": 'a"b'}, "gpu_type must consist of"),
        ({"interface": "eth0;reboot"}, "interface must consist of"),
        ({"output": "a b"}, "output must consist of"),
        ({"runtime": "docker"}, "runtime must be one of apptainer, pyxis"),
        ({"mounts": "/data"}, "mounts are a container's"),
        ({"container": "a.sif", "mounts": 'data:/"$(x)"'}, "mounts must be written"),
        ({"container": "a.sif", "mounts": "/a:/b:exec"}, "mounts must be written"),
        ({"sbatch": "-N 2"}, "sbatch must be options"),
        ({"sbatch": "--nodes=3"}, "give nodes="),
        ({"sbatch": "--gpus-per-task=1"}, "give gpus="),
        ({"sbatch": "--array=0-3"}, "would all train the same run"),
        ({"sbatch": "--wrap=true"}, "stands for a script"),
        ({"sbatch": "--comment='a#b'"}, "sbatch must be options"),
        ({"sbatch": "--comment='a"}, "sbatch must be a command line"),
        *(({"sbatch": shlex.quote(f"--comment=a{c}b")}, "sbatch must be") for c in "'\"$#`\\ä"),
        ({"container": "--nv"}, "container must not begin with '-'"),
        ({"python": "-c"}, "python must not begin with '-'"),
        *(
            ({name: "~/a"}, f"{name} must not begin with ~")
            for name in ("output", "logs", "python")
        ),
        ({"exclusive": "yes"}, "exclusive must be True or False"),
        ({"retries": -1}, "retries must be"),
        ({"partition": 7}, "partition must be text"),
    ],
)
def test_mistakes(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SlurmOptions().changed(options)


@pytest.mark.parametrize("options", [{"nodes": 2, "cpus": 8}, {"gpus": 0, "requeue": False}])
def test_shellcheck(options: dict[str, Any]) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    command = ["shellcheck", "--severity=warning", "-"]
    assert subprocess.run(command, input=script(**options), text=True).returncode == 0


# What the nodes are given.

HOSTILE = ["a b", "a'b", 'a"b', "$HOME", "$(touch CANARY)", "`touch CANARY`", "a;touch CANARY",
           "*", "~", "a\\", "#x", "!x", "{a,b}", "ä", "a|touch CANARY&", ">CANARY"]  # fmt: skip


@pytest.mark.parametrize("hostile", HOSTILE)
def test_words_arrive_as_they_were_given(hostile: str, cluster: Cluster) -> None:
    words = (f"name={hostile}", f"project={hostile}\n#SBATCH --uid=0\ntouch CANARY")
    asked = {"nodes": 2, "python": hostile, "logs": f"/{hostile}", "container": hostile}
    options = SlurmOptions().changed({**asked, "mounts": "/a"})
    job = Job(options, (*ARGUMENTS, *words), given=(hostile, f"setup=true\n{hostile}"))
    assert cluster.run(slurm.write(job))[0] == 0
    meeting, training = cluster.calls("srun")
    assert training[training.index("yolodata.launch.agent") :][-len(words) :] == list(words)
    for call in meeting, training:
        assert [hostile, hostile, "-m"] == call[call.index("-m") - 2 : call.index("-m") + 1]
    assert f"--logs=/{hostile}/yolodata-4711/0" in training
    assert cluster.run(script(python=hostile))[0] == 0
    (call,) = cluster.calls("srun")
    assert call[call.index("-m") - 1] == hostile
    assert not list(cluster.folder.rglob("*CANARY*"))


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.text(st.characters(exclude_categories=["C", "Z"]) | st.just(" "), max_size=20))
def test_any_word_arrives(cluster: Cluster, text: str) -> None:
    try:
        written = script(f"name={text}", gpus=0)
    except ConfigError:  # what looks like a secret
        return
    assert cluster.run(written)[0] == 0
    assert cluster.calls("srun")[0][-1] == f"name={text}"


def test_the_negative_control_of_quoting(cluster: Cluster) -> None:
    """Without quotes the canary is there: the stubs do see what a shell makes of words."""
    text = script("name=$(touch CANARY)", gpus=0).replace(
        "'name=$(touch CANARY)'", "$(touch CANARY)"
    )
    assert cluster.run(text)[0] == 0
    assert list(cluster.folder.rglob("CANARY"))


def test_one_agent_a_node(cluster: Cluster) -> None:
    assert cluster.run(script(nodes=2, gpus=4, cpus=8, interface="ib0"))[0] == 0
    meeting, training = cluster.calls("srun")
    assert {"--nodes=1", "--ntasks=1", "--nodelist=n1", "--gres=none"} <= set(meeting)
    assert meeting[-5:] == ["--interface=ib0", "--port-from=4711", "--", "10.0.0.2", "n2"]
    assert {
        "--nodes=2", "--ntasks=2", "--ntasks-per-node=1", "--cpus-per-task=8", "--export=ALL",
        "--kill-on-bad-exit=0", "--wait=0", "--gpu-bind=none", "--processes=4", "--run=4711.0",
        "--rendezvous=10.0.0.1:20007", "--interface=ib0", "--numa", "--logs=./yolodata-4711/0",
    } <= set(training)  # fmt: skip
    assert training[-4:] == list(ARGUMENTS)


def test_one_node_needs_no_meeting(cluster: Cluster) -> None:
    assert cluster.run(script(gpus=0, processes=2), SLURM_RESTART_COUNT="3")[0] == 0
    (training,) = cluster.calls("srun")
    assert {"--processes=2", "--run=4711.3", "--cpu-bind=none"} <= set(training)
    assert not {"--numa", "--gpu-bind=none"} & set(training)
    assert not [word for word in training if word.startswith("--rendezvous")]


def test_containers(cluster: Cluster) -> None:
    options = {"container": "/a.sif", "mounts": "/data:/data:ro,/x", "gpus": 1}
    assert cluster.run(script(**options))[0] == 0
    (call,) = cluster.calls("srun")
    start = call.index("apptainer")
    here = cluster.folder / "work"
    assert call[start : call.index("-m")] == [
        "apptainer", "exec", f"--bind={here}", f"--pwd={here}", "--nv", "--bind=/data:/data:ro",
        "--bind=/x:/x", "/a.sif", "python",
    ]  # fmt: skip
    assert cluster.run(script(**options, runtime="pyxis"))[0] == 0
    (call,) = cluster.calls("srun")
    assert {
        "--container-image=/a.sif", f"--container-workdir={here}",
        f"--container-mounts={here}:{here},/data:/data:ro,/x:/x",
    } <= set(call)  # fmt: skip


def test_setup(cluster: Cluster) -> None:
    """It is a shell's; what it sets is there for the steps, and where it fails nothing begins."""
    assert cluster.run(script(setup="export STATUS=2\ntrue"))[0] == 2
    assert len(cluster.calls("srun")) == 1
    status, said = cluster.run(script(setup="source nowhere.sh"))
    assert (status, cluster.calls("srun")) == (2, [])
    assert "setup failed" in said
    status, said = cluster.run(script(setup="set -e; (exit 3); true"))
    assert (status, cluster.calls("srun")) == (3, [])
    assert "setup has ended this job" in said


@pytest.mark.parametrize("setup", ["", "  ", "# nothing"])
def test_setup_of_nothing(setup: str, cluster: Cluster) -> None:
    assert cluster.run(script(setup=setup))[0] == 0


def test_options_that_setup_sets_do_not_end_the_script(cluster: Cluster) -> None:
    """With `set -e` it would end where a step does, and ask for no requeue."""
    text = script(setup="set -euo pipefail; trap 'touch cleaned' EXIT")
    assert cluster.run(text, STATUS="75")[0] == 75
    assert cluster.requeued()
    assert (cluster.folder / "work/cleaned").exists()


# What srun reads, and what a shell in another job (salloc, srun --pty) has of it.
OF_ANOTHER_JOB = {
    "SLURM_CPU_BIND": "quiet,mask_cpu:0x2", "SLURM_CPU_BIND_LIST": "0x2",
    "SLURM_MEM_BIND": "none", "SLURM_GPUS": "1", "SLURM_GPUS_PER_TASK": "1",
    "SLURM_TRES_PER_TASK": "gres/gpu:1", "SLURM_NTASKS_PER_GPU": "1", "SLURM_CPUS_PER_GPU": "8",
}  # fmt: skip


def test_another_job_that_it_was_submitted_from(cluster: Cluster) -> None:
    """srun would bind ranks to cores of that one, or refuse to begin."""
    stub = cluster.folder / "bin" / "srun"
    stub.write_text(stub.read_text().replace('touch "$FOLDER/trains"', 'env > "$FOLDER/seen"'))
    assert cluster.run(script(nodes=2, cpus=8), **OF_ANOTHER_JOB)[0] == 0
    seen = {line.partition("=")[0] for line in (cluster.folder / "seen").read_text().splitlines()}
    assert "SLURM_CPUS_PER_TASK" in seen
    assert not seen & set(OF_ANOTHER_JOB)
    cluster.run(script(), SLURM_CPUS_PER_TASK="4")  # which srun takes again since 23.11
    assert "SLURM_CPUS_PER_TASK" not in (cluster.folder / "seen").read_text()
    assert all("--mem=0" in call for call in cluster.calls("srun"))  # SLURM_MEM_PER_CPU, _NODE


@pytest.mark.parametrize("nodes", ["1", "3"])
def test_nodes_of_the_command_line(nodes: str, cluster: Cluster) -> None:
    """`sbatch --nodes=3 job.sh` would leave one of them idle."""
    status, said = cluster.run(script(nodes=2), SLURM_JOB_NUM_NODES=nodes)
    assert (status, cluster.calls()) == (2, [])
    assert f"with nodes={nodes}" in said


def test_only_slurm_runs_it(cluster: Cluster) -> None:
    """`bash job.sh` on a login node would ask for an allocation of its own."""
    status, said = cluster.run(script(nodes=2), SLURM_JOB_ID="")
    assert (status, cluster.calls()) == (2, [])
    assert "sbatch" in said


# How it ends.


@pytest.mark.parametrize(
    ("status", "requeue", "said"),
    [
        (0, False, "training is finished"),
        (1, False, "failed with exit status 1"),
        (2, False, "a mistake"),
        (75, True, "has stopped"),
        (76, True, "was lost (1 in a row)"),
        (137, False, "failed with exit status 137"),
        (138, True, "has stopped"),  # SIGUSR1 or SIGTERM that came before the agent could take it
        (143, True, "has stopped"),
    ],
)
def test_exit_statuses(status: int, requeue: bool, said: str, cluster: Cluster) -> None:
    ended, words = cluster.run(script(nodes=2), STATUS=str(status))
    expected = 75 if "stopped" in said else status
    assert (ended, cluster.requeued()) == (expected, requeue)
    assert said in words
    ended, words = cluster.run(script(nodes=2, requeue=False), STATUS=str(status))
    assert (ended, cluster.requeued()) == (expected, False)


@pytest.mark.parametrize("status", [2, 76, 1])
def test_a_meeting_that_fails(status: int, cluster: Cluster) -> None:
    assert cluster.run(script(nodes=2), MEET=str(status))[0] == status
    assert len(cluster.calls("srun")) == 1
    assert cluster.requeued() == (status == 76)


def test_lost_ranks_are_tried_again_some_times(cluster: Cluster) -> None:
    text = script(retries=2)
    requeued = []
    for attempt in range(3):
        status, _ = cluster.run(text, STATUS="76", SLURM_RESTART_COUNT=str(attempt))
        requeued.append(cluster.requeued())
        assert status == 76
    assert requeued == [True, True, False]
    cluster.run(text, STATUS="75")
    _, said = cluster.run(text, STATUS="76")
    assert "1 in a row" in said
    for _ in range(2):
        cluster.run(text, STATUS="76")
    assert not cluster.requeued()
    hours_later = text.replace("\nattempt=", "\nSECONDS=3600\nattempt=")
    cluster.run(hours_later, STATUS="76")
    assert cluster.requeued()


@pytest.mark.parametrize("text", ["x[$(touch ran)]", "08", "", "2\n3", "9" * 30])
def test_a_count_that_is_none_is_not_calculated_with(cluster: Cluster, text: str) -> None:
    """bash runs what stands in the brackets of an arithmetic expression."""
    folder = cluster.folder / "work/yolodata-4711"
    folder.mkdir(parents=True)
    (folder / "losses").write_text(text)
    status, said = cluster.run(script(), STATUS="76")
    assert status == 76
    assert f"was lost ({3 if text.startswith('2') else 1} in a row)" in said
    assert not list(cluster.folder.rglob("ran"))


def test_a_mistake_on_another_node_is_not_repeated(cluster: Cluster) -> None:
    """srun says the largest status: 76 of those that lost the rank that made it."""
    folder = cluster.folder / "work/yolodata-4711/0"
    for node, left in enumerate(('[76, "rank 1 failed"]\n', '[2, "ConfigError"]\n')):
        (folder / f"node{node}").mkdir(parents=True)
        (folder / f"node{node}/status").write_text(left)
    assert cluster.run(script(nodes=2), STATUS="76")[0] == 2
    assert not cluster.requeued()


@pytest.mark.parametrize("state", ["COMPLETING", "CANCELLED", "PREEMPTED", "PENDING"])
@pytest.mark.parametrize("status", ["75", "76"])
def test_what_slurm_ends_is_not_requeued_here(state: str, status: str, cluster: Cluster) -> None:
    """A job that was cancelled would come back for ever."""
    assert cluster.run(script(), STATUS=status, STATE=state)[0] == int(status)
    assert not cluster.requeued()


def test_slurm_may_refuse_a_requeue(cluster: Cluster) -> None:
    status, said = cluster.run(script(), STATUS="75", REQUEUE="1")
    assert status == 75
    assert "submit it again" in said


@pytest.mark.parametrize("stubborn", ["", "1", "76", "143"])
def test_time_limit(stubborn: str, cluster: Cluster) -> None:
    """Whatever the ranks end with once they are asked to stop."""
    process = cluster.start(script(nodes=2), WAITS="1", STUBBORN=stubborn)
    cluster.trains()
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == 75
    assert cluster.signals() == ["USR1"]
    assert cluster.requeued()


@pytest.mark.parametrize("status", ["0", "2"])
def test_nothing_is_left_to_do_at_the_time_limit(status: str, cluster: Cluster) -> None:
    process = cluster.start(script(), WAITS="1", STUBBORN="0" if status == "0" else "2")
    cluster.trains()
    process.send_signal(signal.SIGUSR1)
    assert process.wait(60) == int(status)
    assert not cluster.requeued()


def test_time_limit_before_training(cluster: Cluster) -> None:
    """The signal comes while there is no step: without `B:` it would be lost."""
    text = script(setup='touch "$FOLDER/trains"; while [ ! -e "$FOLDER/end" ]; do sleep 0.02; done')
    process = cluster.start(text)
    cluster.trains()
    process.send_signal(signal.SIGUSR1)
    (cluster.folder / "end").touch()
    assert process.wait(60) == 75
    assert (cluster.calls("srun"), cluster.requeued()) == ([], True)


def test_the_script_outlives_sigterm(cluster: Cluster) -> None:
    """What is left of a step ends with the script, a checkpoint half-way too."""
    process = cluster.start(script(), WAITS="1", STATUS="75", STATE="COMPLETING")
    cluster.trains()
    for _ in range(3):
        process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        assert process.poll() is None
    (cluster.folder / "end").touch()
    assert process.wait(60) == 75
    assert not cluster.requeued()


def test_the_negative_control_of_signals(cluster: Cluster) -> None:
    """Without its traps the script dies, and asks for nothing."""
    text = re.sub(r"(?m)^trap .*$", "", script())
    for number in (signal.SIGUSR1, signal.SIGTERM):
        process = cluster.start(text, WAITS="1")
        cluster.trains()
        process.send_signal(number)
        assert process.wait(60) == -number
        assert not cluster.requeued()
        (cluster.folder / "end").touch()


# Submission.


def test_it_is_handed_on(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in cluster.environment().items():
        monkeypatch.setenv(name, value)
    words = [*ARGUMENTS, "gpus=0", "partition=gpu"]
    job = read_job("slurm", words)
    text = slurm.write(job)
    assert slurm.submit(job, text) == 0
    assert (cluster.folder / "submitted").read_text() == text
    assert "number 4711\n" in capsys.readouterr().err
    file = cluster.folder / "a job.sh"
    assert slurm.submit(read_job("slurm", [*words, f"out={file}"]), text) == 0
    assert cluster.calls("sbatch")[-1] == ["sbatch", "--parsable", str(file)]
    monkeypatch.setenv("STATUS", "3")
    assert slurm.submit(job, text) == 3
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError, match="sbatch FILE"):
        slurm.submit(job, text)


def test_the_script_says_how_it_was_made() -> None:
    words = [*ARGUMENTS, "gpus=0", "setup=true\n#SBATCH --uid=0"]
    lines = slurm.write(read_job("slurm", words)).splitlines()
    assert shlex.quote("data=coco8.yaml") in lines[1]
    assert "#SBATCH --uid=0" not in lines[: lines.index("#SBATCH --requeue")]
