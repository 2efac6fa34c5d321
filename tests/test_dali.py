"""The DALI decoder: OpenCV's pictures, one file's damage is its own, memory that stays."""

from __future__ import annotations

import contextlib
import logging
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_images_decode import KINDS, encoded
from test_images_limits import HEIGHT, WIDTH, stating, with_scans

from yolodata.errors import ConfigError, DatasetError
from yolodata.images.decode import decode_image
from yolodata.images.jpeg import ordinary_jpeg
from yolodata.images.resize import resized_shape

dali = pytest.importorskip("yolodata.pipeline.gpu.jpeg_decoder")
nvidia_dali = pytest.importorskip("nvidia.dali")


def jpeg(height: int, width: int, seed: int = 0, quality: int = 90) -> Any:
    """A JPEG file, read-only."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (7, 7, 3), dtype=np.uint8)
    picture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    file = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    file.flags.writeable = False
    return file


def no_table(file: Any) -> Any:
    """A file whose header is fine and which no decoder can decode: no quantisation tables."""
    file = np.array(file)
    at = file.tobytes().index(b"\xff\xdb")
    file[at : at + 2] = (0xFF, 0xE2)
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
            shape = ordinary_jpeg(np.asarray(data)) if len(data) else None
            sizes.append(resized_shape(*(shape or (1, 1)), imgsz))
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
@given(st.lists(st.tuples(st.integers(1, 150), st.integers(1, 150)), min_size=1, max_size=11))
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
@pytest.mark.parametrize("damage", ["cut", "zeros", "noise", "empty", "header", "no table"])
def test_one_files_damage_is_its_own(decoder, place: int, damage: str) -> None:
    files = [np.array(jpeg(50, 64, seed)) for seed in range(6)]
    want = [expected(file, 64, "x.jpg") for file in files]
    file = files[place]
    if damage == "cut":
        files[place] = file[: file.size // 2]
    elif damage == "empty":
        files[place] = file[:0]
    elif damage == "no table":
        files[place] = no_table(file)
    elif damage == "header":
        file[2:40] = 0
    else:
        start = 0 if damage == "zeros" else file.size // 2
        file[start:] = 0 if damage == "zeros" else 0xFF
    for i, got in enumerate(decode(decoder, files)):
        if i != place:
            assert not got.fallback
            np.testing.assert_array_equal(got.pixels.numpy(), want[i])
            continue
        assert got.fallback
        try:
            rescued = expected(files[place], 64, f"{place}.jpg")
        except DatasetError:
            assert got.pixels is None
            assert f"{place}.jpg" in got.reason
        else:  # some versions of OpenCV make up the rest
            np.testing.assert_array_equal(got.pixels.numpy(), rescued)
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


def test_a_file_that_only_dali_refuses_is_opencvs(decoder, monkeypatch, caplog) -> None:
    files = [jpeg(50, 64, seed) for seed in range(4)]
    feed, outputs, fed = dali._feed, dali._outputs, {}

    def remember(graph: Any, given: Any) -> None:
        fed[graph] = [file.name for file in given]
        feed(graph, given)

    def refuse(graph: Any) -> Any:
        pictures = outputs(graph)
        if {"1.jpg", "2.jpg"} & set(fed[graph]):
            raise RuntimeError("refused")
        return pictures

    monkeypatch.setattr(dali, "_feed", remember)
    monkeypatch.setattr(dali, "_outputs", refuse)
    monkeypatch.setattr(decoder, "_complained", False)
    with caplog.at_level(logging.WARNING, "yolodata"):
        decoded = decode(decoder, files)
    assert [got.fallback for got in decoded] == [False, True, True, False]
    for file, got in zip(files, decoded, strict=True):
        np.testing.assert_array_equal(got.pixels.numpy(), expected(file, 64, "x.jpg"))
    assert caplog.text.count("DALI cannot decode 1.jpg") == 1
    assert "2.jpg" not in caplog.text


@pytest.mark.parametrize("fails", ["_feed", "_outputs"])
def test_what_an_interrupted_call_left_behind_is_never_returned(fails: str, monkeypatch) -> None:
    decoder = dali.DaliDecoder(64, batch_size=2)
    old, new = ([jpeg(50, 64, seed + k) for k in range(5)] for seed in (0, 100))
    decode(decoder, old)
    real, calls = getattr(dali, fails), []

    def interrupted(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(dali, fails, interrupted)
        with pytest.raises(KeyboardInterrupt):
            decode(decoder, old)
    for file, got in zip(new, decode(decoder, new), strict=True):
        np.testing.assert_array_equal(got.pixels.numpy(), expected(file, 64, "x.jpg"))
    decoder.close()


def test_files_are_read_where_they_lie(tmp_path: Path) -> None:
    """Views of a read-only map go in; bytes changed behind DALI's back are the ones it decodes."""
    files = [np.array(jpeg(50, 64, seed)) for seed in range(3)]
    path = tmp_path / "shard"
    path.write_bytes(b"".join(file.tobytes() for file in files))
    whole = np.memmap(path, np.uint8, "r")
    ends = np.cumsum([file.size for file in files])
    views = [whole[end - file.size : end] for end, file in zip(ends, files, strict=True)]
    decoder = dali.DaliDecoder(64, batch_size=2)
    for file, got in zip(files, decode(decoder, views), strict=True):
        assert not got.fallback
        np.testing.assert_array_equal(got.pixels.numpy(), expected(file, 64, "x.jpg"))
    assert path.read_bytes() == b"".join(file.tobytes() for file in files)

    room = np.zeros(max(file.size for file in files), np.uint8)
    room[: files[0].size] = files[0]
    graph = decoder._build()
    graph.feed_input("files", [room])
    graph.feed_input("sizes", np.array([[50, 64]], np.float32))
    graph.feed_input("differs", np.array([False]))
    room[:] = 0
    room[: files[1].size] = files[1]
    graph.schedule_run()
    (picture,) = dali._outputs(graph)
    np.testing.assert_array_equal(picture.numpy(), expected(files[1], 64, "x.jpg"))
    decoder.close()


