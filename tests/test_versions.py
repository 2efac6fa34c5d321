"""What yolodata stands on: bounds of versions, and who imports what (docs/dependencies.md)."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import cv2
import pytest
import torch
import ultralytics

import yolodata
from yolodata import environment
from yolodata.telemetry.metrics import exporter
from yolodata.ultralytics.versions import BOUNDS, complaints

ROOT = Path(__file__).resolve().parents[1]
INSTALLED = {
    "opencv-python": cv2.__version__,
    "ultralytics": ultralytics.__version__,
    "torch": torch.__version__,
}
MODULES = {
    "opencv-python": "cv2",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "nvidia-ml-py": "pynvml",
    "prometheus-client": "prometheus_client",
    "nvidia-dali-cuda120": "nvidia",
    "pi-heif": "pi_heif",
    "typing-extensions": "typing_extensions",
}
"""What packages are imported as, where it is not their name."""


def test_the_bounds_are_those_that_pip_enforces() -> None:
    required = re.findall(
        r'^  "([\w-]+)([><=][^"]*)",$', (ROOT / "pyproject.toml").read_text(), re.M
    )
    for name, bounds in BOUNDS.items():
        assert dict(required)[name] == bounds.specifier


@pytest.mark.parametrize(
    ("name", "version", "lost"),
    [
        ("opencv-python", "4.12.0", "weights of 5 bits"),
        ("opencv-python", "6.0.0-dev", "weights of 5 bits"),
        ("ultralytics", "8.4.189", "was not tested"),
        ("ultralytics", "8.10.0", "was not tested"),
        ("torch", "2.5.1+cu124", "CVE-2025-32434"),
    ],
)
def test_other_versions_are_warned_of(name: str, version: str, lost: str) -> None:
    assert complaints(INSTALLED) == []
    (text,) = complaints({**INSTALLED, name: version})
    specifier = re.escape(BOUNDS[name].specifier)
    assert re.match(rf"yolodata: {name} must be {specifier}, got {re.escape(version)}\. ", text)
    assert lost in text
    assert text.endswith(f"pip install '{name}{BOUNDS[name].specifier}'")


def test_importing_a_trainer_warns() -> None:
    code = "import cv2; cv2.__version__ = '4.12.0'; import yolodata.train.trainer"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout + done.stderr).count("opencv-python must be >=5,<6, got 4.12.0") == 1


def imported(file: Path) -> set[str]:
    """Packages that a file imports, in whatever way."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
        elif isinstance(node, ast.Call) and "import_module" in ast.dump(node.func):
            names += [a.value for a in node.args if isinstance(a, ast.Constant)]
    return {name.partition(".")[0] for name in names}


def test_the_documents_name_every_importer() -> None:
    importers: dict[str, set[str]] = {}
    for file in (ROOT / "yolodata").rglob("*.py"):
        room = file.relative_to(ROOT / "yolodata").parts[0].removesuffix(".py")
        for module in imported(file) - sys.stdlib_module_names - {"yolodata"}:
            importers.setdefault(module, set()).add(room)
    page = (ROOT / "docs" / "dependencies.md").read_text()
    rows = re.findall(r"^\| ([\w-]+) \| ((?:`\w+`(?:, )?)+) \|", page, re.M)
    told = {MODULES.get(name, name): set(re.findall(r"`(\w+)`", rooms)) for name, rooms in rows}
    assert told == importers
    paragraph = (ROOT / "README.md").read_text().rpartition("Apache-2.0.")[2]
    named = set(re.findall(r"`yolodata/(\w+)/`", paragraph))
    assert named == importers["ultralytics"]
    line = (ROOT / "yolodata" / "README.md").read_text().rpartition("AGPL-3.0. Only ")[2]
    assert set(re.findall(r"`(\w+)`", line.partition(" do.")[0])) == importers["ultralytics"]


def test_the_version_is_that_of_the_code_and_not_of_an_installation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Metadata of an editable installation are as old as the installation."""
    project = (ROOT / "pyproject.toml").read_text()
    assert re.findall(r'^version = "(.*)"$', project, re.M) == [yolodata.__version__]
    monkeypatch.setattr(metadata, "version", lambda name: "0.0.0")
    assert environment.versions()["yolodata"] == yolodata.__version__
    assert environment.versions()["torch"] == "0.0.0"
    assert exporter._version("yolodata") == yolodata.__version__
