"""Loaders besides Ultralytics' own, as their users write them: same pictures, same output size.

A file a loader, which is imported where the loader is measured. What is not installed is not
measured, and the report says how to get it.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec


@dataclass(frozen=True)
class Peer:
    """A loader of others."""

    name: str  # of its file here
    label: str  # what the table calls it
    package: str  # what it is imported as
    distribution: str  # what `pip install` calls it
    differs: str  # from the recipe of the other rows
    native: bool = False  # whether its threads are native, or workers are processes

    @property
    def installed(self) -> bool:
        """Whether its package is there."""
        try:
            return find_spec(self.package) is not None
        except ModuleNotFoundError:  # of a parent package
            return False

    def threads(self, cores: int) -> int:
        """Native threads or worker processes on so many cores; 0: the consumer makes batches."""
        return cores if self.native or cores > 1 else 0


PEERS = (
    Peer("torchvision", "torchvision v2, with a mosaic", "torchvision", "torchvision",
         "four decodes a picture; ColorJitter for HSV; scale and shift by RandomResizedCrop"),
    Peer("albumentations", "Albumentations, A.Mosaic", "albumentations", "albumentations",
         "four decodes a picture; adds to HSV; tiles are cropped before they are scaled"),
    Peer("libreyolo", "LibreYOLO, YOLOv9's loader", "libreyolo", "libreyolo",
         "four decodes a picture; pictures are float32"),
    Peer("dali", "DALI on the CPU", "nvidia.dali", "nvidia-dali-cuda120",
         "no mosaic, no scale and shift, no labels", native=True),
    Peer("litdata", "LitData, torchvision v2", "litdata", "litdata",
         "no mosaic, no scale and shift; ColorJitter for HSV"),
)  # fmt: skip