@pytest.fixture
def graphs(monkeypatch) -> list[dict[str, Any]]:
    """What a GPU's graphs are built with and fed, gone through with DALI's CPU operators."""
    made: list[dict[str, Any]] = []
    decode, feed, pipeline_def = nvidia_dali.fn.decoders.image, dali._feed, nvidia_dali.pipeline_def

    def image(files: Any, *, device: str, **options: Any) -> Any:
        assert device == "mixed"
        made.append({"load": options.pop("hw_decoder_load"), "fed": []})
        return decode(files, device="cpu", **options)

    def on_the_cpu(**options: Any) -> Any:
        assert options["device_id"] == 0
        return pipeline_def(**{**options, "device_id": None})

    def noting(graph: Any, files: Any) -> None:
        owner, _ = owners.setdefault(id(graph), (made[-1], graph))  # kept: its id stays its own
        owner["fed"].append([file.name for file in files])
        feed(graph, files)

    owners: dict[int, tuple[dict[str, Any], Any]] = {}
    monkeypatch.setattr(dali, "_existing", lambda device: torch.device("cuda", 0))
    monkeypatch.setattr(nvidia_dali.fn.decoders, "image", image)
    monkeypatch.setattr(nvidia_dali, "pipeline_def", on_the_cpu)
    monkeypatch.setattr(dali, "_feed", noting)
    monkeypatch.setattr(
        dali.DaliDecoder, "_by_opencv", lambda self, file: dali.Decoded(None, fallback=True)
    )
    dali._warn_that_pixels_vary.cache_clear()
    return made


def test_auto_leaves_every_file_to_the_cuda_decoder(graphs, caplog) -> None:
    """In each graph: the first ones, and those that are built where one file fails its run."""
    decoder = dali.DaliDecoder(64, device="cuda", batch_size=4)
    files = [jpeg(50, 64, seed) for seed in range(7)]
    files[2] = no_table(files[2])
    decode(decoder, files)
    assert len(graphs) > 2
    assert {graph["load"] for graph in graphs} == {0.0}
    assert graphs[0]["fed"] == [["0.jpg", "1.jpg", "2.jpg", "3.jpg"]]  # nothing goes before them
    assert decoder.hw_decoder_load == 0.0
    assert "hw_decoder_load" not in caplog.text
    decoder.close()


def test_a_share_for_the_engine_is_said_once_and_counted_from_a_full_run(graphs, caplog) -> None:
    """nvImageCodec keeps the number of files that a share is of a graph's first run."""
    for load in (0.4, 1.0, 1.0):
        graphs.clear()
        decoder = dali.DaliDecoder(64, device="cuda", batch_size=4, hw_decoder_load=load)
        for file, got in zip([jpeg(50, 64)], decode(decoder, [jpeg(50, 64)]), strict=True):
            np.testing.assert_array_equal(got.pixels.numpy(), expected(file, 64, "x.jpg"))
        (graph,) = graphs
        assert graph == {"load": load, "fed": [[""] * 4, ["0.jpg"]]}
        assert decoder.hw_decoder_load == load
        decoder.close()
    said = [line for line in caplog.messages if "up to 3 grey levels" in line]
    assert [line.split(":")[0] for line in said] == ["hw_decoder_load=0.4", "hw_decoder_load=1.0"]


