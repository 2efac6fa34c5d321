"""What `yolodata diff` says of two datasets: as text, and as JSON."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from typing import Any

import numpy as np

from yolodata.diff.dataset import PackedDataset
from yolodata.diff.datasets import DatasetDiff, tallied
from yolodata.diff.keys import Indices
from yolodata.diff.labels import KINDS, OTHER_CLASS, REMOVED
from yolodata.provenance.dataset_version import version_of
from yolodata.shards.format import SPLITS
from yolodata.shards.json_text import quoted
from yolodata.shards.left_out import read_left_out
from yolodata.terminal import printable, shortened

_SHOWN = 20  # images of each list, and classes, that are shown without --all
_CLASSES = 5  # that a line names with their counts; JSON has all
_LONGEST = 100  # characters of a class name or a reason

_TITLES = {
    "added": "added",
    "removed": "removed",
    "moved": "moved to another split",
    "renamed": "renamed",
    "changed": "other pixels",
    "relabelled": "other labels",
    "objects_reordered": "same objects in another order",
}


class DatasetReport:
    """Words and plain values for a `DatasetDiff`.

    Args:
        diff: what was found.
        every: show every image and class, not only the first 20.
    """

    def __init__(self, diff: DatasetDiff, every: bool = False) -> None:
        self._diff, self._every = diff, every
        self._lists = diff.lists

    def text(self) -> Iterator[str]:
        """Yields the lines."""
        yield from self.head()
        for name, found in self._lists.items():
            if len(found):
                yield ""
                yield from self._list_text(name, found)

    def head(self) -> Iterator[str]:
        """Yields the lines without those that name images."""
        diff = self._diff
        yield from (_heading(side, of) for side, of in (("A", diff.a), ("B", diff.b)))
        if diff.a.root != diff.b.root:
            roots = [printable(_decoded(of.root) or "/") for of in (diff.a, diff.b)]
            yield f"names are compared below {roots[0]} and {roots[1]}"
        yield from self._settings_text()
        yield from self._classes_text()
        uncompared = int(diff.pairs.uncompared.sum())
        if uncompared:
            yield (
                f"pixels of {_images(uncompared)} were not compared: they are packed otherwise, "
                "and bytes are comparable only in one packing. Names, sizes and labels were"
            )
        if diff.order:
            yield (
                f"the images of {', '.join(diff.order)} stand in another order: batches of one "
                "seed differ"
            )
        yield from self._twice_text()
        if diff.same:
            yield "no difference in images, labels, classes, order or packing"
            return
        yield ""
        yield from self._table()

    def json(self) -> Iterator[str]:
        """Yields pieces of one JSON object; lists are as long as those of the text."""
        diff = self._diff
        head = {
            "kind": "datasets",
            "same": diff.same,
            "a": _side(diff.a, diff.twice_a),
            "b": _side(diff.b, diff.twice_b),
            "settings": [
                dict(zip(("split", "setting", "a", "b"), row, strict=True)) for row in diff.settings
            ],
            "classes": {
                "added": diff.classes.added,
                "removed": diff.classes.removed,
                "renamed": [dict(zip(("number", "a", "b"), row, strict=True))
                            for row in diff.classes.renamed],
                "renumbered": [dict(zip(("name", "a", "b"), row, strict=True))
                               for row in diff.classes.renumbered],
            },
            "order": diff.order,
            "not_compared": int(diff.pairs.uncompared.sum()),
            "counts": {name: len(found) for name, found in self._lists.items()},
            "objects": list(self._changes(diff.tally)),
        }  # fmt: skip
        yield json.dumps(head, indent=1)[:-2] + ',\n "images": {'
        for place, (name, found) in enumerate(self._lists.items()):
            yield f"{',' if place else ''}\n  {json.dumps(name)}: ["
            for i, row in enumerate(self._rows(name, found)):
                yield f"{',' if i else ''}\n   {json.dumps(row)}"
            yield "]"
        yield "\n }\n}\n"

    def _settings_text(self) -> Iterator[str]:
        by_change: dict[tuple[str, str, str], list[str]] = {}
        for split, name, one, two in self._diff.settings:
            by_change.setdefault((name, quoted(one), quoted(two)), []).append(split)
        for (name, one, two), of in by_change.items():
            yield printable(f"{', '.join(of)} packed otherwise: {name} {one} → {two}")

    def _classes_text(self) -> Iterator[str]:
        of = self._diff.classes
        for what, texts in (
            ("added", [_cut(name) for name in of.added]),
            ("removed", [_cut(name) for name in of.removed]),
            ("renamed", [f"{i}: {_cut(one)} → {_cut(two)}" for i, one, two in of.renamed]),
            ("renumbered", [f"{_cut(name)} {i} → {k}" for name, i, k in of.renumbered]),
        ):
            if texts:
                shown = texts if self._every else texts[:_SHOWN]
                more = ["…"] if len(shown) < len(texts) else []
                yield f"classes {what}, {len(texts):,}: {', '.join([*shown, *more])}"

    def _twice_text(self) -> Iterator[str]:
        for side, of, twice in (
            ("A", self._diff.a, self._diff.twice_a),
            ("B", self._diff.b, self._diff.twice_b),
        ):
            if len(twice):
                first = printable(of.short_name(int(twice[0])))
                yield (
                    f"leak in {side}: {_images(len(twice))} of {', '.join(_splits_of(of, twice))} "
                    f"stored in an earlier split, too, as {first}"
                )

    def _table(self) -> Iterator[str]:
        diff = self._diff
        splits = [s for s in SPLITS if s in diff.a.splits or s in diff.b.splits]
        pairs = diff.pairs
        flags = (pairs.moved, pairs.renamed, pairs.changed, diff.relabelled, diff.objects_reordered)
        same = np.flatnonzero(~np.any(flags, axis=0))
        rows = {"the same": self._by_split("same", same)}
        rows |= {_TITLES[name]: self._by_split(name, found) for name, found in self._lists.items()}
        width = max(map(len, rows)) + 1
        yield f"  {'images':{width}}" + "".join(f"{split:>12}" for split in splits)
        for title, counts in rows.items():
            if title == "the same" or counts.total():
                yield f"  {title:{width}}" + "".join(f"{counts[split]:>12,}" for split in splits)

    def _by_split(self, name: str, found: Indices) -> Counter[str]:
        diff = self._diff
        of = diff.a if name == "removed" else diff.b
        images = found if name in ("added", "removed") else diff.pairs.b[found]
        counts = np.bincount(of.split[images], minlength=len(SPLITS)).tolist()
        return Counter(dict(zip(SPLITS, counts, strict=True)))

    def _list_text(self, name: str, found: Indices) -> Iterator[str]:
        heading = f"{_TITLES[name]}: {_images(len(found))}"
        if name == "relabelled":
            heading += f"; objects: {_objects_text(self._changes(self._diff.tally))}"
        yield heading
        if name == "moved":
            yield from self._moves_text(found)
        for row in self._rows(name, found):
            yield "  " + printable(_row_text(row))
        if not self._every and len(found) > _SHOWN:
            yield f"  … and {len(found) - _SHOWN:,} more; --all prints all"

    def _moves_text(self, found: Indices) -> Iterator[str]:
        diff = self._diff
        from_to = Counter(
            zip(
                diff.a.split[diff.pairs.a[found]].tolist(),
                diff.b.split[diff.pairs.b[found]].tolist(),
                strict=True,
            )
        )
        for (one, two), count in sorted(from_to.items()):
            leak = (
                f": a leak; what was trained on A has seen them, and scores better on B's "
                f"{SPLITS[two]}"
                if SPLITS[one] == "train"
                else ": a leak for what was chosen by A's scores"
                if SPLITS[two] == "test"
                else ""
            )
            yield f"  {SPLITS[one]} → {SPLITS[two]} {count:,}{leak}"

    def _rows(self, name: str, found: Indices) -> Iterator[dict[str, Any]]:
        a, b = self._diff.a, self._diff.b
        for place in (found if self._every else found[:_SHOWN]).tolist():
            if name == "added":
                yield _single(place, b, a, self._left_out_a)
            elif name == "removed":
                yield _single(place, a, b, self._left_out_b)
            else:
                yield self._row(place) | (self._labels(place) if name == "relabelled" else {})

    def _row(self, pair: int) -> dict[str, Any]:
        """An image that both have: where it is now, and where it was."""
        a, b = self._diff.a, self._diff.b
        ia, ib = int(self._diff.pairs.a[pair]), int(self._diff.pairs.b[pair])
        now = {"split": b.locate(ib)[0], "name": b.short_name(ib)}
        was = {"split": a.locate(ia)[0], "name": a.short_name(ia)}
        row: dict[str, Any] = dict(now)
        row |= {f"was_{key}": value for key, value in was.items() if value != now[key]}
        if a.size[ia] != b.size[ib]:
            row |= {"size": _size(b, ib), "was_size": _size(a, ia)}
        return row

    def _labels(self, pair: int) -> dict[str, Any]:
        """What of an image's objects changed: counts, and the boxes of the first."""
        found, left, right = self._diff.labels_of(pair)
        changes, names = found.changes, self._diff.classes.names
        shown = len(changes.kind) if self._every else min(_SHOWN, len(changes.kind))
        boxes = []
        for i in range(shown):
            one: dict[str, Any] = {"change": KINDS[changes.kind[i]]}
            for key, labels, number, cls in (
                ("was_", left, int(changes.a[i]), int(changes.class_a[i])),
                ("", right, int(changes.b[i]), int(changes.class_b[i])),
            ):
                if number >= 0:
                    box = labels.dataset.box[number].tolist()
                    one |= {f"{key}class": names[cls], f"{key}box": box}
            boxes.append(one)
        row: dict[str, Any] = {
            "objects": list(self._changes(tallied(changes, len(names)))),
            "boxes": boxes,
        }
        if found.resized[0]:
            row["label_size"] = "another"
        return row

    def _changes(self, tally: Counter[tuple[int, int, int]]) -> Iterator[dict[str, Any]]:
        """Counts of objects as plain values, the most frequent classes of each kind first."""
        names = self._diff.classes.names
        most = sorted(tally.items(), key=lambda item: (item[0][0], -item[1], item[0]))
        for (kind, one, two), count in most:
            row: dict[str, Any] = {"change": KINDS[kind], "count": count}
            if kind == OTHER_CLASS:
                row["was_class"] = names[one]
            yield row | {"class": names[one if kind == REMOVED else two]}

    @cached_property
    def _left_out_a(self) -> dict[str, str]:
        return _left_out(self._diff.a)

    @cached_property
    def _left_out_b(self) -> dict[str, str]:
        return _left_out(self._diff.b)


