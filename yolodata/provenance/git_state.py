"""The commit of the folder that a run was started in."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from yolodata.environment import git

_COMMIT = re.compile("[0-9a-f]{40}([0-9a-f]{24})?")


@dataclass(frozen=True)
class GitState:
    """A checkout.

    Attributes:
        commit: what is checked out, 40 or 64 hexadecimal digits.
        changed: whether files that git knows differ from it (others do not count); None: git did
            not say.
    """

    commit: str
    changed: bool | None

    @classmethod
    def of(cls, folder: Path | None = None) -> GitState | None:
        """Asks git; never fails.

        Args:
            folder: in the checkout; None is the working folder.

        Returns:
            None where there is no git, no checkout, no commit yet, or none that is this user's.
        """
        folder = folder or Path()
        commit = git(folder, "rev-parse", "HEAD")
        if commit is None or not _COMMIT.fullmatch(commit):
            return None
        changes = git(folder, "status", "--porcelain", "-uno")
        return cls(commit, None if changes is None else bool(changes))

    @classmethod
    def from_dict(cls, values: Any) -> GitState:
        """Reads what `asdict` made.

        Raises:
            ValueError: it is something else.
        """
        if (
            not isinstance(values, dict)
            or set(values) != {"commit", "changed"}
            or not isinstance(values["commit"], str)
            or not _COMMIT.fullmatch(values["commit"])
            or not isinstance(values["changed"], bool | None)
        ):
            raise ValueError("git must be null, or commit and changed")
        return cls(**values)
