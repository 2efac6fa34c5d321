"""Validation batches are upstream's, bit for bit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from loading import draw_dataset, grouped, packed, write_yaml
from test_segment import with_outlines

from yolodata.errors import ConfigError
from yolodata.parity.validation import differences, upstream_dataset
from yolodata.pipeline import letterbox
from yolodata.pipeline.validation import ValidationLoader


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_dataset(tmp_path_factory.mktemp("drawn"), {"train": 1, "val": 37})


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs in several sizes: shrunk, as they are, and enlarged by load_image."""
    from ultralytics.utils import ASSETS

    root = tmp_path_factory.mktemp("photos")
    for folder in ("images/val", "labels/val"):
        (root / folder).mkdir(parents=True)
    for name in ("bus", "zidane"):
        photo = cv2.imread(str(ASSETS / f"{name}.jpg"))
        for width, height in ((640, 480), (479, 640), (333, 777), (1280, 90), (64, 64), (320, 319)):
            stem = f"{name}{width}x{height}"
            cv2.imwrite(str(root / f"images/val/{stem}.jpg"), cv2.resize(photo, (width, height)))
            label = "1 0.31 0.47 0.123456 0.654321\n0 0.5 0.5 1 1\n2 0.9 0.07 0.05 0.03\n"
            (root / f"labels/val/{stem}.txt").write_text(label)
    return write_yaml(root, ["val"])


def upstream(yaml: Path, split: str, imgsz: int, batch: int, **settings: Any) -> tuple[Any, Any]:
    from ultralytics.data.build import build_dataloader

    dataset = upstream_dataset(yaml, split, imgsz, "val", batch, **settings)
    return dataset, build_dataloader(dataset, batch, 0, shuffle=False, rank=-1)


def compare(yaml: Path, split: str, out: Path, imgsz: int, batch: int, **settings: Any) -> None:
    dataset, theirs = upstream(yaml, split, imgsz, batch, **settings)
    with ValidationLoader(
        out, batch, **grouped(imgsz=imgsz, split=split, threads=2, **settings)
    ) as ours:
        assert len(ours) == len(theirs)
        assert ours.batch_size == theirs.batch_size
        assert list(ours.dataset.im_files) == dataset.im_files
        expected = list(theirs)
        for _ in range(2):  # every pass is the same
            for mine, batch_of_theirs in zip(ours, expected, strict=True):
                assert differences(mine, batch_of_theirs) == []
                assert mine["img"].is_contiguous()


def test_differences_are_told_by_type_and_bit() -> None:
    pictures, masks = torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4)
    theirs = {"batch_idx": torch.tensor([0.0, 1.0]), "img": pictures, "shape": ((4, 4),)}
    assert differences(theirs, {**theirs, "shape": ((np.int64(4), 4),)}) == ["shape"]
    assert differences({**theirs, "img": pictures.half()}, theirs) == ["img"]
    assert differences({**theirs, "img": pictures - 0.1}, theirs) == ["img"]
    assert differences({**theirs, "more": 1}, theirs) == ["keys"]
    assert differences({"img": pictures, "batch_idx": theirs["batch_idx"]}, theirs) == [
        "keys",
        "shape",
    ]
    mine = {**theirs, "masks": masks.to(torch.uint8)}
    assert differences(mine, {**theirs, "masks": masks}) == ["masks"]
    without = {**mine, "batch_idx": torch.zeros(2)}  # the second picture has no objects
    assert differences(without, {**without, "masks": masks}) == []
    assert differences(without, {**without, "masks": masks + 0.5}) == ["masks"]
    assert differences({**without, "masks": masks}, without) == ["masks"]


@pytest.mark.parametrize(("codec", "imgsz"), [("raw", 96), ("jpeg", 160)])
def test_drawn_pictures(drawn: Path, codec: str, imgsz: int) -> None:
    out = packed(drawn, drawn.parent / f"{codec}{imgsz}", codec, imgsz)
    for batch in (1, 5, 64):
        compare(drawn, "val", out, imgsz, batch)
    compare(drawn, "val", out, imgsz, 8, rect=False)
    compare(drawn, "val", out, imgsz, 8, classes=[0, 2], single_cls=True)