def _single(
    image: int, of: PackedDataset, other: PackedDataset, left_out: dict[str, str]
) -> dict[str, Any]:
    """An image that only one dataset has, and why the other one left it out, if it did."""
    name = of.short_name(image)
    row = {"split": of.locate(image)[0], "name": name, "objects": of.objects(image)}
    reason = left_out.get(_decoded(other.root) + name)
    return row if reason is None else row | {"left_out": reason}


def _size(of: PackedDataset, image: int) -> list[int]:
    """Width and height of the original, in pixels."""
    return [int(of.size[image]) & 0xFFFFFFFF, int(of.size[image]) >> 32]


def _left_out(of: PackedDataset) -> dict[str, str]:
    reasons = dict(read_left_out(of.path))
    for dataset in of.splits.values():
        reasons.update(dataset.meta.left_out)
    return reasons


def _row_text(row: dict[str, Any]) -> str:
    split, name = ([row.get(f"was_{key}"), row[key]] for key in ("split", "name"))
    text = f"{' → '.join(filter(None, split))}  {' → '.join(filter(None, name))}"
    if "size" in row:
        text += f", {' → '.join('x'.join(map(str, row[k])) for k in ('was_size', 'size'))} pixels"
    if isinstance(row.get("objects"), int):
        text += f", {row['objects']:,} object{'' if row['objects'] == 1 else 's'}"
    elif "objects" in row:
        text += f": {_objects_text(row['objects'])}"
    if "label_size" in row:
        text += ", another size for labels"
    if "left_out" in row:
        text += f"; the other dataset left it out: {_cut(row['left_out'])}"
    return text


