"""Whatever is done with loaders, in any order: the stream is the pure function, nothing is left.

A model of each loader (its place, its iterations) says what comes next; `plan`, `render` and
`labels` of single samples say what that looks like. Hypothesis draws what is done: always the same
few sequences, or, with `YOLODATA_MODEL_EXAMPLES=2000`, as many new ones, of which it shortens what
fails.
"""

from __future__ import annotations

import contextlib
import copy
import gc
import json
import math
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run
from loading import draw_dataset, packed

import yolodata
from yolodata import (
    AugmentConfig,
    ConfigError,
    EpochOptions,
    Loader,
    Ranks,
    ReadOptions,
    ShardDataset,
)
from yolodata.pipeline.schedule import MAX_EPOCH, MAX_SEED
from yolodata.shards import open as open_shards

IMAGES = 13  # a prime: nothing divides it
AUGMENT = AugmentConfig(imgsz=32, mosaic=0.7, mixup=0.3, cutmix=0.3, degrees=5.0)
CLOSE_MOSAIC_EPOCH = 2
CODECS = ("raw", "jpeg")
EXAMPLES = int(os.environ.get("YOLODATA_MODEL_EXAMPLES", "0"))

Place = tuple[int, int, int, bool]  # seed, epoch, position, whether mosaic was closed


class Reference:
    """Samples made one by one, each from (seed, epoch, position) alone."""

    def __init__(self, root: Path) -> None:
        self.paths = {codec: root / codec for codec in CODECS}
        self._shards = {c: open_shards(path, split="train") for c, path in self.paths.items()}
        self._made: dict[tuple[str, Place], list[Any]] = {}

    def sample(self, codec: str, place: Place) -> list[Any]:
        """Picture, classes, boxes and file of one sample, as bytes and text."""
        key = (codec, place)
        if key not in self._made:
            self._made[key] = self._make(self._shards[codec], *place)
        return self._made[key]

    def _make(
        self, shards: ShardDataset, seed: int, epoch: int, position: int, closed: bool
    ) -> list[Any]:
        closed = closed or epoch >= CLOSE_MOSAIC_EPOCH
        config = AUGMENT.without_mix() if closed else AUGMENT
        recipe = yolodata.plan(config, shards, seed=seed, epoch=epoch, position=position)
        tiles = [tile for layer in recipe.to_dict()["layers"] for tile in layer["tiles"]]
        images = {tile["image"]: shards.image(tile["image"]) for tile in tiles}
        picture = yolodata.render(recipe, images)
        cls, boxes = yolodata.labels(recipe, shards)
        return [
            picture.tobytes(), cls.tobytes(), boxes.tobytes(), shards.name(tiles[0]["image"])
        ]  # fmt: skip


def seen(batch: dict[str, Any]) -> list[list[Any]]:
    """The samples of a batch, as `Reference.sample` has them."""
    samples = []
    for i, file in enumerate(batch["im_file"]):
        mine = batch["batch_idx"] == i
        tensors = (batch["img"][i], batch["cls"][mine], batch["bboxes"][mine])
        samples.append([*(tensor.numpy().tobytes() for tensor in tensors), file])
    return samples


@dataclass(eq=False)
class Iteration:
    """What the model knows of one `iter(loader)`."""

    iterator: Iterator[dict[str, Any]]
    begun: bool = False
    ended: bool = False


@dataclass(eq=False)
class Model:
    """A loader, and where it must be."""

    loader: Loader
    codec: str
    batch_size: int
    ranks: Ranks
    drop_last: bool
    place: Place
    resumed: bool = False
    active: Iteration | None = None
    iterations: list[Iteration] = field(default_factory=list)

    def step(self, start: int) -> tuple[list[int], int] | None:
        """Positions of this rank from `start` on, and where the step ends; None: the epoch ends."""
        stop = min(start + self.batch_size * self.ranks.world_size, IMAGES)
        share = math.ceil((stop - start) / self.ranks.world_size)
        whole = math.ceil(IMAGES / self.ranks.world_size)
        dropped = self.drop_last and whole > self.batch_size and share < self.batch_size
        if share == 0 or dropped:
            return None
        first = start + self.ranks.rank
        return [(first + i * self.ranks.world_size) % IMAGES for i in range(share)], stop

    def next(self, iteration: Iteration) -> list[Place] | type[BaseException]:
        """Moves on: what `next(iterator)` must give, or raise."""
        seed, epoch, position, closed = self.place
        if iteration.ended:
            return StopIteration
        if iteration is not self.active:
            if iteration.begun:
                return ConfigError  # ended by a later one
            if position and not self.resumed:
                if epoch == MAX_EPOCH:
                    return ConfigError  # the last one
                epoch, position = epoch + 1, 0
            self.resumed, self.active, iteration.begun = False, iteration, True
        step = self.step(position)
        if step is None:
            iteration.ended, self.active = True, None
            if epoch < MAX_EPOCH:
                epoch, position = epoch + 1, 0
            self.place = (seed, epoch, position, closed)
            return StopIteration
        positions, stop = step
        self.place = (seed, epoch, stop, closed)
        return [(seed, epoch, p, closed) for p in positions]


