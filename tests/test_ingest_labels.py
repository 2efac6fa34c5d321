"""Label decisions equal upstream's, on hand-picked files and on random ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingesting import jpeg, picture, upstream_verdict

from yolodata.ingest.labels import (
    boxes_of_polygons,
    check_labels,
    labels_of_any,
    labels_of_most,
)
from yolodata.ingest.sample import LabelRules, Labels, RawLabels, Refused

BOX = "0 0.5 0.5 0.2 0.2"
POLYGON = "1 0.1 0.1 0.9 0.1 0.5 0.8"
POSE = "0 0.5 0.5 0.2 0.2 0.4 0.4 2 0.6 0.6 1"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labels")
    (root / "images").mkdir()
    (root / "labels").mkdir()
    (root / "images" / "a.jpg").write_bytes(jpeg(picture(1, 32, 48)))
    return root


def compare(place: Path, text: bytes | None, rules: LabelRules) -> str | None:
    """Assert that ours equals upstream's; gives our reason where both refuse."""
    file = place / "labels" / "a.txt"
    file.unlink(missing_ok=True)
    if text is not None:
        file.write_bytes(text)
    theirs = upstream_verdict(
        str(place / "images" / "a.jpg"),
        classes=rules.classes,
        kpt_shape=(rules.keypoints, rules.dims),
        pose=rules.pose,
        single_cls=rules.single_cls,
        read=False,
    )
    try:
        ours = check_labels(RawLabels(text), rules)
    except Refused as refusal:
        reason = str(refusal)
    else:
        reason = None
    assert bool(reason) == bool(theirs.refused), f"{text!r}: {reason}, upstream: {theirs.refused}"
    if reason:
        return reason
    if text and ours.state == "found":
        assert_same(ours, labels_of_any(text, RawLabels(text), rules))
    cls = theirs.cls
    if rules.single_cls:
        cls = np.where(cls < rules.classes, cls, 0)
    assert ours.cls.tobytes() == cls.astype(np.float32).tobytes()
    assert ours.box.dtype == np.float32
    assert ours.box.tobytes() == np.ascontiguousarray(theirs.box).tobytes()
    assert len(ours.polygons or []) == len(theirs.polygons)
    for mine, other in zip(ours.polygons or [], theirs.polygons, strict=True):
        assert mine.dtype == np.float32
        assert mine.tobytes() == np.ascontiguousarray(other).tobytes()
    if rules.pose:
        assert ours.keypoints is not None
        assert ours.keypoints.tobytes() == np.ascontiguousarray(theirs.keypoints).tobytes()
    return None


def assert_same(one: Labels, other: Labels) -> None:
    """Both are equal to the last bit."""
    for mine, theirs in zip(
        [one.cls, one.box, one.keypoints, *(one.polygons or [])],
        [other.cls, other.box, other.keypoints, *(other.polygons or [])],
        strict=True,
    ):
        if mine is None or theirs is None:
            assert mine is theirs
        else:
            assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
            assert mine.tobytes() == theirs.tobytes()
    assert (one.polygons is None, one.state, one.notes) == (
        other.polygons is None,
        other.state,
        other.notes,
    )


