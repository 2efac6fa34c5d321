"""What a run was made of: in its folder, checkpoints and weights; and what another dataset does."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checkpoints
import pytest
import torch
import yaml
from loading import draw_dataset
from training import BATCHES, Enough, arguments, prepare, train

import yolodata
from yolodata import environment
from yolodata.cli import main
from yolodata.errors import ConfigError
from yolodata.provenance import manifest, weights
from yolodata.provenance.git_state import GitState
from yolodata.provenance.manifest import RunManifest
from yolodata.shards.format import DATASET_FILE
from yolodata.train import trainer_for
from yolodata.train.checkpoint import file, run_folder
from yolodata.train.checkpoint.arrivals import OfARun
from yolodata.train.checkpoint.writer import Writer

pytestmark = pytest.mark.early

STOP = BATCHES + 3  # batches: in the midst of the second epoch
BEGUN = 1  # batches of it at the last update, where a checkpoint is


class Fed:
    """A callback that notes where each batch begins and which images it is of; may stop."""

    def __init__(self, stop: int = 0) -> None:
        self.stop, self.batches, self.names = stop, list[list[str]](), list[str]()

    def __call__(self, trainer: Any) -> None:
        self.batches.append(self.names)
        if len(self.batches) == self.stop:
            raise Enough

    def note(self, trainer: Any) -> None:
        make = trainer.preprocess_batch

        def noting(batch: dict[str, Any]) -> dict[str, Any]:
            self.names = [Path(name).name for name in batch["im_file"]]
            return make(batch)

        trainer.preprocess_batch = noting

    @property
    def callbacks(self) -> dict[str, Any]:
        return {"on_train_start": self.note, "on_train_batch_end": self}


@pytest.fixture(scope="module")
def origin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A packed dataset, and a run on it that was stopped in the midst of its second epoch."""
    folder = prepare(tmp_path_factory.mktemp("manifest"))
    yolodata.pack(
        folder / "set" / "data.yaml",
        folder / "shards",
        yolodata.PackSettings(codec="raw", imgsz=64),
    )
    with pytest.raises(Enough):
        trained(folder, Fed(STOP))
    return folder


@pytest.fixture
def folder(origin: Path, tmp_path: Path) -> Path:
    """A copy of both for a test of its own, with the dataset packed there."""
    for name in ("set", "runs"):
        shutil.copytree(origin / name, tmp_path / name)
    data = tmp_path / "set" / "data.yaml"
    data.write_text(data.read_text().replace(str(origin), str(tmp_path)))
    yolodata.pack(data, tmp_path / "shards", yolodata.PackSettings(codec="raw", imgsz=64))
    shutil.copy(origin / "tiny.yaml", tmp_path)
    return tmp_path


def trained(folder: Path, fed: Fed | None = None, **changed: Any) -> Any:
    """The run, from where it is."""
    ours = {"checkpoint_minutes": 1e-9, "keep": 99, **changed.pop("yolodata", {})}
    values = {"epochs": 2, "resume": "auto", "data": str(folder / "shards"), **changed}
    given = arguments(folder, "run", multi_scale=0.0, **values)
    callbacks = fed.callbacks if fed else {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, "busy", False)  # so that no update goes by without a checkpoint
        return train(trainer_for("detect").configure(**ours), given, callbacks)


def run_of(folder: Path) -> Path:
    return folder / "runs" / "run"


def version(folder: Path, split: str) -> str:
    stated = json.loads((folder / "shards" / split / DATASET_FILE).read_text())["checksum"]
    assert isinstance(stated, str)
    return stated


def relabel(folder: Path, split: str) -> None:
    """Changes the class of one object, and takes the labels over."""
    path = next(p for p in sorted((folder / "set").rglob(f"labels/{split}/*.txt")) if p.read_text())
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([str((int(first[0]) + 1) % 3) + first[1:], *rest]) + "\n")
    assert main(["labels", str(folder / "shards"), str(folder / "set" / "data.yaml")]) == 0


def content(run: Path) -> dict[str, bytes]:
    """What a run has come to; its arguments are written at each start."""
    files = [*run.glob("*/*"), run / manifest.FILE, run / "results.csv"]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


