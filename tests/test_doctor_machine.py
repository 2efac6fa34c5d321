"""The doctor's section "machine": what containers allow, and what it makes of given machines."""

from __future__ import annotations

import json
import os
import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest
import shard_samples
from ingesting import build, write_yolo

from yolodata import cgroup, machine
from yolodata.doctor.examination import Examination, Outcome
from yolodata.doctor.finding import Finding
from yolodata.doctor.machine import (
    cores,
    examine,
    gpu,
    gpu_link,
    gpu_state,
    memory,
    shared_memory,
    storage,
)
from yolodata.doctor.sections import examine as run_sections
from yolodata.doctor.setup import Setup
from yolodata.errors import ConfigError
from yolodata.mounts import Mount, mount_of
from yolodata.telemetry import nvml

GIB = 2**30
V2 = "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
    "32 31 0:29 {root} /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
    "33 31 0:30 {root} /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
)


def version_2(root: Path, files: Mapping[str, str]) -> Path:
    """A machine with control groups of version 2, and this process in the group /a/b."""
    build(root, {f"sys/fs/cgroup/{name}": text for name, text in files.items()})
    return build(root, {"proc/self/mountinfo": V2, "proc/self/cgroup": "0::/a/b\n"})


def test_the_tightest_quota_of_version_2_counts(tmp_path: Path) -> None:
    stat = "usage_usec 9\nnr_periods 50\nnr_throttled {}\nthrottled_usec {}\n"
    root = version_2(
        tmp_path,
        {
            "a/b/cpu.max": "max 100000\n",
            "a/cpu.max": "150000 100000\n",
            "a/cpu.stat": stat.format(20, 2_500_000),
            "cpu.max": "400000 100000\n",
            "cpu.stat": stat.format(1, 1),
            "a/b/memory.max": "max\n",
            "a/b/memory.high": f"{6 * GIB}\n",
            "a/b/memory.current": f"{5 * GIB}\n",
            "a/b/memory.stat": f"anon 1\ninactive_file {GIB}\n",
            "a/memory.max": f"{8 * GIB}\n",
        },
    )
    assert cgroup.cpu_quota(root) == 1.5
    found = cgroup.throttling(root)
    assert found == cgroup.Throttling(50, 20, 2.5)
    assert found.since(cgroup.Throttling(40, 15, 1.0)) == cgroup.Throttling(10, 5, 1.5)
    assert cgroup.memory_limit(root) == 6 * GIB
    assert cgroup.memory_free(root) == 2 * GIB  # page cache that can go is not in use


@pytest.mark.parametrize("inside", [False, True], ids=["host", "container"])
def test_version_1(tmp_path: Path, inside: bool) -> None:
    # In a container /proc names the group as the host does, and its own is mounted as the top.
    place = "" if inside else "docker/x/"
    limits = {
        f"cpu/{place}cpu.cfs_quota_us": "50000\n",
        f"cpu/{place}cpu.cfs_period_us": "100000\n",
        f"cpu/{place}cpu.stat": "nr_periods 8\nnr_throttled 3\nthrottled_time 1500000000\n",
        f"memory/{place}memory.limit_in_bytes": f"{4 * GIB}\n",
        f"memory/{place}memory.usage_in_bytes": f"{3 * GIB}\n",
        f"memory/{place}memory.stat": f"inactive_file 0\ntotal_inactive_file {GIB}\n",
    }
    if not inside:
        limits |= {
            "cpu/cpu.cfs_quota_us": "-1\n",
            "cpu/cpu.cfs_period_us": "100000\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
        }
    build(tmp_path, {f"sys/fs/cgroup/{name}": text for name, text in limits.items()})
    group = "5:memory:/docker/x\n3:cpuacct,cpu:/docker/x\n1:name=systemd:/\n0::/\n"
    root = "/docker/x" if inside else "/"
    build(tmp_path, {"proc/self/cgroup": group, "proc/self/mountinfo": V1.format(root=root)})
    assert cgroup.cpu_quota(tmp_path) == 0.5
    assert cgroup.throttling(tmp_path) == cgroup.Throttling(8, 3, 1.5)
    assert cgroup.memory_limit(tmp_path) == 4 * GIB
    assert cgroup.memory_free(tmp_path) == 2 * GIB


def test_without_limits_there_are_none(tmp_path: Path) -> None:
    root = version_2(tmp_path / "v2", {"a/b/cpu.max": "max 100000\n", "a/b/memory.max": "max\n"})
    for place in (root, tmp_path / "nothing"):
        assert cgroup.cpu_quota(place) is None
        assert cgroup.throttling(place) is None
        assert cgroup.memory_limit(place) is None
        assert cgroup.memory_free(place) is None


