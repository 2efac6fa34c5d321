"""The DALI decoder: OpenCV's pictures, one file's damage is its own, memory that stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_shard_decode import KINDS, encoded

from yolodata.errors import ConfigError, DatasetError
from yolodata.shards.decode import decode_image, resized_shape

dali = pytest.importorskip("yolodata.pipeline.dali")
pytest.importorskip("nvidia.dali")


def jpeg(height: int, width: int, seed: int = 0, quality: int = 90) -> Any:
    """A JPEG file, read-only."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    file = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    file.flags.writeable = False
    return file


def expected(data: Any, imgsz: int, name: str) -> Any:
    return decode_image(np.asarray(data), imgsz, name)[..., ::-1]


@pytest.fixture(scope="module")
def decoder() -> Any:
    made = dali.DaliDecoder(64, batch_size=4, threads=2)
    yield made
    made.close()
    made.close()


def decode(decoder: Any, files: list[Any], names: list[str] | None = None, imgsz: int = 64) -> Any:
    names = names or [f"{i}.jpg" for i in range(len(files))]
    sizes = []
    for data, name in zip(files, names, strict=True):
        try:
            sizes.append(decode_image(np.asarray(data), imgsz, name).shape[:2])
        except DatasetError:
            sizes.append((imgsz, imgsz))
    return decoder.decode(files, names, sizes)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_file_decodes_as_opencv_does(decoder, kind: str) -> None:
    name, data = encoded(kind, (64, 40))
    try:
        want = expected(np.frombuffer(data, np.uint8), 64, name)
    except DatasetError:
        want = None
    got = decode(decoder, [np.frombuffer(data, np.uint8)], [name])[0]
    assert got.fallback == (kind not in ("jpg", "grey jpg", "jpg named avif"))
    if want is None:
        assert got.pixels is None
        assert name in got.reason
    elif want.shape[:2] == (40, 64) or got.fallback:
        np.testing.assert_array_equal(got.pixels.numpy(), want)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(10, 150), st.integers(10, 150)), min_size=1, max_size=11))
def test_sizes_and_pixels(decoder, shapes: list[tuple[int, int]]) -> None:
    """Bit for bit where nothing is resized, within one grey level elsewhere."""
    files = [jpeg(h, w, seed) for seed, (h, w) in enumerate(shapes)]
    for (h, w), file, got in zip(shapes, files, decode(decoder, files), strict=True):
        assert not got.fallback
        want = expected(file, 64, "x.jpg")
        assert got.pixels.shape == (*resized_shape(h, w, 64), 3)
        assert got.pixels.is_contiguous()
        apart = np.abs(got.pixels.numpy().astype(int) - want)
        assert apart.max() <= (0 if max(h, w) == 64 else 1)


@pytest.mark.parametrize("place", range(6))
@pytest.mark.parametrize("damage", ["cut", "zeros", "noise", "empty", "header"])
def test_one_files_damage_is_its_own(decoder, place: int, damage: str) -> None:
    files = [np.array(jpeg(50, 64, seed)) for seed in range(6)]
    want = [expected(file, 64, "x.jpg") for file in files]
    file = files[place]
    if damage == "cut":
        files[place] = file[: file.size // 2]
    elif damage == "empty":
        files[place] = file[:0]
    elif damage == "header":
        file[2:40] = 0
    else:
        start = 0 if damage == "zeros" else file.size // 2
        file[start:] = 0 if damage == "zeros" else 0xFF
    for i, got in enumerate(decode(decoder, files)):
        if i != place:
            assert not got.fallback
            np.testing.assert_array_equal(got.pixels.numpy(), want[i])
        elif got.pixels is None:
            assert f"{place}.jpg" in got.reason
        else:
            assert damage in ("cut", "noise")  # the rest of the file is made up
            assert got.pixels.shape == (50, 64, 3)
    again = decode(decoder, [jpeg(50, 64, seed) for seed in range(6)])
    for got, pixels in zip(again, want, strict=True):
        np.testing.assert_array_equal(got.pixels.numpy(), pixels)


def test_pictures_stay_what_they_are_while_others_are_decoded(decoder) -> None:
    files = [jpeg(50, 64, seed) for seed in range(9)]
    first = decode(decoder, files)
    want = [got.pixels.numpy().copy() for got in first]
    for round in range(10):
        decode(decoder, [jpeg(50, 64, 100 + 9 * round + k) for k in range(9)])
    for got, pixels in zip(first, want, strict=True):
        np.testing.assert_array_equal(got.pixels.numpy(), pixels)
    closing = dali.DaliDecoder(64, batch_size=4)
    kept = decode(closing, files)[0].pixels
    closing.close()
    del closing
    np.testing.assert_array_equal(kept.numpy(), want[0])


def test_wrong_sizes_and_arguments_are_named(decoder) -> None:
    wrong = decoder.decode([jpeg(50, 64)], ["a.jpg"], [(64, 50)])[0]
    assert wrong.pixels is None
    assert "a.jpg: decoded to (50, 64)" in wrong.reason
    for settings_ in ({"batch_size": 0}, {"threads": 0}, {"hw_decoder_load": 2}):
        with pytest.raises(ConfigError, match=next(iter(settings_))):
            dali.DaliDecoder(64, **settings_)
    closed = dali.DaliDecoder(64)
    closed.close()
    with pytest.raises(ConfigError, match="closed"):
        closed.decode([jpeg(8, 8)], ["a.jpg"], [(64, 64)])


def test_photographs(decoder, real_data: Path) -> None:
    large = dali.DaliDecoder(416, batch_size=8, threads=2)
    files = sorted((real_data / "coco-mini" / "images").rglob("*.jpg"))[:24]
    data = [np.fromfile(file, np.uint8) for file in files]
    means = []
    for file, got in zip(data, decode(large, data, imgsz=416), strict=True):
        apart = np.abs(got.pixels.numpy().astype(int) - expected(file, 416, "x.jpg"))
        assert apart.max() <= 1
        means.append(apart.mean())
    assert np.mean(means) < 0.2
    large.close()


@pytest.mark.gpu
def test_a_gpu_decodes_nearly_the_same(real_data: Path) -> None:
    files = sorted((real_data / "coco-mini" / "images").rglob("*.jpg"))[:64]
    data = [np.fromfile(file, np.uint8) for file in files]
    there = dali.DaliDecoder(640, device="cuda", batch_size=16, threads=4)
    for load in ("auto", 0.0, 1.0):
        there = dali.DaliDecoder(640, device="cuda", batch_size=16, threads=4, hw_decoder_load=load)
        for file, got in zip(data, decode(there, data, imgsz=640), strict=True):
            assert not got.fallback
            apart = np.abs(got.pixels.cpu().numpy().astype(int) - expected(file, 640, "x.jpg"))
            assert apart.mean() < 1.0
        there.close()
