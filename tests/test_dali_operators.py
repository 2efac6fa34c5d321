"""`fn.yolodata.render`: the renderer in somebody else's DALI graph."""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from loading import draw_dataset, packed
from pictures import make_images

import yolodata
from yolodata import AugmentConfig, ConfigError, _native

pytest.importorskip("nvidia.dali")
if not (os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++")):
    pytest.skip("needs a C++ compiler", allow_module_level=True)
import yolodata.dali as operators

CONFIG = AugmentConfig(imgsz=96, mixup=0.5, cutmix=0.5, degrees=10.0, flipud=0.5, bgr=0.3)
SIZES = [(60, 96), (96, 50), (96, 96), (33, 96)]


@pytest.fixture(scope="module")
def fn(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Compiled once for all tests; in the usual cache, so that the next run finds it."""
    operators.load()
    from nvidia.dali import fn

    return fn


def render(fn: Any, images: list[Any], recipes: list[Any], device: str = "cpu", **options: Any):
    from nvidia.dali import pipeline_def, types

    @pipeline_def(
        batch_size=len(recipes),
        num_threads=2,
        device_id=0 if device == "gpu" else None,
        prefetch_queue_depth=1,
    )
    def graph():
        pictures = fn.external_source(name="images", dtype=types.UINT8, ndim=3, layout="HWC")
        made = fn.external_source(name="recipes", dtype=types.UINT8, ndim=1)
        source = pictures.gpu() if device == "gpu" else pictures
        return fn.yolodata.render(source, made, **options)

    pipeline = graph()
    pipeline.feed_input("images", images)
    pipeline.feed_input("recipes", recipes)
    (out,) = pipeline.run()
    out = out.as_cpu() if device == "gpu" else out
    return [np.array(out[i]) for i in range(len(out))]


def planned(seed: int = 0) -> tuple[list[Any], Any]:
    images = make_images(SIZES, seed)
    return [images[i] for i in range(len(SIZES))], operators.batch_recipes(CONFIG, SIZES, seed=seed)


def expected(images: list[Any], seed: int) -> list[Any]:
    index = _native.LabelTable(
        np.array([h for h, _ in SIZES], np.uint32),
        np.array([w for _, w in SIZES], np.uint32),
        np.zeros(len(SIZES) + 1, np.uint64),
        np.zeros(0, np.float32),
        np.zeros((0, 4), np.float32),
    )
    config = CONFIG.to_native(shuffle=False)
    recipes = [_native.plan(index, config, seed, 0, i) for i in range(len(SIZES))]
    return [_native.render(recipe, dict(enumerate(images))) for recipe in recipes]


def test_pictures_in_a_graph_are_the_engines(fn) -> None:
    for seed in range(5):
        images, made = planned(seed)
        want = expected(images, seed)
        for got, picture in zip(render(fn, images, made.recipes), want, strict=True):
            np.testing.assert_array_equal(got, picture)
        for got, picture in zip(render(fn, images, made.recipes, layout="HWC"), want, strict=True):
            np.testing.assert_array_equal(got, picture.transpose(1, 2, 0))


@pytest.mark.gpu
def test_pictures_on_a_gpu_are_the_engines(fn) -> None:
    for seed in range(5):
        images, made = planned(seed)
        for layout in ("CHW", "HWC"):
            got = render(fn, images, made.recipes, "gpu", layout=layout)
            for mine, picture in zip(got, expected(images, seed), strict=True):
                axes = (0, 1, 2) if layout == "CHW" else (1, 2, 0)
                np.testing.assert_array_equal(mine, picture.transpose(axes))


DEVICES = ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
def test_pictures_of_several_sizes_share_a_batch(fn, device: str) -> None:
    """Neighbours of one size may be made together, others may not."""
    images, made = planned(3)
    small = operators.batch_recipes(dataclasses.replace(CONFIG, imgsz=64), SIZES, seed=4).recipes
    for which in ("1101", "0111", "1010", "1000"):
        recipes = [(small, made.recipes)[int(w)][i] for i, w in enumerate(which)]
        alone = [render(fn, images, [recipe] * 4, device)[0] for recipe in recipes]
        for got, picture in zip(render(fn, images, recipes, device), alone, strict=True):
            np.testing.assert_array_equal(got, picture)
        assert [picture.shape[1] for picture in alone] == [96 if w == "1" else 64 for w in which]


@pytest.mark.parametrize("device", DEVICES)
def test_batches_in_flight_keep_their_recipes(fn, device: str) -> None:
    """The next batch is set up while the last one is still being made."""
    from nvidia.dali import pipeline_def, types

    batches = [planned(seed) for seed in range(12)]

    @pipeline_def(
        batch_size=4,
        num_threads=2,
        device_id=0 if device == "gpu" else None,
        prefetch_queue_depth=3,
    )
    def graph():
        sources = iter([images for images, _ in batches])
        blobs = iter([made.recipes for _, made in batches])
        images = fn.external_source(sources, dtype=types.UINT8, ndim=3, layout="HWC")
        recipes = fn.external_source(blobs, dtype=types.UINT8, ndim=1)
        return fn.yolodata.render(images.gpu() if device == "gpu" else images, recipes)

    pipeline = graph()
    for seed, (images, _) in enumerate(batches):
        (out,) = pipeline.run()
        out = out.as_cpu() if device == "gpu" else out
        for i, picture in enumerate(expected(images, seed)):
            np.testing.assert_array_equal(np.array(out[i]), picture)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda i, r: (i, [r[0][:-8], *r[1:]]), "sample 0: expected .* bytes of a recipe"),
        (lambda i, r: (i, [*r[:-1], np.zeros_like(r[0])]), "sample 3: .*got something else"),
        (lambda i, r: (i, [changed(r[0], 8, 99), *r[1:]]), "got version 99"),
        (lambda i, r: (i[:1] * 4, r), "sample 0: image 3 must be 33 x 96 x 3"),
        (lambda i, r: ([p[..., :1].copy() for p in i], r), "x 3 .HWC, RGB."),
    ],
)
def test_what_does_not_fit_is_refused(fn, spoil, message: str) -> None:
    images, made = planned()
    images, recipes = spoil(images, made.recipes)
    with pytest.raises(ValueError, match=message):
        render(fn, images, recipes)
    with pytest.raises(ValueError, match="layout must be CHW or HWC, got WHC"):
        render(fn, *spoil(images, made.recipes)[:1], made.recipes, layout="WHC")


def pasting() -> np.ndarray:
    """A recipe of 8 x 8 pixels that pastes two runs of its image; its mask are the last words."""
    tile = {
        "image": 0,
        "x0": 0,
        "y0": 0,
        "x1": 0,
        "y1": 0,
        "x2": 8,
        "y2": 8,
        "height": 8,
        "width": 8,
    }
    layer = {
        "canvas": [8, 8], "tiles": [tile], "matrix": [1, 0, 0.625, 0, 1, 0, 0, 0, 1],
        "perspective": False, "scale": 1.0,
        "paste": {"layer": 0, "objects": [], "runs": [[2, 1, 4], [5, 0, 3]]},
    }  # fmt: skip
    recipe = _native.Recipe.from_dict({"size": [8, 8], "layers": [layer]})
    words = np.frombuffer(recipe.to_bytes(), np.int32).copy()
    assert words[-15:].tolist() == [0, 13, 0, 0, 0, 1, 1, 1, 2, 2, 2, 1, 4, 0, 3]
    return words


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({-14: -1}, "a mask of -1 words"),
        ({-14: 14}, "a mask of 14 words"),
        ({-14: 1 << 30}, "a mask of 1073741824 words"),
        ({-14: 8, -5: 0, -4: 3}, "inside the picture"),  # a mask of few rows, and another one
        ({-15: 1}, "layer 0 needs a mask"),
        ({-13: 1}, "inside the picture"),
        ({-12: 2}, "inside the picture"),
        ({-5: 1 << 20}, "inside the picture"),
        ({-5: 1}, "inside the picture"),
        ({-1: 9}, "inside the picture"),
        ({-4: -1}, "inside the picture"),
    ],
)
def test_bytes_that_would_be_read_elsewhere_are_refused(fn, changes, message: str) -> None:
    words = pasting()
    picture = np.full((8, 8, 3), 7, np.uint8)
    (whole,) = render(fn, [picture], [words.view(np.uint8)])
    assert (whole[:, :, 1:] == 7).all()
    for at, value in changes.items():
        words[at] = value
    with pytest.raises(ValueError, match=message):
        render(fn, [picture], [words.view(np.uint8)])


def test_bytes_of_another_number_are_refused(fn) -> None:
    picture, data = np.full((8, 8, 3), 7, np.uint8), pasting().view(np.uint8)
    for count in (0, 10, 15, 16, 40, len(data) - 4):
        with pytest.raises(ValueError, match=r"expected the bytes of a recipe, .* got"):
            render(fn, [picture], [data[:count]])
        sized = data[:count].copy()
        if count >= 16:  # also where it states its size
            sized[12:16] = np.array([count], np.uint32).view(np.uint8)
            with pytest.raises(ValueError, match=f"{count} bytes, which are too few|a mask of"):
                render(fn, [picture], [sized])
    infinite = pasting().view(np.float32)
    infinite[infinite == np.float32(-0.625)] = np.inf
    with pytest.raises(ValueError, match="the matrix of a layer must be finite"):
        render(fn, [picture], [infinite.view(np.uint8)])


def changed(recipe: Any, at: int, value: int) -> Any:
    copy = recipe.copy()
    copy[at] = value
    return copy


def test_a_recipe_of_a_larger_batch_is_refused(fn) -> None:
    images, made = planned()
    with pytest.raises(ValueError, match="is none of the batch's 1; a recipe counts"):
        render(fn, images[:1], made.recipes[3:])


def test_recipes_of_a_batch_keep_to_it_and_bring_their_labels() -> None:
    rng = np.random.default_rng(0)
    boxes = [np.tile(np.array([0.5, 0.5, 0.8, 0.8], np.float32), (k, 1)) for k in range(4)]
    classes = [rng.integers(0, 9, k).astype(np.float32) for k in range(4)]
    made = operators.batch_recipes(CONFIG, SIZES, seed=1, cls=classes, bboxes=boxes)
    assert len(made.recipes) == len(made.cls) == len(made.bboxes) == 4
    assert sum(map(len, made.cls)) > 0
    assert {float(c) for cls in made.cls for c in cls} <= {float(c) for k in classes for c in k}
    again = operators.batch_recipes(CONFIG, SIZES, seed=1)
    other = operators.batch_recipes(CONFIG, SIZES, seed=1, batch=1)
    assert np.array_equal(again.recipes[0], made.recipes[0])
    assert not np.array_equal(other.recipes[0], made.recipes[0])
    with pytest.raises(ConfigError, match="an entry for each of 4 images, got 2 and 4"):
        operators.batch_recipes(CONFIG, SIZES, cls=classes[:2], bboxes=boxes)
    with pytest.raises(ConfigError, match="image 1: cls must be"):
        operators.batch_recipes(CONFIG, SIZES, cls=classes, bboxes=boxes[:1] * 4)


def test_no_two_batches_are_the_same_by_mistake() -> None:
    """Seed and number of a batch share 64 bits: one must not reach into the other."""
    made = operators.batch_recipes(CONFIG, SIZES, seed=5, epoch=2, batch=3).recipes
    numpys = operators.batch_recipes(
        CONFIG, SIZES, seed=np.int32(5), epoch=np.int32(2), batch=np.int32(3)
    )
    assert np.array_equal(numpys.recipes, made)
    for name in ("seed", "epoch", "batch"):
        for wrong in (-1, 2**32, 1.0, "1"):
            with pytest.raises(ConfigError, match=f"^{name} must be "):
                operators.batch_recipes(CONFIG, SIZES, **{name: wrong})


def test_the_page_about_it_runs(fn, tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "dali-operators.md"
    (code,) = re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)
    yaml = draw_dataset(tmp_path / "data", {"train": 10}, sides=(60, 97))
    folder = packed(yaml, tmp_path / "shards", "jpeg", 96) / "train"
    names: dict[str, Any] = {"folder": folder}
    exec(compile(code, str(page), "exec"), names)
    pictures, shards = names["pictures"], yolodata.open_shards(folder)
    assert len(pictures) == 8
    sources = {i: shards.image(int(image)) for i, image in enumerate(names["images"])}
    recipes = [
        _native.plan(
            _native.LabelTable(
                np.array([h for h, _ in names["sizes"]], np.uint32),
                np.array([w for _, w in names["sizes"]], np.uint32),
                np.zeros(9, np.uint64),
                np.zeros(0, np.float32),
                np.zeros((0, 4), np.float32),
            ),
            names["config"].to_native(shuffle=False),
            0, 0, i,
        )
        for i in range(8)
    ]  # fmt: skip
    for i, recipe in enumerate(recipes):
        apart = np.abs(np.array(pictures[i]).astype(int) - _native.render(recipe, sources))
        assert np.median(apart) == 0  # DALI resizes within one grey level, colours may follow
    assert sum(map(len, names["planned"].cls)) > 0


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_it_is_compiled_once(fn) -> None:
    """Another process finds it; a compiler is asked for its version and nothing else."""
    code = "import yolodata.dali as d, time; t = time.time(); d.load(); print(time.time() - t < 20)"
    found = run(code)
    assert found.returncode == 0, found.stderr
    assert "compiling" not in found.stderr


def test_without_a_cuda_compiler_it_renders_on_the_cpu(fn) -> None:
    """Linked with CUDA's run time all the same, which DALI's headers use. Kept in the cache."""
    code = "import yolodata.dali as d; d.load(); from nvidia.dali import fn; fn.yolodata.render"
    found = run(code, YOLODATA_CUDA="off")
    assert found.returncode == 0, found.stderr


def test_headers_that_are_missing_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Torch for CUDA 13 brings the run time without some of them."""
    from yolodata.dali.operators import _cuda_runtime

    include = tmp_path / "include"
    include.mkdir()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    monkeypatch.setattr("yolodata.dali.operators.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"run time .* is not found"):
        _cuda_runtime(None)
    (include / "cuda_runtime_api.h").write_text("#define CUDART_VERSION  12090\n")
    with pytest.raises(ConfigError, match=r"nv/target; install a CUDA toolkit"):
        _cuda_runtime(None)
    (include / "cuda_runtime_api.h").write_text("#define CUDART_VERSION  13010\n")
    with pytest.raises(ConfigError, match=r"'nvidia-cuda-crt==13\.1\.\*' 'nvidia-cuda-cccl==13"):
        _cuda_runtime(None)
    (include / "crt").mkdir()
    (include / "crt" / "host_defines.h").touch()
    with pytest.raises(ConfigError, match=r"pip install 'nvidia-cuda-cccl==13\.1\.\*'"):
        _cuda_runtime(None)
    (include / "nv").mkdir()
    (include / "nv" / "target").touch()
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "libcudart_static.a").touch()
    assert _cuda_runtime(None)[0] == include


def test_processes_that_want_it_at_once_compile_it_once(tmp_path: Path) -> None:
    """With a compiler that takes its time and makes nothing but the files it is asked for."""
    told, cache = tmp_path / "told", tmp_path / "cache"
    code = (
        "import pathlib, yolodata.dali.operators as o\n"
        f"with o._private(pathlib.Path({str(cache)!r})) as folder:\n"
        "    print((folder.path / o._compiled(folder)).is_file())"
    )
    compiler = compiler_of_nothing(tmp_path / "g++", f"sleep 1; echo linked >> '{told}'")
    environment = {**os.environ, "CXX": compiler, "YOLODATA_CUDA": "off"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    assert [process.communicate(timeout=600)[0].strip() for process in processes] == ["True"] * 3
    assert told.read_text().split() == ["linked"]
    assert len(list(cache.glob("*.so"))) == 1
    assert len(list(cache.iterdir())) == 2  # with the lock


def compiler_of_nothing(file: Path, links: str = ":") -> str:
    """Writes a compiler that makes nothing but the files it is asked for."""
    file.write_text(
        f'#!/bin/sh\ncase "$*" in -v) exit;; *-shared*) {links};; esac\n'
        'while [ $# -gt 0 ]; do [ "$1" = -o ] && echo x > "$2"; shift; done\n'
    )
    file.chmod(0o755)
    return str(file)


def test_only_code_of_ours_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is loaded runs with the user's rights: nobody else may have put it there."""
    monkeypatch.setenv("CXX", compiler_of_nothing(tmp_path / "g++"))
    monkeypatch.setenv("YOLODATA_CUDA", "off")
    loaded: list[bytes] = []

    def load(path: str) -> None:
        loaded.append(Path(path).read_bytes())

    monkeypatch.setattr("nvidia.dali.plugin_manager.load_library", load)

    def load_from(cache: Path) -> Path:
        monkeypatch.setattr("yolodata.dali.operators._loaded", None)
        return operators.load(cache)

    plugin = load_from(tmp_path / "cache")
    assert plugin.parent.stat().st_mode & 0o777 == plugin.stat().st_mode & 0o777 == 0o700
    theirs = tmp_path / "theirs.so"
    theirs.write_bytes(b"theirs")
    plugin.unlink()
    plugin.symlink_to(theirs)
    assert load_from(tmp_path / "cache") == plugin
    for mode in (0o770, 0o707):
        plugin.write_bytes(b"theirs")
        plugin.chmod(mode)
        load_from(tmp_path / "cache")
    assert loaded == [b"x\n"] * 4
    lock = tmp_path / "cache" / ".lock"
    lock.unlink()
    lock.symlink_to(theirs)
    plugin.unlink()
    with pytest.raises(ConfigError, match="is a link"):
        load_from(tmp_path / "cache")
    assert theirs.read_bytes() == b"theirs"
    lock.unlink()
    (tmp_path / "link").symlink_to(tmp_path / "cache")
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o770)
    for name, why in (("link", "is a link"), ("open", "its group may write there")):
        with pytest.raises(ConfigError, match=f"{why}.* closed to others"):
            load_from(tmp_path / name)
    if os.geteuid() == 0:
        os.chown(tmp_path / "cache", 12345, -1)
        with pytest.raises(ConfigError, match=r"belongs to user 12345.* closed to others"):
            load_from(tmp_path / "cache")
    assert len(loaded) == 4


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"CXX": "no-such-compiler"}, "no-such-compiler is not there; install one with `sudo apt"),
        ({"CXX": "", "PATH": ""}, "but no C++ compiler was found; install one with `sudo apt"),
        (
            {"CXX": "c++ -include no-such-header.h", "YOLODATA_CUDA": "off"},
            "cannot be compiled; it needs g++ 12 or newer",
        ),
        ({"CXX": "false", "YOLODATA_CUDA": "off"}, "false does not even tell its version"),
        ({"YOLODATA_CUDA": "maybe"}, "YOLODATA_CUDA must be auto, on or off, got 'maybe'"),
        ({"YOLODATA_CUDA_ARCHS": "new"}, "YOLODATA_CUDA_ARCHS must list architectures"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, environment, message: str) -> None:
    code = f"import yolodata.dali as d; d.load({str(tmp_path)!r})"
    found = run(code, **environment)
    assert found.returncode
    assert "ConfigError: " in found.stderr
    assert message in found.stderr
    assert not list(tmp_path.glob("*.so"))
    assert not list(tmp_path.glob(".building*"))


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    found = run(f"import yolodata.dali as d; d.load({str(tmp_path / 'file' / 'cache')!r})")
    assert "name a folder that can be written to in YOLODATA_CACHE" in found.stderr