def test_dali_by_itself_makes_the_same_pictures(decoder) -> None:
    """Of batches that follow each other, each from its own files; some are resized."""
    shapes = [(50, 64), (90, 120), (64, 64), (8, 9)]
    batches = [[jpeg(*shape, 10 * k + i) for i, shape in enumerate(shapes)] for k in range(6)]
    sizes = [resized_shape(*shape, 64) for shape in shapes]
    made = decoder.endless((files, sizes) for files in batches + batches)
    for files, pictures in zip(batches, made, strict=False):
        for k, got in enumerate(decode(decoder, files)):
            np.testing.assert_array_equal(np.asarray(pictures.at(k)), got.pixels.numpy())


def test_a_missing_dali_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    with pytest.raises(ConfigError, match="nvidia-dali-cuda120"):
        dali.DaliDecoder(64)


def test_wrong_sizes_and_arguments_are_named(decoder) -> None:
    wrong = decoder.decode([jpeg(50, 64)], ["a.jpg"], [(64, 50)])[0]
    assert wrong.pixels is None
    assert "a.jpg: decoded to (50, 64)" in wrong.reason
    for settings_ in ({"batch_size": 0}, {"threads": 0}, {"hw_decoder_load": 2}):
        with pytest.raises(ConfigError, match=next(iter(settings_))):
            dali.DaliDecoder(64, **settings_)
    for device in ("cuda:99", "meta", "nonsense"):
        with pytest.raises(ConfigError, match=f"device must be .*{device}"):
            dali.DaliDecoder(64, device=device)
    closed = dali.DaliDecoder(64)
    closed.close()
    with pytest.raises(ConfigError, match="closed"):
        closed.decode([jpeg(8, 8)], ["a.jpg"], [(64, 64)])


def test_photographs(decoder, real_data: Path) -> None:
    large = dali.DaliDecoder(416, batch_size=8, threads=2)
    data = photographs(real_data)
    means = []
    for file, got in zip(data, decode(large, data, imgsz=416), strict=True):
        apart = np.abs(got.pixels.numpy().astype(int) - expected(file, 416, "x.jpg"))
        assert apart.max() <= 1
        means.append(apart.mean())
    assert np.mean(means) < 0.2
    large.close()


PLACES = [
    pytest.param("cpu"),
    pytest.param("cuda", marks=pytest.mark.gpu),
]


@pytest.fixture(scope="module", params=PLACES)
def alone(request: pytest.FixtureRequest) -> Any:
    """Files of many kinds, and what each of them is when it is decoded alone."""
    rng = np.random.default_rng(3)
    shapes = [(50, 64), (90, 120), (64, 64), (8, 9), (1, 150), (64, 48), (300, 417), (1100, 1300)]
    files = [
        jpeg(*shape, seed, quality) for shape in shapes for seed, quality in ((1, 90), (2, 40))
    ]
    kinds = [  # other subsamplings, restart markers, noise
        [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444],
        [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422],
        [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440],
        [cv2.IMWRITE_JPEG_PROGRESSIVE, 1],
        [cv2.IMWRITE_JPEG_RST_INTERVAL, 2],
    ]
    for kind in kinds:
        noise = rng.integers(0, 256, (57, 61, 3), dtype=np.uint8)
        files.append(cv2.imencode(".jpg", noise, kind)[1])
    files.append(cv2.imencode(".jpg", rng.integers(0, 256, (40, 64), dtype=np.uint8))[1])
    files.append(no_table(files[0]))
    with contextlib.suppress(pytest.skip.Exception):
        files += photographs(request.getfixturevalue("real_data"))
    single = dali.DaliDecoder(64, device=request.param, batch_size=1)
    pixels = [pixels_of(decode(single, [file]))[0] for file in files]
    single.close()
    return request.param, files, pixels


def photographs(folder: Path) -> list[Any]:
    """A dozen files, read-only."""
    found = sorted((folder / "coco-mini" / "images").rglob("*.jpg"))[:12]
    return [np.fromfile(file, np.uint8) for file in found]


