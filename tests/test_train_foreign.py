"""A run folder that came from somewhere: its links are not followed, its files run no code."""

from __future__ import annotations

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import checkpoints
import pytest
import torch
from training import network
from ultralytics.nn.tasks import DetectionModel, torch_safe_load
from ultralytics.utils import DEFAULT_CFG, IterableSimpleNamespace

from yolodata.errors import ConfigError, YolodataError
from yolodata.files import file_checksum
from yolodata.train.checkpoint import arrivals, file, run_folder
from yolodata.train.checkpoint.export import weights_of
from yolodata.train.checkpoint.weights import more_than_weights
from yolodata.train.checkpoint.writer import Writer
from yolodata.train.exit_codes import STATUS, leave_status
from yolodata.ultralytics.run_folder import made_in_run_folder, refuse_links

STATE = checkpoints.state(1, 2, results="epoch\n1\n")


@pytest.fixture
def mine(tmp_path: Path) -> Any:
    """A folder outside with a file, which links lead to and nobody may touch."""
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "last.pt").write_bytes(b"mine")
    yield folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {"last.pt": b"mine"}


def named(folder: Path, progress: str, write: Callable[[Path], object]) -> Path:
    """Makes a file whose name has the right checksum."""
    made = folder / "made"
    write(made)
    with made.open("rb") as opened:
        return made.rename(folder / f"{progress}-{file_checksum(opened)}{file.SUFFIX}")


def compress(path: Path) -> None:
    torch.save(STATE, path)
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in content.items():
            archive.writestr(name, data)


class Untouched:
    """A trainer that is never made."""

    def __init__(self, *arguments: Any) -> None:
        raise AssertionError


