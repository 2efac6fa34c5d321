"""Ultralytics itself as the reference: its samples, together with the numbers it drew for them.

Upstream separates drawing (`get_params`) from applying. Wrappers record what is drawn and leave
everything else alone; what was recorded becomes a recipe of ours.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from yolodata import _native
from yolodata.errors import DatasetError
from yolodata.parity.label_table import label_table
from yolodata.parity.without_pixels import skip_pixels
from yolodata.pipeline.albumentations.pool import render_with_transforms
from yolodata.pipeline.albumentations.transforms import composed, draw_from
from yolodata.pipeline.options import LabelOptions
from yolodata.pipeline.subset import Subset
from yolodata.shards.reader import ShardDataset
from yolodata.terminal import quiet


@dataclass
class Drawn:
    """What upstream drew for one sample, and the images it loaded (RGB) by dataset index."""

    layers: list[dict[str, Any]] = field(default_factory=list)
    mosaic: list[dict[str, Any]] | None = None
    mixup: dict[str, Any] | None = None
    cutmix: dict[str, Any] | None = None
    hsv: list[float] | None = None
    mains: list[int] = field(default_factory=list)  # layers that nothing is only pasted from
    # Onto which layer, from which layer, and how many objects.
    pastes: list[tuple[int, int, int]] = field(default_factory=list)
    flip: dict[str, bool] = field(default_factory=dict)
    bgr: bool = False
    images: dict[int, Any] = field(default_factory=dict)
    failed_cuts: int = 0  # objects that upstream lost by an error of rounding


class Upstream:
    """A training dataset of Ultralytics that tells what it draws.

    Attributes:
        dataset: Ultralytics' own dataset object; `use` gives it its transforms.
        table: the label table that recipes are labelled by.

    Args:
        data: the dataset's YAML. Nothing is written beside the dataset, and nothing downloaded.
        imgsz: side of the output picture, in pixels.
        task: "detect", "segment", "pose" or "obb".
        shards: the packed training split, at the same imgsz. Our pictures and labels are made of
            it; without it, of the images and labels that upstream read.

    Raises:
        DatasetError: Ultralytics cannot read the dataset for this task, or the shards hold other
            images.
    """

    def __init__(
        self, data: Path, imgsz: int, task: str = "detect", shards: ShardDataset | None = None
    ) -> None:
        from ultralytics.cfg import get_cfg
        from ultralytics.data.dataset import YOLODataset
        from ultralytics.data.utils import check_det_dataset

        self.imgsz = imgsz
        self.task = task
        self.shards = shards
        self.samples = 0
        self.transforms: Any = None
        self.drawn = Drawn()
        hyp = get_cfg(overrides={"task": task, "imgsz": imgsz})
        with leaves_the_source_alone():
            try:
                info = check_det_dataset(str(data), autodownload=False)
                self.dataset = YOLODataset(
                    img_path=info["train"], imgsz=imgsz, batch_size=16, augment=True, cache=None,
                    hyp=hyp, data=info, task=task,
                )  # fmt: skip
            except Exception as error:  # of many kinds, all about the dataset
                raise DatasetError(
                    f"{data}: Ultralytics cannot read it for task {task!r}: {error}; correct the "
                    "dataset, or give another task"
                ) from error
        self.polygons = any(label["segments"] for label in self.dataset.labels)
        self._number = {name: i for i, name in enumerate(self.dataset.im_files)}
        if shards is not None:
            self._check_images(shards)
        self.table = self._label_table()
        load = self.dataset.load_image

        def load_image(i: int, *args: Any, **kwargs: Any) -> Any:
            loaded = load(i, *args, **kwargs)
            self.drawn.images[i] = np.ascontiguousarray(loaded[0][..., ::-1])
            return loaded

        self.dataset.load_image = load_image
        # Mosaic partners come from the images that were loaded last.
        count = len(self.dataset)
        for i in random.Random(0).sample(range(count), min(count, self.dataset.max_buffer_length)):
            load(i)

    def use(self, grid: int = 4, pixels: bool = True, **hyp: Any) -> None:
        """Augments from now on.

        Args:
            grid: images of a mosaic, 4 or 9.
            pixels: whether pictures are made. Without them `sample` draws what it would draw, from
                images of the right size, in a fraction of the time. Partners of a mosaic then come
                from the whole dataset, as upstream has it with cache="ram".
            hyp: upstream's training arguments. `augmentations` are Albumentations' transforms;
                there are none otherwise.
        """
        from ultralytics.cfg import get_cfg

        # Without an empty list, upstream has a few transforms of its own where it is installed.
        hyp = {"augmentations": [], **hyp}
        self.transforms = composed(hyp["augmentations"]) if hyp["augmentations"] else None
        args = get_cfg(overrides={"task": self.task, "imgsz": self.imgsz, **hyp})
        self.perspective = bool(args.perspective)
        self.mask_ratio = args.mask_ratio if self.task == "segment" else 0
        self.overlap_mask = bool(args.overlap_mask)
        if self.task == "detect":
            self.table = self._label_table(outlines=bool(args.copy_paste))
        with quiet():
            self.dataset.transforms = self.dataset.build_transforms(args)
        stages = self.dataset.transforms.transforms
        if not pixels:
            skip_pixels(stages, self.imgsz)
        for stage in stages[0].transforms:
            if type(stage).__name__ == "CopyPaste":
                self._share = stage.p
                self._record(stage, "get_params", self._on_copy_paste)
            nested = getattr(stage, "pre_transform", None)
            for inner in [stage, *getattr(nested, "transforms", [])]:
                if type(inner).__name__ == "Mosaic":
                    inner.n = grid
                    self._record(inner, "get_params", self._on_mosaic)
                elif type(inner).__name__ == "RandomPerspective" and inner is stage:
                    self._record(inner, "get_params", self._on_warp)
        names = {type(stage).__name__: stage for stage in stages}
        self._record(names["MixUp"], "get_params", self._on_mixup)
        self._record(names["CutMix"], "get_params", self._on_cutmix)
        for stage in stages:
            if type(stage).__name__ == "RandomFlip":
                self._record(stage, "get_params", self._on_flip)
        applied = getattr(names.get("Albumentations"), "transform", None)
        if applied is not None:  # upstream's seed makes all of them fire, or none: see draw_from
            applied.set_random_seed = lambda seed: draw_from(applied, seed)
        self._draw_first(names["RandomHSV"], "apply_image", self._draw_hsv)
        self._draw_first(names["Format"], "_format_img", self._draw_bgr)

    def sample(self, i: int) -> tuple[dict[str, Any], dict[str, Any], dict[int, Any]]:
        """Makes upstream's finished sample of image `i`.

        Returns:
            the sample; the recipe that upstream drew, as a dict; and the images for our picture,
            uint8 (H, W, 3) RGB by dataset index, from the shards where they are given.
        """
        self.drawn = drawn = Drawn()
        self.samples += 1
        with ExitStack() as patches:
            patches.enter_context(_stable_order())
            if self.task == "obb":
                patches.enter_context(_failed_cuts(drawn))
            if self.transforms is not None:  # upstream seeds them with this, whenever it changes
                patches.enter_context(patch("torch.initial_seed", lambda: self.samples))
            sample = self.dataset[i]
        recipe = {
            "size": [self.imgsz, self.imgsz],
            "layers": drawn.layers,
            "pastes": drawn.pastes,
            "failed_cuts": drawn.failed_cuts,
            "mixup": drawn.mixup,
            "cutmix": drawn.cutmix,
            "hsv": drawn.hsv,
            "flipud": drawn.flip["vertical"],
            "fliplr": drawn.flip["horizontal"],
            "bgr": drawn.bgr,
            "seed": self.samples,
        }
        if self.shards is None:
            return sample, recipe, drawn.images
        return sample, recipe, {number: self.shards.image(number) for number in drawn.images}

    def recipe(self, values: dict[str, Any]) -> _native.Recipe:
        """Makes the recipe that `sample` recorded; our own rule says what is pasted, and where."""
        drawn = {key: values[key] for key in values.keys() - {"pastes", "failed_cuts", "seed"}}
        recipe = _native.Recipe.from_dict(drawn)
        for onto, source, _ in values["pastes"]:
            recipe = _native.paste(recipe, self.table, onto, source, self._share)
        return recipe

    def picture(
        self, recipe: _native.Recipe, values: dict[str, Any], images: dict[int, Any]
    ) -> Any:
        """Renders our picture of what `sample` recorded, uint8 (3, H, W)."""
        if self.transforms is None:
            return _native.render(recipe, images)
        picture = np.empty((3, self.imgsz, self.imgsz), np.uint8)
        render_with_transforms(recipe, images, picture, self.transforms, values["seed"])
        return picture

    def _label_table(self, outlines: bool = False) -> _native.LabelTable:
        if self.shards is not None:
            return Subset(self.shards, LabelOptions(self.task), outlines=outlines).index()
        flip_idx = self.dataset.data.get("flip_idx")
        return label_table(self.dataset.labels, self.task, flip_idx=flip_idx, outlines=outlines)

    def _check_images(self, shards: ShardDataset) -> None:
        """Raises DatasetError unless the shards hold upstream's images, in its order."""
        theirs = self.dataset.im_files
        count = max(len(theirs), len(shards))
        for i in range(count):
            ours = shards.name(i) if i < len(shards) else "none"
            reference = theirs[i] if i < len(theirs) else "none"
            if ours != reference:
                raise DatasetError(
                    f"{shards.path}: must hold the {len(theirs)} images that Ultralytics reads, "
                    f"got {len(shards)}; image {i} is {ours}, and {reference} there; pack again"
                )

    @staticmethod
    def _record(stage: Any, method: str, tell: Any) -> None:
        """Passes what `method` returns to `tell`."""
        original = getattr(stage, method)

        def wrapper(labels: Any) -> Any:
            params = original(labels)
            tell(stage, labels, params)
            return params

        setattr(stage, method, wrapper)

    @staticmethod
    def _draw_first(stage: Any, method: str, draw: Any) -> None:
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
        self.drawn.mosaic = []
        canvas = 2 * self.imgsz
        # Nine pictures lie on a canvas of three sides, of which the middle two are kept.
        shift, suffix = (0, "a") if stage.n == 4 else (stage.border[0], "")
        for item in params["layout"]:
            tile = self._tile(item["labels_patch"])
            tile["x0"], tile["y0"] = item["padw"] + shift, item["padh"] + shift
            for side in ("x1", "y1", "x2", "y2"):
                tile[side] = min(max(item[side + suffix] + shift, 0), canvas)
            self.drawn.mosaic.append(tile)

    def _on_warp(self, stage: Any, labels: Any, params: Any) -> None:
        tiles, (height, width) = self.drawn.mosaic, params["orig_shape"]
        if tiles is None:
            place = {"x0": 0, "y0": 0, "x1": 0, "y1": 0, "x2": width, "y2": height}
            tiles = [{**self._tile(labels), **place}]
        self.drawn.mains.append(len(self.drawn.layers))
        self.drawn.layers.append(
            {
                "canvas": [height, width],
                "tiles": tiles,
                "matrix": [float(value) for value in params["M"].reshape(-1)],
                "perspective": self.perspective,
                "scale": float(params["scale"]),
            }
        )
        self.drawn.mosaic = None

    # From the same picture before it is warped, or from one that was made for this.
    def _on_copy_paste(self, stage: Any, labels: Any, params: Any) -> None:
        drawn, source = self.drawn, len(self.drawn.layers)
        if stage.mode == "mixup":
            source = drawn.mains.pop()
            if not len(params["selected"]):
                drawn.layers.pop()
        if count := len(params["selected"]):
            onto = drawn.mains[-1] if stage.mode == "mixup" else source
            drawn.pastes.append((onto, source, count))

    # A mixing stage has its partner made (and warped) before it draws.
    def _on_mixup(self, stage: Any, labels: Any, params: Any) -> None:
        self.drawn.mixup = {"layer": self.drawn.mains[-1], "ratio": params["r"]}

    def _on_cutmix(self, stage: Any, labels: Any, params: Any) -> None:
        drawn = self.drawn
        if params.get("skip"):
            first = drawn.mains.pop()
            del drawn.layers[first:]
            drawn.pastes = [paste for paste in drawn.pastes if paste[0] < first]
        else:
            area = [int(value) for value in params["area"]]
            drawn.cutmix = {"layer": drawn.mains[-1], "area": area}

    def _on_flip(self, stage: Any, labels: Any, params: Any) -> None:
        self.drawn.flip[params["direction"]] = params["flip"]

    def _draw_hsv(self, stage: Any) -> None:
        gains = [stage.hgain, stage.sgain, stage.vgain]
        if any(gains):
            self.drawn.hsv = (np.random.uniform(-1, 1, 3) * gains).tolist()

    def _draw_bgr(self, stage: Any) -> None:
        self.drawn.bgr = not random.uniform(0, 1) > stage.bgr


