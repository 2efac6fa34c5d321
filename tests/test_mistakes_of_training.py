"""What cannot be trained is said at once, in one message, and leaves no folder behind."""

from __future__ import annotations

import errno
import fcntl
import importlib.util
import os
import re
import sys
import zlib
from dataclasses import fields
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from loading import draw_dataset, packed
from test_ultralytics import (  # noqa: F401 - the fixture is used by its being here
    QUIET,
    _where_torchvision_cannot_be_imported,
)
from training import TINY
from ultralytics.cfg import get_save_dir

import yolodata
from yolodata.cli import main
from yolodata.errors import ConfigError
from yolodata.train import trainer_for
from yolodata.train.distributed.process_group import ProcessGroup
from yolodata.ultralytics import run_folder
from yolodata.ultralytics.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
RTDETR = """
nc: 3
backbone:
  - [-1, 1, Conv, [16, 3, 2]]
  - [-1, 1, Conv, [32, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
  - [-1, 1, Conv, [64, 3, 2]]
head:
  - [[2, 3, 4], 1, RTDETRDecoder, [nc, 64, 10, 2, 4, 1]]
"""
FAMILIES = {
    "rt.yaml": "RTDETRTrainer",
    "yolov8s-world.yaml": "WorldTrainer",
    "yoloe-26n.yaml": "YOLOETrainer",
    "yoloe-11s-seg.yaml": "YOLOESegTrainer",
    "yoloe.pt": "YOLOETrainer",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small networks, and a dataset that nobody packed."""
    root = tmp_path_factory.mktemp("start")
    draw_dataset(root / "set", {"train": 6, "val": 3}, sides=(48, 65))
    (root / "tiny.yaml").write_text(TINY)
    (root / "rt.yaml").write_text(RTDETR)
    (root / "torn.pt").write_bytes(b"torn")
    torch.save({"model": torch.nn.Identity()}, root / "foreign.pt")
    (root / "coco.json").write_text("{}")
    (root / "list.yaml").write_text("[]")
    (root / "broken.yaml").write_text("nc: [1,")
    return root


@pytest.fixture(autouse=True)
def _in_folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)


def given(folder: Path, **values: Any) -> dict[str, Any]:
    named = {"model": "tiny.yaml", "data": str(folder / "set" / "data.yaml"), "epochs": 1}
    return {**QUIET, **named, "exist_ok": False, "project": str(folder / "runs"), **values}


def words(folder: Path, *changed: str) -> list[str]:
    return ["train", *(f"{name}={value}" for name, value in given(folder).items()), *changed]


@pytest.mark.parametrize("model", FAMILIES)
def test_other_families_are_upstreams(
    folder: Path, tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, with one warning; nothing is packed."""
    from ultralytics import YOLO
    from ultralytics.utils import LOGGER

    said: list[str] = []
    monkeypatch.setattr(LOGGER, "warning", said.append)
    if model.endswith(".pt"):
        YOLO("yoloe-26n.yaml").save(folder / model)
    task = "segment" if "seg" in model else "detect"
    for kind in (yolodata.DetectionTrainer, trainer_for(task)):
        made = kind(overrides=given(folder, model=model, task=task, project=str(tmp_path)))
        assert type(made).__name__ == FAMILIES[model]
        assert type(made).__module__.startswith("ultralytics.")
    assert sum("Ultralytics' own trainer" in text for text in said) == 2
    assert not list(folder.glob("*.yolodata"))


def test_rtdetr_trains(folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    how = ["model=rt.yaml", f"project={tmp_path}", "name=run", "epochs=1"]
    assert main(words(folder, *how)) == 0
    assert (tmp_path / "run" / "weights" / "last.pt").is_file()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ("model=sam_b.pt", "is SAM, which Ultralytics predicts with"),
        ("model=FastSAM-s.pt", "is FastSAM, which Ultralytics predicts with"),
        ("model=yolo_nas_s.pt", "is YOLO-NAS, which Ultralytics predicts with"),
        ("model=set/data.yaml", "model=set/data.yaml cannot be read"),
        ("model=foreign.pt", "model=foreign.pt cannot be read: it holds Identity, no network"),
        ("model=list.yaml", "model=list.yaml cannot be read: 'list.yaml' is not a valid YAML"),
        ("model=broken.yaml", "model=broken.yaml cannot be read: YAML syntax error"),
        ("device=0", "Invalid CUDA 'device=0' requested"),
        ("device=cuda:0", "Invalid CUDA 'device=0' requested"),
        ("device=0,1", "device=0,1 names GPUs that torch does not find"),
        ("device=[0,1]", "names GPUs that torch does not find"),
        ("device=-1,-1", "names GPUs that torch does not find"),
        ("device=cpu,cpu", "Invalid CUDA 'device=cpu,cpu' requested"),
        ("device=tpu", "device must be cpu, mps or GPUs"),
        ("task=[1]", "task must be one of detect, segment, pose, obb, classify, semantic, depth"),
        ("data=2024", "data must be a YAML file or a folder, got 2024; a folder of this name is"),
        ("cfg=1000", "1000 acceptable suffix is ('.yaml', '.yml')"),
        ("seed=4294967296", "seed must be 0 to 2**32 - 1, got 4294967296"),
        ("imgsz=64.5", "'imgsz=64.5' is of invalid type float"),
        ("imgsz=[None]", "imgsz must be numbers of pixels, got [None]"),
        ("batch=2.5", "batch must be a whole number of images"),
        ("classes=[7]", "classes=[7] names [7], which the dataset does not have"),
        ("degrees=-10", "degrees must be 0 to 360, got -10"),
        ("copy_paste_mode=nope", "copy_paste_mode must be one of flip, mixup"),
        ("split=test", "'test:' images not found"),
        ("data=coco.json", "pack it first: yolodata shard coco.json coco.shards, and give data="),
        ("mode=val", "mode must be train"),
        ("epochs=", "epochs must have a value"),
        ("cfg=nothere.yaml", "'nothere.yaml' does not exist"),
        ("model=yolo26n-pose.yaml", "yolodata: No `kpt_shape` in the "),
        ("yolodata=jpeg", "yolodata must be settings by name"),
        ("pretrained=tiny.yaml", "acceptable suffix is {'.pt'}"),
        ("pretrained=torn.pt", "the weights torn.pt cannot be read"),
        ("distill_model=torn.pt", "the weights torn.pt cannot be read"),
        ("distill_model=nothere.pt", "nothere.pt"),
        ("distill_model=1.5", "distill_model must be the .pt file of a teacher, got 1.5"),
        ("optimizer=Lion", "Optimizer 'Lion' not found in list of available optimizers"),
        ("amp=bf16", "bfloat16 autocast requires CUDA"),
        ("freeze=100", "'freeze=100' froze the entire model"),
        ("quantize=8", "quantize=8 needs the package nvidia-modelopt"),
        ("yolodata.callbacks=no.py", "yolodata.callbacks must be a Python file that is there"),
        ("name=Bob's", "Bob's has a ' in its path, and Ultralytics reads no weights"),
        ("name=why?", "runs/why? has a ? in its path"),
        ("data=\udcff.yaml", r"data must be UTF-8, which Ultralytics' files are written in"),
        ("project=/dev/null", "/dev/null/train cannot be made (/dev/null: File exists)"),
    ],
)
def test_one_message_and_no_folder(
    folder: Path, wrong: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if "device" in wrong and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    assert main(words(folder, wrong)) == 2
    assert said in capsys.readouterr().err
    assert not (folder / "runs").exists()
    assert not list(folder.glob("*.yolodata"))


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"optimizer": "Lion"}, "'Lion' not found"),
        ({"amp": "bf16"}, "bfloat16 autocast"),
        ({"quantize": 8}, "nvidia-modelopt"),
        ({"data": "\udcff.shards"}, "data must be UTF-8"),
        ({"name": "\udcff"}, "path of the run folder must be UTF-8"),
    ],
)
def test_what_upstream_refuses_late_is_refused_before_packing(
    folder: Path, wrong: dict[str, Any], said: str
) -> None:
    for kind in (yolodata.DetectionTrainer, trainer_for("detect")):
        with pytest.raises((NotImplementedError, RuntimeError, ConfigError), match=said):
            kind(overrides=given(folder, **wrong))
        kind(overrides=given(folder, exist_ok=True, name="right"))
        seeded = torch.get_rng_state()
        kind(overrides=given(folder, exist_ok=True, name="right", optimizer="auto"))
        assert torch.equal(torch.get_rng_state(), seeded)  # nothing was drawn to find it out
    assert not list(folder.glob("*.yolodata"))