CASES: dict[str, tuple[str | bytes | None, bool]] = {  # text, accepted by detect
    "missing": (None, True),
    "empty": ("", True),
    "blank lines": ("\n  \n\t\n", True),
    "one box": (BOX, True),
    "byte order mark": (b"\xef\xbb\xbf" + BOX.encode(), True),
    "windows lines": (BOX + "\r\n" + "1 .1 .1 .1 .1\r\n", True),
    "old mac lines": (BOX + "\r" + "1 .1 .1 .1 .1\r", True),
    "form feed splits a line": (BOX + "\x0c" + "1 .1 .1 .1 .1", True),
    "blank lines between": (BOX + "\n\n\n" + BOX.replace("0 ", "1 ", 1), True),
    "tabs and spaces": (BOX.replace(" ", "\t  "), True),
    "wide digits": ("０ 0.5 0.5 0.2 0.2", True),
    "underscore in a number": ("0 0.5 0.5 0.2 0.1_5", True),
    "polygon": (POLYGON, True),
    "polygons": (POLYGON + "\n2 0 0 1 0 1 1 0 1", True),
    "polygon of one point beside another": ("0 0.1 0.1\n" + POLYGON, True),
    "polygon of two points beside another": ("0 0.1 0.1 0.5 0.5 0.9 0.1\n1 0.2 0.2 0.5", False),
    "polygon with an odd number": ("1 0.1 0.1 0.9 0.1 0.5 0.8 0.3", False),
    "polygon without points beside another": ("0\n" + POLYGON, False),
    "polygon out of range": ("1 0.1 0.1 1.2 0.1 0.5 0.8", False),
    "boxes and polygons": (BOX + "\n" + POLYGON, False),
    "six columns": (BOX + " 0.9", False),
    "four columns": ("0 0.5 0.5 0.2", False),
    "rows of different lengths": (BOX + "\n0 0.5 0.5 0.2", False),
    "words": ("person 0.5 0.5 0.2 0.2", False),
    "comma": ("0,0.5,0.5,0.2,0.2", False),
    "class 2 of 3": ("2 0.5 0.5 0.2 0.2", True),
    "class 3 of 3": ("3 0.5 0.5 0.2 0.2", False),
    "class -1": ("-1 0.5 0.5 0.2 0.2", False),
    "class -0": ("-0 0.5 0.5 0.2 0.2", True),
    "class 1.0": ("1.0 0.5 0.5 0.2 0.2", True),
    "class 0.5": ("0.5 0.5 0.5 0.2 0.2", False),
    "class nan": ("nan 0.5 0.5 0.2 0.2", False),
    "class inf": ("inf 0.5 0.5 0.2 0.2", False),
    "coordinate 1.01": ("0 1.01 0.5 0.2 0.2", True),
    "coordinate 1.0100001": ("0 1.0100001 0.5 0.2 0.2", False),
    "coordinate 1.02": ("0 1.02 0.5 0.2 0.2", False),
    "width 1.01": ("0 0.5 0.5 1.01 0.2", True),
    "width 1.5": ("0 0.5 0.5 1.5 0.2", False),
    "coordinate -0.01": ("0 -0.01 0.5 0.2 0.2", True),
    "coordinate -0.02": ("0 -0.02 0.5 0.2 0.2", False),
    "class -0.01": ("-0.01 0.5 0.5 0.2 0.2", False),
    "width -0.005": ("0 0.5 0.5 -0.005 0.2", False),
    "width 0": ("0 0.5 0.5 0 0", True),
    "pixels": ("0 320 240 100 100", False),
    "nan": ("0 nan 0.5 0.2 0.2", False),
    "nan width": ("0 0.5 0.5 nan 0.2", False),
    "nan beside a good row": (BOX + "\n1 0.5 nan 0.2 0.2", False),
    "infinity": ("0 0.5 0.5 inf 0.2", False),
    "minus infinity": ("0 -inf 0.5 0.2 0.2", False),
    "too large for a float": ("0 1e400 0.5 0.2 0.2", False),
    "duplicate": (f"{BOX}\n1 .9 .9 .1 .1\n{BOX}", True),
    "duplicate sorts the others": (f"2 .9 .9 .1 .1\n{BOX}\n1 .1 .1 .1 .1\n{BOX}\n", True),
    "duplicate by rounding": ("0 0.1 0.5 0.2 0.2\n0 0.100000001 0.5 0.2 0.2", True),
    "duplicate but for the sign of zero": ("0 0.0 0.5 0.2 0.2\n0 -0.0 0.5 0.2 0.2", True),
    "duplicate polygons": (f"{POLYGON}\n2 0 0 1 0 1 1\n{POLYGON}", True),
    "polygons with one box": ("1 0 0 1 0 1 1 0 1\n1 0 0 1 0 1 1", True),
    "polygons with one box and a duplicate": (
        "1 0 0 1 0 1 1 0 1\n1 0 0 1 0 1 1\n0 .1 .1 .2 .1 .2 .2\n1 0 0 1 0 1 1",
        True,
    ),
    "not UTF-8": (b"\xff\xfe0 0.5", False),
    "zero bytes": (BOX.encode() + b"\x00", False),
    "html": ("<html><body>404</body></html>", False),
}


