"""Sources to shards: finding images, label and image decisions, packing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolodata.ingest.convert import PackSettings
    from yolodata.ingest.packing import PackReport, pack
    from yolodata.ingest.source import open_source

__all__ = ["PackReport", "PackSettings", "open_source", "pack"]

_PLACES = {
    "PackReport": "packing",
    "PackSettings": "convert",
    "open_source": "source",
    "pack": "packing",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
