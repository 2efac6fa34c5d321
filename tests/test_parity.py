"""Our pictures and labels against Ultralytics' own, from the numbers that upstream drew.

`benchmarks/parity.py` does the same at full size on a dataset of the user's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import upstream
from ultralytics.utils import ASSETS

from yolodata import _native

IMGSZ = 160


def draw_dataset(folder: Path, polygons: bool) -> Path:
    """Twelve crops of two photographs with boxes, or with outlines that leave the picture."""
    rng = np.random.default_rng(4)
    photos = [cv2.imread(str(file)) for file in sorted(ASSETS.glob("*.jpg"))]
    for split, count in (("train", 12), ("val", 2)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for i in range(count):
            photo = photos[i % len(photos)]
            h, w = rng.integers(150, 500, 2)
            y, x = rng.integers(0, photo.shape[0] - h), rng.integers(0, photo.shape[1] - w)
            cv2.imwrite(str(folder / "images" / split / f"{i}.png"), photo[y : y + h, x : x + w])
            rows = []
            for _ in range(rng.integers(1, 8)):
                size = rng.uniform(0.02, 0.6, 2)
                centre = rng.uniform(size / 2, 1 - size / 2)
                if polygons:
                    angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 40)))
                    radius = rng.uniform(0.4, 1.0, (len(angles), 1))
                    points = centre + radius * size / 2 * np.stack(
                        [np.cos(angles), np.sin(angles)], 1
                    )
                    values = points.clip(0, 1).ravel()
                else:
                    values = np.concatenate([centre, size])
                rows.append(f"{rng.integers(0, 3)} " + " ".join(f"{v:.6f}" for v in values))
            (folder / "labels" / split / f"{i}.txt").write_text("\n".join(rows))
    yaml = folder / "data.yaml"
    yaml.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: [a, b, c]\n")
    return yaml


@pytest.fixture(scope="module", params=["boxes", "polygons"])
def data(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    return draw_dataset(folder, request.param == "polygons")


def samples(data: Path, n: int, shift: float = 0.0, **hyp: Any) -> list[tuple[Any, ...]]:
    """(our picture, theirs, our labels, theirs) for n draws of upstream."""
    source = upstream.Upstream(data, IMGSZ, **hyp)
    upstream.seed(1)
    made = []
    for i in range(n):
        sample, values = source.sample(i % len(source.dataset))
        values["layers"][0]["matrix"][2] += shift
        recipe = _native.Recipe.from_dict(values)
        picture = _native.render(recipe, source.pixels(values))
        labels = _native.labels(recipe, source.index)
        theirs = (sample["cls"].numpy(), sample["bboxes"].numpy())
        made.append((picture, sample["img"].numpy(), labels, theirs))
    return made


NO_COLOUR = {"hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0}
GEOMETRY = {
    "default": {},
    "single": {"mosaic": 0.0},
    "nine": {"grid": 9},
    "slanted": {"degrees": 25.0, "shear": 8.0},
    "perspective": {"perspective": 0.001},
    "far": {"scale": (0.3, 2.5), "translate": 0.5},
    "flips": {"flipud": 0.5, "bgr": 0.5, "mosaic": 0.5},
}


def identical(made: list[tuple[Any, ...]]) -> tuple[float, int]:
    """Share of equal bytes, and the largest difference."""
    ours, theirs = (np.stack([sample[k] for sample in made]).astype(np.int16) for k in (0, 1))
    return float((ours == theirs).mean()), int(np.abs(ours - theirs).max())


def check_labels(made: list[tuple[Any, ...]]) -> None:
    for _, _, (cls, boxes), (their_cls, their_boxes) in made:
        assert np.array_equal(cls, their_cls.reshape(-1, 1))
        assert np.abs(boxes - their_boxes).max(initial=0) < 1e-4


@pytest.mark.parametrize("kind", GEOMETRY)
def test_geometry(data: Path, kind: str) -> None:
    made = samples(data, 12, **NO_COLOUR, **GEOMETRY[kind])
    share, largest = identical(made)
    assert share > 0.999
    assert largest <= 1
    check_labels(made)


@pytest.mark.parametrize(
    "hyp",
    [
        {},
        {"mixup": 1.0},
        {"cutmix": 1.0},
        {"mixup": 0.6, "cutmix": 0.8, "degrees": 9.0, "bgr": 0.5},
    ],
    ids=["hsv", "mixup", "cutmix", "all"],
)
def test_colour_mixup_and_cutmix(data: Path, hyp: dict[str, Any]) -> None:
    made = samples(data, 16, **hyp)
    share, largest = identical(made)
    assert share > 0.995
    assert largest <= 2
    check_labels(made)


def test_half_a_pixel_off_fails(data: Path) -> None:
    share, largest = identical(samples(data, 4, shift=0.5, **NO_COLOUR))
    assert share < 0.999
    assert largest > 1