@pytest.mark.parametrize("imgsz", [320, 640])
def test_photographs(photos: Path, imgsz: int) -> None:
    out = packed(photos, photos.parent / f"raw{imgsz}", "raw", imgsz, splits=["val"])
    compare(photos, "val", out, imgsz, 4)
    compare(photos, "val", out, imgsz, 5, rect=False)


def test_jpeg_shards_serve_any_size(photos: Path) -> None:
    out = packed(photos, photos.parent / "jpeg", "jpeg", 640, splits=["val"])
    compare(photos, "val", out, 640, 4)
    compare(photos, "val", out, 224, 5)
    raw = packed(photos, photos.parent / "raw128", "raw", 128, splits=["val"])
    with pytest.raises(ConfigError, match="pack again with --imgsz 224"):
        ValidationLoader(raw, 4, imgsz=224, split="val")


def test_equally_large_objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which of them is on top is decided by NumPy's sort, another one on every processor."""
    yaml = with_outlines(draw_dataset(tmp_path / "set", {"train": 1, "val": 7}))
    for file in (tmp_path / "set" / "labels" / "val").iterdir():
        rows = filter(None, file.read_text().split("\n"))
        file.write_text("".join(f"{cls}{row[1:]}\n" for row in rows for cls in (0, 1, 2)))
    out = packed(yaml, tmp_path / "out", "raw", 96)
    compare(yaml, "val", out, 96, 5, task="segment")
    monkeypatch.setattr(np, "argsort", lambda keys: np.lexsort((-np.arange(len(keys)), keys)))
    compare(yaml, "val", out, 96, 5, task="segment")  # equal ones the other way round
    compare(yaml, "val", out, 96, 5, task="segment", overlap_mask=False)


@pytest.mark.parametrize("name", ["coco-mini", "bccd"])
def test_real_images(name: str, tmp_path: Path) -> None:
    default = Path(__file__).parents[2] / "shared" / "data"
    data = Path(os.environ.get("YOLODATA_TEST_DATA", default)) / name
    if not data.is_dir():
        pytest.skip(f"needs {data}; set YOLODATA_TEST_DATA to a folder that has {name}")
    yaml = data / "data.yaml"
    out = packed(yaml, tmp_path / "out", "raw", 320, splits=["val"])
    compare(yaml, "val", out, 320, 16)
    if name == "coco-mini":
        compare(yaml, "val", out, 320, 16, task="segment")


