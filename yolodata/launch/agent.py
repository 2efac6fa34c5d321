"""What a scheduler starts on each node: it joins the others, and starts torchrun there.

    python -m yolodata.launch.agent --nodes 2 --node 0 --rendezvous 10.0.0.1:20000 --run JOB \\
        --processes 4 --logs FOLDER -- model=yolo26m.yaml data=coco.yaml …

Signals go on to the ranks; the exit status is theirs (`yolodata.train.exit_codes`), where
torchrun would say 1 for everything.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from yolodata import topology
from yolodata.errors import YolodataError
from yolodata.isolation import leave_working_folder
from yolodata.launch import rendezvous
from yolodata.machine import usable_cores
from yolodata.train.distributed.launch import launch, torchrun_knows
from yolodata.train.exit_codes import MISTAKE, PEER_LOST
from yolodata.train.signals import stopping_at_once

JOIN = 600.0
"""Seconds that a node waits for the others: the image of a container may have to be fetched."""

NODE = "SLURM_NODEID"
"""Names the variable that says which node this is, where one line is started on all of them."""


def torchrun_options(
    nodes: int,
    node: int,
    endpoint: str | None,
    run: str,
    local: str | None = None,
    least: int | None = None,
    restarts: int = 0,
    patience: float = JOIN,
) -> list[str]:
    """Returns how torchrun finds the agents of the other nodes.

    Args:
        nodes: of the job.
        node: this one's number, from 0; the first serves the store.
        endpoint: ADDRESS:PORT of the first node; not needed for one node.
        run: name that no other attempt has, so that an agent of an earlier one finds nobody.
        local: this node's address towards the others. torchrun would take its full name, which
            they may not know.
        least: nodes with which training goes on while others are missing; None needs all.
        restarts: times that the ranks begin again on this node, when one was lost.
        patience: seconds to wait for the other nodes.

    Raises:
        ValueError: there are several nodes, and no endpoint.
    """
    if nodes == 1:
        return ["--standalone"]
    if endpoint is None:
        raise ValueError(f"endpoint must be given with nodes={nodes}, got none")
    return [
        f"--nnodes={nodes if least is None else f'{least}:{nodes}'}",
        f"--max-restarts={restarts}",
        "--rdzv-backend=c10d",
        f"--rdzv-endpoint={endpoint}",
        f"--rdzv-id={run}",
        # Whether it serves the store torchrun would guess from its name's addresses.
        f"--rdzv-conf=is_host={int(node == 0)},join_timeout={patience:.0f}",
        *([f"--local-addr={local}"] if local else []),
    ]


def log_options(folder: str | None) -> list[str]:
    """Returns how torchrun keeps what each rank prints: in files, and on its own output too."""
    return [] if folder is None else [f"--log-dir={folder}", "--tee=3"]


def binding_options(root: Path | None = None) -> tuple[list[str], str]:
    """Returns how torchrun keeps each rank on the cores of its GPU's NUMA node, or why it does not.

    Args:
        root: of sysfs, for tests.
    """
    nodes = topology.nodes(root)
    if len(nodes) < 2:
        return [], ""  # all cores are equally near
    usable = set(usable_cores())
    near = {
        topology.device_node(gpu.name, root)
        for gpu in sorted(((root or topology.SYS) / "bus/pci/drivers/nvidia").glob("*:*:*.*"))
    }
    without = [n.number for n in nodes if n.number in near and not usable & set(n.cores)]
    if not near or None in near:
        return [], "the machine does not say at which NUMA nodes its GPUs are"
    if without:
        return [], f"this job has no cores of NUMA node {without[0]}, where a GPU is"
    if shutil.which("numactl") is None:
        return [], "numactl is not installed, which torchrun needs for it"
    if not torchrun_knows("--numa-binding"):
        return [], "this torchrun has no --numa-binding"
    return ["--numa-binding=node"], ""


def network_variables(local: str, interface: str | None) -> dict[str, str]:
    """Returns variables that say to gloo, and on request to NCCL, which interface to use.

    gloo takes the address of the machine's own name, which may be 127.0.1.1. NCCL finds interfaces
    by itself; it is told only where the user chose one.

    Args:
        local: this node's address towards the others.
        interface: that the user chose; None for none.
    """
    found = {}
    name = interface or rendezvous.interface_of(local)
    if name is not None:
        found["GLOO_SOCKET_IFNAME"] = name
    if interface is not None:
        found["NCCL_SOCKET_IFNAME"] = f"={interface}"  # that one, and none that begins so
    return {name: value for name, value in found.items() if name not in os.environ}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one node's part of the job.

    Returns:
        The exit status: 0, or one of `train.exit_codes`.
    """
    args = _parser().parse_args(arguments)
    try:
        return _run(args)
    except YolodataError as error:
        print(f"yolodata: {error}", file=sys.stderr)
        return MISTAKE


