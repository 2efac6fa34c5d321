"""The doctor says why training learns badly, where that is so, and nothing where it is not."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import training
from loading import draw_dataset, packed

from yolodata.doctor.convergence import examine
from yolodata.doctor.convergence.labels import read_files
from yolodata.doctor.convergence.schedule import devices, judge_schedule, schedule_of
from yolodata.doctor.convergence.trials import STEPS, Trial, judge_half, judge_trials, search
from yolodata.doctor.examination import Examination, Outcome
from yolodata.doctor.finding import Finding
from yolodata.doctor.setup import Setup
from yolodata.errors import DatasetError

SIDES = (48, 65)


def examined(data: Path, step_ms: float | None = 1.0, **arguments: Any) -> Outcome:
    """What the section finds; without a model, unless one is asked for."""
    given = {"imgsz": 64, "device": "cpu", "batch": 4, "workers": 0, **arguments}
    examination = Examination(Setup(str(data), given, step_ms=step_ms))
    examination.deadline = math.inf
    return examine(examination)


def only(outcome: Outcome) -> Finding:
    (found,) = outcome.findings
    assert found.complaint
    assert found.title
    assert found.evidence
    assert found.knob.text
    return found


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    return draw_dataset(folder / "set", {"train": 24, "val": 8}, sides=SIDES).parent


@pytest.fixture
def data(drawn: Path, tmp_path: Path) -> Path:
    """A dataset of its own for a test that breaks it."""
    yaml = Path(shutil.copytree(drawn, tmp_path / "set")) / "data.yaml"
    yaml.write_text(yaml.read_text().replace(str(drawn), str(yaml.parent)))
    return yaml


def label(data: Path, number: int, split: str = "train") -> Path:
    return data.parent / "labels" / split / f"{split}{number:03d}.txt"


def image(data: Path, number: int, split: str = "train") -> Path:
    return data.parent / "images" / split / f"{split}{number:03d}.jpg"


def test_nothing_is_said_of_a_good_dataset(drawn: Path, tmp_path: Path) -> None:
    outcome = examined(drawn / "data.yaml")
    assert not outcome.findings
    assert [text.partition(":")[0] for text in outcome.not_done] == ["learning rate"]
    train = outcome.measured["labels"]["train"]
    assert train["images"] == train["read"] == 24
    sizes = outcome.measured["box_sizes_px"]
    assert len(sizes["edges"]) == len(sizes["counts"]) + 1
    assert sum(sizes["counts"]) == train["objects"] == sum(train["by_class"].values()) > 24
    shards = packed(drawn / "data.yaml", tmp_path / "shards", "raw", 64)
    of_shards = examined(shards)
    assert not of_shards.findings
    assert of_shards.measured["labels"] == outcome.measured["labels"]


@pytest.mark.parametrize(("copied", "kind"), [(1, "breaks"), (0, "")])
def test_images_in_both_splits(data: Path, tmp_path: Path, copied: int, kind: str) -> None:
    for number in range(copied):
        shutil.copyfile(image(data, number + 3), image(data, number, "val"))
    shards = packed(data, tmp_path / "shards", "jpeg", 64)
    for outcome in (examined(data), examined(shards)):
        assert outcome.measured["overlap"] == copied
        assert [finding.kind for finding in outcome.findings] == [kind] * copied
        if copied:
            found = only(outcome)
            assert found.cause == "overlap"
            assert "1 of 8 validation images" in found.title
            assert "val/val000.jpg = train/train003.jpg" in found.evidence


def test_files_of_one_size_are_compared_by_content(data: Path) -> None:
    """Also where the budget ended before their contents were read for their labels."""
    from yolodata.doctor.convergence.copies import find_copies

    content = bytearray(image(data, 0).read_bytes() + bytes(5000))
    image(data, 0).write_bytes(content)
    image(data, 1).write_bytes(content)
    content[30] ^= 1  # far from the end, which is compared first
    image(data, 2).write_bytes(content)
    dataset = read_files(str(data), "detect", False, 0, 60)
    dataset.digests.clear()
    copies = find_copies(dataset, 60)
    assert [[Path(path).name for path in pair] for pair in copies.repeated] == [
        ["train001.jpg", "train000.jpg"]
    ]
    assert copies.complete
    late = find_copies(dataset, -1)
    assert not late.complete
    assert not late.repeated


def test_images_twice_in_train(data: Path) -> None:
    shutil.copyfile(image(data, 0), image(data, 9))
    found = only(examined(data))
    assert (found.cause, found.kind) == ("duplicates", "risk")
    assert "1 of 24" in found.title


@pytest.mark.parametrize(
    ("row", "cause"),
    [
        ("0 0.5 0.5 nan 0.2", "nan"),
        ("0 inf 0.5 0.2 0.2", "nan"),
        ("0 1.2 0.5 0.2 0.2", "boxes_outside"),
        ("0 0.5 -0.3 0.2 0.2", "boxes_outside"),
        ("7 0.5 0.5 0.2 0.2", "left_out"),
        ("0 0.5 0.5", "left_out"),
    ],
)
def test_labels_for_which_images_vanish(data: Path, tmp_path: Path, row: str, cause: str) -> None:
    label(data, 5).write_text(f"1 0.5 0.5 0.2 0.2\n{row}\n")
    shards = packed(data, tmp_path / "shards", "raw", 64)
    for outcome in (examined(data), examined(shards)):
        found = only(outcome)
        assert (found.cause, found.kind) == (cause, "risk")
        assert "1 of 32 images vanish" in found.title
        assert "train/train005.jpg: " in found.evidence


def test_coordinates_that_upstream_tolerates_are_no_complaint(data: Path) -> None:
    label(data, 5).write_text("1 0.5 0.5 1.009 0.2\n")
    assert not examined(data).findings


def test_images_that_cannot_be_read(data: Path) -> None:
    image(data, 4).write_bytes(b"no picture")
    image(data, 5).write_bytes(b"")
    found = only(examined(data))
    assert found.cause == "left_out"
    assert "2 of 32 images" in found.title
    assert "train004.jpg: no image" in found.evidence


def test_labels_that_are_missing(data: Path) -> None:
    for number in range(14):
        label(data, number).unlink()
    found = only(examined(data))
    assert (found.cause, found.kind) == ("unlabelled", "risk")
    assert "14 of them without a label file" in found.evidence
    for number in range(14, 24):
        label(data, number).write_text("")
    outcome = examined(data)
    assert [(f.cause, f.kind) for f in outcome.findings] == [("unlabelled", "breaks")]


def test_boxes_that_are_too_small(data: Path) -> None:
    assert not examined(data, imgsz=64).findings
    for number in range(24):
        label(data, number).write_text("0 0.5 0.5 0.2 0.2\n1 0.3 0.3 0.03 0.2\n2 0.3 0.6 0.3 0.3\n")
    found = only(examined(data))
    assert found.cause == "tiny_boxes"
    assert "33%" in found.title
    assert found.knob.settings == {}  # the images have no more pixels
    assert "tiles" in found.knob.text
    found = only(examined(data, imgsz=32))
    assert found.cause == "tiny_boxes"


def test_a_larger_size_is_named_where_the_images_have_it(tmp_path: Path) -> None:
    yaml = draw_dataset(tmp_path / "set", {"train": 4, "val": 2}, sides=(300, 301))
    for number in range(4):
        label(yaml, number).write_text("0 0.5 0.5 0.03 0.03\n1 0.2 0.2 0.2 0.2\n")
    for number in range(2):
        label(yaml, number, "val").write_text("1 0.5 0.5 0.2 0.2\n")
    found = only(examined(yaml, imgsz=64))
    settings = found.knob.settings
    assert settings == {"imgsz": 128}
    assert not examined(yaml, **settings).findings


def test_classes_without_objects_and_one_that_is_nearly_all(data: Path) -> None:
    for number in range(24):
        label(data, number).write_text("0 0.5 0.5 0.2 0.2\n")
    outcome = examined(data)
    found = only(outcome)
    assert found.cause == "class_imbalance"
    assert "square" in found.evidence
    for number in range(8):
        label(data, number, "val").write_text("0 0.5 0.5 0.2 0.2\n")
    assert not examined(data).findings  # nobody trains on several classes here
    rows = "".join(f"0 0.5 0.5 0.2 {0.2 + k / 100}\n" for k in range(60))
    label(data, 0).write_text(rows + "1 0.5 0.5 0.2 0.2\n")
    found = only(examined(data))
    assert (found.cause, found.knob.settings) == ("class_imbalance", {"cls_pw": 0.5})
    assert not examined(data, single_cls=True).findings


def test_a_validation_split_without_images_is_said_in_one_line(data: Path) -> None:
    shutil.rmtree(data.parent / "images" / "val")
    (data.parent / "images" / "val").mkdir()
    outcome = examined(data)
    assert not outcome.findings
    (line,) = [text for text in outcome.not_done if "validation" in text]
    assert "no images in" in line
    shutil.rmtree(data.parent / "images" / "train")
    with pytest.raises(DatasetError, match="train"):
        examined(data)


def schedule(data: Path, images: int = 205, ranks: int = 1, **arguments: Any) -> Any:
    setup = Setup(str(data), arguments)
    made = schedule_of(setup, images, 3, ranks)
    assert (devices("0,1"), devices([2]), devices("cpu")) == (["0", "1"], ["2"], [])
    return made, [(found.cause, found.kind) for found in judge_schedule(setup, made)]


def test_the_schedule_is_upstreams(drawn: Path) -> None:
    """Oracle: the trainer itself, with batches of nothing."""
    from yolodata.doctor.step import ModelStep

    data = drawn / "data.yaml"
    for arguments in ({}, {"optimizer": "sgd", "lr0": 0.02, "batch": 24, "nbs": 96}):
        given = {"model": training.network(), "imgsz": 64, "device": "cpu", **arguments}
        trainer = ModelStep(Setup(str(data), given)).trainer
        made, _ = schedule(data, trainer.batch_size * 1000, **given)
        assert made.optimizer == type(trainer.optimizer).__name__
        assert made.accumulate == trainer.accumulate
        rates = {group["initial_lr"] for group in trainer.optimizer.param_groups}
        assert made.lr == min(rates)
        assert made.warmup_steps == trainer._get_warmup_iterations(1000)
        assert made.bias_lr == trainer.args.warmup_bias_lr


@pytest.mark.parametrize(
    ("arguments", "causes"),
    [
        ({}, []),
        ({"epochs": 300, "batch": 64, "optimizer": "SGD", "lr0": 0.02}, []),
        ({"lr0": 0.003}, [("learning_rate", "risk")]),
        ({"batch": 2}, [("batch_norm", "risk")]),
        ({"batch": 8, "ranks": 4}, [("batch_norm", "risk")]),
        ({"epochs": 12, "close_mosaic": 12}, [("close_mosaic", "risk")]),
        ({"epochs": 12, "close_mosaic": 12, "mosaic": 0.0}, []),
        ({"epochs": 20, "warmup_epochs": 15}, [("learning_rate", "risk")]),
        ({"patience": 2}, [("patience", "risk")]),
        ({"patience": 0}, []),
        ({"batch": 256, "optimizer": "SGD"}, [("learning_rate", "opportunity")]),
    ],
)
def test_settings(drawn: Path, arguments: dict[str, Any], causes: list[tuple[str, str]]) -> None:
    assert schedule(drawn / "data.yaml", **arguments)[1] == causes


def test_which_optimizer_auto_is(drawn: Path) -> None:
    data = drawn / "data.yaml"
    small, _ = schedule(data)
    assert (small.optimizer, small.lr) == ("AdamW", 0.001429)
    large, _ = schedule(data, 118_287)
    assert (large.optimizer, large.lr, large.accumulate) == ("MuSGD", 0.01, 4)
    assert schedule(data, 118_287, fraction=0.01)[0].optimizer == "AdamW"
    assert schedule(data, 10, warmup_epochs=0.0)[0].warmup_updates == 0
    assert schedule(data, 16, batch=16, nbs=16, warmup_epochs=7.0)[0].warmup_updates == 7


class Rates:
    """Trials by a rule: up to which rates the loss falls, with and without warm-up."""

    def __init__(self, warm: float, cold: float) -> None:
        self.warm, self.cold, self.made = warm, cold, []

    def try_rate(self, lr: float, warmup: int, ends: float) -> Trial:
        good = lr <= (self.warm if warmup > 5 else self.cold)
        losses = [9.0, 8.0, 6.0, 5.0, 4.0] if good else [9.0, 9.0, 40.0, 3.0, 0.01]
        self.made.append((lr, warmup))
        return Trial(lr, warmup, tuple(losses))


@pytest.mark.parametrize(
    ("lr", "warmup_epochs", "warm", "cold", "cause", "settings"),
    [
        (0.01, 3.0, 0.1, 0.1, "", {}),
        (0.01, 0.0, 0.1, 0.1, "", {}),
        (0.5, 3.0, 0.1, 0.1, "learning_rate", {"lr0": 0.02}),
        (0.5, 0.0, 0.1, 0.1, "learning_rate", {"lr0": 0.02}),
        (0.3, 0.0, 0.4, 0.1, "no_warmup", {"warmup_epochs": 8.0}),
        (0.9, 3.0, 1e-9, 1e-9, "learning_rate", {}),
    ],
)
def test_what_trials_say(
    drawn: Path, lr: float, warmup_epochs: float, warm: float, cold: float, cause: str,
    settings: dict[str, Any],
) -> None:  # fmt: skip
    made, _ = schedule(drawn / "data.yaml", optimizer="SGD", lr0=lr, warmup_epochs=warmup_epochs)
    bench: Any = Rates(warm, cold)
    trials = search(bench, made, 1.0)
    found = list(judge_trials(made, trials))
    assert [finding.cause for finding in found] == [cause] * bool(cause)
    if not cause:
        assert len(trials) == 1  # a good set-up costs one
    elif settings:
        assert found[0].knob.settings == settings
        assert found[0].kind == "breaks"
        assert found[0].measured
    else:  # nothing that was tried serves
        assert not found[0].measured


def test_a_rate_that_warm_up_saves_may_be_large(drawn: Path) -> None:
    made, _ = schedule(drawn / "data.yaml", optimizer="AdamW", lr0=0.2, warmup_epochs=0.0)
    wrecked = Trial(0.2, 0, (9.0, 60.0, 8.0, 6.0, 5.0))
    for warmed, lower, causes in (
        (3.0, 2.1, [("no_warmup", "breaks")]),
        (3.0, 1.9, [("no_warmup", "breaks"), ("learning_rate", "risk")]),
        (60.0, 1.9, [("learning_rate", "breaks")]),
    ):
        trials = [wrecked, Trial(0.2, 20, (9.0, *[warmed] * 5)), Trial(0.04, 0, (9.0, *[8.0] * 5)),
                  Trial(0.008, 0, (9.0, *[lower] * 5))]  # fmt: skip
        found = list(judge_trials(made, trials))
        assert [(one.cause, one.kind) for one in found] == causes
        settings = {name: value for one in found for name, value in one.knob.settings.items()}
        assert settings.get("lr0", 0.008) == 0.008


def test_what_wrecks() -> None:
    def trial(*losses: float, skipped: int = 0) -> Trial:
        return Trial(0.1, 0, losses, skipped=skipped)

    assert not trial(9, 9.5, 8, 7, 6, 5, 5, 5).wrecked
    assert trial(9, math.nan).wrecked
    assert trial(9, 20, 8, 7, 7, 7, 7, 7).wrecked
    assert trial(9, 5, *(0.001,) * 6).wrecked
    late = trial(9, 8, 7, 2, 4.5, 0.08, 0.04, 0.02, 0.015)  # just now: the mean is 0.9
    assert late.wrecked
    assert "to 0.015" in str(late)
    (found,) = judge_trials(_of("AdamW"), [trial(math.nan)])
    assert found.cause == "nan"
    good = trial(9, 8, 7, 6, 5)
    (found,) = judge_half(good, trial(9, 9, 9, 9, 9, skipped=STEPS))
    assert (found.cause, found.knob.settings) == ("half_precision", {"amp": "bf16"})
    assert not list(judge_half(good, trial(9, 8, 7, 6, 5, skipped=3)))
    assert not list(judge_half(trial(math.nan), trial(math.nan)))


def _of(optimizer: str) -> Any:
    from yolodata.doctor.convergence.schedule import Schedule

    return Schedule(optimizer, 0.1, False, 16, 1, 10, 100, 4, 64, 0, 0, 0.0)


def test_a_rate_is_tried_on_files(drawn: Path) -> None:
    """Trained steps: one, the most that Ultralytics takes, is far too much on any processor."""
    given = {"model": training.network(), "nbs": 4, "optimizer": "SGD", "lr0": 1.0}
    found = only(examined(drawn / "data.yaml", None, **given))
    assert (found.cause, found.kind, found.measured) == ("learning_rate", "breaks", True)
    assert found.knob.settings["lr0"] <= 0.1


def test_a_rate_is_tried_on_shards(drawn: Path, tmp_path: Path) -> None:
    """The usual rate is good, and a trial repeats itself to the last digit."""
    shards = packed(drawn / "data.yaml", tmp_path / "shards", "raw", 96)
    given = {"model": training.network(), "imgsz": 96, "nbs": 4, "optimizer": "SGD"}
    outcome = examined(shards, None, **given)
    assert not outcome.findings
    assert not outcome.not_done
    (trial,) = outcome.measured["trials"]
    assert len(trial["losses"]) == len(trial["gradient_norms"]) == STEPS
    assert trial["losses"][-1] < 0.8 * trial["losses"][0]
    assert examined(shards, None, **given).measured["trials"] == [trial]
