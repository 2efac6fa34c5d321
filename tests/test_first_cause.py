"""Why a run ends: what a rank said of itself, whatever is seen first, and however late."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = Path(__file__).with_name("rank_ends_child.py")


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the ranks of all scenarios said, and how they ended; they run beside each other."""
    folder = tmp_path_factory.mktemp("ends")
    done = subprocess.run(
        [sys.executable, CHILD, folder], capture_output=True, text=True, timeout=600
    )
    assert (done.returncode, done.stderr) == (0, "")
    return folder


@pytest.mark.parametrize(
    ("scenario", "first", "status", "reason"),
    [
        ("late_write", 1, "1", "rank 1 failed: ValueError: mischief"),
        ("frozen", 1, "1", "rank 1 failed: ValueError: mischief"),
        ("slow_readers", 1, "1", "rank 1 failed: ValueError: mischief"),
        ("dead_writer", 1, "-9", "rank 1 failed: ValueError: mischief"),
        ("host", 0, "1", "rank 0 failed: ValueError: mischief"),
        ("killed_host", 0, "-9", r"rank 0 \(process .*\) died"),
        ("runtime_error", 1, "1", "rank 1 failed: RuntimeError: shapes differ"),
        ("machines", 1, "1", "rank 1 failed: ValueError: mischief"),
        ("launcher", 1, "1", "rank 1 failed: ValueError: mischief"),
        ("killed", 1, "-9", r"rank 1 \(process .*\) died"),
        ("exits", 1, "3", "rank 1 failed: SystemExit: 3"),
    ],
)
def test_all_ranks_name_the_first_cause(
    ends: Path, scenario: str, first: int, status: str, reason: str
) -> None:
    assert (ends / f"{scenario}-{first}.status").read_text() == status
    for rank in {0, 1, 2} - {first}:
        said = (ends / f"{scenario}-{rank}.txt").read_text()
        assert re.findall(f"rank {rank} ends: {reason}", said), said
        assert (ends / f"{scenario}-{rank}.status").read_text() == "76"


def test_who_waits_for_a_preempted_rank_is_preempted(ends: Path) -> None:
    for rank, why in enumerate(("SIGTERM", *2 * ["(rank 0|another rank) was asked to stop"])):
        assert re.search(f"preempted: {why}", (ends / f"preempted-{rank}.txt").read_text())
        assert (ends / f"preempted-{rank}.status").read_text() == "75"
