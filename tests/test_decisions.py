"""Which samples transforms fire on: what is said beforehand is what happens."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from yolodata import _native
from yolodata.parity import kinds
from yolodata.pipeline.albumentations.decisions import Decisions, shares
from yolodata.pipeline.albumentations.transforms import composed, draw_from, seeds

DRAWN = seeds(7, 3, np.arange(4000))
ON_DEVICE = {"Blur", "MedianBlur", "ToGray", "CLAHE", "RandomBrightnessContrast", "RandomGamma"}


def upstreams(A: ModuleType) -> list[Any]:
    """What Ultralytics applies where Albumentations is installed."""
    return [
        A.Blur(p=0.01), A.MedianBlur(p=0.01), A.ToGray(p=0.01), A.CLAHE(p=0.01),
        A.RandomBrightnessContrast(p=0.0), A.RandomGamma(p=0.0),
        A.ImageCompression(quality_range=(75, 100), p=0.0),
    ]  # fmt: skip


COMPOSITIONS: dict[str, Callable[[ModuleType], Any]] = {
    "upstream's": upstreams,
    "many": lambda A: kinds.transforms(),
    "all, now and then": lambda A: A.Compose([A.InvertImg(p=1.0)], p=0.3),
    "nothing": lambda A: [A.Blur(p=0.0)],
    "nested": lambda A: [
        A.Sequential([A.Blur(p=0.1), A.Compose([A.ToGray(p=0.5)], p=0.2)], p=0.5),
        A.OneOf([A.ToGray(p=0.2), A.OneOf([A.CLAHE(p=1.0), A.ToSepia(p=1.0)], p=0.5)], p=0.1),
    ],
    "some": lambda A: [A.SomeOf([A.Blur(p=0.1), A.ToGray(p=0.05), A.Posterize(p=0.0)], n=2, p=0.9)],
    "in any order": lambda A: [A.RandomOrder([A.Blur(p=0.1), A.ToGray(p=0.05)], n=2)],
    "strict": lambda A: A.Compose([A.Blur(p=0.1)], strict=True),
}


def applied(A: ModuleType, transforms: Any, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is really applied to a picture, for each of the seeds."""
    names: list[str] = []
    apply = A.BasicTransform.apply_with_params

    def noted(self: Any, *args: Any, **kwargs: Any) -> Any:
        names.append(type(self).__name__)
        return apply(self, *args, **kwargs)

    picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), np.uint8)
    found = []
    with monkeypatch.context() as patched:
        patched.setattr(A.BasicTransform, "apply_with_params", noted)
        for seed in DRAWN:
            names.clear()
            draw_from(transforms, seed)
            changed = (transforms(image=picture.copy())["image"] != picture).any()
            assert names or not changed
            found.append(list(names))
    return found


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_what_fires_is_known_beforehand(albumentations, monkeypatch, name: str) -> None:
    transforms = composed(COMPOSITIONS[name](albumentations))
    happened = applied(albumentations, transforms, monkeypatch)
    want = [i for i, names in enumerate(happened) if names]
    assert Decisions(transforms)(DRAWN) == dict.fromkeys(want)
    # A device applies those of its own, and leaves samples with any other to the CPU.
    filters = {
        i: None if set(names) - ON_DEVICE else len(names)
        for i, names in enumerate(happened)
        if names
    }
    found = Decisions(transforms, on_device=True)(DRAWN)
    assert {i: None if f is None else len(f) for i, f in found.items()} == filters
    changed, away = shares(transforms, on_device=True)
    assert changed == pytest.approx(len(want) / len(DRAWN), abs=0.03)
    assert away == pytest.approx(list(filters.values()).count(None) / len(DRAWN), abs=0.03)
    assert shares(transforms) == (changed, changed)
    if 0 < len(want) < len(DRAWN):
        assert list(Decisions(transforms)([seed + 1 for seed in DRAWN])) != want


def test_python_s_numbers_are_known_to_native_code() -> None:
    seeds = [0, 1, 2**31, 2**32 - 1, *DRAWN[:200]]
    for limits in ([0.5], [0.0, 0.1, 0.3], [0.005] * _native.MOST_LIMITS):
        below = []
        for seed in seeds:
            draw = random.Random(seed)
            below.append(any(draw.random() < limit for limit in limits))
        assert 20 < sum(below) < 180
        assert _native.draws_below(np.array(seeds, np.uint32), np.array(limits)) == below
    with pytest.raises(ValueError, match="too many limits"):
        _native.draws_below(np.zeros(1, np.uint32), np.zeros(_native.MOST_LIMITS + 1))


def test_a_plain_list_is_asked_only_where_something_fires(albumentations, monkeypatch) -> None:
    """And where another version decides otherwise, about all."""
    A = albumentations

    class Own(A.Blur):
        def should_apply(self, force_apply: bool = False) -> bool:
            return super().should_apply(force_apply) and super().should_apply(force_apply)

    def asked(transforms: Any) -> int:
        firing, count = Decisions(composed(transforms)), 0
        decide = firing._decided

        def counted(seed: int) -> Any:
            nonlocal count
            count += 1
            return decide(seed)

        firing._decided = counted
        fired = firing(DRAWN)
        assert len(fired) > 10
        return count - len(fired)

    assert asked(upstreams(A)) == 0
    for other in ([Own(p=0.2)], [A.Sequential([A.Blur(p=0.1)])], A.Compose([A.Blur(p=0.1)], p=0.9),
                  [A.Blur(p=0.1), A.OneOf([A.ToGray(p=1.0)], p=0.1)]):  # fmt: skip
        assert asked(other) > 3000
    rule = A.BasicTransform.should_apply
    monkeypatch.setattr(
        A.BasicTransform, "should_apply", lambda self, **_: not rule(self) and rule(self)
    )
    assert asked(upstreams(A)) > 3000


def test_transforms_fire_independently_of_each_other(albumentations, monkeypatch) -> None:
    """One picture in a hundred for each of four; Albumentations' own seed makes them the same."""
    transforms = composed(upstreams(albumentations))
    happened = applied(albumentations, transforms, monkeypatch)
    each = Counter(name for names in happened for name in names)
    assert set(each) == {"Blur", "MedianBlur", "ToGray", "CLAHE"}
    assert all(15 < count < 70 for count in each.values())
    assert sum(len(names) > 1 for names in happened) < 12
    assert 0.03 < shares(transforms)[0] < 0.05


def test_what_decides_for_itself_always_fires(albumentations) -> None:
    class Odd(albumentations.ToGray):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return super().__call__(*args, **kwargs)

    class Broken(albumentations.ToGray):
        def should_apply(self, force_apply: bool = False) -> bool:
            raise RuntimeError("no such luck")

    for leaf in (Odd(p=0.1), Broken(p=0.1)):
        for on_device in (False, True):
            found = Decisions(composed([leaf]), on_device)(DRAWN[:50])
            assert found == dict.fromkeys(range(50))
