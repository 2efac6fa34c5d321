"""The CUDA kernel: its body on the CPU against the renderer's definition, and on a device."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pictures import make_images, make_index, situations

from yolodata import AugmentConfig, Recipe, _native

DTYPES = {"uint8": torch.uint8, "float16": torch.float16, "bfloat16": torch.bfloat16}


def aligned(nbytes: int) -> Any:
    """uint8 (nbytes,) that begins at a multiple of 16."""
    memory = np.zeros(nbytes + 16, np.uint8)
    skip = -memory.ctypes.data % 16
    return memory[skip : skip + nbytes]


def make_render_tasks(
    recipes: list[Recipe], addresses: dict[int, int], on_device: bool = False
) -> Any:
    """What a renderer of batches reads, with the addresses of images."""
    engine = _native.Engine(1)
    ids = np.array(sorted(addresses))
    pointers = np.array([addresses[int(i)] for i in ids], np.uint64)
    render_tasks = aligned(len(recipes) * _native.RENDER_TASK_BYTES)
    job = engine.submit_render(recipes, ids, pointers, render_tasks)
    job.wait()
    engine.close()
    memory = aligned(render_tasks.size + job.mask_bytes())
    memory[: render_tasks.size] = render_tasks
    if not on_device:
        job.move_masks(memory, memory.ctypes.data)
        return memory
    uploaded = torch.empty(memory.size, dtype=torch.uint8, device="cuda")
    job.move_masks(memory, uploaded.data_ptr())
    return uploaded.copy_(torch.from_numpy(memory))


def blocks(
    recipes: list[Recipe], images: dict[int, Any], dtype: str, channels_last: bool
) -> tuple[Any, int]:
    """(B, 3, H, W) by the kernel's body, into poisoned memory with something behind it.

    And how many strips of blocks copied their part of a canvas before they interpolated.
    """
    height, width = recipes[0].to_dict()["size"]
    count = len(recipes)
    shape = (count, height, width, 3) if channels_last else (count, 3, height, width)
    nbytes = int(np.prod(shape)) * DTYPES[dtype].itemsize
    out = aligned(nbytes + 32)
    out[:] = 0xA5
    render_tasks = make_render_tasks(recipes, {i: image.ctypes.data for i, image in images.items()})
    windows = _native.render_emulated(
        render_tasks.ctypes.data, count, height, width, out.ctypes.data, dtype, channels_last
    )
    assert (out[nbytes:] == 0xA5).all()
    pictures = torch.from_numpy(out[:nbytes]).view(DTYPES[dtype]).view(shape)
    return (pictures.permute(0, 3, 1, 2) if channels_last else pictures), windows


def as_made(picture: Any, dtype: str) -> Any:
    """What bytes become in a format."""
    made = torch.from_numpy(picture)
    return made if dtype == "uint8" else (made.float() / 255).to(DTYPES[dtype])


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(situations(), st.sampled_from(sorted(DTYPES)), st.booleans())
def test_the_kernels_body_gives_the_bits_of_shade(situation, dtype, channels_last) -> None:
    config, sizes, seed, epoch = situation
    images, index = make_images(sizes), make_index(sizes, outlines=40)
    recipes = [_native.plan(index, config.to_native(), seed, epoch, p) for p in range(len(sizes))]
    want = np.stack([_native.render(r, images) for r in recipes])
    made, _ = blocks(recipes, images, dtype, channels_last)
    assert torch.equal(made, as_made(want, dtype))


@pytest.mark.parametrize("width", [1, 5, 127, 128, 129, 200, 256])
@pytest.mark.parametrize("channels_last", [False, True])
def test_pictures_of_any_width(width: int, channels_last: bool) -> None:
    """Ends of rows, rows that do not begin at a multiple of 16 bytes, blocks cut off below."""
    images, index = make_images([(41, 50)]), make_index([(41, 50)])
    values = _native.plan(index, AugmentConfig(imgsz=64).to_native(), 1, 0, 0).to_dict()
    recipe = Recipe.from_dict({**values, "size": (13, width)})
    want = _native.render(recipe, images, reference=True)
    for dtype in DTYPES:
        got, _ = blocks([recipe, recipe], images, dtype, channels_last)
        for picture in got:
            assert torch.equal(picture, as_made(want, dtype))


# Strips of blocks that copy the part of a canvas that they show.

STRIP_HEIGHT, STRIP_WIDTH, WINDOW_BYTES, WINDOW_ROWS = 16, 64, 14336, 64


def placed(image: Any, skip: int) -> Any:
    """The image where its address is `skip` more than a multiple of 16 and memory ends with it."""
    memory = np.empty(skip + image.size, np.uint8)
    assert memory.ctypes.data % 16 == 0
    memory[skip:] = image.reshape(-1)
    return memory[skip:].reshape(image.shape)


def canvas_points(layer: dict[str, Any], x: Any, y: Any) -> tuple[Any, Any]:
    """Where output pixels lie on a layer's canvas, from the inverse of its matrix."""
    m = np.array(layer["matrix"], np.float32).astype(float).reshape(3, 3)
    determinant = m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]
    m = np.array(
        [
            [m[1, 1], -m[0, 1], m[0, 1] * m[1, 2] - m[0, 2] * m[1, 1]],
            [-m[1, 0], m[0, 0], m[0, 2] * m[1, 0] - m[0, 0] * m[1, 2]],
        ]
    )
    m = (m / determinant).astype(np.float32).astype(float)
    return tuple(
        (
            m[i, 0] * x + ((m[i, 1] * y).astype(np.float32) + np.float32(m[i, 2])).astype(float)
        ).astype(np.float32)
        for i in (0, 1)
    )


