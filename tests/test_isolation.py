"""Files of the working folder are never taken for modules by processes that are started."""

from __future__ import annotations

import multiprocessing
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from yolodata import isolation
from yolodata.bench import session
from yolodata.train.distributed import launch

ROOT = Path(__file__).resolve().parents[1]
SHADOWS = ("json", "random", "torch", "numpy", "yaml", "pickle", "logging", "argparse", "typing")

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="Python 3.10 has no PYTHONSAFEPATH"
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in SHADOWS:
        (tmp_path / f"{name}.py").write_text(f"raise SystemExit('{name}.py of the working folder')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


@pytest.mark.parametrize("module", ["yolodata", "yolodata.bench", "yolodata.train"])
def test_commands(folder: Path, module: str) -> None:
    command = [sys.executable, "-m", module, "--help"]
    assert subprocess.run(command, capture_output=True, timeout=300).returncode == 0


def test_a_working_folder_that_was_removed_is_said(tmp_path: Path) -> None:
    code = (
        "import os; os.mkdir('gone'); os.chdir('gone'); os.rmdir('../gone')\n"
        "from yolodata.isolation import *; leave_working_folder(); from yolodata.cli import main;"
        "raise SystemExit(main(['shard', '/there.yaml', 'out']))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, timeout=300, capture_output=True, text=True)
    assert done.returncode == 2
    said = "the folder of this shell was removed; change to another one (cd)"
    assert done.stderr == f"yolodata: {said}\n"


def test_a_package_that_only_lies_there_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "yolodata").symlink_to(ROOT / "yolodata")
    (tmp_path / "json.py").write_text("raise SystemExit('json.py')")
    code = (
        "from yolodata.isolation import *; leave_working_folder(); import json, os, sys;"
        "assert child_environment()['PYTHONPATH'] == sys.path[-1] == os.getcwd()"
    )
    monkeypatch.delenv("PYTHONPATH", raising=False)
    command = [sys.executable, "-S", "-c", code]  # -S: nor is it installed
    assert subprocess.run(command, cwd=tmp_path, timeout=300).returncode == 0


def test_ranks(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-c", "import json, random, logging"]
    monkeypatch.setattr(launch, "command", lambda *_: command)
    assert launch.launch([], 2) == 0
    monkeypatch.setattr(launch, "child_environment", dict)
    assert launch.launch([], 2) != 0


def test_processes_that_measure(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(folder))])

    def started() -> int | None:
        child = multiprocessing.get_context("spawn").Process(target=pickle.dumps, args=(1,))
        with session._environment(True, folder):
            child.start()
        child.join(60)
        return child.exitcode

    assert started() == 0
    monkeypatch.setattr(session, "child_environment", dict)
    assert started() != 0


def test_the_folder_of_a_script_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    before = ["/somewhere/else", *sys.path]
    monkeypatch.setattr(sys, "path", list(before))
    isolation.leave_working_folder()
    assert sys.path == before
