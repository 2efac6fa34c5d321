"""Faults that `benchmarks/doctor.py` injects, one file a group."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any


def all_faults() -> dict[str, Any]:
    """The faults of all files here, by name: what their lists `FAULTS` hold.

    Raises:
        ValueError: two have the same name.
    """
    found: dict[str, Any] = {}
    for module in sorted(iter_modules(__path__), key=lambda one: one.name):
        for fault in getattr(import_module(f"{__name__}.{module.name}"), "FAULTS", ()):
            # Most faults have the name of what they cause.
            name = getattr(fault, "name", "") or fault.cause or module.name
            if name in found:
                raise ValueError(f"two faults are named {name}; give one another `name`")
            found[name] = fault
    return found