@contextmanager
def leaves_the_source_alone() -> Iterator[None]:
    """Inside, upstream writes no cache files, rewrites no truncated JPEGs, downloads no font for
    plots, and says little."""

    def keep(prefix: str, path: Path, x: dict[str, Any], version: str) -> None:
        x["version"] = version  # all that it does besides writing

    with (
        quiet(),
        patch("ultralytics.data.dataset.save_dataset_cache_file", keep),
        patch("ultralytics.data.utils._replace_image"),
        patch("ultralytics.data.utils.check_font"),
    ):
        yield


@contextmanager
def _failed_cuts(drawn: Drawn) -> Iterator[None]:
    """Counts overlaps of polygons that OpenCV takes for none, which loses an oriented object.

    It fails where a corner almost touches an edge; polygons moved a little are asked again.
    """
    import cv2

    intersect = cv2.intersectConvexConvex

    def counting(a: Any, b: Any) -> Any:
        found = intersect(a, b)
        if found[0] <= 0 and max(intersect(a + shift, b)[0] for shift in (-0.01, 0.01)) > 0.1:
            drawn.failed_cuts += 1
        return found

    with patch("cv2.intersectConvexConvex", counting):
        yield


@contextmanager
def _stable_order() -> Iterator[None]:
    """NumPy leaves open how equal ones are sorted: here they stay as they are."""
    argsort = np.argsort
    with patch("numpy.argsort", functools.partial(argsort, kind="stable")):
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