class Code:
    """What a pickle runs when it is opened."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.called = function, arguments

    def __reduce__(self) -> Any:
        return self.called


def test_links_of_a_run_folder_are_not_followed(mine: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    whole = file.write(run / "checkpoints", STATE)
    (run / "linked").symlink_to(mine)
    with pytest.raises(OSError, match="is a link"):
        file.write(run / "linked", STATE)
    (run / "other").mkdir()
    (run / "other" / "checkpoints").symlink_to(mine)
    with pytest.raises(OSError, match="is a link"):
        run_folder.find_newest(run / "other", None)
    writer = Writer(run / "linked", 1)
    writer.put(STATE)
    with pytest.raises(YolodataError, match=r"could not be written into .*is a link"):
        writer.wait()
    os.replace(run / "linked", run / "weights")
    trainer = SimpleNamespace(
        wdir=run / "weights", last=run / "weights" / "last.pt", best=run / "weights" / "best.pt"
    )
    with pytest.raises(OSError, match="is a link"), run_folder.weights_whole(trainer):
        pass
    for change in (run_folder.remove_unfinished_weights, run_folder.set_aside_foreign_weights):
        with pytest.raises(OSError, match="is a link"):
            change(run / "weights")
    (run / "weights").unlink()
    (run / "weights").mkdir()
    (run / "weights" / ".writing").symlink_to(mine)  # the name that it once had
    (run / "weights" / f".{'0' * 16}.writing").symlink_to(mine)
    (run / "weights" / "last.pt").symlink_to(mine / "last.pt")
    run_folder.remove_unfinished_weights(run / "weights")
    with run_folder.weights_whole(trainer):
        assert trainer.wdir.stat().st_mode & 0o777 == 0o700
        trainer.last.write_bytes(b"new")
    assert not trainer.last.is_symlink()
    for name in ("results.csv", "evaluated"):
        (run / name).symlink_to(mine / "last.pt")
    os.replace(run / "evaluated", whole.parent / "evaluated")
    run_folder.write_results(run / "results.csv", "epoch\n1\n")
    run_folder.note_evaluated(whole)
    assert run_folder.is_evaluated(whole)
    (run / "labels.jpg").symlink_to(mine / "last.pt")
    assert set(run_folder.files_beside(run)) == {
        "weights/last.pt", "results.csv", "checkpoints/evaluated",
    }  # fmt: skip


def test_ultralytics_is_not_let_into_a_folder_with_links(mine: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "weights").mkdir(parents=True)
    (run / "data").symlink_to(mine)  # nobody writes into it
    refuse_links(run)
    refuse_links(tmp_path / "none")
    (tmp_path / "link").symlink_to(run)
    refuse_links(tmp_path / "link")
    for name in ("results.csv", "weights/best.pt", "weights/sub"):
        (run / name).symlink_to(mine / "last.pt")
        with pytest.raises(
            ConfigError, match=f"{name}: is a link.*remove it, or give another name"
        ):
            refuse_links(run)
        (run / name).unlink()
    os.mkfifo(run / "args.yaml")
    with pytest.raises(ConfigError, match="neither a file nor a folder"):
        refuse_links(run)


@pytest.mark.parametrize("words", ["resume", "model"])
def test_upstreams_own_trainer_goes_on_in_no_folder_with_links(
    mine: Path, tmp_path: Path, words: str
) -> None:
    weights = tmp_path / "run" / "weights" / "last.pt"
    weights.parent.mkdir(parents=True)
    weights.touch()
    (tmp_path / "run" / "results.csv").symlink_to(mine / "last.pt")
    named = {"resume": {"resume": str(weights)}, "model": {"resume": True, "model": str(weights)}}
    with pytest.raises(ConfigError, match=r"results\.csv: is a link"):
        made_in_run_folder(Untouched, DEFAULT_CFG, named[words], None)


def test_a_status_is_not_left_through_a_link(
    mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "status").symlink_to(mine / "last.pt")
    monkeypatch.setenv(STATUS, str(tmp_path / "status"))
    leave_status(1, "why")
    (tmp_path / "status").unlink()
    leave_status(1, "why")  # nobody asked for it
    assert not (tmp_path / "status").exists()
    (tmp_path / "status").touch()
    leave_status(1, "why")
    assert json.loads((tmp_path / "status").read_text()) == [1, "why"]


def test_a_right_checksum_makes_no_checkpoint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such files are passed over, and the newest one that is whole is taken."""
    folder = tmp_path / "run" / "checkpoints"
    whole = file.write(folder, STATE)
    ran = tmp_path / "ran"
    wrong = {
        "torch cannot read it": [
            lambda path: path.write_bytes(b"noise"),
            lambda path: path.write_bytes(b""),
            lambda path: torch.save({**STATE, "x": Code(os.mkdir, str(ran))}, path),
            lambda path: path.write_bytes(pickle.dumps({**STATE, "x": Code(os.mkdir, str(ran))})),
        ],
        "its content is compressed": [compress],
        "it must hold a state, and holds a list": [lambda path: torch.save([1], path)],
        "is a FIFO": [os.mkfifo],
    }
    makers = [(why, make) for why, kinds in wrong.items() for make in kinds]
    for number, (why, make) in enumerate(makers):
        progress = f"{number + 10:05d}-00000000"
        if make is os.mkfifo:
            made = folder / f"{progress}-{'0' * 16}.ckpt"
            os.mkfifo(made)
        else:
            made = named(folder, progress, make)
        with pytest.raises(YolodataError, match=f"cannot be resumed from: .*{why}"):
            file.read(made)
    (folder / f"99999-00000000-{'0' * 16}.ckpt").symlink_to("nowhere")
    assert run_folder.find_newest(tmp_path / "run", None) == whole
    assert sum("is not used" in line for line in caplog.messages) == len(makers) + 1
    assert not ran.exists()
    file.remove_newer(whole)
    assert list(folder.iterdir()) == [whole]


def test_what_says_less_than_it_holds_is_not_opened(tmp_path: Path) -> None:
    """Parts of an archive may lie upon each other, and each is unpacked."""
    path = tmp_path / "last.pt"
    torch.save({"x": torch.zeros(9)}, path)
    data = path.read_bytes()
    with path.open("rb") as opened:
        assert not file.larger_in_memory(opened)
    entry = data.rindex(b"PK\1\2")
    path.write_bytes(data[: entry + 24] + b"\0\0\0\x40" + data[entry + 28 :])  # 1 GiB
    with path.open("rb") as opened:
        assert file.larger_in_memory(opened)
    compress(path)
    assert more_than_weights(path) == "its content is compressed, which torch never does"


def test_a_checkpoint_of_another_checksum_is_damaged(tmp_path: Path) -> None:
    whole = file.write(tmp_path / "checkpoints", STATE)
    file.read(whole)
    other = whole.rename(whole.with_name(f"{file.progress(whole.name)}-{'0' * 16}{file.SUFFIX}"))
    with pytest.raises(YolodataError, match="it is cut or damaged"):
        file.read(other)


def test_an_old_torch_opens_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = file.write(tmp_path / "checkpoints", STATE)
    for version, fine in (("2.5.1+cu121", False), ("2.6.0a0", True), ("3.0.0.dev1", True)):
        monkeypatch.setattr(torch, "__version__", version)
        if fine:
            file.read(made)
        else:
            uploaded = arrivals.OfARun().wrong_content
            for opened in (
                lambda: file.read(made),
                lambda: file.newest_whole(made.parent),
                lambda: more_than_weights(made),
                lambda: uploaded(made.name, io.BytesIO(made.read_bytes())),
            ):
                with pytest.raises(ConfigError, match=r"CVE-2025-32434\), got 2.5.1\+cu121; pip"):
                    opened()


