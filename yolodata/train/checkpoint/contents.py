"""What is in a checkpoint that anybody may have written: tensors and plain values, or an error.

Nothing here trusts the author of a file. Its code is not run (`weights_only=True`), it is not
unpacked to more than its size, and its parts have the types that a run needs. Whoever forges a
state that is well formed can still have a run go on from it.
"""

from __future__ import annotations

import os
import pickle
import re
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch

from yolodata.errors import YolodataError, is_out_of_memory
from yolodata.train.checkpoint.file import VERSION

_WHOLE = 1 << 40  # counts of a run are below
_VALUES = 5_000_000  # plain values in a state; ours have two thousand a rank
_PICKLE = re.compile(r"[^/]+/data\.pkl")


def read_state(file: BinaryIO) -> dict[str, Any]:
    """Returns the state in an open checkpoint file; tensors are in host memory.

    Raises:
        YolodataError: the file holds something else, or is of another version.
    """
    _check_archive(file)
    try:
        file.seek(0)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        said = str(error).strip().partition("\n")[0][:200]
        kind = type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            said, kind = "it holds code, or objects other than tensors and plain values", "refused"
        raise YolodataError(f"it is no checkpoint ({kind}: {said})") from None
    if not isinstance(state, dict):
        raise YolodataError(f"it holds a {type(state).__name__}, and no state of a run")
    if state.get("version") != VERSION:
        raise YolodataError(
            f"its version must be {VERSION}, got {str(state.get('version'))[:20]}; resume with the "
            "yolodata that wrote it"
        )
    wrong = _wrong_part(state)
    if wrong:
        raise YolodataError(f"its {wrong} is not that of a run")
    return state


def _check_archive(file: BinaryIO) -> None:
    """Refuses what would be larger in memory than it is on disk.

    torch writes archives without compression, and would read others.

    Raises:
        YolodataError: it is such a one, or none.
    """
    check_torch()
    file.seek(0)
    size = os.fstat(file.fileno()).st_size
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, OSError) as error:
        raise YolodataError(f"it is no file of torch's ({error})") from None
    packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
    if packed or sum(entry.file_size for entry in entries) > size:
        raise YolodataError("it would be larger in memory than on disk, which ours are not")
    if sum(_PICKLE.fullmatch(entry.filename) is not None for entry in entries) != 1:
        raise YolodataError("it is no file of torch's")


def check_torch(version: str | None = None) -> None:
    """Refuses a torch whose `weights_only=True` can be made to run code (CVE-2025-32434).

    Args:
        version: of torch; None is the installed one.

    Raises:
        YolodataError: it is older than 2.6.
    """
    version = str(torch.__version__) if version is None else version
    major, minor = (int(part) for part in version.split(".")[:2])
    if (major, minor) < (2, 6):
        raise YolodataError(
            f"checkpoints are read with torch 2.6 or newer, got {version}, which runs code that a "
            "file brings (CVE-2025-32434); update torch"
        )


def wrong_weights(file: BinaryIO) -> str | None:
    """Says what is wrong with an open file of Ultralytics' weights; None if it is safe to load.

    Only Ultralytics' and torch's own classes of networks may be in it.
    """
    from ultralytics.nn.tasks import torch_safe_load

    try:
        _check_archive(file)
        with tempfile.TemporaryDirectory(prefix="yolodata-") as folder:
            # By the handle, under a name that upstream takes for weights.
            named = Path(folder) / "weights.pt"
            named.symlink_to(f"/proc/self/fd/{file.fileno()}")
            torch_safe_load(named, safe_only=True)
    except YolodataError as error:
        return str(error)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        said = str(error).strip().partition("\n")[0][:200]
        return f"it holds code, or is no file of weights ({type(error).__name__}: {said})"
    return None


# The parts of a state.


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _WHOLE


def _number(value: Any) -> bool:
    return isinstance(value, (int, float))


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(name, str) and isinstance(each, torch.Tensor) for name, each in value.items()
    )


def _named(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_text, value))


def _optional(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or fits(value)


def _parts(**fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and _misfit(value, fits) is None


def _each(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and bool(value) and all(map(fits, value))


def _misfit(state: Mapping[str, Any], fits: Mapping[str, Callable[[Any], bool]]) -> str | None:
    return next((name for name in fits if name not in state or not fits[name](state[name])), None)


_STATE: dict[str, Callable[[Any], bool]] = {
    "epoch": _whole,
    "step": _whole,
    "pending": _whole,
    "stage": lambda value: value in ("train", "validate", "finished"),
    "model": _tensors,
    "ema": _tensors,
    "optimizer": _parts(
        state=lambda value: isinstance(value, dict), param_groups=lambda v: isinstance(v, list)
    ),
    "scaler": _named,
    "gradients": _tensors,
    "tloss": _optional(_tensors),
    "loss": lambda value: value is None or _number(value) or isinstance(value, torch.Tensor),
    "given": _named,
    "args": _parts(task=_text, close_mosaic=_number),
    "network": lambda value: isinstance(value, dict),
    "names": lambda value: isinstance(value, dict) and all(map(_text, value.values())),
    "results": _text,
    "optimizer_name": _text,
    "epochs": _whole,
    "elapsed": _number,
    "ema_updates": _whole,
    "scheduler": lambda value: isinstance(value, int) and -1 <= value < _WHOLE,
    "criterion": _named,
    "loader": _optional(_named),
    "batch": lambda value: _whole(value) and value > 0,
    "loss_names": _texts,
    "metrics": _named,
    "fitness": _optional(_number),
    "best_fitness": _optional(_number),
    "stopper": _parts(
        best_fitness=_optional(_number), best_epoch=_whole, possible_stop=lambda v: v in (0, 1)
    ),
    "nan_recovery_attempts": _whole,
    "generators": _each(
        _parts(
            python=lambda v: isinstance(v, list) and len(v) == 3 and isinstance(v[1], list),
            numpy=lambda v: isinstance(v, list) and len(v) == 5 and isinstance(v[1], list),
            torch=lambda v: isinstance(v, torch.Tensor),
            cuda=lambda v: v is None or isinstance(v, torch.Tensor),
        )
    ),
}


def _wrong_part(state: dict[str, Any]) -> str | None:
    """The part of a state that is missing or of another type; None where all are right."""
    return _misfit(state, _STATE) or (None if _is_small(state) else "number of values")


def _is_small(state: dict[str, Any]) -> bool:
    """Whether somebody who walks through a state comes to its end.

    A pickle may name one list twice in another, that one twice in the next, and so on.
    """
    left, end = _VALUES, object()
    waiting: list[Iterator[Any]] = [iter([state])]
    while waiting:
        value = next(waiting[-1], end)
        if value is end:
            waiting.pop()
            continue
        left -= 1
        if left < 0 or len(waiting) > 30:
            return False
        if isinstance(value, Mapping):
            waiting.append(iter(value.values()))
        elif isinstance(value, (list, tuple, set)):
            waiting.append(iter(value))
    return True
