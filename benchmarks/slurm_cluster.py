"""A Slurm cluster on one machine: a login node with slurmctld, and nodes with a slurmd each.

A node is a set of namespaces: its network has a virtual cable to the login node's bridge and an
address of its own, it has a host name, an /etc/hosts and a /dev/shm of its own, and numbers its own
processes, so that killing the first of them is pulling the plug. What disturbs jobs on real
clusters is there, too: a node's own name means 127.0.1.1 to it (Debian's habit), and each has an
interface `docker0` with the same address, which comes before the cable.

Everything lies in one folder, and all processes are in one PID namespace: both are gone when
`inside` returns, however it ends.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

import psutil

NEEDED = ("slurmctld", "slurmd", "sbatch", "scontrol", "munged", "ip", "unshare", "setpriv")
LOGIN, CPUS, GPUS = "10.77.0.1", 2, ("/dev/null", "/dev/zero")

CONFIGURATION = """\
ClusterName=virtual
SlurmctldHost=login({login})
SlurmUser=root
AuthType=auth/munge
# A requeued job waits until the credentials of its last start have expired: 120 s by default.
AuthInfo=socket={folder}/munge/socket,cred_expire={credentials}
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SwitchType=switch/none
MpiDefault=none
JobCompType=jobcomp/none
AccountingStorageType=accounting_storage/none
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
KillWait=20
SlurmdTimeout={timeout}
ReturnToService=2
SlurmdParameters=config_overrides
MailProg=/bin/true
GresTypes=gpu
SchedulerParameters=batch_sched_delay=1,sched_interval=5
NodeName={nodes} CPUs={cpus} RealMemory=4000 Gres=gpu:{gpus} State=UNKNOWN
{addresses}
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

BOOT = """\
hostname "$1"
mount --bind "$2/hosts-$1" /etc/hosts
mount -t tmpfs shm /dev/shm
ip link set lo up
ip link add docker0 type bridge && ip addr add 172.17.0.1/16 dev docker0 && ip link set docker0 up
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip addr add "$3/24" dev eth0 && ip link set eth0 up
slurmd -D -N "$1" &
wait
"""
"""Waits, as the first process of the node, which has to bury all others."""


def missing() -> str:
    """Why there can be no cluster here; "" where there can."""
    absent = [name for name in NEEDED if not shutil.which(name, path=_path())]
    if absent:
        return f"no {', '.join(absent)} (Debian: slurmctld, slurmd, slurm-client, munge, iproute2)"
    if os.geteuid():
        return "namespaces of networks and processes need root"
    tried = subprocess.run([*_apart(), "ip", "link", "add", "name", "a", "type", "bridge"],
                           capture_output=True, text=True)  # fmt: skip
    return f"no namespaces: {tried.stderr.strip()}" if tried.returncode else ""


