"""Pictures decode to what upstream's own reader and resize give."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import yolodata.shards as shards
from yolodata.errors import DatasetError
from yolodata.images.decode import decode_image, decode_jpeg
from yolodata.images.resize import resized_shape, resized_shapes
from yolodata.shards.verify import verify


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 20_000), st.integers(1, 20_000), st.sampled_from([32, 320, 416, 640, 1280]))
def test_the_size_rule_is_upstreams(height, width, imgsz):
    ratio = imgsz / max(height, width)  # the arithmetic of BaseDataset.load_image
    want = (min(math.ceil(height * ratio), imgsz), min(math.ceil(width * ratio), imgsz))
    assert resized_shape(height, width, imgsz) == (want if ratio != 1 else (height, width))
    columns = resized_shapes(np.array([height], np.uint32), np.array([width], np.uint32), imgsz)
    assert (columns[0][0], columns[1][0]) == resized_shape(height, width, imgsz)


def encoded(kind: str, size=(61, 47)) -> tuple[str, bytes]:
    """A drawn picture file: name and bytes."""
    import cv2
    from PIL import Image

    rng = np.random.default_rng(3)
    coarse = rng.integers(0, 256, (6, 8, 4), dtype=np.uint8)
    rgba = np.asarray(Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC))
    color = Image.fromarray(rgba[..., :3].copy())
    file = io.BytesIO()

    def cv(suffix, array, *params):
        return cv2.imencode(suffix, array, list(params))[1].tobytes()

    deep = rgba.astype(np.uint16) * 257 + 99
    if kind.startswith("exif"):
        _, orientation, suffix = kind.split("-")
        exif = Image.Exif()
        exif[274] = int(orientation)
        format = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP", "tif": "TIFF", "avif": "AVIF"}
        color.save(file, format[suffix], exif=exif)
        return f"x.{suffix}", file.getvalue()
    if kind in ("jpg", "bmp", "png", "webp", "tif", "gif", "jp2", "avif"):
        format = {"jpg": "JPEG", "jp2": "JPEG2000", "tif": "TIFF"}.get(kind, kind.upper())
        color.save(file, format)
        return f"x.{kind}", file.getvalue()
    if kind == "wrongly named":
        color.save(file, "PNG")
        return "x.jpg", file.getvalue()
    if kind == "png named tif":
        color.save(file, "PNG")
        return "x.tif", file.getvalue()
    if kind == "jpg named avif":
        color.save(file, "JPEG")
        return "x.avif", file.getvalue()
    if kind.startswith("avif named jpg"):
        exif = Image.Exif()
        exif[274] = 6
        image = Image.fromarray(rgba) if kind.endswith("alpha") else color
        image.save(file, "AVIF", exif=exif)
        return "x.jpg", file.getvalue()
    modes = {"grey": "L", "bits": "1", "palette": "P", "cmyk": "CMYK", "alpha": "RGBA"}
    mode, suffix = kind.rsplit(" ", 1)
    if mode in modes:
        image = Image.fromarray(rgba) if mode == "alpha" else color.convert(modes[mode])
        image.save(file, {"jpg": "JPEG", "png": "PNG", "tif": "TIFF", "webp": "WEBP"}[suffix])
        return f"x.{suffix}", file.getvalue()
    if mode == "16 grey":
        return f"x.{suffix}", cv(f".{suffix}", deep[..., 0])
    if mode == "16 color":
        return f"x.{suffix}", cv(f".{suffix}", deep[..., :3])
    if mode == "16 alpha":
        return f"x.{suffix}", cv(f".{suffix}", deep)
    if mode == "pages":
        color.save(file, "TIFF", save_all=True, append_images=[color.rotate(180)])
        return "x.tiff", file.getvalue()
    if mode == "grey pages":
        grey = color.convert("L")
        grey.save(file, "TIFF", save_all=True, append_images=[grey.rotate(180)])
        return "x.TIFF", file.getvalue()
    if mode == "animated":
        frames = [color.rotate(90 * i) for i in range(3)]
        frames[0].save(
            file, {"gif": "GIF", "webp": "WEBP"}[suffix], save_all=True, append_images=frames[1:]
        )
        return f"x.{suffix}", file.getvalue()
    raise AssertionError(kind)


KINDS = [
    *("jpg", "bmp", "png", "webp", "tif", "gif", "jp2", "avif"),
    *("wrongly named", "png named tif", "jpg named avif", "avif named jpg"),
    "avif named jpg, with alpha",
    *("grey jpg", "grey png", "grey tif", "bits png", "palette png", "cmyk jpg", "cmyk tif"),
    *("alpha png", "alpha tif", "alpha webp", "16 grey png", "16 grey tif", "16 color png"),
    *("16 color tif", "16 alpha png", "16 alpha tif", "pages tif", "grey pages tif"),
    *("animated gif", "animated webp"),
    *(f"exif-{i}-jpg" for i in range(1, 9)),
    *(f"exif-{i}-{suffix}" for i in (3, 6) for suffix in ("png", "webp", "tif", "avif")),
]


@pytest.fixture(scope="module")
def upstream():
    """Upstream's own reader and resize."""
    from ultralytics.data.base import BaseDataset
    from ultralytics.utils.patches import imread

    def load(path, imgsz):
        dataset = BaseDataset.__new__(BaseDataset)
        dataset.imgsz, dataset.augment, dataset.cache, dataset.cv2_flag = imgsz, False, False, 1
        dataset.channels, dataset.prefix = 3, ""
        dataset.ims, dataset.im_files, dataset.npy_files = [None], [str(path)], [Path("absent.npy")]
        return dataset.load_image(0)

    return imread, load


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_equals_upstream(tmp_path, kind, upstream):
    imread, load = upstream
    name, data = encoded(kind)
    path = tmp_path / name
    path.write_bytes(data)
    array = np.frombuffer(data, np.uint8)
    want = imread(path)
    if want is None:
        with pytest.raises(DatasetError, match=name):
            decode_image(array, None, str(path))
        return
    np.testing.assert_array_equal(decode_image(array, None, str(path)), want)
    straight = decode_jpeg(array)
    assert (straight is not None) == (kind in ("jpg", "grey jpg", "jpg named avif"))
    if straight is not None:
        np.testing.assert_array_equal(straight[..., ::-1], want)
    for imgsz in (32, 61, 96):
        image, original, resized = load(path, imgsz)
        got = decode_image(array, imgsz, str(path))
        np.testing.assert_array_equal(got, image)
        assert resized_shape(*original, imgsz) == resized == got.shape[:2]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_straight_way_through_a_jpeg_gives_the_same_bits(data):
    """Any size, quality, subsampling, scan order; damaged files it leaves to the other way."""
    import cv2

    height, width = data.draw(st.integers(1, 90)), data.draw(st.integers(1, 90))
    factors = data.draw(st.sampled_from([0x111111, 0x211111, 0x221111, 0x121111, 0x411111]))
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    coarse = rng.integers(0, 256, (9, 9, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    options = {
        cv2.IMWRITE_JPEG_QUALITY: data.draw(st.integers(1, 100)),
        cv2.IMWRITE_JPEG_PROGRESSIVE: data.draw(st.integers(0, 1)),
        cv2.IMWRITE_JPEG_RST_INTERVAL: data.draw(st.sampled_from([0, 1, 3])),
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR: factors,
    }
    file = cv2.imencode(".jpg", picture, [v for pair in options.items() for v in pair])[1]
    straight = decode_jpeg(file)
    assert straight is not None
    np.testing.assert_array_equal(straight[..., ::-1], decode_image(file, None, "x.jpg"))

    target = np.zeros_like(picture)
    assert np.shares_memory(decode_jpeg(file, target), target)
    np.testing.assert_array_equal(target, straight)
    other = np.zeros((height + 1, width, 3), np.uint8)
    np.testing.assert_array_equal(decode_jpeg(file, other), straight)
    assert not other.any()

    damaged = file.copy()
    damaged[data.draw(st.integers(2, file.size - 1))] ^= 1 << data.draw(st.integers(0, 7))
    damaged = damaged[: data.draw(st.integers(3, file.size))]
    straight = decode_jpeg(damaged)
    if straight is not None:
        np.testing.assert_array_equal(straight[..., ::-1], decode_image(damaged, None, "x.jpg"))


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("empty.jpg", b""),
        ("zeros.png", bytes(1000)),
        ("text.jpg", b"not a picture"),
        ("cut.png", encoded("png")[1][:200]),
        ("cut.tif", encoded("tif")[1][:100]),
        ("cut.avif", encoded("avif")[1][:100]),
    ],
)
def test_what_is_no_picture(tmp_path, name, data, upstream):
    (tmp_path / name).write_bytes(data)
    want = upstream[0](tmp_path / name)
    array = np.frombuffer(data, np.uint8)
    if want is not None:  # upstream accepts a PNG that is cut off, for one
        np.testing.assert_array_equal(decode_image(array, None, name), want)
        return
    with pytest.raises(DatasetError, match=name):
        decode_image(array, None, name)


