"""A pipeline of DALI on the CPU: what its own operators do of the recipe."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.dlpack import from_dlpack

from yolodata.bench.peers.files import GREY, Files, subject
from yolodata.bench.subject import Batch, Row, Subject, Task


class Pictures:
    """Batches of an endless pipeline: decoded, resized, colours changed, flipped, padded."""

    def __init__(self, files: Files, row: Row, task: Task) -> None:
        from nvidia.dali import Pipeline, fn, types

        side = task.imgsz
        pipeline = Pipeline(task.batch, row.threads, None, seed=task.seed, exec_dynamic=True)
        with pipeline:
            jpegs, _ = fn.readers.file(files=files.images, random_shuffle=True)
            pictures = fn.decoders.image(jpegs, device="cpu")
            pictures = fn.resize(pictures, resize_x=side, resize_y=side, mode="not_larger",
                                 interp_type=types.INTERP_LINEAR, antialias=False)  # fmt: skip
            pictures = fn.hsv(
                pictures,
                hue=fn.random.uniform(range=(-2.7, 2.7)),
                saturation=fn.random.uniform(range=(0.3, 1.7)),
                value=fn.random.uniform(range=(0.6, 1.4)),
            )
            half = fn.random.coin_flip(probability=0.5)
            pictures = fn.crop_mirror_normalize(
                pictures, mirror=half, crop=(side, side), dtype=types.UINT8, output_layout="CHW",
                out_of_bounds_policy="pad", fill_values=[GREY],
            )  # fmt: skip
            pipeline.set_outputs(pictures)
        pipeline.build()
        self.files, self.batch, self.pipeline = files, task.batch, pipeline

    def __iter__(self) -> Iterator[Batch]:
        (made,) = self.pipeline.run()
        self.files.count(self.batch)  # each is: the pipeline keeps none
        yield {"img": from_dlpack(made.as_tensor())}


def open_loader(row: Row, task: Task) -> Subject:
    """Its threads are native."""
    files = Files(task)
    return subject(Pictures(files, row, task), row, task, files)
