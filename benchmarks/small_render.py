"""Renders and filters small pictures of every kind on a GPU, and compares them with the CPU's.

    compute-sanitizer --tool memcheck python benchmarks/small_render.py

Small, because a sanitizer makes everything slow; odd sizes, because ends of rows are where a kernel
goes astray. PYTORCH_NO_CUDA_MEMORY_CACHING=1 gives every tensor memory of its own, whose bounds a
sanitizer can see. `--device cpu` runs the kernel's body in loops.
"""

from __future__ import annotations

import argparse
import itertools
import sys

import numpy as np
import torch

from yolodata import AugmentConfig, Recipe, _native
from yolodata._native import Filter
from yolodata.bench import kernel

SIZES = ((80, 96), (37, 61), (96, 20), (50, 50))
KINDS = (
    {},
    {"mosaic": 0.0, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0},
    {"mosaic_grid": 9, "flipud": 1.0},
    {"degrees": 30.0, "shear": 8.0, "mixup": 1.0},
    {"perspective": 0.001, "cutmix": 1.0, "bgr": 1.0},
)
PASTED = (  # the kernel reads masks; those have the size that was planned
    {"copy_paste": 1.0, "copy_paste_mode": "flip"},
    {"copy_paste": 1.0, "copy_paste_mode": "mixup", "degrees": 30.0},
)
FILTERS = {
    "table": Filter.table(np.random.default_rng(0).integers(0, 256, (3, 256), np.uint8)),
    "grey": Filter.grey(),
    "blur 3": Filter.blur(3),
    "blur 15": Filter.blur(15),
    "median 3": Filter.median(3),
    "median 7": Filter.median(7),
    "clahe 8 x 8": Filter.clahe(2.0, 8, 8),
    "clahe 3 x 5": Filter.clahe(0.0, 3, 5),
    "clahe 1 x 1": Filter.clahe(40.0, 1, 1),
}
OUTPUTS = tuple(itertools.product(("uint8", "float16", "bfloat16"), (False, True)))


def make_index() -> _native.LabelTable:
    """Two objects on every picture, with outlines."""
    heights, widths = (np.array(side, np.uint32) for side in zip(*SIZES, strict=True))
    objects = 2 * len(SIZES)
    boxes = np.array([[0.3, 0.4, 0.4, 0.5], [0.7, 0.6, 0.5, 0.6]], np.float32)
    box = np.tile(boxes, (len(SIZES), 1))
    corners = np.array([[-0.5, 0], [0, -0.5], [0.5, 0], [0, 0.5]], np.float32)
    points = box[:, None, :2] + corners * box[:, None, 2:]
    return _native.LabelTable(
        heights, widths, np.arange(0, objects + 1, 2, dtype=np.uint64),
        np.zeros(objects, np.float32), box, np.arange(0, 4 * objects + 1, 4, dtype=np.uint64),
        points.clip(0, 1).reshape(-1, 2), outline_points=100,
    )  # fmt: skip


def make_batches() -> list[list[Recipe]]:
    """Two recipes of every kind, at sizes that are no multiples of anything."""
    index, batches = make_index(), []
    for kinds, imgsz, size in ((KINDS, 96, (83, 101)), (PASTED, 93, (93, 93))):
        recipes = []
        for seed, kind in enumerate(kinds):
            config = AugmentConfig(imgsz=imgsz, **kind).to_native()
            for position in range(2):
                values = _native.plan(index, config, seed, 0, position).to_dict()
                recipes.append(Recipe.from_dict({**values, "size": size}))
        batches.append(recipes)
    return batches


def filtered(pictures: torch.Tensor) -> torch.Tensor:
    """What each of `FILTERS` makes of its picture, all in one launch; both uint8 (K, H, W, 3)."""
    count, height, width, _ = pictures.shape
    made, nbytes = torch.zeros_like(pictures), 3 * height * width
    each, room = np.arange(count, dtype=np.uint64), int(_native.FILTER_TABLES_BYTES)
    tables = torch.empty(count * room, dtype=torch.uint8, device=pictures.device)
    tasks = torch.empty(count * int(_native.FILTER_TASK_BYTES), dtype=torch.uint8)
    _native.write_filter_tasks(
        tasks.numpy(), list(FILTERS.values()), height, width, pictures.data_ptr() + nbytes * each,
        made.data_ptr() + nbytes * each, tables.data_ptr() + room * each,
    )  # fmt: skip
    there = tasks.to(pictures.device)
    lab = torch.frombuffer(bytearray(_native.lab_tables()), dtype=torch.uint8).to(pictures.device)
    tiles = max(f.tiles for f in FILTERS.values())
    where = (there.data_ptr(), count, height, width, tiles, lab.data_ptr())
    if pictures.device.type == "cuda":
        _native.filter_cuda(*where, torch.cuda.current_stream().cuda_stream)
    else:
        _native.filter_emulated(*where)
    return made.cpu()  # while all that it is made of is still there


def main() -> int:
    """1 if any picture differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cuda", choices=("cpu", "cuda"))
    device = torch.device(parser.parse_args().device)
    rng = np.random.default_rng(3)
    host = {i: rng.integers(0, 256, (*size, 3), np.uint8) for i, size in enumerate(SIZES)}
    images = {i: torch.from_numpy(pixels).to(device) for i, pixels in host.items()}
    wrong = 0
    for recipes in make_batches():
        tasks = kernel.upload(recipes, images, device)
        want = torch.from_numpy(np.stack([_native.render(recipe, host) for recipe in recipes]))
        for dtype, channels_last in OUTPUTS:
            kind = getattr(torch, dtype)
            order = torch.channels_last if channels_last else torch.contiguous_format
            got = torch.empty(want.shape, dtype=kind, device=device, memory_format=order)
            got.fill_(77)
            kernel.launch(tasks, got, dtype, channels_last)
            expected = want if dtype == "uint8" else (want.float() / 255).to(kind)
            same = torch.equal(got.cpu(), expected)
            wrong += not same
            layout = "channels last" if channels_last else "contiguous"
            height, width = got.shape[2:]
            print(f"{height} x {width}, {dtype}, {layout}: {'equal' if same else 'DIFFERENT'}")
    for size in (*SIZES, (1, 1)):
        pictures = rng.integers(0, 256, (len(FILTERS), *size, 3), np.uint8)
        got = filtered(torch.from_numpy(pictures).to(device)).numpy()
        for made, (name, one), picture in zip(got, FILTERS.items(), pictures, strict=True):
            same = np.array_equal(made, one.apply(picture))
            wrong += not same
            print(f"{size[0]} x {size[1]}, {name}: {'equal' if same else 'DIFFERENT'}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
