"""Ultralytics itself as the reference: its samples, together with the numbers it drew for them.

Upstream separates drawing (`get_params`) from applying. The wrappers here listen to the drawing and
leave everything else alone; what was heard becomes a recipe of ours.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from yolodata import _native
from yolodata.pipeline.retouch import composed, draw_from, retouched


@dataclass
class Heard:
    """What upstream drew for one sample, and the images it loaded (RGB) by dataset index."""

    layers: list[dict[str, Any]] = field(default_factory=list)
    mosaic: list[dict[str, Any]] | None = None
    mixup: dict[str, Any] | None = None
    cutmix: dict[str, Any] | None = None
    hsv: list[float] | None = None
    mains: list[int] = field(default_factory=list)  # layers that nothing is only pasted from
    pastes: list[tuple[int, int]] = field(default_factory=list)  # layer, and layer of the source
    flip: dict[str, bool] = field(default_factory=dict)
    bgr: bool = False
    images: dict[int, Any] = field(default_factory=dict)
    failed_cuts: int = 0  # objects that upstream lost by an error of rounding


class Upstream:
    """A training dataset of Ultralytics that tells what it draws.

    Args:
        data: the dataset's YAML. Nothing is written beside the dataset.
        imgsz: side of the output picture.
    """

    def __init__(self, data: Path, imgsz: int, task: str = "detect") -> None:
        from ultralytics.cfg import get_cfg
        from ultralytics.data.dataset import YOLODataset
        from ultralytics.data.utils import check_det_dataset

        self.imgsz = imgsz
        self.task = task
        self.samples = 0
        self.transforms: Any = None
        self.heard = Heard()
        with leaves_the_source_alone():
            info = check_det_dataset(str(data))
            self.dataset = YOLODataset(
                img_path=info["train"], imgsz=imgsz, batch_size=16, augment=True, cache=None,
                hyp=get_cfg(overrides={"task": task, "imgsz": imgsz}), data=info, task=task,
            )  # fmt: skip
        self.polygons = any(label["segments"] for label in self.dataset.labels)
        self._number = {name: i for i, name in enumerate(self.dataset.im_files)}
        self.index = self._index()
        load = self.dataset.load_image

        def load_image(i: int, *args: Any, **kwargs: Any) -> Any:
            loaded = load(i, *args, **kwargs)
            self.heard.images[i] = np.ascontiguousarray(loaded[0][..., ::-1])
            return loaded

        self.dataset.load_image = load_image
        # Mosaic partners come from the images that were loaded last.
        count = len(self.dataset)
        for i in random.Random(0).sample(range(count), min(count, self.dataset.max_buffer_length)):
            load(i)

    def use(self, grid: int = 4, **hyp: Any) -> None:
        """Augments from now on by these arguments; `grid` is the pictures of a mosaic, 4 or 9.

        `augmentations` are Albumentations' transforms; there are none otherwise.
        """
        from ultralytics.cfg import get_cfg

        # Without an empty list, upstream has a few transforms of its own where it is installed.
        hyp = {"augmentations": [], **hyp}
        self.transforms = composed(hyp["augmentations"]) if hyp["augmentations"] else None
        args = get_cfg(overrides={"task": self.task, "imgsz": self.imgsz, **hyp})
        if self.task == "detect":
            self.index = self._index(outlines=bool(args.copy_paste))
        self.perspective = bool(args.perspective)
        self.mask_ratio = args.mask_ratio if self.task == "segment" else 0
        self.overlap_mask = bool(args.overlap_mask)
        self.dataset.transforms = self.dataset.build_transforms(args)
        stages = self.dataset.transforms.transforms
        for stage in stages[0].transforms:
            if type(stage).__name__ == "CopyPaste":
                self._share = stage.p
                self._listen(stage, "get_params", self._on_copy_paste)
            nested = getattr(stage, "pre_transform", None)
            for inner in [stage, *getattr(nested, "transforms", [])]:
                if type(inner).__name__ == "Mosaic":
                    inner.n = grid
                    self._listen(inner, "get_params", self._on_mosaic)
                elif type(inner).__name__ == "RandomPerspective" and inner is stage:
                    self._listen(inner, "get_params", self._on_warp)
        names = {type(stage).__name__: stage for stage in stages}
        self._listen(names["MixUp"], "get_params", self._on_mixup)
        self._listen(names["CutMix"], "get_params", self._on_cutmix)
        for stage in stages:
            if type(stage).__name__ == "RandomFlip":
                self._listen(stage, "get_params", self._on_flip)
        applied = getattr(names.get("Albumentations"), "transform", None)
        if applied is not None:  # upstream's seed makes all of them fire, or none: see draw_from
            applied.set_random_seed = lambda seed: draw_from(applied, seed)
        self._overhear(names["RandomHSV"], "apply_image", self._draw_hsv)
        self._overhear(stages[-1], "_format_img", self._draw_bgr)

    def sample(self, i: int) -> tuple[dict[str, Any], dict[str, Any], dict[int, Any]]:
        """Upstream's finished sample `i`, the recipe (as a dict) that it drew, and its images."""
        self.heard = heard = Heard()
        self.samples += 1
        # Upstream seeds Albumentations with this, as often as it changes.
        seed = patch("torch.initial_seed", lambda: self.samples)
        with _stable_order(), _failed_cuts(heard), seed:
            sample = self.dataset[i]
        recipe = {
            "size": [self.imgsz, self.imgsz],
            "layers": heard.layers,
            "pastes": heard.pastes,
            "failed_cuts": heard.failed_cuts,
            "mixup": heard.mixup,
            "cutmix": heard.cutmix,
            "hsv": heard.hsv,
            "flipud": heard.flip["vertical"],
            "fliplr": heard.flip["horizontal"],
            "bgr": heard.bgr,
            "seed": self.samples,
        }
        return sample, recipe, heard.images

    def recipe(self, values: dict[str, Any]) -> _native.Recipe:
        """The recipe of what `sample` heard; what is pasted, and where, is for us to find out."""
        recipe = _native.Recipe.from_dict(values)
        for onto, source in values["pastes"]:
            recipe = _native.paste(recipe, self.index, onto, source, self._share)
        return recipe

    def picture(
        self, recipe: _native.Recipe, values: dict[str, Any], images: dict[int, Any]
    ) -> Any:
        """Our picture of what `sample` heard, uint8 (3, H, W)."""
        if self.transforms is None:
            return _native.render(recipe, images)
        picture = np.empty((3, self.imgsz, self.imgsz), np.uint8)
        retouched(recipe, images, picture, self.transforms, values["seed"])
        return picture

    def _index(
        self, flip_idx: bool = False, visibility: bool = False, outlines: bool = False
    ) -> _native.Index:
        """The label table. Its sizes are those of the files: recipes name the sizes they need.

        Named facts about keypoints are falsified, to see whether that is noticed.
        """
        labels = self.dataset.labels
        counts = [len(label["cls"]) for label in labels]
        offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.uint64)
        cls = np.concatenate([label["cls"].reshape(-1) for label in labels]).astype(np.float32)
        box = np.concatenate([label["bboxes"].reshape(-1, 4) for label in labels])
        polygons = [np.asarray(s, np.float32) for label in labels for s in label["segments"]]
        sizes = np.array([label["shape"] for label in labels], np.uint32)
        args: list[Any] = [np.ascontiguousarray(sizes[:, 0]), np.ascontiguousarray(sizes[:, 1])]
        args += [offsets, cls, np.ascontiguousarray(box, np.float32)]
        if polygons:
            lengths = [len(polygon) for polygon in polygons]
            args += [
                np.concatenate(([0], np.cumsum(lengths))).astype(np.uint64),
                np.ascontiguousarray(np.concatenate(polygons), np.float32),
            ]
        extra: dict[str, Any] = {}
        if self.task == "segment" or (self.task == "detect" and outlines):
            extra["outline_points"] = 1000
        if self.task == "obb":
            extra = {"outline_points": 100, "oriented": True}
        if self.task == "pose":
            points = np.concatenate([label["keypoints"] for label in labels])
            points[..., 2] += visibility
            extra["keypoints"] = np.ascontiguousarray(points, np.float32)
            order = self.dataset.data.get("flip_idx")
            if order and not flip_idx:
                extra["flip_idx"] = np.array(order, np.int32)
        return _native.Index(*args, **extra)

    @staticmethod
    def _listen(stage: Any, method: str, heard: Any) -> None:
        """Passes what `method` returns to `heard`."""
        original = getattr(stage, method)

        def wrapper(labels: Any) -> Any:
            params = original(labels)
            heard(stage, labels, params)
            return params

        setattr(stage, method, wrapper)

    @staticmethod
    def _overhear(stage: Any, method: str, draw: Any) -> None:
        """Lets `draw` draw first what `method` is about to draw."""
        original = getattr(stage, method)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            with _same_draws():
                draw(stage)
            return original(*args, **kwargs)

        setattr(stage, method, wrapper)

    def _tile(self, patch: dict[str, Any]) -> dict[str, int]:
        height, width = patch["resized_shape"]
        return {"image": self._number[patch["im_file"]], "height": height, "width": width}

    def _on_mosaic(self, stage: Any, labels: Any, params: Any) -> None:
        self.heard.mosaic = []
        canvas = 2 * self.imgsz
        # Nine pictures lie on a canvas of three sides, of which the middle two are kept.
        shift, suffix = (0, "a") if stage.n == 4 else (stage.border[0], "")
        for item in params["layout"]:
            tile = self._tile(item["labels_patch"])
            tile["x0"], tile["y0"] = item["padw"] + shift, item["padh"] + shift
            for side in ("x1", "y1", "x2", "y2"):
                tile[side] = min(max(item[side + suffix] + shift, 0), canvas)
            self.heard.mosaic.append(tile)

    def _on_warp(self, stage: Any, labels: Any, params: Any) -> None:
        tiles, (height, width) = self.heard.mosaic, params["orig_shape"]
        if tiles is None:
            place = {"x0": 0, "y0": 0, "x1": 0, "y1": 0, "x2": width, "y2": height}
            tiles = [{**self._tile(labels), **place}]
        self.heard.mains.append(len(self.heard.layers))
        self.heard.layers.append(
            {
                "canvas": [height, width],
                "tiles": tiles,
                "matrix": [float(value) for value in params["M"].reshape(-1)],
                "perspective": self.perspective,
                "scale": float(params["scale"]),
            }
        )
        self.heard.mosaic = None

    # From the same picture before it is warped, or from one that was made for this.
    def _on_copy_paste(self, stage: Any, labels: Any, params: Any) -> None:
        heard, source = self.heard, len(self.heard.layers)
        if stage.mode == "mixup":
            source = heard.mains.pop()
            if not len(params["selected"]):
                heard.layers.pop()
        if len(params["selected"]):
            heard.pastes.append((heard.mains[-1] if stage.mode == "mixup" else source, source))

    # A mixing stage has its partner made (and warped) before it draws.
    def _on_mixup(self, stage: Any, labels: Any, params: Any) -> None:
        self.heard.mixup = {"layer": self.heard.mains[-1], "ratio": params["r"]}

    def _on_cutmix(self, stage: Any, labels: Any, params: Any) -> None:
        heard = self.heard
        if params.get("skip"):
            first = heard.mains.pop()
            del heard.layers[first:]
            heard.pastes = [paste for paste in heard.pastes if paste[0] < first]
        else:
            area = [int(value) for value in params["area"]]
            heard.cutmix = {"layer": heard.mains[-1], "area": area}

    def _on_flip(self, stage: Any, labels: Any, params: Any) -> None:
        self.heard.flip[params["direction"]] = params["flip"]

    def _draw_hsv(self, stage: Any) -> None:
        gains = [stage.hgain, stage.sgain, stage.vgain]
        if any(gains):
            self.heard.hsv = (np.random.uniform(-1, 1, 3) * gains).tolist()

    def _draw_bgr(self, stage: Any) -> None:
        self.heard.bgr = not random.uniform(0, 1) > stage.bgr


