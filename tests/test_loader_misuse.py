"""The loaders used as they cannot be: told at once, with nothing changed."""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from loading import digest, draw_dataset, grouped, packed

from yolodata import AugmentConfig, ConfigError, Loader, ReadOptions, ValidationLoader
from yolodata.pipeline.schedule import MAX_EPOCH, MAX_SEED

IMAGES = 31
AUGMENT = AugmentConfig(imgsz=64)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = draw_dataset(
        tmp_path_factory.mktemp("source"), {"train": IMAGES, "val": 9}, sides=(40, 110)
    )
    return packed(source, source.parent / "raw", "raw", 64)


@pytest.fixture
def loader(shards: Path) -> Iterator[Loader]:
    with Loader(shards, 4, **grouped(augment=AUGMENT, threads=1, prefetch=1)) as made:
        yield made


def circle() -> dict[str, Any]:
    made: dict[str, Any] = {}
    made["again"] = made
    return made


def nested(levels: int) -> list[Any]:
    made: list[Any] = []
    for _ in range(levels):
        made = [made]
    return made


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"threads": 0}, "threads must be 1 to 1024, got 0"),
        ({"threads": 1025}, "threads must be 1 to 1024, got 1025"),
        ({"prefetch": 257}, "prefetch must be 1 to 256, got 257"),
        ({"scale": (0.5, 101)}, "max from 0.01 to 100"),
        ({"scale": (0, 0.001)}, "max from 0.01 to 100"),
    ],
)
def test_what_costs_without_end_has_limits(given: dict[str, Any], said: str) -> None:
    kind: Any = AugmentConfig if "scale" in given else ReadOptions
    with pytest.raises(ConfigError, match=said):
        kind(**given)


WRONG = [
    ("epoch", -1, r"epoch must be 0 to 2\*\*32 - 1, got -1"),
    ("epoch", MAX_EPOCH + 1, r"epoch must be 0 to 2\*\*32 - 1, got 4294967296"),
    ("epoch", 1.5, "epoch must be a whole number, got 1.5"),
    ("epoch", "3", "epoch must be a whole number, got '3'"),
    ("epoch", None, "epoch must be a whole number, got None"),
    ("position", -4, f"position must be 0 to {IMAGES} for the {IMAGES} images of"),
    ("position", IMAGES + 1, f"position must be 0 to {IMAGES} for the {IMAGES} images of"),
    ("position", True, "position must be a whole number, got True"),
    ("seed", MAX_SEED + 1, r"seed must be 0 to 2\*\*64 - 1, got"),
    ("seed", "1", "seed must be a whole number, got '1'"),
    ("mosaic_closed", "no", "mosaic_closed must be True or False, got 'no'"),
    ("mosaic_closed", 2, "mosaic_closed must be True or False, got 2"),
    ("version", True, "the state has version True, this yolodata reads 1"),
    ("version", "1", "the state has version '1', this yolodata reads 1"),
    ("settings", object(), "under 'settings' is no plain data"),
    ("settings", circle(), "under 'settings' is no plain data"),
    ("settings", dict.fromkeys(map(str, range(99)), 1), r"other settings(?s:.*)\n  and 84 more$"),
    ("dataset", {"images": torch.zeros(2)}, "under 'dataset' is no plain data"),
    ("dataset", nested(100_000), "under 'dataset' is no plain data"),
    ("epoch", nested(100_000), "epoch must be a whole number, got a list that is too large"),
    ("position", "9" * 10_000, "position must be a whole number, got '9{100,300}…$"),
]


@pytest.mark.parametrize(("key", "value", "said"), WRONG, ids=range(len(WRONG)))
def test_a_state_that_no_loader_returned_is_refused(
    loader: Loader, key: str, value: Any, said: str
) -> None:
    next(iter(loader))
    before = loader.state_dict()
    with pytest.raises(ConfigError, match=said):
        loader.load_state_dict({**before, "position": 8, "epoch": 5, key: value})
    assert loader.state_dict() == before


@pytest.mark.parametrize("state", [None, [], "state", 5, {1: 2, "epoch": 3}], ids=repr)
def test_what_is_no_state_is_refused(loader: Loader, state: Any) -> None:
    with pytest.raises(ConfigError, match=r"give what Loader\.state_dict returned"):
        loader.load_state_dict(state)