def test_available_memory_is_within_the_limit(tmp_path: Path) -> None:
    limited = {"a/b/memory.max": "4096000\n", "a/b/memory.current": "96000\n"}
    assert machine.available_memory(version_2(tmp_path, limited)) == 4_000_000
    assert machine.available_memory(tmp_path / "nothing") > 4_000_000


def test_cores_that_may_be_used_and_could_be() -> None:
    before = machine.usable_cores()
    os.sched_setaffinity(0, before[:1])
    try:
        assert machine.usable_cores() == before[:1]
        assert set(machine.allowed_cores()) >= set(before)
        assert machine.usable_cores() == before[:1]  # asking changes nothing
    finally:
        os.sched_setaffinity(0, before)


def test_numa_nodes(tmp_path: Path) -> None:
    files = {"node1/cpulist": "2-3,8\n", "node0/cpulist": "0-1\n", "node2/cpulist": "\n"}
    build(tmp_path, {f"devices/system/node/{name}": text for name, text in files.items()})
    found = cores.numa_nodes(tmp_path)
    assert found == [{"node": 0, "cores": [0, 1]}, {"node": 1, "cores": [2, 3, 8]}]


def test_where_a_loader_would_keep_its_threads(data: Path, tmp_path: Path) -> None:
    mine = machine.usable_cores()
    names = ",".join(map(str, mine))
    files = {"node0/cpulist": f"{names}\n", "node1/cpulist": f"{max(mine) + 1}\n"}
    root = build(tmp_path, {f"devices/system/node/{name}": text for name, text in files.items()})

    def words(used: Sequence[gpu.Gpu] = (), **settings: Any) -> str:
        setup = Setup(str(data), settings=settings)
        return str(cores.pinned(setup, used, root).measured["numa_pinning"])

    assert words() == ""  # all usable cores are of one node
    build(root, {"devices/system/node/node1/cpulist": f"{mine[-1]}\n"})
    build(root, {"devices/system/node/node0/cpulist": f"{mine[0]}\n"})
    if len(mine) > 1:
        assert words(threads=2) == "threads: 1 on NUMA node 0, 1 on NUMA node 1"
        assert words(threads=2, pin="off") == ""
        far = [gpu.Gpu(index=0, name="H200", numa_node=1)]
        assert words(far, threads=1) == "threads: 1 on NUMA node 1 (H200 is at node 1)"


def test_where_the_bytes_of_a_file_system_are(tmp_path: Path) -> None:
    kinds = {"/n": "nfs4", "/f": "fuse.sshfs", "/o": "overlay", "/t": "tmpfs", "/": "ext4"}
    lines = [f"1 1 0:1 / {point} rw - {kind} x rw\n" for point, kind in kinds.items()]
    file = build(tmp_path, {"mountinfo": "".join(lines)}) / "mountinfo"
    where = {point: mount_of(f"{point}/x", file).where for point in kinds}
    words = {"/n": "network", "/f": "fuse", "/o": "overlay", "/t": "memory", "/": "local"}
    assert where == words
    assert mount_of("/", tmp_path / "absent").where == "unknown"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_yolo(tmp_path_factory.mktemp("data"), {"train": 40, "val": 4})


def setup_of(data: Path, *, loader: str = "", step: float | None = 20.0, **given: Any) -> Setup:
    return Setup(str(data), {"batch": 4, "imgsz": 64, **given}, loader, step)


def causes(outcome: Outcome) -> list[tuple[str, str]]:
    return [(one.cause, one.kind) for one in outcome.findings]


@pytest.mark.parametrize("shards", [False, True], ids=["files", "shards"])
def test_a_healthy_machine_has_no_complaint(data: Path, tmp_path: Path, shards: bool) -> None:
    if shards:
        shard_samples.pack(tmp_path / "shards" / "train")
    setup = setup_of(tmp_path / "shards" if shards else data)
    found = examine(Examination(setup, deadline=0.0))
    assert found.findings == []
    assert not found.fake
    measured = found.measured
    assert 0 < measured["cores_usable"] <= measured["cores_allowed"]
    assert measured["random_read_mb_s"] > 0
    assert measured["random_read_images"] >= 3  # there may be no seconds, and yet some are read
    assert 0 < measured["memory_available_bytes"] <= measured["memory_physical_bytes"]
    assert (measured["shm_needed_bytes"] > 0) == (not shards)
    assert measured["file_system"]


