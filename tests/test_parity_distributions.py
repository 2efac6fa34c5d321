"""What our planner draws, against what Ultralytics draws: the same distributions.

Seeds are fixed, so that a test gives the same answer every time. What is a little off (5 % of a
range, 5 points of a probability) has to be noticed with the command's own number of recipes.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loading import draw_dataset
from ultralytics.data import augment

from yolodata.cli import main, parser_of
from yolodata.errors import ConfigError
from yolodata.parity import draws, two_sample, upstream
from yolodata.parity.quantities import Quantities, Recipe

pytestmark = pytest.mark.early

IMGSZ = 160  # nothing is drawn of its size but where pictures lie
IMAGES = 24
N: int = parser_of("parity").get_default("draws")


@pytest.fixture(scope="module")
def yaml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn pictures whose objects are triangles."""
    folder = tmp_path_factory.mktemp("triangles")
    yaml = draw_dataset(folder, {"train": IMAGES, "val": 2})
    for file in folder.rglob("*.txt"):
        rows = [row.split() for row in file.read_text().splitlines()]
        boxes = [(row[0], *map(float, row[1:])) for row in rows if row]
        file.write_text(
            "\n".join(
                f"{c} {x - w / 2} {y + h / 2} {x + w / 2} {y + h / 2} {x} {y - h / 2}"
                for c, x, y, w, h in boxes
            )
        )
    return yaml


@pytest.fixture(scope="module")
def source(yaml: Path) -> upstream.Upstream:
    return upstream.Upstream(yaml, IMGSZ)


@pytest.fixture(scope="module")
def theirs(source: upstream.Upstream) -> dict[str, list[Recipe]]:
    """Upstream's recipes, by kind."""
    return {name: draws.upstreams_recipes(source, kind, N) for name, kind in draws.KINDS.items()}


@pytest.fixture(scope="module")
def ours(source: upstream.Upstream) -> dict[str, list[Recipe]]:
    """Our recipes, by kind."""
    return {
        name: draws.our_recipes(source, kind, draws.OURS * N) for name, kind in draws.KINDS.items()
    }


def test_our_draws_are_upstreams(theirs: Any, ours: Any) -> None:
    found = {name: draws.compare_recipes(theirs[name], ours[name], IMAGES) for name in draws.KINDS}
    report = draws.report(found)
    assert draws.missed(report) == []
    assert report["comparisons"] > 140  # nothing is left out without being seen
    shown = {name for kind in found.values() for name in kind["quantities"]}
    for names in draws.SHOWN_BY.values():
        assert shown.issuperset(names)
    assert draws.SHOWN_BY.keys() == {*draws.RANGES, *draws.PROBABILITIES}
    parts = ("mosaic centre x", "mosaic centre y", "mixup ratio", "cutmix area", "cutmix left")
    parts += ("different images", "mixup: image", "cutmix: image", "pasted: image", "partner 8")
    assert shown.issuperset(parts)


def test_upstream_draws_the_same_without_pixels(source: upstream.Upstream) -> None:
    settings = {
        "mosaic": 0.0,
        "mixup": 0.5,
        "cutmix": 0.5,
        "degrees": 9.0,
        "flipud": 0.5,
        "bgr": 0.5,
    }
    settings |= {"copy_paste": 0.5, "copy_paste_mode": "mixup"}
    without = draws.upstreams_recipes(source, draws.Kind(settings, objects=9), 60)
    source.use(**settings)
    upstream.seed(0)
    whole = [source.sample(i)[1] for i in draws.shuffled(IMAGES, 60, 0)]
    for recipe in (*without, *whole):
        del recipe["seed"]  # of Albumentations: a count of samples
    assert without == whole
    assert sum(recipe["cutmix"] is not None for recipe in whole) > 3
    assert sum(bool(recipe["pastes"]) for recipe in whole) > 3


@pytest.mark.parametrize("by", [0.05, -0.05])
def test_what_is_a_little_off_is_noticed(source: upstream.Upstream, theirs: Any, by: float) -> None:
    """Every setting, by each of its quantities."""
    found = {}
    for name, kind in draws.KINDS.items():
        settings = draws.a_little_off(kind.settings, by)
        wrong = draws.our_recipes(source, kind, draws.OURS * N, settings=settings)
        found[name] = draws.compare_recipes(theirs[name], wrong, IMAGES)
    assert draws.unnoticed(draws.report(found), source) == []