def test_the_last_epoch_is_the_last(loader: Loader) -> None:
    """Its number is 32 bits wide; no state may say 2**32, which nobody takes up."""
    loader.set_epoch(MAX_EPOCH)
    assert sum(len(batch["im_file"]) for batch in loader) == IMAGES
    ended = loader.state_dict()
    assert (ended["epoch"], ended["position"]) == (MAX_EPOCH, IMAGES)
    with pytest.raises(ConfigError, match=r"epoch 2\*\*32 - 1 is the last one.* set_epoch"):
        next(iter(loader))
    loader.load_state_dict(ended)
    assert list(loader) == []  # what is left of it
    with pytest.raises(ConfigError, match="is the last one"):
        list(loader)
    loader.set_epoch(0)
    assert len(list(loader)) == len(loader)


@pytest.mark.parametrize("copied", [pickle.dumps, copy.copy, copy.deepcopy])
@pytest.mark.parametrize("used", [False, True])
def test_a_loader_is_not_copied(
    shards: Path, loader: Loader, used: bool, copied: Callable[[Any], Any]
) -> None:
    """Threads, memory and the place in the stream are one process'."""
    if used:
        next(iter(loader))
    with ValidationLoader(shards, 4) as validation:
        for part in (loader, iter(loader), validation):
            said = f"{type(part).__name__} cannot be .* make the loader in the process that uses"
            with pytest.raises(ConfigError, match=said):
                copied(part)
            with pytest.raises(TypeError):  # what pickle's callers expect
                copied(part)


def in_threads(count: int, act: Callable[[], None]) -> list[BaseException]:
    """Calls a function in several threads at once; returns what it raised."""
    raised: list[BaseException] = []
    together = threading.Barrier(count)

    def one() -> None:
        together.wait(60)
        try:
            act()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=one) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return raised


def test_no_batch_is_handed_out_twice_to_threads(shards: Path) -> None:
    """Each batch of an epoch comes once, and who came at the wrong moment was told so."""
    with Loader(shards, 1, **grouped(augment=AUGMENT, threads=1, prefetch=1)) as loader:
        expected = [digest(batch) for batch in loader]
        loader.set_epoch(0)
        iterator, got, refused = iter(loader), [], []

        def take() -> None:
            while True:
                try:
                    got.append(digest(next(iterator)))
                except ConfigError as error:
                    refused.append(str(error))
                except StopIteration:
                    return

        assert in_threads(2, take) == []
        assert sorted(got) == sorted(expected)
        assert all("is used by another thread" in text for text in refused)


@pytest.mark.parametrize(
    "call", ["next", "set_epoch", "load_state_dict", "close_mosaic", "reset", "close"]
)
def test_a_second_thread_is_told_so(
    loader: Loader, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it asks for while the first one waits for its batch; the stream is not disturbed."""
    expected = [digest(batch) for batch in loader]
    loader.set_epoch(0)
    iterator, state = iter(loader), loader.state_dict()
    calls = {
        "next": lambda: next(iterator),
        "set_epoch": lambda: loader.set_epoch(3),
        "load_state_dict": lambda: loader.load_state_dict(state),
        "close_mosaic": loader.close_mosaic,
        "reset": loader.reset,
        "close": loader.close,
    }
    got, raised = [digest(next(iterator))], []

    def meanwhile(*_: Any) -> None:
        raised.extend(in_threads(1, calls[call]))

    with monkeypatch.context() as patch:  # what the consumer does once its batch is there
        patch.setattr("yolodata.pipeline.loader.report_unreadable", meanwhile)
        got.append(digest(next(iterator)))
    assert raised
    assert all("is used by another thread" in str(error) for error in raised), raised
    got += [digest(batch) for batch in iterator]
    assert got == expected


def test_one_thread_after_the_other_is_no_mistake(loader: Loader) -> None:
    expected = [digest(batch) for batch in loader]
    loader.set_epoch(0)
    iterator, got = iter(loader), []
    for _ in expected:
        assert in_threads(1, lambda: got.append(digest(next(iterator)))) == []
    assert got == expected


def test_validation_in_two_threads(shards: Path) -> None:
    """Each has an iteration of its own, but the memory of batches is shared: right, or told so."""
    with ValidationLoader(shards, 1, **grouped(threads=1)) as loader:
        expected = [digest(batch) for batch in loader]

        def whole() -> None:
            assert [digest(batch) for batch in loader] == expected

        for error in in_threads(3, whole):
            assert isinstance(error, ConfigError), error
            assert "is used by another thread" in str(error)
        whole()
