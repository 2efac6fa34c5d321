"""A short table of what `gpu.sh` measured.

python benchmarks/gpu_summary.py FILE.json ...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def loader_lines(values: dict[str, Any]) -> list[str]:
    """Rows of the loader benchmark on a GPU: speed, share of the ceiling, ratios to peers."""
    shares = {share["ours"]: share for share in values.get("shares", [])}
    lines = []
    for row in values["rows"]:
        if row.get("device", "cpu") == "cpu":
            continue
        speed = row["img_s"]["median"]
        if speed is None:
            lines.append(f"{row['name']:30} failed")
            continue
        parts = [f"{row['name']:30} {speed:11,.0f} img/s"]
        if "gb_s" in row:
            parts.append(f"{row['gb_s']['median']:8,.1f} GB/s")
        if row["name"] in shares:
            share = shares[row["name"]]
            parts.append(f"{share['median']:.1%} of {share['ceiling']}")
        for ratio in values["ratios"]:
            if ratio["ours"] == row["name"]:
                parts.append(f"{ratio['median']:.1f} x {ratio['peer']}")
        lines.append("  ".join(parts))
    return lines


def train_lines(values: dict[str, Any]) -> list[str]:
    """Rows of the training benchmark: speed, ratio to the batch that never changes, waiting."""
    ratios = {ratio["ours"]: ratio for ratio in values["ratios"]}
    lines = [f"{values['settings']['model']}, batch {values['settings']['batch']}"]
    for row in values["rows"]:
        speed = row["steps_s"]["median"]
        if speed is None:
            lines.append(f"{row['name']:30} failed")
            continue
        parts = [f"{row['name']:30} {speed:7.2f} steps/s {row['img_s']['median']:8,.0f} img/s"]
        if row["name"] in ratios:
            ratio = ratios[row["name"]]
            parts.append(f"{ratio['median']:.1%} ({ratio['min']:.1%} to {ratio['max']:.1%})")
        parts.append(f"waits {row['wait_ms']['median']:.2f} ms")
        if row["busy"]["median"] is not None:
            parts.append(f"GPU busy {row['busy']['median']:.0%}")
        lines.append("  ".join(parts))
    return lines


MAKERS = {"loader": loader_lines, "train": train_lines}
"""How the results of each benchmark become lines, by their `benchmark` entry."""


def main(paths: list[str]) -> int:
    """Print all files that are known."""
    for path in map(Path, paths):
        values = json.loads(path.read_text(encoding="utf-8"))
        maker = MAKERS.get(values.get("benchmark", ""))
        if maker is not None:
            print(f"\n{path.name}: {values['machine'].get('gpu', {}).get('name', 'no GPU')}")
            print("\n".join(maker(values)))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