@contextmanager
def leaves_the_source_alone() -> Iterator[None]:
    """Upstream writes no cache files and rewrites no truncated JPEGs inside, and says little."""
    from ultralytics.utils import LOGGER

    def keep(prefix: str, path: Path, x: dict[str, Any], version: str) -> None:
        x["version"] = version  # all that it does besides writing

    level = LOGGER.level
    LOGGER.setLevel(logging.ERROR)
    try:
        with (
            patch("ultralytics.data.dataset.save_dataset_cache_file", keep),
            patch("ultralytics.data.utils._replace_image"),
        ):
            yield
    finally:
        LOGGER.setLevel(level)


def in_stable_order(batches: Iterable[Any]) -> Iterator[Any]:
    """What upstream's loader gives where equal things keep their order."""
    iterator = iter(batches)
    while True:
        with _stable_order():
            batch = next(iterator, None)
        if batch is None:
            return
        yield batch


@contextmanager
def _failed_cuts(heard: Heard) -> Iterator[None]:
    """Counts overlaps of polygons that OpenCV takes for none, which loses an oriented object.

    It fails where a corner almost touches an edge; polygons moved a little are asked again.
    """
    import cv2

    intersect = cv2.intersectConvexConvex

    def counting(a: Any, b: Any) -> Any:
        found = intersect(a, b)
        if found[0] <= 0 and max(intersect(a + shift, b)[0] for shift in (-0.01, 0.01)) > 0.1:
            heard.failed_cuts += 1
        return found

    with patch("cv2.intersectConvexConvex", counting):
        yield


@contextmanager
def _stable_order() -> Iterator[None]:
    """NumPy leaves open how equal ones are sorted: here they stay as they are."""
    argsort = np.argsort
    with patch("numpy.argsort", lambda *args, **kwargs: argsort(*args, kind="stable", **kwargs)):
        yield


@contextmanager
def _same_draws() -> Iterator[None]:
    """What is drawn inside is drawn again outside."""
    state, array_state = random.getstate(), np.random.get_state()
    yield
    random.setstate(state)
    np.random.set_state(array_state)


def seed(value: int) -> None:
    """Seeds everything that upstream draws from."""
    random.seed(value)
    np.random.seed(value)
