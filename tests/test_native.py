"""The native core: draws, order, recipes, pixels, threads."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reference
from hypothesis import given, settings
from pictures import index_of, make_images, make_index, situations

from yolodata import AugmentConfig, ConfigError, Recipe, _native


def test_philox_gives_the_published_vectors() -> None:
    """Known answers of Random123, philox4x32-10."""
    ones = 0xFFFFFFFF
    pi = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    assert _native.philox([0] * 4, [0] * 2) == [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]
    assert _native.philox([ones] * 4, [ones] * 2) == [
        0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD,
    ]  # fmt: skip
    assert _native.philox(pi, [0xA4093822, 0x299F31D0]) == [
        0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1,
    ]  # fmt: skip


@pytest.mark.parametrize("power", [0, 1, 2, 3, 8, 10, 12, 16, 17])
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_an_epoch_is_a_permutation(power: int, off: int) -> None:
    n = 2**power + off
    if n < 1:
        pytest.skip("no images")
    order = _native.permute(np.arange(n), n, 5, 3)
    assert np.array_equal(np.sort(order), np.arange(n))


def test_epochs_and_seeds_give_other_orders_of_all_images_alike() -> None:
    n, epochs = 50, 2000
    places = np.stack([_native.permute(np.arange(n), n, 1, e) for e in range(epochs)])
    counts = np.stack([np.bincount(places[:, p], minlength=n) for p in range(n)])
    deviation = (counts - epochs / n) / np.sqrt(epochs / n)
    assert np.abs(deviation).max() < 6  # of 2,500 near-normal cells
    assert not np.array_equal(places[0], places[1])
    assert not np.array_equal(places[0], _native.permute(np.arange(n), n, 2, 0))


@settings(max_examples=150, deadline=None)
@given(situations())
def test_fast_rows_give_the_bits_of_shade(situation: Any) -> None:
    config, sizes, seed, epoch = situation
    images = make_images(sizes)
    recipe = _native.plan(make_index(sizes), config.to_native(), seed, epoch, 0)
    fast, slow = _native.render(recipe, images), _native.render(recipe, images, reference=True)
    assert np.array_equal(fast, slow)


@pytest.mark.parametrize("fliplr", [False, True])
@pytest.mark.parametrize("scale", [0.4, 0.51, 0.7, 1.0, 1.37, 3.0])
@pytest.mark.parametrize("left", [0.3, 100.7, 255.99, 511.001, 900.1])
def test_wide_rows_give_the_bits_of_shade(scale: float, left: float, fliplr: bool) -> None:
    """Coordinates from 256 on have weights of 15 bits, which are blended by integers."""
    height, width, canvas = 5, 352, 1300
    rng = np.random.default_rng(7)
    image = rng.integers(0, 256, (height, canvas, 3), np.uint8)
    image[:2] = rng.integers(0, 2, (2, canvas, 3), np.uint8) * 255
    tile = {"image": 0, "x0": 0, "y0": 0, "x1": 0, "y1": 0, "x2": canvas, "y2": height}
    layer = {
        "canvas": [height, canvas],
        "tiles": [{**tile, "height": height, "width": canvas}],
        "matrix": [scale, 0, -left * scale, 0, 1.25, 0.4, 0, 0, 1],
        "perspective": False,
        "scale": scale,
    }
    recipe = Recipe.from_dict(
        {
            "size": [height, width], "layers": [layer], "mixup": None, "cutmix": None, "hsv": None,
            "flipud": False, "fliplr": fliplr, "bgr": False,
        }
    )  # fmt: skip
    images = {0: image}
    assert np.array_equal(
        _native.render(recipe, images), _native.render(recipe, images, reference=True)
    )


@settings(max_examples=60, deadline=None)
@given(situations())
def test_pictures_are_those_of_the_numpy_twin(situation: Any) -> None:
    """To the bit without colours; within one grey level with them (ends of OpenCV's rows)."""
    config, sizes, seed, epoch = situation
    images = make_images(sizes)
    recipe = _native.plan(make_index(sizes), config.to_native(), seed, epoch, 0).to_dict()
    plain = {**recipe, "hsv": None}
    ours = _native.render(Recipe.from_dict(plain), images)
    theirs = reference.render(plain, images)
    wrong = (ours != theirs).mean()
    # Matrices are inverted in another way there, which may move a coordinate by one ulp.
    assert wrong < 2e-3
    if wrong:
        assert np.abs(ours.astype(int) - theirs).max() <= 1 or config.perspective


def test_half_a_pixel_off_is_noticed() -> None:
    sizes = [(48, 64), (64, 40)]
    images = make_images(sizes)
    config = AugmentConfig(imgsz=64, hsv_h=0, hsv_s=0, hsv_v=0)
    recipe = _native.plan(make_index(sizes), config.to_native(), 0, 0, 0).to_dict()
    good = reference.render(recipe, images)
    recipe["layers"][0]["matrix"][2] += 0.5
    assert (_native.render(Recipe.from_dict(recipe), images) != good).mean() > 0.2


def one_to_one(picture: np.ndarray, draws: list[float]) -> dict[str, Any]:
    """A recipe that changes nothing but colours."""
    rows, side = picture.shape[:2]
    tile = {"image": 0, "x0": 0, "y0": 0, "x1": 0, "y1": 0, "x2": side, "y2": rows}
    return {
        "size": [rows, side],
        "layers": [
            {
                "canvas": [rows, side],
                "tiles": [{**tile, "height": rows, "width": side}],
                "matrix": [1, 0, 0, 0, 1, 0, 0, 0, 1],
                "perspective": False,
                "scale": 1.0,
            }
        ],
        "mixup": None, "cutmix": None, "hsv": draws,
        "flipud": False, "fliplr": False, "bgr": False,
    }  # fmt: skip


@pytest.mark.parametrize("draws", [[0.0, 0.0, 0.0], [0.015, 0.7, -0.4], [-0.4, -0.9, 0.9]])
def test_every_colour_is_jittered_as_opencv_does(draws: list[float]) -> None:
    steps = np.concatenate([np.arange(0, 256, 3), [1, 254]]).astype(np.uint8)
    r, g, b = np.meshgrid(steps, steps, steps, indexing="ij")
    colours = np.stack([r, g, b], -1).reshape(-1, 3)
    side = 512
    rows = -(-len(colours) // side)
    picture = np.resize(colours, (rows, side, 3)).astype(np.uint8)
    recipe = one_to_one(picture, draws)
    ours = _native.render(Recipe.from_dict(recipe), {0: picture}).transpose(1, 2, 0)
    difference = np.abs(ours.astype(int) - reference.jitter(picture, draws))
    assert difference.max() <= 1
    assert (difference == 0).mean() > 0.998


COLOURS = np.random.default_rng(5).integers(0, 256, (1 << 18, 3), np.uint8)


@pytest.mark.parametrize(
    "draws",
    [
        [0.013, 0.37, -0.13],
        [-0.4, -0.9, 0.9],
        [0.2, 0.3, -0.1],  # 1.3 as a float needs its table: Note [gains in 16 bits]
    ],
)
def test_every_kind_of_colour_is_jittered_as_the_reference_does(draws: list[float]) -> None:
    """Dark colours and small ranges have branches of their own: all of those below 48."""
    dark = np.stack(np.meshgrid(*[np.arange(48, dtype=np.uint8)] * 3), -1).reshape(-1, 3)
    side = 608  # no whole number of the widest vectors
    colours = np.concatenate([dark, COLOURS, COLOURS // 16 + np.uint8(230)])
    picture = np.resize(colours, (-(-len(colours) // side), side, 3))
    recipe = Recipe.from_dict(one_to_one(picture, draws))
    fast, slow = (_native.render(recipe, {0: picture}, reference=slow) for slow in (False, True))
    assert np.array_equal(fast, slow)


PORTABLE = """
import hashlib, sys
import numpy as np
sys.path.insert(0, {tests!r})
from test_native import make_images, make_index
from yolodata import AugmentConfig, _native
sizes = [(48, 64), (64, 33), (20, 64)]
images, index = make_images(sizes), make_index(sizes)
digest = hashlib.sha256()
for degrees in (0.0, 12.0):
    config = AugmentConfig(imgsz=64, degrees=degrees, mixup=0.5, cutmix=0.5, flipud=0.5)
    for epoch in range(20):
        recipe = _native.plan(index, config.to_native(), 5, epoch, 1)
        digest.update(_native.render(recipe, images).tobytes())
print(digest.hexdigest())
"""


def test_every_processor_gives_the_same_pixels() -> None:
    code = PORTABLE.format(tests=str(Path(__file__).parent))
    digests = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **extra},
            capture_output=True,
            check=True,
        ).stdout
        for extra in ({}, {"YOLODATA_SIMD": "portable"})
    ]
    assert len(digests[0]) > 60
    assert digests[0] == digests[1]


def test_recipes_survive_dict_and_pickle() -> None:
    sizes = [(48, 64)] * 5
    config = AugmentConfig(imgsz=64, mixup=1, cutmix=1, degrees=10)
    index = make_index(sizes)
    for position in range(5):
        recipe = _native.plan(index, config.to_native(), 1, 2, position)
        assert Recipe.from_dict(recipe.to_dict()) == recipe
        assert pickle.loads(pickle.dumps(recipe)) == recipe
        assert recipe != _native.plan(index, config.to_native(), 2, 2, position)


BASE = {"image": 0, "x0": 0, "y0": 0, "x1": 0, "y1": 0, "x2": 8, "y2": 8, "height": 8, "width": 8}


def recipe_with(**changes: Any) -> dict[str, Any]:
    layer = {
        "canvas": [8, 8],
        "tiles": [{**BASE, **changes.pop("tile", {})}],
        "matrix": [1, 0, 0, 0, 1, 0, 0, 0, 1],
        "perspective": False,
        "scale": 1.0,
        **changes.pop("layer", {}),
    }
    return {
        "size": [8, 8], "layers": [layer], "mixup": None, "cutmix": None, "hsv": None,
        "flipud": False, "fliplr": False, "bgr": False, **changes,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": [0, 8]}, "size"),
        ({"size": "big"}, "size"),
        ({"layers": []}, "1 to 6 layers"),
        ({"mixup": {"layer": 1, "ratio": 0.5}}, "mixup"),
        ({"mixup": {"layer": 0, "ratio": 2.0}}, "0..1"),
        ({"cutmix": {"layer": 1, "area": [0, 0, 8, 8]}}, "cutmix names layer 1"),
        ({"cutmix": {"layer": 0, "area": [0, 0, 9, 8]}}, "area"),
        ({"hsv": [0.0, -1.5, 0.0]}, "-1"),
        ({"hsv": [float("nan"), 0.0, 0.0]}, "1000000, got nan"),
        ({"tile": {"x2": 9}}, "canvas"),
        ({"tile": {"x0": 1}}, "shows more"),
        ({"tile": {"height": 7}}, "shows more"),
        ({"tile": {"y0": -3}}, "shows more"),
        ({"layer": {"tiles": []}}, "1 to 9 tiles"),
        ({"layer": {"tiles": [BASE] * 10}}, "at most 9"),
        ({"layer": {"canvas": [0, 8]}}, "canvas"),
        ({"layer": {"canvas": [8, (1 << 20) + 1]}}, "canvas"),
        ({"layer": {"canvas": [(1 << 20) + 1, 8]}}, "canvas"),
        ({"layer": {"matrix": [0] * 9}}, "inverted"),
        ({"layer": {"matrix": [float("nan")] * 9}}, "inverted"),
        ({"layer": {"matrix": [1, 2]}}, "matrix"),
    ],
)
def test_a_recipe_that_would_read_elsewhere_is_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe.from_dict(recipe_with(**changes))
    incomplete = recipe_with()
    del incomplete["size"]
    with pytest.raises(ValueError, match="lacks 'size'"):
        Recipe.from_dict(incomplete)


@pytest.mark.parametrize("given", [None, 5, [0], [[1]], ["ab"]])
@pytest.mark.parametrize("name", ["layers", "tiles", "paste", "objects", "runs", "mixup", "cutmix"])
def test_what_is_no_part_of_a_recipe_is_named(name: str, given: Any) -> None:
    paste = {"layer": 0, "objects": [], "runs": []}
    if name in paste:
        changes = {"layer": {"paste": {**paste, name: given}}}
    else:
        changes = {"layer": {name: given}} if name in ("tiles", "paste") else {name: given}
    if given is None and name in ("paste", "mixup", "cutmix"):
        Recipe.from_dict(recipe_with(**changes))  # is left out
        return
    with pytest.raises(ValueError, match=f"the recipe's '{name}' has the wrong type, got "):
        Recipe.from_dict(recipe_with(**changes))


@pytest.mark.parametrize(
    "changes", [{"fliplrr": True}, {"layer": {"past": None}}, {"tile": {"x3": 1}}]
)
def test_a_key_of_a_recipe_that_nobody_reads_is_refused(changes: dict[str, Any]) -> None:
    (name,) = changes.get("layer", changes.get("tile", changes))
    with pytest.raises(ValueError, match=name):
        Recipe.from_dict(recipe_with(**changes))


def test_what_a_recipe_does_not_name_is_not_done() -> None:
    whole = recipe_with()
    bare = {key: whole[key] for key in ("size", "layers")}
    assert Recipe.from_dict(bare) == Recipe.from_dict(whole)


SETTINGS = {
    name: getattr(AugmentConfig(imgsz=64, copy_paste_mode="mixup").to_native(), name)
    for name in vars(_native.PlanConfig)
    if not name.startswith("_")
}


def test_settings_of_the_planner_are_typed() -> None:
    """Every one must be given, by its name and type, and none can be changed."""
    assert _native.PlanConfig(**SETTINGS).copy_paste_mode == "mixup"
    for name, value in SETTINGS.items():
        assert getattr(_native.PlanConfig(**SETTINGS), name) == value
        with pytest.raises(TypeError, match=f"lacks the setting {name}$"):
            _native.PlanConfig(**{k: v for k, v in SETTINGS.items() if k != name})
        with pytest.raises(TypeError, match=f"{name} must be"):
            _native.PlanConfig(**{**SETTINGS, name: ()})
        with pytest.raises(AttributeError):
            setattr(_native.PlanConfig(**SETTINGS), name, value)
    with pytest.raises(TypeError, match="no setting bgrr"):
        _native.PlanConfig(**SETTINGS, bgrr=0.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"imgsz": 0}, "imgsz must be 1 to 16384, got 0"),
        ({"mosaic_grid": 5}, "4 or 9, got 5"),
        ({"streams": 0}, "streams must be 1 or more"),
        ({"window": -1}, "window must be 0"),
        ({"mask_ratio": -4}, "mask_ratio must be 0"),
        ({"degrees": float("inf")}, "degrees must be a finite number"),
    ],
)
def test_settings_that_the_planner_could_not_follow_are_refused(
    changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        _native.PlanConfig(**{**SETTINGS, **changes})


def test_images_of_another_size_are_refused() -> None:
    recipe = Recipe.from_dict(recipe_with())
    with pytest.raises(ValueError, match="no pixels"):
        _native.render(recipe, {})
    with pytest.raises(ValueError, match="8 x 8"):
        _native.render(recipe, {0: np.zeros((8, 9, 3), np.uint8)})
    shown = np.full((8, 8, 3), 200, np.uint8)
    for wrong, said in [
        ((shown / 255).astype(np.float32), r"float32'\) \(8, 8, 3\)"),  # would be black
        (shown.astype(np.int64), "int64"),
        (shown[..., 0], r"uint8'\) \(8, 8\)"),
        (shown.tolist(), "list"),
    ]:
        with pytest.raises(ValueError, match=f"image 0 must be uint8 .H, W, 3.*got .*{said}"):
            _native.render(recipe, {0: wrong})
    for other in (shown[:, ::-1], np.asfortranarray(shown)):
        assert (_native.render(recipe, {0: other}) == 200).all()
    with pytest.raises(ValueError, match="images 0"):
        _native.labels(Recipe.from_dict(recipe_with(tile={"image": 7})), make_index([(8, 8)]))


@settings(max_examples=100, deadline=None)
@given(situations())
def test_labels_lie_in_the_picture_and_come_from_an_object(situation: Any) -> None:
    config, sizes, seed, epoch = situation
    index = make_index(sizes)
    recipe = _native.plan(index, config.to_native(), seed, epoch, 0)
    found = _native.labels(recipe, index)
    cls, boxes = found["cls"], found["bboxes"]
    assert cls.shape == (len(boxes), 1)
    tiles = sum(len(layer["tiles"]) for layer in recipe.to_dict()["layers"])
    assert len(boxes) <= 3 * tiles
    assert set(cls.ravel()) <= {0.0, 1.0, 2.0, 3.0, 4.0}
    assert (boxes[:, 2:] >= 0).all()
    low, high = boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2
    assert (low > -1e-6).all()
    assert (high < 1 + 1e-6).all()


def test_identity_settings_give_the_source() -> None:
    sizes = [(40, 64)]
    images = make_images(sizes)
    still = AugmentConfig(
        imgsz=64, mosaic=0, translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0
    )
    index = make_index(sizes)
    picture = _native.render(_native.plan(index, still.to_native(), 0, 0, 0), images)
    assert np.array_equal(picture[:, 12:52], images[0].transpose(2, 0, 1))
    assert (picture[:, :12] == 114).all()
    assert (picture[:, 52:] == 114).all()


def test_flips_are_involutions_of_picture_and_labels() -> None:
    sizes = [(48, 64)] * 4
    images, index = make_images(sizes), make_index(sizes)
    recipe = _native.plan(index, AugmentConfig(imgsz=64).to_native(), 3, 0, 1).to_dict()
    for flip, axis, at in (("fliplr", 2, 0), ("flipud", 1, 1)):
        plain = Recipe.from_dict({**recipe, flip: False})
        turned = Recipe.from_dict({**recipe, flip: True})
        assert np.array_equal(
            _native.render(turned, images), np.flip(_native.render(plain, images), axis)
        )
        before, after = (_native.labels(r, index)["bboxes"] for r in (plain, turned))
        before[:, at] = 1 - before[:, at]
        assert np.allclose(before, after, atol=1e-6)


def test_probabilities_are_kept() -> None:
    index = make_index([(48, 64)] * 4000)
    config = AugmentConfig(imgsz=64, mosaic=0.3, mixup=0.2, flipud=0.1, fliplr=0.5, bgr=0.4)
    recipes = [_native.plan(index, config.to_native(), 0, 0, p).to_dict() for p in range(4000)]
    for share, hits in (
        (0.3, [len(r["layers"][0]["tiles"]) == 4 for r in recipes]),
        (0.2, [r["mixup"] is not None for r in recipes]),
        (0.1, [r["flipud"] for r in recipes]),
        (0.5, [r["fliplr"] for r in recipes]),
        (0.4, [r["bgr"] for r in recipes]),
    ):
        assert abs(np.mean(hits) - share) < 5 * np.sqrt(share * (1 - share) / len(recipes))
    ratios = [r["mixup"]["ratio"] for r in recipes if r["mixup"]]
    assert abs(np.mean(ratios) - 0.5) < 0.02
    assert abs(np.std(ratios) - 1 / (2 * np.sqrt(65))) < 0.01  # Beta(32, 32)
    scales = [r["layers"][0]["scale"] for r in recipes]
    assert 0.5 <= min(scales) < 0.51
    assert 1.49 < max(scales) < 1.5


def test_partners_come_from_the_whole_dataset_or_from_the_window() -> None:
    n = 640
    index = make_index([(48, 64)] * n)
    augment = AugmentConfig(imgsz=64, mosaic=1.0)
    native = augment.to_native()

    def partners(config: _native.PlanConfig, position: int) -> set[int]:
        tiles = _native.plan(index, config, 0, 0, position).to_dict()["layers"][0]["tiles"]
        return {tile["image"] for tile in tiles}

    everywhere = set().union(*(partners(native, p) for p in range(n)))
    assert len(everywhere) > 0.9 * n
    windowed = augment.to_native(streams=4, window=8)
    order = _native.permute(np.arange(n), n, 0, 0)
    for position in (0, 3, 31, 32, 200, n - 1):
        stream, turn = position % 4, position // 4
        first = max(0, turn + 1 - 8)
        allowed = {int(order[k * 4 + stream]) for k in range(first, first + 8)}
        assert partners(windowed, position) <= allowed
        assert order[position] in partners(windowed, position)


def test_an_engine_gives_what_single_calls_give() -> None:
    sizes = [(48, 64), (64, 33), (20, 64), (64, 64)]
    images, index = make_images(sizes), make_index(sizes)
    config = AugmentConfig(imgsz=64, mixup=0.5, cutmix=0.5).to_native()
    flat = np.concatenate([images[i].ravel() for i in range(4)])
    offset = np.cumsum([0] + [images[i].size for i in range(3)]).astype(np.uint64)
    base = np.array([flat.ctypes.data], np.uint64)
    shard, positions = np.zeros(4, np.uint32), np.array([2, 0, 3, 1, 1])
    for threads in (1, 3):
        engine = _native.Engine(threads)
        out = np.zeros((5, 3, 64, 64), np.uint8)
        job = engine.submit(index, config, 9, 4, positions, out, shard, offset, base)
        assert job.wait()
        made = job.labels()
        cls, boxes, which = made["cls"], made["bboxes"], made["batch_idx"]
        for b, position in enumerate(positions.tolist()):
            recipe = _native.plan(index, config, 9, 4, position)
            assert np.array_equal(out[b], _native.render(recipe, images))
            expected = _native.labels(recipe, index)
            assert np.array_equal(cls[which == b], expected["cls"])
            assert np.array_equal(boxes[which == b], expected["bboxes"])
        planned = engine.submit_plan(index, config, 9, 4, positions)
        planned.wait()
        ids = planned.image_ids()
        pointers = np.array([images[int(i)].ctypes.data for i in ids], np.uint64)
        again = np.zeros_like(out)
        engine.submit_render(planned, ids, pointers, again).wait()
        assert np.array_equal(out, again)
        with pytest.raises(IndexError, match="no pixels"):
            engine.submit_render(planned, ids[:0], pointers[:0], again).wait()
        with pytest.raises(ValueError, match="shape"):
            engine.submit(index, config, 9, 4, positions, out[:3], shard, offset, base)
        with pytest.raises(IndexError, match="position 4"):
            engine.submit_plan(index, config, 9, 4, np.array([4]))
        for few in ((shard[:3], offset), (shard, offset[:3])):
            with pytest.raises(ValueError, match="one entry an image"):
                engine.submit(index, config, 9, 4, positions, out, *few, base)
        with pytest.raises(IndexError, match="lies in shard 1 of 1"):
            engine.submit(index, config, 9, 4, positions, out, shard + 1, offset, base).wait()
        with pytest.raises(ValueError, match="at least one position"):
            engine.submit_plan(index, config, 9, 4, positions[:0])
        with pytest.raises(ValueError, match="nothing to render"):
            engine.submit_render([], ids, pointers, again)
        with pytest.raises(ValueError, match="one pointer"):
            engine.submit_render(planned, ids, pointers[1:], again)
        with pytest.raises(ValueError, match="ascending"):
            engine.submit_render(planned, ids[::-1].copy(), pointers, again)
        nbytes = 5 * _native.RENDER_TASK_BYTES
        tasks = np.zeros(nbytes + 16, np.uint8)
        odd = (1 - tasks.ctypes.data) % 16
        with pytest.raises(ValueError, match="aligned"):
            engine.submit_render(planned, ids, pointers, tasks[odd:][:nbytes])
        engine.close()
        with pytest.raises(RuntimeError, match="closed"):
            engine.submit_plan(index, config, 9, 4, positions)


FORKED = """
import os, sys
import numpy as np
sys.path.insert(0, {tests!r})
from pictures import make_index
from yolodata import AugmentConfig, _native
engine = _native.Engine(2)
config = AugmentConfig(imgsz=32).to_native()
engine.submit_plan(make_index([(8, 8)]), config, 0, 0, np.array([0])).wait()
child = os.fork()
if child == 0:
    try:
        engine.submit_plan(make_index([(8, 8)]), config, 0, 0, np.array([0]))
    except RuntimeError:
        del engine  # its threads are not here
        sys.exit(7)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_forked_child_lets_go_of_an_engine() -> None:
    code = FORKED.format(tests=str(Path(__file__).parent))
    assert subprocess.run([sys.executable, "-c", code], timeout=300).returncode == 7


@pytest.mark.parametrize(
    "wrong",
    [
        {"imgsz": 9}, {"imgsz": 64.0}, {"imgsz": True}, {"mosaic": 1.5}, {"mosaic": -0.1},
        {"mosaic_grid": 5}, {"scale": -0.1}, {"scale": 1.1}, {"scale": (0.5, 0.2)},
        {"scale": (1, 2, 3)}, {"degrees": float("nan")}, {"shear": 90.0}, {"hsv_s": 2},
        {"fliplr": "often"}, {"translate": None},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        AugmentConfig(**wrong)


def test_settings_of_ultralytics_are_taken_over() -> None:
    from ultralytics.cfg import get_cfg

    args = get_cfg(overrides={"degrees": 7.0, "scale": 0.9, "mixup": 0.2, "imgsz": 320})
    config = AugmentConfig.from_ultralytics(args)
    assert (config.degrees, config.scale, config.mixup, config.imgsz) == (7.0, 0.9, 0.2, 320)
    assert config.without_mix().mosaic == config.without_mix().mixup == 0
    args.rect = True
    with pytest.raises(ConfigError, match="rect"):
        AugmentConfig.from_ultralytics(args)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width": np.full(1, 8, np.uint32)}, "one entry an image"),
        ({"object_offset": np.array([0, 3], np.uint64)}, "one entry an image"),
        ({"box": np.zeros((2, 4), np.float32)}, "shape .objects, 4."),
        ({"object_offset": np.array([0, 4, 3], np.uint64)}, "object_offset must rise"),
        ({"object_offset": np.array([0, 1, 2], np.uint64)}, "object_offset must rise"),
        ({"height": np.array([8, 0], np.uint32)}, "1 to 65536 pixels"),
        ({"height": np.array([8, 65537], np.uint32)}, "1 to 65536 pixels"),
        ({"polygon_offset": np.array([0, 3, 6], np.uint64)}, "one entry an object"),
        ({"polygon_offset": np.array([0, 3, 6, 8], np.uint64)}, "every object needs a polygon"),
        ({"polygon_offset": np.array([0, 9, 9, 9], np.uint64)}, "every object needs a polygon"),
        ({"outline_points": 1000001}, "0 to 1000000"),
        ({"oriented": True}, "oriented objects need outline_points"),
        ({"keypoints": np.zeros((2, 2, 3), np.float32)}, "shape .objects, keypoints, 3."),
        ({"flip_idx": np.array([0], np.int32)}, "one entry a keypoint"),
        ({"flip_idx": np.array([0, 2], np.int32)}, "must name keypoints"),
        ({"flip_idx": np.array([0, -1], np.int32)}, "must name keypoints"),
    ],
)
def test_columns_of_labels_that_contradict_each_other_are_refused(
    changes: dict[str, Any], said: str
) -> None:
    columns: dict[str, Any] = {
        "height": np.full(2, 8, np.uint32),
        "width": np.full(2, 8, np.uint32),
        "object_offset": np.array([0, 1, 3], np.uint64),
        "cls": np.zeros(3, np.float32),
        "box": np.full((3, 4), 0.5, np.float32),
        "polygon_offset": np.array([0, 3, 6, 9], np.uint64),
        "polygon": np.zeros((9, 2), np.float32),
        "keypoints": np.zeros((3, 2, 3), np.float32),
    }
    assert len(index_of(columns)) == 2
    with pytest.raises(ValueError, match=said):
        index_of({**columns, **changes})


def test_labels_are_not_asked_for_of_what_is_not_there() -> None:
    outlined = make_index([(8, 8), (8, 8)], outlines=10)
    plain = make_index([(8, 8), (8, 8)])
    place, one = np.array([[8.0, 8.0, 1.0, 0.0, 0.0]]), np.array([1])
    assert _native.letterbox_outlines(outlined, one, place)
    for table, images, places, said in (
        (outlined, one, place[:0], "one placement"),
        (outlined, one[:0], place[:0], "one placement"),
        (outlined, np.array([2]), place, "must be in the dataset"),
        (outlined, np.array([-1]), place, "must be in the dataset"),
        (plain, one, place, "need outlines"),
    ):
        with pytest.raises(ValueError, match=said):
            _native.letterbox_outlines(table, images, places)
    for ratio in (0, 9):
        with pytest.raises(ValueError, match="mask_ratio must be 1 or more"):
            _native.letterbox_masks(outlined, one, place, 8, 8, ratio, True)
    recipe = _native.plan(plain, AugmentConfig(imgsz=16).to_native(), 0, 0, 0)
    for ratio, said in ((-1, "0 .no masks. or more"), (4, "masks need outlines")):
        with pytest.raises(ValueError, match=said):
            _native.labels(recipe, plain, ratio)


def test_a_recipe_of_too_many_layers_is_refused() -> None:
    recipe = _native.plan(
        make_index([(8, 8)]), AugmentConfig(imgsz=16, mosaic=0).to_native(), 0, 0, 0
    ).to_dict()
    for count in (7, 50):
        with pytest.raises(ValueError, match="layers"):
            Recipe.from_dict({**recipe, "layers": recipe["layers"][:1] * count})