def test_data_that_cannot_be_read_is_said_in_one_line(tmp_path: Path) -> None:
    file = build(tmp_path, {"data.yaml": "train: nowhere\nval: nowhere\nnames: [a]\n"})
    found = examine(Examination(setup_of(file / "data.yaml")))
    assert sum(line.startswith("random reads: ") for line in found.not_done) == 1
    assert found.measured["random_read_mb_s"] is None


# One batch of the queue: 4 pictures of 64 x 64.
BATCH = 4 * 3 * 64 * 64


@pytest.mark.parametrize(
    ("given", "batches"),
    [
        ({"workers": 1}, 5),
        ({"workers": 0}, 0),
        ({"workers": 1, "loader": "yolodata"}, 0),  # no worker processes
        ({"workers": 1, "step": None, "device": "cpu"}, 0),  # Ultralytics takes none there
        ({"workers": 1, "batch": 64}, 0),  # the dataset is one batch
    ],
)
def test_how_much_a_queue_takes(data: Path, given: Mapping[str, Any], batches: int) -> None:
    queue = shared_memory.queue_of(setup_of(data, **given), images=40)
    assert queue.nbytes == batches * BATCH


def test_shared_memory_that_is_too_small() -> None:
    queue = shared_memory.Queue(workers=2, batch_bytes=BATCH)
    assert shared_memory.finding(queue, 9 * BATCH) is None
    found = shared_memory.finding(queue, 9 * BATCH - 1)
    assert found is not None
    assert (found.cause, found.kind, found.knob.settings) == ("shm", "breaks", {"workers": 1})
    two = shared_memory.Queue(workers=2, batch_bytes=BATCH, ranks=2)
    assert shared_memory.finding(two, 9 * BATCH) is not None
    # A thread empties it where batches are page-locked: only a batch a worker is certain.
    pinned = shared_memory.Queue(workers=2, batch_bytes=BATCH, pinned=True)
    kinds = [getattr(shared_memory.finding(pinned, n * BATCH), "kind", "") for n in (1, 2, 9)]
    assert kinds == ["breaks", "risk", ""]


def test_no_shared_memory_at_all(data: Path, tmp_path: Path) -> None:
    queue = shared_memory.queue_of(setup_of(data, workers=1), 40)
    outcome = shared_memory.examine(queue, tmp_path / "absent")
    assert causes(outcome) == [("shm", "breaks")]
    assert "No such file" in outcome.findings[0].evidence
    assert causes(shared_memory.examine(shared_memory.Queue(), tmp_path / "absent")) == []


