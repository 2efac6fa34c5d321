"""How training pictures are augmented: Ultralytics' arguments, checked."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, SupportsIndex

from yolodata.checks import number, one_of, shown, whole
from yolodata.errors import ConfigError
from yolodata.pipeline.misplaced import options
from yolodata.pipeline.options import keep

if TYPE_CHECKING:
    from yolodata._native import PlanConfig

SIDES = (10, 16384)
"""Least and greatest `imgsz`."""

ZOOMS = (0.01, 100.0)
"""Between these is the greatest zoom of `scale` as a pair; beyond, nothing can be seen."""

INSTEAD = {
    "augmentations": "give Albumentations' transforms to Loader(transforms=…)",
    "rect": "set it to False, or train with Ultralytics' own loader",
}
"""Upstream's training arguments that are no part of a recipe, and what to do about them."""


@options
@dataclass(frozen=True)
class AugmentConfig:
    """The recipe of Ultralytics' detection tasks, with its names, meanings and defaults.

    It is as flat as Ultralytics' arguments are, so that whoever knows those knows these.

    Attributes:
        imgsz: side of the square output picture, 10 to 16384 pixels; a multiple of 32 trains best
            (`imgsz=320`).
        mosaic: probability that a picture is a mosaic (`mosaic=0.5`).
        mosaic_grid: pictures of a mosaic, 4 (2 x 2) or 9 (3 x 3); Ultralytics has no argument for
            it (`mosaic_grid=9`).
        degrees: rotation is uniform in plus or minus this many degrees, 0 to 360
            (`degrees=10.0`).
        translate: shift is uniform in plus or minus this share of `imgsz`, 0 to 1
            (`translate=0.2`).
        scale: zoom is uniform in 1 - scale to 1 + scale, 0 to 1; or in an explicit (min, max),
            max 0.01 to 100 (`scale=0.9`).
        shear: uniform in plus or minus this many degrees, 0 to 89 (`shear=2.0`).
        perspective: uniform in plus or minus this, 0 to 1; 0.001 is a lot
            (`perspective=0.0005`).
        hsv_h: hue turns by up to this share of the full circle, either way, 0 to 1 (`hsv_h=0.03`).
        hsv_s: saturation is multiplied by 1 plus or minus up to this share, 0 to 1 (`hsv_s=0.5`).
        hsv_v: value is multiplied by 1 plus or minus up to this share, 0 to 1 (`hsv_v=0.3`).
        flipud: probability of turning the picture upside down (`flipud=0.5`).
        fliplr: probability of mirroring the picture (`fliplr=0.0`).
        bgr: probability of exchanging the red and the blue channel (`bgr=0.1`).
        mixup: probability of blending with another augmented picture (`mixup=0.1`).
        cutmix: probability of showing part of another augmented picture (`cutmix=0.1`).
        copy_paste: share of the objects that may be pasted a second time. Nothing is pasted unless
            all objects of the dataset have outlines, nor for poses. With mode "mixup" it is also
            the probability of pasting at all (`copy_paste=0.3`).
        copy_paste_mode: "flip" pastes a picture's own objects, mirrored; "mixup" objects of another
            augmented picture (`copy_paste_mode="mixup"`).

    Raises:
        ConfigError: a value is out of range or of the wrong type.
    """

    imgsz: int = 640
    mosaic: float = 1.0
    mosaic_grid: int = 4
    degrees: float = 0.0
    translate: float = 0.1
    scale: float | tuple[float, float] = 0.5
    shear: float = 0.0
    perspective: float = 0.0
    hsv_h: float = 0.015
    hsv_s: float = 0.7
    hsv_v: float = 0.4
    flipud: float = 0.0
    fliplr: float = 0.5
    bgr: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    copy_paste: float = 0.0
    copy_paste_mode: str = "flip"

    def __post_init__(self) -> None:
        keep(self, imgsz=whole("imgsz", self.imgsz, *SIDES, " pixels"))
        if not isinstance(self.mosaic_grid, SupportsIndex) or self.mosaic_grid not in (4, 9):
            raise ConfigError(f"mosaic_grid must be 4 or 9, got {self.mosaic_grid!r}")
        keep(self, mosaic_grid=whole("mosaic_grid", self.mosaic_grid, 4, 9))
        for name, limit in _LIMITS.items():
            number(name, getattr(self, name), 0, limit)
        one_of("copy_paste_mode", self.copy_paste_mode, ("flip", "mixup"))
        low, high = self.scale_range
        if not (0 <= low <= high and ZOOMS[0] <= high <= ZOOMS[1]):
            raise ConfigError(
                "scale must be a number from 0 to 1, or a pair (min, max) with 0 <= min <= max and "
                f"max from {ZOOMS[0]:g} to {ZOOMS[1]:g}, got {shown(self.scale)}"
            )

    @property
    def scale_range(self) -> tuple[float, float]:
        """The least and the greatest zoom.

        Raises:
            ConfigError: `scale` is neither a number nor a pair of numbers.
        """
        if isinstance(self.scale, (tuple, list)):
            if len(self.scale) != 2:
                raise ConfigError(f"scale must be a number or (min, max), got {shown(self.scale)}")
            return number("scale", self.scale[0]), number("scale", self.scale[1])
        gain = number("scale", self.scale, 0)
        return 1.0 - gain, 1.0 + gain

    @classmethod
    def from_ultralytics(cls, args: Any) -> AugmentConfig:
        """Returns the recipe of Ultralytics' training arguments.

        Args:
            args: a namespace or a dict; what is missing in it has its default, and what is no part
                of a recipe does not matter.

        Raises:
            ConfigError: an argument is out of range, or is set that is no part of a recipe
                (`augmentations`, `rect`).
        """
        values = dict(args) if isinstance(args, dict) else dict(vars(args))
        for name, instead in INSTEAD.items():
            if values.get(name):
                raise ConfigError(f"{name}={values[name]!r} is no part of a recipe; {instead}")
        names = {field.name for field in fields(cls)} & values.keys()
        known = {name: values[name] for name in names}
        if isinstance(known.get("scale"), list):
            known["scale"] = tuple(known["scale"])
        return cls(**known)

    def without_mix(self) -> AugmentConfig:
        """Returns the recipe after `close_mosaic`: no mosaic, copy-paste, mixup or cutmix."""
        return replace(self, mosaic=0.0, copy_paste=0.0, mixup=0.0, cutmix=0.0)

    def to_native(
        self,
        *,
        shuffle: bool = True,
        streams: int = 1,
        window: int = 0,
        mask_ratio: int = 0,
        overlap_mask: bool = True,
    ) -> PlanConfig:
        """Returns the planner's settings: these, and what a dataset and a loader add.

        Args:
            shuffle: whether an epoch is a permutation of the images; False: in their order.
            streams, window: where partners come from, see `reuse_window`; the whole dataset if 0.
            mask_ratio: pixels of the picture to one of the masks; 0 makes none.
            overlap_mask: one mask of object numbers a picture, or one for each object.
        """
        from yolodata._native import PlanConfig

        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        del values["scale"]
        values["scale_min"], values["scale_max"] = self.scale_range
        return PlanConfig(
            **values,
            shuffle=shuffle,
            streams=streams,
            window=window,
            mask_ratio=mask_ratio,
            overlap_mask=overlap_mask,
        )


_LIMITS = {
    "mosaic": 1.0,
    "degrees": 360.0,
    "translate": 1.0,
    "shear": 89.0,
    "perspective": 1.0,
    "hsv_h": 1.0,
    "hsv_s": 1.0,
    "hsv_v": 1.0,
    "flipud": 1.0,
    "fliplr": 1.0,
    "bgr": 1.0,
    "mixup": 1.0,
    "cutmix": 1.0,
    "copy_paste": 1.0,
}
