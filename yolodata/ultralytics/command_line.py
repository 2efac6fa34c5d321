"""What a command line gives to Ultralytics: arguments, a model, and its refusals as one message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dis import opname
from pathlib import Path
from traceback import walk_tb
from typing import Any

from yolodata.arguments import split_arguments
from yolodata.checks import shown
from yolodata.errors import ConfigError, YolodataError, lacking
from yolodata.redaction import refuse_secrets
from yolodata.ultralytics.fallback import check_trainable, last_layer

_SPEAKING = ("cfg", "data", "engine", "utils", "models.yolo.pose.train", "nn.autobackend")
"""Parts of Ultralytics that check what users give; what others raise is an internal error."""

_REFUSALS = (
    SyntaxError, TypeError, ValueError, KeyError, RuntimeError, AssertionError, OSError
)  # fmt: skip

_ASSERTING = ("data.utils", "engine.trainer", "utils.checks")
"""Modules that do so with `assert`, which others use for what cannot be."""


def read_arguments(arguments: list[str], mode: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Words of a command line: Ultralytics' arguments, and settings of ours without their prefix.

    Both may stand in the file of `cfg=`, where the words `yolodata.NAME: value` are ours, too. A
    word beside the file comes before what the file says.

    Args:
        arguments: NAME=VALUE.
        mode: "train" or "val".

    Raises:
        ConfigError: a word is not of this form, or as `read_values` has it.
    """
    texts, ours = split_arguments(arguments)
    values = read_values(texts, mode)
    prefix = "yolodata."
    of_file = {name: values.pop(name) for name in list(values) if name.startswith(prefix)}
    return values, {name.removeprefix(prefix): v for name, v in of_file.items()} | ours


def read_values(texts: Mapping[str, str], mode: str) -> dict[str, Any]:
    """Ultralytics' arguments, as its own command line reads them.

    Args:
        texts: text by name.
        mode: "train" or "val".

    Raises:
        ConfigError: a value is missing, or a URL with a secret; `cfg` cannot be read, or another
            mode is asked for.
    """
    from ultralytics.cfg import smart_value
    from ultralytics.utils import YAML, checks

    values: dict[str, Any] = {}
    for name, text in texts.items():
        if not text.strip():
            raise ConfigError(f"{name} must have a value, as in {name}=VALUE, got none")
        verbatim = name in ("name", "project") and text.lower() != "none"
        values[name] = text if verbatim else smart_value(text.strip())
    given = values.pop("cfg", None)
    if given is not None:
        with refusals_as_errors():
            values = {**YAML.load(checks.check_yaml(str(given))), **values}
        values.pop("cfg", None)
    refuse_secrets(values)
    other = values.pop("mode", mode)
    if other != mode:
        raise ConfigError(
            f"mode must be {mode} here, got {shown(other)}; for other modes there is `yolo MODE`"
        )
    device = str(values.get("device", "")).lower()
    if device.startswith(("tpu", "intel", "vulkan")):
        raise ConfigError(f"device must be cpu, mps or GPUs (0, or 0,1), got {device}")
    if values.get("data", "") is None:
        del values["data"]  # Ultralytics' own choice
    return values


def open_model(name: Any) -> Any:
    """Ultralytics' object for a model file, or for a name that it downloads.

    Raises:
        ConfigError: it cannot be read, or is of a family that is only predicted with.
    """
    from ultralytics import RTDETR, YOLO

    check_trainable(name)
    named_so = "rtdetr" in Path(str(name)).stem.lower()  # as `yolo` chooses
    kind = RTDETR if named_so or last_layer(name) == "RTDETRDecoder" else YOLO
    try:
        model = kind(name)
        if not isinstance(model.model, str) and not hasattr(model.model, "yaml"):
            raise TypeError(f"it holds {type(model.model).__name__}, no network of Ultralytics'")
        return model
    except Exception as error:  # a file of any content may be given
        raise ConfigError(
            f"model={name} cannot be read: {error or type(error).__name__}; give a YOLO model "
            "(model=yolo26n.yaml, or the .pt file of a run)"
        ) from error


@contextmanager
def refusals_as_errors() -> Iterator[None]:
    """Has what Ultralytics refuses, in words that need no traceback, raised as ConfigError.

    What it raises on purpose is told from errors inside it by who raised: a `raise` in one of its
    packages that check arguments. A package that it needs and lacks is said, too, and weights
    (`pretrained`, `distill_model`) that cannot be read, whoever finds that out.
    """
    try:
        yield
    except YolodataError:
        raise
    except Exception as error:
        weights = _weights_read_in(error)
        if weights is not None and not lacking(error):
            raise ConfigError(
                f"the weights {weights} cannot be read: {error or type(error).__name__}; give the "
                ".pt file of a run, or a name that Ultralytics downloads (yolo26n.pt, say)"
            ) from error
        module = _raised_in(error)
        if isinstance(error, ImportError):
            if error.name is None or not module:
                raise
            raise ConfigError(
                f"Ultralytics needs the package {error.name} for this, which is not installed; "
                "install it"
            ) from error
        asserted = isinstance(error, AssertionError)
        speaking = module in _SPEAKING or module.partition(".")[0] in _SPEAKING
        allowed = module in _ASSERTING if asserted else speaking
        if not isinstance(error, _REFUSALS) or not allowed or not str(error):
            raise
        said = error.args[0] if isinstance(error, KeyError) else error  # whose text has quotes
        raise ConfigError(str(said).strip()) from error


def _weights_read_in(error: BaseException) -> str | None:
    """The file that Ultralytics was reading a model from when an error came up, if it was."""
    for frame, _ in walk_tb(error.__traceback__):
        module, function = frame.f_globals.get("__name__"), frame.f_code.co_name
        if (module, function) == ("ultralytics.nn.tasks", "load_checkpoint"):
            return str(frame.f_locals.get("weight"))
    return None


def _raised_in(error: BaseException) -> str:
    """The module of Ultralytics that raised an error, or imported what is not there; else ""."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None:
        return ""
    frame = last.tb_frame
    root, _, rest = str(frame.f_globals.get("__name__")).partition(".")
    operation = opname[frame.f_code.co_code[last.tb_lasti]]
    if root != "ultralytics" or operation not in ("RAISE_VARARGS", "IMPORT_NAME", "IMPORT_FROM"):
        return ""
    return rest