def test_a_run_says_what_it_was_made_of(
    folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = run_of(folder)
    trainer = trained(folder)
    found = manifest.read(run)
    assert found is not None
    assert found.dataset is not None
    splits = found.dataset.splits
    assert {n: s.version for n, s in splits.items()} == {
        split: version(folder, split) for split in ("train", "val")
    }
    assert (splits["train"].images, splits["val"].images) == (22, 6)
    assert found.packages["torch"] == torch.__version__.split("+")[0]
    assert found.settings.arguments["epochs"] == 2
    assert "project" not in found.settings.arguments  # places are none
    assert [(line.epoch, line.step) for line in found.continued] == [(1, BEGUN)]
    assert not [name for name in found.continued[0].changed if name.startswith("packages")]
    newest = file.newest_whole(run / run_folder.FOLDER)
    assert newest is not None
    main(["export", str(newest), str(tmp_path / "out.pt")])
    capsys.readouterr()
    for path in (run, newest, trainer.best, trainer.last, tmp_path / "out.pt"):
        assert main(["info", str(path), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == found.to_dict(), path
        assert main(["info", str(path), "--all"]) == 0
        assert f"dataset   {found.dataset.version}" in capsys.readouterr().out
    main(["info", str(folder / "shards"), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert {split["dataset_version"] for split in told} == {found.dataset.version}
    beside = run_folder.files_beside(run)
    assert beside[manifest.FILE] == run / manifest.FILE  # is uploaded
    # Whoever reads weights finds what was there before.
    loaded = torch.load(trainer.best, map_location="cpu", weights_only=False, mmap=True)
    assert loaded["train_args"]["epochs"] == 2
    assert run_folder.more_than_weights(trainer.best) is None


def test_a_relabelled_dataset_is_refused_unless_told(
    folder: Path, origin: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = run_of(folder)
    before = manifest.read(run)
    relabel(folder, "train")
    was = content(run)
    with pytest.raises(ConfigError, match="other_data=True") as error:
        trained(folder)
    assert "train: other labels (54 objects as before)" in str(error.value)
    assert "val" not in str(error.value).split("differs:")[1]
    assert content(run) == was
    undisturbed, fed = Fed(), Fed()
    trained(folder, fed, yolodata={"other_data": True})
    found = manifest.read(run)
    assert found is not None
    assert before is not None
    assert before.dataset is not None
    known = before.dataset.splits["train"].version
    assert found.continued[-1].changed["dataset.train"] == [known, version(folder, "train")]
    assert found.settings.yolodata["other_data"] is True
    assert "other_data" not in (run / "yolodata.yaml").read_text()
    shutil.rmtree(folder / "runs")
    shutil.copytree(origin / "runs", folder / "runs")
    trained(folder, undisturbed, data=str(origin / "shards"))
    assert fed.batches == undisturbed.batches  # the rest of the epoch, each image once
    assert len(fed.batches) == BATCHES - BEGUN


def test_another_validation_split_is_refused_too(folder: Path) -> None:
    relabel(folder, "val")
    with pytest.raises(ConfigError, match="differs:\n  val: other labels") as error:
        trained(folder)
    assert "train:" not in str(error.value)
    trained(folder, yolodata={"other_data": True})


def test_other_images_begin_an_epoch_or_are_refused(folder: Path) -> None:
    draw_dataset(folder / "more", {"train": 26, "val": 6})
    more = str(folder / "more" / "data.yaml")
    told = {"other_data": True, "codec": "raw"}
    with pytest.raises(ConfigError, match="train: 26 images, were 22"):
        trained(folder, data=more)
    with pytest.raises(ConfigError, match="midst of an epoch"):
        trained(folder, data=more, yolodata=told)
    (at_the_end,) = run_of(folder).glob(f"{run_folder.FOLDER}/00001-00000000-*.ckpt")
    fed = Fed()
    trained(folder, fed, data=more, yolodata=told, resume=str(at_the_end))
    images = [name for batch in fed.batches for name in batch]
    assert len(images) == len(set(images)) == 26


def test_the_same_data_packed_elsewhere_go_on(
    folder: Path, origin: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert version(folder, "train") != version(origin, "train")
    with caplog.at_level(logging.WARNING, "yolodata"):
        trained(folder)
    assert "packed again" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING, "yolodata"):
        trained(folder, epochs=3)  # negative control
    assert "packed again" not in caplog.text


def test_a_run_without_a_manifest_goes_on(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = run_of(folder)
    (run / manifest.FILE).unlink()
    for path in (run / run_folder.FOLDER).glob("*.ckpt"):
        state = file.read(path)
        path.unlink()
        del state["manifest"]
        file.write(path.parent, state)
    assert main(["info", str(run)]) == 2
    assert "does not say what it was made of" in capsys.readouterr().err
    relabel(folder, "train")
    with pytest.raises(ConfigError, match="another dataset or other settings"):
        trained(folder)  # the loader's state knows, as ever
    trained(folder, yolodata={"other_data": True})
    found = manifest.read(run)
    assert found is not None
    assert found.continued[0].changed == {"manifest": ["none", "written"]}


@pytest.mark.parametrize("upstreams", [False, True])
def test_ultralytics_own_resume_is_asked_as_well(
    tmp_path: Path, upstreams: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path)
    data = tmp_path / "set" / "data.yaml"
    yolodata.pack(data, tmp_path / "shards", yolodata.PackSettings(codec="raw", imgsz=64))
    given = str(data if upstreams else tmp_path / "shards")
    values = arguments(tmp_path, "run", epochs=2, rect=upstreams, data=given)
    with pytest.raises(Enough):
        train(yolodata.DetectionTrainer, values, {"on_train_batch_end": Fed(STOP)})
    run = tmp_path / "runs" / "run"
    found = manifest.read(run)
    assert found is not None
    assert weights.read(run / "weights" / "best.pt") == found
    relabel(tmp_path, "train")
    again = {**values, "model": str(run / "weights" / "last.pt"), "resume": True}
    if upstreams:
        assert found.dataset is None
        assert "rect=True" in str(found.no_dataset)
        train(yolodata.DetectionTrainer, again)
        assert weights.read(run / "weights" / "last.pt") == manifest.read(run)
        return
    with pytest.raises(ConfigError, match="train: other labels"):
        train(yolodata.DetectionTrainer, again)
    more = yaml.safe_load(data.read_text())
    more["names"] = [*(f"class {k}" for k in range(len(more["names"]))), "one more"]
    data.write_text(yaml.safe_dump(more))
    with pytest.raises(ConfigError, match=r"network has 3 classes, and the dataset 4"):
        train(yolodata.DetectionTrainer.configure(other_data=True), {**again, "data": str(data)})
    train(yolodata.DetectionTrainer.configure(other_data=True), again)
    after = manifest.read(run)
    assert after is not None
    assert "dataset.train" in after.continued[0].changed
    assert "settings.model" not in after.continued[0].changed
    last = weights.read(run / "weights" / "last.pt")  # without the optimizer's state by now
    best = weights.read(run / "weights" / "best.pt")
    assert last == after
    assert best in (found, after)


MADE = {"epochs": 2}


def made(**changes: Any) -> dict[str, Any]:
    return {**RunManifest.of("none is needed", MADE, {}).to_dict(), **changes}


SETTINGS = made()["settings"]
HOSTILE = {
    "empty": b"",
    "no json": b"{",
    "a list": b"[]",
    "large": b" " * (manifest.LARGEST + 1),
    "deep": b"[" * 200_000,
    "a key": json.dumps(made(more=1)).encode(),
    "a version": json.dumps(made(version=2)).encode(),
    "a time": json.dumps(made(written="\x1b[2J")).encode(),
    "no number": json.dumps(made(packages={"torch": 1})).encode(),
    "git": json.dumps(made(git={"commit": "HEAD", "changed": True})).encode(),
    "settings": json.dumps(made(settings={**SETTINGS, "checksum": "none"})).encode(),
    "both": json.dumps(made(dataset={}, no_dataset="")).encode(),
    "lines": json.dumps(made(continued=[{"epoch": -1}])).encode(),
    "a large one": json.dumps(made()).encode() + b" " * manifest.LARGEST,
    "a list of settings": json.dumps(made(settings={**SETTINGS, "yolodata": []})).encode(),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_is_no_manifest_is_refused(
    text: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / manifest.FILE).write_bytes(json.dumps(made()).encode())
    assert main(["info", str(tmp_path)]) == 0  # negative control
    (tmp_path / manifest.FILE).write_bytes(text)
    assert main(["info", str(tmp_path)]) == 2
    assert "is no manifest of a run" in capsys.readouterr().err
    with pytest.raises(ValueError, match=r"must|has|no number|not valid|is not"):
        RunManifest.from_json(text)
    assert OfARun().wrong_content_beside(manifest.FILE, (tmp_path / manifest.FILE).open("rb"))


def test_a_manifest_is_printed_without_acting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b[2J\n  code      git 0000"
    text = json.dumps(made(no_dataset=evil, packages={evil: evil}))
    (tmp_path / manifest.FILE).write_text(text)
    assert main(["info", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert len([line for line in out.splitlines() if line.startswith("  code")]) == 1


def test_a_manifest_is_not_written_through_a_link(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (tmp_path / "mine").write_text("mine")
    (run / manifest.FILE).symlink_to(tmp_path / "mine")
    RunManifest.from_dict(made()).write(run)
    assert (tmp_path / "mine").read_text() == "mine"
    assert manifest.read(run) is not None


def test_a_checkpoint_with_another_manifest_is_passed_over(tmp_path: Path) -> None:
    whole = checkpoints.write(tmp_path, 1, manifest=made())
    assert file.newest_whole(tmp_path) == whole
    numbered = made(settings={**SETTINGS, "arguments": {1: 2}})  # which JSON makes a name of
    for wrong in ({"version": 1}, made(version=2), [], {"x": torch.zeros(1)}, numbered):
        checkpoints.write(tmp_path, 2, manifest=wrong)
        assert file.newest_whole(tmp_path) == whole, wrong


def test_weights_are_read_without_opening_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "best.pt"
    torch.save({"model": checkpoints.Code(tmp_path / "ran")}, path)
    assert main(["info", str(path)]) == 2
    assert "does not say" in capsys.readouterr().err
    weights.add(path, RunManifest.from_dict(made()))
    assert main(["info", str(path)]) == 0
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)  # negative control
    assert (tmp_path / "ran").exists()
    with weights.keeping([path, tmp_path / "none.pt"]):
        torch.save({}, path)
    assert weights.read(path) is not None
    with weights.keeping([path]):
        path.unlink()  # by a callback
    assert not path.exists()
    entry = zipfile.ZipInfo("best/extra/yolodata.json")
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(entry.filename, b" " * (64 << 20))
    (tmp_path / "text.pt").write_text("none")
    for name in ("bomb", "text"):
        assert main(["info", str(tmp_path / f"{name}.pt")]) == 2
        assert "cannot be read" in capsys.readouterr().err


def test_secrets_are_in_no_manifest() -> None:
    found = RunManifest.of(
        "s3://KEY:geheim-geheim@bucket/x", {"model": "https://h/m.pt?token=geheim-geheim"},
        {"upload": "s3://KEY:geheim-geheim@bucket/runs", "a": {"s3://k:geheim-geheim@b/x": 1}},
    )  # fmt: skip
    assert b"geheim" not in found.to_json()
    assert b"bucket/runs" in found.to_json()


def test_settings_of_where_and_how_are_not_in_the_checksum() -> None:
    def checksum(arguments: dict[str, Any], ours: dict[str, Any]) -> str:
        return RunManifest.of("", arguments, ours).settings.checksum

    known = checksum(MADE, {"threads": 4})
    assert checksum(MADE, {"upload": "s3://bucket"}) == known
    assert checksum(MADE, {"scale_lr": "linear"}) != known
    assert checksum({"epochs": 3}, {}) != known


def test_a_run_that_went_on_often_keeps_what_changed() -> None:
    first = RunManifest.of("", MADE, {})
    other = RunManifest.of("", {"epochs": 3}, {})
    found = other.continues(first, 1, 0)
    for epoch in range(150):
        found = other.continues(found, epoch, 0)
    assert len(found.continued) == 100
    assert found.continued[0].changed == {"settings.epochs": [2, 3]}
    assert found.continued[-1].epoch == 149
    RunManifest.from_json(found.to_json())


def git_in(folder: Path) -> Callable[..., str]:
    """Returns a function that runs git there, as somebody."""
    who = {
        f"GIT_{who}_{what}": "a@b" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
    }

    def git(*words: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(folder), *words], env={**os.environ, **who}, check=True,
            capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout.strip()

    return git


def test_the_commit_of_the_package_is_none_of_a_checkout_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in `project/.venv`: the project's commits would count as changes of yolodata."""
    installed = tmp_path / ".venv" / "yolodata" / "environment.py"
    installed.parent.mkdir(parents=True)
    shutil.copy(environment.__file__, installed)
    monkeypatch.setattr(environment, "__file__", str(installed))
    git = git_in(tmp_path)
    git("init", "-q")
    git("commit", "-qm", "first", "--allow-empty")
    assert "commit" not in environment.versions()
    git("add", str(installed))
    git("commit", "-qm", "the package")
    assert environment.versions()["commit"] == git("rev-parse", "--short=12", "HEAD")


def test_the_commit_of_the_working_folder(tmp_path: Path) -> None:
    assert GitState.of(tmp_path) is None
    git = git_in(tmp_path)
    git("init", "-q")
    assert GitState.of(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("a")
    git("add", "a")
    git("commit", "-qm", "first")
    (tmp_path / "new").write_text("unknown to git")
    assert GitState.of(tmp_path) == GitState(git("rev-parse", "HEAD"), False)
    (tmp_path / "a").write_text("b")
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    hook.chmod(0o755)
    git("config", "core.fsmonitor", str(hook))
    found = GitState.of(tmp_path)
    assert found is not None
    assert found.changed
    assert not (tmp_path / "ran").exists()
    git("status", "--porcelain")  # negative control
    assert (tmp_path / "ran").exists()
