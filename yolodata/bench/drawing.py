"""Pictures like COCO's, drawn from the photographs that installed packages ship.

Note [what decoding costs]. The time to decode a JPEG grows with its pixels and its coded bytes, so
both must be as in COCO for a loader's speed on these pictures to be its speed there. A crop of a
photograph is resized to a size that COCO has, patches of other photographs are pasted into it as
its objects, and sensor-like grain is added (or detail taken away) until the file has as many bytes
a pixel as its quantile of COCO has. Sizes, bytes and object counts are drawn in strata: a few
hundred pictures already have COCO's means.
"""

from __future__ import annotations

import importlib.util
import json
import math
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from yolodata.bench import coco
from yolodata.errors import DatasetError

Image = npt.NDArray[np.uint8]

PHOTOGRAPHS = (
    ("ultralytics", "assets/bus.jpg"),
    ("ultralytics", "assets/zidane.jpg"),
    ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
)


def photographs() -> list[Image]:
    """The photographs (height, width, BGR) found in installed packages.

    Raises:
        DatasetError: there is none.
    """
    import cv2

    specs = [(importlib.util.find_spec(package), name) for package, name in PHOTOGRAPHS]
    files = [Path(spec.origin).parent / name for spec, name in specs if spec and spec.origin]
    found: list[Any] = [cv2.imread(str(file)) for file in files if file.exists()]
    if not found:
        looked = ", ".join(f"{package}/{name}" for package, name in PHOTOGRAPHS)
        raise DatasetError(
            f"no photograph to draw pictures from; looked in installed packages for {looked}; "
            "install ultralytics, or give a dataset with --data"
        )
    return found


@dataclass(frozen=True)
class Sketch:
    """What one picture shall be like."""

    width: int
    height: int
    quality: int  # of the JPEG file, 1-100
    bytes_per_pixel: float  # of the file
    cls: npt.NDArray[np.int64]  # (n,)
    boxes: npt.NDArray[np.float64]  # (n, 4), left, top, right, bottom in pixels


def sketch(images: int, seed: int) -> list[Sketch]:
    """Sizes, bytes and objects of `images` pictures, distributed like COCO's."""
    rng = np.random.default_rng(seed)
    sizes, size_shares = zip(*coco.SIZES, strict=True)
    size = np.searchsorted(np.cumsum(size_shares), _strata(images, rng) * sum(size_shares))
    qualities, quality_shares = zip(*coco.QUALITIES, strict=True)
    quality = np.array(qualities)[np.searchsorted(np.cumsum(quality_shares), _strata(images, rng))]
    counts = coco.object_counts(_strata(images, rng))
    bytes_per_pixel = np.empty(images)
    for value, _ in coco.QUALITIES:
        of_it = np.flatnonzero(quality == value)
        bytes_per_pixel[of_it] = coco.bytes_per_pixel(value, _strata(len(of_it), rng))
    sides = _box_sides(int(counts.sum()), rng)
    classes = np.searchsorted(np.cumsum(coco.class_shares()), _strata(int(counts.sum()), rng))
    classes = np.minimum(classes, coco.CLASSES - 1)
    sketches, ends = [], np.cumsum(counts)
    for i, (first, end) in enumerate(zip(ends - counts, ends, strict=True)):
        width, height = sizes[size[i]] or _odd_size(rng)
        boxes = _boxes(sides[first:end], width, height, rng)
        file = int(quality[i]), float(bytes_per_pixel[i])
        sketches.append(Sketch(width, height, *file, classes[first:end], boxes))
    return sketches


def draw(plan: Sketch, photos: list[Image], seed: int, number: int) -> bytes:
    """One picture, as the bytes of a JPEG file."""
    rng = np.random.default_rng([seed, number])
    image = _crop(photos, plan.width, plan.height, rng)
    for x1, y1, x2, y2 in np.rint(plan.boxes).astype(int).tolist():
        if x2 > x1 and y2 > y1:
            image[y1:y2, x1:x2] = _crop(photos, x2 - x1, y2 - y1, rng)
    return _encode(image, plan, rng)


def write(
    folder: Path,
    images: int,
    seed: int,
    threads: int,
    outlines: bool = False,
    drawn: Path | None = None,
) -> None:
    """Draw an Ultralytics dataset: `images/train`, `labels/train`, `data.yaml`, which comes last.

    Args:
        folder: an empty or absent folder.
        images: how many pictures.
        seed: the same seed gives the same bytes, for any number of threads.
        threads: how many to draw with.
        outlines: write polygons instead of boxes.
        drawn: a dataset of the same pictures, which get another name.
    """
    photos = [] if drawn else photographs()
    pictures, labels = make_folders(folder)

    def one(number: int, plan: Sketch) -> None:
        picture = pictures / f"{number:06d}.jpg"
        if drawn:
            link(drawn / "images" / "train" / picture.name, picture)
        else:
            picture.write_bytes(draw(plan, photos, seed, number))
        text = _outline_text(plan, seed + number) if outlines else _label_text(plan)
        (labels / f"{number:06d}.txt").write_text(text, encoding="utf-8")

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(one, range(images), sketch(images, seed)))
    write_yaml(folder, "images/train", [f"thing {i}" for i in range(coco.CLASSES)])


def link(path: Path, other: Path) -> None:
    """Give a file another name; copies it where there are no hard links."""
    try:
        os.link(path, other)
    except OSError:
        shutil.copyfile(path, other)


