"""What `yolodata diff` says of two runs: as text, and as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from yolodata.diff.dataset_report import DatasetReport
from yolodata.diff.results import Results, Row
from yolodata.diff.runs import Run, RunDiff
from yolodata.shards.json_text import quoted
from yolodata.terminal import printable

_SHOWN = 20  # settings, packages and columns that are shown without --all
_GROUPS = ("settings", "packages", "git")


class RunReport:
    """Words and plain values for a `RunDiff`.

    Args:
        diff: what was found.
        every: show everything, images of the datasets included.
    """

    def __init__(self, diff: RunDiff, every: bool = False) -> None:
        self._diff, self._every = diff, every

    def text(self) -> Iterator[str]:
        """Yields the lines."""
        diff = self._diff
        for side, run in (("A", diff.a), ("B", diff.b)):
            again = len(run.manifest.continued)
            more = f", went on {again} time{'s' if again > 1 else ''}" if again else ""
            yield printable(f"{side}  {run.path}: written {run.manifest.written}{more}")
        yield from self._dataset_text()
        for group in _GROUPS:
            rows = self._of(group)
            shown = rows if self._every else dict(list(rows.items())[:_SHOWN])
            if rows:
                yield f"{group}: {len(rows):,} differ{'s' if len(rows) == 1 else ''}"
            width = max(map(len, shown), default=0)
            for name, (was, now) in shown.items():
                yield printable(f"  {name:{width}}  {quoted(was)} → {quoted(now)}")
            if len(shown) < len(rows):
                yield f"  … and {len(rows) - len(shown):,} more; --all prints all"
        if not diff.changed:
            yield "no difference in dataset, settings, packages or code" + (
                ", but the results differ: training does not repeat itself here"
                if diff.other_results
                else ""
            )
        yield from self._results_text()

    def json(self) -> Iterator[str]:
        """Yields one JSON object."""
        diff = self._diff
        images = None
        if diff.images is not None:
            images = json.loads("".join(DatasetReport(diff.images, self._every).json()))
        yield json.dumps(
            {
                "kind": "runs",
                "same": diff.same,
                "a": _side(diff.a),
                "b": _side(diff.b),
                "changed": diff.changed,
                "dataset": {
                    "differences": diff.data,
                    "images": images,
                    "no_images": diff.no_images or None,
                },
            },
            indent=1,
        )
        yield "\n"

    def _of(self, group: str) -> dict[str, list[Any]]:
        start = f"{group}."
        changed = self._diff.changed
        return {n.removeprefix(start): v for n, v in changed.items() if n.startswith(start)}

    def _dataset_text(self) -> Iterator[str]:
        diff = self._diff
        for run, side in ((diff.a, "A"), (diff.b, "B")):
            if run.manifest.dataset is None:
                yield printable(f"dataset: {side} has none: {run.manifest.no_dataset}")
        if "dataset" not in diff.changed:
            return
        was, now = diff.changed["dataset"]
        yield printable(f"dataset: version {was} → {now}")
        if diff.a.manifest.dataset is None or diff.b.manifest.dataset is None:
            return
        if not diff.data:
            yield "  packed again; images and labels are the same"
        if diff.images is not None:
            report = DatasetReport(diff.images, self._every)
            lines = report.text() if self._every else report.head()
            yield from (f"  {line}".rstrip() for line in lines)
            return
        for sentence in diff.data:
            yield printable(f"  {sentence}")
        if diff.no_images:
            yield printable(f"  not compared image by image: {diff.no_images}")

    def _results_text(self) -> Iterator[str]:
        runs = self._diff.a, self._diff.b
        missing = [side for side, run in zip("AB", runs, strict=True) if run.results is None]
        if missing:
            yield f"results: none of {' and '.join(missing)}"
            return
        columns: dict[str, dict[str, float]] = {}
        for side, run in zip("AB", runs, strict=True):
            assert isinstance(run.results, Results)
            if run.results.best is not None:
                columns[f"{side} best"] = run.results.best
            columns[f"{side} last"] = run.results.last
        yield "results" if self._diff.other_results else "results: the same"
        names = list(dict.fromkeys(name for row in columns.values() for name in row))
        shown = names if self._every else names[:_SHOWN]
        width = max(map(len, shown), default=0)
        yield f"  {'':{width}}" + "".join(f"{title:>12}" for title in columns)
        for name in shown:
            values = (f"{row[name]:.5g}" if name in row else "" for row in columns.values())
            yield printable(f"  {name:{width}}" + "".join(f"{value:>12}" for value in values))
        if len(shown) < len(names):
            yield f"  … and {len(names) - len(shown):,} more; --all prints all"


def _side(run: Run) -> dict[str, Any]:
    results = run.results
    return {
        "path": str(run.path),
        "manifest": run.manifest.to_dict(),
        "best": None if results is None else _plain(results.best),
        "last": None if results is None else _plain(results.last),
    }


def _plain(row: Row | None) -> dict[str, float | None] | None:
    """A row for JSON, which has no nan and no infinity."""
    if row is None:
        return None
    return {name: value if math.isfinite(value) else None for name, value in row.items()}
