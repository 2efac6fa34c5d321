"""Albumentations' transforms in the middle of a sample: upstream's pictures, and a pure stream."""

from __future__ import annotations

import threading
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from loading import digest, draw_dataset, grouped, packed, sample_digests
from training import network

import yolodata
from yolodata import AugmentConfig, ConfigError, Loader, YolodataError, _native
from yolodata.parity import kinds, tally, training, upstream
from yolodata.pipeline.albumentations.pool import render_with_transforms
from yolodata.pipeline.albumentations.transforms import composed, seeds

IMGSZ = 64
MIX: dict[str, Any] = {"mixup": 0.4, "cutmix": 0.4, "flipud": 0.5, "bgr": 0.5, "degrees": 10.0}


@pytest.fixture(scope="module")
def yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("set"), {"train": 30, "val": 4})


@pytest.fixture(scope="module")
def shards(yaml: Path) -> dict[str, Path]:
    return {c: packed(yaml, yaml.parent / c, c, IMGSZ) for c in ("raw", "jpeg")}


def test_halves_make_the_whole(shards: dict[str, Path]) -> None:
    config = AugmentConfig(imgsz=IMGSZ, **MIX)
    dataset = yolodata.open_shards(shards["raw"], split="train")
    changed = 0
    for position in range(len(dataset)):
        whole = yolodata.plan(config, dataset, position=position)
        placed, finished = _native.split_colour(whole)
        images = {
            tile["image"]: dataset.image(tile["image"])
            for layer in whole.to_dict()["layers"]
            for tile in layer["tiles"]
        }
        picture = yolodata.render(placed, images)
        again = yolodata.render(finished, {0: np.ascontiguousarray(picture.transpose(1, 2, 0))})
        wanted = yolodata.render(whole, images)
        assert (again == wanted).all()
        changed += bool((picture != wanted).any())
    assert changed > 20


def test_upstreams_pictures(albumentations: ModuleType, yaml: Path) -> None:
    source = upstream.Upstream(yaml, IMGSZ)
    hyp = {**MIX, "augmentations": kinds.transforms()}
    report = training.compare(source, hyp, 40, seed=3).report()
    assert report["identical_percent"] == 100.0
    assert not tally.missed("albumentations", "all", report)

    def other_seed(*args: Any) -> Any:
        return render_with_transforms(*args[:-1], args[-1] + 1)

    with patch.object(upstream, "render_with_transforms", other_seed):
        report = training.compare(source, hyp, 8, seed=3).report()
    assert tally.missed("albumentations", "all", report)


def test_a_loader_makes_every_sample_as_its_transforms_alone_would(
    albumentations: ModuleType, shards: dict[str, Path]
) -> None:
    """Also those that it renders in one go, because nothing fires."""
    A = albumentations
    transforms = composed([A.Blur(p=0.2), A.OneOf([A.ToGray(p=1.0), A.CLAHE(p=1.0)], p=0.2)])
    config = AugmentConfig(imgsz=IMGSZ, **MIX)
    dataset = yolodata.open_shards(shards["raw"], split="train")
    with Loader(
        dataset, 8, **grouped(augment=config, transforms=transforms, seed=5, threads=2)
    ) as loader:
        made = [picture for batch in loader for picture in batch["img"].numpy()]
        transformed = loader.telemetry.read().counts["transformed"]
    plain = 0
    for position, seed in enumerate(seeds(5, 0, np.arange(len(dataset)))):
        recipe = yolodata.plan(config, dataset, seed=5, position=position)
        tiles = [tile for layer in recipe.to_dict()["layers"] for tile in layer["tiles"]]
        images = {tile["image"]: dataset.image(tile["image"]) for tile in tiles}
        wanted = np.empty((3, IMGSZ, IMGSZ), np.uint8)
        render_with_transforms(recipe, images, wanted, transforms, seed)
        assert (made[position] == wanted).all()
        plain += bool((wanted == yolodata.render(recipe, images)).all())
    assert 5 < plain < len(dataset) - 5
    assert transformed >= len(dataset) - plain


def stream(shards: Path, transforms: Any, **settings: Any) -> list[str]:
    values = {"augment": AugmentConfig(imgsz=IMGSZ, **MIX), "threads": 2, "seed": 5, **settings}
    with Loader(shards, 8, **grouped(transforms=transforms, **values)) as loader:
        return [sample for batch in loader for sample in sample_digests(batch)]


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_the_stream_is_pure(
    albumentations: ModuleType, shards: dict[str, Path], codec: str
) -> None:
    transforms = kinds.transforms()
    whole = stream(shards[codec], transforms)
    assert whole == stream(shards[codec], albumentations.Compose(transforms), threads=1, prefetch=1)
    assert whole != stream(shards[codec], None)
    ranks = [stream(shards[codec], transforms, rank=r, world_size=2) for r in (0, 1)]
    assert sorted(set(whole)) == sorted({*ranks[0], *ranks[1]})
    settings: dict[str, Any] = {"augment": AugmentConfig(imgsz=IMGSZ, **MIX), "seed": 5}
    with Loader(shards[codec], 8, **grouped(transforms=transforms, **settings)) as loader:
        first = next(iter(loader))
        state = loader.state_dict()
    with Loader(shards[codec], 8, **grouped(transforms=transforms, **settings)) as loader:
        loader.load_state_dict(state)
        rest = [sample for batch in loader for sample in sample_digests(batch)]
    assert [*sample_digests(first), *rest] == whole
    with (
        Loader(shards[codec], 8, **grouped(**settings)) as loader,
        pytest.raises(ConfigError, match="transforms"),
    ):
        loader.load_state_dict(state)