def test_samples_of_32_bits_are_to_be_converted():
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(np.zeros((12, 12), np.float32)).save(file, "TIFF")
    with pytest.raises(DatasetError, match="convert a TIFF file of 32 bits a sample to 8 or 16"):
        decode_image(np.frombuffer(file.getvalue(), np.uint8), None, "x.tif")


def test_encoded_shards_decode_as_upstream(tmp_path, upstream):
    meta = shards.DatasetMeta("jpeg", 48, {0: "a"})
    names = []
    with shards.ShardWriter(tmp_path / "out", meta, 4096) as writer:
        for i, kind in enumerate(("jpg", "16 grey png", "exif-6-jpg", "palette png", "pages tif")):
            name, data = encoded(kind, (61 + i, 30))
            path = tmp_path / f"{i}{name}"
            path.write_bytes(data)
            names.append(path)
            _, (h0, w0), (h, w) = upstream[1](path, 48)
            none = np.zeros((0, 4), np.float32)
            writer.append(
                shards.StoredSample(data, h, w, h0, w0, h0, w0, str(path), none[:, 0], none)
            )
        writer.finish()
    dataset = shards.open(tmp_path / "out")
    for i, path in enumerate(names):
        assert dataset.sample(i).tobytes() == path.read_bytes()
        np.testing.assert_array_equal(dataset.image(i)[..., ::-1], upstream[1](path, 48)[0])
    assert verify(tmp_path / "out", full=True).ok


def test_full_verification_decodes(tmp_path):
    """Bytes that are what was packed, but no picture of the stored size."""
    meta = shards.DatasetMeta("jpeg", 48, {0: "a"})
    none = np.zeros((0, 4), np.float32)
    data = encoded("jpg")[1]
    with shards.ShardWriter(tmp_path, meta) as writer:
        writer.append(shards.StoredSample(data, 37, 48, 47, 61, 47, 61, "a.jpg", none[:, 0], none))
        writer.append(shards.StoredSample(data, 48, 37, 61, 47, 61, 47, "b.jpg", none[:, 0], none))
        writer.append(
            shards.StoredSample(b"junk", 48, 37, 61, 47, 61, 47, "c.jpg", none[:, 0], none)
        )
        writer.finish()
    assert verify(tmp_path).ok
    problems = verify(tmp_path, full=True).problems
    assert len(problems) == 2
    assert "b.jpg decodes to (37, 48, 3), expected (48, 37, 3)" in problems[0]
    assert "c.jpg" in problems[1]
    assert "shard-00000.safetensors: byte" in problems[1]
