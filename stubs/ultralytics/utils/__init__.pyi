import logging
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Generic, TypeVar

_T = TypeVar("_T")

DEFAULT_CFG: IterableSimpleNamespace
DEFAULT_CFG_DICT: dict[str, Any]
LOCAL_RANK: int
LOGGER: logging.Logger
RANK: int

class IterableSimpleNamespace:
    """Arguments, as Ultralytics documents them; what users may write in many ways is Any."""

    amp: bool | str
    augmentations: list[Any] | None
    batch: int
    cache: bool | str | None
    classes: int | list[int] | None
    close_mosaic: int
    compile: bool | str
    copy_paste: float
    data: Any
    deterministic: bool
    distill_model: Any
    epochs: int
    exist_ok: bool
    fliplr: float
    flipud: float
    fraction: Any
    imgsz: Any
    mask_ratio: int
    model: Any
    momentum: float
    mosaic: float
    multi_scale: float
    nbs: int
    optimizer: str
    overlap_mask: bool
    perspective: float
    plots: bool
    quantize: Any
    rect: bool
    resume: Any
    save: bool
    save_dir: Any
    seed: int
    single_cls: bool
    split: str | None
    task: str
    time: float | None
    val: bool
    warmup_bias_lr: float
    warmup_momentum: float
    workers: int

class TQDM(Generic[_T]):
    def __init__(
        self,
        iterable: Iterable[_T],
        desc: str | None = None,
        total: int | None = None,
        *,
        initial: int = 0,
    ) -> None: ...
    def __iter__(self) -> Iterator[_T]: ...
    def set_description(self, desc: str | None) -> None: ...

class YAML:
    @classmethod
    def load(
        cls, file: str | Path = "data.yaml", append_filename: bool = False
    ) -> dict[str, Any]: ...
    @classmethod
    def save(
        cls, file: str | Path = "data.yaml", data: dict[str, Any] | None = None, header: str = ""
    ) -> None: ...

def colorstr(*input: object) -> str: ...
