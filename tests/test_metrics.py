"""Metrics for Prometheus: what they say, where they go, and that counters never fall."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import socket
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from socketserver import ThreadingMixIn
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from loading import draw_dataset
from prometheus_client import CollectorRegistry, generate_latest, parser
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics import parser as openmetrics_parser
from training import network

from yolodata.errors import ConfigError
from yolodata.folders import Folder
from yolodata.telemetry import Telemetry
from yolodata.telemetry.metrics import gpu, levels, server
from yolodata.telemetry.metrics.catalogue import METRICS, PREFIX, key
from yolodata.telemetry.metrics.destination import Address, TextFile, read_destination
from yolodata.telemetry.metrics.exporter import Exporter
from yolodata.telemetry.metrics.exposition import Labels, registry_of
from yolodata.telemetry.metrics.gpu import GpuLevels, dcgm_serves
from yolodata.telemetry.metrics.totals import Totals
from yolodata.telemetry.step_row import StepRow
from yolodata.telemetry.steps import COLUMNS
from yolodata.ultralytics.metrics import MetricsWatcher
from yolodata.ultralytics.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
MONITORING = ROOT / "deploy" / "monitoring"


def row(step: int, seconds: float = 0.05, **more: Any) -> StepRow:
    return StepRow(step, 1, 1000.0 + step, 4, 1e3 * seconds, 1e2 * seconds, 4 / seconds, **more)


def scrape(url: str) -> dict[str, float]:
    """Values by name and labels, without those that all have."""
    with urllib.request.urlopen(url, timeout=300) as answer:
        return values(answer.read().decode())


def values(text: str) -> dict[str, float]:
    found = {}
    for family in parser.text_string_to_metric_families(text):
        for sample in family.samples:
            labels = {k: v for k, v in sample.labels.items() if k not in ("run", "rank", "host")}
            found[sample.name + "".join(f"/{v}" for v in labels.values())] = sample.value
    return found


@pytest.fixture
def exporter(tmp_path: Path) -> Iterator[Exporter]:
    folder = tmp_path / "project" / "name"
    folder.mkdir(parents=True)
    made = Exporter(folder, device=CPU)
    yield made
    made.close()


# What they say.


def test_all_metrics_parse_and_have_their_unit(exporter: Exporter) -> None:
    exporter.add_step(row(1, straggler_ms=20.0))
    every = {m.name: key(m.name, *m.labels) for m in METRICS if m.kind != "histogram"}
    exporter.set(dict.fromkeys(every.values(), 1.0))
    registry = registry_of(Labels("p/n", "0", "h"), exporter.read)
    families = list(
        openmetrics_parser.text_string_to_metric_families(
            openmetrics.generate_latest(registry).decode()
        )
    )
    assert [family.name for family in families] == [PREFIX + metric.name for metric in METRICS]
    for family, metric in zip(families, METRICS, strict=True):
        assert (family.type, family.unit) == (metric.kind, metric.unit)
        assert metric.name.endswith(metric.unit)
        assert family.documentation.endswith(".")
        for sample in family.samples:
            assert set(sample.labels) - {"le"} == {"run", "rank", "host", *metric.labels}
    if shutil.which("promtool"):
        page = generate_latest(registry)
        done = subprocess.run(["promtool", "check", "metrics"], input=page, capture_output=True)
        assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_names_have_base_units_and_the_page_lists_them() -> None:
    page = (ROOT / "docs" / "monitoring.md").read_text()
    told = re.findall(r"^\| `yolodata_(\w+)` \| (\w+) \|", page, re.MULTILINE)
    suffix = {"counter": "_total", "gauge": "", "histogram": ""}
    assert told == [(m.name + suffix[m.kind], m.kind) for m in METRICS]
    for metric in METRICS:
        assert not re.search(r"_(ms|mib|percent|total|count|sum)(_|$)", metric.name)


def test_a_step_is_counted_where_it_belongs(exporter: Exporter) -> None:
    for step, seconds in enumerate((0.004, 0.05, 0.05, 99.0), 1):
        exporter.add_step(row(step, seconds, straggler_ms=1.0, save_ms=None))
    found = exporter.read()
    registry = registry_of(Labels("p/n", "0", "h"), lambda: found)
    shown = values(generate_latest(registry).decode())
    assert shown["yolodata_steps_total"] == 4
    assert shown["yolodata_images_total"] == 16
    assert shown["yolodata_wait_seconds_total"] == pytest.approx(9.9104)
    assert shown["yolodata_step_seconds_sum"] == pytest.approx(99.104)
    ends = {"0.002": 0, "0.005": 1, "0.04": 1, "0.06": 3, "30": 3, "+Inf": 4}
    for end, count in ends.items():
        assert shown[f"yolodata_step_seconds_bucket/{end}"] == count
    assert shown["yolodata_step_part_seconds_total/straggler"] == pytest.approx(0.004)
    assert "yolodata_step_part_seconds_total/save" not in shown
    assert "yolodata_device_wait_seconds_total" not in shown  # there is no GPU
    exporter.add_step(row(5, device_wait_ms=7.0, copy_ms=5.0, render_ms=2.0))
    parts = {n: v for n, v in exporter.read().items() if n.startswith("step_part")}
    assert sum(parts.values()) == pytest.approx(0.004 + 0.007)  # each time counts once
    assert exporter.read()["device_wait_seconds"] == 0.007
    assert shown["yolodata_step"] == 4
    assert shown["yolodata_last_step_timestamp_seconds"] == 1004


def test_the_loader_and_the_machine_are_read(exporter: Exporter, tmp_path: Path) -> None:
    counters = Telemetry()
    exporter.follow(counters)
    counters.count("decodes", 7)
    counters.count("hits", 5)
    counters.count("unreadable", 1)
    counters.add("decode", 0.25)
    found = exporter.read()
    names = ("decode_images", "cache_hits", "unreadable_images")
    assert [found[name] for name in names] == [7, 5, 1]
    assert found["decode_seconds"] == 0.25
    counters.count("hits")
    assert exporter.read()["cache_hits"] == 6
    another = Telemetry()  # of another loader, which begins from 0
    another.count("hits", 2)
    exporter.follow(another)
    assert exporter.read()["cache_hits"] == 8
    page = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert found["host_memory_bytes"] == page
    assert 0 < found["private_memory_bytes"] <= found["resident_memory_bytes"]
    assert 0 < found["disk_free_bytes"] < found["disk_size_bytes"]
    assert found["shm_free_bytes"] <= found["shm_size_bytes"]
    second = Exporter(tmp_path, device=CPU, rank=1, local_rank=1).read()
    assert not [name for name in second if name.startswith(("host_", "shm_", "disk_free", "net"))]
    assert second["disk_read_bytes"] >= 0


def test_bytes_of_disk_and_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(levels, "PROC", tmp_path)
    assert levels.disk_read() == levels.network_received() == {}  # not ours to see
    (tmp_path / "net").mkdir()
    (tmp_path / "io").write_text("rchar: 9\nread_bytes: 4096\nwrite_bytes: 5\n")
    device = tmp_path / "net" / "dev"
    device.write_text("Inter-| a\n face | b\n    lo: 50 1 2\n  eth0: 700 1 2\n ib0:80 1 2\n")
    assert levels.disk_read() == {"disk_read_bytes": 4096}
    assert levels.network_received() == {"network_receive_bytes": 780}
    exporter = Exporter(tmp_path, device=CPU)  # only what comes after the start is the run's
    device.write_text("Inter-| a\n face | b\n    lo: 99 1 2\n  eth0: 701 1 2\n ib0:82 1 2\n")
    assert exporter.read()["network_receive_bytes"] == 3


def test_gpu_gauges_are_left_to_dcgm_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda", 0)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 3.0)
    monkeypatch.setattr(torch.cuda, "temperature", lambda device: 61)
    monkeypatch.setattr(torch.cuda, "power_draw", lambda device: 310_000)
    monkeypatch.setattr(torch.cuda, "device_memory_used", lambda device: 1 / 0)  # an error is a gap
    monkeypatch.setattr(gpu, "Gpu", lambda device: SimpleNamespace(busy=lambda: 0.93))
    own = GpuLevels(cuda, dcgm=lambda: False)
    assert own.source == "nvml"
    assert own.read() == {"torch_memory_bytes": 3, "gpu_busy_ratio": 0.93,
                          "gpu_temperature_celsius": 61, "gpu_power_watts": 310}  # fmt: skip
    theirs = GpuLevels(cuda, dcgm=lambda: True)
    assert theirs.source == "dcgm-exporter"
    assert theirs.read() == {"torch_memory_bytes": 3}
    assert (GpuLevels(CPU).source, GpuLevels(CPU).read()) == ("none", {})


def test_only_a_page_of_dcgm_exporter_counts_as_one(exporter: Exporter) -> None:
    assert not dcgm_serves("http://127.0.0.1:1/metrics")
    said = exporter.start(Address("127.0.0.1", 0))
    url = said.split()[0]
    assert not dcgm_serves(url)
    exporter.set({key("loss", "DCGM_FI_"): 1.0})
    assert dcgm_serves(url)


# Where they go.


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (9401, Address("127.0.0.1", 9401)),
        ("9401", Address("127.0.0.1", 9401)),
        ("auto", Address("127.0.0.1", 0)),
        ("0.0.0.0:9401", Address("0.0.0.0", 9401)),
        ("[::]:auto", Address("::", 0)),
        ("/a/b.prom", TextFile(Path("/a/b.prom"))),
        ("~no-such-user/b.prom", TextFile(Path("~no-such-user/b.prom"))),
    ],
)
def test_destinations(given: Any, expected: Address | TextFile) -> None:
    assert read_destination(given) == expected
    assert Settings(metrics=given).metrics == given


@pytest.mark.parametrize("given", [0, 70000, "x", "", True, ":9401", "h:", "b.txt", ".prom", 1.5])
def test_what_is_no_destination_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="metrics must be a port from 1 to 65535, auto"):
        Settings(metrics=given)


def test_metrics_need_records_of_steps() -> None:
    with pytest.raises(ConfigError, match="needs telemetry=True"):
        Settings(metrics="auto", telemetry=False)


def test_each_rank_has_its_place() -> None:
    assert Address("h", 9401).of_rank(3).port == 9404
    assert Address("h", 0).of_rank(3).port == 0
    assert TextFile(Path("a.prom")).of_rank(0).name == "a.prom"
    assert TextFile(Path("a.prom")).of_rank(3).name == "a.rank3.prom"


def test_a_free_port_is_found_and_said(exporter: Exporter, tmp_path: Path) -> None:
    said = exporter.start(read_destination("auto"))
    target = tmp_path / "project" / "name" / "metrics" / "target.rank0.json"
    [found] = json.loads(target.read_text())
    assert found["labels"] == {"instance": "project/name:0"}
    assert said.startswith(f"http://{found['targets'][0]}/metrics for this machine alone")
    exporter.add_step(row(1))
    assert scrape(f"http://{found['targets'][0]}/metrics")["yolodata_steps_total"] == 1
    exporter.close()
    assert not target.exists()  # nobody looks for a run that is over
    with pytest.raises(OSError, match="refused"):
        scrape(f"http://{found['targets'][0]}/metrics")


def test_a_port_in_use_is_one_warning(exporter: Exporter, caplog: Any) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        assert exporter.start(Address("127.0.0.1", other.getsockname()[1])) == ""
    assert len(caplog.records) == 1
    assert "in use" in caplog.text
    assert "training goes on" in caplog.text
    exporter.add_step(row(1))  # nothing more is said, or raised
    exporter.close()
    assert len(caplog.records) == 1


@pytest.mark.parametrize("where", ["missing/a.prom", "9401", "none.invalid:9401"])
def test_what_cannot_be_delivered_is_one_warning(
    exporter: Exporter, tmp_path: Path, caplog: Any, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    destination = read_destination(tmp_path / where if where.endswith(".prom") else where)
    if isinstance(destination, Address):
        error = PermissionError if destination.host == "127.0.0.1" else socket.gaierror

        def refused(*_: Any, **__: Any) -> None:
            raise error("refused")

        monkeypatch.setattr("yolodata.telemetry.metrics.server.serve", refused)
    assert exporter.start(destination) == ""
    assert len(caplog.records) == 1
    assert str(destination.path if isinstance(destination, TextFile) else where) in caplog.text


def test_a_host_that_can_be_none_is_one_warning(exporter: Exporter, caplog: Any) -> None:
    assert exporter.start(read_destination("10.0..0:9401")) == ""
    assert "10.0..0:9401" in caplog.text
    assert len(caplog.records) == 1


def test_clients_that_no_thread_can_be_had_for_are_not_counted_for_ever(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = exporter.start(read_destination("auto")).partition(" ")[0]
    with monkeypatch.context() as patched:
        patched.setattr(ThreadingMixIn, "process_request", lambda *_: 1 // 0)
        for _ in range(2 * server.CONNECTIONS):
            with pytest.raises((urllib.error.URLError, ConnectionError)):
                scrape(url)
    assert scrape(url)["yolodata_steps_total"] == 0


def test_metrics_are_served_by_ipv6() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    served = server.serve("::1", 0, CollectorRegistry())
    socket.create_connection(("::1", served.server_port), timeout=5).close()
    served.close()


def test_clients_that_never_ask_take_nothing_from_training(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert server._Handler.timeout == server.PATIENCE
    monkeypatch.setattr(server._Handler, "timeout", 0.3)
    answer, all_there = server.MetricsServer.process_request_thread, threading.Event()

    def later(*request: Any) -> None:
        all_there.wait(30)
        answer(*request)

    monkeypatch.setattr(server.MetricsServer, "process_request_thread", later)
    url = exporter.start(read_destination("auto")).partition(" ")[0]
    place = ("127.0.0.1", int(url.split(":")[2].partition("/")[0]))
    before = len(os.listdir("/proc/self/fd"))
    silent = [socket.create_connection(place, timeout=5) for _ in range(4 * server.CONNECTIONS)]
    turned_away = silent[server.CONNECTIONS :]
    for client in turned_away:
        assert client.recv(1) == b""
    all_there.set()
    for client in silent[: server.CONNECTIONS]:
        assert client.recv(1) == b""  # its time is over
    for client in silent:
        client.close()
    with pytest.raises(urllib.error.HTTPError, match="414"):
        scrape(f"{url}?{'a' * 70_000}")
    with socket.create_connection(place) as client:  # goes away with a reset
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.send(b"GET / HTTP")
    assert scrape(url)["yolodata_steps_total"] == 0
    assert len(os.listdir("/proc/self/fd")) <= before + 1
    assert capfd.readouterr().err == ""


def test_without_the_package_there_is_one_warning(
    exporter: Exporter, caplog: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    monkeypatch.delitem(sys.modules, "yolodata.telemetry.metrics.server", raising=False)
    assert exporter.start(Address("127.0.0.1", 0)) == ""
    assert "pip install prometheus-client" in caplog.text


def test_the_package_is_imported_only_when_used() -> None:
    code = (
        "import sys, yolodata.telemetry.metrics.exporter; print('prometheus_client' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_a_text_file_is_always_whole(
    exporter: Exporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "files" / "a.prom"
    file.parent.mkdir()
    seen: list[list[str]] = []
    rename = Folder.rename

    def watched(self: Folder, name: str, new: str, *to: Any, durable: bool = True) -> None:
        if new == file.name:
            seen.append(sorted(path.name for path in file.parent.glob("*.prom")))
            text = self.read(name, 1 << 20).decode()
            assert text.endswith("\n")
            assert "yolodata_build_info" in text
        rename(self, name, new, *to, durable=durable)

    monkeypatch.setattr(Folder, "rename", watched)
    exporter.start(TextFile(file), every=0.01)
    exporter.add_step(row(1))
    while values(file.read_text())["yolodata_steps_total"] != 1:
        pass
    exporter.close()
    assert seen[0] == []  # the collector reads *.prom: nothing of that name is half written
    assert all(names == ["a.prom"] for names in seen[1:])
    assert list(file.parent.iterdir()) == []  # a run that is over leaves no levels behind


# Counters go on.


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_whenever_a_run_is_killed_no_counter_falls(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("run")
    step, seen = 0, {}
    counted = [PREFIX + m.name for m in METRICS if m.kind != "gauge"]
    for _ in range(data.draw(st.integers(1, 4))):  # processes, each killed
        exporter, counters = Exporter(folder, device=CPU), Telemetry()
        registry = registry_of(Labels("p/n", "0", "h"), exporter.read)
        exporter.follow(counters)
        step = data.draw(st.integers(0, step))  # of the checkpoint
        for event in data.draw(st.lists(st.sampled_from(["step", "scrape", "checkpoint"]))):
            if event == "step":
                step += 1
                exporter.add_step(row(step, data.draw(st.floats(1e-3, 60)), straggler_ms=2.0))
                counters.count("decodes", 3)
            elif event == "checkpoint":
                exporter.checkpoint(folder, 0.5)
            else:
                shown = values(generate_latest(registry).decode())
                for name, value in seen.items():
                    assert shown[name] >= value, name
                seen = {n: v for n, v in shown.items() if n.startswith(tuple(counted))}


def test_steps_that_were_recorded_before_count(tmp_path: Path) -> None:
    lines = [row(step, 0.5).line() for step in (1, 2, 3)]
    (tmp_path / "steps.rank1.csv").write_text(",".join(COLUMNS) + "\n" + "".join(lines) + "4,1,2")
    exporter = Exporter(tmp_path, device=CPU, rank=1)
    found = exporter.read()
    assert (found["steps"], found["images"], found["step_seconds/sum"]) == (3, 12, 1.5)
    assert Exporter(tmp_path, device=CPU, rank=1).read()["steps"] == 3  # once
    assert Exporter(tmp_path, device=CPU, rank=0).read()["steps"] == 0


def test_damaged_totals_begin_anew_and_a_full_disk_is_said_once(
    tmp_path: Path, caplog: Any
) -> None:
    path = tmp_path / "totals.json"
    path.write_text('{"steps": ')
    totals = Totals(path)
    assert "counters begin anew" in caplog.text
    totals.add({"steps": 1})
    assert totals.save() == {"steps": 1}
    assert json.loads(path.read_text()) == {"steps": 1}
    (tmp_path / "file").write_text("")
    lost = Totals(tmp_path / "file" / "totals.json")
    for _ in range(2):
        lost.add({"steps": 1})
        lost.save()
    assert caplog.text.count("cannot be written") == 1


@pytest.mark.parametrize(
    "key",
    ["step_seconds/abc", "step_seconds/nan", "step_seconds", "step_seconds/-1", "steps/a",
     "step_part_seconds", "step_part_seconds/\ud800", "step_part_seconds/\x1b[31m", "epoch",
     "loss/1"],
)  # fmt: skip
def test_totals_of_somebody_else_are_told_or_begin_anew(
    tmp_path: Path, caplog: Any, key: str
) -> None:
    path = tmp_path / "metrics" / "totals.rank0.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"steps": 3, key: 2}))
    exporter = Exporter(tmp_path, device=CPU)
    assert exporter.start(TextFile(tmp_path / "a.prom"))
    exporter.close()
    assert "is no counter" in caplog.text
    assert caplog.text.isascii()
    path.write_text(json.dumps({"steps": 3, "gone_since": 1, "step_seconds/0.07": 2}))
    assert Exporter(tmp_path, device=CPU).read()["steps"] == 3


# In a trainer.


def test_a_run_tells_its_losses_and_metrics(tmp_path: Path) -> None:
    from ultralytics import YOLO

    from yolodata.train.trainer import trainer_for

    drawn = draw_dataset(tmp_path / "set", {"train": 6, "val": 4}, sides=(48, 65))
    file, found, epochs = tmp_path / "a.prom", {}, []

    def look(trainer: Any) -> None:
        trainer.metrics_watcher._next = 0.0  # at every step
        trainer.step_watcher._recorder.flush()
        trainer.step_watcher._recorder._tell()  # late, of the epoch before, as its thread may do
        found.update(trainer.metrics_watcher._exporter.read())
        epochs.append(found["epoch"])

    model = YOLO(network())
    model.add_callback("on_train_batch_end", look)
    model.train(
        data=str(drawn), trainer=trainer_for("detect").configure(metrics=str(file)), imgsz=64,
        batch=4, device="cpu", amp=False, plots=False, verbose=False, workers=0, epochs=2,
        optimizer="SGD", project=str(tmp_path), name="run",
    )  # fmt: skip
    assert not file.exists()
    assert {"loss/box_loss", "loss/cls_loss", "map/0.5/box", "map/0.5:0.95/box"} <= set(found)
    assert "validation_loss/box_loss" in found
    assert found["loss/box_loss"] > 0
    assert (epochs, found["epochs"], found["gradient_scale"]) == ([1, 1, 2, 2], 2, 1)
    totals = json.loads((tmp_path / "run" / "metrics" / "totals.rank0.json").read_text())
    assert (totals["steps"], totals["images"], totals["checkpoints"]) == (4, 12, 2)
    assert totals["checkpoint_write_seconds"] > 0
    assert totals["step_part_seconds/callbacks"] > 0


def test_weights_are_the_checkpoint_of_a_trainer_without_one(
    exporter: Exporter, tmp_path: Path
) -> None:
    (tmp_path / "last.pt").write_bytes(b"12345")
    watching = MetricsWatcher("auto")
    watching._exporter = exporter
    trainer = SimpleNamespace(last=tmp_path / "last.pt")
    watching.saved(trainer)
    found = exporter.read()
    assert (found["checkpoints"], found["checkpoint_size_bytes"]) == (1, 5)
    assert found["checkpoint_timestamp_seconds"] == (tmp_path / "last.pt").stat().st_mtime
    trainer.saver = object()  # it tells its own
    watching.saved(trainer)
    assert exporter.read()["checkpoints"] == 1


@pytest.mark.parametrize(("rank", "shown"), [(-1, 3), (0, 3), (1, None)])
def test_a_run_that_goes_on_shows_its_checkpoint_on_the_rank_that_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rank: int, shown: int | None
) -> None:
    monkeypatch.setattr("yolodata.ultralytics.metrics.RANK", rank)
    (tmp_path / "a.ckpt").write_bytes(b"123")
    trainer = SimpleNamespace(
        save_dir=tmp_path, device=torch.device("cpu"), epochs=3,
        saver=SimpleNamespace(newest=tmp_path / "a.ckpt"),
    )  # fmt: skip
    watching = MetricsWatcher("auto")
    watching.begin(trainer)
    assert watching._exporter is not None
    assert watching._exporter.read().get("checkpoint_size_bytes") == shown
    watching.close(trainer)


def test_halvings_of_the_scale_are_skipped_steps() -> None:
    counted: list[dict[str, float]] = []
    watching = MetricsWatcher("auto")
    watching._exporter = SimpleNamespace(set=lambda values: None, count=counted.append)  # type: ignore[assignment]
    scaler = SimpleNamespace(get_backoff_factor=lambda: 0.5)
    for scale in (65536.0, 65536.0, 8192.0, 16384.0, 8192.0):
        watching._show({"gradient_scale": scale}, scaler)
    assert counted == [{"skipped_steps": 3}, {"skipped_steps": 1}]


# What is deployed.


def deployed() -> Iterator[str]:
    board = json.loads((MONITORING / "grafana" / "dashboards" / "yolodata.json").read_text())
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel.get("targets") or [])
    rules = yaml.safe_load((MONITORING / "prometheus" / "rules.yml").read_text())
    yield from (rule["expr"] for group in rules["groups"] for rule in group["rules"])


def test_dashboard_and_rules_ask_for_what_there_is() -> None:
    """benchmarks/monitoring.py asks a Prometheus."""
    ends = {"counter": ("_total",), "gauge": ("",), "histogram": ("_sum", "_count", "_bucket")}
    there = {PREFIX + metric.name + end for metric in METRICS for end in ends[metric.kind]}
    rules = yaml.safe_load((MONITORING / "prometheus" / "rules.yml").read_text())
    there |= {r["record"] for group in rules["groups"] for r in group["rules"] if "record" in r}
    asked = set()
    for expression in deployed():
        asked |= set(re.findall(r"\byolodata[_:][\w:]+", expression))
    assert len(asked) > 30
    assert not asked - there


def test_the_dashboard_is_made_by_its_code() -> None:
    """Run `python deploy/monitoring/dashboard.py` when this fails."""
    pytest.importorskip("grafana_foundation_sdk")
    main: Any = runpy.run_path(str(MONITORING / "dashboard.py"))["main"]
    assert main(["--check"]) == 0


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_alerts_fire_when_they_should() -> None:
    for tool in (["check", "config", "prometheus.yml"], ["test", "rules", "rules_test.yml"]):
        folder = MONITORING / "prometheus"
        done = subprocess.run(["promtool", *tool], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