def altered(patch: pytest.MonkeyPatch, transform: Any, name: str, change: Any) -> None:
    """Upstream's transforms of a class have another value of an attribute from now on."""
    original = transform.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        setattr(self, name, change(getattr(self, name)))

    patch.setattr(transform, "__init__", init)


def without_the_last(patch: pytest.MonkeyPatch, transform: Any) -> None:
    """The last image (4 % of them) never comes as a partner."""
    original = transform.get_indexes

    def get_indexes(self: Any) -> Any:
        found = original(self)
        several = [i % (IMAGES - 1) for i in (found if isinstance(found, list) else [found])]
        return several if isinstance(found, list) else several[0]

    patch.setattr(transform, "get_indexes", get_indexes)


def other_mixup(patch: pytest.MonkeyPatch, a: float, b: float) -> None:
    """MixUp draws its ratio from Beta(a, b)."""
    original = np.random.beta
    patch.setattr(np.random, "beta", lambda *of: original(*((a, b) if of == (32.0, 32.0) else of)))


@pytest.mark.parametrize("wide", [True, False])
def test_what_upstream_would_draw_otherwise_is_noticed(
    source: upstream.Upstream, ours: Any, monkeypatch: pytest.MonkeyPatch, wide: bool
) -> None:
    """What no setting changes; three things at once, each of which shows in quantities of its own.

    The range of mosaic centres is 5 % wider or narrower. An image never comes as a partner. The
    mixup ratio has a spread that is 10 % larger, or a mean that is 0.01 higher.
    """
    name = "mosaic of four, mixup"
    by = 0.95 if wide else 1.05  # the border is what the range leaves out, half of a picture
    altered(monkeypatch, augment.Mosaic, "border", lambda at: tuple(int(by * x) for x in at))
    without_the_last(monkeypatch, augment.MixUp if wide else augment.Mosaic)
    other_mixup(monkeypatch, *((26.4, 26.4) if wide else (32.64, 31.36)))
    theirs = draws.upstreams_recipes(source, draws.KINDS[name], N)
    found = draws.compare_recipes(theirs, ours[name], IMAGES)
    said = "\n".join(draws.missed(draws.report({name: found})))
    of_images = ["mixup: image"] if wide else ["partner 3", "mixup: partner 1"]
    for quantity in ("mosaic centre x", "mixup: mosaic centre y", "mixup ratio", *of_images):
        assert f"{quantity} differs in " in said
    assert ("mixup ratio differs in spread" in said) == wide


def first_images(values: Any) -> Any:
    """Images of which the last of all never comes."""
    return np.where(values == IMAGES - 1, 0, values)


@pytest.mark.parametrize(
    ("name", "quantity", "spoil"),
    [
        ("mosaic of nine", "partner 8", first_images),
        ("mosaic of nine", "different images", lambda x: np.minimum(x, 8)),
        ("cutmix, always", "cutmix area", lambda x: x * 1.3),
        ("cutmix, always", "cutmix left", lambda x: x + 0.05),
        ("copy-paste, mirrored", "pasted objects", lambda x: np.maximum(x - 1, 0)),
    ],
)
def test_what_no_setting_changes_is_noticed_too(
    theirs: Any, ours: Any, name: str, quantity: str, spoil: Any
) -> None:
    sides = Quantities.of(theirs[name], IMAGES), Quantities.of(ours[name], IMAGES)
    where = "numbers" if quantity in sides[1].numbers else "categories"
    of_ours = getattr(sides[1], where)
    of_ours[quantity] = spoil(of_ours[quantity])
    found = draws.compare_quantities(*sides)
    assert found["quantities"][quantity]["p"] < draws.LEVEL / 200


