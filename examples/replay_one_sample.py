"""Makes one sample of a training run again, from (seed, epoch, position) alone.

python examples/replay_one_sample.py --seed 0 --epoch 3 --position 10

Prints the recipe: which images, where, and every number that was drawn. Takes the same sample from
a loader, compares both, and writes them side by side into replay.png.
"""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import numpy as np
from example_data import argument_parser, packed
from PIL import Image

import yolodata

BATCH = 4


def main(arguments: list[str] | None = None) -> Path:
    """Replays a sample; returns the PNG file."""
    parser = argument_parser(__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epoch", type=int, default=3)
    parser.add_argument("--position", type=int, default=10)
    args = parser.parse_args(arguments)

    # Replayed: plan the sample, and render it from its images.
    shards = yolodata.open_shards(packed(args.data, args.folder), split="train")
    config = yolodata.AugmentConfig(imgsz=shards.meta.imgsz, mixup=0.2, degrees=5.0)
    recipe = yolodata.plan(config, shards, seed=args.seed, epoch=args.epoch, position=args.position)
    values = recipe.to_dict()
    print(json.dumps(values, indent=1))
    images = {tile["image"] for layer in values["layers"] for tile in layer["tiles"]}
    replayed = yolodata.render(recipe, {i: shards.image(i) for i in images})
    classes, boxes = yolodata.labels(recipe, shards, config)

    # As trained on: the loader's batch that holds the position.
    with yolodata.Loader(shards, BATCH, augment=config, seed=args.seed) as loader:
        loader.set_epoch(args.epoch)
        number, row = divmod(args.position, BATCH)
        batch = next(islice(loader, number, None))
        trained_on = batch["img"][row].numpy()
        objects = (batch["batch_idx"] == row).numpy()

    assert np.array_equal(replayed, trained_on), "the pictures differ"
    assert np.array_equal(classes, batch["cls"].numpy()[objects]), "the classes differ"
    assert np.array_equal(boxes, batch["bboxes"].numpy()[objects]), "the boxes differ"
    png = args.folder / "replay.png"
    both = np.concatenate([replayed, trained_on], axis=2).transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(both)).save(png)
    print(f"{png}: replayed on the left, the loader's on the right; the same pixels")
    return Path(png)


if __name__ == "__main__":
    main()
