"""Native core of yolodata: plan and render."""

from collections.abc import Sequence
from typing import Annotated

import numpy
from numpy.typing import NDArray

FILL: int = 114

def cuda_build() -> str: ...
def instruction_set() -> str: ...

class LabelTable:
    """The label table of a dataset; keeps its arrays alive."""

    def __init__(
        self,
        height: Annotated[
            NDArray[numpy.uint32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        width: Annotated[
            NDArray[numpy.uint32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        object_offset: Annotated[
            NDArray[numpy.uint64], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        cls: Annotated[
            NDArray[numpy.float32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        box: Annotated[
            NDArray[numpy.float32],
            dict(shape=(None, None), order="C", device="cpu", writable=False),
        ],
        polygon_offset: object | None = None,
        polygon: object | None = None,
        keypoints: object | None = None,
        flip_idx: object | None = None,
        outline_points: int = 0,
        oriented: bool = False,
        where: str = "",
    ) -> None: ...
    def __len__(self) -> int: ...

class PlanConfig:
    """
    Settings of the planner, checked once. AugmentConfig.to_native makes one.
    """

    def __init__(
        self,
        *,
        imgsz: int,
        mosaic: float,
        mosaic_grid: int,
        degrees: float,
        translate: float,
        scale_min: float,
        scale_max: float,
        shear: float,
        perspective: float,
        hsv_h: float,
        hsv_s: float,
        hsv_v: float,
        flipud: float,
        fliplr: float,
        bgr: float,
        mixup: float,
        cutmix: float,
        copy_paste: float,
        copy_paste_mode: str,
        shuffle: bool,
        streams: int,
        window: int,
        mask_ratio: int,
        overlap_mask: bool,
    ) -> None: ...
    @property
    def imgsz(self) -> int: ...
    @property
    def mosaic(self) -> float: ...
    @property
    def mosaic_grid(self) -> int: ...
    @property
    def degrees(self) -> float: ...
    @property
    def translate(self) -> float: ...
    @property
    def scale_min(self) -> float: ...
    @property
    def scale_max(self) -> float: ...
    @property
    def shear(self) -> float: ...
    @property
    def perspective(self) -> float: ...
    @property
    def hsv_h(self) -> float: ...
    @property
    def hsv_s(self) -> float: ...
    @property
    def hsv_v(self) -> float: ...
    @property
    def flipud(self) -> float: ...
    @property
    def fliplr(self) -> float: ...
    @property
    def bgr(self) -> float: ...
    @property
    def mixup(self) -> float: ...
    @property
    def cutmix(self) -> float: ...
    @property
    def copy_paste(self) -> float: ...
    @property
    def copy_paste_mode(self) -> str: ...
    @property
    def shuffle(self) -> bool: ...
    @property
    def streams(self) -> int: ...
    @property
    def window(self) -> int: ...
    @property
    def mask_ratio(self) -> int: ...
    @property
    def overlap_mask(self) -> bool: ...

class Recipe:
    """A training sample as plain data."""

    @staticmethod
    def from_dict(values: dict) -> Recipe:
        """
        Makes a recipe of a dict (see yolodata.pipeline.recipe). Raises ValueError for a key that is missing, unknown or out of range.
        """

    def to_dict(self) -> dict:
        """Returns the dict that from_dict takes."""

    def to_bytes(self) -> bytes:
        """Returns what `fn.yolodata.render` of the same yolodata takes."""

    def __eq__(self, arg: object, /) -> bool: ...
    def __getstate__(self) -> dict: ...
    def __setstate__(self, arg: dict, /) -> None: ...

def plan(table: LabelTable, config: PlanConfig, seed: int, epoch: int, position: int) -> Recipe: ...
def paste(recipe: Recipe, table: LabelTable, layer: int, source: int, share: float) -> Recipe: ...
def render(
    recipe: Recipe, images: dict, reference: bool = False, out: NDArray[numpy.uint8] | None = None
) -> NDArray[numpy.uint8]: ...
def split_colour(recipe: Recipe) -> tuple[Recipe, Recipe]: ...
def labels(
    recipe: Recipe, table: LabelTable, mask_ratio: int = 0, overlap_mask: bool = True
) -> dict: ...
def letterbox_masks(
    table: LabelTable,
    images: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    placements: Annotated[
        NDArray[numpy.float64], dict(shape=(None, 5), order="C", device="cpu", writable=False)
    ],
    height: int,
    width: int,
    mask_ratio: int,
    overlap_mask: bool,
) -> dict: ...
def letterbox_outlines(
    table: LabelTable,
    images: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    placements: Annotated[
        NDArray[numpy.float64], dict(shape=(None, 5), order="C", device="cpu", writable=False)
    ],
) -> list: ...

class Job:
    """A batch on its way."""

    def wait(self, timeout: object | None = None) -> bool: ...
    def done(self) -> bool: ...
    def cancel(self) -> None: ...
    def taken_over(self) -> int: ...
    def recipes(self) -> list: ...
    def image_ids(self) -> NDArray[numpy.int64]: ...
    def first_image_ids(self) -> NDArray[numpy.int64]: ...
    def labels(self) -> dict: ...
    def mask_bytes(self) -> int: ...
    def move_masks(
        self, memory: Annotated[NDArray[numpy.uint8], dict(order="C", device="cpu")], address: int
    ) -> None: ...
    def seconds(self) -> dict: ...

class Engine:
    """Native threads that plan and render batches."""

    def __init__(self, threads: int, cores: Sequence[Sequence[int]] = []) -> None: ...
    @property
    def threads(self) -> int: ...
    def submit(
        self,
        table: LabelTable,
        config: PlanConfig,
        seed: int,
        epoch: int,
        positions: Annotated[
            NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        out: Annotated[NDArray[numpy.uint8], dict(order="C", device="cpu")],
        shard: Annotated[
            NDArray[numpy.uint32], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        offset: Annotated[
            NDArray[numpy.uint64], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        base: Annotated[
            NDArray[numpy.uint64], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
    ) -> Job: ...
    def submit_plan(
        self,
        table: LabelTable,
        config: PlanConfig,
        seed: int,
        epoch: int,
        positions: Annotated[
            NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
    ) -> Job: ...
    def submit_render(
        self,
        recipes: object,
        images: Annotated[
            NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        pointers: Annotated[
            NDArray[numpy.uint64], dict(shape=(None,), order="C", device="cpu", writable=False)
        ],
        out: Annotated[NDArray[numpy.uint8], dict(order="C", device="cpu")],
    ) -> Job: ...
    def close(self) -> None: ...

def wait_for_pages(
    bytes: Annotated[
        NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
) -> int:
    """
    Brings mapped bytes into memory; returns for how many nanoseconds this thread waited.
    """

def note_map(address: int, nbytes: int, path: str) -> None:
    """Says which file is mapped, for `explain_cut_off`."""

def forget_map(address: int) -> None:
    """To be called before memory is unmapped."""

def explain_cut_off(status: int, file: int) -> tuple[int, int]:
    """
    Has a file named, and the process end with `status`, where SIGBUS would end it because the
    file was cut off; returns the arguments of the call before. -1, -1 ends that.
    """

RENDER_TASK_BYTES: int = 3808

def render_cuda(
    tasks: int,
    count: int,
    height: int,
    width: int,
    out: int,
    dtype: str,
    channels_last: bool,
    stream: int,
) -> None: ...
def render_emulated(
    tasks: int, count: int, height: int, width: int, out: int, dtype: str, channels_last: bool
) -> int: ...
def split_render_tasks(
    tasks: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu")],
    which: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    pictures: Annotated[
        NDArray[numpy.uint64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    placed: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu")],
    finished: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu")],
) -> None: ...
def register_host(address: int, nbytes: int) -> int: ...
def unregister_host(address: int) -> None: ...

class Filter:
    """A transform of a whole picture that a device can apply."""

    MAX_BLUR: int = 15

    MAX_MEDIAN: int = 7

    MAX_TILES: int = 64

    @staticmethod
    def table(
        levels: Annotated[
            NDArray[numpy.uint8], dict(shape=(3, 256), order="C", device="cpu", writable=False)
        ],
    ) -> Filter:
        """What becomes of each value of R, G and B: uint8 (3, 256)."""

    @staticmethod
    def grey() -> Filter:
        """cv2.cvtColor(COLOR_RGB2GRAY), of BGR taken for RGB."""

    @staticmethod
    def blur(window: int) -> Filter:
        """cv2.blur, 1 to 15 pixels wide."""

    @staticmethod
    def median(window: int) -> Filter:
        """cv2.medianBlur, 1 to 7 pixels wide."""

    @staticmethod
    def clahe(clip_limit: float, tiles_x: int, tiles_y: int) -> Filter:
        """
        cv2's CLAHE on the lightness of BGR taken for RGB, of 64 tiles at most.
        """

    @property
    def tiles(self) -> int:
        """Tiles that need a table; 0 but for CLAHE."""

    def apply(
        self,
        picture: Annotated[
            NDArray[numpy.uint8],
            dict(shape=(None, None, 3), order="C", device="cpu", writable=False),
        ],
    ) -> NDArray[numpy.uint8]:
        """
        What it makes of a picture, both uint8 (H, W, 3) RGB; slow: the kernels' bodies in loops.
        """

FILTER_TASK_BYTES: int = 864

FILTER_TABLES_BYTES: int = 16384

def lab_of(
    picture: Annotated[
        NDArray[numpy.uint8], dict(shape=(None, None, 3), order="C", device="cpu", writable=False)
    ],
) -> NDArray[numpy.uint8]: ...
def rgb_of_lab(
    picture: Annotated[
        NDArray[numpy.uint8], dict(shape=(None, None, 3), order="C", device="cpu", writable=False)
    ],
) -> NDArray[numpy.uint8]: ...
def lab_tables() -> bytes: ...
def write_filter_tasks(
    memory: Annotated[NDArray[numpy.uint8], dict(shape=(None,), order="C", device="cpu")],
    filters: Sequence[Filter],
    height: int,
    width: int,
    source: Annotated[
        NDArray[numpy.uint64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    target: Annotated[
        NDArray[numpy.uint64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    tables: Annotated[
        NDArray[numpy.uint64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
) -> None: ...
def filter_cuda(
    tasks: int, count: int, height: int, width: int, tiles: int, lab: int, stream: int
) -> None: ...
def filter_emulated(
    tasks: int, count: int, height: int, width: int, tiles: int, lab: int
) -> None: ...
def permute(
    positions: Annotated[
        NDArray[numpy.int64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    n: int,
    seed: int,
    epoch: int,
) -> NDArray[numpy.int64]: ...

MOST_LIMITS: int = 113

def draws_below(
    seeds: Annotated[
        NDArray[numpy.uint32], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
    limits: Annotated[
        NDArray[numpy.float64], dict(shape=(None,), order="C", device="cpu", writable=False)
    ],
) -> list[bool]:
    """
    For each seed, whether `random.Random(seed).random()` gives a number below its limit: the first call below the first limit, the second below the second, ...
    """

def philox(counter: Sequence[int], key: Sequence[int]) -> list[int]: ...

MOST_SCANS: int = 100

def ordinary_labels(
    text: bytes, classes: int, keypoints: int, dims: int
) -> (
    tuple[NDArray[numpy.float32], NDArray[numpy.float32], NDArray[numpy.float32], list[int]] | None
): ...
def jpeg_header(data: bytes | NDArray[numpy.uint8]) -> tuple[int, int, int, bool, bool] | None: ...
def baseline_jpeg(
    data: bytes | NDArray[numpy.uint8],
) -> tuple[NDArray[numpy.uint8] | None, str]: ...
def decode_jpeg(data: bytes | NDArray[numpy.uint8], out: NDArray[numpy.uint8]) -> bool:
    """
    Decodes a plain baseline file to RGB, (H, W, 3). False: `out` holds anything, and another decoder has to look at the file.
    """
