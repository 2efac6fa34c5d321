"""The training loader: one stream, whatever the threads, the ranks and the interruptions."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loading import digest, draw_dataset, grouped, packed, sample_digests

import yolodata
from yolodata.errors import ConfigError
from yolodata.parity.validation import differences, upstream_dataset
from yolodata.pipeline.config import AugmentConfig
from yolodata.pipeline.loader import Loader
from yolodata.pipeline.options import Ranks
from yolodata.pipeline.schedule import Schedule
from yolodata.pipeline.validation import ValidationLoader

IMAGES = 61  # a prime: nothing divides it
IMGSZ = 64
AUGMENT = AugmentConfig(imgsz=IMGSZ, mosaic=0.8, mixup=0.3, cutmix=0.3, degrees=5.0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("source"), {"train": IMAGES}, sides=(40, 110))


@pytest.fixture(scope="module", params=["raw", "jpeg"])
def shards(request: pytest.FixtureRequest, source: Path) -> Iterator[Path]:
    codec, _, window = request.param.partition(", ")
    with pytest.MonkeyPatch.context() as patch:
        if window:  # as of a large dataset: mosaic partners are near in time
            small = {"streams": 4, "window": 3}
            patch.setattr("yolodata.pipeline.subset.reuse_window", lambda images: small)
        yield packed(source, source.parent / codec, codec, IMGSZ)


every_path = pytest.mark.parametrize(
    "shards", ["raw", "jpeg", "jpeg, small window"], indirect=True, scope="module"
)


def make(shards: Path, batch_size: int = 8, **settings: Any) -> Loader:
    return Loader(
        shards,
        batch_size,
        **grouped(**{"augment": AUGMENT, "threads": 2, "prefetch": 2, **settings}),
    )


def samples(loader: Loader, epochs: int = 1) -> list[str]:
    return [d for _ in range(epochs) for batch in loader for d in sample_digests(batch)]


def ranks(shards: Path, world_size: int, batch_size: int, **settings: Any) -> list[Loader]:
    settings |= {"world_size": world_size}
    return [make(shards, batch_size, rank=r, **settings) for r in range(world_size)]


def dealt(batches: Sequence[dict[str, Any]]) -> list[str]:
    """Samples of one step of all ranks, in the order of the stream."""
    shares = [sample_digests(batch) for batch in batches]
    return [d for same_place in zip(*shares, strict=True) for d in same_place]


def together(loaders: Sequence[Loader]) -> list[str]:
    """One epoch of all ranks, with the repetitions that fill its last step."""
    return [d for batches in zip(*loaders, strict=True) for d in dealt(batches)]


def close(loaders: Sequence[Loader]) -> None:
    for loader in loaders:
        loader.close()


@pytest.fixture(scope="module")
def stream(shards: Path) -> list[str]:
    """Digests of three epochs of samples, in order."""
    with make(shards, 7) as loader:
        return samples(loader, 3)


def test_shards_in_a_folder_of_any_name(shards: Path, tmp_path: Path) -> None:
    """A name is of any bytes but / and 0."""
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))
    folder.symlink_to(shards, target_is_directory=True)
    with make(folder) as loader, make(shards) as plain:
        assert digest(next(iter(loader))) == digest(next(iter(plain)))
    with ValidationLoader(folder, 4, split="train") as loader:
        assert len(next(iter(loader))["img"]) == 4


@every_path
def test_stream_does_not_depend_on_threads_or_prefetch(shards: Path) -> None:
    def epochs(**settings: Any) -> list[str]:
        with make(shards, **settings) as loader:
            return [digest(batch) for _ in range(3) for batch in loader]

    one = epochs(threads=1, prefetch=1)
    assert epochs(threads=2) == one
    assert epochs(threads=4, prefetch=5) == one
    assert len(set(one)) == len(one) == 3 * 8
    assert not set(epochs(seed=1)) & set(one)  # the negative control


@pytest.mark.parametrize("world_size", [1, 2, 4])
@every_path
def test_ranks_together_are_one_stream(shards: Path, stream: list[str], world_size: int) -> None:
    loaders = ranks(shards, world_size, 3)
    assert len({len(loader) for loader in loaders}) == 1
    for epoch in range(3):
        got = together(loaders)
        assert len(got) - IMAGES == -IMAGES % world_size
        expected = stream[epoch * IMAGES :][:IMAGES]
        assert got == [*expected, *expected[: len(got) - IMAGES]]  # wraps around
    close(loaders)


@pytest.mark.parametrize(("before", "after"), [(1, 1), (4, 2)])
@pytest.mark.parametrize("shards", ["raw", "jpeg, small window"], indirect=True, scope="module")
def test_resumes_at_every_position(
    shards: Path, stream: list[str], before: int, after: int
) -> None:
    """One process as one, and two after there were four: all that is left of the epoch follows."""
    states = []
    for batch_size in (1, 3):
        loaders = ranks(shards, before, batch_size)
        own = [loader.state_dict() for loader in loaders]
        for _ in range(3):
            for _batches in zip(*loaders, strict=True):
                states.append(json.loads(json.dumps(own[0])))
                own = [loader.state_dict() for loader in loaders]
                assert own == [own[0]] * before
        close(loaders)
    for state in random.Random(0).sample(states, 50):
        loaders = ranks(shards, after, 7, epochs=3)
        for loader in loaders:
            loader.load_state_dict(state)
        got, left = together(loaders), IMAGES - state["position"]
        start = state["epoch"] * IMAGES + state["position"]
        assert got[:left] == stream[start : start + left]
        assert len(got) - left < after
        if state["epoch"] < 2:  # and then the next one
            head = dealt([next(iter(loader)) for loader in loaders])
            assert head == stream[start + left :][: len(head)]
        close(loaders)


def test_state_counts_what_was_handed_out(shards: Path) -> None:
    with make(shards, 8, prefetch=5) as loader:
        iterator = iter(loader)
        assert loader.state_dict()["position"] == 0
        for handed_out in range(1, 4):
            next(iterator)
            assert loader.state_dict()["position"] == 8 * handed_out


def test_state_of_something_else_is_refused(shards: Path, source: Path) -> None:
    with make(shards) as loader:
        state = loader.state_dict()
    with (
        make(shards, augment=replace(AUGMENT, degrees=7.0), fraction=0.5) as other,
        pytest.raises(ConfigError) as error,
    ):
        other.load_state_dict(state)
    text = str(error.value)
    assert "settings.augment.degrees: 5.0 in the state, 7.0 in this loader" in text
    assert f"dataset.images: {IMAGES} in the state, 30 in this loader" in text
    assert "settings.fraction" in text
    assert "mosaic" not in text
    with make(shards) as loader, pytest.raises(ConfigError, match="lacks"):
        loader.load_state_dict({"epoch": 0})


def test_epochs(shards: Path, stream: list[str]) -> None:
    def epoch_of(loader: Loader) -> int:
        return stream.index(samples(loader)[0]) // IMAGES

    with make(shards) as loader:
        enumerate(loader)  # not begun: does not count
        assert epoch_of(loader) == 0
        assert epoch_of(loader) == 1
        loader.set_epoch(0)
        assert epoch_of(loader) == 0
        first = iter(loader)
        next(first)  # given up half-way
        assert epoch_of(loader) == 2
        with pytest.raises(ConfigError, match="ended by a later one"):
            next(first)
        loader.set_epoch(1)
        next(iter(loader))
        loader.set_epoch(1)
        assert epoch_of(loader) == 1

        loader.set_epoch(1)
        iterator = iter(loader)
        next(iterator)
        state = loader.state_dict()
    with make(shards) as resumed:
        resumed.load_state_dict(state)
        resumed.set_epoch(1)  # as a trainer does; keeps the position
        assert samples(resumed) == stream[IMAGES + 8 : 2 * IMAGES]


def test_close_mosaic_takes_effect_at_once(shards: Path) -> None:
    with make(shards, augment=AUGMENT.without_mix()) as loader:
        closed = samples(loader, 2)
    with make(shards) as loader:
        mixed = samples(loader, 2)
    with make(shards, prefetch=4) as loader:
        iterator = iter(loader)
        got = sample_digests(next(iterator)) + sample_digests(next(iterator))
        loader.dataset.close_mosaic(hyp=None)  # what upstream's trainer calls
        state = loader.state_dict()
        got += [d for batch in iterator for d in sample_digests(batch)]
        assert loader.telemetry.read().counts["discarded"] == 4
    assert got == mixed[:16] + closed[16:IMAGES]
    assert mixed[16:24] != closed[16:24]
    with make(shards) as resumed:
        resumed.load_state_dict(state)
        assert samples(resumed) == closed[16:IMAGES]
    with make(shards, close_mosaic_epoch=1) as loader:
        assert samples(loader, 2) == mixed[:IMAGES] + closed[IMAGES:]
        assert loader.telemetry.read().counts.get("discarded", 0) == 0


@pytest.mark.parametrize("mosaic", [0.0, 1.0])
def test_batch_is_what_upstream_collates(shards: Path, source: Path, mosaic: float) -> None:
    dataset = upstream_dataset(source, "train", IMGSZ, "train", 8, mosaic=mosaic)
    theirs = dataset.collate_fn([dataset[i] for i in range(8)])
    augment = AugmentConfig(imgsz=IMGSZ, mosaic=mosaic)
    with make(shards, augment=augment, shuffle=False) as loader:
        ours = next(iter(loader))
    # Pixels and labels are drawn differently; everything else is the same.
    assert set(differences(ours, theirs)) <= {"img", "cls", "bboxes", "batch_idx"}
    for key in ("img", "cls", "bboxes", "batch_idx"):
        assert ours[key].dtype == theirs[key].dtype
        assert ours[key].shape[1:] == theirs[key].shape[1:]
        assert ours[key].is_contiguous()
    assert (ours["batch_idx"].diff() >= 0).all()
    assert len(ours["cls"]) == len(ours["bboxes"]) == len(ours["batch_idx"]) > 0


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"fraction": 0.33},
        {"fraction": 7},
        {"classes": [0, 2]},
        {"classes": [1], "single_cls": True, "fraction": 20},
    ],
)
def test_selects_what_upstream_selects(
    shards: Path, source: Path, settings: dict[str, Any]
) -> None:
    theirs = upstream_dataset(source, "train", IMGSZ, "train", 8, **settings)
    with make(shards, **settings) as loader:
        ours = loader.dataset
        assert len(ours) == len(theirs) == len(ours.labels)
        assert list(ours.im_files) == theirs.im_files
        for mine, label in zip(ours.labels, theirs.labels, strict=True):
            assert mine["im_file"] == label["im_file"]
            assert mine["shape"] == label["shape"]
            for key in ("cls", "bboxes"):
                assert mine[key].dtype == label[key].dtype
                np.testing.assert_array_equal(mine[key], label[key])
        assert len(loader.sampler) == len(theirs)
        assert sorted(loader.sampler) == list(range(len(theirs)))
        # No object of a class that was left out comes back through the native planner.
        wanted = {0.0} if settings.get("single_cls") else set(settings.get("classes", [0, 1, 2]))
        assert set(torch.cat([batch["cls"] for batch in loader]).flatten().tolist()) <= wanted


def polygons_instead_of_boxes(label: Path) -> None:
    lines = []
    for line in label.read_text().split("\n"):
        if line.strip():
            cls, x, y, w, h = (float(v) for v in line.split())
            points = (x - w / 2, y, x, y + h / 2, x + w / 2, y, x, y - h / 2)
            lines.append(" ".join([str(int(cls)), *(f"{v:.6f}" for v in points)]))
    label.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize("mixed", [False, True])
def test_polygons_count_only_if_all_objects_have_one(tmp_path: Path, mixed: bool) -> None:
    source = draw_dataset(tmp_path / "source", {"train": 12})
    for label in sorted((source.parent / "labels/train").iterdir())[mixed:]:
        polygons_instead_of_boxes(label)
    out = packed(source, tmp_path / "out", "raw", IMGSZ)
    for settings in ({}, {"classes": [0, 1]}):
        theirs = upstream_dataset(source, "train", IMGSZ, "train", 8, **settings)
        with make(out, **settings) as loader:
            assert (loader._subset.polygon is None) == mixed
            list(loader)
            for mine, label in zip(loader.dataset.labels, theirs.labels, strict=True):
                np.testing.assert_array_equal(mine["bboxes"], label["bboxes"])
                assert len(mine["segments"]) == len(label["segments"])
                for ours, segment in zip(mine["segments"], label["segments"], strict=True):
                    np.testing.assert_array_equal(ours, segment)


def test_fraction_counts_what_was_left_out(tmp_path: Path) -> None:
    source = draw_dataset(tmp_path / "source", {"train": 20})
    for name in ("train003x", "train004x", "train015x"):
        (source.parent / f"images/train/{name}.jpg").write_bytes(b"not a picture")
    out = packed(source, tmp_path / "out", "raw", IMGSZ)
    for fraction in (1.0, 0.5, 0.2, 0.9, 1, 4, 5, 6, 7, 21, 99):
        theirs = upstream_dataset(source, "train", IMGSZ, "train", 8, fraction=fraction)
        with make(out, fraction=fraction) as loader:
            assert list(loader.dataset.im_files) == theirs.im_files


@given(
    images=st.integers(1, 200),
    batch_size=st.integers(1, 20),
    world_size=st.integers(1, 9),
    drop_last=st.booleans(),
    start=st.integers(0, 199),
)
def test_schedule(
    images: int, batch_size: int, world_size: int, drop_last: bool, start: int
) -> None:
    ranks = [
        Schedule(images, batch_size, Ranks(r, world_size), drop_last) for r in range(world_size)
    ]
    assert len({(s.steps, s.samples, s.drops) for s in ranks}) == 1

    def deal(position: int) -> list[list[int]]:
        steps = []
        while True:
            shares = [s.batch(position) for s in ranks]
            if shares[0] is None:
                assert shares == [None] * world_size
                return steps
            assert len({len(share[0]) for share in shares}) == 1  # type: ignore[index]
            assert len(shares[0][0]) <= batch_size
            order = np.stack([share[0] for share in shares], axis=1)  # type: ignore[index]
            steps.append(order.flatten().tolist())
            position = shares[0][1]

    steps = deal(0)
    assert len(steps) == ranks[0].steps > 0
    dealt = [position for step in steps for position in step]
    if ranks[0].drops:
        assert all(len(step) == batch_size * world_size for step in steps)
        assert dealt[: len(dealt)] == [i % images for i in range(len(dealt))]
    else:
        assert dealt == [i % images for i in range(-(-images // world_size) * world_size)]
    if start < images and not drop_last:
        rest = [position for step in deal(start) for position in step]
        assert rest[: images - start] == list(range(start, images))
        assert len(rest) - (images - start) < world_size


def test_settings_are_checked(shards: Path) -> None:
    for settings, message in (
        ({"batch_size": 0}, "batch_size must be at least 1, got 0"),
        ({"rank": 2, "world_size": 2}, "rank must be 0 to 1"),
        ({"threads": 0}, "threads must be 1 to 1024, got 0"),
        ({"threads": 10**6}, "threads must be 1 to 1024, got 1000000"),
        ({"prefetch": 0}, "prefetch must be 1 to 256, got 0"),
        ({"prefetch": 10**9}, "prefetch must be 1 to 256, got 1000000000"),
        ({"world_size": 10**9}, "world_size must be 1 to 1000000, got 1000000000"),
        ({"fraction": 10**400}, "fraction must be a finite number"),
        ({"seed": -1}, "seed must be 0 to"),
        ({"fraction": 0}, "fraction must be"),
        ({"fraction": 1.5}, "fraction=1.5 is above 1"),
        ({"classes": [0, 9]}, r"names \[9\]"),
        ({"max_unreadable": 2}, "max_unreadable"),
        ({"batch_size": 2.5}, "batch_size must be a whole number, got 2.5"),
        ({"threads": 1.5}, "threads must be a whole number, got 1.5"),
        ({"prefetch": True}, "prefetch must be a whole number, got True"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"seed": 1 << 64}, r"seed must be 0 to 2\*\*64 - 1, got"),
        ({"rank": "0"}, "rank must be a whole number, got '0'"),
        ({"epochs": 2.5}, "epochs must be a whole number"),
        ({"close_mosaic_epoch": "last"}, "close_mosaic_epoch must be a whole number, got 'last'"),
        ({"classes": 3}, "classes must be a list of whole numbers, got 3"),
        ({"classes": ["a"]}, "each of classes must be a whole number, got 'a'"),
        ({"fraction": "x"}, "fraction must be a finite number, got 'x'"),
    ):
        with pytest.raises(ConfigError, match=message):
            make(shards, **settings)
    for settings, message in (
        ({"classes": 3}, "classes must be a list"),
        ({"fraction": "x"}, "fraction must be a finite number"),
        ({"threads": 1.5}, "threads must be a whole number"),
        ({"pad": -1}, "pad must be 0 to 32768, got -1"),
        ({"pad": 1e9}, "pad must be 0 to 32768, got 1e.09"),
        ({"pad": 1500}, f"make pictures of up to {1502 * 32} pixels a side .* at most 32768 are"),
        ({"stride": 10**6}, "stride must be 1 to 16384 pixels, got 1000000"),
        ({"imgsz": -64}, "imgsz must be 10 to 16384 pixels, got -64"),
        ({"imgsz": 64.0}, "imgsz must be a whole number, got 64.0"),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
    ):
        with pytest.raises(ConfigError, match=message):
            ValidationLoader(shards, **grouped(split="train", **{"batch_size": 8, **settings}))
    with make(shards) as loader, pytest.raises(ConfigError, match=r"0 to 2\*\*32 - 1, got -1"):
        loader.set_epoch(-1)
    dataset = yolodata.open_shards(shards, split="train")
    for place, message in (
        ({"seed": -1}, r"seed must be 0 to 2\*\*64 - 1, got -1"),
        ({"epoch": 99999999999}, r"epoch must be 0 to 2\*\*32 - 1, got 99999999999"),
        ({"position": IMAGES}, f"position must be 0 to {IMAGES - 1} for the {IMAGES} images"),
    ):
        with pytest.raises(ConfigError, match=message):
            yolodata.plan(AUGMENT, dataset, **place)
    for pair in ((0, 0), (2, 1), (0, 1e-6), (0.5, 1e30), (1, float("inf")), (0, 10**400)):
        with pytest.raises(ConfigError, match=r"scale must be a (finite )?number"):
            AugmentConfig(scale=pair)
    with pytest.raises(
        ConfigError, match=r"scale must be a number or \(min, max\), got \(1, 2, 3\)"
    ):
        AugmentConfig(scale=(1, 2, 3))
    for value in (9.0, True, 5):
        with pytest.raises(ConfigError, match="mosaic_grid must be 4 or 9"):
            AugmentConfig(mosaic_grid=value)


@pytest.mark.parametrize("name", ["RANK", "WORLD_SIZE"])
@pytest.mark.parametrize("value", ["one", "", "-1", "1.5", "1" * 5000])
def test_ranks_of_the_environment_are_checked(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=f"variable {name} must be a whole number, got '"):
        Ranks.from_env()


def test_batches_are_at_most_the_dataset(shards: Path) -> None:
    everything = {"batch_size": 10**30, "split": "train"}
    with make(shards, **everything) as loader, ValidationLoader(shards, **everything) as validation:
        for one in (loader, validation):
            assert one.batch_size == IMAGES
            assert [len(batch["im_file"]) for batch in one] == [IMAGES]


def test_numbers_of_numpy_are_numbers(shards: Path) -> None:
    augment = AugmentConfig(imgsz=np.int64(IMGSZ), mosaic=np.float32(0.5))
    with make(shards, np.int64(8), augment=augment, seed=np.int64(3)) as loader:
        next(iter(loader))
        json.dumps(loader.state_dict())


def test_any_sample_can_be_made_again(shards: Path) -> None:
    """plan, render and labels give what the loader gave at that position."""
    with make(shards, seed=7) as loader:
        loader.set_epoch(2)
        batch = next(iter(loader))
        config = loader.augment
    dataset = yolodata.open_shards(shards, split="train")
    for position in (0, 3):
        recipe = yolodata.plan(config, dataset, seed=7, epoch=2, position=position)
        layers = recipe.to_dict()["layers"]
        images = {tile["image"] for layer in layers for tile in layer["tiles"]}
        picture = yolodata.render(recipe, {i: dataset.image(i) for i in images})
        assert np.array_equal(picture, batch["img"][position].numpy())
        cls, boxes = yolodata.labels(recipe, dataset)
        rows = batch["batch_idx"] == position
        assert np.array_equal(cls, batch["cls"][rows].numpy())
        assert np.array_equal(boxes, batch["bboxes"][rows].numpy())


def test_a_sample_with_pasted_objects_can_be_made_again(tmp_path: Path) -> None:
    data = draw_dataset(tmp_path / "source", {"train": 16}, sides=(40, 110))
    for file in (tmp_path / "source" / "labels" / "train").iterdir():
        rows = [[float(value) for value in line.split()] for line in file.read_text().splitlines()]
        diamonds = [
            f"{c:.0f} {x} {y - h / 2} {x + w / 2} {y} {x} {y + h / 2} {x - w / 2} {y}"
            for c, x, y, w, h in filter(None, rows)
        ]
        file.write_text("\n".join(diamonds))
    out = packed(data, tmp_path / "out", "raw", IMGSZ)
    config = AugmentConfig(imgsz=IMGSZ, copy_paste=0.3, mosaic=0.5)
    with make(out, 16, augment=config) as loader:
        batch = next(iter(loader))
    pasted, dataset = 0, yolodata.open_shards(out, split="train")
    for position in range(16):
        recipe = yolodata.plan(config, dataset, position=position)
        layers = recipe.to_dict()["layers"]
        images = {tile["image"] for layer in layers for tile in layer["tiles"]}
        picture = yolodata.render(recipe, {i: dataset.image(i) for i in images})
        assert np.array_equal(picture, batch["img"][position].numpy())
        wanted = batch["bboxes"][batch["batch_idx"] == position].numpy()
        assert np.array_equal(yolodata.labels(recipe, dataset, config)[1], wanted)
        if any(layer["paste"] for layer in layers):
            pasted += 1
            assert np.array_equal(yolodata.labels(recipe, dataset)[1], wanted)
    assert 0 < pasted < 16
