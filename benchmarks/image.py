"""What an image can do: README's job, training, an interruption; also as a SIF.

python benchmarks/image.py localhost/yolodata:0.3.0 --json benchmarks/results/image.json
python benchmarks/image.py yolodata.sif --no-bench --json benchmarks/results/image-sif.json

Each container has a read-only root, no network, and a user id that the image does not know. It
writes to /tmp and /work alone. A SIF is run as users run it: as whoever starts Apptainer, with
that user's home, /tmp and network. About ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

from yolodata import environment

ROOT = Path(__file__).resolve().parents[1]
USER = "54321:54321"
INSIDE = "/work"  # the working folder of the image
STOPPED = 75  # yolodata train after SIGTERM, with its state on disk
TRAIN = [
    "train", "model=yolo26n.yaml", f"data={INSIDE}/drawn/drawn.yaml", "imgsz=160", "batch=4",
    "device=cpu", "amp=False", "workers=0", "plots=False", "verbose=False",
    f"project={INSIDE}/runs", "resume=auto",
]  # fmt: skip


class Containers:
    """Runs commands in containers of one image."""

    user: list[str] | None = USER.split(":")  # whom they have to run as, where that is known

    def __init__(self, run: list[str], image: str, work: Path) -> None:
        self.engine, self.image, self.log = run[0], image, work.parent / "log"
        self.command = [
            *run, "--rm", "--network=none", "--read-only", "--tmpfs=/tmp", f"--user={USER}",
            "--shm-size=2g",  # with 64 MiB worker processes of Ultralytics' loader never start
            f"--volume={work}:{INSIDE}", f"--volume={ROOT / 'examples'}:/examples:ro",
        ]  # fmt: skip

    def words(self, arguments: list[str], entrypoint: str | None, name: str | None) -> list[str]:
        """The command line of a container."""
        more = [f"--entrypoint={entrypoint}"] if entrypoint else []
        more += [f"--name={name}"] if name else []
        return [*self.command, *more, self.image, *arguments]

    def run(self, *arguments: str, entrypoint: str | None = None, **variables: str) -> str:
        """What a container prints.

        Args:
            arguments: of the program.
            entrypoint: another program than the image's own.
            variables: of the environment in which it is started.

        Raises:
            SystemExit: it failed.
        """
        done = subprocess.run(
            self.words(list(arguments), entrypoint, None), capture_output=True, text=True,
            env={**os.environ, **variables},
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"{' '.join(arguments)[:200]}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout

    def start(self, *arguments: str, name: str) -> subprocess.Popen[bytes]:
        """Starts a container in the background; what it prints goes to a file."""
        with self.log.open("ab") as log:
            command = self.words(list(arguments), None, name)
            return subprocess.Popen(command, stdout=log, stderr=log)

    def stop(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Sends the image's STOPSIGNAL, as a node that is drained does."""
        command = [self.engine, "stop", "-t", "60", name]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