def copying(recipe: Recipe) -> int:
    """How many strips may copy: such as see some tile of the canvas and have room for it."""
    values = recipe.to_dict()
    height, width = values["size"]
    count = 0
    for top, left in itertools.product(
        range(0, height, STRIP_HEIGHT), range(0, width, STRIP_WIDTH)
    ):
        y = np.arange(top, min(top + STRIP_HEIGHT, height))[:, None]
        x = np.arange(left, min(left + STRIP_WIDTH, width))[None]
        y, x = (
            (height - 1 - y if values["flipud"] else y),
            (width - 1 - x if values["fliplr"] else x),
        )
        number = 0
        if values["cutmix"] is not None:
            x1, y1, x2, y2 = values["cutmix"]["area"]
            if x.min() >= x1 and y.min() >= y1 and x.max() < x2 and y.max() < y2:
                number = values["cutmix"]["layer"]
        layer = values["layers"][number]
        paste = layer["paste"]
        if layer["perspective"] or (paste and paste["layer"] == number):
            continue
        at_x, at_y = (np.floor(at) for at in canvas_points(layer, x, y))
        x1, x2, y1, y2 = at_x.min(), at_x.max() + 1, at_y.min(), at_y.max() + 1
        shows = any(
            x2 >= t["x1"] and x1 < t["x2"] and y2 >= t["y1"] and y1 < t["y2"]
            for t in layer["tiles"]
        )  # fmt: skip
        rows, pitch = y2 - y1 + 1, (3 * (x2 - x1 + 1) + 30) // 16 * 16
        count += bool(shows and rows <= WINDOW_ROWS and rows * pitch <= WINDOW_BYTES)
    return count