def _run(args: argparse.Namespace) -> int:
    node = int(os.environ.get(NODE, 0)) if args.node is None else args.node
    _warn_of_few_cores(args.processes)
    variables = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(args.grace)}
    local, endpoint = None, args.rendezvous
    if args.nodes > 1:
        address, port = rendezvous.split(args.rendezvous)
        if node > 0:
            with stopping_at_once():
                why = rendezvous.wait_for(args.rendezvous, args.patience)
            if why is not None:
                print(
                    f"yolodata: {socket.gethostname()} reaches nobody at {args.rendezvous} of the "
                    f"first node: {why}; look whether that one failed, else give interface=, the "
                    "network interface that connects the nodes",
                    file=sys.stderr,
                )
                return PEER_LOST
        if args.interface is not None:
            local = rendezvous.address_of(args.interface)
        else:
            local = rendezvous.source(address) or rendezvous.address_of_own_name()
        if local is not None:
            variables |= network_variables(local, args.interface)
            if node == 0:
                # Its name, others need alone: the DNS of Kubernetes knows a pod half a minute late,
                # or as the one that it was before.
                endpoint = rendezvous.joined(local, port)
    options = torchrun_options(
        args.nodes, node, endpoint, args.run, local, args.least, args.restarts, args.patience
    )
    status = None
    if args.logs is not None:
        folder = Path(args.logs).absolute() / f"node{node}"
        folder.mkdir(parents=True, exist_ok=True)
        options += log_options(str(folder))
        status = folder / "status"
        variables["PYTHONUNBUFFERED"] = "1"  # a log that ends where its process ended
        variables["TORCHELASTIC_LOG_LINE_PREFIX_TEMPLATE"] = "[${hostname} ${rank}] "
    if args.numa:
        binding, why_not = binding_options()
        options += binding
        if why_not:
            print(f"yolodata: ranks are not bound to cores: {why_not}", file=sys.stderr)
    return launch(
        args.arguments, args.processes, options, variables, status, restarted=args.restarts > 0
    )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m yolodata.launch.agent")
    parser.add_argument("--nodes", type=int, default=1, help="machines of the job")
    parser.add_argument("--node", type=int, help=f"this one's number; default: ${NODE}")
    parser.add_argument("--processes", type=int, default=1, help="of this machine")
    parser.add_argument("--rendezvous", help="ADDRESS:PORT of the first node")
    parser.add_argument("--least", type=int, help="nodes with which training goes on; default: all")
    parser.add_argument("--restarts", type=int, default=0, help="of the ranks, when one is lost")
    parser.add_argument("--patience", type=float, default=JOIN, help="seconds, for other nodes")
    parser.add_argument("--run", default="yolodata", help="a name of this attempt")
    parser.add_argument("--interface", help="network interface that connects the nodes")
    parser.add_argument("--logs", help="folder for what each rank prints")
    parser.add_argument(
        "--grace", type=int, default=30, help="seconds that ranks have to write their state"
    )
    parser.add_argument("--numa", action="store_true", help="keep ranks near their GPUs")
    parser.add_argument("arguments", nargs="+", help="of `yolodata train`")
    return parser


def _warn_of_few_cores(processes: int) -> None:
    cores = len(usable_cores())
    if cores < processes:
        print(
            f"yolodata: {processes} processes share {cores} core{'s' * (cores > 1)} of "
            f"{socket.gethostname()}; give cpus= (Slurm gives a task one core unless asked)",
            file=sys.stderr,
        )


if __name__ == "__main__":
    leave_working_folder()
    sys.exit(main())