def make_folders(folder: Path) -> list[Path]:
    """Makes and returns `images/train` and `labels/train` of a dataset."""
    made = [folder / kind / "train" for kind in ("images", "labels")]
    for path in made:
        path.mkdir(parents=True)
    return made


def write_yaml(folder: Path, train: str, names: list[str]) -> Path:
    """`data.yaml` of a dataset whose pictures lie in `train`, a folder relative to `folder`."""
    path = folder / "data.yaml"
    values = {"path": str(folder.resolve()), "train": train, "val": train, "names": names}
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")  # JSON is YAML too
    return path


def _strata(count: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Quantiles (count,), one in each of `count` equal parts of 0-1, in random order."""
    return (rng.permutation(count) + rng.uniform(size=count)) / max(count, 1)


def _odd_size(rng: np.random.Generator) -> tuple[int, int]:
    other = int(rng.integers(320, 560))
    return (640, other) if rng.uniform() < 0.72 else (other, 640)


def _box_sides(count: int, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Roots (count,) of box areas, in pixels."""
    quantiles = np.clip(_strata(count, rng), 1e-6, 1 - 1e-6)
    z = np.array([NormalDist().inv_cdf(u) for u in quantiles])
    return coco.BOX_SIDE_MEDIAN * np.exp(coco.BOX_SIDE_SPREAD * z)


def _boxes(
    sides: npt.NDArray[np.float64], width: int, height: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    aspect = np.exp(rng.normal(-0.05, 0.5, len(sides)))
    w = np.clip(sides * np.sqrt(aspect), 3, width)
    h = np.clip(sides / np.sqrt(aspect), 3, height)
    x, y = rng.uniform(size=len(sides)) * (width - w), rng.uniform(size=len(sides)) * (height - h)
    return np.stack([x, y, x + w, y + h], axis=1)


def _label_text(plan: Sketch) -> str:
    x1, y1, x2, y2 = (plan.boxes / ([plan.width, plan.height] * 2)).T
    rows = zip(plan.cls, (x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, strict=True)
    return "".join(f"{c} {x:.6f} {y:.6f} {w:.6f} {h:.6f}\n" for c, x, y, w, h in rows)


def _outline_text(plan: Sketch, seed: int) -> str:
    """Polygons with about as many corners as COCO's, which fill their boxes roughly."""
    rng = np.random.default_rng(seed)
    rows = []
    for c, box in zip(plan.cls, plan.boxes / ([plan.width, plan.height] * 2), strict=True):
        turns = np.sort(rng.uniform(0, 2 * math.pi, coco.POINTS_PER_OUTLINE))
        reach = rng.uniform(0.7, 1.0, len(turns))
        points = np.stack([np.cos(turns) * reach, np.sin(turns) * reach], 1)
        points = (box[:2] + box[2:]) / 2 + points * (box[2:] - box[:2]) / 2
        rows.append(f"{c} " + " ".join(f"{v:.6f}" for v in points.clip(0, 1).ravel()) + "\n")
    return "".join(rows)


def _crop(photos: list[Image], width: int, height: int, rng: np.random.Generator) -> Image:
    """A random part of a random photograph, resized, maybe flipped, its colours shifted."""
    import cv2

    photo = photos[rng.integers(len(photos))]
    high, wide = photo.shape[:2]
    largest = min(wide / width, high / height)
    zoom = min(largest, math.exp(rng.uniform(math.log(0.5), math.log(1.6))))
    w, h = max(int(width * zoom), 1), max(int(height * zoom), 1)
    x, y = int(rng.integers(wide - w + 1)), int(rng.integers(high - h + 1))
    mode = cv2.INTER_AREA if zoom > 1 else cv2.INTER_CUBIC
    image = cv2.resize(photo[y : y + h, x : x + w], (width, height), interpolation=mode)
    if rng.uniform() < 0.5:
        image = cv2.flip(image, 1)
    gain = rng.uniform(0.8, 1.2) * rng.uniform(0.9, 1.1, 3)
    levels = np.arange(256)[:, None] * gain + rng.uniform(-15, 15)
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)[None]
    return np.asarray(cv2.LUT(np.ascontiguousarray(image), table), dtype=np.uint8)


def _encode(image: Image, plan: Sketch, rng: np.random.Generator) -> bytes:
    """Encode with as much grain as the wanted number of bytes needs."""
    import cv2

    grain = rng.standard_normal((plan.height, plan.width, 1), dtype=np.float32)
    colour = rng.standard_normal((plan.height, plan.width, 3), dtype=np.float32)
    grain = (0.9 * grain + 0.2 * colour) * (0.6 + 0.4 * np.sqrt(image / np.float32(128)))
    wanted = plan.bytes_per_pixel * plan.width * plan.height
    options = [
        cv2.IMWRITE_JPEG_QUALITY, plan.quality,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]  # fmt: skip

    def attempt(strength: float) -> bytes:
        if strength < 0:  # less detail than the photograph has
            drawn = cv2.GaussianBlur(image, (0, 0), -strength)
        else:
            drawn = np.clip(image + strength * grain, 0, 255).astype(np.uint8)
        done, data = cv2.imencode(".jpg", drawn, options)
        assert done
        return data.tobytes()

    best = attempt(0.0)
    low, high = (0.0, 16.0) if len(best) < wanted else (-2.5, -0.3)
    for _ in range(5):
        if abs(len(best) / wanted - 1) < 0.04:
            break
        middle = (low + high) / 2
        data = attempt(middle)
        low, high = (middle, high) if len(data) < wanted else (low, middle)
        if abs(len(data) - wanted) < abs(len(best) - wanted):
            best = data
    return best