def test_labels_and_pictures_of_a_loader(
    albumentations: ModuleType, shards: dict[str, Path]
) -> None:
    """Inverted twice is what it was; inverted once are the same labels under other pixels."""
    plain = {"augment": AugmentConfig(imgsz=IMGSZ, hsv_h=0, hsv_s=0, hsv_v=0), "threads": 2}
    invert = albumentations.InvertImg(p=1.0)
    with (
        Loader(shards["raw"], 8, **grouped(**plain)) as source,
        Loader(shards["raw"], 8, **grouped(transforms=[invert], **plain)) as once,
        Loader(shards["raw"], 8, **grouped(transforms=[invert, invert], **plain)) as twice,
    ):
        for a, b, c in zip(source, once, twice, strict=True):
            assert digest(a) == digest(c)
            assert ((255 - a.pop("img")) == b.pop("img")).all()
            assert digest(a) == digest(b)


def test_what_cannot_serve_is_refused(albumentations: ModuleType, shards: dict[str, Path]) -> None:
    A = albumentations
    for wrong, words in (
        (
            [A.OneOf([A.Blur(), A.HorizontalFlip()])],
            "got HorizontalFlip; leave these out, which may move or remove",
        ),
        (A.Blur(), "a list of transforms, got Blur"),
    ):
        with pytest.raises(ConfigError, match=words):
            Loader(shards["raw"], 4, transforms=wrong)
    with (
        Loader(shards["raw"], 4, transforms=[A.Normalize(p=1.0)]) as loader,
        pytest.raises(YolodataError, match=r"must return uint8 \(64, 64, 3\), got float32"),
    ):
        next(iter(loader))


class Failing:
    """A composition that fails."""

    def set_random_state(self, *generators: Any) -> None: ...

    def __call__(self, image: Any) -> Any:
        raise RuntimeError("no such luck")


def test_a_failing_transform_is_named(shards: dict[str, Path]) -> None:
    dataset = yolodata.open_shards(shards["raw"], split="train")
    recipe = yolodata.plan(AugmentConfig(imgsz=IMGSZ, mosaic=0.0), dataset)
    image = recipe.to_dict()["layers"][0]["tiles"][0]["image"]
    out = np.empty((3, IMGSZ, IMGSZ), np.uint8)
    with pytest.raises(YolodataError, match="a transform failed: RuntimeError: no such luck"):
        render_with_transforms(recipe, {image: dataset.image(image)}, out, Failing(), 1)


def test_closing_in_the_middle_leaves_nothing(
    albumentations: ModuleType, shards: dict[str, Path]
) -> None:
    before = threading.active_count()
    loader = Loader(
        shards["jpeg"], 8, **grouped(transforms=kinds.transforms(), prefetch=8, threads=2)
    )
    next(iter(loader))
    loader.close_mosaic()  # what was prepared is thrown away
    loader.close()
    assert threading.active_count() == before


def test_trainer_takes_them(albumentations: ModuleType, yaml: Path, tmp_path: Path) -> None:
    """What leaves objects in place runs in our loader; what moves them in upstream's."""
    from test_ultralytics import QUIET
    from ultralytics.cfg import get_cfg

    from yolodata.ultralytics.fallback import upstream_transforms, why_not

    A = albumentations

    def trainer(transforms: list[Any]) -> Any:
        values = {**QUIET, "project": str(tmp_path), "augmentations": transforms, "imgsz": IMGSZ}
        made = yolodata.DetectionTrainer(
            overrides={"model": network(), "data": str(yaml), "epochs": 1, **values}
        )
        return made

    made = trainer([A.ToGray(p=1.0)])
    loader = made.get_dataloader(made.data["train"], 4, -1, "train")
    assert isinstance(loader, Loader)
    grey = trainer([])
    plain = grey.get_dataloader(grey.data["train"], 4, -1, "train")
    for a, b in zip(loader, plain, strict=True):
        assert (a["bboxes"] == b["bboxes"]).all()
        assert a["im_file"] == b["im_file"]
    loader.close()
    plain.close()
    rotating = trainer([A.Rotate(p=1.0)])
    assert "got Rotate; leave these out, which may move" in rotating._fallback("train")
    assert rotating._fallback("val") is None
    # Where the package is installed, upstream applies a few transforms of its own.
    args = get_cfg(overrides={"task": "detect"})
    found = upstream_transforms(args)
    assert found is not None
    assert why_not(args, {}, transforms=found) is None
    assert composed(found) is found
