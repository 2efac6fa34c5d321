"""A CSV file of numbered rows that a run adds to, and that a resumed run takes up."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from yolodata.folders import Folder

log = logging.getLogger("yolodata")

_LONGEST = 1 << 16  # bytes of a row, or of a head


class Rows:
    """Appends rows whose numbers (in the first column) rise.

    A file with other columns is moved aside. Nothing is raised where the disk does not take it, or
    where a link has its name: the rows are lost, which is said once.

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
            file = self._open()
            file.truncate(self._end_of(file, last))
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
            with Folder.at(self.path.parent, create=True) as folder:
                self._file = self._taken_up(folder)
        return self._file

    def _taken_up(self, folder: Folder) -> BinaryIO:
        """The file, at least with its head; one with other columns is moved aside."""
        name = self.path.name
        while True:
            # Unbuffered: what was appended is in the file when the process is killed.
            fd = folder.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND)
            file = os.fdopen(fd, "r+b", buffering=0)
            head = os.pread(fd, _LONGEST, 0)
            if head.startswith(self._head):
                return file
            if self._head.startswith(head):  # a new file, or killed while it wrote the head
                file.truncate(0)
                file.write(self._head)
                return file
            file.close()
            self._move_aside(folder)

    def _move_aside(self, folder: Folder) -> None:
        number = 1
        while folder.stat((aside := self.path.with_suffix(f".{number}{self.path.suffix}")).name):
            number += 1
        folder.rename(self.path.name, aside.name, durable=False)
        log.warning("%s has other columns than this version writes: kept as %s", self.path, aside)

    def _end_of(self, file: BinaryIO, last: int) -> int:
        end = len(self._head)
        with open(file.fileno(), "rb", closefd=False) as rows:
            rows.seek(end)
            while line := rows.readline(_LONGEST):
                values = line.split(b",")
                whole = line.endswith(b"\n") and len(values) == self._columns
                if not whole or not values[0].isdigit() or int(values[0][:20]) > last:
                    break
                end += len(line)
        return end

    def _lost(self, error: OSError) -> None:
        if not self._said:
            self._said = True
            log.warning("%s cannot be written, its rows are lost: %s", self.path, error)
