"""benchmarks/gpu: the visit to a GPU machine, on machines without one."""

from __future__ import annotations

import argparse
import fnmatch
import importlib.util
import itertools
import json
import os
import re
import runpy
import shlex
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from training import network

from yolodata.bench import rows
from yolodata.bench.subject import Row
from yolodata.cli import parser_of

pytestmark = pytest.mark.early

ROOT = Path(__file__).resolve().parent.parent
GPU = ROOT / "benchmarks" / "gpu"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", GPU / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def visit(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(GPU / "visit.sh"), *arguments],
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
             **environment},
        capture_output=True, text=True, check=False, timeout=900,
    )  # fmt: skip


@pytest.fixture(scope="module")
def stages() -> dict[str, list[str]]:
    """What each stage would run on a GPU."""
    done = visit("--list")
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    return {words[0]: words[1:] for words in lines}


# What the script names is there, also in stages that no rehearsal on a CPU reaches.


def test_the_order_is_that_of_value(stages: dict[str, list[str]]) -> None:
    order = list(stages)
    assert order[0] == "smoke"
    assert order.index("tests") < order.index("probe") < order.index("raw") < order.index("few")
    assert order[-1] == "train-n"  # settled: by itself against a batch that never changes
    own, others = stages["raw"], stages["peers"]
    assert not any("ultralytics" in word for word in own)  # a bus error there costs no row of ours
    assert any("ultralytics" in word for word in others)


def test_files_and_modules_exist(stages: dict[str, list[str]]) -> None:
    for words in stages.values():
        for word in words:
            if word.endswith(".py"):
                assert (ROOT / word).is_file(), word
        for option, value in itertools.pairwise(words):
            if option == "-m" and value not in ("gpu",):
                assert importlib.util.find_spec(value) is not None, value
            if option == "--model":
                found = importlib.util.find_spec("ultralytics")
                models = Path(str(found and found.origin)).parent / "cfg" / "models"
                name = re.sub(r"(?<=\d)[nsmlx](?=\.)", "", value)  # the size is a suffix
                assert list(models.rglob(name)), value


def test_rows_and_arguments_exist(stages: dict[str, list[str]]) -> None:
    loaders = [row.id for row in rows.gpu_rows(16)]
    trained = [row.id for row in rows.train_rows([16, 2], "cuda")]
    seen = 0
    for words in stages.values():
        if "yolodata.bench" not in words:
            continue
        mine = words[words.index("yolodata.bench") + 1 :]
        args = parser_of("bench").parse_args(mine)
        names = trained if args.what == "train" else loaders
        for pattern in args.only:
            assert any(fnmatch.fnmatchcase(name, pattern) for name in names), pattern
            seen += 1
        if args.model == "yolo26m.yaml":
            assert args.batch <= 64  # 128 pictures take 76 GB
        assert float(args.start_limit) < float(words[0])  # seconds of the stage
    assert seen > 15


def test_scripts_take_their_arguments(stages: dict[str, list[str]], monkeypatch: Any) -> None:
    scripts = {"ncu": "probe", "probe": "probe", "decode": "decode", "memory": "memory",
               "resume-bf16": "training", "ddp": "training", "oom": "training"}  # fmt: skip
    for stage, name in scripts.items():
        rest = stages[stage]
        arguments = rest[next(i for i, w in enumerate(rest) if w.endswith(f"{name}.py")) + 1 :]
        module, seen = script(name), []
        parse = argparse.ArgumentParser.parse_args

        class Parsed(Exception):
            """Enough."""

        def keep(self: Any, *args: Any, seen: Any = seen, done: Any = Parsed) -> Any:
            seen.append(parse(self, *args))
            raise done

        with monkeypatch.context() as patch:
            patch.setattr(argparse.ArgumentParser, "parse_args", keep)
            with pytest.raises(Parsed):
                module.main(arguments)
        assert seen


def test_the_kernel_that_ncu_waits_for_is_the_renderer_s(stages: dict[str, list[str]]) -> None:
    (pattern,) = (w.removeprefix("regex:") for w in stages["ncu"] if w.startswith("regex:"))
    source = (ROOT / "csrc" / "render" / "cuda.cu").read_text()
    source = re.sub(r"__launch_bounds__\(([^()]|\([^()]*\))*\)", "", source)
    kernels = re.findall(r"__global__\s+void\s+(\w+)\(", source)
    assert any(re.search(pattern, kernel) for kernel in kernels), kernels


