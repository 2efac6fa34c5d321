"""A real Prometheus scrapes a run of two ranks, which is killed and goes on.

What must hold:

- `promtool` accepts configuration, rules, the rules' own tests, and what each rank serves;
- Prometheus evaluates all rules without an error;
- every expression of the dashboard, of the recording rules, and of the alerts (without their
  comparison) returns a number while the run goes on;
- the textfile collector of a real node-exporter reads what a rank writes;
- after SIGKILL at random moments and `resume=auto`, no counter of a rank ever went back
  (`resets()` is 0), and each is one series; `yolodata_step`, which is where the run is and no
  counter, did go back: so the question can be answered with yes.

It needs `prometheus`, `promtool` and `prometheus-node-exporter` (Debian's packages of these names).
A page that reads like dcgm-exporter's stands in for it, as there may be no GPU.

    python benchmarks/monitoring.py --json benchmarks/results/monitoring.json
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import torch
import yaml
from batch_notes import NETWORK

from yolodata.bench import results
from yolodata.telemetry.metrics.destination import TextFile
from yolodata.telemetry.metrics.exporter import Exporter
from yolodata.telemetry.step_row import StepRow

MONITORING = Path(__file__).resolve().parents[1] / "deploy" / "monitoring"
PROGRAMS = ("prometheus", "promtool", "prometheus-node-exporter")
RUN = "runs/monitored"
DCGM = "".join(
    f'DCGM_FI_DEV_{name}{{gpu="0",Hostname="fake"}} {value}\n'
    for name, value in (("GPU_UTIL", 93), ("FB_USED", 4096), ("POWER_USAGE", 310), ("GPU_TEMP", 61))
)


def missing() -> list[str]:
    """Programs that are not installed."""
    return [name for name in PROGRAMS if shutil.which(name) is None]


def draw(folder: Path, images: int) -> Path:
    """A dataset of rectangles; returns its YAML."""
    rng = np.random.default_rng(0)
    for split, count in (("train", images), ("val", 8)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for number in range(count):
            picture = rng.integers(0, 255, (96, 128, 3), dtype=np.uint8)
            x, y = (int(v) for v in rng.integers(8, 40, 2))
            cv2.rectangle(picture, (x, y), (x + 48, y + 40), (0, 0, 255), -1)
            box = ((x + 24) / 128, (y + 20) / 96, 48 / 128, 40 / 96)
            cv2.imwrite(str(folder / "images" / split / f"{number}.jpg"), picture)
            text = " ".join(f"{value:.6f}" for value in box)
            (folder / "labels" / split / f"{number}.txt").write_text(f"0 {text}\n")
    page = folder / "data.yaml"
    page.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: {{0: red}}\n")
    return page


def train_command(folder: Path, data: Path) -> list[str]:
    (folder / "network.yaml").write_text(NETWORK)
    return [
        sys.executable, "-m", "yolodata", "train", f"model={folder / 'network.yaml'}",
        f"data={data}", f"project={folder / 'runs'}", "name=monitored", "resume=auto",
        "epochs=1000", "imgsz=64", "batch=8", "device=cpu", "nproc=2", "amp=False", "plots=False",
        "optimizer=SGD", "patience=0", "yolodata.codec=jpeg", "yolodata.metrics=auto",
        "yolodata.checkpoint_minutes=0",
    ]  # fmt: skip


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


@contextmanager
def started(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a program; it and all that it started are killed at the end."""
    with log.open("ab") as file:
        program = subprocess.Popen(command, stdout=file, stderr=file, **options)
    try:
        yield program
    finally:
        kill(program)