@pytest.mark.parametrize("table", ["", "epoch\n", "epoch\ninf,\nnan,\n,\nx\n" + "9" * 400 + "\n"])
def test_any_table_of_results_is_cut(table: str, tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(table)
    run_folder.keep_epochs(tmp_path / "results.csv", 2)
    assert (tmp_path / "results.csv").read_text() == table[: len("epoch\n")]


@pytest.fixture(scope="module")
def model() -> Any:
    made = DetectionModel(network(), verbose=False)
    made.args = IterableSimpleNamespace(path=Path("a"))
    return made.half()


def test_weights_that_hold_more_than_a_network(
    model: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Such are set aside; those that Ultralytics writes, and those of a user's own layers, stay."""
    import numpy as np

    ran = tmp_path / "ran"
    hidden = {**model.yaml, "activation": f"__import__('os').mkdir({str(ran)!r})"}
    last = tmp_path / "last.pt"

    def said(**content: Any) -> str:
        torch.save({"model": model, "train_metrics": {"a": np.float64(1)}, **content}, last)
        return more_than_weights(last) or ""

    assert said(optimizer={"state": {}}, stopper=None) == ""
    model.model.append(Layer())
    assert said() == ""
    del model.model[-1]
    assert "no part of a network" in said(x=Code(os.mkdir, str(ran)))
    assert "no part of a network" in said(x=torch_safe_load)
    assert "no part of a network" in said(x=Code(getattr, model, "yaml"))
    assert "a class of a network is called" in said(x=Code(DetectionModel, hidden))
    last.write_bytes(pickle.dumps({"model": None, "x": Code(os.mkdir, str(ran))}))
    assert "restricted reader refuses it" in str(more_than_weights(last))
    (tmp_path / "best.pt").write_bytes(last.read_bytes())
    run_folder.set_aside_foreign_weights(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["best.pt.refused", "last.pt.refused"]
    assert "opening it would run what its author wrote" in caplog.text


class Layer(torch.nn.Linear):
    """A user's own."""

    def __init__(self) -> None:
        super().__init__(1, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"activation": "__import__('os').mkdir('RAN')"},
        {"activation": "nn.SiLU(__import__('os').mkdir('RAN'))"},
        {"head": [[-1, 1, "torch_safe_load", ["RAN"]]]},
        {"head": [[-1, 1, "nn.os", []]]},
        {"head": [[-1, 1, "os.mkdir", ["RAN"]]]},
        {"head": [[-1, 1, "DetectionModel", [{"activation": "__import__('os').mkdir('RAN')"}]]]},
    ],
)
def test_a_network_is_described_by_layers_alone(
    change: dict[str, Any], model: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ultralytics evaluates parts of a description, which a checkpoint brings along."""
    monkeypatch.chdir(tmp_path)
    state = {
        "args": {"task": "detect"}, "ema": model.state_dict(), "network": {**model.yaml, **change},
        "names": {}, "metrics": {}, "fitness": None, "results": "",
    }  # fmt: skip
    with pytest.raises(YolodataError, match=r"cannot make the network .*(no layer|none of|Key)"):
        weights_of(state)
    assert not os.listdir(tmp_path)
    fine = weights_of({**state, "network": {**model.yaml, "activation": "nn.LeakyReLU(0.1)"}})
    assert isinstance(fine["model"], DetectionModel)
    for table in ("epoch,time\n1\n", "epoch\nx\n", "epoch\n" + "9" * 200_000 + "\n"):
        assert weights_of({**state, "network": model.yaml, "results": table})["train_results"] == {}


def test_only_classes_of_networks_are_made_from_weights() -> None:
    import ultralytics.engine.model  # a network, by its base, whose parts run code

    from yolodata.train.checkpoint.weights import _is_part

    assert _is_part("torch.nn.modules.conv.Conv2d")
    assert _is_part("ultralytics.nn.modules.conv.Conv")
    assert issubclass(ultralytics.engine.model.Model, torch.nn.Module)
    for name in (
        "ultralytics.engine.model.Model",
        "subprocess.Popen",
        "torch.nn.Conv2d",  # by another name than its own
        "os.system",
        "no.such.Thing",
    ):
        assert not _is_part(name), name
