"""Figures of a comparison as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def training_lines(figures: dict[str, Any]) -> Iterator[str]:
    """Yields a row a chain and a row each of its kinds; shares are rounded down: 100 is all."""
    yield (
        f"{'training samples':26}{'samples':>8}{'mixup':>7}{'cutmix':>7}{'paste':>7}"
        f"{'identical %':>13}{'largest':>9}{'objects':>9}{'others':>8}{'box error':>11}"
        f"{'angle':>9}{'keypoints':>11}{'masks %':>10}{'IoU':>7}"
    )
    for chain, total in figures.items():
        for kind, row in {chain.upper(): total, **total["kinds"]}.items():
            share, masks = (
                int(row[f"identical_{what}percent"] * 1e4) / 1e4 for what in ("", "mask_")
            )
            of_masks = f"{masks:10.4f}{row['least_mask_iou']:7.4f}"
            yield (
                f"{kind:26}{row['samples']:8d}{row['with_mixup']:7d}{row['with_cutmix']:7d}"
                f"{row['with_copy_paste']:7d}{share:13.4f}{row['largest_difference']:9d}"
                f"{row['objects']:9d}{row['samples_with_other_objects']:8d}"
                f"{row['largest_box_error']:11.1e}{row['largest_angle_error']:9.1e}"
                f"{row['largest_keypoint_error']:11.1e}"
                + (of_masks if row["mask_pixels"] else f"{'-':>10}{'-':>7}")
            )


def validation_lines(figures: dict[str, Any]) -> Iterator[str]:
    """Yields a line a kind."""
    for kind, row in figures.items():
        found = f"differ in {row['differing']}" if row["differing"] else "identical to the bit"
        yield f"validation, {kind}: {row['pictures']} pictures in {row['batches']} batches, {found}"


def draws_lines(figures: dict[str, Any]) -> Iterator[str]:
    """Yields a row a kind, with the quantity that differs most; p is corrected for their number."""
    yield (
        f"{'draws':26}{'upstream':>9}{'yolodata':>9}{'quantities':>11}{'pairs':>7}"
        f"{'least p':>10}  of"
    )
    for kind, found in figures["kinds"].items():
        rows, pairs = found["quantities"], found["dependence"]
        least = {name: row["p"] for name, row in rows.items()} | {
            " × ".join(pairs["of"]): pairs["p"]
        }
        name = min(least, key=least.__getitem__)
        p = min(1.0, least[name] * figures["comparisons"])
        upstream, yolodata = found["recipes"]
        yield (
            f"{kind:26}{upstream:9d}{yolodata:9d}{len(rows):11d}{pairs['pairs']:7d}"
            f"{p:10.2g}  {name}"
        )


def metrics_lines(figures: dict[str, Any]) -> Iterator[str]:
    """Yields a row a metric."""
    yield f"{'metrics':26}{'upstream':>24}{'yolodata':>24}"
    for name, theirs in figures["upstream"].items():
        yield f"{name:26}{theirs!r:>24}{figures['yolodata'][name]!r:>24}"
