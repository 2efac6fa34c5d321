"""The command line: one way to write settings, one prefix and one status for mistakes."""

from __future__ import annotations

import argparse
import errno
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from yolodata import __version__, cli
from yolodata.arguments import NamesAndValues, Parser
from yolodata.cli import COMMANDS, main, overview, parser_of
from yolodata.errors import ConfigError


def parsed(line: str) -> dict[str, Any]:
    """What `yolodata LINE` is understood as."""
    command, *words = shlex.split(line)
    values = vars(parser_of(command).parse_args(words))
    return {name: value for name, value in values.items() if name != "run"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_examples_that_can_be_parsed(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    examples = parser_of(command).examples
    assert len(examples) > 1
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    assert shown.out.isascii()  # terminals differ in what else they can show
    for example in examples:
        assert example in shown.out
        name, *words = shlex.split(example.partition(" > ")[0])
        assert (name, words[0]) == ("yolodata", command)
        assert parser_of(command).parse_args(words[1:]).run
    assert main(["help", command]) == 0
    assert capsys.readouterr().out == shown.out


def test_an_example_that_is_wrong_would_be_noticed() -> None:
    with pytest.raises(ConfigError, match="did you mean 'codec'"):
        parser_of("shard").parse_args(["a", "b", "codek=raw"])


SAME = [
    ("shard a b --imgsz 32 --codec jpeg", "shard a b imgsz=32 codec=jpeg"),
    ("shard a b --imgsz=32 --shard-size 1M", "shard imgsz=32 a shard_size=1M b"),
    ("shard a b --shard_size 1M", "shard out=b --source a shard-size=1M"),
    ("shard a b --overwrite --quiet", "shard a b overwrite=True --quiet=yes single_cls=false"),
    ("shard a b --overwrite", "shard a --overwrite True b --quiet False"),
    ("shard a b --split train --split val", "shard split=train a b split=val"),
    ("shard -- -a b=c", "shard source=-a out=b=c"),
    ("shard a ./b=c", "shard a out=./b=c"),
    ("labels a b --names x,y", "labels a b names=x,y"),
    ("cache ls a b", "cache folders=a action=ls folders=b"),
    ("cache clean a b --yes", "cache clean yes=True folders=a b"),
    ("val model=a data=b half=True", "val --model a --data b --half"),
    ("export a b.pt", "export out=b.pt source=a"),
    ("verify a --full --workers 2", "verify full=1 out=a workers=2"),
    ("info a --json --split val", "info a json=True split=val"),
    ("view a --set mosaic=0 --set degrees=-3", "view a mosaic=0 --degrees -3"),
    ("view a --augment --count 4 --out x.png", "view path=a augment=True count=4 out=x.png"),
    ("parity a --break --samples 5", "parity data=a break=True samples=5"),
    ("bench train --no-amp --cores 2", "bench --no-amp cores=2 what=train"),
    ("bench train --no-amp", "bench train amp=False"),
    ("bench train --amp", "bench train no_amp=False"),
    ("bench --quick --augment mixup=0.5 --only a", "bench quick=True mixup=0.5 only=a"),
    ("train a=1 lr0=-1 amp=True close_mosaic=5", "train --a 1 --lr0 -1 --amp --close-mosaic=5"),
    ("train yolodata.codec=jpeg amp=False b=2", "train --yolodata.codec jpeg --amp False b=2"),
]


@pytest.mark.parametrize(("line", "other"), SAME)
def test_flags_and_names_are_the_same(line: str, other: str) -> None:
    assert parsed(line) == parsed(other)


def test_what_differs_is_not_the_same() -> None:
    assert parsed("shard a b --imgsz 32") != parsed("shard a b imgsz=64")
    assert parsed("bench train amp=True") != parsed("bench train amp=False")
    assert parsed("shard a b overwrite=True") != parsed("shard a b overwrite=False")


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
    ],
)
def test_a_full_disk_is_no_traceback(
    error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(words: list[str]) -> int:
        raise error

    monkeypatch.setattr(cli, "_run", fail)
    assert cli.main(["train"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("yolodata: the disk is full, or a quota is used up; make room")
    assert str(error) in said


MISTAKES = [
    ("shrad a b", "there is no command 'shrad' (did you mean 'shard'?)"),
    ("shard '' out", "SOURCE is empty; give a value"),
    ("shard a out=", "OUT is empty; give a value"),
    ("zzz", "there is no command 'zzz'; there are shard, verify"),
    ("version --full", "`yolodata version` takes nothing, got '--full'"),
    ("--quick bench", "there is no command '--quick'"),
    ("help shrad", "did you mean 'shard'?"),
    ("shard", "`yolodata shard` needs SOURCE OUT, got none"),
    ("shard a", "`yolodata shard` needs SOURCE OUT, got a"),
    ("shard a b c", "`yolodata shard` does not know 'c'"),
    ("shard a b imgz=32", "`yolodata shard` has no setting 'imgz' (did you mean 'imgsz'?)"),
    ("shard a b --imgz 32", "`yolodata shard` has no setting 'imgz' (did you mean 'imgsz'?)"),
    ("shard a run=1", "has no setting 'run'; a file of this name is written ./run=1"),
    ("shard a b imgsz=x", "--imgsz must be a whole number, got 'x'"),
    ("shard a b --imgsz", "--imgsz must have a value, got none"),
    ("shard a b --imgsz --quiet", "--imgsz must have a value, got none"),
    ("shard a b codec=jpg", "must be one of raw, jpeg, auto, got 'jpg' (did you mean 'jpeg'?)"),
    ("shard a b quiet=maybe", "--quiet must be True or False, got 'maybe'"),
    ("bench trian", "what must be one of loader, train, got 'trian' (did you mean 'train'?)"),
    ("bench hw_decoder_load=half", "hw_decoder_load must be 'auto' or a share"),
    ("bench seconds=long", "--seconds must be a number, got 'long'"),
    ("view a mosiac=0", "has no setting 'mosiac' (did you mean 'mosaic'?)"),
    ("train", "`yolodata train` needs NAME=VALUE, got none"),
    ("train yolo26n.yaml", "arguments must be NAME=VALUE, flags NAME=True, got 'yolo26n.yaml'"),
    ("cache", "`yolodata cache` needs ls|clean, got none"),
    ("cache sl", "ls|clean must be one of ls, clean, got 'sl'"),
    ("val best.pt", "arguments must be NAME=VALUE, flags NAME=True, got 'best.pt'"),
    ("verify nothere", "nothere: is not there"),
    ("info nothere", "nothere: is not there"),
    ("info .", ".: holds no dataset"),
]


@pytest.mark.parametrize(("line", "said"), MISTAKES)
def test_a_mistake_has_one_prefix_and_one_status(
    line: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(shlex.split(line)) == 2
    shown = capsys.readouterr()
    assert shown.err.startswith("yolodata: ")
    assert said in shown.err
    assert shown.out == ""


def test_what_has_no_end_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The path in a YAML, on one line; and whatever else an error may quote."""
    lines = "a/b\n" * 300
    (tmp_path / "data.yaml").write_text(json.dumps({"train": lines, "val": lines, "names": ["a"]}))
    assert main(["shard", str(tmp_path / "data.yaml"), str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "a/b\\na/b\\n" in said
    assert "correct the YAML" in said
    for quoted in ("a\n" * 300, "a" * 90_000):

        def fail(_: object, quoted: str = quoted) -> None:
            raise ConfigError(f"this is wrong: {quoted}")

        monkeypatch.setattr(cli, "_run", fail)
        assert main(["info", "."]) == 2
        said = capsys.readouterr().err
        assert said.startswith("yolodata: this is wrong: a")
        assert said.endswith(" …\n")
        assert said.count("\n") < 50
        assert len(said) < 9000


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("-m yolodata shard a b imgz=3", "did you mean 'imgsz'?"),
        ("-m yolodata.bench roundz=3", "did you mean 'rounds'?"),
        ("-m yolodata.train yolo26n.yaml", "NAME=VALUE"),
    ],
)
def test_every_entrance_says_it_alike(command: str, said: str) -> None:
    done = subprocess.run([sys.executable, *command.split()], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("yolodata: ")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("command", ["version", "settings"])  # fits a buffer, does not
def test_output_that_nobody_takes(command: str, unbuffered: str) -> None:
    """A reader that has gone is no mistake, a disk that is full is one; neither is a traceback."""
    line = [sys.executable, "-m", "yolodata", command]
    environment = {**os.environ, "PYTHONUNBUFFERED": unbuffered}
    reads, writes = os.pipe()
    os.close(reads)
    with open(writes, "wb") as gone, open("/dev/full", "wb") as full:
        for stdout, status, said in [(gone, 0, ""), (full, 2, "No space left on device")]:
            done = subprocess.run(
                line, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment
            )
            assert done.returncode == status, done.stderr
            assert said in done.stderr
            assert done.stderr.count("\n") == (status != 0)


def test_an_interruption_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from yolodata.ingest import packing

    def interrupted(*args: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(packing, "pack", interrupted)
    monkeypatch.setattr("yolodata.view.run", interrupted)
    assert cli.main(["shard", "here", "there"]) == 130
    assert capsys.readouterr().err == "yolodata: interrupted; the same command continues\n"
    assert cli.main(["view", "here", "--out", "look.png"]) == 130
    assert capsys.readouterr().err == "yolodata: interrupted\n"


def test_the_bare_name_says_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["help"], ["--help"], ["-h"]):
        assert main(words) == 0
        shown = capsys.readouterr()
        assert shown.out == overview()
        assert shown.err == ""
    assert [line.split()[0] for line in overview().splitlines()[2:] if line.startswith("  ")] == [
        *COMMANDS
    ]
    for words in (["version"], ["--version"], ["-V"]):
        assert main(words) == 0
        assert capsys.readouterr().out == f"yolodata {__version__}\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_options_are_of_the_kinds_that_words_are_sorted_by(command: str) -> None:
    """An option of two values, say, would need another way to sort words."""
    for action in parser_of(command)._actions:
        if action.option_strings:
            assert action.nargs in (None, 0), action.option_strings


def test_names_of_an_option_do_not_hide_others() -> None:
    parser = Parser(prog="x")
    parser.add_argument("--size", type=int)
    parser.add_argument("--set", action=NamesAndValues, names={"size", "colour"}, help="")
    assert parser.parse_args(["size=3", "colour=red"]) == argparse.Namespace(
        size=3, set={"colour": "red"}
    )