def held() -> set[str]:
    """Threads and descriptors of this process, but for the one that lists them."""
    found = {f"thread {name}" for name in os.listdir("/proc/self/task")}
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.add(f"descriptor {name} of {os.readlink(f'/proc/self/fd/{name}')}")
    return found


class Loaders(RuleBasedStateMachine):
    """Up to three loaders, their iterations, and states that were saved."""

    reference: Reference

    def __init__(self) -> None:
        super().__init__()
        gc.collect()
        self.before = held()
        self.models: list[Model] = []
        self.states: list[tuple[str, dict[str, Any], Place]] = []
        self.kept: list[tuple[dict[str, Any], list[list[Any]]]] = []

    def any_of(self, some: list[Any], pick: int) -> Any:
        return some[pick % len(some)]

    @precondition(lambda self: len(self.models) < 3)
    @rule(
        codec=st.sampled_from(CODECS),
        io=st.sampled_from(("mmap", "pread", "by path")),
        batch_size=st.integers(1, 6),
        world_size=st.integers(1, 3),
        rank=st.integers(0, 2),
        drop_last=st.booleans(),
        threads=st.integers(1, 3),
        prefetch=st.integers(1, 4),
        check=st.booleans(),
        seed=st.sampled_from((0, 1, MAX_SEED)),
    )
    def open(
        self, codec: str, io: str, batch_size: int, world_size: int, rank: int, drop_last: bool,
        threads: int, prefetch: int, check: bool, seed: int,
    ) -> None:  # fmt: skip
        path = self.reference.paths[codec]
        ranks = Ranks(rank % world_size, world_size)
        loader = Loader(
            path if io == "by path" else open_shards(path, split="train", io=io),
            batch_size,
            augment=AUGMENT,
            seed=seed,
            epochs=EpochOptions(drop_last=drop_last, close_mosaic_epoch=CLOSE_MOSAIC_EPOCH),
            ranks=ranks,
            reading=ReadOptions(threads=threads, prefetch=prefetch, check=check),
        )
        place = (seed, 0, 0, False)
        self.models.append(Model(loader, codec, batch_size, ranks, drop_last, place))

    @precondition(lambda self: self.models)
    @rule(pick=st.integers(0, 5), epoch=st.sampled_from((0, 1, 2, 3, MAX_EPOCH)))
    def set_epoch(self, pick: int, epoch: int) -> None:
        model = self.any_of(self.models, pick)
        model.loader.set_epoch(epoch)
        seed, at, _, closed = model.place
        if not (model.resumed and epoch == at):
            model.place, model.resumed = (seed, epoch, 0, closed), False
        model.active = None

    @precondition(lambda self: self.models)
    @rule(pick=st.integers(0, 5), count=st.integers(1, 8), keep=st.booleans())
    def iterate(self, pick: int, count: int, keep: bool) -> None:
        """A new iteration, broken off after some batches, or at its end."""
        model = self.any_of(self.models, pick)
        model.iterations.append(Iteration(iter(model.loader)))
        self.go_on(pick, len(model.iterations) - 1, count, keep)

    @precondition(lambda self: any(model.iterations for model in self.models))
    @rule(
        pick=st.integers(0, 5), which=st.integers(0, 5), count=st.integers(1, 8), keep=st.booleans()
    )
    def go_on(self, pick: int, which: int, count: int, keep: bool) -> None:
        """An iteration that was begun before, and may have been ended by a later one."""
        model = self.any_of(self.models, pick)
        if not model.iterations:
            return
        iteration = self.any_of(model.iterations, which)
        for _ in range(count):
            expected = model.next(iteration)
            if not isinstance(expected, list):
                with pytest.raises(expected):
                    next(iteration.iterator)
                return
            batch = next(iteration.iterator)
            got = seen(batch)
            assert got == [self.reference.sample(model.codec, place) for place in expected]
            if keep:
                self.kept.append((batch, got))

    @precondition(lambda self: self.models)
    @rule(pick=st.integers(0, 5))
    def two_threads(self, pick: int) -> None:
        """Each batch goes to one of them; who came at the wrong moment is told so."""
        model = self.any_of(self.models, pick)
        iteration = Iteration(iter(model.loader))
        model.iterations.append(iteration)
        together = threading.Barrier(2)
        answers: list[Any] = []

        def take() -> None:
            together.wait(60)
            try:
                answers.append(seen(next(iteration.iterator)))
            except (StopIteration, ConfigError) as error:
                answers.append(error)

        threads = [threading.Thread(target=take) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert len(answers) == 2
        for answer in list(answers):
            if isinstance(answer, ConfigError) and "used by another thread" in str(answer):
                answers.remove(answer)
        for expected in [model.next(iteration) for _ in answers]:
            if isinstance(expected, list):
                wanted = [self.reference.sample(model.codec, place) for place in expected]
                answers.remove(wanted)
            else:
                answers.remove(next(a for a in answers if isinstance(a, expected)))

    @precondition(lambda self: self.models)
    @rule(pick=st.integers(0, 5))
    def save(self, pick: int) -> None:
        model = self.any_of(self.models, pick)
        state = json.loads(json.dumps(model.loader.state_dict()))
        self.states.append((model.codec, state, model.place))

    @precondition(lambda self: self.models and self.states)
    @rule(pick=st.integers(0, 5), which=st.integers(0, 5))
    def load(self, pick: int, which: int) -> None:
        """Of a loader with another batch size, world, number of threads; not of another dataset."""
        model = self.any_of(self.models, pick)
        codec, state, place = self.any_of(self.states, which)
        if codec != model.codec:
            with pytest.raises(ConfigError, match="another dataset"):
                model.loader.load_state_dict(state)
            return
        model.loader.load_state_dict(state)
        model.place, model.resumed, model.active = place, True, None

    @precondition(lambda self: self.models)
    @rule(
        pick=st.integers(0, 5),
        key=st.sampled_from(("version", "seed", "epoch", "position", "mosaic_closed", "dataset")),
        value=st.sampled_from((-1, 2**70, 1.5, "1", None, [], {}, math.nan)),
    )
    def load_something_wrong(self, pick: int, key: str, value: Any) -> None:
        loader = self.any_of(self.models, pick).loader
        with pytest.raises(ConfigError):
            loader.load_state_dict({**loader.state_dict(), key: value})

    @precondition(lambda self: self.models)
    @rule(pick=st.integers(0, 5))
    def close_mosaic(self, pick: int) -> None:
        model = self.any_of(self.models, pick)
        model.loader.close_mosaic()
        model.place = (*model.place[:3], True)

    @precondition(lambda self: self.models)
    @rule(pick=st.integers(0, 5), copied=st.sampled_from((pickle.dumps, copy.copy)))
    def copies(self, pick: int, copied: Callable[[Any], Any]) -> None:
        """What must change nothing: prepared batches thrown away, and attempts to copy."""
        loader = self.any_of(self.models, pick).loader
        loader.reset()
        with pytest.raises(ConfigError, match="cannot be pickled or copied"):
            copied(loader)

    @precondition(lambda self: self.models)
    @rule(pick=st.integers(0, 5), forget=st.booleans())
    def close(self, pick: int, forget: bool) -> None:
        """Closed, or only forgotten, maybe with batches in the making."""
        model = self.any_of(self.models, pick)
        self.models.remove(model)
        if forget:
            return
        model.loader.close()
        for iteration in model.iterations:
            with pytest.raises(StopIteration if iteration.ended else ConfigError):
                next(iteration.iterator)
        with pytest.raises(ConfigError, match="closed"):
            iter(model.loader)

    @invariant()
    def places(self) -> None:
        """Every loader is where its model is."""
        for model in self.models:
            state = model.loader.state_dict()
            place = tuple(state[key] for key in ("seed", "epoch", "position", "mosaic_closed"))
            assert place == model.place

    def teardown(self) -> None:
        """No batch that was handed out has changed; no thread and no descriptor is left."""
        self.models.clear()
        for batch, was in self.kept:
            assert seen(batch) == was
        self.kept.clear()
        gc.collect()
        end = time.monotonic() + 10
        while held() - self.before and time.monotonic() < end:
            time.sleep(0.01)
            gc.collect()  # what the thread that prepared batches held until now
        assert held() - self.before == set()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    source = draw_dataset(tmp_path_factory.mktemp("model"), {"train": IMAGES}, sides=(24, 60))
    for codec in CODECS:
        packed(source, source.parent / codec, codec, AUGMENT.imgsz)
    for codec in CODECS:  # what starts once, for good: OpenCV's threads
        with Loader(source.parent / codec, 4, augment=AUGMENT) as loader:
            list(loader)
    return Reference(source.parent)


def test_any_sequence(reference: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loaders, "reference", reference, raising=False)
    chosen = settings(
        max_examples=EXAMPLES or 25,
        stateful_step_count=30,
        derandomize=not EXAMPLES,
        deadline=None,
        database=None,
        phases=(Phase.generate, Phase.shrink) if EXAMPLES else (Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    gc.collect()
    gc.freeze()  # torch's objects alone take a collection a tenth of a second
    try:
        run(Loaders, settings=chosen)
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("codec", CODECS)
def test_a_state_brings_its_seed(reference: Reference, codec: str) -> None:
    """What was prepared for the very same place of another stream is thrown away."""
    one, other = (Loader(reference.paths[codec], 4, augment=AUGMENT, seed=s) for s in (0, 1))
    with one, other:
        following = iter(one)
        assert seen(next(following)) != seen(next(iter(other)))
        other.load_state_dict(one.state_dict())
        assert seen(next(iter(other))) == seen(next(following))