def _objects_text(changes: Iterable[dict[str, Any]]) -> str:
    """Says counts by kind: "3 added (dog 2, cat 1), 1 of another class (cat → dog 1)"."""
    by_kind: dict[str, list[tuple[str, int]]] = {}
    for row in changes:
        names = [_cut(row[key]) for key in ("was_class", "class") if key in row]
        by_kind.setdefault(row["change"], []).append((" → ".join(names), row["count"]))
    parts = []
    for kind, counts in by_kind.items():
        shown = [f"{name} {count:,}" for name, count in counts[:_CLASSES]]
        shown += ["…"] if len(counts) > _CLASSES else []
        total = sum(count for _, count in counts)
        parts.append(f"{total:,} {kind} ({', '.join(shown)})")
    return ", ".join(parts) or "the same"


def _heading(side: str, of: PackedDataset) -> str:
    counts = ", ".join(f"{split} {len(d):,}" for split, d in of.splits.items())
    objects = sum(d.meta.objects for d in of.splits.values())
    return printable(
        f"{side}  {of.path}: {counts} images, {objects:,} objects, version {_version(of)}"
    )


def _version(of: PackedDataset) -> str:
    """The version that a run on these splits notes, and `yolodata info` shows."""
    versions = {split: dataset.meta.checksum for split, dataset in of.splits.items()}
    trained = {split: one for split, one in versions.items() if split in ("train", "val")}
    return version_of(trained or versions)


def _images(count: int) -> str:
    return f"{count:,} image{'' if count == 1 else 's'}"


def _side(of: PackedDataset, twice: Indices) -> dict[str, Any]:
    return {
        "path": str(of.path),
        "version": _version(of),
        "names_below": _decoded(of.root),
        "splits": {
            split: {
                "version": d.meta.checksum,
                "images": len(d),
                "objects": d.meta.objects,
            }
            for split, d in of.splits.items()
        },
        "in_two_splits": len(twice),
    }


def _splits_of(of: PackedDataset, images: Indices) -> list[str]:
    return [SPLITS[i] for i in np.unique(of.split[images]).tolist()]


def _decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _cut(text: str) -> str:
    return shortened(text, _LONGEST)