def inside(command: Sequence[str]) -> int:
    """Runs a command as the login node, with a folder of its own as its last argument.

    Args:
        command: what becomes the first process of the namespaces; it makes a `Cluster`.

    Returns:
        Its exit status. Its processes and the folder are gone, after SIGTERM and SIGINT as well.
    """
    before = {number: signal.signal(number, _stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with tempfile.TemporaryDirectory(prefix="yolodata-slurm-") as folder:
            # Should this process be killed, unshare is, and with it the first process in there.
            bound = ["setpriv", "--pdeathsig", "KILL", *_apart()]
            with subprocess.Popen([*bound, *command, folder], start_new_session=True) as login:
                try:
                    return login.wait()
                finally:
                    if login.poll() is None:  # its end is that of all in there
                        for first in psutil.Process(login.pid).children() or [login]:
                            first.kill()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Cluster:
    """Daemons in the namespaces that `inside` made.

    Attributes:
        folder: of everything; the nodes share its file system.
        nodes: names, n1 and so on.
    """

    def __init__(
        self, folder: Path, nodes: int = 2, *, timeout: int = 10, credentials: int = 10
    ) -> None:
        """Begins nothing yet.

        Args:
            folder: of `inside`.
            nodes: how many.
            timeout: seconds until slurmctld takes a silent node for down.
            credentials: seconds for which slurmctld's word to a slurmd holds.
        """
        self.folder = folder
        self.nodes = {f"n{number}": f"10.77.0.{10 + number}" for number in range(1, nodes + 1)}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._configure(timeout, credentials)

    def _configure(self, timeout: int, credentials: int) -> None:
        for name in ("munge", "state"):
            (self.folder / name).mkdir(mode=0o755)
        (self.folder / "munge" / "key").write_bytes(secrets.token_bytes(128))
        (self.folder / "munge" / "key").chmod(0o400)
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                login=LOGIN, folder=self.folder, credentials=credentials, timeout=timeout,
                cpus=CPUS, gpus=len(GPUS), nodes="DEFAULT",
                addresses="\n".join(f"NodeName={n} NodeAddr={a}" for n, a in self.nodes.items()),
            )
        )  # fmt: skip
        (self.folder / "gres.conf").write_text(f"Name=gpu File={','.join(GPUS)}\n")
        for name in ("login", *self.nodes):
            lines = ["127.0.0.1 localhost", f"{LOGIN} login"]
            for node, address in self.nodes.items():
                lines.append(f"{'127.0.1.1' if node == name else address} {node}.cluster {node}")
            (self.folder / f"hosts-{name}").write_text("\n".join(lines) + "\n")

    def __enter__(self) -> Cluster:
        os.environ["SLURM_CONF"] = str(self.folder / "slurm.conf")
        os.environ["PATH"] = _path()
        for command in (
            "hostname login", f"mount --bind {self.folder}/hosts-login /etc/hosts",
            "mount -t tmpfs shm /dev/shm", "ip link set lo up",
            "ip link add bridge type bridge", f"ip addr add {LOGIN}/24 dev bridge",
            "ip link set bridge up",
        ):  # fmt: skip
            subprocess.run(command.split(), check=True)
        munge = self.folder / "munge"
        self._start(
            "munged", "munged", "--foreground", "--force", f"--key-file={munge}/key",
            f"--socket={munge}/socket", f"--pid-file={munge}/pid", f"--log-file={munge}/log",
            f"--seed-file={munge}/seed",
        )  # fmt: skip
        until(lambda: (munge / "socket").exists(), 30, "munged to listen")
        self._start("slurmctld", "slurmctld", "-D")
        for name in self.nodes:
            self.plug_in(name)
        until(lambda: all(self.state(name) == "IDLE" for name in self.nodes), 60, "idle nodes")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        for daemon in self._daemons.values():
            daemon.kill()
            daemon.wait()

    def plug_in(self, name: str) -> None:
        """Starts a node."""
        boot = [name, str(self.folder), self.nodes[name]]
        node = self._start(name, *_apart(), "sh", "-c", BOOT, "boot", *boot)
        ours = os.readlink("/proc/self/ns/net")
        there = f"/proc/{node.pid}/ns/net"
        until(lambda: os.readlink(there) != ours, 10, f"a network of {name}")
        cable = f"ip link add {name} type veth peer name eth0 netns {node.pid}"
        for command in (cable, f"ip link set {name} master bridge up"):
            subprocess.run(command.split(), check=True)

    def pull_plug(self, name: str) -> None:
        """Ends every process of a node at once, and cuts its cable."""
        self._daemons[name].kill()  # and with it (--kill-child) the first process in there
        self._daemons.pop(name).wait()
        until(lambda: not Path(f"/sys/class/net/{name}").exists(), 30, f"the end of {name}")

    def state(self, name: str) -> str:
        """What Slurm says of a node, like IDLE, DOWN, or IDLE+COMPLETING."""
        return self.shows("node", name).get("State", "")

    def shows(self, kind: str, name: str) -> dict[str, str]:
        """The fields of `scontrol show`; none where it has nothing to show."""
        said = command("scontrol", "--oneliner", "show", kind, name, check=False)
        return dict(re.findall(r"(\w+)=(\S*)", said))

    def _start(self, name: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / f"{name}.out").open("ab") as out:
            self._daemons[name] = subprocess.Popen(words, stdout=out, stderr=out)
        return self._daemons[name]


def command(*words: str, check: bool = True) -> str:
    """What a command of Slurm's prints."""
    done = subprocess.run(words, capture_output=True, text=True)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.strip()}")
    return done.stdout


def until(true: Callable[[], object], seconds: float, what: str, every: float = 0.05) -> None:
    """Waits for something; the limit only ends a hang."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(every)


def _apart() -> list[str]:
    spaces = ["--net", "--uts", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"]
    return ["unshare", *spaces, "--"]


def _path() -> str:
    """With this Python first, and what root has: where Debian keeps daemons."""
    here = Path(sys.executable).parent
    return os.pathsep.join([str(here), os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])


def _stop(number: int, frame: object) -> None:
    raise SystemExit(128 + number)