def test_gpu_tests_are_found_by_their_mark(stages: dict[str, list[str]]) -> None:
    """Each of them by exactly one stage, of which none looks for nothing."""
    stage_of = {
        "tests": "not train and not memory_is_freed",
        "trains": "train and not memory_is_freed",
        "freed": "memory_is_freed",
    }
    for stage, expression in stage_of.items():
        assert f" {expression} " in f" {' '.join(stages[stage])} "
    marked = []
    for file in sorted((ROOT / "tests").glob("test_*.py")):
        text = file.read_text()
        whole = re.search(r"^pytestmark = pytest\.mark\.gpu$", text, re.MULTILINE)
        before = r"" if whole else r"@pytest\.mark\.gpu\n(?:@.*\n|    .*\n|\).*\n)*"
        marked += [f"{file.stem}::{name}" for name in re.findall(before + r"def (test_\w+)", text)]
    assert len(marked) > 10
    assert any("train" in name for name in marked)
    assert any("memory_is_freed" in name for name in marked)
    assert not all("train" in name or "memory_is_freed" in name for name in marked)


def test_wrong_arguments_are_refused() -> None:
    for arguments, said in ((("polish",), "no stage polish"), (("--fast",), "no option --fast"),
                            (("--files", "2"), "at least 3")):  # fmt: skip
        done = visit(*arguments)
        assert done.returncode == 2
        assert said in done.stderr


def test_shell_is_sound() -> None:
    checker = shutil.which("shellcheck")
    command_line = [checker, "-S", "warning"] if checker else ["bash", "-n"]
    done = subprocess.run([*command_line, str(GPU / "visit.sh")], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# The script itself, in small.


def path_with(folder: Path, case: str) -> str:
    """A PATH on which python3 does something else in some cases."""
    folder.mkdir()
    fake = folder / "python3"
    fake.write_text(
        f'#!/bin/sh\ncase "$*" in {case};; esac\nexec {shlex.quote(sys.executable)} "$@"\n'
    )
    fake.chmod(0o755)
    return f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"


IMPORTED = '-|"-c import sys, torch"*) exit 0'
"""What is looked for first is there: it takes seconds to import."""


def test_the_visit_in_small(tmp_path: Path) -> None:
    """A stage that fails fails the script, and stops no other; a second call goes on."""
    broken = path_with(tmp_path / "bin", "*small_render*) echo broken; exit 3")
    where = ["--cpu", "--kit", str(tmp_path / "none"), "--work", str(tmp_path / "work")]
    some = ["smoke", "data", "probe"]
    others = tmp_path / "work" / "results" / "gpu-raw.json"  # as if more stages had been run
    others.parent.mkdir(parents=True)
    others.write_text("{}")
    done = visit(*where, *some, PATH=broken)
    assert done.returncode == 1, done.stdout + done.stderr
    out = tmp_path / "work" / "out"
    assert "broken" in (out / "logs.txt").read_text()
    report = (out / "report.txt").read_text()
    assert re.search(r"^smoke +FAILED with status 3", report, re.MULTILINE)
    for name in some[1:]:
        assert re.search(rf"^{name} +passed in", report, re.MULTILINE), report
    assert sorted(file.name for file in out.iterdir()) == [
        "gpu-kernel.json", "gpu-raw.json", "logs.txt", "report.txt",
    ]  # fmt: skip
    kernel = json.loads((out / "gpu-kernel.json").read_text())
    assert kernel["machine"]["cpu"]
    assert kernel["versions"]["torch"]
    assert [row["name"] for row in kernel["rows"]] == list(script("probe").ROWS)
    assert "| kernel alone, bfloat16 |" in report
    done = visit(*where, "--files", "3", *some, PATH=path_with(tmp_path / "again", IMPORTED))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "probe: passed" not in done.stdout  # it has passed before
    assert re.search(r"smoke +passed", (out / "report.txt").read_text())
    together = json.loads((out / "results.json").read_text())
    assert set(together) == {"gpu-kernel.json", "gpu-raw.json"}
    assert len(list(out.iterdir())) == 3


def test_a_budget_that_is_used_up_stops_stages(tmp_path: Path) -> None:
    done = visit("--cpu", "--kit", str(tmp_path), "--work", str(tmp_path / "work"),
                 "--budget", "1", "smoke", PATH=path_with(tmp_path / "bin", IMPORTED))  # fmt: skip
    assert "no time left" in (tmp_path / "work" / "out" / "report.txt").read_text()
    assert done.returncode == 0


# Its parts.


def test_small_pictures_are_those_of_the_cpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["small_render.py", "--device", "cpu"])
    with pytest.raises(SystemExit) as done:
        runpy.run_path(str(ROOT / "benchmarks" / "small_render.py"), run_name="__main__")
    assert done.value.code == 0
    # Two batches of six outputs, and five sizes of nine filters.
    assert capsys.readouterr().out.count(": equal") == 2 * 6 + 5 * 9


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from yolodata.bench import data

    folder = tmp_path_factory.mktemp("drawn") / "data"
    wanted = data.Wanted(None, 4, 8, 64, 0)
    data.prepare(wanted, folder, {"files", "raw", "raw-many", "jpeg"}, lambda _: None)
    return folder


