"""DALI that only decodes: what bounds every loader on a GPU that reads JPEG files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from yolodata.bench.burst import Pace
from yolodata.bench.subject import Batch, Row, Subject, Task
from yolodata.pipeline.gpu.jpeg_decoder import DaliDecoder
from yolodata.shards import reader


def open_decoder(row: Row, task: Task) -> Subject:
    """DALI decodes and resizes the files of JPEG shards to where they are needed, and that is all.

    The first batch goes through `DaliDecoder.decode`, which sees whether files are fit for it; from
    there on it is a graph of DALI's with a queue of its own. Pictures have different sizes; `img`
    is a stand-in of the right length.

    Raises:
        ValueError: a file is not for DALI.
    """
    assert task.data is not None
    shards, rng = reader.open(task.data), np.random.default_rng(task.seed)
    decoder: Any = DaliDecoder(
        task.imgsz, device=task.device, batch_size=task.batch, threads=row.threads,
        hw_decoder_load=task.hw_decoder_load,
    )  # fmt: skip
    pace, share = Pace(torch.device(task.device)), decoder.hw_decoder_load
    stand_in = np.zeros((task.batch, 3, 1, 1), np.uint8)

    def orders() -> Iterator[list[int]]:
        while True:
            order = rng.permutation(len(shards)).tolist()
            for first in range(0, len(order) - task.batch + 1, task.batch):
                yield order[first : first + task.batch]

    def files(images: Sequence[int]) -> tuple[list[Any], list[tuple[int, int]]]:
        sizes = [(int(shards.height[i]), int(shards.width[i])) for i in images]
        return [shards.sample(i) for i in images], sizes

    def batches() -> Iterator[Batch]:
        images = next(orders())
        data, sizes = files(images)
        for picture in decoder.decode(data, [shards.name(i) for i in images], sizes):
            if picture.pixels is None or picture.fallback:
                raise ValueError(
                    f"a picture of {shards.path} is not for DALI: {picture.reason or 'no JPEG'}"
                )
        for _ in decoder.endless(map(files, orders())):
            pace.keep()
            yield {"img": stand_in}

    def facts() -> dict[str, float]:
        """The share of the files that the GPU's JPEG engine decodes."""
        return {} if share is None else {"hw_decoder_load": share}

    return Subject(batches(), warm_up=4 * task.batch, finish=pace.finish, facts=facts,
                   close=decoder.close)  # fmt: skip
