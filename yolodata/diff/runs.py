"""In what two runs differ: dataset, settings, packages, code, and the results of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolodata.diff.dataset import PackedDataset
from yolodata.diff.datasets import DatasetDiff, diff_splits
from yolodata.diff.results import Results, read_results
from yolodata.errors import YolodataError
from yolodata.info.lookup import manifest_of
from yolodata.provenance.dataset_version import DatasetVersion, differences
from yolodata.provenance.manifest import RunManifest
from yolodata.shards.reader import read_meta


@dataclass(frozen=True)
class Run:
    """What is known of a run, a checkpoint or weights.

    Attributes:
        path: as it was given.
        manifest: what it was made of.
        results: of a run folder that has some.
    """

    path: Path
    manifest: RunManifest
    results: Results | None


@dataclass(frozen=True)
class RunDiff:
    """In what two runs differ.

    Attributes:
        a, b: the runs.
        changed: what their manifests say otherwise, by its place: [in a, in b].
        data: in what their datasets differ, a sentence each; none where images and labels are the
            same, wherever they were packed.
        images: that image by image, where both datasets are still there as they were.
        no_images: why that was not looked at; "" where it was, or there was no need to.
    """

    a: Run
    b: Run
    changed: Mapping[str, list[Any]]
    data: list[str]
    images: DatasetDiff | None
    no_images: str

    @property
    def other_results(self) -> bool:
        """Whether results differ; weights have none, nor has a run before its first epoch."""
        a, b = self.a.results, self.b.results
        return a is not None and b is not None and a != b

    @property
    def same(self) -> bool:
        """Whether nothing differs, results included."""
        return not self.changed and not self.other_results

    def close(self) -> None:
        """Lets go of all files."""
        if self.images is not None:
            self.images.close()


def diff_runs(a: Path, b: Path) -> RunDiff:
    """Compares two runs.

    Args:
        a, b: run folders, .ckpt or .pt files.

    Raises:
        ConfigError: one does not say what it was made of, or cannot be read.
    """
    one, two = (Run(p, manifest_of(p), read_results(p)) for p in (a, b))
    changed = one.manifest.changed_to(two.manifest)
    before, now = one.manifest.dataset, two.manifest.dataset
    if before is None or now is None or before.version == now.version:
        return RunDiff(one, two, changed, [], None, "")
    data = differences(before, now)
    images, why = _images(before, now)
    return RunDiff(one, two, changed, data, images, why)


def _images(a: DatasetVersion, b: DatasetVersion) -> tuple[DatasetDiff | None, str]:
    try:
        for dataset in (a, b):
            for split in dataset.splits.values():
                found = read_meta(split.path).checksum
                if found != split.version:
                    return None, f"{split.path} is now version {found}, was {split.version}"
        one, two = (
            PackedDataset(Path(of.data), {s: Path(split.path) for s, split in of.splits.items()})
            for of in (a, b)
        )
        return diff_splits(one, two), ""
    except YolodataError as error:
        return None, str(error)
