"""Augments in a DALI graph of one's own, by fn.yolodata.render.

python examples/custom_dali_graph.py

The operator is compiled on first use (g++ 12 or newer); see docs/dali-operators.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from example_data import argument_parser, packed
from nvidia.dali import fn, pipeline_def, types
from torch.utils.dlpack import from_dlpack

import yolodata
import yolodata.dali


@pipeline_def(num_threads=2, device_id=None, prefetch_queue_depth=1, exec_dynamic=True)  # type: ignore[untyped-decorator]
def graph() -> Any:
    """Decodes, resizes, augments and scales: JPEG files to float32 (3, imgsz, imgsz) in 0-1."""
    files = fn.external_source(name="files", dtype=types.UINT8, ndim=1)
    sizes = fn.external_source(name="sizes", dtype=types.FLOAT, ndim=1)
    recipes = fn.external_source(name="recipes", dtype=types.UINT8, ndim=1)
    images = fn.decoders.image(files, output_type=types.RGB)
    images = fn.resize(images, size=sizes, antialias=False)
    pictures = fn.yolodata.render(images, recipes, layout="HWC")  # type: ignore[attr-defined]
    return fn.crop_mirror_normalize(
        pictures, std=[255.0] * 3, dtype=types.FLOAT, output_layout="CHW"
    )


def batches(
    shards: yolodata.ShardDataset, config: yolodata.AugmentConfig, size: int
) -> Iterator[tuple[torch.Tensor, yolodata.dali.BatchRecipes]]:
    """Yields float32 pictures (size, 3, imgsz, imgsz) and the plan with their objects.

    Partners of a mosaic come from the same batch, because a graph sees no other image.
    """
    pipeline = graph(batch_size=size)
    for number in range(len(shards) // size):
        images = range(number * size, (number + 1) * size)
        objects = [slice(*shards.object_offset[i : i + 2].tolist()) for i in images]
        sizes = [(int(shards.height[i]), int(shards.width[i])) for i in images]
        planned = yolodata.dali.batch_recipes(
            config,
            sizes,
            seed=0,
            batch=number,
            cls=[shards.cls[rows] for rows in objects],
            bboxes=[shards.box[rows] for rows in objects],
        )
        (pictures,) = pipeline.run(
            files=[np.asarray(shards.sample(i)) for i in images],
            sizes=np.array(sizes, np.float32),
            recipes=planned.recipes,
        )
        yield from_dlpack(pictures.as_tensor()), planned


def main(arguments: list[str] | None = None) -> None:
    """Runs the graph over the training images once."""
    args = argument_parser(__doc__).parse_args(arguments)
    yolodata.dali.load()  # from now on there is fn.yolodata.render
    shards = yolodata.open_shards(packed(args.data, args.folder, codec="jpeg"), split="train")
    config = yolodata.AugmentConfig(imgsz=shards.meta.imgsz, mixup=0.1)
    for pictures, planned in batches(shards, config, size=4):
        print(tuple(pictures.shape), f"{sum(map(len, planned.cls))} objects")


if __name__ == "__main__":
    main()
