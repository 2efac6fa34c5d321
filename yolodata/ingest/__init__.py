"""Sources to shards: finding images, label and image decisions, packing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from yolodata.ingest.fingerprint import fingerprint
    from yolodata.ingest.pack import PackReport, PackSettings, pack
    from yolodata.ingest.relabel import relabel
    from yolodata.ingest.source import open_source

__all__ = ["PackReport", "PackSettings", "fingerprint", "open_source", "pack", "relabel"]

_PLACES = {
    "PackReport": "pack",
    "PackSettings": "pack",
    "fingerprint": "fingerprint",
    "open_source": "source",
    "pack": "pack",
    "relabel": "relabel",
}


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_PLACES[name]}"), name)