class Sif(Containers):
    """Runs commands in a SIF, by Apptainer."""

    user = None

    def __init__(self, run: list[str], image: str, work: Path) -> None:
        super().__init__(run, image, work)
        self.command = run
        self.options = [
            f"--bind={work}:{INSIDE},{ROOT / 'examples'}:/examples:ro",
            f"--pwd={INSIDE}",
        ]

    def words(self, arguments: list[str], entrypoint: str | None, name: str | None) -> list[str]:
        """The command line of a container, which has no name."""
        how, command = ("exec", [entrypoint]) if entrypoint else ("run", [])
        return [*self.command, how, *self.options, self.image, *command, *arguments]

    def stop(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Sends SIGTERM, as Slurm does before it kills."""
        process.terminate()


def losses(run: Path) -> list[dict[str, str]]:
    """The epochs of a run, without what the clock says."""
    with (run / "results.csv").open(encoding="utf-8") as file:
        return [{key.strip(): value for key, value in row.items() if key.strip() != "time"}
                for row in csv.DictReader(file)]  # fmt: skip


def trained(containers: Containers, work: Path) -> dict[str, Any]:
    """Trains, undisturbed and interrupted."""
    containers.run(
        "-c",
        "import sys; sys.path.insert(0, '/examples'); import example_data, pathlib; "
        f"example_data.draw(pathlib.Path('{INSIDE}/drawn'))",
        entrypoint="python",
    )
    started = time.monotonic()
    containers.run(*TRAIN, "epochs=4", "name=whole")
    found: dict[str, Any] = {"train_s": round(time.monotonic() - started, 1)}
    name = f"yolodata-image-{time.time_ns()}"
    process = containers.start(*TRAIN, "epochs=4", "name=cut", name=name)
    table = work / "runs" / "cut" / "results.csv"
    while not (table.exists() and len(losses(table.parent)) >= 1):
        if process.poll() is not None:
            sys.exit(f"training ended early: {process.returncode}\n{containers.log.read_text()}")
        time.sleep(0.05)
    started = time.monotonic()
    containers.stop(name, process)
    found["status_when_stopped"] = process.wait()
    found["stopping_s"] = round(time.monotonic() - started, 1)
    found["epochs_when_stopped"] = len(losses(table.parent))
    containers.run(*TRAIN, "epochs=4", "name=cut")
    found["same_losses_and_metrics"] = losses(work / "runs/whole") == losses(work / "runs/cut")
    owner = (work / "runs" / "whole" / "weights" / "best.pt").stat().st_uid
    found["owner_of_the_weights"] = str(owner)
    return found


def run_script(containers: Containers) -> bool:
    """Whether the run script of the Apptainer definition does what the image does."""
    text = (ROOT / "deploy" / "image" / "yolodata.def").read_text(encoding="utf-8")
    script = re.findall(r"^%runscript\n(.*?)(?=^%|\Z)", text, re.DOTALL | re.MULTILINE)[0]
    said = containers.run("-c", script, "sh", "version", entrypoint="sh")
    return said == containers.run("version")


def without_host_modules(containers: Containers, work: Path) -> bool:
    """Whether the modules of a PYTHONPATH of the host stay out; the control brings them in."""
    (work / "modules").mkdir()
    (work / "modules" / "hidden.py").write_text("", encoding="utf-8")
    code = "import importlib.util as i; print(i.find_spec('hidden') is not None)"

    def found(variable: str) -> bool:
        variables = {variable: f"{INSIDE}/modules"}
        return containers.run("-c", code, entrypoint="python", **variables) == "True\n"

    return found("APPTAINERENV_PYTHONPATH") and not found("PYTHONPATH")


def main() -> int:
    """Runs everything; returns 1 if anything is not as it has to be."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("image", help="its name, or a file.sif")
    parser.add_argument("--run", help="what runs a container; default: `podman run`, `apptainer`")
    parser.add_argument("--no-bench", action="store_true", help="leave README's comparison out")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="yolodata-image-") as folder:
        work = Path(folder) / "work"
        work.mkdir()
        Path(folder).chmod(0o755)
        work.chmod(0o777)  # the container's user is another
        kind, run = (Sif, "apptainer") if given.image.endswith(".sif") else (
            Containers, "podman run")  # fmt: skip
        containers = kind(shlex.split(given.run or run), given.image, work)
        found: dict[str, Any] = {"date": f"{date.today()}", "machine": environment.machine()}
        asked = [containers.engine, "--version"]
        found["engine"] = subprocess.run(asked, capture_output=True, text=True).stdout.strip()
        found["version"] = containers.run("version").strip()
        found["user"] = containers.run("-c", "id -u; id -g", entrypoint="sh").split()
        found["sif_runs_the_same"] = run_script(containers)
        if isinstance(containers, Sif):
            found["host_modules_stay_out"] = without_host_modules(containers, work)
        found |= trained(containers, work)
        if not given.no_bench:
            started = time.monotonic()
            containers.run(
                "-m", "yolodata.bench", "--json", f"{INSIDE}/bench.json", entrypoint="python"
            )
            found["readme_bench_s"] = round(time.monotonic() - started, 1)
            found["readme_bench"] = json.loads((work / "bench.json").read_text(encoding="utf-8"))
    print(
        json.dumps({key: value for key, value in found.items() if key != "readme_bench"}, indent=2)
    )
    if given.json:
        given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    right = (
        found["status_when_stopped"] == STOPPED
        and 1 <= found["epochs_when_stopped"] < 4
        and found["same_losses_and_metrics"]
        and found["sif_runs_the_same"]
        and found.get("host_modules_stay_out", True)
        and found["user"] == (containers.user or found["user"])
        and found["user"][0] == found["owner_of_the_weights"]
    )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