def test_a_start_that_is_refused_last_leaves_the_run_before_as_it_was(
    folder: Path, tmp_path: Path
) -> None:
    """`profile` is compared with the run's steps when all is ready."""
    values = given(folder, exist_ok=True, name="again", epochs=1, batch=2)
    run = Path(values["project"]) / "again"
    run.mkdir(parents=True)
    before = {"results.csv": "epoch\n1\n", "args.yaml": "epochs: 7\n"}
    for name, text in before.items():
        (run / name).write_text(text)
    for kind in (yolodata.DetectionTrainer, trainer_for("detect")):
        with pytest.raises(ConfigError, match="profile must be steps from 1 to"):
            kind.configure(profile="1000-1001", folder=str(tmp_path))(
                overrides=dict(values)
            ).train()
        assert {file.name: file.read_text() for file in run.iterdir() if file.is_file()} == before


def test_a_batch_that_ranks_cannot_share_is_refused_before_packing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.distributed import HashStore

    ranks = ProcessGroup(size=2, local_size=2, store=HashStore())
    monkeypatch.setattr(ProcessGroup, "join", lambda: ranks)
    for batch, said in (
        (3, "multiple of 2, .*; give batch=2"),
        (1, "multiple of 2, .*; give batch=2"),
        (7, "multiple of 2, .*; give batch=6"),
        (-1, "one process that nothing has launched; .* batch=16"),
    ):
        with pytest.raises(ConfigError, match=said):
            trainer_for("detect")(
                overrides=given(folder, batch=batch, project=str(tmp_path / "runs"))
            )
    assert not list(folder.glob("*.yolodata"))
    assert not (tmp_path / "runs").exists()