def test_notices_half_a_pixel(drawn: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: padding rounded the other way is found in pictures and labels."""
    out = packed(drawn, drawn.parent / "control", "raw", 96)
    right = letterbox.place

    def wrong(height: int, width: int, shape: Any) -> letterbox.Placement:
        placed = right(height, width, shape)
        odd = (int(shape[1]) - placed.width) % 2 == 1
        return placed._replace(left=placed.left + odd)

    monkeypatch.setattr(letterbox, "place", wrong)
    _, theirs = upstream(drawn, "val", 96, 5)
    with ValidationLoader(out, 5, **grouped(threads=1)) as ours:
        found = [differences(a, b) for a, b in zip(ours, theirs, strict=True)]
    assert ["bboxes", "img", "ratio_pad"] in found


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_pictures_too_large_for_their_batch(
    drawn: Path, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Labels may give another size than the decoded picture has; upstream shrinks the picture."""
    out = packed(drawn, drawn.parent / f"{codec}-shrunk", codec, 160)
    from ultralytics.data.dataset import YOLODataset

    honest = YOLODataset.get_labels

    def claim_wide(self: Any) -> list[dict[str, Any]]:
        labels = honest(self)
        for label in labels[::3]:
            label["shape"] = (40, 160)
        return labels

    monkeypatch.setattr(YOLODataset, "get_labels", claim_wide)
    _, theirs = upstream(drawn, "val", 160, 4)

    from yolodata.shards import reader

    shards = reader.open(out, split="val")
    height, width = shards.label_height.copy(), shards.label_width.copy()
    height[::3], width[::3] = 40, 160
    monkeypatch.setattr(shards, "label_height", height)
    monkeypatch.setattr(shards, "label_width", width)
    with ValidationLoader(shards, 4, **grouped(threads=2)) as ours:
        assert ours._shrunk
        for mine, batch in zip(ours, theirs, strict=True):
            assert differences(mine, batch) == []


@pytest.mark.parametrize("batch", [1, 5, 64])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_take_what_upstream_gives_them(drawn: Path, batch: int, world_size: int) -> None:
    from torch.utils.data import DataLoader
    from ultralytics.data.build import ContiguousDistributedSampler

    out = drawn.parent / "ranks"
    if not out.exists():
        packed(drawn, out, "raw", 96)
    dataset, _ = upstream(drawn, "val", 96, batch)
    for rank in range(world_size):
        sampler = ContiguousDistributedSampler(dataset, world_size, rank=rank)
        theirs = DataLoader(
            dataset, min(batch, len(dataset)), sampler=sampler, collate_fn=dataset.collate_fn
        )
        with ValidationLoader(
            out, batch, **grouped(rank=rank, world_size=world_size, threads=1)
        ) as ours:
            assert list(ours.sampler) == list(sampler)
            assert len(ours) == len(theirs)
            for mine, batch_of_theirs in zip(ours, theirs, strict=True):
                assert differences(mine, batch_of_theirs) == []


def test_ranks_make_the_pictures_of_one_process(drawn: Path) -> None:
    """With `shape_batch`, whatever the shapes of their own batches would be."""
    out = drawn.parent / "ranks"
    if not out.exists():
        packed(drawn, out, "raw", 96)

    def pictures(**given: Any) -> list[Any]:
        with ValidationLoader(out, **grouped(threads=1, **given)) as loader:
            return [picture.numpy() for batch in loader for picture in batch["img"]]

    whole = pictures(batch_size=20)
    parts = [{"batch_size": 10, "world_size": 2, "rank": rank} for rank in range(2)]
    both = [picture for part in parts for picture in pictures(**part, shape_batch=20)]
    assert len(both) == len(whole) == 37
    assert all(np.array_equal(one, other) for one, other in zip(both, whole, strict=True))
    without = [picture for part in parts for picture in pictures(**part)]
    assert any(one.shape != other.shape for one, other in zip(without, whole, strict=True))
    with pytest.raises(ConfigError, match="multiple of batch_size=10, got 8"):
        pictures(**parts[0], shape_batch=8)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"stride": 32768}, "stride must be 1 to 16384 pixels, got 32768"),
        ({"stride": 0}, "stride must be 1 to 16384"),
        ({"stride": 32.0}, "stride must be a whole number, got 32.0"),
        ({"stride": 16384, "pad": 2}, "at most 32768 are made"),
        ({"batch_size": True}, "batch_size must be a whole number, got True"),
    ],
)
def test_numbers_that_no_batch_has(drawn: Path, values: dict[str, Any], said: str) -> None:
    out = drawn.parent / "ranks"
    if not out.exists():
        packed(drawn, out, "raw", 96)
    with pytest.raises(ConfigError, match=said):
        ValidationLoader(out, **{"batch_size": 1, **values})


def test_can_be_left_half_way(drawn: Path) -> None:
    out = packed(drawn, drawn.parent / "half", "jpeg", 96)
    with ValidationLoader(out, 4, **grouped(threads=2)) as loader:
        first = [np.asarray(batch["img"]).copy() for batch in loader]
        for _ in range(3):
            next(iter(loader))
        again = iter(loader)
        np.testing.assert_array_equal(next(again)["img"].numpy(), first[0])
        assert len(list(again)) == len(loader) - 1
    with pytest.raises(ConfigError, match="closed"):
        iter(loader)