@st.composite
def upright_layers(draw: Any, sizes: list[tuple[int, int]]) -> dict[str, Any]:
    """A layer of parts of images side by side, scaled and moved, sometimes turned."""
    tiles, x1 = [], 0
    for image in draw(st.lists(st.integers(0, len(sizes) - 1), min_size=1, max_size=2)):
        height, width = sizes[image]
        skip = draw(st.integers(0, width // 8))
        tiles.append({"image": image, "height": height, "width": width, "x1": x1, "y1": 0,
                      "x2": x1 + width - skip, "y2": height, "x0": x1 - skip, "y0": 0})  # fmt: skip
        x1 += width - skip - draw(st.integers(0, 1))
    canvas = [max(t["y2"] for t in tiles), max(t["x2"] for t in tiles)]
    scale = st.sampled_from([1.0, 1.0, 0.02, 0.47, 0.5, 0.8, 1.3, 1.7, 7.0, 60.0])
    sx, sy = draw(scale), draw(scale)
    away = st.sampled_from([0.0, 0.0, 0.0, 0.5, 1.0, 7.3, -3.25])
    tx, ty = -sx * draw(away | st.floats(0, canvas[1] / 2)), -sy * draw(away)
    turn = draw(st.sampled_from([0.0] * 5 + [0.01, 0.2, -0.7]))
    shear = draw(st.sampled_from([0.0, turn]))
    return {"canvas": canvas, "tiles": tiles, "matrix": [sx, turn, tx, -shear, sy, ty, 0, 0, 1],
            "perspective": False, "scale": 1.0, "paste": None}  # fmt: skip


@st.composite
def upright(draw: Any) -> tuple[Recipe, list[tuple[int, int]]]:
    """A recipe that may show two layers more, and the sizes of its images."""
    side = st.sampled_from([131, 50, 21, 2, 1]), st.sampled_from([701, 643, 300, 129, 1])
    sizes = draw(st.lists(st.tuples(*side), min_size=1, max_size=3))
    height, width = draw(st.integers(1, 20)), draw(st.sampled_from([300, 130, 128, 127, 40, 1]))
    layers = draw(st.lists(upright_layers(sizes), min_size=1, max_size=3))
    last = len(layers) - 1
    mixup, cutmix = None, None
    if draw(st.booleans()):
        mixup = {"layer": last, "ratio": draw(st.floats(0, 1))}
    if draw(st.booleans()):
        x1, y1 = draw(st.integers(0, width)), draw(st.integers(0, height))
        area = [draw(st.sampled_from([0, x1])), draw(st.sampled_from([0, y1])), width, height]
        cutmix = {"layer": last, "area": area}
    pasted = draw(st.sampled_from([None, None, None, 0, last]))
    if pasted is not None:
        right = layers[0]["canvas"][1] if pasted == 0 else width
        layers[0]["paste"] = {"layer": pasted, "objects": [], "runs": [[0, 0, (right + 1) // 2]]}
    return Recipe.from_dict(
        {"size": [height, width], "layers": layers, "mixup": mixup, "cutmix": cutmix,
         "hsv": draw(st.sampled_from([None, [0.01, 0.5, -0.2]])), "flipud": draw(st.booleans()),
         "fliplr": draw(st.booleans()), "bgr": draw(st.booleans())}
    ), sizes  # fmt: skip


def test_strips_copy_what_they_show_where_they_can() -> None:
    """The bits of shade(), and as many strips copied as might: no more and no fewer."""
    copied, made = [], []

    @settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(upright(), st.integers(0, 15), st.sampled_from(sorted(DTYPES)), st.booleans())
    def check(drawn, skip: int, dtype: str, channels_last: bool) -> None:
        recipe, sizes = drawn
        rng = np.random.default_rng(skip)
        images = {
            i: placed(rng.integers(0, 256, (*size, 3), np.uint8), skip)
            for i, size in enumerate(sizes)
        }
        want = _native.render(recipe, images, reference=True)
        got, windows = blocks([recipe], images, dtype, channels_last)
        assert torch.equal(got[0], as_made(want, dtype))
        assert windows == copying(recipe)
        copied.append(windows)
        made.append(-(-want.shape[1] // STRIP_HEIGHT) * -(-want.shape[2] // STRIP_WIDTH))

    check()
    assert 0.1 < sum(copied) / sum(made) < 0.9  # both kinds are tested


def one_image(image: Any, matrix: list[float], size: list[int]) -> Recipe:
    """The picture that shows one image through a matrix."""
    height, width = image.shape[:2]
    tile = {"image": 0, "height": height, "width": width, "x0": 0, "y0": 0, "x1": 0, "y1": 0,
            "x2": width, "y2": height}  # fmt: skip
    layer = {"canvas": [height, width], "tiles": [tile], "matrix": matrix, "perspective": False,
             "scale": 1.0, "paste": None}  # fmt: skip
    return Recipe.from_dict(
        {"size": size, "layers": [layer], "mixup": None, "cutmix": None, "hsv": None,
         "flipud": False, "fliplr": False, "bgr": False}
    )  # fmt: skip


@pytest.mark.parametrize("skip", range(16))
def test_copied_to_the_last_byte(skip: int) -> None:
    """Whole images, wherever they begin and end."""
    image = placed(np.random.default_rng(skip).integers(0, 256, (18, 130, 3), np.uint8), skip)
    recipe = one_image(image, [1, 0, -0.5, 0, 1, -0.5, 0, 0, 1], [17, 129])
    got, windows = blocks([recipe], {0: image}, "uint8", False)
    assert windows == 6
    want = _native.render(recipe, {0: image}, reference=True)
    assert np.array_equal(got[0], want)
    assert want[0, -1, -1] == np.rint(image[-2:, -2:, 0].mean())


@pytest.mark.parametrize(("columns", "windows"), [(144, 1), (145, 0)])
def test_copied_as_far_as_there_is_room(columns: int, windows: int) -> None:
    """32 rows of 448 bytes, 15 + 3 * 144 and what rounds them up, fill the memory; 464 do not."""
    image = placed(np.random.default_rng(0).integers(0, 256, (40, 400, 3), np.uint8), 5)
    shrink = 63 / (columns - 1.5)  # the last output column lies halfway between the last two
    recipe = one_image(image, [shrink, 0, 0, 0, 0.5, 0, 0, 0, 1], [16, 64])
    assert copying(recipe) == windows
    got, copied = blocks([recipe], {0: image}, "uint8", True)
    assert copied == windows
    assert np.array_equal(got[0], _native.render(recipe, {0: image}, reference=True))


def test_every_byte_becomes_the_fraction_that_torch_makes() -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    config = AugmentConfig(
        imgsz=16, mosaic=0, translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0
    )
    recipe = _native.plan(make_index([(16, 16)]), config.to_native(), 0, 0, 0)
    want = torch.arange(256, dtype=torch.uint8)
    for dtype in ("float16", "bfloat16"):
        got, _ = blocks([recipe], {0: every}, dtype, False)
        assert torch.equal(got[0, 0].reshape(-1), (want.float() / 255).to(DTYPES[dtype]))


def every_colour() -> tuple[Recipe, Any]:
    """A recipe that changes the colours of an image, and one of all 2^24 colours."""
    colours = np.arange(1 << 24, dtype=np.uint32).view(np.uint8).reshape(4096, 4096, 4)
    image = np.ascontiguousarray(colours[..., :3])
    values = one_image(image, [1, 0, 0, 0, 1, 0, 0, 0, 1], [4096, 4096]).to_dict()
    return Recipe.from_dict({**values, "hsv": [0.31, 0.47, -0.29], "bgr": True}), image


def test_every_colour_is_changed_as_shade_says() -> None:
    recipe, image = every_colour()
    got, _ = blocks([recipe], {0: image}, "uint8", False)
    assert np.array_equal(got[0], _native.render(recipe, {0: image}, reference=True))


def test_a_block_that_is_told_something_wrong_is_noticed() -> None:
    """The comparison above can fail: another picture's render task gives other pixels."""
    sizes = [(48, 64), (64, 33)]
    images, index = make_images(sizes), make_index(sizes)
    config = AugmentConfig(imgsz=64).to_native()
    recipes = [_native.plan(index, config, 3, 0, p) for p in (0, 1)]
    got, _ = blocks(recipes[::-1], images, "uint8", False)
    assert not np.array_equal(got[0], _native.render(recipes[0], images))


def test_wrong_arguments_are_refused() -> None:
    render_tasks = aligned(_native.RENDER_TASK_BYTES + 16)
    with pytest.raises(ValueError, match="float16"):
        _native.render_emulated(
            render_tasks.ctypes.data, 1, 8, 8, render_tasks.ctypes.data, "float64", False
        )
    with pytest.raises(ValueError, match="aligned"):
        _native.render_emulated(
            render_tasks.ctypes.data + 4, 1, 8, 8, render_tasks.ctypes.data, "uint8", False
        )
    engine, recipe = _native.Engine(1), {0: np.zeros((8, 8, 3), np.uint8)}
    made = _native.plan(make_index([(8, 8)]), AugmentConfig(imgsz=32).to_native(), 0, 0, 0)
    pointer = np.array([recipe[0].ctypes.data], np.uint64)
    for wrong in (
        render_tasks[: _native.RENDER_TASK_BYTES - 1],
        render_tasks[1 : _native.RENDER_TASK_BYTES + 1],
    ):
        with pytest.raises(ValueError, match="render tasks"):
            engine.submit_render([made], np.array([0]), pointer, wrong)
    engine.close()


def random_recipes(count: int) -> Iterator[tuple[Recipe, dict[int, Any]]]:
    """Recipes of every kind, 640 x 640, with images; at least half neither turn nor shear."""
    rng = np.random.default_rng(5)
    sizes = [(int(h), int(w)) for h, w in rng.integers(40, 641, (24, 2))]
    images, index = make_images(sizes), make_index(sizes, outlines=100)
    for number in range(count):
        kind = rng.integers(0, 2, 10)
        turns = number % 2
        config = AugmentConfig(
            imgsz=640,
            mosaic=1.0 - 0.3 * kind[0],
            mosaic_grid=9 if kind[1] else 4,
            degrees=20.0 * turns * kind[2],
            shear=8.0 * turns * kind[3],
            perspective=0.0008 * turns * kind[4],
            flipud=0.5,
            bgr=0.3,
            mixup=0.5 * kind[5],
            cutmix=0.5 * kind[6],
            scale=(0.2, 3.0) if kind[7] else 0.5,
            copy_paste=0.7 * kind[8],
            copy_paste_mode="mixup" if kind[9] else "flip",
        )
        yield _native.plan(index, config.to_native(), 11, number, number % len(sizes)), images


@pytest.mark.gpu
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_the_device_gives_the_bits_of_the_cpu(dtype: str, channels_last: bool) -> None:
    """1,000 recipes of every kind as bytes; 64 in the other formats."""
    count = 1000 if dtype == "uint8" and not channels_last else 64
    made = list(random_recipes(count))
    images = made[0][1]
    on_device = {i: torch.from_numpy(image).cuda() for i, image in images.items()}
    addresses = {i: image.data_ptr() for i, image in on_device.items()}
    stream = torch.cuda.current_stream()
    for start in range(0, count, 50):
        recipes = [recipe for recipe, _ in made[start : start + 50]]
        uploaded = make_render_tasks(recipes, addresses, on_device=True)
        shape = (len(recipes), 3, 640, 640)
        order = torch.channels_last if channels_last else torch.contiguous_format
        out = torch.empty(shape, dtype=DTYPES[dtype], device="cuda", memory_format=order)
        out.fill_(77)
        _native.render_cuda(
            uploaded.data_ptr(), len(recipes), 640, 640, out.data_ptr(), dtype, channels_last,
            stream.cuda_stream,
        )  # fmt: skip
        want = np.stack([_native.render(r, images) for r in recipes])
        assert torch.equal(out.cpu(), as_made(want, dtype))


@pytest.mark.gpu
def test_the_device_changes_every_colour_as_the_cpu_does() -> None:
    recipe, image = every_colour()
    there = torch.from_numpy(image).cuda()
    render_tasks = make_render_tasks([recipe], {0: there.data_ptr()}, on_device=True)
    out = torch.empty((1, 3, 4096, 4096), dtype=torch.uint8, device="cuda")
    _native.render_cuda(
        render_tasks.data_ptr(), 1, 4096, 4096, out.data_ptr(), "uint8", False,
        torch.cuda.current_stream().cuda_stream,
    )  # fmt: skip
    assert np.array_equal(out[0].cpu(), _native.render(recipe, {0: image}))