def test_numbers_that_hang_together_are_noticed(theirs: Any, ours: Any) -> None:
    """Each has the right distribution, but one is drawn from the other's numbers."""
    name = "mosaic of four, mixup"
    sides = Quantities.of(theirs[name], IMAGES), Quantities.of(ours[name], IMAGES)
    numbers = sides[1].numbers
    mixed = ~np.isnan(numbers["mixup: shift x"])
    numbers["mixup: shift x"][mixed] = numbers["shift x"][mixed]
    found = draws.compare_quantities(*sides)
    assert found["dependence"]["p"] < draws.LEVEL / 200
    assert set(found["dependence"]["of"]) == {"shift x", "mixup: shift x"}


def test_an_image_twice_in_an_epoch_is_noticed(ours: Any) -> None:
    recipes = ours["cutmix, seldom"][: 2 * IMAGES]
    found = draws.compare_recipes(recipes, recipes[1:] + recipes[:1], IMAGES)
    assert found["repeats"] == {"upstream": 0, "yolodata": 2}
    assert "begin two samples" in draws.missed(draws.report({"kind": found}))[0]


def apart(random: np.random.Generator, x: Any) -> dict[str, Any]:
    return {"x": x, "y": random.uniform(size=len(x))}


def images_of_mosaics(random: np.random.Generator, x: Any) -> dict[str, Any]:
    """Of mosaics four, or seldom three; of others one."""
    mosaic = (x < 0.4).astype(float)
    seldom = random.uniform(size=len(x)) < 0.08
    return {"mosaic": mosaic, "images": np.where(mosaic == 1.0, 4.0 - seldom, 1.0)}


def test_tests_of_two_samples_give_false_alarms_as_often_as_they_say() -> None:
    random = np.random.default_rng(0)
    found: dict[str, list[float]] = {"numbers": [], "whole": [], "range": [], "categories": []}
    found |= {"dependence": [], "nearly a function": []}
    for _ in range(100):
        a, b = random.uniform(0, 1, 200), random.uniform(0, 1, 700)
        found["numbers"].append(two_sample.compare_numbers(a, b)[0])
        found["range"].append(two_sample.range_p(a, b))
        whole = np.floor(8 * a), np.floor(8 * b)
        found["whole"].append(two_sample.compare_numbers(*whole)[0])
        found["categories"].append(two_sample.compare_categories(*whole))
        for name, pair in (("dependence", apart), ("nearly a function", images_of_mosaics)):
            both = pair(random, a), pair(random, b)
            found[name].append(two_sample.compare_dependence(*both)[0])
    for p in found.values():
        assert np.mean(np.array(p) < 0.1) < 0.2
        assert np.mean(np.array(p) < 0.001) < 0.03
    assert min(found["range"]) < 0.1  # and they can
    shuffled = images_of_mosaics(random, a)
    random.shuffle(shuffled["images"])
    assert two_sample.compare_dependence(shuffled, images_of_mosaics(random, b))[0] < 1e-9
    assert two_sample.compare_numbers(np.zeros(30), np.ones(30))[0] == 0.0
    assert two_sample.compare_numbers(np.ones(30), np.ones(40))[0] == 1.0


def test_the_command_compares_draws(
    yaml: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kind, off = (
        draws.Kind({"fliplr": 0.02, "flipud": 0.02, "mosaic": 0.0}, share=0.8),
        draws.a_little_off,
    )
    monkeypatch.setattr(draws, "KINDS", {"flips": kind})
    arguments = ["parity", str(yaml), "--imgsz", "64", "--samples", "1", "--draws", "1250"]
    assert main([*arguments, "--json", str(tmp_path / "out.json")]) == 0
    assert "flips                          1000     4000" in capsys.readouterr().out
    assert main([*arguments, "--break"]) == 1
    out = capsys.readouterr().out
    assert "FAILED: draws, flips: fliplr differs in share: mean 0.07" in out
    assert "NOT NOTICED" not in out
    right = {"flipud": 0.02}  # which must have been changed as well
    monkeypatch.setattr(draws, "a_little_off", lambda settings: {**off(settings), **right})
    assert main([*arguments, "--break"]) == 0
    out = capsys.readouterr().out
    assert [line for line in out.splitlines() if "NOT NOTICED" in line] == [
        "NOT NOTICED: draws: flipud (by flipud)"
    ]


def test_scipy_is_asked_for(source: upstream.Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ConfigError, match=r"needs scipy.*run `pip install 'yolodata\[parity\]'`"):
        draws.draws(source, 1000)
