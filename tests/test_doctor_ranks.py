"""What the doctor says of ranks: from given figures, from NCCL's log, and from two that run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training import network
from ultralytics import YOLO

from yolodata.doctor.finding import Finding, ranked
from yolodata.doctor.ranks import step as ranks_step
from yolodata.doctor.ranks.environment import Place, judge_environment
from yolodata.doctor.ranks.judge import Figures, judge
from yolodata.doctor.ranks.links import Links, selected
from yolodata.doctor.ranks.nccl_log import parse_nccl_log
from yolodata.doctor.ranks.step import RankStep
from yolodata.doctor.ranks.sweep import Sweep

MB = 2**20
QUICK = Sweep(((4096, 0.1), (MB, 1.0), (9 * MB, 9.0)))
HEALTHY = Figures(
    alone=[[100.0, 103.0], [104.0, 99.0], [101.0, 102.0], [99.0, 101.0]],
    together=[108.0, 112.0, 110.0],
    at_once=[112.0, 114.0, 113.0],
    buckets=[8 * MB, MB],
    tensors=366,
    link=QUICK,
)


def only(figures: Figures) -> Finding:
    found = list(judge(figures))
    assert len(found) == 1
    return found[0]


def test_a_healthy_run_gets_no_complaint() -> None:
    assert not list(judge(HEALTHY))
    assert not list(judge(replace(HEALTHY, possible=QUICK)))


def test_the_slow_rank_is_named_with_the_pace_of_the_others() -> None:
    # Rank 2 of four needs 180 ms, the others 100; with the exchange a step takes 190 and would 110.
    alone = [[100.0 + i, 99.0, 180.0 - i, 101.0] for i in range(5)]
    found = only(replace(HEALTHY, alone=alone, together=[190.0] * 3, at_once=[190.0] * 3))
    assert (found.cause, found.kind) == ("slow_rank", "slow")
    assert found.title.startswith("Rank 2 ")
    assert found.gain == pytest.approx(190 / 112, rel=0.02)
    # With a quota, its steps differ by whole periods: a few tell little, more of them enough.
    uneven = [[100.0, 100.0 + late] for late in (45.0, 45.0, 100.0, 145.0, 145.0)]
    slow = replace(HEALTHY, together=[230.0] * 3, at_once=[230.0] * 3)
    assert not list(judge(replace(slow, alone=uneven)))
    assert only(replace(slow, alone=uneven * 3)).cause == "slow_rank"
    # The same rank, but in four of six rounds alone: something else ran there for a while.
    alone = [[180.0 if i < 4 else 100.0, 100.0] for i in range(6)]
    assert not list(judge(replace(HEALTHY, alone=alone, together=[190.0] * 3, at_once=[190.0] * 3)))


def test_a_slow_rank_that_is_as_quick_as_the_others_beside_a_link_is_not_to_blame() -> None:
    """It has a quota, and saves up for its own work while all wait for the link."""
    alone, forward = [[180.0 - i, 100.0 + i] for i in range(5)], [[60.0, 30.0]] * 5
    slow = replace(
        HEALTHY, alone=alone, together=[300.0] * 3, at_once=[300.0] * 3, forward_alone=forward
    )
    assert only(replace(slow, forward_together=forward)).gain == pytest.approx(300 / 224)
    assert only(replace(slow, forward_together=[[52.0, 30.0]] * 5)).gain == pytest.approx(300 / 224)
    rested = replace(slow, forward_together=[[33.0, 30.0]] * 5)
    assert not list(judge(rested))
    # Its 70 ms of work take it 180: it could not have done more than 117 ms of it in a step.
    rested = replace(rested, cpu_alone=[[70.0, 98.0]] * 5)
    assert not list(judge(replace(rested, cpu_together=[[80.0, 110.0]] * 5)))
    # Here it did; that its forward passes were shorter is by periods of the quota.
    assert only(replace(rested, cpu_together=[[117.0, 110.0]] * 5)).gain > 300 / 224


def test_a_slow_rank_exchanges_slowly_too_but_for_what_the_link_takes() -> None:
    """A quarter of a core: it takes 62 ms for exchange that takes the others 16."""
    slow = replace(
        HEALTHY, alone=[[272.0 - i, 64.0 + i] for i in range(5)], together=[335.0] * 3,
        at_once=[335.0] * 3,
    )  # fmt: skip
    assert only(slow).gain == pytest.approx(335 / 131)
    slow = replace(slow, cpu_alone=[[65.0, 60.0]] * 5, cpu_together=[[80.0, 75.0]] * 5)
    assert only(slow).gain == pytest.approx(335 / (66 + 16.5), rel=0.05)
    # 9 MB take 180 ms; of them, the backward pass of the others hides 44.
    wire = Sweep(((4096, 1.0), (MB, 20.0), (9 * MB, 180.0)))
    slow = replace(slow, link=wire, together=[400.0] * 3, at_once=[400.0] * 3)
    assert only(slow).gain == pytest.approx(400 / 202, rel=0.02)


def test_steps_beside_a_quota_count_by_their_mean() -> None:
    """Of 60 ms of work at 0.45 of a core, two of three steps take one period, the third takes two.

    So a rank takes 137 ms on average, and the median (116) would tell of a core half again as fast.
    """
    alone = [[56.0, late] for late in (116.0, 116.0, 180.0) * 12]
    together = [190.0, 190.0, 130.0] * 12
    beside = replace(HEALTHY, alone=alone, together=together, at_once=together)
    mean = (2 * 190 + 130) / 3
    assert only(beside).gain == pytest.approx(mean / (mean - (137 - 56)), rel=0.05)
    # Once, something else kept both busy.
    disturbed = replace(beside, alone=[*alone, [2000.0, 2500.0]], together=[*together, 3000.0])
    assert only(disturbed).gain == pytest.approx(only(beside).gain, rel=0.05)


def test_a_link_costs_no_more_than_sums_over_it_take() -> None:
    """The rest of the exchange is a serial reduction's, which comes first."""
    slow = Sweep(((4096, 1.0), (MB, 20.0), (9 * MB, 180.0)))
    figures = replace(HEALTHY, link=slow, possible=QUICK, together=[900.0] * 3, at_once=[300.0] * 3)
    serial, link = ranked(judge(figures))
    assert (serial.cause, link.cause) == ("serial_reduce", "slow_link")
    assert serial.gain == pytest.approx(3.0)
    assert link.gain == pytest.approx(900 / (900 - 171), rel=0.01)