def test_the_doctor_opens_no_loader_that_would_hang(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.statvfs

    def statvfs(path: Any) -> Any:
        found = real(path)
        full = types.SimpleNamespace(f_blocks=9, f_bavail=1, f_frsize=4096)
        return full if path == shared_memory.SHM else found

    monkeypatch.setattr(os, "statvfs", statvfs)
    setup = Setup(str(data), {"batch": 4, "imgsz": 64, "workers": 1}, step_ms=20.0, seconds=2.0)
    found = run_sections(setup, ["machine", "data"])
    assert [one.cause for one in found.findings() if one.kind == "breaks"] == ["shm"]
    lines = [line for line in found.outcomes["data"].not_done if "would hang" in line]
    assert lines[0].startswith("as it is")
    assert "1 workers need 0 MiB of /dev/shm" in lines[0]


def test_a_cache_that_a_container_has_no_memory_for(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory_of_machine = types.SimpleNamespace(total=64 * GIB, available=60 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory_of_machine)
    sample = storage.Sample(images=1_000_000, shapes=[(480, 640), (640, 480)])
    limited = {"a/b/memory.max": f"{2 * GIB}", "a/b/memory.current": f"{GIB}"}
    root = version_2(tmp_path, limited)
    cached = setup_of(data, cache="ram")
    needed = 1_000_000 * 3 * 64 * 48
    assert memory.ram_cache_bytes(cached, sample) == needed
    outcome = memory.examine(cached, sample, 0, root)
    assert causes(outcome) == [("memory_limit", "breaks")]
    assert outcome.findings[0].knob.settings == {"cache": False}
    assert outcome.measured["memory_limit_bytes"] == 2 * GIB
    # No limit, no cache, our loader, or less: nothing ends there.
    assert causes(memory.examine(cached, sample, 0, tmp_path / "absent")) == []
    assert causes(memory.examine(setup_of(data), sample, 0, root)) == []
    assert (
        causes(memory.examine(setup_of(data, cache="ram", loader="yolodata"), sample, 0, root))
        == []
    )
    small = storage.Sample(images=1000, shapes=sample.shapes)
    assert causes(memory.examine(cached, small, 0, root)) == []
    # Batches of workers count; and a cache that Ultralytics itself refuses is none.
    assert causes(memory.examine(setup_of(data), sample, 2 * GIB, root)) == [
        ("memory_limit", "breaks")
    ]
    memory_of_machine.available = needed
    assert causes(memory.examine(cached, sample, 0, root)) == []


def test_pixels_on_the_network(data: Path) -> None:
    def outcome(kind: str, seconds: float, **given: Any) -> Outcome:
        sample = storage.Sample(
            images=9, mount=Mount(point="/data", kind=kind), seconds=[seconds] * 2,
            nbytes=200_000, decode_s=0.01, cold=True, shapes=[(480, 640)] * 2,
        )  # fmt: skip
        return storage.examine(setup_of(data, **given), sample)

    # 100 kB in 50 ms and 5 ms to decode, or 0.9 MB in at least 230 ms.
    assert causes(outcome("nfs4", 0.05, cache="disk")) == [("filesystem", "slow")]
    assert causes(outcome("nfs4", 0.0001, cache="disk")) == []  # a fast network
    assert causes(outcome("ext4", 0.05, cache="disk")) == []
    assert causes(outcome("nfs4", 0.05)) == []


HEALTHY: dict[str, Any] = {
    "name": "X", "memory_bytes": 80 * GIB, "memory_used_bytes": GIB, "busy_share": 0.0,
    "processes": {"7": 300 << 20}, "pcie_generation": 1, "pcie_generation_max": 4,
    "pcie_width": 16, "pcie_width_max": 16, "clock_sm_mhz": 210, "clock_sm_max_mhz": 1980,
    "throttle_reasons": ["gpu_idle"], "power_limit_w": 300.0, "power_limit_default_w": 300.0,
    "ecc": True, "ecc_uncorrected": 0, "repair_pending": False, "mig": False, "kernels": True,
    "numa_node": 0,
}  # fmt: skip
AT_WORK = {
    "loaded": True, "pcie_generation": 4, "clock_sm_mhz": 1900, "h2d_gb_s": 25.0,
    "throttle_reasons": ["sw_power_cap"],
}  # fmt: skip


def with_gpu(
    data: Path,
    changes: Mapping[str, Any],
    around: Mapping[str, Any] | None = None,
    nodes: Sequence[Mapping[str, Any]] = (),
    **given: Any,
) -> Outcome:
    """The findings beside one GPU; `around` is what concerns all GPUs."""
    known = {"driver": "580.1", "driver_cuda": "13.0", "torch_cuda": "12.8"} | (around or {})
    seen = gpu.of_probe({"gpus": [HEALTHY | changes], **known})
    # Copies of small batches would not be noticed.
    setup = setup_of(data, **{"batch": 64, "imgsz": 640} | given)
    state, link = gpu_state.examine(seen, setup, nodes), gpu_link.examine(seen, setup)
    return Outcome({}, [*state.findings, *link.findings], link.not_done)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        (AT_WORK, []),
        ({"pcie_width": 4}, [("pcie", "slow")]),
        (AT_WORK | {"pcie_generation": 1, "h2d_gb_s": 3.4}, [("pcie", "slow")]),
        # A virtual machine may say anything: the copies are as fast as they can be.
        (AT_WORK | {"pcie_width": 4, "pcie_generation": 1}, []),
        ({"pcie_width": None, "pcie_generation_max": None}, []),
        ({"busy_share": 0.4}, [("gpu_shared", "slow")]),
        ({"processes": {"7": 20 * GIB}}, [("gpu_shared", "risk")]),
        ({"processes": {"7": None}}, []),  # hidden
        ({"throttle_reasons": ["hw_thermal_slowdown"]}, [("gpu_throttled", "slow")]),
        (AT_WORK | {"power_limit_w": 150.0}, [("gpu_throttled", "slow")]),
        (AT_WORK | {"throttle_reasons": ["applications_clocks"]}, []),
        (
            AT_WORK | {"throttle_reasons": ["applications_clocks"], "clock_sm_mhz": 900},
            [("gpu_throttled", "slow")],
        ),
        ({"throttle_reasons": ["gpu_idle", "applications_clocks"]}, []),
        ({"mig": True, "mig_instances": 0}, [("mig", "breaks")]),
        ({"mig": True, "mig_instances": 3}, [("mig", "opportunity")]),
        ({"ecc_uncorrected": 2}, [("ecc", "risk")]),
        ({"repair_pending": True}, [("ecc", "risk")]),
        ({"kernels": False}, [("driver", "breaks")]),
    ],
)
def test_complaints_about_a_gpu(
    data: Path, changes: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert causes(with_gpu(data, changes)) == expected
    assert all(one.fake for one in with_gpu(data, changes).findings)
    assert causes(with_gpu(data, changes, device="cpu")) == []


@pytest.mark.parametrize(
    ("around", "given", "expected"),
    [
        ({"driver_cuda": "11.8"}, {}, [("driver", "breaks")]),
        ({"torch_cuda": "13.2"}, {}, []),  # newer builds run within a major version
        ({"torch_cuda": None}, {}, [("driver", "slow")]),
        ({"torch_cuda": None}, {"device": "0"}, [("driver", "breaks")]),
        ({"torch_cuda": None}, {"device": "cpu"}, []),
    ],
)
def test_drivers_and_builds_of_torch(
    data: Path, around: dict[str, Any], given: dict[str, Any], expected: list[tuple[str, str]]
) -> None:
    assert causes(with_gpu(data, {}, around, **given)) == expected


def test_what_is_faked_is_marked(data: Path) -> None:
    probe = {"gpus": [HEALTHY | {"pcie_width": 4}], "driver_cuda": "13.0", "torch_cuda": "13.0"}
    outcome = examine(Examination(setup_of(data, batch=64, imgsz=640), {"nvml": probe}))
    assert outcome.fake
    assert [(one.cause, one.fake) for one in outcome.findings] == [("pcie", True)]
    (told,) = outcome.measured["gpus"]
    assert told["throttle_reasons"] == ["gpu_idle"]
    assert json.loads(json.dumps(outcome.measured))["gpus"][0] == told
    # What was measured is a probe as well.
    names = ("gpus", "driver", "driver_cuda", "torch_cuda", "p2p")
    assert gpu.of_probe({name: outcome.measured[name] for name in names}) == gpu.of_probe(probe)


def test_what_a_narrow_link_costs(data: Path) -> None:
    def narrow(**given: Any) -> Finding | None:
        found = with_gpu(data, {"pcie_width": 4}, **given).findings
        return next(iter(found), None)

    # 78.6 MB over 6.85 or 27.4 GB/s.
    found = narrow()
    assert found is not None
    assert found.lost_ms == pytest.approx(11.48 - 2.87, abs=0.02)
    assert found.step_ms == pytest.approx(20 + 11.48, abs=0.02)
    assert found.gain == pytest.approx(31.48 / 22.87, abs=0.002)
    # Our loader copies while the step before computes.
    assert narrow(loader="yolodata") is None
    hidden = narrow(loader="yolodata", step=5.0)
    assert hidden is not None
    assert hidden.gain == pytest.approx(11.48 / 5, abs=0.005)
    assert narrow(step=5000.0) is None  # hardly noticed
    unknown = with_gpu(data, {"pcie_width": 4}, step=None)
    assert unknown.findings[0].gain is None
    assert any("give --step" in line for line in unknown.not_done)


def test_a_process_far_from_its_gpu(data: Path) -> None:
    mine = list(machine.usable_cores())
    nodes = [{"node": 0, "cores": mine}, {"node": 1, "cores": [max(mine) + 1]}]
    assert causes(with_gpu(data, {"numa_node": 0}, nodes=nodes)) == []
    assert causes(with_gpu(data, {"numa_node": 1}, nodes=nodes)) == [("numa", "risk")]
    assert causes(with_gpu(data, {"numa_node": None}, nodes=nodes)) == []


def test_a_probe_of_another_form_is_refused() -> None:
    for probe in ({"gpus": [{"pcie_widht": 4}]}, {"gpu": []}, {"gpus": [], "speed": 1}, 3):
        with pytest.raises(ConfigError, match="the probe 'nvml' must be a dict of gpus"):
            gpu.of_probe(probe)


def test_the_ranks_of_torchrun_have_a_gpu_each(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = gpu.of_probe({"gpus": [{"index": 0}, {"index": 1}, {"index": 2}]})
    used = {
        device: [one.index for one in seen.used(setup_of(data, device=device))]
        for device in ("", "0", "1,2", "cpu")
    }
    assert used == {"": [0], "0": [0], "1,2": [1, 2], "cpu": []}
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert [one.index for one in seen.used(setup_of(data))] == [1]
    assert [one.index for one in seen.used(setup_of(data, device="0,2"))] == [2]


def test_what_was_read_at_work() -> None:
    idle = gpu.Gpu(pcie_generation=1, clock_sm_mhz=210, throttle_reasons=("gpu_idle",))
    readings = [
        nvml.Device(pcie_generation=generation, clock_sm_mhz=1500, throttle_reasons=reasons)
        for generation, reasons in (
            (1, ("gpu_idle",)), (4, ("sw_power_cap",)), (4, ("sw_power_cap", "hw_slowdown")),
        )
    ]  # fmt: skip
    found = gpu.at_work(idle, readings)
    assert (found.pcie_generation, found.clock_sm_mhz, found.loaded) == (4, 1500, True)
    assert found.throttle_reasons == ("sw_power_cap",)  # for most of the time
    assert gpu.at_work(idle, []) == idle


def test_which_gpus_a_build_of_torch_serves() -> None:
    archs = ["sm_75", "sm_80", "sm_90a", "compute_90"]
    served = {one: gpu.compiled_for(*one, archs) for one in ((7, 5), (7, 0), (8, 9), (12, 0))}
    assert served == {(7, 5): True, (7, 0): False, (8, 9): True, (12, 0): True}
    assert gpu.compiled_for(12, 0, archs[:3]) is False
    assert gpu.compiled_for(8, 0, []) is None


class FakeNvml(types.ModuleType):
    """NVML of a machine with one GPU, which does not know all that it is asked."""

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC = 1, 0
    answers: dict[str, Any] = {  # noqa: RUF012
        "Count": 1,
        "UUID": "GPU-1",
        "Name": b"X",
        "CurrPcieLinkWidth": 8,
        "MaxPcieLinkWidth": 16,
        "CurrentClocksThrottleReasons": 0x44,  # an old driver: no EventReasons
        "MigMode": [0, 0],
        "EccMode": [1, 1],
        "RemappedRows": (0, 1, 1, 0),
        "EnforcedPowerLimit": 250_000,
        "ComputeRunningProcesses": [types.SimpleNamespace(pid=7, usedGpuMemory=None)],
    }
    denied = False

    def nvmlInit(self) -> None:
        if self.denied:
            raise OSError("Insufficient Permissions")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("nvmlDeviceGet"):

            def answer(*arguments: Any) -> Any:
                asked = name.removeprefix("nvmlDeviceGet")
                if asked == "HandleByIndex":
                    return arguments[0]
                if asked == "NvLinkState" and arguments[1] < 3:
                    return int(arguments[1] < 2)
                return self.answers[asked]

            return answer
        raise AttributeError(name)


def test_what_nvml_does_not_say_is_none(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = FakeNvml("pynvml")
    monkeypatch.setitem(sys.modules, "pynvml", library)
    (found,) = nvml.devices()
    assert (found.name, found.uuid, found.pcie_width, found.pcie_width_max) == ("X", "GPU-1", 8, 16)
    assert found.throttle_reasons == ("sw_power_cap", "hw_thermal_slowdown")
    assert (found.mig, found.ecc, found.repair_pending) == (False, True, True)
    assert (found.nvlinks, found.processes, found.power_limit_w) == (2, {"7": None}, 250.0)
    assert (found.memory_bytes, found.busy_share, found.clock_sm_mhz) == (None, None, None)
    # The whole way, where torch sees no GPU: nothing is asked of the device, nothing breaks.
    if not gpu_is_here():
        outcome = examine(Examination(setup_of(data)))
        assert not outcome.fake
        assert causes(outcome) == [("gpu_throttled", "slow"), ("ecc", "risk")]
    library.denied = True
    with pytest.raises(RuntimeError, match="Insufficient Permissions"):
        nvml.devices()
    if not gpu_is_here():
        (line,) = examine(Examination(setup_of(data))).not_done
        assert line.startswith("GPU: there is none, or no driver for it (NVML: Insufficient")


def gpu_is_here() -> bool:
    import torch

    return torch.cuda.is_available()


@pytest.mark.gpu
def test_a_gpu_is_seen_at_work(data: Path) -> None:
    outcome = examine(Examination(setup_of(data, device="0")))
    first = outcome.measured["gpus"][0]
    assert (first["torch_index"], first["loaded"], first["kernels"]) == (0, True, True)
    assert first["h2d_gb_s"] > 0.5
    assert outcome.measured["p2p"][0][0] is False
