"""What the fuzzers start from, and what they have found, given to every reader. See tests/fuzz/."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from yolodata import Recipe, render

FUZZ = Path(__file__).parent / "fuzz"
sys.path.insert(0, str(FUZZ))

import readers  # noqa: E402


@pytest.mark.parametrize("target", readers.TARGETS)
def test_readers_take_every_input_of_the_corpus(target: str) -> None:
    files = sorted((FUZZ / "corpus" / target).iterdir())
    assert files
    for file in files:
        readers.TARGETS[target](file.read_bytes())
        readers.TARGETS[target](file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("target", "broken"),
    [
        ("yolo_label", "readers.labels_of_any"),
        ("export", "readers.open_source"),
        ("unfinished", "yolodata.shards.records.columns_from_bytes"),
        ("beside_splits", "yolodata.shards.notes._entry"),
        ("run_manifest", "yolodata.provenance.manifest.RunManifest.from_dict"),
        ("upload_manifest", "yolodata.train.checkpoint.manifest.Facts.read"),
        ("weights_file", "yolodata.provenance.manifest.RunManifest.from_dict"),
        ("run_records", "yolodata.doctor.runs.records.read_steps"),
        ("loader_state", "yolodata.pipeline.resume_state.place_of"),
    ],
)
def test_a_target_lets_other_errors_through(
    monkeypatch: pytest.MonkeyPatch, target: str, broken: str
) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(broken, bug)
    files = sorted((FUZZ / "corpus" / target).iterdir())
    with pytest.raises(ZeroDivisionError):
        [readers.TARGETS[target](file.read_bytes()) for file in files]


def _recipe(**changes: object) -> dict[str, object]:
    place = {"x0": 0, "y0": 0, "x1": 0, "y1": 0, "x2": 8, "y2": 8}
    layer = {
        "canvas": [8, 8],
        "tiles": [{"image": 0, "height": 8, "width": 8, **place}],
        "matrix": np.eye(3).ravel().tolist(),
        "perspective": False,
        "scale": 1.0,
    }
    return {"size": [8, 8], "layers": [{**layer, **changes}]}


def test_gains_whose_products_are_no_integers_are_refused() -> None:
    """A CPU and a GPU cast what is beyond all integers to different ones."""
    pictures = {0: np.full((8, 8, 3), (200, 9, 9), np.uint8)}
    strong = Recipe.from_dict(_recipe() | {"hsv": [1e6, 1e6, 1e6]})
    assert render(strong, pictures).max() == 255
    for gains in ((0, 1e7, 0), (0, 0, 3e38), (0, -2, 0), (-np.inf, 0, 0)):
        with pytest.raises(ValueError, match="1000000"):
            Recipe.from_dict(_recipe() | {"hsv": list(gains)})


@pytest.mark.parametrize("zoom", [1e-42, 1e39])
def test_a_zoom_that_cannot_be_turned_round_is_refused(zoom: float) -> None:
    with pytest.raises(ValueError, match="cannot be inverted"):
        Recipe.from_dict(_recipe(matrix=[zoom, 0, 0, 0, zoom, 0, 0, 0, 1]))