def test_an_optimizer_of_ones_own_is_asked_for(folder: Path) -> None:
    class Own(yolodata.DetectionTrainer):
        def build_optimizer(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError

    made = Own(overrides=given(folder, optimizer="Lion", exist_ok=True, name="own"))
    assert made.args.optimizer == "Lion"


OF_A_RUN = {
    "args.yaml": "epochs: 7\n",
    "yolodata.yaml": "codec: jpeg\n",
    "results.csv": "epoch\n1\n",
}


@pytest.fixture
def ran(tmp_path: Path) -> Path:
    """The folder of a run that somebody has made."""
    run = tmp_path / "m"
    run.mkdir()
    for name, text in OF_A_RUN.items():
        (run / name).write_text(text)
    return run


@pytest.mark.parametrize("again", ["resume=auto", "exist_ok=True"])
@pytest.mark.parametrize("full", ["copies", "args.yaml", "yolodata.yaml"])
def test_a_full_disk_takes_nothing_of_a_run(
    folder: Path,
    ran: Path,
    full: str,
    again: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also where there is room for the copies, and not for what comes next."""
    from ultralytics.engine import trainer

    no_room = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def save(file: Path, *args: Any, **kwargs: Any) -> None:
        with open(file, "w") as opened:
            opened.write("task: det")
            raise no_room

    def replace(folder: Any, name: str, *args: Any, **kwargs: Any) -> None:
        if name.endswith(".before") == (full == "copies"):
            raise no_room
        replaced(folder, name, *args, **kwargs)

    replaced = run_folder.Folder.replace
    if full == "args.yaml":
        monkeypatch.setattr(trainer.YAML, "save", save)
    else:
        monkeypatch.setattr(run_folder.Folder, "replace", replace)
    assert main(words(folder, f"project={ran.parent}", "name=m", again)) == 2
    said = capsys.readouterr().err
    assert "cannot be written: No space left on device; make room" in said
    assert "Traceback" not in said
    assert {path.name: path.read_text() for path in ran.iterdir() if path.is_file()} == OF_A_RUN


def test_what_was_brought_from_elsewhere_is_kept_too(
    folder: Path, ran: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that is refused leaves the table that came with a later checkpoint."""
    from yolodata.train.checkpoint import run_folder as of_checkpoints

    def bring(run: Path, url: str | None) -> None:
        of_checkpoints._remove_left(run)
        (run / "results.csv").write_text("epoch\n1\n2\n")

    monkeypatch.setattr(of_checkpoints, "find_newest", bring)
    values = given(folder, save_dir=str(ran), resume="auto", classes=[7])
    with pytest.raises(ConfigError, match=r"names \[7\]"):
        trainer_for("detect")(overrides=values)
    assert (ran / "results.csv").read_text() == "epoch\n1\n2\n"
    assert (ran / "args.yaml").read_text() == OF_A_RUN["args.yaml"]
    assert not list(ran.glob(".*"))


@pytest.mark.parametrize("kind", ["plain", "durable"])
def test_a_start_that_is_refused_takes_nothing_of_a_run(
    folder: Path, ran: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = yolodata.DetectionTrainer if kind == "plain" else trainer_for("detect")
    with pytest.raises(ConfigError, match="names \\[7\\]"):
        made(overrides=given(folder, save_dir=str(ran), classes=[7]))
    assert {path.name: path.read_text() for path in ran.iterdir() if path.is_file()} == OF_A_RUN

    run = made(overrides=given(folder, save_dir=str(ran)))
    assert not (ran / "results.csv").exists()
    assert len(list(ran.glob(".*.before"))) == len(OF_A_RUN)
    (ran / "args.yaml").write_text("")  # and a kill, after which the next one puts back
    run_folder._locked.pop(ran).close()
    run._run_folder._copied = False
    run = made(overrides=given(folder, save_dir=str(ran)))
    monkeypatch.setattr(type(run), "_setup_train", lambda self: 1 // 0)
    with pytest.raises(ZeroDivisionError):
        run.train()
    assert {path.name: path.read_text() for path in ran.iterdir() if path.is_file()} == OF_A_RUN

    run = made(overrides=given(folder, save_dir=str(ran)))
    run._run_folder.begin()
    assert not list(ran.glob(".*"))
    assert "epochs: 1\n" in (ran / "args.yaml").read_text()
    run._run_folder.close()


def test_runs_that_start_at_once_get_a_folder_each(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Path] = []

    def found_at_once(args: Any) -> Path:
        found.append(get_save_dir(args))
        if len(found) == 1:
            found[0].mkdir(parents=True)  # by another process, which found it at the same time
        return found[-1]

    monkeypatch.setattr(run_folder, "get_save_dir", found_at_once)
    run = trainer_for("detect")(overrides=given(folder, project=str(tmp_path), name="m"))
    assert [path.name for path in found[:2]] == ["m", "m-2"]
    assert run.save_dir == found[1]
    assert not list(found[0].iterdir())
    run._run_folder.close()


@pytest.mark.parametrize("above", ["", "runs"])
def test_a_start_that_fails_leaves_what_another_made_at_the_same_moment(
    above: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same job, submitted twice: one waits for the other, and gives up."""
    run = tmp_path / above / "m"
    monkeypatch.setattr(run_folder, "_PATIENCE", 0)
    make = Path.mkdir
    locks: list[int] = []

    def made_by_both(path: Path, *how: Any, **named: Any) -> None:
        if path == run and not locks:
            make(run)
            (run / "args.yaml").write_text("theirs")
            locks.append(os.open(run, os.O_RDONLY))
            fcntl.flock(locks[0], fcntl.LOCK_EX)
        make(path, *how, **named)

    monkeypatch.setattr(Path, "mkdir", made_by_both)
    args = SimpleNamespace(save_dir=str(run), exist_ok=True)
    with pytest.raises(ConfigError, match="another process trains in this folder"):
        run_folder.RunFolder(args)
    assert (run / "args.yaml").read_text() == "theirs"
    os.close(locks[0])
    mine = run_folder.RunFolder(args)  # and what was there when it began stays, too
    mine.give_up(ConfigError("refused"))
    assert (run / "args.yaml").read_text() == "theirs"


def test_folders_that_a_failed_start_removes_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "runs" / "m"
    args = SimpleNamespace(save_dir=str(run), exist_ok=True)
    make, lock, removed = Path.mkdir, fcntl.flock, [run.parent, run]

    def removed_above(path: Path, *how: Any, **named: Any) -> None:
        if path == run and run.parent in removed:
            run.parent.rmdir()
            removed.remove(run.parent)
        make(path, *how, **named)

    def removed_below(fd: int, how: int) -> None:
        if run in removed:
            run.rmdir()
            removed.remove(run)
        lock(fd, how)

    monkeypatch.setattr(Path, "mkdir", removed_above)
    monkeypatch.setattr(fcntl, "flock", removed_below)
    mine = run_folder.RunFolder(args)
    assert not removed
    other = os.open(run, os.O_RDONLY)

    def removed_while_locked(folder: Path, **named: Any) -> None:
        with pytest.raises(BlockingIOError):
            lock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert folder == run
        folder.rmdir()

    monkeypatch.setattr("shutil.rmtree", removed_while_locked)
    mine.give_up(ConfigError("refused"))
    lock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "most"), [("threads", 1024), ("prefetch", 256), ("workers", 1024)]
)
def test_settings_that_cost_without_end_have_limits(name: str, most: int) -> None:
    with pytest.raises(ConfigError, match=f"yolodata.{name} must be 1 to {most}, got {most + 1}"):
        Settings(**{name: most + 1})


def test_a_run_to_resume_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words(folder, "resume=True")) == 2
    assert "resume=True needs model=RUN/weights/last.pt, got model=" in capsys.readouterr().err


def test_weights_without_a_checkpoint_are_not_written_over(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of Ultralytics' own loop, say, of which `resume=auto` knows nothing."""
    run, last = tmp_path / "m", tmp_path / "m" / "weights" / "last.pt"
    last.parent.mkdir(parents=True)
    last.write_bytes(b"weights")
    (run / "results.csv").write_text("epoch\n1\n2\n3\n")
    for again in ("resume=auto", f"resume={run}"):
        (run / "args.yaml").write_text("{}")
        assert main(words(folder, f"project={tmp_path}", "name=m", again)) == 2
        said = capsys.readouterr().err
        assert f"{run}: has weights of 3 epochs and no checkpoint" in said
        assert f"resume={last}" in said
    assert last.read_bytes() == b"weights"


def test_a_trainer_that_cannot_find_the_run_itself_does_not_take_another(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To Ultralytics, which knows no `auto`, that is the newest run below the working folder."""
    (tmp_path / "other" / "weights").mkdir(parents=True)
    (tmp_path / "other" / "weights" / "last.pt").write_bytes(b"another run")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"resume='auto' is for trainer=yolodata\.train"):
        yolodata.DetectionTrainer(overrides=given(folder, project=str(tmp_path), resume="auto"))
    assert os.listdir(tmp_path) == ["other"]


@pytest.mark.parametrize("again", ["resume=auto", "exist_ok=True"])
def test_two_processes_do_not_train_in_one_folder(
    folder: Path,
    again: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = tmp_path / "m"
    run.mkdir()
    (run / "results.csv").write_text("epoch\n")
    monkeypatch.setattr(run_folder, "_PATIENCE", 0)
    fd = os.open(run, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)  # as another process has it
    assert main(words(folder, f"project={tmp_path}", "name=m", again)) == 2
    assert "another process trains in this folder" in capsys.readouterr().err
    assert [path.name for path in run.iterdir()] == ["results.csv"]
    assert (run / "results.csv").read_text() == "epoch\n"
    os.close(fd)
    assert main(words(folder, f"project={tmp_path}", "name=m", again)) == 0
    fd = os.open(run, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a run that has ended lets go
    os.close(fd)


def test_folders_that_were_there_or_have_begun_stay(folder: Path, tmp_path: Path) -> None:
    class Failed(Exception):
        pass

    def fail(trainer: Any) -> None:
        raise Failed

    def start(event: str) -> None:
        run = yolodata.DetectionTrainer(
            overrides=given(folder, project=str(tmp_path / "a" / "runs"), name="run", exist_ok=True)
        )
        run.add_callback(event, fail)
        with pytest.raises(Failed):
            run.train()

    start("on_pretrain_routine_end")
    assert not list(tmp_path.iterdir())
    start("on_train_epoch_start")
    begun = sorted((tmp_path / "a" / "runs" / "run").iterdir())
    assert begun
    start("on_pretrain_routine_end")
    assert sorted((tmp_path / "a" / "runs" / "run").iterdir()) == begun


def test_several_datasets_one_after_the_other(folder: Path, tmp_path: Path) -> None:
    """As upstream's own trainer does; folders of shards, named from here, among them."""
    from ultralytics import YOLO

    packed(folder / "set" / "data.yaml", tmp_path / "shards", "raw", 64)
    named = os.path.relpath(tmp_path / "shards", folder)
    values = given(folder, project=str(tmp_path / "runs"))
    values["data"] = [values["data"], named]
    found = YOLO(values.pop("model")).train(trainer=yolodata.DetectionTrainer, **values)
    assert set(found) == {"set", "shards"}
    assert all(found.values())


# Every argument of upstream's.


@pytest.fixture(scope="module")
def table() -> ModuleType:
    """The script that writes docs/ultralytics-arguments.md."""
    file = ROOT / "docs" / "ultralytics_arguments.py"
    spec = importlib.util.spec_from_file_location("ultralytics_arguments", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def rows(table: ModuleType) -> dict[str, list[str]]:
    lines = table.PAGE.read_text().splitlines()
    cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("| `")]
    return {line[0].strip("`"): line for line in cells}


def test_the_page_has_every_argument(table: ModuleType) -> None:
    """Run `python docs/ultralytics_arguments.py` when this fails."""
    from ultralytics.utils import DEFAULT_CFG_DICT

    page, types = rows(table), table.types()
    assert set(page) == set(types) == {*DEFAULT_CFG_DICT, "augmentations"}
    for name, row in page.items():
        for value in table.values_of(name, types[name]):
            assert repr(value).replace("|", "\\|") in " | ".join(row), f"{name}={value!r}"


def used() -> set[str]:
    """Arguments that our trainers, or the augmentation, read."""
    from ultralytics.utils import DEFAULT_CFG_DICT

    text = "".join(
        file.read_text()
        for room in ("ultralytics", "train")
        for file in (ROOT / "yolodata" / room).rglob("*.py")
    )
    found = set(re.findall(r"\bargs\.(\w+)", text))
    return (found | {field.name for field in fields(yolodata.AugmentConfig)}) & set(
        DEFAULT_CFG_DICT
    )


def test_values_do_what_the_page_says(table: ModuleType) -> None:
    """Of each argument that we read, one value, and one of both our trainers."""
    page, types = rows(table), table.types()
    names = sorted(used() - {"resume", "mode"})
    assert {"imgsz", "batch", "mosaic", "fraction", "classes", "seed", "multi_scale"} <= set(names)
    kinds = (yolodata.DetectionTrainer, trainer_for("detect"))
    with table.prepared() as folder:
        for name in names:
            values = table.values_of(name, types[name])
            drawn = zlib.crc32(name.encode())
            value = values[drawn % len(values)]
            found = table.outcomes(folder, name, value, ours=[kinds[drawn // 97 % 2]])
            alone = page[name][3].partition("refuses ")[2]
            theirs = bool(found[0].refused)
            expected = ("refused",) if f"`{value!r}`" in alone else ("same",)
            expected = ("same", "refused") if theirs else expected
            assert table.verdict(found) in expected, f"{name}={value!r}: {table.verdict(found)}"
            assert f"`{value!r}`" in page[name][2 if theirs else 1], f"{name}={value!r}"


@pytest.mark.parametrize("imgsz", [[64], (64, 96), "64,64", "[64]", 100])
def test_sizes_in_every_form(table: ModuleType, imgsz: Any) -> None:
    """Also where pictures are packed before there is a model: for the size that it will have."""
    with table.prepared() as root:
        found = table.outcomes(root, "imgsz", imgsz, ours=[trainer_for("detect")])
        assert table.verdict(found) == "same"
        size = found[0].facts["arguments"]["imgsz"]
        (packed_to,) = (root / "set.yolodata").glob("data-*")
        assert f"-{size}-" in packed_to.name


def test_the_comparison_notices(table: ModuleType) -> None:
    same = table.Outcome("", {"pictures": (4, 3, 64, 64)})
    assert table.verdict([same, same]) == "same"
    assert "64" in table.verdict([same, table.Outcome("", {"pictures": (4, 3, 32, 32)})])
    assert "TypeError" in table.verdict([same, table.Outcome("TypeError: int()", {})])
    assert table.verdict([same, table.Outcome("ConfigError: x", {})]) == "refused"
    both = [table.Outcome("ValueError: a", {}), table.Outcome("TypeError: b", {})]
    assert "instead of" in table.verdict(both)


def test_the_command_line_reads_values_as_upstreams(table: ModuleType) -> None:
    from ultralytics.cfg import parse_key_value_pair

    from yolodata.ultralytics.command_line import read_values

    tried = 0
    for name, kinds in table.types().items():
        for value in table.values_of(name, kinds):
            text = str(value).replace(" ", "")
            if not text or name in ("cfg", "mode") or (name, value) == ("data", None):
                continue
            expected = dict([parse_key_value_pair(f"{name}={text}")])
            assert read_values({name: text}, "train") == expected
            tried += 1
    assert tried > 500
    with pytest.raises(ConfigError, match="must have a value"):
        read_values({"epochs": ""}, "train")
