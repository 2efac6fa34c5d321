"""What commands and runs write beside shards: nothing planted is followed, nothing read is endless.

`plant` puts a link to a file of the user under a name that something writes to. Whoever follows it
changes that file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from yolodata.cli import main
from yolodata.errors import ConfigError
from yolodata.outputs import check_output, write_output
from yolodata.plain_yaml import read_plain_yaml, read_settings
from yolodata.telemetry.journal import FILE, Journal, read_journal
from yolodata.telemetry.metrics.destination import TextFile, read_destination
from yolodata.telemetry.metrics.exporter import Exporter
from yolodata.telemetry.metrics.totals import Totals
from yolodata.telemetry.rows import Rows
from yolodata.telemetry.step_row import COLUMNS, StepRow, read_steps
from yolodata.ultralytics.settings import SETTINGS_FILE, Settings

Plant = Callable[[Path], Path]


@pytest.fixture
def plant(tmp_path: Path) -> Any:
    """Makes links to a file outside; at the end it must be what it was, and alone."""
    mine = tmp_path / "mine" / "file"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")

    def planted(link: Path) -> Path:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(mine.parent if link.suffix == "" else mine)
        return link

    yield planted
    assert mine.read_bytes() == b"mine"
    assert os.listdir(mine.parent) == ["file"]


def test_an_output_replaces_a_link_and_a_stream_is_written_to(
    plant: Plant, tmp_path: Path, capfd: Any
) -> None:
    link = plant(tmp_path / "out" / "a.json")
    write_output(link, b"{}")
    assert (link.is_symlink(), link.read_bytes()) == (False, b"{}")
    print("before")
    write_output(Path("/dev/stdout"), b"to a stream\n")
    write_output(Path("/dev/null"), b"to a device")
    print("after")
    assert capfd.readouterr().out == "before\nto a stream\nafter\n"
    assert Path("/dev/stdout").is_symlink()
    assert Path("/dev/null").is_char_device()
    reads, writes = os.pipe()
    write_output(Path(f"/dev/fd/{writes}"), b"{}")
    assert os.read(reads, 9) == b"{}"
    os.close(reads)
    os.close(writes)
    (tmp_path / "folder").symlink_to(tmp_path / "out")  # the user's own
    write_output(tmp_path / "folder" / "b.json", b"[]")
    assert sorted(os.listdir(tmp_path / "out")) == ["a.json", "b.json"]
    with pytest.raises(ConfigError, match=r"--json .* cannot be written: .*; give a file"):
        write_output(link / "c.json", b"", "--json")


def test_an_output_is_looked_at_before_the_work(
    plant: Plant, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (None, tmp_path / "new" / "a.json", plant(tmp_path / "to"), Path("/dev/stdout")):
        check_output(path, "--json")
    assert os.listdir(tmp_path / "new") == []
    (tmp_path / "file").touch()
    for wrong, why in [(tmp_path, "it is a folder"), (tmp_path / "file" / "a", "Not a directory")]:
        said = f"--json {wrong} cannot be written: {why}; give a file"
        with pytest.raises(ConfigError, match=f"^{re.escape(said)}"):
            check_output(wrong, "--json")
        for command in ("parity nothere", "doctor nothere", "bench only=nothing"):
            assert main([*command.split(), f"json={wrong}"]) == 2
            assert said in capsys.readouterr().err
    for name in ("chart", "chart.xyz"):
        assert main(["bench", "only=nothing", f"plot={tmp_path / name}"]) == 2
        assert "--plot must end in .png, .svg or .pdf" in capsys.readouterr().err


def test_records_of_a_run_are_not_written_through_links(
    plant: Plant, tmp_path: Path, caplog: Any
) -> None:
    run = tmp_path / "run"
    rows = Rows(plant(run / "steps.csv"), ("step", "time"))
    rows.keep(0)
    rows.append("1,2\n")
    Journal(plant(run / FILE).parent).add("start")
    Settings().save(plant(run / SETTINGS_FILE).parent)
    assert "steps.csv cannot be written, its rows are lost: " in caplog.text
    assert "journal.jsonl cannot be written, its lines are lost: " in caplog.text
    assert caplog.text.count("is a link, and a file is written there") == 2
    assert Settings.of_run(run) == Settings()


def test_metrics_are_not_written_through_links(plant: Plant, tmp_path: Path, caplog: Any) -> None:
    plant(tmp_path / "run" / "metrics")
    exporter = Exporter(tmp_path / "run", device=torch.device("cpu"))
    exporter.start(read_destination("auto"))
    exporter.close()
    assert caplog.text.count("is a link, and a folder is written there") == 2
    # What would be guessed as a temporary name.
    plant(tmp_path / "text" / ".a.prom.tmp")
    plant(tmp_path / "totals" / ".totals.rank0.json.tmp")
    exporter = Exporter(tmp_path / "other", device=torch.device("cpu"))
    exporter.start(TextFile(plant(tmp_path / "text" / "a.prom")))
    assert not (tmp_path / "text" / "a.prom").is_symlink()
    exporter.close()
    Totals(tmp_path / "totals" / "totals.rank0.json").save()


def row(step: int) -> StepRow:
    return StepRow(step, 1, 1000.0, 4, 50.0, 5.0, 80.0)


def test_records_of_a_run_are_read_to_an_end(tmp_path: Path) -> None:
    steps = tmp_path / "steps.csv"
    head = ",".join(COLUMNS) + "\n"
    digits = row(3).line().replace(",4,", f",{'9' * 400},", 1)
    quoted = '"' + row(4).line()
    endless = "9" * (1 << 20) + row(5).line()
    steps.write_text(head + row(1).line() + quoted + digits + endless + row(2).line() + "7,\r8\n")
    assert [each.step for each in read_steps(steps)] == [1, 2]
    (tmp_path / FILE).write_text("[" * 100_000 + "\n" + '{"event": "a", "time": 1}\n')
    assert len(read_journal(tmp_path)) == 1
    for file, read in (
        (steps, lambda f: list(read_steps(f))),
        (tmp_path / FILE, lambda f: read_journal(f.parent)),
    ):
        file.unlink()
        os.mkfifo(file)
        with pytest.raises(OSError, match="is a FIFO"):
            read(file)
        file.unlink()
        with file.open("wb") as sparse:
            sparse.truncate(1 << 40)
        with pytest.raises(OSError, match="bytes, at most"):
            read(file)


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000, '{"steps": 1' + "0" * 400 + "}", '{"steps": NaN}', '{"steps": -1}',
        '{"\\u001b[2J' + "é" * 2000 + '": -1}',
    ],
)  # fmt: skip
def test_hostile_totals_begin_anew(text: str, tmp_path: Path, caplog: Any) -> None:
    (tmp_path / "totals.json").write_text(text)
    assert not Totals(tmp_path / "totals.json").found
    assert "counters begin anew" in caplog.text
    assert caplog.text.isascii()
    assert len(caplog.text) < 1000


def test_settings_of_a_run_are_plain(tmp_path: Path) -> None:
    file = tmp_path / "args.yaml"
    levels = "".join(f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]\n" for i in range(9))
    for text, why in (
        ("a0: &a0 [x]\n" + levels, "alias"),
        ("x: " + "[" * 10_000, "nested too deeply"),
        ("- x\n", "names and values"),
        ("x: \x00", "control|special|unacceptable"),
        ("x: " + "y" * (1 << 18), "bytes, at most"),
    ):
        file.write_text(text)
        with pytest.raises((OSError, ValueError), match=why):
            read_plain_yaml(file)
        with pytest.raises(ConfigError, match=r"args.yaml: cannot be read: .*; name the folder"):
            read_settings(file)
    file.write_text("x: 1\n")
    assert read_plain_yaml(file) == {"x": 1}
