"""The bench's other loaders: their pictures, their decodes, and the datasets they are given."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from yolodata.bench import data, report, results, rounds, rows
from yolodata.bench.peers import PEERS
from yolodata.bench.registry import make
from yolodata.bench.subject import Sample, Task

pytestmark = pytest.mark.early


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> data.Prepared:
    """Eight pictures, with both kinds of labels."""
    needed = {"files", "raw-polygons"}
    return data.prepare(
        data.Wanted(None, 8, 8, 64, 0), tmp_path_factory.mktemp("drawn"), needed, lambda _: None
    )


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_peers_make_pictures_of_the_same_size_with_objects(
    peer: Any, drawn: data.Prepared, albumentations: Any
) -> None:
    if not peer.installed:
        pytest.skip(f"{peer.distribution} is not installed")
    (row,) = rows.choose(rows.loader_rows(1, peers=[peer]), [f"{peer.name}-1"])
    subject = make(row, Task(drawn.by_codec["files"], 64, 4, 0))
    before = subject.read()
    batches = [next(subject.batches) for _ in range(3)]
    decodes = subject.read().since(before).counts["decodes"]
    assert decodes == (48 if "four decodes" in peer.differs else 12)
    for batch in batches:
        assert batch["img"].shape == (4, 3, 64, 64)
        assert batch["img"].float().std() > 0
        if "no labels" in peer.differs:
            continue
        assert len(batch["bboxes"]) == len(batch["cls"]) == len(batch["batch_idx"]) > 0
        assert ((batch["bboxes"] >= 0) & (batch["bboxes"] <= 1)).all()
        assert set(batch["batch_idx"].tolist()) <= {0, 1, 2, 3}
    assert (batches[0]["img"] != batches[1]["img"]).any()
    subject.close()


@pytest.mark.parametrize("name", ["ultralytics-none-1", "ultralytics-ram-1"])
def test_what_ultralytics_decodes_is_counted(
    name: str, drawn: data.Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ultralytics.data.base as upstream

    read, decoded = upstream.imread, []
    monkeypatch.setattr(upstream, "imread", lambda *a, **k: decoded.append(a) or read(*a, **k))
    (row,) = rows.choose(rows.loader_rows(1), [name])
    subject = make(row, Task(drawn.by_codec["files"], 64, 4, 0))
    cached = len(decoded)
    for _ in range(3):
        next(subject.batches)
    assert subject.read().counts["decodes"] == len(decoded) - cached
    assert (len(decoded) > cached) == ("none" in name)
    subject.close()


def test_what_a_peer_does_otherwise_is_said_beside_it() -> None:
    """And what is not installed is a line that says how to get it."""
    from yolodata.bench import plot

    found = [
        rounds.Measured(row, samples=[Sample(100, 1.0), Sample(110, 1.0)])
        for row in rows.loader_rows(1, peers=PEERS)
        if row.labels == "boxes"
    ]
    begin = results.about("loader", imgsz=64, batch=2, rounds=2, seconds=1.0)
    missing = {"label": "Other", "install": "pip install other"}
    values = results.document(begin | {"not_installed": [missing]}, {}, found)
    lines = report.markdown(values).splitlines()
    for peer in PEERS:
        assert f"{peer.label}: {peer.differs}." in plot._notes(values)
        assert any(peer.label in line and peer.differs in line for line in lines)
        assert f"{peer.label}: {peer.differs}" in report.text(values)
    assert "NOT INSTALLED: Other; `pip install other`" in report.text(values)


def test_polygons_are_a_block_of_drawn_pictures(drawn: data.Prepared, tmp_path: Path) -> None:
    """The same pictures; a dataset that was given has the labels that it has."""
    files, outlined = (drawn.by_codec[name].parent for name in ("files", "ram-polygons"))
    for name in sorted(os.listdir(files / "labels" / "train")):
        picture = Path("images", "train", name).with_suffix(".jpg")
        assert (files / picture).samefile(outlined / picture)
        boxes, outlines = ((d / "labels" / "train" / name).read_text() for d in (files, outlined))
        assert {len(line.split()) for line in boxes.splitlines()} <= {5}
        assert {len(line.split()) for line in outlines.splitlines()} <= {33}
        assert len(boxes.splitlines()) == len(outlines.splitlines())
    assert drawn.facts["polygons"] == 0
    theirs = data.Wanted(outlined / "data.yaml", 8, 8, 64, 0)
    given = data.prepare(theirs, tmp_path / "keep", {"files", "raw-polygons"}, lambda _: None)
    assert not any("polygons" in name for name in given.by_codec)
    assert given.facts["polygons"] == 1
    assert "100% of labels are polygons" in given.facts["summary"]