@pytest.mark.parametrize(("cores", "taken_ms"), [((3,), 70.0), ((3, 4), 100.0)])
def test_a_neighbour_on_the_only_core_counts_half(
    monkeypatch: pytest.MonkeyPatch, cores: tuple[int, ...], taken_ms: float
) -> None:
    class Step(RankStep):
        def __init__(self) -> None:
            self._parallel = self._local = None
            self.cpu_ms, self._cpu_ms_alone = 95.0, 35.0

        def _use(self, parallel: Any) -> None: ...

        def together(self) -> float:
            return 100.0

    monkeypatch.setattr(ranks_step, "usable_cores", lambda: cores)
    assert Step().beside() == taken_ms


def test_a_slow_link_is_told_from_one_that_does_what_it_can() -> None:
    slow = Sweep(((4096, 1.0), (MB, 40.0), (9 * MB, 360.0)))
    figures = replace(HEALTHY, link=slow, together=[450.0] * 3, at_once=[460.0] * 3)
    found = only(replace(figures, possible=QUICK))
    assert found.cause == "slow_link"
    assert not found.measured
    # 102 ms alone; of 9 ms that remain, only the last bucket, 1 ms, has nothing to hide behind.
    assert found.gain == pytest.approx(450 / 103, rel=0.02)
    found = only(replace(figures, possible=QUICK, beside=[120.0] * 3, beside_sums=QUICK))
    assert found.measured
    assert found.gain == pytest.approx(450 / 120)
    assert not list(judge(replace(figures, possible=slow)))  # its rate allows no more
    assert not list(judge(figures))  # nobody knows what it could do


