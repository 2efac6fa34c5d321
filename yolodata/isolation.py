"""What the working folder may not change: which modules our processes import.

`python -m` and `python -c` put the working folder first on the path of imports. A file `json.py` or
`torch.py` there is then taken for the real one, and a process dies before its first line. Commands
that are started with `-m` take the folder off again; processes that they start never have it.

Python 3.10 knows no PYTHONSAFEPATH. There, processes that we start have the folder.
"""

from __future__ import annotations

import os
import sys

_ours: list[str] = []  # the folder of this package, where it is found in the working folder alone


def leave_working_folder() -> None:
    """Takes the working folder off the path, for programs that `python -m` started.

    Where this package is not installed and lies there, the folder becomes the last one.
    """
    here = working_folder()
    if not sys.path or sys.path[0] not in ("", here) or getattr(sys.flags, "safe_path", False):
        return
    sys.path.pop(0)
    if here and not any(finder.find_spec("yolodata", None) for finder in sys.meta_path):
        sys.path.append(here)
        _ours.append(here)


def working_folder() -> str:
    """Returns the working folder, or "" where it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return ""


def child_environment() -> dict[str, str]:
    """Gives what a Python process that we start needs in its environment, beside what is there."""
    changes = {"PYTHONSAFEPATH": "1"}
    if _ours:
        given = os.environ.get("PYTHONPATH")
        changes["PYTHONPATH"] = os.pathsep.join([given, *_ours] if given else _ours)
    return changes