def pixels_of(decoded: list[Any]) -> list[Any]:
    return [None if got.pixels is None else got.pixels.cpu().numpy().tobytes() for got in decoded]


@pytest.mark.parametrize("batch_size", [5, 16])
def test_a_files_pixels_are_its_own(alone, batch_size: int) -> None:
    """In order, reversed and shuffled, with a damaged file among them: as each is alone."""
    device, files, want = alone
    decoder = dali.DaliDecoder(64, device=device, batch_size=batch_size, threads=4)
    orders = [np.arange(len(files)), np.arange(len(files))[::-1]]
    orders.append(np.random.default_rng(batch_size).permutation(len(files)))
    for order in orders:
        got = pixels_of(decode(decoder, [files[i] for i in order]))
        assert [i for i, pixels in zip(order, got, strict=True) if pixels != want[i]] == []
    assert want.count(None) == 1
    decoder.close()


@pytest.mark.gpu
@pytest.mark.parametrize("load", ["auto", 0.0, 1.0])
def test_a_gpu_decodes_nearly_the_same(real_data: Path, load: Any) -> None:
    data = photographs(real_data)
    there = dali.DaliDecoder(640, device="cuda", batch_size=16, threads=4, hw_decoder_load=load)
    for file, got in zip(data, decode(there, data, imgsz=640), strict=True):
        assert not got.fallback
        assert got.pixels.is_cuda
        apart = np.abs(got.pixels.cpu().numpy().astype(int) - expected(file, 640, "x.jpg"))
        assert apart.mean() < 1.0
    there.close()


@pytest.mark.gpu
def test_on_a_gpu_damage_stays_alone_and_pictures_stay() -> None:
    there = dali.DaliDecoder(64, device="cuda", batch_size=4, threads=2, hw_decoder_load=0.0)
    good = [jpeg(*size, seed) for seed, size in enumerate([(50, 64), (90, 120), (64, 64), (8, 9)])]
    want = [got.pixels.cpu() for got in decode(there, good)]
    mixed = [good[0], no_table(good[0]), good[1], good[2][:200], encoded("png")[1], good[3]]
    mixed = [np.frombuffer(bytes(file), np.uint8) for file in mixed]
    held = decode(there, mixed)
    for round in range(10):
        decode(there, [jpeg(50, 64, 100 + 9 * round + k) for k in range(9)])
    there.close()
    for at, pixels in zip((0, 2, 5), (want[0], want[1], want[3]), strict=True):
        assert not held[at].fallback
        np.testing.assert_array_equal(held[at].pixels.cpu().numpy(), pixels.numpy())
    assert held[1].fallback
    assert held[3].fallback
    assert held[4].fallback
    assert held[4].pixels.is_cuda


def test_what_is_too_large_never_reaches_dali(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dali.DaliDecoder, "_build", lambda *_: pytest.fail("DALI decodes"))
    decoder = dali.DaliDecoder(64)
    files = [stating("jpg", 9000, 9000)[1], stating("jpg", 16000, 16000)[1], with_scans(101)]
    arrays = [np.frombuffer(file, np.uint8) for file in files]
    sizes = [(64, 64), (64, 64), resized_shape(HEIGHT, WIDTH, 64)]
    found = decoder.decode(arrays, ["x.jpg"] * 3, sizes, [64 * 64, None, None])
    reasons = ("where 4,096 pixels were packed", "at most 178,956,970", "at most 100 scans")
    for one, reason in zip(found, reasons, strict=True):
        assert one.pixels is None
        assert reason in one.reason


def test_large_files_share_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run takes the memory of all its files, whatever `batch_size` is."""
    feed, runs = dali._feed, []

    def counted(graph: Any, files: Any) -> None:
        runs.append(len(files))
        feed(graph, files)

    monkeypatch.setattr(dali, "RUN_PIXELS", 2 * 40 * 50)
    monkeypatch.setattr(dali, "_feed", counted)
    decoder = dali.DaliDecoder(50, batch_size=4)
    shapes = [(40, 50)] * 3 + [(50, 50)] * 2 + [(20, 50)] * 6
    files = [jpeg(*shape, seed=i) for i, shape in enumerate(shapes)]
    found = decoder.decode(files, ["x.jpg"] * len(files), shapes)
    assert runs == [2, 1, 1, 2, 4, 1]
    for one, file in zip(found, files, strict=True):
        assert not one.fallback
        np.testing.assert_array_equal(one.pixels.numpy(), expected(file, 50, "x.jpg"))
    decoder.close()