def test_a_row_that_fails_stops_no_other(
    drawn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    probe, out = script("probe"), tmp_path / "out.json"
    make = probe.make

    def refuse(row: Row, task: Any) -> Any:
        if row.id == "gpu-copy-host":
            raise RuntimeError("no page-locked memory")
        return make(row, task)

    monkeypatch.setattr(probe, "make", refuse)
    some = ["--only", "gpu-copy-device", "gpu-copy-host", "gpu-kernel-segment"]
    small = ["--device", "cpu", "--imgsz", "64", "--batch", "2", "--rounds", "1"]
    assert probe.main([str(drawn / "raw" / "train"), str(out), *small, *some]) == 1
    values = json.loads(out.read_text())
    assert [("error" in row) for row in values["rows"]] == [False, True, False]
    assert values["rows"][2]["of_copy"] > 0


def test_photographs_are_decoded_in_every_way(
    drawn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nvidia.dali")
    decode, out = script("decode"), tmp_path / "out.json"
    pictures = drawn / "set" / "images"
    assert decode.main([str(pictures), str(drawn / "jpeg/train"), str(out), "--device", "cpu"]) == 0
    values = json.loads(out.read_text())
    (bits,) = values["bits"]
    assert bits["same_in_other_batches"] == dict.fromkeys(decode.WAYS, bits["files"])
    assert bits["largest_from_opencv"] == 0
    assert values["other_bits"] == []
    assert values["speeds"][0]["img_s"] > 0
    assert values["complete"]
    assert sum(values["subsampling"].values()) == bits["files"]
    capsys.readouterr()
    assert decode.main([str(tmp_path), str(drawn / "jpeg/train"), str(out), "--device", "cpu"]) == 0
    assert "no photographs" in capsys.readouterr().out


def test_other_bits_are_named(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where neighbours decide about a picture."""
    decode = script("decode")

    def fake(files: Any, device: str, load: float, batch: int, order: Any) -> Any:
        made = [np.full((2, 2, 3), int(load == 1.0), np.uint8) for _ in files]
        if load == 1.0 and batch == 5:
            made[1] = np.zeros((2, 2, 3), np.uint8)
        return made, 0

    monkeypatch.setattr(decode, "decoded", fake)
    monkeypatch.setattr(decode, "decode_image", lambda *_: np.zeros((2, 2, 3), np.uint8))
    paths = sorted((drawn / "set" / "images").rglob("*.jpg"))
    document: dict[str, Any] = {"bits": [], "other_bits": []}
    decode.compare(paths, "cuda", document, lambda: None)
    (odd,) = document["other_bits"]
    assert odd["file"] == paths[1].name
    assert odd["other_bits"] == ["in batches of 5 (CUDA's)"]
    assert odd["subsampling"] in ("4:2:0", "4:4:4", "4:2:2")
    assert document["engine_as_cuda"] == 1 - 1


def test_memory_is_read_part_by_part(drawn: Path, tmp_path: Path) -> None:
    memory, out = script("memory"), tmp_path / "out.json"
    folders = [str(drawn / "raw-many" / "train"), str(drawn / "jpeg" / "train"), str(out)]
    small = ["--device", "cpu", "--batch", "2", "--model", network(classes=80)]
    assert memory.main([*folders, *small]) == 0
    parts = json.loads(out.read_text())["parts"]
    assert len(parts) == 4 + 1 + 6
    assert all("host" in part for part in parts)


def test_where_memory_ends_the_batch_is_halved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    training = script("training")
    assert training.main(["oom", str(tmp_path / "oom"), "--device", "cpu"]) == 0
    assert "going on with batch=2" in capsys.readouterr().out


def test_ranks_are_compared_with_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What tests/test_train_ranks.py shows of real ones is not repeated: runs are made up here."""
    import torch

    training = script("training")
    wrong: dict[str, float] = {}

    class Made(training.Run):
        def __init__(self, folder: Path, name: str, *_: Any) -> None:
            self.name, self.notes, self.log = name, folder / name, folder / f"{name}.log"
            self.notes.mkdir(parents=True)
            for rank in range(2):
                loss = 1.0 + wrong.get(f"{name}-{rank}", 0.0)
                line = json.dumps({"batch": 4, "loss": {"box": loss}})
                (self.notes / f"{rank}.jsonl").write_text(line)
                torch.save({"w": torch.tensor([loss])}, self.notes / f"{rank}.pt")
            self.log.write_text("")

        def wait_for(self, text: str) -> bool:
            return True

        def end(self) -> int:
            return 0

    monkeypatch.setattr(training, "Run", Made)
    monkeypatch.setattr(training, "arguments_of", lambda args, **_: ["device=0"])
    args = argparse.Namespace(device="cuda", folder=tmp_path / "right")
    assert training.ddp(args)
    for case, rank in (("alone", "alone-0"), ("two", "two-1")):
        wrong = {rank: 0.01}
        args.folder = tmp_path / case
        assert not training.ddp(args)


def test_a_library_keeps_the_gpu_that_is_there(tmp_path: Path) -> None:
    kit = script("kit")
    code = {80: b"A" * 32, 90: b"B" * 32}
    entries = b"".join(
        struct.pack("<HHIQ12xI32x", 2, 0, 64, len(payload), arch) + payload
        for arch, payload in code.items()
    )
    data = bytearray(struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(entries)) + entries)
    found = list(kit.fat_entries(data, 0, len(data)))
    assert [(kind, arch) for kind, arch, *_ in found] == [(2, 80), (2, 90)]
    for (_, _, at, size), payload in zip(found, code.values(), strict=True):
        assert data[at : at + size] == payload


def test_the_kit_s_arguments() -> None:
    kit = script("kit")
    args = kit.parser().parse_args([])
    assert (args.limit_mib, args.python, args.arch, args.dali) == (64.0, "3.12", 90, "cuda13")
    assert any("cuda120" in name for name in kit.DALI["cuda12"])
    assert kit.DALI["none"] == []
    with pytest.raises(SystemExit, match="is no commit"):
        kit.main(["--also", "no-such-commit"])
    with pytest.raises(SystemExit, match=r"data\.yaml"):
        kit.main(["--data", str(GPU)])


def test_a_kit_of_other_sources_is_told(tmp_path: Path) -> None:
    for part in ("csrc/core", "yolodata/dali", "benchmarks/gpu"):
        shutil.copytree(ROOT / part, tmp_path / part)
    shutil.copyfile(ROOT / "setup.py", tmp_path / "setup.py")

    def hashed() -> str:
        script = str(tmp_path / "benchmarks" / "gpu" / "visit.sh")
        done = subprocess.run(
            ["bash", script, "--sources"], capture_output=True, text=True, check=True
        )
        return done.stdout

    before = hashed()
    assert hashed() == before
    header = next((tmp_path / "csrc" / "core").glob("*.h"))
    header.write_text(header.read_text() + "\n")
    assert hashed() != before
    assert len(script("kit").sources().split()[0]) == 64


def test_the_kit_knows_what_a_second_core_needs() -> None:
    from yolodata import _native

    kit = script("kit")
    assert all(hasattr(_native, name) for name in kit.INTERFACE)
    used = (ROOT / "yolodata" / "bench" / "kernel.py").read_text()
    for name in set(re.findall(r"_native\.(\w+)", used)):
        assert name in kit.INTERFACE, name


# What is published of it.


def test_published_results_become_tables(tmp_path: Path) -> None:
    tables = runpy.run_path(str(ROOT / "benchmarks" / "tables.py"))
    made = {
        file.name: tables["markdown"](file)
        for file in sorted((ROOT / "benchmarks" / "results").glob("gpu-*.json"))
    }
    assert len(made) >= 4
    for name, text in made.items():
        assert text is not None, name
        assert "driver" in text, name
        assert "commit" in text, name
    half = tmp_path / "half.json"
    values = json.loads((ROOT / "benchmarks" / "results" / "gpu-train-n.json").read_text())
    half.write_text(
        json.dumps(values | {"complete": False, "settings": values["settings"] | {"rounds": 9}})
    )
    assert "stopped after 5 of 9 rounds" in tables["markdown"](half)


def test_a_visit_looks_for_all_that_is_needed() -> None:
    """A dependency that the kit's author forgot would end half of the stages."""
    modules = {"opencv-python": "cv2", "pillow": "PIL", "pyyaml": "yaml"}
    # The last is imported where metrics are served, which a visit does not.
    optional = {"nvidia-dali-cuda120", "nvidia-ml-py", "prometheus-client"}
    text = (ROOT / "pyproject.toml").read_text()
    listed = re.search(r"^dependencies = \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert listed is not None
    needed = set(re.findall(r'"([\w-]+)', listed[1])) - optional
    looked = re.search(
        r"^needed = \[(.*?)\]", (GPU / "visit.sh").read_text(), re.MULTILINE | re.DOTALL
    )
    assert looked is not None
    assert {modules.get(name, name) for name in needed} <= set(re.findall(r'"(\w+)"', looked[1]))
