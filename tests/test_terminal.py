"""A terminal that cannot show a sign ends nothing, and no file depends on the locale."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ingesting import write_yolo

ROOT = Path(__file__).resolve().parents[1]

# Everything that a stranger's terminal meets of one dataset, in one process.
COMMANDS = """
import sys
from yolodata.cli import main
data, out = sys.argv[1:]
for words in ("shard", data, out, "--imgsz", "32"), ("info", out), ("verify", out), ("settings",):
    assert main(words) == 0, words
for words in "", "shard", "info", "labels", "view", "verify", "cache", "train", "bench", "parity":
    try:
        main([*words.split(), "--help"])
    except SystemExit as end:
        assert not end.code
"""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    "terminal", [{"PYTHONIOENCODING": "ascii"}, ASCII], ids=["PYTHONIOENCODING", "LC_ALL"]
)
def test_a_terminal_that_shows_ascii_alone(tmp_path: Path, terminal: dict[str, str]) -> None:
    data = write_yolo(tmp_path / "data", {"train": 4, "val": 2})
    content = yaml.safe_load(data.read_text())
    names = {"names": ["猫", "c1", "c2"]}
    data.write_text(yaml.safe_dump({**content, **names}, allow_unicode=True), encoding="utf-8")
    images = tmp_path / "data" / "images" / "train"
    for number in range(25):  # more than are listed one by one
        (images / f"bad{number}.jpg").write_bytes(b"")
    (images / os.fsdecode(b"caf\xe9.jpg")).write_bytes(b"")  # no terminal can show this name
    done = subprocess.run(
        [sys.executable, "-c", COMMANDS, data, tmp_path / "out"],
        env={**os.environ, "PYTHONPATH": str(ROOT), **terminal},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode()
    said = done.stdout.decode("ascii")
    assert "26 x the file is empty" in said
    assert r"\u732b" in said


def lacking(file: Path) -> Iterator[str]:
    """Calls that open text in whatever encoding the locale has."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        given = {word.arg for word in node.keywords}
        modes = [
            arg.value
            for arg in [*node.args, *(word.value for word in node.keywords if word.arg == "mode")]
            if isinstance(arg, ast.Constant)
            and isinstance(arg.value, str)
            and arg.value
            and set(arg.value) <= set("rwaxbt+")
        ]
        builtin = isinstance(node.func, ast.Name) and name == "open"
        method = isinstance(node.func, ast.Attribute)
        text = name in ("TextIOWrapper", "FileHandler")
        text |= method and name in ("read_text", "write_text")
        text |= builtin and not any("b" in mode for mode in modes)
        text |= name in ("open", "fdopen", "NamedTemporaryFile") and any(
            "b" not in mode for mode in modes
        )
        text |= bool(given & {"text", "universal_newlines"})
        if text and "encoding" not in given and len(node.args) < 4:
            yield f"{file}:{node.lineno}: {ast.unparse(node)}"


def test_no_file_is_opened_in_the_encoding_of_the_locale(tmp_path: Path) -> None:
    files = [*(ROOT / "yolodata").rglob("*.py"), *(ROOT / "examples").glob("*.py")]
    assert not [call for file in files for call in lacking(file)]
    control = tmp_path / "control.py"
    wrong = ["open(f)", "p.open('w')", "p.read_text()", "os.fdopen(1, 'w', 1)", "run(c, text=True)"]
    good = ["open(f, 'rb')", "p.open('ab')", "p.read_text(encoding='utf-8')", "reader.open(p)"]
    control.write_text("\n".join(wrong + good))
    assert len(list(lacking(control))) == len(wrong)


CLOSED = """
import os, sys
from yolodata import PackSettings, pack
from yolodata.cli import main
data, out, said = sys.argv[1:]
pack(data, out + "-library", PackSettings(imgsz=32))
status = main(["shard", data, out, "--imgsz", "32"])
streams = {os.readlink(f"/proc/self/fd/{number}") for number in range(3)}
open(said, "w").write(f"{status} {streams}")
"""


def test_no_file_takes_the_number_of_a_stream_that_is_closed(tmp_path: Path) -> None:
    """Else what a decoder says on stderr would be written into it."""
    data = write_yolo(tmp_path / "data", {"train": 4, "val": 2})
    command = [sys.executable, "-c", CLOSED, data, tmp_path / "out", tmp_path / "said"]
    subprocess.run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", *command], timeout=300, check=True)
    assert (tmp_path / "said").read_text() == "0 {'/dev/null'}"
