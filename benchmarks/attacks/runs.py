"""Hostile folders of runs: manifest, records, settings and weights that come from somebody else.

`info`, `diff`, `cost` and `doctor` read them: each ends soon, in its own words, and changes nothing
but the files that it was asked to write.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import yaml

from .children import run_command, trial
from .drawn import changes, contents, lay_out, once, packed, state
from .mutate import WORDS, damaged
from .resealed import _hostile_node, hostile_value
from .said import ended_well
from .verdict import Verdict

GOAL = 3000
CASE = 4
PRICES = "currency: EUR\ndate: 2026-11-28\nsource: x\ngpus:\n  cpu:\n    on_demand: 1.0\n"
_WEIGHTS = "weights/best.pt"
_BENCH: dict[str, Any] = {
    "benchmark": "train", "settings": {"device": "cuda:0", "model": "yolo26n.yaml", "batch": 4},
    "machine": {"gpu": {"name": "NVIDIA X1"}},
    "rows": [{"name": "ours", "kind": "yolodata", "img_s": {"median": 50.0}}],
}  # fmt: skip
_COMMANDS = (
    ("info", "run"), ("info", "run", "--json", "--all"), ("info", f"run/{_WEIGHTS}"),
    ("diff", "run", "other"), ("diff", "other", "run", "--json", "--all"),
    ("diff", f"run/{_WEIGHTS}", f"other/{_WEIGHTS}"),
    ("cost", "run", "--prices", "prices.yaml", "--json", "out/cost.json"),
    ("cost", "bench.json", "--prices", "prices.yaml", "--images", "9", "--epochs", "2"),
    ("doctor", "run", "--json", "out/a.json", "--html", "out/a.html", "--apply", "out/a.yaml"),
)  # fmt: skip


def warm() -> None:
    """Imports, and makes a run."""
    import ultralytics.utils  # noqa: F401

    import yolodata.cost.cost_cli
    import yolodata.doctor.report_html
    import yolodata.doctor.runs
    import yolodata.train.settings  # noqa: F401
    from yolodata.diff import diff_cli, run_report, runs  # noqa: F401

    run_files()


@functools.cache
def run_files() -> dict[str, bytes]:
    """The files that a run of two epochs leaves, without training."""
    import torch

    from yolodata import shards
    from yolodata.provenance import weights
    from yolodata.provenance.dataset_version import DatasetVersion
    from yolodata.provenance.manifest import RunManifest
    from yolodata.shards.reader import splits
    from yolodata.telemetry import journal
    from yolodata.telemetry.rows import Rows
    from yolodata.telemetry.step_row import COLUMNS, StepRow
    from yolodata.train.settings import TrainSettings

    run = once() / "runs"
    (run / "weights").mkdir(parents=True)
    opened = {name: shards.open(path) for name, path in splits(packed()).items()}
    arguments = {"model": "yolo26n.yaml", "task": "detect", "epochs": 3, "imgsz": 64, "batch": 4}
    manifest = RunManifest.of(
        DatasetVersion.of("coco.shards", opened), arguments, {"codec": "raw"}
    ).continues(None, 1, 40)
    manifest.write(run)
    torch.save({"epoch": -1, "train_args": arguments}, run / _WEIGHTS)
    weights.add(run / _WEIGHTS, manifest)
    (run / "args.yaml").write_text(yaml.safe_dump({**arguments, "data": "coco.shards"}))
    TrainSettings().save(run)
    rows = Rows(run / "steps.csv", COLUMNS)
    for step in range(90):
        at = 1e9 + 0.1 * step + 2 * (step // 30)
        rows.append(StepRow(step, step // 30, at, 4, 100.0, 60.0, 40.0, storage_ms=50.0).line())
    lines = journal.Journal(run)
    lines.add("start", ranks=1, ranks_a_machine=1, gpu=None, resumed=False, after_s=3.0)
    lines.add("checkpoint", step=30, step_waits_s=0.1, write_s=0.5)
    lines.add("start", ranks=1, ranks_a_machine=1, gpu=None, resumed=True, after_s=4.0)
    (run / "results.csv").write_text(
        "epoch,time,train/box_loss,metrics/mAP50-95(B)\n1,3.0,2.5,0.1\n2,6.0,2.0,nan\n"
    )
    for each in opened.values():
        each.close()
    return contents(run)


def attack(random: Random, folder: Path) -> Verdict:
    """Makes run folders, and has them read."""
    verdict = Verdict()
    for _ in range(CASE):
        shutil.rmtree(folder, ignore_errors=True)
        lay_out(run_files(), folder / "run")
        lay_out(run_files(), folder / "other")
        (folder / "out").mkdir()
        (folder / "prices.yaml").write_text(PRICES)
        (folder / "bench.json").write_text(json.dumps(_BENCH))
        said = []
        for _ in range(random.choice((1, 1, 2))):
            said.append(random.choice(_KINDS)(random, folder / "run"))
        before = state(folder, without=(folder / "out",))
        for words in random.sample(_COMMANDS, 3):
            what = f"{words[0]}: {'; '.join(said)}"
            verdict.tried += 1
            trial(what)
            ended = run_command(list(words), folder)
            # A document for programs is as long as what it tells, of which reading has a limit.
            ended_well(verdict, ended, what, lines=1 << 20 if "--all" in words else 400)
        if found := changes(before, state(folder, without=(folder / "out",))):
            verdict.found("outside", f"{'; '.join(said)}: {found}")
        if verdict.findings:
            break
    return verdict


# What is made of a run. Each changes one of its files, and says which and how.


def _in_json(random: Random, run: Path) -> str:
    """The manifest has other values."""
    file = run / "manifest.json"
    content = json.loads(file.read_bytes()) if _is_whole(file) else {}
    said = _hostile_node(random, content)
    _write(file, lambda: json.dumps(content))
    return f"manifest: {said}"


def _in_weights(random: Random, run: Path) -> str:
    """The manifest in the weights has other values, of which no checksum is made."""
    content = json.loads(run_files()["manifest.json"])
    said = _hostile_node(random, content)
    if not _is_whole(run / _WEIGHTS):
        return "weights: gone"
    try:
        text = json.dumps(content)
    except (ValueError, RecursionError):
        text = "[" * 100_000
    with zipfile.ZipFile(run / _WEIGHTS, "w", random.choice((0, zipfile.ZIP_DEFLATED))) as archive:
        for _ in range(random.choice((1, 1, 1, 2))):
            archive.writestr("best/extra/yolodata.json", text)
    return f"weights: {said}"


def _in_yaml(random: Random, run: Path) -> str:
    """Arguments or settings have other values."""
    file = run / random.choice(("args.yaml", "yolodata.yaml"))
    content = yaml.safe_load(run_files()[file.name])
    said = [_hostile_node(random, content) for _ in range(random.choice((1, 1, 3)))]
    _write(file, lambda: yaml.safe_dump(content, allow_unicode=True))
    return f"{file.name}: {', '.join(said)}"


def _in_journal(random: Random, run: Path) -> str:
    """A line of the journal has other values."""
    file = run / "journal.jsonl"
    lines = [json.loads(line) for line in run_files()[file.name].splitlines()]
    line = random.choice(lines)
    said = _hostile_node(random, line)
    _write(file, lambda: "".join(json.dumps(each) + "\n" for each in lines))
    return f"journal: {said}"


def _in_table(random: Random, run: Path) -> str:
    """A cell of a table has another value."""
    file = run / random.choice(("steps.csv", "steps.csv", "results.csv"))
    rows = [line.split(",") for line in run_files()[file.name].decode().splitlines()]
    said = []
    for _ in range(random.choice((1, 2, 40))):
        row = random.randrange(len(rows))
        column = random.randrange(len(rows[row]))
        value = random.choice((str(random.choice(WORDS)), f"-{random.choice(WORDS)}", "nan", "inf",
                               "-inf", "1e308", "1e-320", "", "0x10", "9" * 5000, '"', "\0", "1_0",
                               str(hostile_value(random))[:300]))  # fmt: skip
        rows[row][column] = value
        said.append(f"row {row}, column {column} = {value[:30]!r}")
    _write(file, lambda: "".join(",".join(row) + "\n" for row in rows))
    return f"{file.name}: {', '.join(said)[:300]}"


def _in_bench(random: Random, run: Path) -> str:
    """The JSON of a benchmark has other values."""
    content = json.loads(json.dumps(_BENCH))
    said = [_hostile_node(random, content) for _ in range(random.choice((1, 2)))]
    _write(run.parent / "bench.json", lambda: json.dumps(content))
    return f"bench.json: {', '.join(said)}"


def _damaged(random: Random, run: Path) -> str:
    """A file is damaged, or is none."""
    name = random.choice(sorted(run_files()))
    data, what = damaged(random, run_files()[name])
    how = random.choice(("damaged", "damaged", "FIFO", "folder", "/dev/zero", "giant", "itself"))
    file = run / name
    file.unlink(missing_ok=True) if not file.is_dir() else shutil.rmtree(file)
    if how == "FIFO":
        os.mkfifo(file)
    elif how == "folder":
        file.mkdir()
    elif how == "giant":
        file.touch()
        os.truncate(file, 3 << 30)
    elif how == "itself":
        file.symlink_to(file.name)
    elif how == "/dev/zero":
        file.symlink_to(how)
    else:
        file.write_bytes(data)
        how = what
    return f"{name}: {how}"


def _is_whole(file: Path) -> bool:
    return file.is_file() and not file.is_symlink()


def _write(file: Path, text: Callable[[], str]) -> None:
    """Writes a text where it can be made, and something that is none elsewhere."""
    if not _is_whole(file):
        return
    try:
        file.write_bytes(text().encode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError, OverflowError, yaml.YAMLError):
        file.write_bytes(b"[" * 100_000)


_KINDS: tuple[Callable[[Random, Path], str], ...] = (
    _in_json, _in_weights, _in_yaml, _in_journal, _in_table, _in_bench, _damaged,
)  # fmt: skip


def _unchecked() -> None:
    """A manifest is what it says that it is."""
    from yolodata.provenance import manifest

    manifest.RunManifest.from_dict = classmethod(lambda cls, values: SimpleNamespace(**values))


def _waits() -> None:
    """Files are opened without asking what they are."""
    os.O_NONBLOCK = 0


PLANTS: dict[str, Callable[[], Any]] = {
    "manifests are not checked": _unchecked, "FIFOs are waited for": _waits,
}  # fmt: skip
