"""The CUDA kernel: its body on the CPU against the renderer's definition, and on a device."""

from __future__ import annotations

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


def make_shots(recipes: list[Recipe], addresses: dict[int, int], on_device: bool = False) -> Any:
    """What a renderer of batches reads, with the addresses of images."""
    engine = _native.Engine(1)
    ids = np.array(sorted(addresses))
    pointers = np.array([addresses[int(i)] for i in ids], np.uint64)
    shots = aligned(len(recipes) * _native.SHOT_BYTES)
    job = engine.submit_render(recipes, ids, pointers, shots)
    job.wait()
    engine.close()
    memory = aligned(shots.size + job.mask_bytes())
    memory[: shots.size] = shots
    if not on_device:
        job.move_masks(memory, memory.ctypes.data)
        return memory
    uploaded = torch.empty(memory.size, dtype=torch.uint8, device="cuda")
    job.move_masks(memory, uploaded.data_ptr())
    return uploaded.copy_(torch.from_numpy(memory))


def blocks(recipes: list[Recipe], images: dict[int, Any], dtype: str, channels_last: bool) -> Any:
    """(B, 3, H, W) by the kernel's body, into poisoned memory with something behind it."""
    height, width = recipes[0].to_dict()["size"]
    count = len(recipes)
    shape = (count, height, width, 3) if channels_last else (count, 3, height, width)
    nbytes = int(np.prod(shape)) * DTYPES[dtype].itemsize
    out = aligned(nbytes + 32)
    out[:] = 0xA5
    shots = make_shots(recipes, {i: image.ctypes.data for i, image in images.items()})
    _native.render_blocks(
        shots.ctypes.data, count, height, width, out.ctypes.data, dtype, channels_last
    )
    assert (out[nbytes:] == 0xA5).all()
    pictures = torch.from_numpy(out[:nbytes]).view(DTYPES[dtype]).view(shape)
    return pictures.permute(0, 3, 1, 2) if channels_last else pictures


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(situations(), st.sampled_from(sorted(DTYPES)), st.booleans())
def test_the_kernels_body_gives_the_bits_of_shade(situation, dtype, channels_last) -> None:
    config, sizes, seed, epoch = situation
    images, index = make_images(sizes), make_index(sizes, outlines=40)
    recipes = [_native.plan(index, config.to_native(), seed, epoch, p) for p in range(len(sizes))]
    want = torch.from_numpy(np.stack([_native.render(r, images) for r in recipes]))
    if dtype != "uint8":
        want = (want.float() / 255).to(DTYPES[dtype])
    assert torch.equal(blocks(recipes, images, dtype, channels_last), want)


@pytest.mark.parametrize("width", [1, 5, 127, 128, 129, 200, 256])
@pytest.mark.parametrize("channels_last", [False, True])
def test_pictures_of_any_width(width: int, channels_last: bool) -> None:
    """Ends of rows, rows that do not begin at a multiple of 16 bytes, blocks cut off below."""
    images, index = make_images([(41, 50)]), make_index([(41, 50)])
    values = _native.plan(index, AugmentConfig(imgsz=64).to_native(), 1, 0, 0).to_dict()
    recipe = Recipe.from_dict({**values, "size": (13, width)})
    want = _native.render(recipe, images, reference=True)
    for dtype in DTYPES:
        got = blocks([recipe, recipe], images, dtype, channels_last)
        for picture in got:
            expected = torch.from_numpy(want)
            if dtype != "uint8":
                expected = (expected.float() / 255).to(DTYPES[dtype])
            assert torch.equal(picture, expected)


def test_every_byte_becomes_the_fraction_that_torch_makes() -> None:
    every = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    config = AugmentConfig(
        imgsz=16, mosaic=0, translate=0, scale=0, hsv_h=0, hsv_s=0, hsv_v=0, fliplr=0
    )
    recipe = _native.plan(make_index([(16, 16)]), config.to_native(), 0, 0, 0)
    want = torch.arange(256, dtype=torch.uint8)
    for dtype in ("float16", "bfloat16"):
        got = blocks([recipe], {0: every}, dtype, False)[0, 0].reshape(-1)
        assert torch.equal(got, (want.float() / 255).to(DTYPES[dtype]))


def test_a_block_that_is_told_something_wrong_is_noticed() -> None:
    """The comparison above can fail: another picture's shot gives other pixels."""
    sizes = [(48, 64), (64, 33)]
    images, index = make_images(sizes), make_index(sizes)
    config = AugmentConfig(imgsz=64).to_native()
    recipes = [_native.plan(index, config, 3, 0, p) for p in (0, 1)]
    got = blocks(recipes[::-1], images, "uint8", False)
    assert not np.array_equal(got[0], _native.render(recipes[0], images))


def test_wrong_arguments_are_refused() -> None:
    shots = aligned(_native.SHOT_BYTES + 16)
    with pytest.raises(ValueError, match="float16"):
        _native.render_blocks(shots.ctypes.data, 1, 8, 8, shots.ctypes.data, "float64", False)
    with pytest.raises(ValueError, match="aligned"):
        _native.render_blocks(shots.ctypes.data + 4, 1, 8, 8, shots.ctypes.data, "uint8", False)
    engine, recipe = _native.Engine(1), {0: np.zeros((8, 8, 3), np.uint8)}
    made = _native.plan(make_index([(8, 8)]), AugmentConfig(imgsz=32).to_native(), 0, 0, 0)
    pointer = np.array([recipe[0].ctypes.data], np.uint64)
    for wrong in (shots[: _native.SHOT_BYTES - 1], shots[1 : _native.SHOT_BYTES + 1]):
        with pytest.raises(ValueError, match="shots"):
            engine.submit_render([made], np.array([0]), pointer, wrong)
    engine.close()


def random_recipes(count: int) -> Iterator[tuple[Recipe, dict[int, Any]]]:
    """Recipes of every kind, all 640 x 640, with their images."""
    rng = np.random.default_rng(5)
    sizes = [(int(h), int(w)) for h, w in rng.integers(40, 641, (24, 2))]
    images, index = make_images(sizes), make_index(sizes, outlines=100)
    for number in range(count):
        kind = rng.integers(0, 2, 10)
        config = AugmentConfig(
            imgsz=640,
            mosaic=1.0 - 0.3 * kind[0],
            mosaic_grid=9 if kind[1] else 4,
            degrees=20.0 * kind[2],
            shear=8.0 * kind[3],
            perspective=0.0008 * kind[4],
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
        uploaded = make_shots(recipes, addresses, on_device=True)
        shape = (len(recipes), 3, 640, 640)
        order = torch.channels_last if channels_last else torch.contiguous_format
        out = torch.empty(shape, dtype=DTYPES[dtype], device="cuda", memory_format=order)
        out.fill_(77)
        _native.render_cuda(
            uploaded.data_ptr(), len(recipes), 640, 640, out.data_ptr(), dtype, channels_last,
            stream.cuda_stream,
        )  # fmt: skip
        want = torch.from_numpy(np.stack([_native.render(r, images) for r in recipes]))
        if dtype != "uint8":
            want = (want.float() / 255).to(DTYPES[dtype])
        assert torch.equal(out.cpu(), want)
