"""Whether a run goes on with the dataset that it was trained on until now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from yolodata.errors import ConfigError
from yolodata.provenance.dataset_version import DatasetVersion, differences


def check_same_dataset(
    before: DatasetVersion | None, now: DatasetVersion | None, run: Path, other_data: bool
) -> str:
    """Checks that a run's dataset is the same, or may be another one.

    Args:
        before: of the run; None where it was not noted.
        now: that it is to go on with; None where yolodata's loader does not train.
        run: its folder, for messages.
        other_data: whether another one is allowed.

    Returns:
        what there is to say; "" is nothing.

    Raises:
        ConfigError: it is another one and not allowed; names both versions and what differs.
    """
    if before is None or now is None or before.version == now.version:
        return ""
    found = differences(before, now)
    versions = f"version {now.version}, was {before.version}"
    if not found:
        return f"the dataset was packed again ({versions}); its images and labels are the same"
    what = "\n  ".join(["", *found])
    if other_data:
        return f"going on with another dataset ({versions}), as other_data=True says:{what}"
    raise ConfigError(
        f"{run}: was trained on version {before.version} of its dataset, and data={now.data} is "
        f"version {now.version}; give data= as it was, yolodata.other_data=True to go on with "
        f"this one, or another name= for a new run; what differs:{what}"
    )


def check_network_classes(before: Mapping[int, str], now: Mapping[int, str]) -> None:
    """Checks that a run's network has the classes of a dataset, as far as their number goes.

    Args:
        before: names by number, of the network.
        now: those of the dataset.

    Raises:
        ConfigError: it has more or fewer.
    """
    if len(before) != len(now):
        raise ConfigError(
            f"the run's network has {len(before)} classes, and the dataset {len(now)}; give a "
            "dataset of as many, or another name= for a new run"
        )
