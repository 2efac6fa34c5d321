"""Files that survive a crash."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from yolodata import files


def _half(file: Path) -> None:
    file.write_bytes(b"half")
    raise OSError("the disk is full")


def test_a_temporary_file_stays_only_under_its_final_name(tmp_path: Path) -> None:
    final = tmp_path / "final"
    with files.temporary_file(tmp_path) as temporary:
        temporary.write_bytes(b"whole")
        files.publish(temporary, final)
    with pytest.raises(OSError, match="full"), files.temporary_file(tmp_path) as temporary:
        _half(temporary)
    assert os.listdir(tmp_path) == ["final"]
    assert final.read_bytes() == b"whole"