@pytest.mark.parametrize("name", CASES)
def test_detect(place: Path, name: str) -> None:
    text, accepted = CASES[name]
    reason = compare(place, text.encode() if isinstance(text, str) else text, LabelRules(3))
    assert (reason is None) == accepted, reason
    if reason:
        assert len(reason) < 300


@pytest.mark.parametrize(
    ("text", "pose", "accepted"),
    [
        (POSE, True, True),
        (POSE, False, True),
        (BOX, True, False),
        (BOX, False, True),
        (f"{BOX}\n{POSE}", True, False),
        (f"{BOX}\n{POSE}", False, True),
        (POSE.replace("0.4 0.4 2", "1.4 0.4 2"), True, False),
        (POSE.replace("0.4 0.4 2", "1.4 0.4 2"), False, True),
        (POSE.replace("0.5 0.5", "1.5 0.5"), True, True),  # upstream looks at the points alone
        (POSE.replace("0.5 0.5", "1.5 0.5"), False, False),
        (POSE.replace("0.4 0.4 2", "nan 0.4 2"), True, False),
        (POSE.replace("0.4 0.4 2", "nan 0.4 2"), False, True),
        (POSE.replace("0.4 0.4 2", "x 0.4 2"), False, True),
        (POSE.replace("0.4 0.4 2", "-0.005 0.4 0"), True, True),
        (f"{POSE}\n{POSE}", True, True),
        (f"{POSE}\n{POSE.replace('0.4 0.4', '0.3 0.3')}", True, True),
        (f"{POSE}\n{POSE.replace('0.4 0.4', '0.3 0.3')}", False, True),
        ("", True, True),
        (None, True, True),
        (POLYGON, True, False),
        (POLYGON, False, True),
    ],
)
def test_keypoints(place: Path, text: str | None, pose: bool, accepted: bool) -> None:
    raw = None if text is None else text.encode()
    reason = compare(place, raw, LabelRules(3, 2, 3, pose))
    assert (reason is None) == accepted, reason


def test_keypoints_of_two_dimensions(place: Path) -> None:
    text = b"0 0.5 0.5 0.2 0.2 0.4 0.4 -0.005 0.6\n1 0.5 0.5 0.2 0.2 0.4 0.4 0 0"
    assert compare(place, text, LabelRules(3, 2, 2, True)) is None


def test_a_box_task_keeps_the_keypoints_beside_its_boxes() -> None:
    rows = [POSE, "1 0.1 0.1 0.1 0.1", POSE]
    labels = check_labels(RawLabels("\n".join(rows).encode()), LabelRules(3, 2, 3))
    assert labels.cls.tolist() == [0, 1]
    assert labels.keypoints is not None
    expected = np.array([[0.4, 0.4, 2], [0.6, 0.6, 1]], np.float32)
    np.testing.assert_array_equal(labels.keypoints[0], expected)
    assert not labels.keypoints[1].any()


@pytest.mark.parametrize("cls", ["0", "7", "-1", "1.5"])
def test_single_cls_accepts_every_class_number(place: Path, cls: str) -> None:
    compare(place, f"{cls} 0.5 0.5 0.2 0.2".encode(), LabelRules(1, single_cls=True))


number = st.one_of(
    st.floats(0, 1, width=32).map(repr),
    st.sampled_from(
        ["0", "1", "1.01", "1.011", "-0.01", "-0.011", "-0.0", "0.5", "nan", "inf", "x"]
    ),
)
cls = st.sampled_from(["0", "1", "2", "0", "1", "2", "0.0", "3", "-1", "0.5"])
row = st.one_of(
    st.tuples(cls, number, number, number, number),
    st.tuples(cls, st.lists(number, min_size=1, max_size=12)).map(lambda t: (t[0], *t[1])),
    st.tuples(cls, *[number] * 10),
).map(" ".join)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(rows=st.lists(row, max_size=5), repeat=st.booleans(), kind=st.integers(0, 4))
def test_random_files(place: Path, rows: list[str], repeat: bool, kind: int) -> None:
    rows = rows + rows[:2] if repeat else rows
    rules = [
        LabelRules(3),
        LabelRules(3, 2, 3, True),
        LabelRules(3, 2, 3),
        LabelRules(3, 5, 2, True),
        LabelRules(1, single_cls=True),
    ][kind]
    compare(place, "\n".join(rows).encode(), rules)