def test_a_serial_reduction_is_told_by_one_piece_being_quicker() -> None:
    figures = replace(HEALTHY, together=[400.0, 390.0, 410.0], buckets=[MB // 4] * 36)
    found = only(figures)
    assert (found.cause, found.measured) == ("serial_reduce", True)
    assert found.gain == pytest.approx(400 / 113)
    assert "36 reductions" in found.evidence
    assert not list(judge(replace(figures, at_once=[395.0, 405.0, 400.0])))


def test_a_sweep_lies_between_its_points() -> None:
    assert QUICK.ms(1) == 0.1
    assert QUICK.ms(5 * MB) == pytest.approx(5.0)
    assert QUICK.ms(18 * MB) == pytest.approx(18.0)
    row = Sweep(((1_000_000, 2.0),)).rows(4)[0]
    assert row["algorithm_gb_s"] == pytest.approx(0.5)
    assert row["bus_gb_s"] == pytest.approx(0.75)


PCIE = Links(2, False, {}, {"lo": 0.0, "eth0": 10_000.0, "docker0": 0.0}, "eth0")
NVLINK = replace(PCIE, peer_access=True)
NODES = replace(NVLINK, infiniband={"mlx5_0": 100_000.0})


@pytest.mark.parametrize(
    ("name", "value", "place", "kind"),
    [
        ("NCCL_SHM_DISABLE", "1", Place(2, 2, True, PCIE, 16), "slow"),
        ("NCCL_SHM_DISABLE", "1", Place(2, 2, True, replace(PCIE, peer_access=None), 16), "risk"),
        ("NCCL_SHM_DISABLE", "1", Place(2, 2, True, NVLINK, 16), None),  # P2P is used
        ("NCCL_SHM_DISABLE", "0", Place(2, 2, True, PCIE, 16), None),
        ("NCCL_SHM_DISABLE", "1", Place(2, 2, False, PCIE, 16), None),  # gloo connects CPUs
        ("NCCL_SHM_DISABLE", "1", Place(1, 1, True, PCIE, 16), None),
        ("NCCL_P2P_DISABLE", "1", Place(2, 2, True, NVLINK, 16), "slow"),
        ("NCCL_P2P_DISABLE", "1", Place(2, 2, True, PCIE, 16), None),  # there is none
        ("NCCL_P2P_LEVEL", "LOC", Place(2, 2, True, NVLINK, 16), "slow"),
        ("NCCL_P2P_LEVEL", "SYS", Place(2, 2, True, NVLINK, 16), None),
        ("NCCL_IB_DISABLE", "1", Place(4, 2, True, NODES, 16), "slow"),
        ("NCCL_IB_DISABLE", "1", Place(2, 2, True, NODES, 16), None),  # one machine
        ("NCCL_IB_DISABLE", "1", Place(4, 2, True, NVLINK, 16), None),  # no InfiniBand
        ("NCCL_SOCKET_IFNAME", "ib0", Place(2, 2, True, NVLINK, 16), "breaks"),
        ("NCCL_SOCKET_IFNAME", "lo", Place(4, 2, True, NVLINK, 16), "breaks"),
        ("NCCL_SOCKET_IFNAME", "docker", Place(4, 2, True, NVLINK, 16), "risk"),
        ("NCCL_SOCKET_IFNAME", "eth", Place(4, 2, True, NVLINK, 16), None),
        ("NCCL_BUFFSIZE", "65536", Place(2, 2, True, NVLINK, 16), "risk"),
        ("NCCL_BUFFSIZE", "8388608", Place(2, 2, True, NVLINK, 16), None),
        ("NCCL_ALGO", "Tree", Place(2, 2, True, NVLINK, 16), "risk"),
        ("NCCL_DEBUG", "TRACE", Place(2, 2, True, NVLINK, 16), "slow"),
        ("NCCL_DEBUG", "INFO", Place(2, 2, True, NVLINK, 16), None),
        ("CUDA_LAUNCH_BLOCKING", "1", Place(1, 1, True, Links(1), 16), "slow"),
        ("CUDA_LAUNCH_BLOCKING", "1", Place(1, 1, False, Links(), 16), None),
        ("PYTORCH_NO_CUDA_MEMORY_CACHING", "1", Place(1, 1, True, Links(1), 16), "slow"),
        ("TORCH_DISTRIBUTED_DEBUG", "DETAIL", Place(2, 2, False, Links(), 2), "slow"),
        ("TORCH_DISTRIBUTED_DEBUG", "OFF", Place(2, 2, False, Links(), 2), None),
        ("OMP_NUM_THREADS", "16", Place(1, 1, False, Links(), 4), "slow"),
        ("OMP_NUM_THREADS", "4", Place(1, 1, False, Links(), 4), None),
        ("PATH", "/bin", Place(2, 2, True, NVLINK, 16), None),
    ],
)
def test_variables_are_named_where_they_hurt(
    name: str, value: str, place: Place, kind: str | None
) -> None:
    found = list(judge_environment({name: value}, place, None, None))
    assert [one.kind for one in found] == ([kind] if kind else [])
    assert all(one.cause == "nccl_environment" and name in one.title for one in found)


@pytest.mark.parametrize("value", ["8", "1"])
def test_threads_of_ranks_are_named_where_they_were_measured_to_hurt(value: str) -> None:
    variables, place = {"OMP_NUM_THREADS": value}, Place(2, 2, False, Links(), 4)
    assert not list(judge_environment(variables, place, 100.0, 1.01))
    assert not list(judge_environment(variables, place, 100.0, None))
    (found,) = judge_environment(variables, place, 100.0, 1.6)
    assert (found.gain, found.measured, found.lost_ms) == (1.6, True, pytest.approx(37.5))
    assert "OMP_NUM_THREADS=2" in found.knob.text
    on_gpus = replace(place, cuda=True)
    assert not list(judge_environment(variables, on_gpus, 100.0, 1.6))
    assert not list(judge_environment({"OMP_NUM_THREADS": "2"}, place, 100.0, 1.6))


def test_names_of_interfaces_are_prefixes_unless_exact() -> None:
    there = {"lo": 0.0, "eth0": 0.0, "eth10": 0.0}
    assert selected("eth", there) == ["eth0", "eth10"]
    assert selected("=eth0", there) == ["eth0"]
    assert selected("^lo,eth1", there) == ["eth0"]
    assert selected("^=eth0", there) == ["lo", "eth10"]


LOG = """\
node-a:41:41 [0] NCCL INFO NCCL_SHM_DISABLE set by environment to 1.
node-a:41:41 [0] NCCL INFO Bootstrap : Using eth0:10.0.0.5<0>
NCCL version 2.27.3+cuda12.9
node-a:41:77 [0] NCCL INFO NET/IB : No device found.
node-a:41:77 [0] NCCL INFO NET/Socket : Using [0]eth0:10.0.0.5<0> [1]eth1:10.1.0.5<0>
node-a:41:77 [0] NCCL INFO Using network Socket
node-a:41:77 [0] NCCL INFO Channel 00/02 :    0   1   2   3
node-a:41:77 [0] NCCL INFO Trees [0] 1/-1/-1->0->-1 [1] 1/-1/-1->0->-1
an unrelated line of the program: via P2P
node-a:41:77 [0] NCCL INFO Channel 00/0 : 0[0] -> 1[1] via P2P/IPC/read
node-a:41:77 [0] NCCL INFO Channel 01/0 : 0[0] -> 1[1] via P2P/IPC/read
node-a:42:78 [1] NCCL INFO Channel 00 : 1[c7000] -> 0[ca000] via SHM/direct/direct
node-a:42:78 [1] NCCL INFO Channel 00/0 : 1[1] -> 2[0] [send] via NET/Socket/1
node-b:51:91 [0] NCCL INFO Channel 00/0 : 2[0] -> 3[1] [send] via NET/IB/0/GDRDMA
node-a:42:78 [1] NCCL WARN Call to ibv_create_qp failed
node-a:41:77 [0] NCCL INFO Connected all rings
"""


def test_nccl_s_choice_is_read_from_its_log() -> None:
    choice = parse_nccl_log(LOG)
    assert choice.version == "2.27.3+cuda12.9"
    assert choice.transports == {"P2P": 2, "SHM": 1, "NET/Socket": 1, "NET/IB": 1}
    assert choice.connections[1, 2] == "NET/Socket"
    assert choice.channels == 2
    assert (choice.network, choice.interfaces) == ("Socket", ("eth0", "eth1"))
    assert (choice.rings, choice.trees) == (True, True)
    assert choice.environment == {"NCCL_SHM_DISABLE": "1"}
    assert choice.warnings == ("Call to ibv_create_qp failed",)
    # Ranks 2 and 3 are on one machine, and the network carries their data.
    assert choice.through_network(range(2, 4)) == [(2, 3)]
    assert choice.through_network(range(2)) == []
    assert parse_nccl_log("") == parse_nccl_log("Traceback: NCCL error")


CHILD = """
import json, sys
from yolodata.doctor.sections import examine
from yolodata.doctor.setup import Setup

given = {"model": sys.argv[2], "device": "cpu", "imgsz": 32, "batch": 4}
setup = Setup(sys.argv[1], given, step_ms=8.0, seconds=2.0)
done = examine(setup, ["ranks"])
if done.reports:
    print(json.dumps(done.outcomes["ranks"].measured))
"""


def test_two_ranks_measure_together(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
    data = tmp_path / "data.yaml"
    data.write_text(f"path: {tmp_path}\ntrain: images/train\nval: images/val\nnames: [a]\n")
    model = network()
    gradients = [parameter.numel() for parameter in YOLO(model).model.parameters()]
    (tmp_path / "child.py").write_text(CHILD)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = []
    for rank in range(2):  # what torchrun sets
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2,
                 "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}  # fmt: skip
        ranks.append(
            subprocess.Popen(
                [sys.executable, str(tmp_path / "child.py"), str(data), model],
                env={**os.environ, **{name: str(value) for name, value in place.items()},
                     "PYTHONPATH": str(Path(__file__).resolve().parents[1])},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )  # fmt: skip
    try:
        outputs = [rank.communicate(timeout=240) for rank in ranks]
    finally:
        for process in ranks:
            process.kill()
    assert [rank.returncode for rank in ranks] == [0, 0], outputs
    assert "{" not in outputs[1][0]  # rank 0 alone says what was found
    said: dict[str, Any] = json.loads(outputs[0][0].splitlines()[-1])
    assert (said["ranks"], said["backend"]) == (2, "gloo")
    assert said["gradients"] == len(gradients)
    assert sum(said["buckets_bytes"]) == 4 * sum(gradients)
    assert len(said["alone_ms"]) == len(said["waiting_ms"]) == 2
    # It waited for so long, and for the other one.
    assert min(said["alone_ms"]) >= 8
    assert said["step_ms"] >= 8
    sizes = [row["bytes"] for row in said["all_reduce"]]
    assert {4096, max(said["buckets_bytes"])} <= set(sizes)
    assert all(row["ms"] > 0 and row["bus_gb_s"] > 0 for row in said["all_reduce"])
