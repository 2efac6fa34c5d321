"""A CSV file of numbered rows that a run adds to, and that a resumed run takes up."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

log = logging.getLogger("yolodata")


class Rows:
    """Appends rows whose numbers (in the first column) rise.

    A file with other columns is moved aside. Nothing is raised where the disk does not take it: the
    rows are lost, which is said once.

    Args:
        path: of the file; its folder is made.
        columns: names, for the head.
    """

    def __init__(self, path: Path, columns: Sequence[str]) -> None:
        self.path = path
        self._head = ",".join(columns).encode() + b"\n"
        self._columns = len(columns)
        self._file: BinaryIO | None = None
        self._said = False

    def keep(self, last: int) -> None:
        """Drops all rows with numbers above `last`, and whatever was cut off half-way."""
        try:
            self._open().truncate(self._end_of(last))
        except OSError as error:
            self._lost(error)

    def append(self, rows: str) -> None:
        """Adds rows, each with its end of line."""
        try:
            self._open().write(rows.encode())
        except OSError as error:
            self._lost(error)

    def close(self) -> None:
        """Ends writing; a later `append` opens the file again."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _open(self) -> BinaryIO:
        if self._file is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._move_others_aside()
            # Unbuffered: what was appended is in the file when the process is killed.
            self._file = self.path.open("ab", buffering=0)
            assert self._file is not None
            if self.path.stat().st_size == 0:
                self._file.write(self._head)
        return self._file

    def _move_others_aside(self) -> None:
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            head = file.readline()
        if head == self._head:
            return
        if self._head.startswith(head):  # killed while it wrote the head
            self.path.write_bytes(b"")
            return
        number = 1
        while (aside := self.path.with_suffix(f".{number}{self.path.suffix}")).exists():
            number += 1
        self.path.rename(aside)
        log.warning("%s has other columns than this version writes: kept as %s", self.path, aside)

    def _end_of(self, last: int) -> int:
        end = len(self._head)
        with self.path.open("rb") as file:
            file.seek(end)
            for line in file:
                values = line.split(b",")
                whole = line.endswith(b"\n") and len(values) == self._columns
                if not whole or not values[0].isdigit() or int(values[0]) > last:
                    break
                end += len(line)
        return end

    def _lost(self, error: OSError) -> None:
        if not self._said:
            self._said = True
            log.warning("%s cannot be written, its rows are lost: %s", self.path, error)