good = st.floats(0, 1, width=32).map(repr)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    polygons=st.lists(
        st.tuples(st.sampled_from("012"), st.lists(good, min_size=6, max_size=20)).filter(
            lambda t: len(t[1]) % 2 == 0
        ),
        min_size=1,
        max_size=6,
    ),
    repeat=st.booleans(),
)
def test_random_polygons(place: Path, polygons: list, repeat: bool) -> None:
    rows = [" ".join((c, *points)) for c, points in polygons]
    assert compare(place, "\n".join(rows + rows[:2] * repeat).encode(), LabelRules(3)) is None


def test_boxes_of_polygons_are_float32_arithmetic() -> None:
    """Negative control: the same boxes computed in double precision are not the same bits."""
    rng = np.random.default_rng(0)
    exact = [rng.random((9, 2)) for _ in range(200)]
    polygons = [p.astype(np.float32) for p in exact]
    ours = boxes_of_polygons(np.concatenate(polygons), list(range(0, 1800, 9)))
    low = np.array([p.min(0) for p in exact])
    high = np.array([p.max(0) for p in exact])
    double = np.concatenate(((low + high) / 2, high - low), 1).astype(np.float32)
    from ultralytics.utils.ops import segments2boxes

    assert ours.tobytes() == segments2boxes(polygons).tobytes()
    assert (ours != double).any()


digits = st.text("0123456789", min_size=1, max_size=30)
plain = st.one_of(
    digits.map("0.".__add__),
    digits.map("1e-".__add__).filter(lambda word: len(word) < 6),
    st.floats(0, 1).map(repr),
)
odd = st.one_of(
    digits,
    st.floats(0, 1e-38).map(repr),
    st.sampled_from(["1_0", "+0.5", "-0.0", ".5", "0.", "1e-400", "0x1", "nan", "1e", "\uff10"]),
)
word = st.integers(0, 9).flatmap(lambda k: odd if k == 0 else plain)
space = st.sampled_from([" "] * 12 + ["\t", "  ", "\r\n", "\n", "\x0b", "\xa0"])


@settings(max_examples=500, deadline=None)
@given(
    words=st.lists(st.tuples(word, space).map("".join), min_size=4, max_size=4),
    keypoint=st.booleans(),
)
def test_most_files_read_as_all_are(words: list[str], keypoint: bool) -> None:
    text = ("0 " + "".join(words) + "0.25 0.5" * keypoint).encode()
    rules = LabelRules(3, 1, 2, True) if keypoint else LabelRules(3)
    found = labels_of_most(text, rules, ("a note",))
    if found is not None:
        assert_same(found, labels_of_any(text, RawLabels(text, notes=("a note",)), rules))


@pytest.mark.parametrize(
    ("text", "rules", "quick"),
    [
        ("0 0.5 0.5 0.25 0.125\r\n2 0.123456789012345678 1 1e-05 0", LabelRules(3), True),
        (POLYGON, LabelRules(3), True),
        (POSE, LabelRules(3, 2, 3, True), True),
        (POSE, LabelRules(3, 2, 3), False),
        (POSE, LabelRules(3), False),  # polygons, with a coordinate of 2
        (BOX + "\n" + BOX, LabelRules(3), False),
        (BOX.replace("0.5", "1.005"), LabelRules(3), False),
        (BOX.replace("0 ", "3 ", 1), LabelRules(3), False),
        (POLYGON, LabelRules(3, pose=True), False),
    ],
)
def test_which_files_are_read_quickly(text: str, rules: LabelRules, quick: bool) -> None:
    assert (labels_of_most(text.encode(), rules, ()) is not None) == quick
