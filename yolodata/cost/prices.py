"""The user's prices: a YAML file, checked word by word."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from yolodata.checks import nearest, number, one_of, whole
from yolodata.errors import ConfigError
from yolodata.files import read_regular

_LIMIT = 1 << 20  # bytes

_FILE = ("currency", "date", "source", "gpus")
_GPU = ("on_demand", "spot", "per", "gpus", "interruptions_per_hour", "replacement_minutes")
_EXAMPLE = "docs/cost.md has an example"


@dataclass(frozen=True)
class Price:
    """What a type of GPU costs.

    Attributes:
        gpu: its name, as torch says it.
        on_demand: an hour of what `per` says; None where it is not offered.
        spot: the same for a machine that may be taken away; None where it is not offered.
        per: "gpu", or "machine" where only whole machines are rented.
        gpus: of a machine; only with `per` "machine".
        interruptions_per_hour: of a spot machine; None where it is not known.
        replacement_minutes: until there is another machine after an interruption.
    """

    gpu: str
    on_demand: float | None
    spot: float | None
    per: str = "gpu"
    gpus: int = 1
    interruptions_per_hour: float | None = None
    replacement_minutes: float = 0.0

    def machines(self, gpus: int, gpus_a_machine: int) -> int:
        """Returns how many machines so many GPUs take.

        Args:
            gpus: that train together.
            gpus_a_machine: how many of them were in one machine.
        """
        return -(-gpus // (self.gpus if self.per == "machine" else max(1, gpus_a_machine)))

    def hour(self, price: float, gpus: int) -> float:
        """Returns what an hour of so many GPUs costs at a price; whole machines where it must."""
        return price * (self.machines(gpus, self.gpus) if self.per == "machine" else gpus)


@dataclass(frozen=True)
class Prices:
    """A file of prices.

    Attributes:
        currency: the user's word for it.
        date: when the prices were looked up, as the file has it.
        source: where they are from, "" where the file does not say.
        gpus: in the order of the file.
    """

    currency: str
    date: str
    source: str
    gpus: tuple[Price, ...]

    def of(self, gpu: str) -> Price | None:
        """Returns the price of a type, whose name may lack the maker's; None without one."""
        for price in self.gpus:
            if _bare(price.gpu) == _bare(gpu):
                return price
        return None


def read_prices(path: Path) -> Prices:
    """Reads a file of prices.

    Raises:
        ConfigError: it cannot be read, or a word or a value in it is wrong.
    """
    try:
        values = yaml.safe_load(read_regular(path, _LIMIT))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{path}: cannot be read as prices: {error}; {_EXAMPLE}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must have {', '.join(_FILE)}, got {values!r:.80}; {_EXAMPLE}")
    _known(str(path), values, _FILE)
    for name in ("currency", "date"):
        if values.get(name) in (None, ""):
            raise ConfigError(f"{path}: must have {name}, got none; {_EXAMPLE}")
    gpus = values.get("gpus")
    if not isinstance(gpus, dict) or not gpus:
        raise ConfigError(
            f"{path}: gpus must name one GPU or more, each with its prices, got {gpus!r:.80}; "
            f"{_EXAMPLE}"
        )
    found = tuple(_price(f"{path}: {name}", str(name), each) for name, each in gpus.items())
    names = [_bare(price.gpu) for price in found]
    twice = [price.gpu for price in found if names.count(_bare(price.gpu)) > 1]
    if twice:
        raise ConfigError(f"{path}: has {twice[0]} twice; leave one out")
    source = values.get("source") or ""
    return Prices(str(values["currency"]), str(values["date"]), str(source), found)


def _price(where: str, name: str, values: Any) -> Price:
    if not isinstance(values, dict):
        raise ConfigError(f"{where} must have {', '.join(_GPU)}, got {values!r:.80}; {_EXAMPLE}")
    _known(where, values, _GPU)
    found: dict[str, float | None] = {"on_demand": None, "spot": None,
                                      "interruptions_per_hour": None}  # fmt: skip
    for word in found:
        if values.get(word) is not None:
            found[word] = number(f"{where}: {word}", values[word], 0)
    if found["on_demand"] is None and found["spot"] is None:
        raise ConfigError(f"{where} must have on_demand, spot or both, got none; {_EXAMPLE}")
    if found["interruptions_per_hour"] is not None and found["spot"] is None:
        raise ConfigError(
            f"{where}: interruptions_per_hour is of spot machines, and there is no spot price; "
            "give one, or leave it out"
        )
    per = one_of(f"{where}: per", values.get("per", "gpu"), ("gpu", "machine"))
    if ("gpus" in values) != (per == "machine"):
        raise ConfigError(
            f"{where}: `per: machine` and `gpus: N` (GPUs of a machine) belong together, got "
            f"per: {per} {'with' if 'gpus' in values else 'without'} gpus; give both, or neither"
        )
    gpus = whole(f"{where}: gpus", values.get("gpus", 1), 1)
    minutes = number(f"{where}: replacement_minutes", values.get("replacement_minutes", 0), 0)
    return Price(name, found["on_demand"], found["spot"], per, gpus,
                 found["interruptions_per_hour"], minutes)  # fmt: skip


def _known(where: str, values: Mapping[Any, Any], known: tuple[str, ...]) -> None:
    for name in values:
        if name not in known:
            raise ConfigError(
                f"{where}: {name!r} is not known{nearest(str(name), known)}; there are "
                f"{', '.join(known)}"
            )


def _bare(gpu: str) -> str:
    return " ".join(gpu.lower().split()).removeprefix("nvidia ")