def kill(program: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a program and to all that it started."""
    try:
        family = [*psutil.Process(program.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    program.kill()
    for process in family:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    program.wait()
    psutil.wait_procs(family, timeout=30)


@contextmanager
def fake_dcgm() -> Iterator[int]:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(DCGM.encode())

        def log_message(self, *_: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()


def write_config(folder: Path, node: int, dcgm: int, interval: int) -> Path:
    """The shipped configuration, with this machine's ports and a shorter interval."""
    shutil.copytree(MONITORING / "prometheus", folder / "prometheus")
    file = folder / "prometheus" / "prometheus.yml"
    config = yaml.safe_load(file.read_text())
    config["global"] = {"scrape_interval": f"{interval}s", "evaluation_interval": f"{interval}s"}
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    found = folder / "runs" / "monitored" / "metrics" / "target.*.json"
    discovery = jobs["yolodata-auto"]["file_sd_configs"][0]
    assert discovery["files"] == ["/yolodata-run/metrics/target.*.json"]
    discovery.update(files=[str(found)], refresh_interval="1s")
    jobs["node"]["static_configs"][0]["targets"] = [f"localhost:{node}"]
    jobs["dcgm"]["static_configs"][0]["targets"] = [f"localhost:{dcgm}"]
    file.write_text(yaml.safe_dump(config))
    return file


class Prometheus:
    """A server's answers."""

    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}/api/v1/"

    def ready(self) -> bool:
        """Whether it answers."""
        try:
            with urllib.request.urlopen(self._url.replace("api/v1", "-/ready"), timeout=30):
                return True
        except urllib.error.URLError:  # or 503 while it starts
            return False

    def ask(self, path: str, **query: str) -> Any:
        """What the API at a path says."""
        url = f"{self._url}{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{query}: {error.read().decode()}") from error

    def values(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series of an expression, now."""
        found = self.ask("query", query=expression)["result"]
        return [(each["metric"], float(each["value"][1])) for each in found]


def expressions(run: str) -> dict[str, str]:
    """Every expression of dashboard and rules, by where it stands."""
    board = json.loads((MONITORING / "grafana" / "dashboards" / "yolodata.json").read_text())
    found = {}
    for number, panel in enumerate(board["panels"]):
        for target in panel.get("targets") or []:
            name = f"panel {number}, {panel['title']} {target['refId']}"
            text = target["expr"].replace("$__rate_interval", "1m").replace("$__range", "10m")
            found[name] = text.replace("$run", run)
    rules = yaml.safe_load((MONITORING / "prometheus" / "rules.yml").read_text())
    for rule in (rule for group in rules["groups"] for rule in group["rules"]):
        if "record" in rule:
            found[f"record: {rule['record']}"] = rule["expr"]
        else:
            value = re.fullmatch(r"(.+?) (?:==|!=|>=|<=|>|<) [-\d.e]+", rule["expr"])
            assert value is not None, f"{rule['alert']} does not compare a value with a number"
            found[f"alert: {rule['alert']}"] = value[1]
    return found


def wait_for(what: str, holds: Callable[[], object], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            raise SystemExit(f"not seen within {seconds:g} s: {what}")
        time.sleep(0.5)


def check(tool: list[str], **options: Any) -> str:
    done = subprocess.run(["promtool", *tool], capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"promtool {' '.join(tool)}: {done.stdout}{done.stderr}")
    said = (done.stdout + done.stderr).strip()
    return said.replace(f"{MONITORING}/", "")  # no place of this machine


def by_textfile(prometheus: Prometheus, files: Path) -> dict[str, float]:
    """Writes one step as a batch node would; returns what came through node-exporter."""
    exporter = Exporter(files / "run", device=torch.device("cpu"))
    exporter.add_step(StepRow(1, 1, time.time(), 16, 20.0, 5.0, 800.0))
    assert exporter.start(TextFile(files / "run.prom"))
    asked = {"images": 'yolodata_images_total{job="node"}',
             "wait_seconds": 'yolodata_wait_seconds_total{job="node"}',
             "errors": "node_textfile_scrape_error"}  # fmt: skip
    wait_for("the text file", lambda: prometheus.values(asked["images"]), 60)
    found = {name: prometheus.values(expression)[0][1] for name, expression in asked.items()}
    exporter.close()
    assert not (files / "run.prom").exists()
    return found


def steps_of(prometheus: Prometheus) -> float:
    """Steps that both ranks have taken, as far as Prometheus has seen."""
    seen = f'max_over_time(yolodata_steps_total{{run="{RUN}"}}[1h])'  # also while nobody runs
    found = prometheus.values(seen)
    return min((v for _, v in found), default=0.0) if len(found) == 2 else 0.0


def exposed(folder: Path) -> dict[str, str]:
    """What the ranks serve, by address, as the newest targets say."""
    pages = {}
    for file in sorted((folder / "runs/monitored/metrics").glob("target.*.json")):
        address = json.loads(file.read_text())[0]["targets"][0]
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=30) as answer:
            pages[file.name] = answer.read().decode()
    return pages


def counters(prometheus: Prometheus) -> list[str]:
    """Names of all series of ours that may never fall."""
    ends = ("_total", "_sum", "_count", "_bucket")
    names = prometheus.ask("label/__name__/values")
    return [name for name in names if name.startswith("yolodata_") and name.endswith(ends)]


def interrupted(
    prometheus: Prometheus, command: list[str], folder: Path, environment: dict[str, str],
    kills: int, rng: random.Random,
) -> dict[str, Any]:  # fmt: skip
    """Kills the run, has it go on, and looks whether a counter fell."""
    before, log = steps_of(prometheus), folder / "train.log"
    for _ in range(kills):
        with started(command, log, env=environment):
            start = steps_of(prometheus)
            wait_for("steps after a resume", lambda s=start: steps_of(prometheus) > s + 12, 300)
            time.sleep(rng.uniform(0, 6))
    fell, series = [], {}
    for name in counters(prometheus):
        found = prometheus.values(f'resets({name}{{run="{RUN}"}}[1h])')
        series[name] = len(found)
        for labels, times in found:
            if times:
                fell.append({**labels, "name": name, "times": times})
    two = f'count by (run, rank) (count_over_time(yolodata_steps_total{{run="{RUN}"}}[1h]))'
    back = prometheus.values(f'sum(resets(yolodata_step{{run="{RUN}"}}[1h]))')
    return {
        "kills": kills,
        "series": series,
        "fell": fell,
        "series_of_a_counter_by_rank": [value for _, value in prometheus.values(two)],
        "times_that_yolodata_step_went_back": sum(value for _, value in back),
        "steps_before": before,
        "steps_after": steps_of(prometheus),
    }


def judge(result: dict[str, Any]) -> list[str]:
    """What does not hold; empty if all does."""
    wrong = [f"no number: {name}" for name, n in result["expressions"].items() if not n]
    wrong += [f"rule {name}: {health}" for name, health in result["rules"].items()
              if health != "ok"]  # fmt: skip
    if result["textfile"] != {"images": 16.0, "wait_seconds": 0.005, "errors": 0.0}:
        wrong.append(f"by the text file: {result['textfile']}")
    resumed = result["resumed"]
    wrong += [f"a counter fell: {each}" for each in resumed["fell"]]
    wrong += [f"no series of {name}" for name, count in resumed["series"].items() if not count]
    if resumed["series_of_a_counter_by_rank"] != [1, 1]:
        wrong.append(f"series a rank: {resumed['series_of_a_counter_by_rank']}")
    if not resumed["times_that_yolodata_step_went_back"]:
        wrong.append("no kill made the run go back, so nothing was tried")
    return wrong


def measure(folder: Path, args: argparse.Namespace) -> dict[str, Any]:
    data = draw(folder / "set", args.images)
    node, port = free_port(), free_port()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command, log = train_command(folder, data), folder / "server.log"
    prometheus = Prometheus(port)
    with fake_dcgm() as dcgm:
        config = write_config(folder, node, dcgm, args.interval)
        server = ["prometheus", f"--config.file={config}", f"--storage.tsdb.path={folder / 'db'}",
                  f"--web.listen-address=127.0.0.1:{port}"]  # fmt: skip
        files = folder / "textfiles"
        files.mkdir()
        exporter = ["prometheus-node-exporter", f"--web.listen-address=127.0.0.1:{node}",
                    f"--collector.textfile.directory={files}"]  # fmt: skip
        shipped = MONITORING / "prometheus"
        result: dict[str, Any] = {
            "promtool": {
                "config": check(["check", "config", str(shipped / "prometheus.yml")]),
                "rules": check(["check", "rules", str(shipped / "rules.yml")]),
                "rules_test": check(["test", "rules", str(shipped / "rules_test.yml")]),
            },
            "dcgm_exporter": "fake page, no GPU",
        }  # fmt: skip
        with started(exporter, log), started(server, log):
            wait_for("Prometheus", prometheus.ready, 60)
            result["textfile"] = by_textfile(prometheus, files)
            with started(command, folder / "train.log", env=environment):
                validated = f'yolodata_map{{run="{RUN}"}}'
                wait_for("a validation", lambda: prometheus.values(validated), 300)
                start = steps_of(prometheus)
                wait_for("steps", lambda: steps_of(prometheus) >= start + args.steps, 300)
                pages = exposed(folder)
                assert len(pages) == 2, pages.keys()
                result["promtool"]["metrics"] = {
                    name: check(["check", "metrics"], input=page) for name, page in pages.items()
                }
                result["expressions"] = {
                    name: sum(not math.isnan(value) for _, value in prometheus.values(text))
                    for name, text in expressions(RUN).items()
                }
                rules = prometheus.ask("rules")["groups"]
                result["rules"] = {
                    rule["name"]: f"{rule['health']}{rule.get('lastError', '')}"
                    for group in rules for rule in group["rules"]
                }  # fmt: skip
                time.sleep(random.Random(args.seed).uniform(0, 3))
            rng = random.Random(args.seed)
            result["resumed"] = interrupted(
                prometheus, command, folder, environment, args.kills, rng
            )
    return result


def main() -> int:
    """Measures, judges, prints, saves."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--steps", type=int, default=40, help="before the expressions are asked")
    parser.add_argument("--kills", type=int, default=3)
    parser.add_argument("--interval", type=int, default=2, help="seconds between two scrapes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for everything; by default removed")
    args = parser.parse_args()
    if absent := missing():
        print(f"not installed: {', '.join(absent)}; apt-get install them", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = args.keep or Path(name)
        folder.mkdir(parents=True, exist_ok=True)
        result = results.about("monitoring", seed=args.seed, kills=args.kills)
        result |= measure(folder.resolve(), args)
    version = subprocess.run(["prometheus", "--version"], capture_output=True, text=True)
    result["prometheus"] = (version.stdout + version.stderr).splitlines()[0]
    wrong = judge(result)
    result["wrong"] = wrong
    print(json.dumps(result, indent=1))
    if args.json:
        results.save(args.json, result)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
