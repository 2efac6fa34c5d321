"""Ultralytics itself as the reference: its samples, together with the numbers it drew for them.

Upstream separates drawing (`get_params`) from applying. The wrappers here listen to the drawing and
leave everything else alone; what was heard becomes a recipe of ours.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from yolodata import _native


@dataclass
class Heard:
    """What upstream drew for one sample."""

    layers: list[dict[str, Any]] = field(default_factory=list)
    mosaic: list[dict[str, Any]] | None = None
    mixup: float | None = None
    mixup_layer: int = 0
    cutmix: list[int] | None = None
    cutmix_layer: int = 0
    hsv: list[float] | None = None
    flip: dict[str, bool] = field(default_factory=dict)
    bgr: bool = False


class Upstream:
    """A training dataset of Ultralytics that tells what it draws.

    Args:
        data: the dataset's YAML.
        imgsz: side of the output picture.
        grid: pictures of a mosaic, 4 or 9.
        hyp: augmentation arguments by upstream's names.
    """

    def __init__(self, data: Path, imgsz: int, grid: int = 4, **hyp: Any) -> None:
        from ultralytics.cfg import get_cfg
        from ultralytics.data.augment import Albumentations
        from ultralytics.data.dataset import YOLODataset
        from ultralytics.data.utils import check_det_dataset

        info = check_det_dataset(str(data))
        args = get_cfg(overrides={"task": "detect", "imgsz": imgsz, **hyp})
        self.imgsz = imgsz
        self.dataset = YOLODataset(
            img_path=info["train"], imgsz=imgsz, batch_size=16, augment=True, hyp=args,
            cache=None, data=info, task="detect",
        )  # fmt: skip
        self.images = []
        for i in range(len(self.dataset)):
            picture = self.dataset.load_image(i)[0]
            self.images.append(np.ascontiguousarray(picture[..., ::-1]))
        self._number = {name: i for i, name in enumerate(self.dataset.im_files)}
        self.perspective = bool(args.perspective)
        self.index = self._index()
        self.heard = Heard()
        stages = self.dataset.transforms.transforms
        for stage in stages:
            if isinstance(stage, Albumentations) and stage.transform is not None:
                raise RuntimeError("the package albumentations is installed and changes pictures")
        mosaic, perspective = stages[0].transforms[0], stages[0].transforms[-1]
        mosaic.n = grid
        self._listen(mosaic, "get_params", self._on_mosaic)
        self._listen(perspective, "get_params", self._on_warp)
        names = {type(stage).__name__: stage for stage in stages}
        self._listen(names["MixUp"], "get_params", self._on_mixup)
        self._listen(names["CutMix"], "get_params", self._on_cutmix)
        hsv = names["RandomHSV"]
        apply = hsv.apply_image

        def apply_hsv(labels: Any, params: Any = None) -> Any:
            gains = [hsv.hgain, hsv.sgain, hsv.vgain]
            if any(gains):
                with _same_draws():
                    self.heard.hsv = (np.random.uniform(-1, 1, 3) * gains).tolist()
            return apply(labels, params)

        hsv.apply_image = apply_hsv
        for flip in stages:
            if type(flip).__name__ == "RandomFlip":
                self._listen(flip, "get_params", self._on_flip)
        last = stages[-1]
        convert = last._format_img

        def format_img(img: Any) -> Any:
            with _same_draws():
                self.heard.bgr = not random.uniform(0, 1) > last.bgr
            return convert(img)

        last._format_img = format_img

    def _index(self) -> _native.Index:
        labels = self.dataset.labels
        counts = [len(label["cls"]) for label in labels]
        offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.uint64)
        cls = np.concatenate([label["cls"].reshape(-1) for label in labels]).astype(np.float32)
        box = np.concatenate([label["bboxes"].reshape(-1, 4) for label in labels])
        polygons = [np.asarray(s, np.float32) for label in labels for s in label["segments"]]
        sizes = np.array([image.shape[:2] for image in self.images], np.uint32)
        args: list[Any] = [np.ascontiguousarray(sizes[:, 0]), np.ascontiguousarray(sizes[:, 1])]
        args += [offsets, cls, np.ascontiguousarray(box, np.float32)]
        if polygons:
            lengths = [len(polygon) for polygon in polygons]
            args += [
                np.concatenate(([0], np.cumsum(lengths))).astype(np.uint64),
                np.ascontiguousarray(np.concatenate(polygons), np.float32),
            ]
        return _native.Index(*args)

    @staticmethod
    def _listen(stage: Any, method: str, heard: Any) -> None:
        original = getattr(stage, method)

        def wrapper(labels: Any) -> Any:
            params = original(labels)
            heard(stage, labels, params)
            return params

        setattr(stage, method, wrapper)

    def _tile(self, patch: dict[str, Any]) -> dict[str, int]:
        height, width = patch["resized_shape"]
        return {"image": self._number[patch["im_file"]], "height": height, "width": width}

    def _on_mosaic(self, stage: Any, labels: Any, params: Any) -> None:
        self.heard.mosaic = []
        canvas = 2 * self.imgsz
        shift = 0 if stage.n == 4 else stage.border[0]
        for item in params["layout"]:
            tile = self._tile(item["labels_patch"])
            tile["x0"], tile["y0"] = item["padw"] + shift, item["padh"] + shift
            suffix = "a" if stage.n == 4 else ""
            for side in ("x1", "y1", "x2", "y2"):
                tile[side] = min(max(item[side + suffix] + shift, 0), canvas)
            self.heard.mosaic.append(tile)

    def _on_warp(self, stage: Any, labels: Any, params: Any) -> None:
        tiles, (height, width) = self.heard.mosaic, params["orig_shape"]
        if tiles is None:
            tile = {**self._tile(labels), "x0": 0, "y0": 0, "x1": 0, "y1": 0}
            tiles = [{**tile, "x2": width, "y2": height}]
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

    def _on_mixup(self, stage: Any, labels: Any, params: Any) -> None:
        self.heard.mixup, self.heard.mixup_layer = params["r"], len(self.heard.layers) - 1

    def _on_cutmix(self, stage: Any, labels: Any, params: Any) -> None:
        if not params.get("skip"):
            self.heard.cutmix = [int(value) for value in params["area"]]
        self.heard.cutmix_layer = len(self.heard.layers) - 1

    def _on_flip(self, stage: Any, labels: Any, params: Any) -> None:
        self.heard.flip[params["direction"]] = params["flip"]

    def sample(self, i: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """Upstream's finished sample `i`, and the recipe (as a dict) of what it drew."""
        self.heard = heard = Heard()
        sample = self.dataset[i]
        layers = heard.layers
        mixup = cutmix = None
        if heard.mixup is not None:
            mixup = {"layer": heard.mixup_layer, "ratio": heard.mixup}
        if heard.cutmix is not None:
            cutmix = {"layer": heard.cutmix_layer, "area": heard.cutmix}
        recipe = {
            "size": [self.imgsz, self.imgsz],
            "layers": layers,
            "mixup": mixup,
            "cutmix": cutmix,
            "hsv": heard.hsv,
            "flipud": heard.flip["vertical"],
            "fliplr": heard.flip["horizontal"],
            "bgr": heard.bgr,
        }
        return sample, recipe

    def pixels(self, recipe: dict[str, Any]) -> dict[int, Any]:
        """The images that a recipe shows, RGB."""
        numbers = {tile["image"] for layer in recipe["layers"] for tile in layer["tiles"]}
        return {number: self.images[number] for number in numbers}


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
