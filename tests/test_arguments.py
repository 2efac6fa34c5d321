"""Arguments of the loaders: what is wrong is said at once, with where it belongs."""

from __future__ import annotations

import inspect
import json
import logging
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
import torch
from ingesting import write_yolo

import yolodata
from yolodata import (
    AugmentConfig,
    ConfigError,
    DeviceOptions,
    EpochOptions,
    LabelOptions,
    Loader,
    Ranks,
    ReadOptions,
    ShardError,
    ValidationLoader,
)
from yolodata.errors import ArgumentError
from yolodata.ingest import PackSettings, pack
from yolodata.pipeline import subset
from yolodata.pipeline.misplaced import _GROUPS


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Boxes: no object has an outline."""
    root = tmp_path_factory.mktemp("arguments")
    write_yolo(root, {"train": 5, "val": 2})
    pack(root / "data.yaml", root / "out", PackSettings(imgsz=32), progress=False, workers=1)
    return root / "out"


WRONG = [
    (Loader, {"mosaic": 0.0}, "no argument mosaic; give augment=AugmentConfig(mosaic=0.0)"),
    (Loader, {"imgsz": 320}, "give augment=AugmentConfig(imgsz=320)"),
    (Loader, {"num_workers": 4}, "give reading=ReadOptions(threads=4)"),
    (Loader, {"workers": 4}, "give reading=ReadOptions(threads=4)"),
    (Loader, {"prefetch_factor": 2}, "give reading=ReadOptions(prefetch=2)"),
    (Loader, {"shuffle": False}, "give epochs=EpochOptions(shuffle=False)"),
    (Loader, {"drop_last": True}, "give epochs=EpochOptions(drop_last=True)"),
    (Loader, {"batch": 8}, "give batch_size=8"),
    (Loader, {"task": "pose"}, "give labels=LabelOptions(task='pose')"),
    (Loader, {"rank": 1}, "give ranks=Ranks(rank=1)"),
    (Loader, {"num_replicas": 2}, "give ranks=Ranks(world_size=2)"),
    (Loader, {"pin_memory": True}, "give device=DeviceOptions(pin_memory=True)"),
    (Loader, {"cache": "host"}, "give device=DeviceOptions(cache='host')"),
    (Loader, {"rect": True}, "it is of ValidationLoader: ValidationLoader(..., rect=True)"),
    (Loader, {"mosiac": 0.5}, "mosiac, but mosaic; give augment=AugmentConfig(mosaic=0.5)"),
    (Loader, {"sed": 1}, "has no argument sed, but seed; give seed=1"),
    (Loader, {"collate_fn": None}, "no argument collate_fn; there are shards, batch_size"),
    (ValidationLoader, {"mosaic": 0.0}, "only Loader takes it, as augment=AugmentConfig(mosaic=0"),
    (ValidationLoader, {"shuffle": False}, "as epochs=EpochOptions(shuffle=False): leave it out"),
    (ValidationLoader, {"num_workers": 2}, "give reading=ReadOptions(threads=2)"),
    (ValidationLoader, {"seed": 1}, "it is of Loader: Loader(..., seed=1)"),
    (ValidationLoader, {"augment": False}, "it is of Loader: Loader(..., augment=False)"),
    (Loader, {"augment": {"mosaic": 0.0}}, "augment must be AugmentConfig or None"),
    (Loader, {"augment": {"mosaic": 0.0}}, "give augment=AugmentConfig(mosaic=0.0)"),
    (Loader, {"augment": False}, "got False; give augment=AugmentConfig()"),
    (Loader, {"ranks": (0, 2)}, "give ranks=Ranks(0, 2)"),
    (Loader, {"labels": "segment"}, "give labels=LabelOptions(task='segment')"),
    (Loader, {"epochs": 100}, "give epochs=EpochOptions(epochs=100)"),
    (Loader, {"reading": 4}, "give reading=ReadOptions(threads=4)"),
    (ValidationLoader, {"ranks": 1}, "give ranks=Ranks(rank=1)"),
    (AugmentConfig, {"batch_size": 4}, "it is of Loader: Loader(..., batch_size=4)"),
    (AugmentConfig, {"shuffle": False}, "Loader(..., epochs=EpochOptions(shuffle=False))"),
    (LabelOptions, {"mosaic": 0.0}, "Loader(..., augment=AugmentConfig(mosaic=0.0))"),
    (AugmentConfig, {"hsv": 0.1}, "AugmentConfig has no argument hsv, but hsv_"),
    (AugmentConfig, {"zebra": 0.1}, "AugmentConfig has no argument zebra; there are imgsz, mosaic"),
    (ReadOptions, {"num_workers": 4}, "ReadOptions has no argument num_workers; give threads=4"),
    (DeviceOptions, {"threads": 4}, "of ReadOptions: Loader(..., reading=ReadOptions(threads=4))"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "wrong", "said"), WRONG)
def test_an_argument_in_the_wrong_place_is_told_where_it_belongs(
    shards: Path, made: Any, wrong: dict[str, Any], said: str
) -> None:
    given = (shards, 2) if made in (Loader, ValidationLoader) else ()
    for kind in (ConfigError, TypeError):
        with pytest.raises(kind) as error:
            made(*given, **wrong)
        assert said in str(error.value)


@pytest.mark.parametrize("name", ["AugmentConfig", "DeviceOptions", "Ranks", "ValidationLoader"])
def test_whichever_class_comes_first_knows_the_others(name: str) -> None:
    """In a process that has imported nothing else."""
    code = f"from yolodata import {name} as made\ntry: made(shuffle=False)\n"
    code += "except TypeError as error: print(error)"
    line = [sys.executable, "-c", code]
    done = subprocess.run(line, capture_output=True, text=True, check=True)
    assert "epochs=EpochOptions(shuffle=False)" in done.stdout


def test_what_the_hints_write_can_be_called() -> None:
    for group, name in _GROUPS.items():
        assert group in inspect.signature(Loader).parameters
        assert fields(getattr(yolodata, name))


@pytest.mark.parametrize("size", [0, -1, 2.5, "16", None, True])
def test_a_batch_size_is_a_number_of_pictures(shards: Path, size: Any) -> None:
    for made in (Loader, ValidationLoader):
        with pytest.raises(
            ConfigError, match=r"batch_size must be (at least 1|a whole number), got"
        ):
            made(shards, size)


@pytest.mark.parametrize("number", [np.int64, np.uint8, torch.tensor])
def test_whole_numbers_of_numpy_and_torch_become_pythons(shards: Path, number: Any) -> None:
    augment = AugmentConfig(imgsz=number(32), mosaic_grid=number(9))
    epochs = EpochOptions(close_mosaic_epoch=number(2), epochs=number(3))
    ranks = Ranks(number(1), number(2))
    reading = ReadOptions(threads=number(1), prefetch=number(2))
    fraction = 4 if number is torch.tensor else number(4)
    options = {
        "augment": augment, "epochs": epochs, "reading": reading, "ranks": ranks,
        "labels": LabelOptions(fraction=fraction, classes=[number(0)]), "seed": number(7),
    }  # fmt: skip
    assert (augment.imgsz, augment.mosaic_grid) == (32, 9)
    for group in options.values():
        if not isinstance(group, number if isinstance(number, type) else torch.Tensor):
            for field in fields(group):
                value = getattr(group, field.name)
                assert type(value) in (int, float, bool, str, tuple, type(None))
    with Loader(shards, number(2), **options) as loader:
        next(iter(loader))
        assert json.loads(json.dumps(loader.state_dict())) == loader.state_dict()
    with ValidationLoader(shards, 2, stride=number(16), imgsz=number(32)) as validation:
        assert next(iter(validation))["img"].shape[2] % 16 == 0


FLAGS = [
    (LabelOptions, "single_cls"), (LabelOptions, "overlap_mask"),
    (EpochOptions, "shuffle"), (EpochOptions, "drop_last"), (ReadOptions, "check"),
    (DeviceOptions, "channels_last"), (DeviceOptions, "pin_memory"), (ValidationLoader, "rect"),
]  # fmt: skip


@pytest.mark.parametrize(("made", "name"), FLAGS)
@pytest.mark.parametrize("wrong", ["no", "False", 0, None])
def test_a_flag_is_true_or_false(shards: Path, made: Any, name: str, wrong: Any) -> None:
    given = (shards, 2) if made is ValidationLoader else ()
    with pytest.raises(ConfigError, match=f"{name} must be True or False, got {wrong!r}"):
        made(*given, **{name: wrong})


def test_a_dataset_is_a_path_or_open(shards: Path) -> None:
    with Loader(PurePath(shards), 2) as loader:
        assert "train" in repr(loader)
    for made in (Loader, ValidationLoader):
        for wrong in (None, 5, bytes(shards), [shards]):
            with pytest.raises(ArgumentError, match=r"shards must be the path of .* got "):
                made(wrong, 2)
        with pytest.raises(ShardError, match=r"split must be one of them, got ''"):
            made(shards, 2, split="")


def test_one_sample_is_of_a_config_and_an_open_dataset(shards: Path) -> None:
    config = AugmentConfig(imgsz=32)
    with yolodata.open_shards(shards, "train") as opened:
        for wrong in (None, {"imgsz": 32}):
            with pytest.raises(ArgumentError, match="config must be an AugmentConfig, got "):
                yolodata.plan(wrong, opened)  # type: ignore[arg-type]
        recipe = yolodata.plan(config, opened)
    for path in (str(shards / "train"), shards / "train"):
        said = re.escape(f"give yolodata.open_shards('{path}')")
        with pytest.raises(ArgumentError, match=said):
            yolodata.plan(config, path)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match=said):
            yolodata.labels(recipe, path)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("device", "said"),
    [
        ("gpu", "must be cpu or cuda (cuda:0, …), got 'gpu'"),
        ("cuda:x", "got 'cuda:x'"),
        ("cuda:", "got 'cuda:'"),
        ("CUDA", "got 'CUDA'"),
        (0, "got '0'; give 'cuda:0'"),
        ("mps", "got 'mps'"),
        (None, "got 'None'"),
    ],
)
def test_a_device_that_there_cannot_be_is_refused(shards: Path, device: Any, said: str) -> None:
    for made in (Loader, ValidationLoader):
        with pytest.raises(ConfigError) as error:
            made(shards, 2, device=device)
        assert said in str(error.value)


def test_a_device_that_is_not_there_is_refused_at_construction(
    shards: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(said: str, *devices: str) -> None:
        for made in (Loader, ValidationLoader):
            for device in devices:
                with pytest.raises(ConfigError, match=said):
                    made(shards, 2, device=DeviceOptions(device))

    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    refused("torch finds no CUDA device; use device='cpu'", "cuda", "cuda:0")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("yolodata._native.cuda_build", lambda: "none")
    refused("built without CUDA; install it again with YOLODATA_CUDA=on", "cuda")
    monkeypatch.setattr("yolodata._native.cuda_build", lambda: "80")
    refused("there are 2 CUDA devices, counted from 0", "cuda:2")
    with Loader(shards, 2, device=torch.device("cuda:1")) as loader:
        assert loader.device == "cuda:1"


def test_a_loader_says_what_it_is(shards: Path) -> None:
    loader = Loader(
        shards,
        2,
        augment=AugmentConfig(imgsz=32, mosaic=0.0),
        labels=LabelOptions(single_cls=True),
        seed=7,
        ranks=Ranks(1, 2),
        epochs=EpochOptions(shuffle=False),
        reading=ReadOptions(threads=1),
    )
    where = str(shards / "train")
    with loader:
        loader.set_epoch(3)
        assert repr(loader) == (
            f"<Loader of {where}: 5 images for detect, batch_size=2, imgsz=32, device=cpu, "
            "cache=auto, seed=7, epoch=3, position=0, rank=1 of 2>"
        )
        next(iter(loader))
        assert "epoch=3, position=4, rank=1 of 2>" in repr(loader)
    assert repr(loader).endswith(", closed>")
    with ValidationLoader(shards, 2) as validation:
        assert repr(validation) == (
            f"<ValidationLoader of {shards / 'val'}: 2 images for detect, batch_size=2, imgsz=32, "
            "device=cpu, cache=auto, rank=0 of 1>"
        )


def test_copy_paste_without_outlines_warns_once(
    shards: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subset, "_without_outlines", set())
    pasting = AugmentConfig(imgsz=32, copy_paste=0.5)
    with caplog.at_level(logging.WARNING, "yolodata"):
        Loader(shards, 2, augment=AugmentConfig(imgsz=32))
        ValidationLoader(shards, 2)
        assert caplog.messages == []
        monkeypatch.setenv("RANK", "1")  # another rank says it
        Loader(shards, 2, augment=pasting)
        assert caplog.messages == []
        monkeypatch.delenv("RANK")
        for _ in range(2):
            Loader(shards, 2, augment=pasting)
    (said,) = caplog.messages
    assert said.startswith("copy_paste pastes nothing: ")
    assert f"objects in {shards / 'train'} have no outline" in said
    assert "copy_paste=0.0" in said


def test_copy_paste_of_outlines_does_not_warn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subset, "_without_outlines", set())
    write_yolo(tmp_path, {"train": 2, "val": 1})
    for file in tmp_path.rglob("labels/train/*.txt"):
        file.write_text("0 0.1 0.1 0.5 0.1 0.4 0.6\n")
    pack(
        tmp_path / "data.yaml", tmp_path / "out", PackSettings(imgsz=32), progress=False, workers=1
    )
    with caplog.at_level(logging.WARNING, "yolodata"):
        Loader(tmp_path / "out", 2, augment=AugmentConfig(imgsz=32, copy_paste=0.5))
    assert caplog.messages == []


@pytest.mark.parametrize("wrong", ["Blur", [None], [{"Blur": {"p": 0.1}}]])
@pytest.mark.usefixtures("albumentations")
def test_what_is_no_transform_is_named(shards: Path, wrong: Any) -> None:
    with pytest.raises(ConfigError, match=r"each of transforms must be a transform of Alb.*, got "):
        Loader(shards, 2, transforms=wrong)
